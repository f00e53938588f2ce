//! The network between the simulated nodes: what arrives, when, how often, and who is connected.
//!
//! A connection loses nothing silently but what is sent while a direction is dead, and Raft messages and
//! snapshots where the options say so; only Raft messages are doubled or overtaken. That is what
//! the product's transport promises, and less where less must do.
//!
//! What is absent: when links die and heal (`faults`).

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_router::peer::{Class, PeerMessage};

use super::clock::{Nanos, nanos};
use super::scene::{Happening, Scene};

/// How long it takes until a connection stands again, at most.
const RECONNECT_MAX: Duration = Duration::from_millis(200);

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default)]
struct Direction {
    /// So many faults keep it dead.
    cuts: u32,
    /// So much longer messages take.
    slowness: Duration,
}

/// All links.
#[derive(Debug)]
pub struct Network {
    directions: BTreeMap<(usize, usize), Direction>,
    /// When the last message of a connection arrives: none behind it arrives before.
    last: BTreeMap<(usize, usize, Class), Nanos>,
    /// By pair, the lower node first: the lives that are connected.
    connected: BTreeMap<(usize, usize), (u64, u64)>,
}

/// The lower one first.
pub fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Network {
    /// A network without faults between so many nodes.
    pub fn new(nodes: usize) -> Network {
        let mut directions = BTreeMap::new();
        for from in 0..nodes {
            for to in (0..nodes).filter(|to| *to != from) {
                directions.insert((from, to), Direction::default());
            }
        }
        Network { directions, last: BTreeMap::new(), connected: BTreeMap::new() }
    }

    fn direction(&mut self, from: usize, to: usize) -> &mut Direction {
        self.directions.get_mut(&(from, to)).expect("two nodes of this network")
    }

    /// One more fault keeps a direction dead.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.direction(from, to).cuts += 1;
    }

    /// One fault less does.
    pub fn heal(&mut self, from: usize, to: usize) {
        let cuts = &mut self.direction(from, to).cuts;
        *cuts = cuts.saturating_sub(1);
    }

    /// Messages take so much longer.
    pub fn slow(&mut self, from: usize, to: usize, by: Duration) {
        self.direction(from, to).slowness = by;
    }

    /// Ends all faults.
    pub fn heal_all(&mut self) {
        self.directions.values_mut().for_each(|direction| *direction = Direction::default());
    }

    /// True if messages travel in both directions.
    pub fn is_whole(&self, a: usize, b: usize) -> bool {
        [(a, b), (b, a)].iter().all(|ends| self.directions[ends].cuts == 0)
    }

    /// The lives that are connected, the lower node's first.
    pub fn connection(&self, a: usize, b: usize) -> Option<(u64, u64)> {
        self.connected.get(&pair(a, b)).copied()
    }

    /// Notes which lives are connected.
    pub fn set_connection(&mut self, a: usize, b: usize, lives: Option<(u64, u64)>) {
        match lives {
            Some(lives) => self.connected.insert(pair(a, b), lives),
            None => self.connected.remove(&pair(a, b)),
        };
    }

    /// Lets the ends of a connection look after a while whether it stands.
    pub fn review(&self, scene: &mut Scene, a: usize, b: usize) {
        let most = match self.connected.contains_key(&pair(a, b)) {
            true => scene.options.notice_max,
            false => RECONNECT_MAX,
        };
        let delay = scene.delay(most);
        let (a, b) = pair(a, b);
        scene.after(delay, Happening::Connection(a, b));
    }

    /// Sends a message on its way.
    pub fn send(&mut self, scene: &mut Scene, from: usize, to: usize, message: PeerMessage) {
        scene.count("messages sent");
        let Direction { cuts, slowness } = *self.direction(from, to);
        let lives = self.connected.get(&pair(from, to)).copied();
        let (Some((low, high)), 0) = (lives, cuts) else {
            return scene.count("messages lost");
        };
        let life = if to < from { low } else { high };
        let is_raft = matches!(message, PeerMessage::Raft(_));
        let may_be_lost = is_raft || matches!(message, PeerMessage::Snapshot(_));
        let lost = if is_raft { scene.options.lost } else { scene.options.lost / 10 };
        if may_be_lost && scene.random.permille(lost) {
            return scene.count("messages lost");
        }
        let (low, high) = scene.options.latency;
        let mut copies = 1;
        if is_raft && scene.random.permille(scene.options.doubled) {
            scene.count("messages doubled");
            copies = 2;
        }
        for copy in 0..copies {
            let mut at = scene.now + nanos(scene.random.delay(low, high) + slowness);
            let overtaken = is_raft && scene.random.permille(scene.options.reordered);
            if overtaken || copy > 0 {
                scene.count("messages overtaken");
                at += nanos(scene.random.delay(low, high * 4));
            } else {
                let last = self.last.entry((from, to, message.class())).or_default();
                at = at.max(*last);
                *last = at;
            }
            let message = Box::new(message.clone());
            scene.at(at, Happening::Message { from, to, life, message });
        }
    }

    /// True if a message that is on its way arrives.
    pub fn arrives(&self, from: usize, to: usize) -> bool {
        self.directions[&(from, to)].cuts == 0
    }
}
