//! Leases: for how long a leader may read without asking, because a quorum listens to no candidate.
//!
//! ```text
//!   leader    round sent ────────── lease, on the leader's clock ──────────┤
//!                \                                                         |   later than the end of
//!   voter         received ─────────── promise, on the voter's clock ──────┼──┤ the lease, always
//! ```
//!
//! A voter that hears its leader promises to help nobody else into office, itself included, for an
//! election timeout after the message was **received**, and says so in its answer to a round. The
//! leader counts from when that round was **sent**, and takes less than was promised: clocks may run
//! at different speeds. With speeds within `1 - d` and `1 + d` of true time, a promise of `p` lasts at
//! least `p / (1 + d)`, and a lease of `l` at most `l / (1 - d)`. So `l = p * (1 - d) / (1 + d)`.
//!
//! Invariants:
//!
//! * A lease ends before any of the promises that it rests on, whatever the clocks say, as long as
//!   their speeds are within the bound. When they were set, and what they show, means nothing.
//! * A promise is never shortened: not by a change of term or role, and a restart makes a new one.
//! * Only the wish of the leader itself sets a promise aside (`TimeoutNow`), and a leader that has
//!   uttered it reads by no lease for the rest of its term.
//!
//! What is absent: reading a clock, and what is read.

use std::{collections::VecDeque, time::Duration};

use flotilla_mutation::{Mutation, planted};

use crate::{
    core::Core,
    leader::Leader,
    node::Node,
    options::Restored,
    types::{Index, Round, Time},
};

/// The times of rounds are remembered this many times in an election timeout: a lease is at most so
/// much shorter than it could be.
const ROUNDS_PER_TIMEOUT: u32 = 64;

/// A million of these make one.
const PPM: u128 = 1_000_000;

/// The longest lease that may rest on a promise of this length.
pub(crate) fn lease_length(promise: Duration, clock_drift_max_ppm: u32) -> Duration {
    if planted(Mutation::LeaseBeyondDrift) {
        return promise;
    }
    let drift = u128::from(clock_drift_max_ppm).min(PPM);
    let length = promise.as_nanos() * (PPM - drift) / (PPM + drift);
    Duration::from_nanos(u64::try_from(length).unwrap_or(u64::MAX))
}

/// When a leader sent its rounds. Few of them are remembered: of the others it is known that they
/// were sent later than the one before.
#[derive(Default)]
pub(crate) struct SentRounds {
    sent: VecDeque<(Round, Time)>,
}

impl SentRounds {
    /// `round` leaves at `now` or later. Nobody asks for rounds older than `timeout` any more.
    pub(crate) fn send(&mut self, round: Round, now: Time, timeout: Duration) {
        if self.sent.back().is_some_and(|(_, at)| now.since(*at) < timeout / ROUNDS_PER_TIMEOUT) {
            return;
        }
        while self.sent.front().is_some_and(|(_, at)| now.since(*at) > timeout) {
            self.sent.pop_front();
        }
        self.sent.push_back((round, now));
    }

    /// A moment before which `round` was certainly not sent.
    pub(crate) fn earliest(&self, round: Round) -> Option<Time> {
        let after = self.sent.partition_point(|(sent, _)| *sent <= round);
        after.checked_sub(1).map(|at| self.sent[at].1)
    }
}

impl Core {
    /// What this replica promises to the leader that it hears: for how long it helps no other one.
    pub(crate) fn promise(&self) -> Duration {
        self.options.leases.map_or(Duration::ZERO, |_| self.options.election_timeout)
    }

    /// The leader has been heard: it is trusted for a while.
    pub(crate) fn make_promise(&mut self, now: Time) {
        if self.options.leases.is_some() {
            self.promised_until = self.promised_until.max(now + self.promise());
        }
    }

    /// This replica does not know any more what it promised before it was restarted, so it promises
    /// it again. One that has never known a term, or has nobody to promise anything to, has not.
    pub(crate) fn promise_again(&mut self, restored: &Restored, now: Time) {
        let is_new = *restored == Restored::default();
        if planted(Mutation::ForgetPromiseOnRestart) {
            return;
        }
        if !is_new && self.voters.ids().len() > 1 {
            self.make_promise(now);
        }
    }

