//! Which shard holds a key, as far as this node knows.
//!
//! A [`RangeMap`] is immutable: who looks something up holds a whole map, and learning makes a new
//! one that is swapped in. Look-ups neither lock nor allocate.
//!
//! Invariants:
//!
//! * For every key, the map answers the newest descriptor that it was ever given among those whose
//!   range holds the key: the highest version, then the highest `conf_version`, then the youngest
//!   group. What it answers does not depend on the order in which it learned.
//! * A key that once had an answer keeps having one. After a split of which only one half is known,
//!   the other half still leads to the parent, whose answer names the child.
//! * Pieces are sorted by start and do not overlap.
//!
//! What is absent: leaders (see [`crate::leaders`]) and where descriptors come from.

use bytes::Bytes;
use flotilla_shard::{Descriptor, KeyRange};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A part of the key space and the descriptor that answers for it.
///
/// The part can be smaller than the descriptor's own range, when something newer covers the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The keys of this piece.
    pub range: KeyRange,
    /// The newest descriptor known for them.
    pub descriptor: Arc<Descriptor>,
}

/// An immutable map from keys to descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeMap {
    pieces: Vec<Piece>,
}

impl RangeMap {
    /// A map that knows nothing.
    pub fn new() -> RangeMap {
        RangeMap::default()
    }

    /// The piece that holds `key`; `None` when nothing is known about it.
    pub fn lookup(&self, key: &[u8]) -> Option<&Piece> {
        self.index_of(key).map(|index| &self.pieces[index])
    }

    fn index_of(&self, key: &[u8]) -> Option<usize> {
        let after = self.pieces.partition_point(|piece| &piece.range.start[..] <= key);
        let index = after.checked_sub(1)?;
        self.pieces[index].range.contains(key).then_some(index)
    }

    /// All pieces in key order. Between two there may be keys of which nothing is known.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Cuts `range` where shards meet, in key order. Parts of which nothing is known are among the
    /// result too: asking for them waits until something is.
    pub fn split(&self, range: &KeyRange) -> Vec<KeyRange> {
        let mut parts = Vec::new();
        if range.is_empty() {
            return parts;
        }
        let mut start = range.start.clone();
        for piece in &self.pieces[self.first_touching(&range.start)..] {
            let Some(clip) = piece.range.clip(range) else { break };
            if start < clip.start {
                parts.push(KeyRange { start, end: Some(clip.start.clone()) });
            }
            let end = clip.end.clone();
            parts.push(clip);
            match end {
                Some(end) => start = end,
                None => return parts,
            }
        }
        let rest = KeyRange { start, end: range.end.clone() };
        if !rest.is_empty() {
            parts.push(rest);
        }
        parts
    }

    /// The part of `range` up to where its first shard ends; `None` when the range is empty.
    pub fn first_part(&self, range: &KeyRange) -> Option<KeyRange> {
        let mut part = (!range.is_empty()).then(|| range.clone())?;
        let piece = self.pieces.get(self.first_touching(&range.start));
        let border = piece.and_then(|piece| {
            let inside = piece.range.contains(&range.start);
            if inside { piece.range.end.as_ref() } else { Some(&piece.range.start) }
        });
        if let Some(border) = border
            && part.end.as_ref().is_none_or(|end| border < end)
        {
            part.end = Some(border.clone());
        }
        Some(part)
    }

