//! What all parts of a world share: the time, the queue of what will happen, chance, judges, counts.
//!
//! Events are ordered by time, and by when they were put in where times are equal: nothing is left
//! to how a heap or a map is laid out.
//!
//! What is absent: what happens to whom (`world`).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use flotilla_router::peer::PeerMessage;
use tokio::sync::oneshot;

use super::clock::{Nanos, nanos};
use super::faults::Cure;
use super::judges::Judges;
use super::node::Life;
use super::options::Options;
use super::perform::Read;
use super::random::Random;
use super::trace::Trace;

/// Something that will happen. Nodes are counted from 0 here; what is for an earlier life of a node
/// finds nobody.
pub enum Happening {
    /// A message arrives.
    Message {
        /// From there.
        from: usize,
        /// At that node.
        to: usize,
        /// In that life.
        life: u64,
        /// What it says.
        message: Box<PeerMessage>,
    },
    /// The lane takes its mail.
    Lane(usize, u64),
    /// The lane looks at its clock.
    Tick(usize, u64),
    /// The journal goes on.
    Journal(usize, u64),
    /// The checkpoints go on.
    Checkpoint(usize, u64),
    /// The snapshot service goes on.
    Snapshots(usize, u64),
    /// A read of the disk is answered.
    Read(usize, u64, Box<Read>),
    /// The router ends overdue forwards.
    Sweep(usize, u64),
    /// A pause of the router is over.
    Timer(usize, u64, oneshot::Sender<()>),
    /// A client goes on.
    Client(usize),
    /// A chance for faults.
    Chance,
    /// A fault ends.
    Cure(Cure),
    /// A node that is down starts again.
    Reopen(usize),
    /// The ends of a connection look whether it stands.
    Connection(usize, usize),
    /// Replicas are compared.
    Compare,
    /// The faults heal, or it is looked whether all is well since.
    Review,
}

struct Scheduled {
    at: Nanos,
    sequence: u64,
    happening: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest: heaps give the greatest first.
    fn cmp(&self, other: &Scheduled) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// What all parts of a world share.
pub struct Scene {
    /// What this life is like.
    pub options: Options,
    /// True time.
    pub now: Nanos,
    /// Chance.
    pub random: Random,
    /// They see everything.
    pub judges: Judges,
    /// So does it.
    pub trace: Trace,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    queue: BinaryHeap<Scheduled>,
    sequence: u64,
}

impl Scene {
    /// The beginning.
    pub fn new(options: Options, trace: Trace) -> Scene {
        Scene {
            // Not the stream that drew the options: one more of them must not change all else.
            random: Random::new(!options.seed),
            options,
            now: 0,
            judges: Judges::new(),
            trace,
            counts: BTreeMap::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
        }
    }

    /// Lets `happening` happen after `delay`.
    pub fn after(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + nanos(delay), happening);
    }

    /// Lets `happening` happen at `at`.
    pub fn at(&mut self, at: Nanos, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Scheduled { at, sequence: self.sequence, happening });
    }

    /// Goes on to the next happening, and takes it.
    pub fn take_next(&mut self) -> Option<Happening> {
        let Scheduled { at, happening, .. } = self.queue.pop()?;
        assert!(at >= self.now, "time went back");
        self.now = at;
        Some(happening)
    }

    /// One more of `what`.
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// So many more of `what`.
    pub fn add(&mut self, what: &'static str, many: u64) {
        *self.counts.entry(what).or_default() += many;
    }

    /// Counts what a journal did in a life that ends.
    pub fn note_journal(&mut self, life: &Life) {
        let stats = life.journal.stats();
        self.add("journal KiB written", stats.bytes_written >> 10);
        self.add("journal KiB rewritten forward", stats.rewritten_bytes >> 10);
        let segments = stats.bytes_written / self.options.segment_bytes;
        self.add("journal segments filled", segments);
    }

    /// A delay of at most `high`.
    pub fn delay(&mut self, high: Duration) -> Duration {
        self.random.delay(high / 8, high)
    }
}
