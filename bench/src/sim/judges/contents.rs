//! Replicas that applied the same have the same rows.

use std::collections::BTreeMap;

use super::{Group, Replica, Rule, Violation};

/// How many applied indexes of a group are remembered.
const INDEXES_MAX: usize = 4_096;

/// Checksums by group and applied index, and who was seen first with them.
#[derive(Debug, Default)]
pub(super) struct Contents {
    seen: BTreeMap<Group, BTreeMap<u64, (u64, Replica)>>,
}

impl Contents {
    pub(super) fn contents(
        &mut self,
        group: Group,
        replica: Replica,
        applied: u64,
        checksum: u64,
    ) -> Result<(), Violation> {
        let seen = self.seen.entry(group).or_default();
        let (first, by) = *seen.entry(applied).or_insert((checksum, replica));
        if first != checksum {
            let text = format!(
                "{group}, {replica}: having applied {applied} its rows differ from those of {by}: \
                 checksum {checksum:016x}, not {first:016x}"
            );
            return Err(Violation::new(Rule::SameContents, text));
        }
        while seen.len() > INDEXES_MAX {
            seen.pop_first();
        }
        Ok(())
    }
}
