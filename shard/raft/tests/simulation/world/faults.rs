//! What goes wrong in a storm, how it heals, and what must be true afterwards.

use flotilla_raft::{Event, ReplicaId, Role};

use super::{CLOCK_DRIFT_MAX_PPM, Clocks, ELECTION_TIMEOUT_MS, Faults, Happening, MS, World};

impl World {
    pub(super) fn fault(&mut self) {
        if !self.storm {
            return;
        }
        let count = self.machines.len() as u64;
        let at = self.below(count) as usize;
        if self.faults == Faults::Ousted {
            if !std::mem::take(&mut self.cut).is_empty() || !self.oust() {
                self.later(3 * ELECTION_TIMEOUT_MS * MS, Happening::Fault);
            }
            return;
        }
        if self.below(2) == 0 {
            let (at, delay) = (self.below(count) as usize, self.below(150 * MS));
            self.counts.campaigns_ordered += 1;
            self.later(delay, Happening::Campaign { at });
        }
        match self.below(18) {
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
                    // Stays when the faults are over: reluctance keeps nobody from being led.
                    let reluctant = self.below(2) == 0;
                    self.step(at, Event::Reluctant(reluctant));
                }
            }
            13 => self.change_clock(at),
            14..=16 => {
                if self.oust() {
                    // Its end is awaited.
                    return;
                }
            }
            _ => self.lose_rows(at),
        }
        let delay = self.below(150 * MS);
        self.later(delay, Happening::Fault);
    }

    /// The scene that leases are about: the leader is cut off, perhaps while it hands over, with the slowest clock
    /// that it may have; the others want to be elected at once, and do not remember what they promised.
    /// False if there is no leader.
    fn oust(&mut self) -> bool {
        let leads = |at: &usize| {
            self.machines[*at].raft.as_ref().is_some_and(|raft| raft.role() == Role::Leader)
        };
        let Some(leader) = (0..self.machines.len()).find(leads) else { return false };
        self.counts.leaders_cut_off += 1;
        if self.below(2) == 0 {
            for at in 0..self.machines.len() {
                let most = self.drift_max_ppm() as i64;
                let now = self.now;
                let drift_ppm = if at == leader { -most } else { most };
                self.machines[at].clock.set_drift(now, drift_ppm);
            }
        }
        let others: Vec<usize> = (0..self.machines.len()).filter(|at| *at != leader).collect();
        let mut start = 0;
        match self.below(3) {
            0 => {
                self.step(leader, Event::Transfer { to: None });
                start = self.below(2 * self.delay_max);
            }
            1 => {
                // One of the others has not heard the leader for a while, and owes it nothing any more.
                let deaf = others[self.below(others.len() as u64) as usize];
                self.cut = vec![(leader, deaf), (deaf, leader)];
                start = ELECTION_TIMEOUT_MS * MS * 9 / 8;
            }
            _ => {}
        }
        self.later(start, Happening::CutOff { at: leader });
        for at in others {
            if self.below(4) == 0 {
                self.crash(at);
            }
            for _ in 0..8 {
                let delay = start + self.below(2 * ELECTION_TIMEOUT_MS * MS);
                self.later(delay, Happening::Campaign { at });
            }
        }
        self.later(start + 4 * ELECTION_TIMEOUT_MS * MS, Happening::Fault);
        true
    }

    /// Nothing reaches this machine, and nothing leaves it.
    pub(super) fn cut_off(&mut self, at: usize) {
        if self.storm {
            let others = (0..self.machines.len()).filter(|other| *other != at);
            self.cut = others.flat_map(|other| [(at, other), (other, at)]).collect();
        }
    }

    fn drift_max_ppm(&self) -> u64 {
        match self.clocks {
            Clocks::WithinBound => u64::from(CLOCK_DRIFT_MAX_PPM),
            Clocks::BeyondBound => 600_000,
        }
    }

    /// From now on a clock runs at another speed, as fast or slow as it may more often than not.
    pub(super) fn change_clock(&mut self, at: usize) {
        self.counts.clocks_changed += 1;
        let most = self.drift_max_ppm();
        let drift_ppm = match self.below(4) {
            0 => most,
            1 | 2 => 0,
            _ => self.below(2 * most + 1),
        };
        let drift_ppm = if self.below(2) == 0 { drift_ppm } else { 2 * most - drift_ppm };
        let now = self.now;
        self.machines[at].clock.set_drift(now, drift_ppm as i64 - most as i64);
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
        let longest = [20, 300][self.below(2) as usize] * MS;
        let delay = self.below(longest);
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