    /// The part of `range` from where its last shard starts; `None` when the range is empty.
    pub fn last_part(&self, range: &KeyRange) -> Option<KeyRange> {
        let mut part = (!range.is_empty()).then(|| range.clone())?;
        let below = match &range.end {
            Some(end) => self.pieces.partition_point(|piece| piece.range.start < *end),
            None => self.pieces.len(),
        };
        let Some(piece) = below.checked_sub(1).map(|last| &self.pieces[last]) else {
            return Some(part);
        };
        // Whether the piece reaches the end of the range, or there is a gap behind it.
        let reaches = match (&piece.range.end, &range.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(piece_end), Some(end)) => piece_end >= end,
        };
        let border = if reaches { Some(&piece.range.start) } else { piece.range.end.as_ref() };
        if let Some(border) = border
            && *border > part.start
        {
            part.start = border.clone();
        }
        Some(part)
    }

    /// The `indexes` of `keys` by the piece that holds them, pieces in key order; unknown keys come
    /// first, one by one.
    pub fn group_keys(&self, keys: &[Bytes], indexes: &[usize]) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut unknown = Vec::new();
        for &index in indexes {
            match self.index_of(&keys[index]) {
                Some(piece) => groups.entry(piece).or_default().push(index),
                None => unknown.push(vec![index]),
            }
        }
        unknown.extend(groups.into_values());
        unknown
    }

    /// This map after learning `descriptors`; `None` when they bring nothing new.
    pub fn learn(&self, descriptors: impl IntoIterator<Item = Descriptor>) -> Option<RangeMap> {
        let mut descriptors: Vec<Descriptor> =
            descriptors.into_iter().filter(|descriptor| !descriptor.range.is_empty()).collect();
        // In key order a map that is filled for the first time only grows at its end.
        descriptors.sort_by(|a, b| a.range.start.cmp(&b.range.start));
        let mut learned = self.clone();
        let mut changed = false;
        for descriptor in descriptors {
            changed |= learned.lay(Arc::new(descriptor));
        }
        changed.then_some(learned)
    }

    /// The index of the first piece that ends after `start`.
    fn first_touching(&self, start: &[u8]) -> usize {
        let after = self.pieces.partition_point(|piece| &piece.range.start[..] <= start);
        match after.checked_sub(1) {
            Some(before) if self.pieces[before].range.contains(start) => before,
            _ => after,
        }
    }

    /// Lays `descriptor` over the map; what is newer stays on top. True if anything changed.
    fn lay(&mut self, descriptor: Arc<Descriptor>) -> bool {
        let range = descriptor.range.clone();
        let first = self.first_touching(&range.start);
        let last = match &range.end {
            Some(end) => self.pieces.partition_point(|piece| piece.range.start < *end),
            None => self.pieces.len(),
        };
        let covered = &self.pieces[first..last.max(first)];
        let newest = |piece: &Piece| newer(&descriptor, &piece.descriptor) == Ordering::Greater;

        let mut laid: Vec<Piece> = Vec::with_capacity(covered.len() + 2);
        let mut changed = false;
        let mut cursor = range.start.clone();
        let mut open = true; // whether the descriptor reaches beyond what was handled
        for piece in covered {
            if cursor < piece.range.start {
                let gap = KeyRange { start: cursor, end: Some(piece.range.start.clone()) };
                push(&mut laid, gap, &descriptor);
                changed = true;
            }
            if newest(piece) {
                changed = true;
                for (part, owner) in cut(piece, &descriptor) {
                    push(&mut laid, part, owner);
                }
            } else {
                push(&mut laid, piece.range.clone(), &piece.descriptor);
            }
            match &piece.range.end {
                Some(end) => cursor = end.clone(),
                None => {
                    open = false;
                    cursor = piece.range.start.clone();
                }
            }
        }
        let tail = KeyRange { start: cursor, end: range.end.clone() };
        if open && !tail.is_empty() {
            push(&mut laid, tail, &descriptor);
            changed = true;
        }
        if changed {
            self.pieces.splice(first..last.max(first), laid);
        }
        changed
    }
}

/// Orders what two descriptors say about a key that both claim.
fn newer(a: &Descriptor, b: &Descriptor) -> Ordering {
    (a.epoch, a.group).cmp(&(b.epoch, b.group))
}

/// `piece` with the keys of the newer `descriptor` taken out of it, in key order.
fn cut<'a>(
    piece: &'a Piece,
    descriptor: &'a Arc<Descriptor>,
) -> impl Iterator<Item = (KeyRange, &'a Arc<Descriptor>)> {
    let over = &descriptor.range;
    let left = piece
        .range
        .clip(&KeyRange { start: piece.range.start.clone(), end: Some(over.start.clone()) });
    let middle = piece.range.clip(over);
    let right = over
        .end
        .as_ref()
        .and_then(|end| piece.range.clip(&KeyRange { start: end.clone(), end: None }));
    [(left, &piece.descriptor), (middle, descriptor), (right, &piece.descriptor)]
        .into_iter()
        .filter_map(|(part, owner)| Some((part?, owner)))
}

