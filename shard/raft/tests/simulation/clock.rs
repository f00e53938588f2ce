//! The clock of a machine: it shows anything, and runs at a speed of its own, which changes.

use flotilla_raft::Time;

/// Shows `shown` at the true time `since`, and gains `drift_ppm` millionths from then on.
pub struct Clock {
    since: u64,
    shown: u64,
    drift_ppm: i64,
}

impl Clock {
    pub fn new(now: u64, shown: u64) -> Self {
        Self { since: now, shown, drift_ppm: 0 }
    }

    pub fn set_drift(&mut self, now: u64, drift_ppm: i64) {
        *self = Self { since: now, shown: self.at(now).0, drift_ppm };
    }

    fn speed_ppm(&self) -> u64 {
        1_000_000_u64.checked_add_signed(self.drift_ppm).expect("a clock that does not go back")
    }

    pub fn at(&self, now: u64) -> Time {
        Time(self.shown + (now - self.since) * self.speed_ppm() / 1_000_000)
    }

    /// The first true moment at which it shows `time`.
    pub fn when(&self, time: Time) -> u64 {
        match time {
            Time::NEVER => u64::MAX,
            Time(time) => {
                let ahead = time.saturating_sub(self.shown);
                self.since + (ahead * 1_000_000).div_ceil(self.speed_ppm())
            }
        }
    }
}
