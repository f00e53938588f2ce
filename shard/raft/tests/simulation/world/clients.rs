//! Clients that propose and read wherever somebody takes it.

use flotilla_raft::{ProposeError, ReadError, Role, Time};

use super::{Happening, MS, World};

impl World {
    /// Proposes and reads at every replica that takes it: several may believe that they lead.
    pub(super) fn client(&mut self) {
        for at in 0..self.machines.len() {
            if self.postpone(at) {
                continue;
            }
            for _ in 0..self.below(4) {
                self.propose(at);
            }
            for _ in 0..self.below(3) {
                self.read(at);
            }
        }
        let delay = self.below(10 * MS);
        self.later(delay, Happening::Client);
    }

    fn propose(&mut self, at: usize) {
        self.payloads += 1;
        let number = self.payloads;
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(8 + self.below(60) as usize, 0);
        let Some(raft) = &mut self.machines[at].raft else { return };
        let transferring = raft.role() == Role::Leader && raft.status().transferring.is_some();
        match raft.propose(Time(self.now), payload.into()) {
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
        let Some(raft) = &mut self.machines[at].raft else { return };
        match raft.read(Time(self.now)) {
            Ok(id) => {
                self.counts.reads += 1;
                let before = self.machines[at].reads.insert(id, floor);
                assert!(before.is_none(), "a read id was used twice");
                self.stirred(at);
            }
            Err(ReadError::NotLeader { .. } | ReadError::Busy) => {}
        }
    }
}
