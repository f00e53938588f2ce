//! When which fault happens, and when it ends.
//!
//! At each chance every kind of fault may come, as often as the seed's options say; faults overlap as
//! they like. Only what no disk gives back is bounded: bits flip on one node's disk, so that a
//! majority of every group keeps what it promised.
//!
//! What is absent: what nodes make of it.

use std::time::Duration;

use super::disk::{JOURNAL, STORE};
use super::node::name;
use super::scene::Happening;
use super::world::{Death, World};

/// The end of a fault.
#[derive(Clone, Debug)]
pub enum Cure {
    /// These directions carry messages again.
    Directions(Vec<(usize, usize)>),
    /// This direction is as fast as others.
    Speed(usize, usize),
    /// The disk of this node has space again.
    Space(usize),
}

/// How long a fault lasts, at most.
const FAULT_MAX: Duration = Duration::from_secs(15);

impl World {
    /// A chance for all kinds of faults.
    pub(super) fn chance(&mut self) {
        for (kind, rate) in self.scene.options.faults.named() {
            if self.scene.random.permille(rate) {
                self.strike(kind);
            }
        }
        let low = Duration::from_millis(10);
        let next = self.scene.random.duration(low, self.scene.options.fault_interval_max);
        self.scene.after(next, Happening::Chance);
    }

    fn strike(&mut self, kind: &'static str) {
        let nodes = self.nodes.len();
        let at = self.scene.random.below(nodes as u64) as usize;
        let random = self.scene.random.number();
        let lasts = self.scene.random.delay(Duration::from_millis(50), FAULT_MAX);
        let now = self.scene.now;
        self.scene.trace.note(&[now, at as u64, random]);
        let (told, node) = (name(at), &mut self.nodes[at]);
        self.scene.trace.tell(now, format_args!("FAULT {kind} at node {told} for {lasts:?}"));
        let is_up = node.life.is_some();
        let happened = match kind {
            "kill" if is_up => self.die(at, Death::Kill),
            "power_loss" if is_up && random.is_multiple_of(2) => self.die(at, Death::PowerLoss),
            // In the moment in which there is something to lose.
            "power_loss" => match &mut node.life {
                Some(life) => {
                    life.dies_unsynced = true;
                    true
                }
                None => false,
            },
            "power_loss_of_all" => {
                (0..nodes).filter(|at| self.die(*at, Death::PowerLoss)).count() > 0
            }
            "power_loss_in_io" if is_up => {
                node.fs.fail_after(random % 60);
                node.is_armed = true;
                true
            }
            "kill_in_effects" => match &mut node.life {
                Some(life) => {
                    life.effects_left = Some(random % 40);
                    true
                }
                None => false,
            },
            "failed_sync" if is_up => {
                node.fs.fail_sync_after(random % 8);
                node.is_armed = true;
                true
            }
            "full_disk" if is_up && !node.is_full => {
                node.is_full = true;
                node.fs.set_capacity_bytes(Some(node.fs.used_bytes() + random % (256 << 10)));
                self.scene.after(lasts, Happening::Cure(Cure::Space(at)));
                true
            }
            "stall" => {
                node.stalled_until = now + lasts.as_nanos() as u64 / 2;
                true
            }
            "pause" => {
                // A few stand still for minutes.
                let factor = if random.is_multiple_of(10) { 10 } else { 1 };
                node.paused_until = now + lasts.as_nanos() as u64 / 4 * factor;
                true
            }
            "bit_rot" => self.rot(random),
            "drift" => {
                let most = i64::from(self.scene.options.drift_max_ppm);
                let drift = (random % (2 * most as u64 + 1)) as i64 - most;
                node.clock.set_drift(now, drift);
                true
            }
            "jump" => {
                let offset_ms = (random % 7_200_000) as i64 - 3_600_000;
                node.clock.set_wall(offset_ms);
                true
            }
            "transfer" => self.transfer(at, random),
            "isolation" | "partition" | "one_way" => self.cut(kind, at, random, lasts),
            "slow_link" => {
                let to = (at + 1 + random as usize % (nodes - 1)) % nodes;
                self.network.slow(at, to, Duration::from_millis(random % 500));
                self.scene.after(lasts, Happening::Cure(Cure::Speed(at, to)));
                true
            }
            _ => false,
        };
        if happened {
            *self.faults.entry(kind).or_default() += 1;
        }
        self.settle(at);
    }

    /// Cuts links: of one node, between two parts, or one direction.
    fn cut(&mut self, kind: &str, at: usize, random: u64, lasts: Duration) -> bool {
        let nodes = self.nodes.len();
        let is_inside = |node: usize| match kind {
            "isolation" => node == at,
            _ => random >> node & 1 == 1,
        };
        let mut cut = Vec::new();
        for from in 0..nodes {
            for to in (0..nodes).filter(|to| *to != from) {
                let hit = match kind {
                    "one_way" => {
                        from == at && to == (at + 1 + random as usize % (nodes - 1)) % nodes
                    }
                    _ => is_inside(from) != is_inside(to),
                };
                if hit {
                    cut.push((from, to));
                }
            }
        }
        for (from, to) in &cut {
            self.network.cut(*from, *to);
            self.network.review(&mut self.scene, *from, *to);
        }
        let happened = !cut.is_empty();
        self.scene.after(lasts, Happening::Cure(Cure::Directions(cut)));
        happened
    }

    /// Flips a bit of what the one node has that may be damaged.
    fn rot(&mut self, random: u64) -> bool {
        let node = &mut self.nodes[self.rotten];
        let folder = if random.is_multiple_of(2) { JOURNAL } else { STORE };
        let files = node.files(folder);
        if files.is_empty() {
            return false;
        }
        let (path, len) = &files[(random >> 8) as usize % files.len()];
        let offset = (random >> 16) % len;
        if node.fs.flip(path, offset, 1 << ((random >> 1) % 8)).is_err() {
            return false;
        }
        node.is_rotten = true;
        true
    }

    /// Ends a fault.
    pub(super) fn cure(&mut self, cure: Cure) {
        match cure {
            Cure::Directions(directions) => {
                for (from, to) in directions {
                    self.network.heal(from, to);
                    self.network.review(&mut self.scene, from, to);
                }
            }
            Cure::Speed(from, to) => self.network.slow(from, to, Duration::ZERO),
            Cure::Space(at) => {
                self.nodes[at].fs.set_capacity_bytes(None);
                self.nodes[at].is_full = false;
            }
        }
    }

    /// Ends all faults, and lets all nodes run.
    pub(super) fn heal_all(&mut self) {
        self.network.heal_all();
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            node.fs.set_capacity_bytes(None);
            node.is_full = false;
            node.paused_until = self.scene.now;
            node.stalled_until = self.scene.now;
            match &mut node.life {
                None => node.fs.kill(),
                Some(life) => (life.effects_left, life.dies_unsynced) = (None, false),
            }
            if node.is_armed {
                // Ends what was to strike later.
                self.die(at, Death::Kill);
            }
        }
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                self.network.review(&mut self.scene, a, b);
            }
        }
    }
}
