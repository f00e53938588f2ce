//! When a follower answered its leader's rounds, and with that how old a word of the leader can be.
//!
//! A message may be under way for any time, so its arrival says nothing about when it was sent. But
//! a heartbeat names the highest round to which the leader had this follower's answer: it left the
//! leader after that answer had left the follower, which knows when that was on its own clock.
//!
//! Invariants:
//!
//! * Rounds count within one term; another term forgets everything. What is known of a term
//!   outlives a change of role within it.
//! * A round is remembered with the time of the first answer to it, and remembered rounds and times
//!   grow. A round that is not remembered proves nothing, so forgetting is always safe.
//! * What is known never becomes older.

use std::collections::VecDeque;

use crate::types::{Index, Round, Term, Time};

/// Rounds remembered. A leader that confirms reads begins many rounds within one round trip.
const ROUNDS_MAX: usize = 256;

#[derive(Default)]
pub(crate) struct Rounds {
    term: Term,
    answered: VecDeque<(Round, Time)>,
    known: Option<(Time, Index)>,
}

impl Rounds {
    /// This replica answers `round`.
    pub(crate) fn answer(&mut self, term: Term, round: Round, now: Time) {
        self.enter(term);
        if self.answered.back().is_some_and(|(last, _)| *last >= round) {
            return;
        }
        if self.answered.len() == ROUNDS_MAX {
            self.answered.pop_front();
        }
        self.answered.push_back((round, now));
    }

    /// The leader said that `commit` is committed, and had the answer to `answered` by then.
    pub(crate) fn heard(&mut self, term: Term, answered: Round, commit: Index) {
        self.enter(term);
        let Ok(at) = self.answered.binary_search_by_key(&answered, |(round, _)| *round) else {
            return;
        };
        let since = self.answered[at].1;
        // The newest answer stays: the leader names it until it has another.
        self.answered.drain(..at);
        if self.known.is_none_or(|(known, _)| known < since) {
            self.known = Some((since, commit));
        }
    }

    /// A moment, and an index that the leader of `term` had not committed beyond at that moment.
    pub(crate) fn known(&self, term: Term) -> Option<(Time, Index)> {
        self.known.filter(|_| self.term == term)
    }

    fn enter(&mut self, term: Term) {
        if self.term != term {
            *self = Self { term, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_forgetting_is_safe() {
        let mut rounds = Rounds::default();
        for round in 1..=10_000 {
            rounds.answer(Term(1), Round(round), Time(round));
        }
        assert_eq!(rounds.answered.len(), ROUNDS_MAX);
        rounds.heard(Term(1), Round(5), Index(7));
        assert_eq!(rounds.known(Term(1)), None);
        rounds.heard(Term(1), Round(9_990), Index(7));
        assert_eq!(rounds.known(Term(1)), Some((Time(9_990), Index(7))));
        assert_eq!(rounds.answered.len(), 11);
        assert_eq!(rounds.known(Term(2)), None);
    }
}
