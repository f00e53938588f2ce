//! Who owns which keys: at each epoch at most one group owns a key.
//!
//! An epoch's version moves with the range. A group has one range at a version, wherever it is asked,
//! and two groups whose ranges share a key never have the same version: the higher one owns it.

use std::collections::BTreeMap;

use super::{Group, Rule, Violation};

/// A range of keys: from `start`, up to `end` exclusively; no `end` is the end of all keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Keys {
    /// The first key.
    pub start: Vec<u8>,
    /// The first key that lies behind.
    pub end: Option<Vec<u8>>,
}

impl Keys {
    fn overlaps(&self, other: &Keys) -> bool {
        let before = |a: &Keys, b: &Keys| a.end.as_ref().is_some_and(|end| *end <= b.start);
        !before(self, other) && !before(other, self)
    }
}

/// Who said that it owns what.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    /// By version and group: its keys, and the node that said so first.
    claims: BTreeMap<u64, BTreeMap<Group, (Keys, u64)>>,
}

impl Ownership {
    pub(super) fn owns(
        &mut self,
        node: u64,
        group: Group,
        version: u64,
        keys: &Keys,
    ) -> Result<(), Violation> {
        let claims = self.claims.entry(version).or_default();
        if let Some((claimed, first)) = claims.get(&group) {
            if claimed == keys {
                return Ok(());
            }
            let text = format!(
                "node {node} says that {group} at version {version} has other keys than node \
                 {first} says"
            );
            return Err(Violation::new(Rule::OneOwner, text));
        }
        let other = claims.iter().find(|(_, (claimed, _))| claimed.overlaps(keys));
        if let Some((other, (_, first))) = other {
            let text = format!(
                "node {node} says that {group} owns keys at version {version} which {other} owns \
                 according to node {first}"
            );
            return Err(Violation::new(Rule::OneOwner, text));
        }
        claims.insert(group, (keys.clone(), node));
        Ok(())
    }
}
