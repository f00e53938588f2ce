//! How much work may wait, so that none waits for long.
//!
//! A limit in bytes alone lets in more than can be finished in time: of small requests a hundred
//! megabytes are seconds of work, and all of it would be late. So the door also measures what the
//! node finishes, and lets in no more than can be finished in a stated time at the pace of late
//! (Little's law: waiting time is work in hand divided by pace).
//!
//! Invariants:
//!
//! * The limit never falls below a floor: a node that is cold, idle, or slow for a moment takes a
//!   burst of that size.
//! * While the node finishes its work sooner than in the stated time, the limit is above what it
//!   has in hand, and grows with the pace: a limit that was too low corrects itself.
//!
//! What is absent: clocks (the caller says how much time has passed) and counting (`budget`).

use std::collections::VecDeque;
use std::time::Duration;

/// A pace is measured over at least this long: shorter than that, one batch more or less shows.
pub(super) const WINDOW_MIN: Duration = Duration::from_millis(250);

/// The best of this many windows counts: a pause, such as for a slow sync, changes nothing yet.
const WINDOWS: usize = 4;

/// A group is stuck when it finished nothing in this many windows, though it had work all along.
pub(super) const STUCK_WINDOWS: u8 = 4;

/// How long work may wait, and what is let in whatever was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The time in which everything that was let in should be finished.
    pub time_max: Duration,
    /// Bytes that are always let in.
    pub bytes_min: u64,
    /// Requests that are always let in, however large: a few large ones are no queue.
    pub requests_min: u64,
}

impl Pace {
    /// For a node that lets in at most `bytes_max` bytes: half a second, and a sixteenth of the
    /// bytes or 64 requests always.
    pub fn of_budget(bytes_max: u64) -> Pace {
        Pace { time_max: Duration::from_millis(500), bytes_min: bytes_max / 16, requests_min: 64 }
    }
}

/// What was finished of late.
#[derive(Debug, Default)]
pub(super) struct Measured {
    bytes_per_second: VecDeque<f64>,
}

impl Measured {
    /// `bytes` were finished within `elapsed`, after what was noted before.
    pub(super) fn note(&mut self, elapsed: Duration, bytes: u64) {
        if self.bytes_per_second.len() == WINDOWS {
            self.bytes_per_second.pop_front();
        }
        self.bytes_per_second.push_back(bytes as f64 / elapsed.as_secs_f64());
    }

    /// How many bytes may be in hand.
    pub(super) fn limit_bytes(&self, pace: &Pace) -> u64 {
        let best = self.bytes_per_second.iter().copied().fold(0.0, f64::max);
        ((best * pace.time_max.as_secs_f64()) as u64).max(pace.bytes_min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace =
        Pace { time_max: Duration::from_millis(500), bytes_min: 1000, requests_min: 4 };

    #[test]
    fn a_cold_node_takes_the_floor() {
        let mut measured = Measured::default();
        assert_eq!(measured.limit_bytes(&PACE), 1000);
        measured.note(WINDOW_MIN, 0);
        assert_eq!(measured.limit_bytes(&PACE), 1000);
    }

    #[test]
    fn the_best_of_the_last_second_counts() {
        let mut measured = Measured::default();
        measured.note(WINDOW_MIN, 10_000);
        assert_eq!(measured.limit_bytes(&PACE), 20_000, "half a second at 40,000 per second");
        for _ in 1..WINDOWS {
            measured.note(WINDOW_MIN, 0);
            assert_eq!(measured.limit_bytes(&PACE), 20_000);
        }
        measured.note(WINDOW_MIN, 2_500);
        assert_eq!(measured.limit_bytes(&PACE), 5_000);
    }

    /// A queue in front of a server of a fixed pace, fed without end: the limit finds the pace
    /// from below, and what waits is finished within the stated time.
    #[test]
    fn work_in_hand_settles_at_the_stated_time() {
        let mut measured = Measured::default();
        let served_per_window = 25_000;
        let mut in_hand = 0;
        for _ in 0..20 {
            in_hand += measured.limit_bytes(&PACE).saturating_sub(in_hand);
            // Several rounds per window: what is finished makes room for more at once, so a queue
            // that never runs empty is served at full pace; round trips take 50 ms.
            let served = served_per_window.min(in_hand * 5);
            measured.note(WINDOW_MIN, served);
        }
        assert_eq!(in_hand, 50_000, "half a second at 100,000 per second");
    }
}
