//! Liveness: whatever was asked ends, and whatever lagged catches up.
//!
//! By when is the world's matter: it heals its faults, lets a stated time pass, and asks. From
//! then on nothing may be missing.

use std::collections::BTreeMap;

use super::case::Case;
use super::{Replica, Rule, Violation};

/// Requests under way, by number: since when.
#[derive(Debug, Default)]
pub(super) struct Endings {
    under_way: BTreeMap<u64, u64>,
}

impl Endings {
    pub(super) fn began(&mut self, request: u64, now_ms: u64) {
        self.under_way.insert(request, now_ms);
    }

    pub(super) fn ended(&mut self, request: u64) -> Result<(), Violation> {
        match self.under_way.remove(&request) {
            Some(_) => Ok(()),
            None => {
                let text = format!("request {request} ended twice, or never began");
                Err(Violation::new(Rule::Liveness, text))
            }
        }
    }

    pub(super) fn must_be_none(&self) -> Result<(), Violation> {
        let oldest = self.under_way.iter().min_by_key(|(_, since)| **since);
        match oldest {
            None => Ok(()),
            Some((request, since)) => {
                let text = format!(
                    "{} requests never ended; the oldest, {request}, was asked at {since} ms",
                    self.under_way.len()
                );
                Err(Violation::new(Rule::Liveness, text))
            }
        }
    }
}

impl Case {
    /// Every replica of `present` has applied all that is committed.
    pub(super) fn must_be_caught_up(&self, present: &[Replica]) -> Result<(), Violation> {
        let end = self.chain.end();
        if self.leaders.is_empty() {
            let text = format!("{} never had a leader", self.group);
            return Err(Violation::new(Rule::Liveness, text));
        }
        for replica in present {
            let applied = self.books.get(replica).map_or(0, |book| book.applied);
            if applied != end {
                let text = format!("has applied {applied} of {end} although nothing is in its way");
                return Err(self.broken(Rule::Liveness, *replica, &text));
            }
        }
        Ok(())
    }
}
