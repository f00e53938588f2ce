//! Snapshots between machines: sent, lost, repeated, late, refused; and crashes at every step of
//! taking one in.

use flotilla_raft::{Event, Index, Position, Raft, Ready, ReplicaId, Role};

use super::{Happening, MS, World};

impl World {
    /// Does what a replica asks for in a turn, as far as it concerns snapshots.
    pub(super) fn snapshot_effects(&mut self, at: usize, ready: &Ready) {
        for to in &ready.snapshots {
            let machine = &mut self.machines[at];
            let role = machine.raft.as_ref().map(Raft::role);
            assert_eq!(role, Some(Role::Leader), "only a leader sends snapshots");
            assert!(machine.orders.insert(*to), "a second snapshot for {to} at a time");
            assert!(!machine.disk.rows_lost, "a snapshot of lost rows is asked for");
            self.counts.snapshots_ordered += 1;
            self.send_snapshot(at, *to);
        }
        if let Some(position) = ready.install {
            let machine = &mut self.machines[at];
            assert_eq!(machine.installing, Some(position), "nothing like this was received");
            let intent = machine.disk.hard_state.installing;
            assert_eq!(intent, Some(position), "the intent is not durable");
            let (life, delay) = (machine.life, self.below(30 * MS));
            self.later(delay, Happening::Swap { at, life, position });
        }
    }

    fn send_snapshot(&mut self, at: usize, to: ReplicaId) {
        if !self.storm || self.below(2) == 0 {
            self.checkpoint(at);
        }
        let newest = self.machines[at].disk.rows.index.0;
        // Late ones come from an earlier checkpoint.
        let index = if self.storm && self.below(4) == 0 { self.below(newest + 1) } else { newest };
        let (from, life) = (at, self.machines[at].life);
        let to = to.0 as usize - 1;
        let lost =
            self.storm && (self.below(5) == 0 || (self.is_cut(at, to) && self.below(2) == 0));
        let delay = self.below(60 * MS) + MS;
        if lost || index == 0 {
            self.counts.snapshots_lost += 1;
            return self.later(delay, Happening::Sent { from, life, to, position: None });
        }
        let position = self.observer.committed[index as usize - 1].position();
        self.later(delay, Happening::Snapshot { from, life, to, position });
        if self.storm && self.below(6) == 0 {
            self.counts.snapshots_repeated += 1;
            let delay = self.below(400 * MS);
            self.later(delay, Happening::Snapshot { from, life, to, position });
        }
    }

    /// A complete snapshot lies ready at `to`.
    pub(super) fn snapshot_received(
        &mut self,
        from: usize,
        life: u64,
        to: usize,
        position: Position,
    ) {
        if self.postpone(to) {
            return self.later(MS, Happening::Snapshot { from, life, to, position });
        }
        let wanted = match &self.machines[to].raft {
            Some(raft) => raft.wants_snapshot_at(position),
            None => false,
        };
        if !wanted {
            self.counts.snapshots_unwanted += 1;
        }
        let busy = self.machines[to].installing;
        if self.machines[to].raft.is_some() {
            if wanted {
                self.counts.snapshots_received += 1;
                self.machines[to].installing = Some(position);
                self.machines[to].sender = Some((from, life));
            }
            let now = self.time_of(to);
            let raft = self.machines[to].raft.as_mut().expect("just seen");
            raft.step(now, Event::SnapshotReceived(position));
            let taken = raft.installing();
            assert_eq!(taken, if wanted { Some(position) } else { busy }, "taken or not");
            self.stirred(to);
        }
        if !wanted {
            self.later(MS, Happening::Sent { from, life, to, position: None });
        } else if self.storm && self.below(8) == 0 {
            self.counts.crashes_before_swap += 1;
            self.crash(to);
        }
    }

