//! The committed entries of a group, in one chain, as the first who committed them said.
//!
//! Bounded: what all replicas have compacted away is forgotten, and of the rest the newest are kept.

use std::collections::BTreeMap;

use super::Replica;

/// How many committed entries of a group are remembered at most.
const LINKS_MAX: usize = 65_536;

/// A committed entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) term: u64,
    pub(super) hash: u64,
    /// The term in which it was committed: that of the last entry committed with it.
    pub(super) committed_in: u64,
    /// Who committed it first.
    pub(super) by: Replica,
}

/// The committed entries of a group.
#[derive(Debug, Default)]
pub(super) struct Chain {
    links: BTreeMap<u64, Link>,
    end: u64,
}

impl Chain {
    /// The last committed index; 0 if nothing is.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// What was committed at `index`, if it is remembered.
    pub(super) fn at(&self, index: u64) -> Option<Link> {
        self.links.get(&index).copied()
    }

    /// The last link that was committed in a term before `term`, and its index.
    pub(super) fn last_before(&self, term: u64) -> Option<(u64, Link)> {
        // Nearly always the very last one.
        let mut links = self.links.iter().rev();
        links.find(|(_, link)| link.committed_in < term).map(|(index, link)| (*index, *link))
    }

    /// Adds the committed entry `index`, which lies behind the end.
    pub(super) fn add(&mut self, index: u64, link: Link) {
        self.links.insert(index, link);
        self.end = self.end.max(index);
        while self.links.len() > LINKS_MAX {
            self.links.pop_first();
        }
    }

    /// Forgets what lies at or before `floor`, except the end.
    pub(super) fn prune(&mut self, floor: u64) {
        while let Some((&index, _)) = self.links.first_key_value()
            && index <= floor
            && index < self.end
        {
            self.links.remove(&index);
        }
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }
}
