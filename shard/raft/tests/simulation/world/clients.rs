//! Clients that propose and read wherever somebody takes it.

use flotilla_raft::{ProposeError, ReadError, Role};

use super::{Clocks, Faults, Happening, MS, World};

impl World {
    /// Proposes and reads at every replica that takes it: several may believe that they lead.
    pub(super) fn client(&mut self) {
        for at in 0..self.machines.len() {
            if self.postpone(at) {
                continue;
            }
            let proposals = if self.faults == Faults::Ousted { 2 } else { 4 };
            for _ in 0..self.below(proposals) {
                self.propose(at);
            }
            for _ in 0..self.below(proposals.max(3) - 1) {
                self.read(at);
            }
            self.lease_read(at);
        }
        let longest = if self.faults == Faults::Ousted { 4 } else { 10 };
        let delay = self.below(longest * MS);
        self.later(delay, Happening::Client);
    }

    fn propose(&mut self, at: usize) {
        self.payloads += 1;
        let number = self.payloads;
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(8 + self.below(60) as usize, 0);
        let now = self.time_of(at);
        let Some(raft) = &mut self.machines[at].raft else { return };
        let transferring = raft.role() == Role::Leader && raft.status().transferring.is_some();
        match raft.propose(now, payload.into()) {
            Ok(position) => {
                assert!(!transferring, "a proposal was taken during a transfer");
                self.counts.proposals += 1;
                self.machines[at].proposals.insert(position.index.0, (position, number));
                self.stirred(at);
            }
            Err(ProposeError::Busy) => self.counts.proposals_refused += 1,
            Err(ProposeError::NotLeader { .. }) => {
                self.counts.proposals_refused_in_transfer += u64::from(transferring);
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn read(&mut self, at: usize) {
        let floor = self.observer.commit();
        let now = self.time_of(at);
        let Some(raft) = &mut self.machines[at].raft else { return };
        match raft.read(now) {
            Ok(id) => {
                self.counts.reads += 1;
                let before = self.machines[at].reads.insert(id, floor);
                assert!(before.is_none(), "a read id was used twice");
                self.stirred(at);
            }
            Err(ReadError::NotLeader { .. } | ReadError::Busy) => {}
        }
    }

    /// A read that asks nobody is judged at once: the rows that it reads are those of this moment.
    fn lease_read(&mut self, at: usize) {
        let floor = self.observer.commit();
        let now = self.time_of(at);
        let Some(raft) = &self.machines[at].raft else { return };
        match raft.lease_read(now) {
            Some(index) => {
                self.counts.reads_by_lease += 1;
                let machine = &self.machines[at];
                match self.clocks {
                    Clocks::WithinBound => self.observer.is_current(machine, floor, index),
                    Clocks::BeyondBound => self.stale_reads += u64::from(index < floor),
                }
            }
            None => {
                let leads = raft.role() == Role::Leader;
                self.counts.leaders_without_lease += u64::from(leads);
            }
        }
    }
}
