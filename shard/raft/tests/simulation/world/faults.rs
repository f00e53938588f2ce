//! What goes wrong in a storm, how it heals, and what must be true afterwards.

use flotilla_raft::{Event, ReplicaId, Role};

use super::{Happening, MS, World};

impl World {
    pub(super) fn fault(&mut self) {
        if !self.storm {
            return;
        }
        let count = self.machines.len() as u64;
        let at = self.below(count) as usize;
        match self.below(14) {
            0 | 1 => self.crash(at),
            2 => {
                // All at once: power loss.
                if self.below(4) == 0 {
                    (0..count as usize).for_each(|at| self.crash(at));
                }
            }
            3 | 4 => {
                self.counts.partitions += 1;
                self.cut.clear();
                let split: Vec<bool> = (0..count).map(|_| self.below(2) == 0).collect();
                let one_way = self.below(3) == 0;
                for from in 0..count as usize {
                    for to in 0..count as usize {
                        if split[from] != split[to] && !(one_way && split[from]) {
                            self.cut.push((from, to));
                        }
                    }
                }
            }
            5 | 6 => self.cut.clear(),
            7 => {
                self.counts.pauses += 1;
                self.machines[at].paused_until = self.now + self.below(400 * MS);
            }
            8 => {
                self.counts.slow_disks += 1;
                let slowest = [3, 30, 500][self.below(3) as usize] * MS;
                self.machines[at].disk_delay_max = slowest;
            }
            9 | 10 => self.compact(at),
            11 => {
                let to = match self.below(count + 1) {
                    0 => None,
                    id => Some(ReplicaId(id)),
                };
                self.counts.transfers += 1;
                (0..count as usize).for_each(|at| self.step(at, Event::Transfer { to }));
            }
            12 => {
                let may_lead = self.below(2) == 0;
                self.counts.leading_forbidden += u64::from(!may_lead);
                if self.machines[at].raft.is_some() {
                    self.machines[at].may_lead = may_lead;
                    self.step(at, Event::MayLead(may_lead));
                }
            }
            _ => self.lose_rows(at),
        }
        let delay = self.below(150 * MS);
        self.later(delay, Happening::Fault);
    }

    /// Loses everything that is not durable, except for a random number of writes that had
    /// reached the disk without being reported.
    pub(super) fn crash(&mut self, at: usize) {
        if self.machines[at].raft.take().is_none() {
            return;
        }
        self.counts.crashes += 1;
        let pending = self.machines[at].writes.len() as u64;
        let reached = self.below(pending + 1);
        let machine = &mut self.machines[at];
        for write in machine.writes.drain(..).take(reached as usize) {
            machine.disk.write(&write, &self.observer.committed);
        }
        self.counts.writes_lost += pending - reached;
        machine.life += 1;
        machine.disk_free_at = 0;
        machine.turn_due = false;
        machine.fetching = false;
        machine.reads.clear();
        machine.proposals.clear();
        machine.installing = None;
        machine.orders.clear();
        self.report(at, None);
        let delay = self.below(300 * MS);
        self.later(delay, Happening::Restart { at });
    }

    pub(super) fn heal(&mut self) {
        self.storm = false;
        self.cut.clear();
        self.loss_percent = 0;
        self.delay_max = 2 * MS;
        for at in 0..self.machines.len() {
            self.machines[at].paused_until = 0;
            self.machines[at].disk_delay_max = 2 * MS;
            self.machines[at].disk_free_at = self.now;
            if let Some(write) = self.machines[at].writes.back() {
                let (life, ticket) = (self.machines[at].life, write.ticket);
                self.later(MS, Happening::Durable { at, life, ticket });
            }
            if self.machines[at].raft.is_none() {
                self.start(at);
            }
            self.machines[at].may_lead = true;
            self.step(at, Event::MayLead(true));
        }
    }

    /// After the faults: one leader, work goes on, and everybody has everything.
    pub(super) fn check_rest(&mut self) {
        let leader = self.leader().expect("no leader after the faults healed");
        let before = self.counts.proposals_applied;
        let end = self.now + 500 * MS;
        while self.now < end {
            self.advance();
        }
        assert!(self.counts.proposals_applied > before, "no progress after the faults healed");
        assert_eq!(self.leader(), Some(leader), "the leader of a healthy group changed");
        // Let everything in flight land, without new work.
        self.agenda.retain(|_, happening| !matches!(happening, Happening::Client));
        let end = self.now + 500 * MS;
        self.later(500 * MS, Happening::Fault);
        while self.now < end {
            self.advance();
        }
        let commit = self.observer.commit();
        let statuses: Vec<_> = self
            .machines
            .iter()
            .filter_map(|machine| Some(machine.raft.as_ref()?.status()))
            .collect();
        for machine in &self.machines {
            assert_eq!(machine.applied, commit, "{} is behind: {statuses:#?}", machine.id);
            assert_eq!(machine.log, self.observer.committed, "replica {} differs", machine.id);
            assert!(machine.reads.is_empty(), "a read was neither confirmed nor refused");
            assert!(machine.writes.is_empty());
        }
    }

    fn leader(&self) -> Option<ReplicaId> {
        let mut leading = self.machines.iter().filter(|machine| {
            machine.raft.as_ref().is_some_and(|raft| raft.role() == Role::Leader)
        });
        let leader = leading.next().map(|machine| machine.id);
        assert!(leading.next().is_none(), "two replicas lead at rest");
        leader
    }
}
