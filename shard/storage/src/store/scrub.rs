//! Walking over all rows of a shard to see that they are those of its record.
//!
//! Rows have checksums; the numbers inside of redb's pages that lead to them have none that is
//! looked at while reading. A damaged one can hide rows, or lead to pages of an earlier time, whose
//! rows are sound in themselves. The record says how many rows there are and what they add up to.
//! And since a search goes other ways than a walk, every row that was met is searched for, too.
//!
//! What is absent: who scrubs, and when.

use super::base_read::ShardBase;
use super::error::{StoreError, guarded};
use super::row;
use super::size::Size;
use crate::range::KeyRange;

impl ShardBase {
    /// Walks over all rows; returns how many are damaged in themselves, each of which is an error to
    /// whoever reads it, and to nobody else. `is_exact`: no other shard has a part of the tables.
    ///
    /// # Errors
    ///
    /// If rows are missing, or are others than the record says, or cannot be found: nothing of the
    /// shard is read from then on.
    pub(crate) fn scrub(&self, is_exact: bool) -> Result<u64, StoreError> {
        let (met, damaged) = self.told(None, guarded("walk over rows", || self.walk_all()))?;
        if is_exact && !Size::of(&self.state).is_made_of(&met, damaged) {
            return Err(self.disagree(&met));
        }
        Ok(damaged)
    }

    /// The error for rows that are not those of the record.
    pub(crate) fn disagree(&self, met: &Size) -> StoreError {
        let recorded = Size::of(&self.state);
        let what = match recorded.rows == met.rows {
            true => format!("its {} rows are not those of its record", met.rows),
            false => format!("it has {} rows, its record says {}", met.rows, recorded.rows),
        };
        self.broken(what)
    }

    /// What all rows add up to, and how many are damaged.
    fn walk_all(&self) -> Result<(Size, u64), StoreError> {
        let walking = |error| StoreError::database("walk over rows", error);
        let (mut met, mut damaged) = (Size::default(), 0);
        let mut last: Option<Vec<u8>> = None;
        for (_, walk) in self.walks(&KeyRange::whole()) {
            for entry in walk? {
                let (key, stored) = entry.map_err(walking)?;
                let (key, stored) = (key.value(), stored.value());
                met.add(key, stored);
                if row::decode(key, stored).is_err() {
                    damaged += 1;
                    continue;
                }
                if last.as_deref().is_some_and(|last| last >= key) {
                    return Err(self.broken("its keys are out of order".to_owned()));
                }
                if !self.finds(key, stored)? {
                    return Err(self.broken("a row of it cannot be found".to_owned()));
                }
                let last = last.get_or_insert_default();
                last.clear();
                last.extend_from_slice(key);
            }
        }
        Ok((met, damaged))
    }
}
