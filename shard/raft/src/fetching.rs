//! Which older entries to ask the journal for, one request at a time.
//!
//! Applying after a restart and every follower that is behind the cached tail may need entries
//! that are only in the journal. One fetch is under way at a time; when it is answered, whoever
//! can use the window takes from it, and the next fetch is for the next in turn, so that none of
//! them starves the others.

use crate::{
    ready::Fetch,
    types::{Index, ReplicaId, Time},
};

/// Who needs entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// The state machine.
    Apply,
    /// A follower of this leader.
    Follower(ReplicaId),
}

#[derive(Default)]
pub(crate) struct Fetching {
    outstanding: Option<Fetch>,
    /// No fetch before this time: the last one failed.
    retry_at: Option<Time>,
    /// Who was served last.
    served: Option<Need>,
}

impl Fetching {
    /// True if a fetch may be asked for now.
    pub(crate) fn is_free(&self) -> bool {
        self.outstanding.is_none() && self.retry_at.is_none()
    }

    pub(crate) fn is_awaiting(&self, from: Index) -> bool {
        self.outstanding.is_some_and(|fetch| fetch.from == from)
    }

    pub(crate) fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }

    /// Whose turn it is among `needs`, which must be in order: the first after the one served
    /// last, else the first of all.
    pub(crate) fn choose(
        &self,
        needs: impl Iterator<Item = (Need, Index)> + Clone,
    ) -> Option<(Need, Index)> {
        let after = needs.clone().find(|(need, _)| Some(*need) > self.served);
        after.or_else(|| needs.into_iter().next())
    }

    pub(crate) fn begin(&mut self, need: Need, fetch: Fetch) {
        assert!(self.is_free(), "two fetches at a time");
        self.outstanding = Some(fetch);
        self.served = Some(need);
    }

    /// Takes the outstanding fetch if it began at `from`.
    pub(crate) fn finish(&mut self, from: Index) -> Option<Fetch> {
        self.outstanding.take_if(|fetch| fetch.from == from)
    }

    /// The journal answered with nothing, whatever was asked.
    pub(crate) fn abandon(&mut self, retry_at: Time) {
        if self.outstanding.take().is_some() {
            self.retry_at = Some(retry_at);
        }
    }

    /// Allows the next fetch once the time has come; true if it did.
    pub(crate) fn tick(&mut self, now: Time) -> bool {
        self.retry_at.take_if(|at| *at <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_take_turns() {
        let needs = [
            (Need::Apply, Index(1)),
            (Need::Follower(ReplicaId(2)), Index(5)),
            (Need::Follower(ReplicaId(3)), Index(9)),
        ];
        let mut fetching = Fetching::default();
        let mut order = Vec::new();
        for _ in 0..6 {
            let (need, from) = fetching.choose(needs.iter().copied()).unwrap();
            fetching.begin(need, Fetch { from, to: from, bytes_max: 1 });
            assert!(fetching.finish(from).is_some());
            order.push(from.0);
        }
        assert_eq!(order, [1, 5, 9, 1, 5, 9]);
    }
}
