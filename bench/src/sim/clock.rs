//! Virtual time, and what the clocks of the nodes make of it.
//!
//! True time is the world's: nanoseconds since its beginning. Each node has a clock that runs a
//! little faster or slower, within what leases allow, and a wall clock that may be set to anything.
//!
//! What is absent: waiting. The world decides what time it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::random::Random;

/// Nanoseconds since the world began.
pub type Nanos = u64;

/// What wall clocks show when the world begins: some day in 2023.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// A millisecond.
pub const MILLISECOND: Nanos = 1_000_000;

/// `duration` in nanoseconds.
pub fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).expect("no world lasts 500 years")
}

/// The clock of one node. What a node reads is local time; events of the world have true time.
#[derive(Debug)]
pub struct NodeClock {
    /// Both clocks at the last change of speed.
    true_anchor: Nanos,
    local_anchor: Nanos,
    /// How much faster than true time it runs, in millionths.
    drift_ppm: i64,
    /// How far the wall clock is off.
    wall_offset_ms: i64,
}

impl NodeClock {
    /// A clock that began at a random time before the world did.
    pub fn new(random: &mut Random) -> NodeClock {
        let local_anchor = random.between(1, 1 << 40);
        NodeClock { true_anchor: 0, local_anchor, drift_ppm: 0, wall_offset_ms: 0 }
    }

    /// Local time at true time `now`.
    pub fn local(&self, now: Nanos) -> Nanos {
        let elapsed = i128::from(now - self.true_anchor);
        let local = elapsed * (1_000_000 + i128::from(self.drift_ppm)) / 1_000_000;
        self.local_anchor + u64::try_from(local).expect("clocks run forwards")
    }

    /// How long `local` takes in true time.
    pub fn stretch(&self, local: Nanos) -> Nanos {
        let stretched = i128::from(local) * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm));
        u64::try_from(stretched).expect("clocks run forwards")
    }

    /// Runs at another speed from `now` on.
    pub fn set_drift(&mut self, now: Nanos, drift_ppm: i64) {
        self.local_anchor = self.local(now);
        self.true_anchor = now;
        self.drift_ppm = drift_ppm;
    }

    /// Sets the wall clock.
    pub fn set_wall(&mut self, offset_ms: i64) {
        self.wall_offset_ms = offset_ms;
    }

    /// What the wall clock shows at true time `now`.
    pub fn wall_ms(&self, now: Nanos) -> u64 {
        let wall = EPOCH_MS + (now / MILLISECOND) as i64 + self.wall_offset_ms;
        u64::try_from(wall).unwrap_or(0)
    }
}

/// What the router of a node reads from its clock, as set before each of its steps. Clones share it.
#[derive(Clone, Debug)]
pub struct Reading {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Stands for local time 0. Which moment it is never shows.
    origin: Instant,
    local: AtomicU64,
    wall_ms: AtomicU64,
}

impl Reading {
    /// A clock that nobody has set yet.
    pub fn new(origin: Instant) -> Reading {
        let shared = Shared { origin, local: AtomicU64::new(0), wall_ms: AtomicU64::new(0) };
        Reading { shared: Arc::new(shared) }
    }

    /// Sets it.
    pub fn set(&self, clock: &NodeClock, now: Nanos) {
        self.shared.local.store(clock.local(now), Relaxed);
        self.shared.wall_ms.store(clock.wall_ms(now), Relaxed);
    }

    /// Local time.
    pub fn local(&self) -> Nanos {
        self.shared.local.load(Relaxed)
    }

    /// The same as the product's type.
    pub fn instant(&self) -> Instant {
        self.shared.origin + Duration::from_nanos(self.local())
    }

    /// Milliseconds since the Unix epoch.
    pub fn wall_ms(&self) -> u64 {
        self.shared.wall_ms.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_clock_is_ahead_and_never_goes_back() {
        let mut clock = NodeClock::new(&mut Random::new(1));
        let start = clock.local(0);
        clock.set_drift(0, 10_000);
        assert_eq!(clock.local(1_000_000) - start, 1_010_000);
        assert_eq!(clock.stretch(1_010_000), 1_000_000);
        let before = clock.local(2_000_000);
        clock.set_drift(2_000_000, -10_000);
        assert_eq!(clock.local(2_000_000), before);
        assert_eq!(clock.local(3_000_000) - before, 990_000);
    }
}
