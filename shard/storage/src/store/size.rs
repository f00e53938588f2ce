//! How much a shard holds in redb, counted while rows come and go, and a sum over it all.
//!
//! The sum tells whoever walks over all rows that they are those of the record: none missing, none
//! too many, none of an earlier time. redb does not notice when it is led to other pages.

use super::extent::ShardState;
use super::row;

/// Odd, without a pattern: the golden ratio as a fraction of 2^64.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// How much a shard holds in redb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// `None` while it is not known, after a record of an earlier layout.
    pub(crate) sum: Option<u64>,
}

impl Default for Size {
    /// Of nothing.
    fn default() -> Size {
        Size { rows: 0, bytes: 0, sum: Some(0) }
    }
}

impl Size {
    pub(crate) fn of(state: &ShardState) -> Size {
        Size { rows: state.rows, bytes: state.bytes, sum: state.sum }
    }

    pub(crate) fn add(&mut self, key: &[u8], stored: &[u8]) {
        self.rows += 1;
        self.bytes += (key.len() + stored.len()) as u64;
        self.sum = self.sum.map(|sum| sum.wrapping_add(row_sum(key, stored)));
    }

    pub(crate) fn remove(&mut self, key: &[u8], stored: &[u8]) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub((key.len() + stored.len()) as u64);
        // What a damaged row has added is not known any more.
        self.sum = match row::decode(key, stored) {
            Ok(_) => self.sum.map(|sum| sum.wrapping_sub(row_sum(key, stored))),
            Err(_) => None,
        };
    }

    /// True if rows that add up to `met` can be all of these.
    pub(crate) fn agrees(&self, met: &Size) -> bool {
        self.rows == met.rows && (self.sum.is_none() || self.sum == met.sum)
    }

    /// The same, of rows of which so many are damaged in themselves: what those add to the sum is
    /// not what they were.
    pub(crate) fn is_made_of(&self, met: &Size, damaged: u64) -> bool {
        match damaged {
            0 => self.agrees(met),
            _ => self.rows == met.rows,
        }
    }
}

/// What a row adds to the sum of its shard. Its own checksum covers key and content.
fn row_sum(key: &[u8], stored: &[u8]) -> u64 {
    let crc = stored.first_chunk::<4>().map_or(0, |crc| u32::from_le_bytes(*crc));
    mix(mix(u64::from(crc)) ^ (((key.len() as u64) << 32) ^ stored.len() as u64))
}

/// A number of 64 bits that looks like no other's.
pub(crate) fn mix(word: u64) -> u64 {
    let mixed = word.wrapping_add(MULTIPLIER).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 29)).wrapping_mul(MULTIPLIER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(key: &[u8], value: &'static str) -> Vec<u8> {
        let row = row::Row { version: 1, flags: 0, expires_at_ms: None, value: value.into() };
        let mut out = Vec::new();
        row::encode(key, &row, &mut out);
        out
    }

    #[test]
    fn a_sum_does_not_depend_on_the_order_and_sees_every_change() {
        let rows: Vec<(&[u8], Vec<u8>)> = [("a", "x"), ("b", "x"), ("c", "x"), ("c", "y")]
            .map(|(key, value)| (key.as_bytes(), stored(key.as_bytes(), value)))
            .into();
        let of = |order: &[usize]| {
            let mut size = Size::default();
            order.iter().for_each(|at| size.add(rows[*at].0, &rows[*at].1));
            size
        };
        assert_eq!(of(&[0, 1, 2]), of(&[2, 0, 1]));
        assert!(!of(&[0, 1, 2]).agrees(&of(&[0, 1, 3])));
        assert!(!of(&[0, 1]).agrees(&of(&[0, 1, 2])));
        let mut size = of(&[0, 1, 2]);
        size.remove(rows[1].0, &rows[1].1);
        assert_eq!(size, of(&[2, 0]));
        let unknown = Size { sum: None, ..of(&[0, 1]) };
        assert!(unknown.agrees(&of(&[2, 3])), "it says how many, not which");
        let mut damaged = rows[0].1.clone();
        damaged[1] ^= 1;
        size.remove(rows[0].0, &damaged);
        assert_eq!((size.rows, size.sum), (1, None), "it was another row when it was added");
    }
}