    /// The snapshot takes the place of the rows, in one durable step; or it cannot.
    pub(super) fn swap(&mut self, at: usize, life: u64, position: Position) {
        if self.machines[at].life != life {
            return;
        }
        if self.postpone(at) {
            return self.later(MS, Happening::Swap { at, life, position });
        }
        if self.storm && self.below(10) == 0 {
            self.counts.snapshots_refused += 1;
            self.machines[at].installing = None;
            self.report(at, None);
            return self.step(at, Event::SnapshotRefused(position));
        }
        let machine = &mut self.machines[at];
        machine.disk.rows = position;
        machine.disk.rows_lost = false;
        if self.storm && self.below(4) == 0 {
            self.counts.crashes_after_swap += 1;
            return self.crash(at);
        }
        let delay = self.below(5 * MS);
        self.later(delay, Happening::Swapped { at, life, position });
    }

    /// The replica hears of the swap.
    pub(super) fn swapped(&mut self, at: usize, life: u64, position: Position) {
        if self.machines[at].life != life {
            return;
        }
        if self.postpone(at) {
            return self.later(MS, Happening::Swapped { at, life, position });
        }
        self.counts.snapshots_installed += 1;
        let machine = &mut self.machines[at];
        machine.installing = None;
        if position.index < machine.applied {
            self.counts.applied_again += 1;
        }
        machine.applied = position.index;
        self.report(at, Some(position));
        self.step(at, Event::SnapshotInstalled(position));
        if self.storm && self.below(4) == 0 {
            self.counts.crashes_after_install += 1;
            self.crash(at);
        }
    }

    /// Tells whoever sent the snapshot that `at` takes in what became of it.
    pub(super) fn report(&mut self, at: usize, position: Option<Position>) {
        if let Some((from, life)) = self.machines[at].sender.take() {
            let delay = self.below(5 * MS);
            self.later(delay, Happening::Sent { from, life, to: at, position });
        }
    }

    pub(super) fn sent(&mut self, from: usize, life: u64, to: usize, position: Option<Position>) {
        let to = self.machines[to].id;
        if self.machines[from].life != life || !self.machines[from].orders.remove(&to) {
            return;
        }
        match position {
            Some(position) => self.step(from, Event::SnapshotSent { to, position }),
            None => self.step(from, Event::SnapshotFailed { to }),
        }
    }

    /// Saves the rows of a machine, as far as its journal has their entries.
    pub(super) fn checkpoint(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(raft) = &machine.raft else { return };
        if machine.disk.rows_lost || machine.installing.is_some() {
            return;
        }
        let index = machine.applied.min(raft.persisted_index());
        // Only what is on disk now, so that a crash cannot leave the rows ahead of the log.
        if index > machine.disk.rows.index && index.0 as usize <= machine.disk.entries.len() {
            machine.disk.rows = self.observer.committed[index.0 as usize - 1].position();
        }
    }

    /// Forgets the log up to some place below the rows, whatever the others have.
    pub(super) fn compact(&mut self, at: usize) {
        self.checkpoint(at);
        let machine = &self.machines[at];
        if machine.fetching || machine.writes.iter().any(|write| write.reset.is_some()) {
            return;
        }
        let back = self.below(20);
        let to = Index(self.machines[at].disk.rows.index.0.saturating_sub(back));
        let before = self.machines[at].disk.base;
        self.step(at, Event::Compact(to));
        let machine = &mut self.machines[at];
        let Some(raft) = &machine.raft else { return };
        machine.disk.base = raft.base().index;
        if machine.disk.base > before {
            assert!(!machine.disk.rows_lost, "the log that the rows need is cut");
            self.counts.compactions += 1;
        }
    }

    /// The rows of a machine are gone, unless too many are already: the group needs a replica
    /// that can lead.
    pub(super) fn lose_rows(&mut self, at: usize) {
        let lost = self.machines.iter().filter(|machine| machine.disk.rows_lost).count();
        let machine = &mut self.machines[at];
        if machine.raft.is_none() || machine.installing.is_some() || machine.disk.rows_lost {
            return;
        }
        if lost < self.machines.len().div_ceil(2) - 1 {
            self.counts.rows_lost += 1;
            self.machines[at].disk.rows_lost = true;
            self.step(at, Event::RowsLost);
        }
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }
}
