//! The keys of a memtable with what is known of each: found by hash, walked in order.
//!
//! Look-ups and overwrites, which is nearly all that a memtable does, take one step through a hash
//! table instead of a descent through a tree of which every level is a cache miss. The order,
//! which only scans and checkpoints ask for, is kept beside it and may lag: new keys gather in a
//! short list and enter the tree together, sorted, so that neighbours find its nodes warm.
//!
//! Invariants:
//!
//! * Keys are added, never removed: an entry stays where it is, and is named by its position.
//! * The list of keys that the order lacks is short ([`UNORDERED_MAX`]), so whoever has to wait for
//!   the order waits for little.
//! * Nothing depends on how keys hash: tables are searched, never walked.
//!
//! What is absent: locks, versions, what the values mean.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::Bound;

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::key::Key;

/// So many new keys enter the order at once: enough to make their common way through the tree pay,
/// few enough to take a fraction of a millisecond.
const UNORDERED_MAX: usize = 1024;

/// Entries of a piece of memory. A piece that is full never moves.
const PIECE_ENTRIES: usize = 128;

/// Where an entry is: its number, counted from the first.
type Position = u32;

/// What the hash table holds: with the hash beside it, neither a miss nor growth touches an entry.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u32,
    position: Position,
}

/// Keys with values of `V`.
#[derive(Debug)]
pub(crate) struct Rows<V> {
    hasher: DefaultHashBuilder,
    places: HashTable<Place>,
    /// Pieces of [`PIECE_ENTRIES`], all full but the last.
    pieces: Vec<Vec<(Key, V)>>,
    ordered: BTreeMap<Key, Position>,
    unordered: Vec<Position>,
}

/// The value of a key, or the room for it.
pub(crate) enum Entry<'a, V> {
    Occupied(&'a mut V),
    Vacant(Vacant<'a, V>),
}

/// The room for a key that is not there yet.
pub(crate) struct Vacant<'a, V> {
    rows: &'a mut Rows<V>,
    hash: u32,
}

impl<V> Default for Rows<V> {
    fn default() -> Rows<V> {
        Rows {
            hasher: DefaultHashBuilder::default(),
            places: HashTable::new(),
            pieces: Vec::new(),
            ordered: BTreeMap::new(),
            unordered: Vec::new(),
        }
    }
}

impl<V> Rows<V> {
    /// The value of `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&V> {
        self.find(self.hash(key), key).map(|position| &self.entry_at(position).1)
    }

    /// The value of `key`, or the room for it.
    pub(crate) fn entry(&mut self, key: &[u8]) -> Entry<'_, V> {
        let hash = self.hash(key);
        match self.find(hash, key) {
            Some(position) => {
                let (piece, at) = split(position);
                Entry::Occupied(&mut self.pieces[piece][at].1)
            }
            None => Entry::Vacant(Vacant { rows: self, hash }),
        }
    }

    /// True if [`Rows::range`] may be called.
    pub(crate) fn is_ordered(&self) -> bool {
        self.unordered.is_empty()
    }

    /// Puts the new keys in order. Takes a fraction of a millisecond at most.
    pub(crate) fn order(&mut self) {
        let mut unordered = std::mem::take(&mut self.unordered);
        unordered.sort_unstable_by(|a, b| self.entry_at(*a).0.cmp(&self.entry_at(*b).0));
        for position in unordered.drain(..) {
            let key = self.entry_at(position).0.clone();
            self.ordered.insert(key, position);
        }
        // The room is kept: the next new keys go there.
        self.unordered = unordered;
    }

    /// The keys within `bounds` and their values, in order.
    ///
    /// # Panics
    ///
    /// If new keys were not put in order ([`Rows::order`]).
    pub(crate) fn range<'a>(
        &'a self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> impl DoubleEndedIterator<Item = (&'a Key, &'a V)> {
        assert!(self.is_ordered(), "{} new keys are not in order yet", self.unordered.len());
        let range = self.ordered.range::<[u8], _>(bounds);
        range.map(|(key, position)| (key, &self.entry_at(*position).1))
    }

    /// All keys and their values, in order.
    ///
    /// # Panics
    ///
    /// As [`Rows::range`].
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Key, &V)> {
        self.range((Bound::Unbounded, Bound::Unbounded))
    }

    fn hash(&self, key: &[u8]) -> u32 {
        (self.hasher.hash_one(key) >> 32) as u32
    }

    fn find(&self, hash: u32, key: &[u8]) -> Option<Position> {
        let is_it =
            |place: &Place| place.hash == hash && self.entry_at(place.position).0.as_slice() == key;
        self.places.find(spread(hash), is_it).map(|place| place.position)
    }

    fn entry_at(&self, position: Position) -> &(Key, V) {
        let (piece, at) = split(position);
        &self.pieces[piece][at]
    }

    fn push(&mut self, key: Key, value: V) -> Position {
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE_ENTRIES) {
            // The first piece grows with its content: most shards of many hold little.
            let is_first = self.pieces.is_empty();
            let piece = if is_first { Vec::new() } else { Vec::with_capacity(PIECE_ENTRIES) };
            self.pieces.push(piece);
        }
        let number = self.pieces.len() - 1;
        let piece = &mut self.pieces[number];
        let position = number * PIECE_ENTRIES + piece.len();
        piece.push((key, value));
        Position::try_from(position).expect("a memtable is cut off long before 2^32 keys")
    }
}

