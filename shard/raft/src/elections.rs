//! Who leads: what becomes of a replica when time passes, when it is asked to campaign, and when
//! votes come in.
//!
//! A replica that may not campaign lets its timeouts pass: it waits for a leader for as long as it
//! takes.

use crate::{
    candidate::Verdict,
    node::Ask,
    raft::{Raft, State, any_role},
    types::Time,
};

impl Raft {
    /// Time passed: does what is due.
    pub(crate) fn tick(&mut self, now: Time) {
        let core = self.core_mut();
        if core.fetching.tick(now) {
            core.stirred = true;
        }
        if let State::Leader(node) = &mut self.state {
            if now < node.next_tick() {
                return;
            }
            node.core.stirred = true;
            if node.is_cut_off(now) || node.must_step_down(now) {
                self.follow(now, self.core().term(), None);
            } else if now >= node.role.heartbeat_at {
                node.role.heartbeat_at = now + node.core.options.heartbeat_interval;
                node.begin_round(now);
                node.repeat_transfer();
            }
            return;
        }
        if now < self.next_tick() {
            return;
        }
        // A replica whose disk does not answer could not keep a promise: it waits for the disk.
        let core = self.core();
        if !core.may_campaign()
            || core.has_promised(now)
            || core.is_disk_stalled(now, core.options.election_timeout)
        {
            let deadline = self.core_mut().draw_deadline(now);
            match &mut self.state {
                State::Follower(node) => node.role.deadline = deadline,
                State::PreCandidate(node) => node.role.deadline = deadline,
                State::Candidate(node) => node.role.deadline = deadline,
                State::Leader(_) | State::Moving => unreachable!("leaders were handled above"),
            }
        } else {
            self.campaign(now);
        }
    }

    /// Starts an election, with a pre-vote if the options say so. A leader goes on leading, and whoever
    /// has just heard one lets it.
    pub(crate) fn campaign(&mut self, now: Time) {
        let core = self.core();
        if !core.may_campaign() || core.has_promised(now) {
            return;
        }
        let pre_vote = core.options.pre_vote;
        self.transition(|state| match state {
            State::Leader(node) => State::Leader(node),
            state if pre_vote => {
                State::PreCandidate(any_role!(state, node => node.into_pre_candidate(now)))
            }
            state => {
                State::Candidate(any_role!(state, node => node.into_candidate(now, Ask::Vote)))
            }
        });
        self.count_votes(now);
    }

    /// Campaigns because the leader asks for it: no pre-vote, and whoever trusts the leader listens.
    pub(crate) fn take_over(&mut self, now: Time) {
        let core = self.core();
        if !core.may_campaign() || core.is_disk_stalled(now, core.options.election_timeout) {
            return;
        }
        self.transition(|state| {
            State::Candidate(any_role!(state, node => node.into_candidate(now, Ask::Transfer)))
        });
        self.count_votes(now);
    }

    /// Whether this replica may lead has changed.
    pub(crate) fn reconsider(&mut self, now: Time) {
        let may_campaign = self.core().may_campaign();
        let leaves = match &mut self.state {
            State::Leader(node) => node.must_step_down(now),
            State::PreCandidate(_) | State::Candidate(_) => !may_campaign,
            State::Follower(_) | State::Moving => false,
        };
        if leaves {
            self.follow(now, self.core().term(), None);
        }
    }

    /// Goes where the answers so far lead.
    pub(crate) fn count_votes(&mut self, now: Time) {
        if let State::PreCandidate(node) = &self.state {
            match node.verdict() {
                Verdict::Open => {}
                Verdict::Lost => self.follow(now, self.core().term(), None),
                Verdict::Won => self.transition(|state| {
                    State::Candidate(any_role!(state, node => node.into_candidate(now, Ask::Vote)))
                }),
            }
        }
        if let State::Candidate(node) = &self.state {
            match node.verdict() {
                Verdict::Open => {}
                Verdict::Lost => self.follow(now, self.core().term(), None),
                Verdict::Won => self.transition(|state| match state {
                    State::Candidate(node) => State::Leader(node.into_leader(now)),
                    state => state,
                }),
            }
        }
    }
}
