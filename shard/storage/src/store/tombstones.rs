//! The ranges that a memtable deleted, each with the version that deleted it.
//!
//! A map of pieces that do not overlap. A newer deletion replaces what it covers of older ones:
//! whoever needs the older state (a pinned scan) holds a copy of the whole from that time, see
//! [`memtable`](super::memtable). So the map grows with the number of deletions (each adds at most
//! two pieces), not with what they delete.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::key::unpinned;
use crate::range::KeyRange;

/// What one piece of the map costs in memory beyond its keys, roughly.
const PIECE_OVERHEAD_BYTES: u64 = 96;

/// Memory that a deletion of `range` adds at most, roughly: two pieces.
pub(crate) fn memory_bytes(range: &KeyRange) -> u64 {
    let keys_bytes = range.start.len() + range.end.as_ref().map_or(0, Bytes::len);
    2 * (keys_bytes as u64 + PIECE_OVERHEAD_BYTES)
}

#[derive(Clone, Debug)]
struct Piece {
    end: Option<Bytes>,
    version: u64,
}

/// Deleted ranges, without overlap, by their starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tombstones {
    pieces: BTreeMap<Bytes, Piece>,
}

impl Tombstones {
    /// Deletes `range` at `version`, which is at least that of every deletion before.
    pub(crate) fn insert(&mut self, range: &KeyRange, version: u64) {
        if range.is_empty() {
            return;
        }
        let start = unpinned(&range.start);
        let end = range.end.as_ref().map(unpinned);

        // The piece that begins before the range and reaches into it is cut at the range's start.
        if let Some((_, piece)) = self.pieces.range_mut::<[u8], _>(below(&start)).next_back()
            && piece.end.as_ref().is_none_or(|piece_end| *piece_end > start)
        {
            let tail = Piece { end: piece.end.replace(start.clone()), ..*piece };
            self.pieces.insert(start.clone(), tail);
        }
        // The piece that begins inside and reaches beyond loses its head.
        if let Some(end) = &end
            && let Some((_, piece)) = self.pieces.range::<[u8], _>(below(end)).next_back()
            && piece.end.as_ref().is_none_or(|piece_end| piece_end > end)
        {
            let tail = piece.clone();
            self.pieces.insert(end.clone(), tail);
        }
        let covered: Vec<Bytes> =
            self.pieces.range::<[u8], _>(range.bounds()).map(|(key, _)| key.clone()).collect();
        for key in covered {
            self.pieces.remove(&key);
        }
        self.pieces.insert(start, Piece { end, version });
    }

    /// The version that deleted `key` last; `None` if no range here covers it.
    pub(crate) fn version_at(&self, key: &[u8]) -> Option<u64> {
        self.fragment(key).map(|(_, piece)| piece.version)
    }

    /// The deleted range around `key`, or the part of it from one deletion.
    pub(crate) fn range_at(&self, key: &[u8]) -> Option<KeyRange> {
        self.fragment(key).map(|(start, piece)| KeyRange::new(start.clone(), piece.end.clone()))
    }

    /// True if nothing was deleted.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The deleted ranges in key order.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = KeyRange> + '_ {
        self.pieces.iter().map(|(start, piece)| KeyRange::new(start.clone(), piece.end.clone()))
    }

    fn fragment(&self, key: &[u8]) -> Option<(&Bytes, &Piece)> {
        let up_to_key = (Bound::Unbounded, Bound::Included(key));
        let (start, piece) = self.pieces.range::<[u8], _>(up_to_key).next_back()?;
        piece.end.as_ref().is_none_or(|end| key < &end[..]).then_some((start, piece))
    }
}

/// The keys below `key`.
fn below(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Excluded(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination of three deletions over eight one-byte keys, against a plain array.
    #[test]
    fn three_deletions_agree_with_an_array() {
        let ranges: Vec<(u8, Option<u8>)> = (0..5)
            .flat_map(|start| (0..5).map(move |end| (start, (end < 4).then_some(end))))
            .collect();
        let bytes = |key: u8| Bytes::from(vec![key]);
        for first in &ranges {
            for second in &ranges {
                for third in &ranges {
                    let mut tombstones = Tombstones::default();
                    let mut model = [None; 6];
                    for (version, (start, end)) in [first, second, third].into_iter().enumerate() {
                        let range = KeyRange::new(bytes(*start), end.map(bytes));
                        tombstones.insert(&range, version as u64);
                        for key in 0..6 {
                            if range.contains(&[key]) {
                                model[usize::from(key)] = Some(version as u64);
                            }
                        }
                    }
                    for key in 0..6 {
                        let got = tombstones.version_at(&[key]);
                        assert_eq!(got, model[usize::from(key)], "{key}: {tombstones:?}");
                    }
                    let ranges: Vec<_> = tombstones.ranges().collect();
                    assert!(ranges.iter().all(|range| !range.is_empty()), "{tombstones:?}");
                    for pair in ranges.windows(2) {
                        assert!(pair[0].end.as_ref().unwrap() <= &pair[1].start, "{tombstones:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn range_at_is_the_piece_around_the_key() {
        let mut tombstones = Tombstones::default();
        assert!(tombstones.is_empty() && tombstones.range_at(b"c").is_none());
        let bd = KeyRange::new("b", Some("d".into()));
        tombstones.insert(&bd, 1);
        assert_eq!(tombstones.range_at(b"c"), Some(bd));
        assert_eq!(tombstones.range_at(b"d"), None);
    }
}
