//! Writes that were proposed and wait for their entry to be applied.
//!
//! A proposal is known by the index and the term that it got. When an entry of that index is
//! applied, either it is the same entry, and the outcome is the answer; or it is another term's,
//! and the proposal certainly never takes effect: a log position is committed only once.
//!
//! Losing the leadership answers nobody: the entry may yet be committed by the next leader. Such
//! proposals wait as orphans until their index is applied or their deadline passes.
//!
//! What is absent: the meaning of commands, and time (the caller says what time it is).

use crate::budget::Permit;
use crate::request::Reply;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// A caller who waits for the outcome of an entry.
#[derive(Debug)]
pub struct Waiting {
    /// Where the answer goes.
    pub reply: Reply,
    /// When to stop waiting.
    pub deadline: Instant,
    /// When the request entered the node.
    pub entered: Instant,
    /// When it was proposed.
    pub proposed: Instant,
    /// Its bytes at the door, given back when the caller is answered.
    pub permit: Permit,
}

/// Proposals by log position.
#[derive(Debug, Default)]
pub struct Pending {
    /// Of the term in which this replica leads now: indexes without gaps in ascending order,
    /// except for entries that nobody waits for.
    current: VecDeque<(u64, u64, Waiting)>,
    /// Of earlier leaderships. Several terms may have used one index.
    orphans: BTreeMap<(u64, u64), Waiting>,
    /// No deadline is earlier than this.
    deadline_min: Option<Instant>,
}

impl Pending {
    /// Remembers who waits for the entry at `index` of `term`.
    ///
    /// # Panics
    ///
    /// If positions do not ascend within one leadership.
    pub fn push(&mut self, index: u64, term: u64, waiting: Waiting) {
        if let Some((last, last_term, _)) = self.current.back() {
            assert!(*last < index && *last_term == term, "proposals of one term ascend");
        }
        self.deadline_min =
            Some(self.deadline_min.map_or(waiting.deadline, |min| min.min(waiting.deadline)));
        self.current.push_back((index, term, waiting));
    }

    /// The leadership of the current term has ended: what waits goes on waiting as orphans.
    pub fn orphan(&mut self) {
        for (index, term, waiting) in self.current.drain(..) {
            self.orphans.insert((index, term), waiting);
        }
    }

    /// The entry at `index` of `term` is applied. Returns the caller that waited for exactly it.
    /// Those who waited for the same index under another term are handed to `lost`: they certainly
    /// never take effect.
    pub fn take(
        &mut self,
        index: u64,
        term: u64,
        mut lost: impl FnMut(Waiting),
    ) -> Option<Waiting> {
        let mut found = None;
        while let Some((front, front_term, _)) = self.current.front() {
            if *front > index {
                break;
            }
            assert!(*front == index, "an index was applied without its proposal being answered");
            let same = *front_term == term;
            let (_, _, waiting) = self.current.pop_front().expect("the front was just seen");
            if same {
                found = Some(waiting);
            } else {
                lost(waiting);
            }
        }
        while let Some(entry) = self.orphans.first_entry() {
            let (orphan_index, orphan_term) = *entry.key();
            if orphan_index > index {
                break;
            }
            let waiting = entry.remove();
            if orphan_index == index && orphan_term == term {
                found = Some(waiting);
            } else {
                lost(waiting);
            }
        }
        found
    }

    /// Hands everybody whose deadline is at or before `now` to `expired`. Cheap while no deadline
    /// has passed.
    pub fn expire(&mut self, now: Instant, mut expired: impl FnMut(Waiting)) {
        if self.deadline_min.is_none_or(|min| min > now) {
            return;
        }
        let mut kept = VecDeque::with_capacity(self.current.len());
        for (index, term, waiting) in self.current.drain(..) {
            if waiting.deadline <= now {
                expired(waiting);
            } else {
                kept.push_back((index, term, waiting));
            }
        }
        self.current = kept;
        for (position, waiting) in std::mem::take(&mut self.orphans) {
            if waiting.deadline <= now {
                expired(waiting);
            } else {
                self.orphans.insert(position, waiting);
            }
        }
        let deadlines = self.current.iter().map(|(_, _, waiting)| waiting.deadline);
        self.deadline_min = deadlines.chain(self.orphans.values().map(|w| w.deadline)).min();
    }

    /// Takes out everybody who waits for an index up to `index`: it will not be applied here.
    pub fn take_through(&mut self, index: u64) -> Vec<Waiting> {
        let mut taken = Vec::new();
        while self.current.front().is_some_and(|(front, _, _)| *front <= index) {
            taken.extend(self.current.pop_front().map(|(_, _, waiting)| waiting));
        }
        let later = self.orphans.split_off(&(index + 1, 0));
        taken.extend(std::mem::replace(&mut self.orphans, later).into_values());
        taken
    }

    /// Takes everybody out, whatever they wait for.
    pub fn drain(&mut self) -> Vec<Waiting> {
        self.deadline_min = None;
        let orphans = std::mem::take(&mut self.orphans).into_values();
        self.current.drain(..).map(|(_, _, waiting)| waiting).chain(orphans).collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.current.len() + self.orphans.len()
    }

    /// True when nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use std::time::Duration;

    fn waiting(id: u64, deadline: Instant) -> Waiting {
        let permit = Budget::new(1000).acquire(1).expect("an empty budget lends");
        let reply = Reply::Peer { node: crate::NodeId(1), id };
        Waiting { reply, deadline, entered: deadline, proposed: deadline, permit }
    }

    fn id(waiting: &Waiting) -> u64 {
        match waiting.reply {
            Reply::Peer { id, .. } => id,
            Reply::Oneshot(_) => unreachable!("tests use peers"),
        }
    }

    #[test]
    fn an_index_applied_under_another_term_refuses_its_proposal() {
        let now = Instant::now();
        let mut pending = Pending::default();
        pending.push(5, 2, waiting(1, now));
        pending.push(6, 2, waiting(2, now));
        let mut lost = Vec::new();
        assert_eq!(pending.take(5, 2, |w| lost.push(id(&w))).map(|w| id(&w)), Some(1));
        pending.orphan();
        assert!(pending.take(6, 3, |w| lost.push(id(&w))).is_none());
        assert_eq!(lost, [2]);
        assert!(pending.is_empty());
    }

    #[test]
    fn two_terms_may_wait_at_one_index_and_only_the_applied_one_is_answered() {
        let now = Instant::now();
        let mut pending = Pending::default();
        pending.push(5, 1, waiting(1, now));
        pending.orphan();
        pending.push(5, 3, waiting(3, now));
        let mut lost = Vec::new();
        // The old term's entry survives on another replica and wins.
        pending.orphan();
        assert_eq!(pending.take(5, 1, |w| lost.push(id(&w))).map(|w| id(&w)), Some(1));
        assert_eq!(lost, [3]);
    }

    #[test]
    fn deadlines_are_honoured_in_any_order() {
        let now = Instant::now();
        let mut pending = Pending::default();
        pending.push(1, 1, waiting(1, now + Duration::from_secs(3)));
        pending.push(2, 1, waiting(2, now + Duration::from_secs(1)));
        pending.push(3, 1, waiting(3, now + Duration::from_secs(2)));
        let mut expired = Vec::new();
        pending.expire(now, |w| expired.push(id(&w)));
        assert!(expired.is_empty());
        pending.expire(now + Duration::from_secs(2), |w| expired.push(id(&w)));
        assert_eq!(expired, [2, 3]);
        assert_eq!(pending.len(), 1);
        assert_eq!(pending.take(1, 1, |_| ()).map(|w| id(&w)), Some(1));
    }
}