impl<V> Vacant<'_, V> {
    /// Adds `key`, which must be the one that was asked for, with `value`.
    pub(crate) fn insert(self, key: &Bytes, value: V) {
        let Vacant { rows, hash } = self;
        let position = rows.push(Key::new(key), value);
        rows.places.insert_unique(spread(hash), Place { hash, position }, |it| spread(it.hash));
        rows.unordered.push(position);
        if rows.unordered.len() >= UNORDERED_MAX {
            rows.order();
        }
    }
}

/// The hash as the table wants it: with entropy in its highest bits and in its lowest.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn split(position: Position) -> (usize, usize) {
    let position = position as usize;
    (position / PIECE_ENTRIES, position % PIECE_ENTRIES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(rows: &mut Rows<u64>, key: &Bytes, value: u64) {
        match rows.entry(key) {
            Entry::Occupied(old) => *old = value,
            Entry::Vacant(vacant) => vacant.insert(key, value),
        }
    }

    fn walked(rows: &Rows<u64>) -> Vec<(Vec<u8>, u64)> {
        rows.iter().map(|(key, value)| (key.as_slice().to_vec(), *value)).collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(Bytes, u64),
        Range(Bytes, Bytes),
    }

    /// Short keys that meet again, and keys too long to lie within an entry.
    fn keys() -> impl Strategy<Value = Bytes> {
        prop_oneof![
            proptest::collection::vec(0u8..4, 0..5).prop_map(Bytes::from),
            (0u8..20).prop_map(|tail| Bytes::from([vec![b'k'; 60], vec![tail]].concat())),
        ]
    }

    proptest! {
        #[test]
        fn rows_are_a_map(
            steps in proptest::collection::vec(
                prop_oneof![
                    9 => (keys(), any::<u64>()).prop_map(|(key, value)| Step::Put(key, value)),
                    1 => (keys(), keys()).prop_map(|(from, to)| Step::Range(from, to)),
                ],
                0..400,
            ),
        ) {
            let (mut rows, mut model) = (Rows::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Put(key, value) => {
                        put(&mut rows, &key, value);
                        model.insert(key.clone(), value);
                        prop_assert_eq!(rows.get(&key), Some(&value));
                    }
                    Step::Range(from, to) => {
                        let bounds = (Bound::Included(&from[..]), Bound::Unbounded);
                        rows.order();
                        let found: Vec<_> = rows.range(bounds).rev().map(|it| *it.1).collect();
                        let expected: Vec<_> =
                            model.range(from.clone()..).rev().map(|it| *it.1).collect();
                        prop_assert_eq!(found, expected);
                        prop_assert_eq!(rows.get(&to), model.get(&to));
                    }
                }
            }
            rows.order();
            let expected: Vec<_> = model.iter().map(|(key, it)| (key.to_vec(), *it)).collect();
            prop_assert_eq!(walked(&rows), expected);
        }
    }

    #[test]
    fn many_keys_are_found_and_in_order_while_tables_and_pieces_grow() {
        let mut rows = Rows::default();
        // 7919 is prime to the number of keys: each comes once, in no order.
        let keys: Vec<_> =
            (0..20_000u64).map(|at| Bytes::from(format!("{:08}", at * 7919 % 20_000))).collect();
        for (at, key) in keys.iter().enumerate() {
            put(&mut rows, key, at as u64);
            assert!(rows.unordered.len() < UNORDERED_MAX);
        }
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(rows.get(key), Some(&(at as u64)));
        }
        assert_eq!(rows.get(b"00020000"), None);
        rows.order();
        let walked = walked(&rows);
        assert_eq!(walked.len(), 20_000);
        assert!(walked.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    #[should_panic(expected = "1 new keys are not in order yet")]
    fn what_is_not_in_order_is_not_walked() {
        let mut rows = Rows::default();
        put(&mut rows, &Bytes::from_static(b"a"), 1);
        let _ = rows.iter();
    }
}