    /// True while this replica helps nobody into office, unless its leader wishes so.
    pub(crate) fn has_promised(&self, now: Time) -> bool {
        now < self.promised_until
    }
}

impl Node<Leader> {
    /// The follower answered `round` and promised to keep out of this leader's way for `promise` from
    /// when it had received it.
    pub(crate) fn extend_lease(&mut self, at: usize, round: Round, promise: Duration) {
        let options = &self.core.options;
        let Some(leases) = options.leases else { return };
        let Some(sent_at) = self.role.sent.earliest(round) else { return };
        // More than what this replica would promise itself is not believed.
        let promise = promise.min(options.election_timeout);
        let until = sent_at + lease_length(promise, leases.clock_drift_max_ppm);
        let follower = &mut self.role.followers[at];
        follower.trusts_until = follower.trusts_until.max(until);
        self.renew_lease();
    }

    /// A leader trusts itself: it helps nobody else without stepping down first.
    pub(crate) fn renew_lease(&mut self) {
        let core = &self.core;
        let own = core.is_voter().then_some(Time::NEVER);
        let trusts = self.role.followers.iter().map(|follower| follower.trusts_until).chain(own);
        self.role.lease_until = core.voters.quorum_value(trusts);
    }

    /// Until when this leader may read without asking, if nothing else speaks against it: before
    /// an entry of this term is committed, it does not know what earlier leaders have committed; once
    /// it has asked somebody to take over, its voters' promises mean nothing any more.
    pub(crate) fn lease(&self) -> Option<Time> {
        let (core, role) = (&self.core, &self.role);
        let reads = core.options.leases.is_some_and(|leases| leases.reads);
        let stays = (role.transfer.is_none() && !role.asked_to_take_over)
            || planted(Mutation::LeaseWhileTransferring);
        let knows = self.knows_commit() || planted(Mutation::LeaseBeforeCommit);
        (reads && stays && knows).then_some(role.lease_until)
    }

    /// Where to read, if no other leader can have committed anything by `now`.
    pub(crate) fn lease_read(&self, now: Time) -> Option<Index> {
        self.lease().filter(|until| now < *until).map(|_| self.core.commit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arithmetic of the module's page, with the worst clocks that are allowed: the leader's is
    /// slow, the voter's is fast.
    #[test]
    fn a_lease_is_over_before_the_promise() {
        for promise_ms in [1, 50, 300, 60_000] {
            for ppm in [0, 1, 1_000, 10_000, 100_000, 500_000, 1_000_000, 2_000_000] {
                let promise = Duration::from_millis(promise_ms);
                let lease = lease_length(promise, ppm);
                let drift = f64::from(ppm.min(1_000_000)) / 1e6;
                if drift < 1.0 {
                    let (lease, promise) = (lease.as_secs_f64(), promise.as_secs_f64());
                    let gap = promise / (1.0 + drift) - lease / (1.0 - drift);
                    assert!((-1e-12..1e-5).contains(&gap), "{promise} s at {ppm} ppm: {gap}");
                } else {
                    assert_eq!(lease, Duration::ZERO, "clocks that may stand still");
                }
            }
        }
        assert_eq!(lease_length(Duration::MAX, 0), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn few_rounds_are_remembered_and_the_others_count_as_older() {
        let timeout = Duration::from_nanos(64_000);
        let mut sent = SentRounds::default();
        assert_eq!(sent.earliest(Round(1)), None);
        for round in 1..=100_000 {
            sent.send(Round(round), Time(10 * round), timeout);
        }
        assert!(sent.sent.len() <= ROUNDS_PER_TIMEOUT as usize + 1);
        assert_eq!(sent.earliest(Round(1)), None, "too old to be of use");
        for round in 95_000..=100_000 {
            let at = sent.earliest(Round(round)).expect("a younger one");
            assert!(at <= Time(10 * round), "later than it was sent");
            assert!(Time(10 * round).since(at) < timeout / ROUNDS_PER_TIMEOUT);
        }
    }
}
