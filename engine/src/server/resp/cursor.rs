//! Where the scans of this node's clients stand.
//!
//! A cursor is a number to clients, but keys are ordered bytes, so a node remembers for each cursor
//! that it hands out the key to go on from. The upper bits of a cursor are drawn at random when the
//! node boots: a cursor from another node, or from before a restart, is recognized as foreign and
//! refused, where guessing would silently skip keys.
//!
//! Invariants:
//!
//! * A cursor is never 0, which begins and ends scans, and below 2^53, which clients that keep
//!   numbers as doubles can hold.
//! * At most `cursors_max` positions are remembered; the one used longest ago is forgotten first.
//! * Using a cursor keeps it: a client that lost an answer may ask again.
//!
//! What is absent: patterns and counts, which clients send with each call.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};

/// Bits of a cursor that count; the 22 above them are the boot's.
const SEQUENCE_BITS: u32 = 31;
const BOOT_BITS: u32 = 22;

/// The positions behind the cursors that this node has handed out.
#[derive(Debug)]
pub struct Cursors {
    /// The boot's bits, in place; never 0.
    boot: u64,
    cursors_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    positions: HashMap<u64, Position>,
    /// Cursors by when they were used last.
    by_use: BTreeMap<u64, u64>,
    uses: u64,
    sequence: u64,
}

#[derive(Debug)]
struct Position {
    next: Bytes,
    used: u64,
}

impl Cursors {
    /// An empty table for one boot of a node, recognized by the random number `nonce`.
    ///
    /// # Panics
    ///
    /// If `cursors_max` is 0: no scan would ever end.
    pub fn new(nonce: u64, cursors_max: usize) -> Cursors {
        assert!(cursors_max > 0, "at least one cursor is remembered");
        let boot = (nonce % ((1 << BOOT_BITS) - 1) + 1) << SEQUENCE_BITS;
        let sequence = nonce >> (64 - SEQUENCE_BITS);
        let table = Mutex::new(Table { sequence, ..Table::default() });
        Cursors { boot, cursors_max, table }
    }

    /// A cursor that stands before the key `next`.
    pub fn issue(&self, next: &[u8]) -> u64 {
        // A copy of its own: `next` may be a slice of a page of rows.
        let next = Bytes::copy_from_slice(next);
        let mut table = self.table.lock();
        table.sequence = (table.sequence + 1) % (1 << SEQUENCE_BITS);
        let cursor = self.boot | table.sequence;
        table.forget(cursor);
        if table.positions.len() >= self.cursors_max
            && let Some((_, oldest)) = table.by_use.pop_first()
        {
            table.positions.remove(&oldest);
        }
        table.uses += 1;
        let used = table.uses;
        table.by_use.insert(used, cursor);
        table.positions.insert(cursor, Position { next, used });
        cursor
    }

    /// The key that `cursor` stands before; `None` if this node does not know it, or not any more.
    pub fn resume(&self, cursor: u64) -> Option<Bytes> {
        let table = &mut *self.table.lock();
        let position = table.positions.get_mut(&cursor)?;
        table.by_use.remove(&position.used);
        table.uses += 1;
        position.used = table.uses;
        table.by_use.insert(table.uses, cursor);
        Some(position.next.clone())
    }
}

impl Table {
    fn forget(&mut self, cursor: u64) {
        if let Some(position) = self.positions.remove(&cursor) {
            self.by_use.remove(&position.used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_kept_and_may_be_asked_for_again() {
        let cursors = Cursors::new(7, 10);
        let (a, b) = (cursors.issue(b"a"), cursors.issue(b"b"));
        assert_ne!(a, b);
        for _ in 0..2 {
            assert_eq!(cursors.resume(a), Some("a".into()));
            assert_eq!(cursors.resume(b), Some("b".into()));
        }
    }

    #[test]
    fn the_one_used_longest_ago_is_forgotten() {
        let cursors = Cursors::new(7, 2);
        let (a, b) = (cursors.issue(b"a"), cursors.issue(b"b"));
        assert!(cursors.resume(a).is_some());
        let c = cursors.issue(b"c");
        assert_eq!(cursors.resume(b), None);
        assert!(cursors.resume(a).is_some() && cursors.resume(c).is_some());
        for _ in 0..100 {
            cursors.issue(b"x");
        }
        let table = cursors.table.lock();
        assert_eq!((table.positions.len(), table.by_use.len()), (2, 2));
    }

    #[test]
    fn cursors_of_other_boots_are_foreign() {
        let (here, there) = (Cursors::new(7, 10), Cursors::new(8, 10));
        let foreign = there.issue(b"a");
        here.issue(b"a");
        assert_eq!(here.resume(foreign), None);
        assert_eq!(here.resume(0), None);
    }

    #[test]
    fn cursors_fit_a_double_and_are_never_zero() {
        for nonce in [0, 1, (1 << 22) - 1, 1 << 22, u64::MAX, u64::MAX - 1] {
            let cursors = Cursors::new(nonce, 3);
            for _ in 0..5 {
                let cursor = cursors.issue(b"a");
                assert!(cursor > 0 && cursor < 1 << 53, "{cursor}");
            }
        }
    }
}
