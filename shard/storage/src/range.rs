//! Half-open ranges of keys: what a shard owns, what a scan walks, what a delete covers.
//!
//! Keys are bytes, ordered as bytes. A range is `[start, end)`; an absent `end` means "to the end
//! of the key space". The empty start is the beginning of the key space. Ranges know nothing of
//! shards, versions or disks.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};

/// The keys from `start` (included) to `end` (excluded).
///
/// A range whose end is not above its start is empty: it contains no key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key of the range. Empty: from the first key there can be.
    pub start: Bytes,
    /// The first key after the range. `None`: to the end of the key space.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// The range `[start, end)`.
    pub fn new(start: impl Into<Bytes>, end: Option<Bytes>) -> KeyRange {
        KeyRange { start: start.into(), end }
    }

    /// The whole key space.
    pub fn whole() -> KeyRange {
        KeyRange { start: Bytes::new(), end: None }
    }

    /// All keys that begin with `prefix`. An empty prefix is the whole key space.
    pub fn prefix(prefix: impl Into<Bytes>) -> KeyRange {
        let start = prefix.into();
        // The first key after the prefix: its last byte that can grow, grown, and nothing behind.
        let end = start.iter().rposition(|byte| *byte != u8::MAX).map(|last| {
            let mut end = BytesMut::from(&start[..=last]);
            end[last] += 1;
            end.freeze()
        });
        KeyRange { start, end }
    }

    /// The smallest key above `key`: `key` with a zero byte behind it.
    pub fn successor(key: &[u8]) -> Bytes {
        let mut next = BytesMut::with_capacity(key.len() + 1);
        next.put_slice(key);
        next.put_u8(0);
        next.freeze()
    }

    /// True if `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// True if the range is the whole key space.
    pub fn is_whole(&self) -> bool {
        self.start.is_empty() && self.end.is_none()
    }

    /// True if no key lies in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// True if every key of `other` lies in this range.
    pub fn covers(&self, other: &KeyRange) -> bool {
        if other.is_empty() {
            return true;
        }
        let end_covered = match (&self.end, &other.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(end), Some(other_end)) => end >= other_end,
        };
        self.start <= other.start && end_covered
    }

    /// The keys that lie in both ranges; `None` if there are none.
    pub fn clip(&self, other: &KeyRange) -> Option<KeyRange> {
        let start = (&self.start).max(&other.start).clone();
        let end = match (&self.end, &other.end) {
            (None, end) | (end, None) => end.clone(),
            (Some(a), Some(b)) => Some(a.min(b).clone()),
        };
        let clipped = KeyRange { start, end };
        (!clipped.is_empty()).then_some(clipped)
    }

    /// The range as a pair of bounds, for ordered maps and tables keyed by bytes.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let end = self.end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
        (Bound::Included(&self.start[..]), end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static str, end: Option<&'static str>) -> KeyRange {
        KeyRange::new(start, end.map(Bytes::from))
    }

    #[test]
    fn contains_is_half_open() {
        let bd = range("b", Some("d"));
        assert!(!bd.contains(b"a") && bd.contains(b"b") && bd.contains(b"c\xff"));
        assert!(!bd.contains(b"d"));
        assert!(range("b", None).contains(b"\xff\xff"));
        assert!(KeyRange::whole().contains(b"") && KeyRange::whole().is_whole());
        assert!(range("b", Some("b")).is_empty() && range("c", Some("b")).is_empty());
    }

    #[test]
    fn clip_is_the_intersection() {
        let bd = range("b", Some("d"));
        assert_eq!(bd.clip(&range("c", None)), Some(range("c", Some("d"))));
        assert_eq!(bd.clip(&KeyRange::whole()), Some(bd.clone()));
        assert_eq!(range("a", Some("b")).clip(&bd), None);
        assert_eq!(range("x", None).clip(&range("y", None)), Some(range("y", None)));
    }

    #[test]
    fn covers_compares_both_ends() {
        assert!(KeyRange::whole().covers(&range("b", Some("d"))));
        assert!(range("b", Some("d")).covers(&range("b", Some("d"))));
        assert!(!range("b", Some("d")).covers(&range("b", None)));
        assert!(!range("c", Some("d")).covers(&range("b", Some("d"))));
        assert!(range("c", Some("d")).covers(&range("z", Some("a"))), "nothing is in everything");
    }

    #[test]
    fn prefix_ends_after_its_last_key() {
        assert_eq!(KeyRange::prefix("ab"), range("ab", Some("ac")));
        assert_eq!(KeyRange::prefix(&b"a\xff"[..]), range_bytes(b"a\xff", Some(b"b")));
        assert_eq!(KeyRange::prefix(&b"\xff"[..]).end, None);
        assert!(KeyRange::prefix("").is_whole());
    }

    fn range_bytes(start: &'static [u8], end: Option<&'static [u8]>) -> KeyRange {
        KeyRange::new(start, end.map(Bytes::from))
    }

    #[test]
    fn successor_is_the_next_key() {
        let next = KeyRange::successor(b"a");
        assert!(&next[..] > b"a".as_slice() && &next[..] < b"a\x01".as_slice());
    }
}
