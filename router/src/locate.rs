//! In which shard the keys of an operation lie, as far as a map knows.
//!
//! What is absent: whether the map is right, and who leads the shard.

use crate::map::{Piece, RangeMap};
use flotilla_shard::{Operation, Write};

/// Where the keys of an operation lie.
pub(crate) enum Located<'a> {
    In(&'a Piece),
    Across,
    Unknown,
}

/// Finds the piece of `map` that holds all keys of `operation`.
pub(crate) fn locate<'a>(map: &'a RangeMap, operation: &Operation) -> Located<'a> {
    let mut spot = Spot { map, found: None };
    match operation {
        Operation::Get { key } => spot.key(key),
        Operation::GetMany { keys } => keys.iter().for_each(|key| spot.key(key)),
        Operation::Page { range, .. }
        | Operation::Count { range }
        | Operation::Write(Write::DeleteRange { range }) => {
            spot.key(&range.start);
            if let Some(Located::In(piece)) = spot.found
                && !piece.range.covers(range)
            {
                spot.found = Some(Located::Across);
            }
        }
        Operation::Write(write) => write.for_each_key(|key| spot.key(key)),
    }
    // No key at all: any shard can say so.
    spot.found.or_else(|| map.pieces().first().map(Located::In)).unwrap_or(Located::Unknown)
}

/// Narrows down one piece that holds all keys.
struct Spot<'a> {
    map: &'a RangeMap,
    found: Option<Located<'a>>,
}

impl Spot<'_> {
    fn key(&mut self, key: &[u8]) {
        match &self.found {
            None => {
                self.found = Some(self.map.lookup(key).map_or(Located::Unknown, Located::In));
            }
            Some(Located::In(piece)) if !piece.range.contains(key) => {
                self.found = Some(Located::Across);
            }
            Some(_) => {}
        }
    }
}
