//! How nodes die, start again, and find each other.
//!
//! What is absent: why they die (`faults`), and what a start does (`node`).

use std::time::Duration;

use super::node::name;
use super::phases::Phase;
use super::scene::Happening;
use super::world::{Death, SWEEP_INTERVAL, World};

/// A node that is down stays down for so long, at most.
const DOWN_MAX: Duration = Duration::from_secs(8);

impl World {
    /// A node's process ends. False: it was down.
    pub(super) fn die(&mut self, at: usize, how: Death) -> bool {
        let node = &mut self.nodes[at];
        let Some(life) = node.life.take() else { return false };
        node.is_armed = false;
        self.scene.trace.tell(self.scene.now, format_args!("node {} dies: {how:?}", name(at)));
        // First the disk: what the process still does while it is taken down reaches nothing.
        match how {
            Death::Kill => node.fs.kill(),
            Death::PowerLoss => node.fs.crash(),
        }
        self.scene.count(match how {
            Death::Kill => "processes killed",
            Death::PowerLoss => "power losses",
        });
        self.scene.note_journal(&life);
        self.cut_off_clients(at);
        drop(life);
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            self.network.review(&mut self.scene, at, other);
        }
        let most = match self.phase {
            Phase::Faults => DOWN_MAX,
            _ => Duration::from_secs(1),
        };
        let delay = self.scene.delay(most);
        self.scene.after(delay, Happening::Reopen(at));
        true
    }

    /// A node starts, or tries to.
    pub(super) fn open(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.life.is_some() {
            return;
        }
        if self.phase == Phase::Faults
            && node.lives > 0
            && self.scene.random.permille(self.scene.options.faults.power_loss_in_io)
        {
            // What recovers may die too, and again.
            node.fs.fail_after(self.scene.random.below(40));
            node.is_armed = true;
        }
        let opened = node.open(&mut self.scene, &self.descriptors, self.origin, &self.handle);
        self.scene.count("nodes started");
        if let Err(error) = opened {
            self.scene.count("starts that failed");
            self.scene.trace.tell(self.scene.now, format_args!("node {}: {error}", name(at)));
            node.is_armed = false;
            // Whatever was open is closed, or the power went.
            match self.scene.random.permille(500) {
                true => node.fs.kill(),
                false => node.fs.crash(),
            }
            let delay = self.scene.delay(Duration::from_secs(1));
            self.scene.after(delay, Happening::Reopen(at));
            return;
        }
        let number = node.lives;
        self.scene.trace.tell(self.scene.now, format_args!("node {} is up", name(at)));
        self.scene.after(Duration::ZERO, Happening::Tick(at, number));
        self.scene.after(SWEEP_INTERVAL, Happening::Sweep(at, number));
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            self.network.review(&mut self.scene, at, other);
        }
        self.settle(at);
    }

    /// The ends of a connection look whether it stands.
    pub(super) fn connection(&mut self, a: usize, b: usize) {
        let lives = |at: usize| self.nodes[at].life.as_ref().map(|life| life.number);
        let wanted = match (lives(a), lives(b)) {
            (Some(low), Some(high)) if self.network.is_whole(a, b) => Some((low, high)),
            _ => None,
        };
        let stands = self.network.connection(a, b);
        if wanted == stands {
            return;
        }
        if let Some((low, high)) = stands {
            self.network.set_connection(a, b, None);
            for (at, life, other) in [(a, low, b), (b, high, a)] {
                self.with_life(at, Some(life), |life, _, _| {
                    life.mailbox.set_connected(name(other), false);
                    life.sink.disconnected(name(other));
                    true
                });
            }
        }
        if let Some((low, high)) = wanted {
            self.scene.count("connections made");
            self.network.set_connection(a, b, wanted);
            for (at, life, other) in [(a, low, b), (b, high, a)] {
                self.with_life(at, Some(life), |life, _, _| {
                    life.mailbox.set_connected(name(other), true);
                    life.sink.connected(name(other));
                    life.sink.bulk_connected(name(other));
                    true
                });
            }
        }
    }
}