/// Appends a piece, united with its neighbour when both have the same owner.
fn push(pieces: &mut Vec<Piece>, range: KeyRange, owner: &Arc<Descriptor>) {
    if let Some(before) = pieces.last_mut()
        && Arc::ptr_eq(&before.descriptor, owner)
        && before.range.end.as_ref() == Some(&range.start)
    {
        before.range.end = range.end;
        return;
    }
    pieces.push(Piece { range, descriptor: owner.clone() });
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_shard::{Epoch, GroupId};
    use proptest::prelude::*;

    fn descriptor(group: u64, version: u64, start: &str, end: &str) -> Descriptor {
        Descriptor {
            group: GroupId(group),
            range: KeyRange {
                start: Bytes::copy_from_slice(start.as_bytes()),
                end: (!end.is_empty()).then(|| Bytes::copy_from_slice(end.as_bytes())),
            },
            epoch: Epoch { version, conf_version: 1 },
            replicas: Vec::new(),
        }
    }

    fn group_of(map: &RangeMap, key: &str) -> Option<u64> {
        map.lookup(key.as_bytes()).map(|piece| piece.descriptor.group.0)
    }

    #[test]
    fn an_empty_map_knows_nothing() {
        assert_eq!(RangeMap::new().lookup(b"a"), None);
        assert_eq!(RangeMap::new().split(&KeyRange::whole()), vec![KeyRange::whole()]);
    }

    #[test]
    fn an_older_descriptor_never_replaces_a_newer_one() {
        let map = RangeMap::new().learn([descriptor(1, 2, "", "m")]).unwrap();
        assert_eq!(map.learn([descriptor(1, 1, "", "m")]), None);
        assert_eq!(map.learn([descriptor(1, 2, "", "m")]), None);
        // What the newer one no longer claims still leads to the old group.
        let map = map.learn([descriptor(1, 1, "", "")]).unwrap();
        assert_eq!(map.lookup(b"a").unwrap().descriptor.epoch.version, 2);
        assert_eq!(map.lookup(b"z").unwrap().descriptor.epoch.version, 1);
    }

    #[test]
    fn half_a_split_leaves_no_hole() {
        let map = RangeMap::new().learn([descriptor(1, 1, "", "")]).unwrap();
        let map = map.learn([descriptor(2, 2, "m", "")]).unwrap();
        assert_eq!((group_of(&map, "a"), group_of(&map, "m")), (Some(1), Some(2)));
        let map = map.learn([descriptor(1, 2, "", "m")]).unwrap();
        assert_eq!(map.lookup(b"a").unwrap().descriptor.epoch.version, 2);
        assert_eq!(map.pieces().len(), 2);
    }

    #[test]
    fn split_names_every_part() {
        let map = RangeMap::new()
            .learn([descriptor(1, 1, "b", "d"), descriptor(2, 1, "f", "h")])
            .unwrap();
        let parts = |start: &str, end: &str| -> Vec<String> {
            map.split(&descriptor(0, 0, start, end).range)
                .iter()
                .map(|part| {
                    let end = part.end.clone().unwrap_or_default();
                    format!(
                        "{}-{}",
                        String::from_utf8_lossy(&part.start),
                        String::from_utf8_lossy(&end)
                    )
                })
                .collect()
        };
        assert_eq!(parts("", ""), ["-b", "b-d", "d-f", "f-h", "h-"]);
        assert_eq!(parts("c", "g"), ["c-d", "d-f", "f-g"]);
        assert_eq!(parts("d", "e"), ["d-e"]);
        assert_eq!(parts("x", "a"), [""; 0]);
    }

    /// What the map promises, word for word: the newest of all that hold the key.
    fn model(learned: &[Descriptor], key: &[u8]) -> Option<Descriptor> {
        learned
            .iter()
            .filter(|descriptor| descriptor.range.contains(key))
            .max_by_key(|descriptor| (descriptor.epoch, descriptor.group))
            .cloned()
    }

    fn any_descriptor() -> impl Strategy<Value = Descriptor> {
        (1..6u64, 1..6u64, 0..20u8, 0..22u8).prop_map(|(group, version, start, end)| Descriptor {
            group: GroupId(group),
            range: KeyRange {
                start: if start == 0 { Bytes::new() } else { Bytes::copy_from_slice(&[start]) },
                end: (end < 20).then(|| Bytes::copy_from_slice(&[end])),
            },
            // One descriptor per group and epoch, as in a real history: the range is part of it.
            epoch: Epoch { version, conf_version: u64::from(start) * 32 + u64::from(end) },
            replicas: Vec::new(),
        })
    }

    fn ranges() -> impl Iterator<Item = KeyRange> {
        let key = |at: u8| if at == 0 { Bytes::new() } else { Bytes::copy_from_slice(&[at]) };
        (0..22u8).flat_map(move |start| {
            let ends = (start..22).map(move |end| Some(key(end))).chain([None]);
            ends.map(move |end| KeyRange { start: key(start), end })
        })
    }

    proptest! {
        #[test]
        fn lookups_agree_with_the_model(batches in prop::collection::vec(
            prop::collection::vec(any_descriptor(), 1..4), 1..12))
        {
            let mut map = RangeMap::new();
            let mut learned = Vec::new();
            for batch in batches {
                learned.extend(batch.clone());
                let next = map.learn(batch);
                prop_assert_ne!(next.as_ref(), Some(&map), "None says that nothing changed");
                map = next.unwrap_or(map);
                for key in 0..22u8 {
                    let found = map.lookup(&[key]).map(|piece| (*piece.descriptor).clone());
                    prop_assert_eq!(found, model(&learned, &[key]));
                }
                for pair in map.pieces().windows(2) {
                    prop_assert!(pair[0].range.end.as_ref().unwrap() <= &pair[1].range.start);
                }
                for piece in map.pieces() {
                    prop_assert!(!piece.range.is_empty());
                    prop_assert!(piece.descriptor.range.covers(&piece.range));
                }
                for range in ranges() {
                    let parts = map.split(&range);
                    prop_assert_eq!(map.first_part(&range), parts.first().cloned());
                    prop_assert_eq!(map.last_part(&range), parts.last().cloned());
                }
                let parts = map.split(&KeyRange::whole());
                prop_assert!(parts[0].start.is_empty() && parts.last().unwrap().end.is_none());
                for pair in parts.windows(2) {
                    prop_assert_eq!(pair[0].end.as_ref(), Some(&pair[1].start));
                }
            }
        }
    }
}
