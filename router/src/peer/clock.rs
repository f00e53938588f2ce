//! How far a peer's wall clock is from this node's.
//!
//! A sign of life carries a number that the peer gives back, together with what its clock shows.
//! Half of the time that this took is how wrong the comparison may be; of the last samples the
//! quickest says most.
//!
//! What is absent: what a difference means. The node above decides whether it may lead.

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How many samples count: with one a second, a clock that was set is noticed within as many.
const SAMPLES_MAX: usize = 8;

/// A sample that took longer says too little.
const ROUND_TRIP_US_MAX: u64 = 1_000_000;

/// Wall clock minus wall clock, by samples of one connection.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// Round trip and offset, both in microseconds; the oldest first.
    recent: VecDeque<(u64, i64)>,
}

impl Samples {
    /// Notes that the peer showed `their_wall_us` in answer to what was sent at `sent_us`, and
    /// returns the best estimate of its clock minus this one, in microseconds. `now_us` is of the
    /// same clock as `sent_us`.
    pub(crate) fn add(
        &mut self,
        sent_us: u64,
        now_us: u64,
        their_wall_us: u64,
        my_wall_us: u64,
    ) -> Option<i64> {
        // A number that was never sent shows as a trip into the future.
        let round_trip_us = now_us.checked_sub(sent_us);
        if let Some(round_trip_us) = round_trip_us.filter(|us| *us <= ROUND_TRIP_US_MAX) {
            let then_us = my_wall_us.saturating_sub(round_trip_us / 2);
            let offset_us = i128::from(their_wall_us) - i128::from(then_us);
            let offset_us = offset_us.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
            if self.recent.len() == SAMPLES_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back((round_trip_us, offset_us));
        }
        self.recent.iter().min_by_key(|(us, _)| *us).map(|(_, offset_us)| *offset_us)
    }
}

/// Microseconds since some moment of this process, never 0.
pub(crate) fn monotonic_us() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1)
}

/// The wall clock in microseconds since the Unix epoch.
pub(crate) fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_round_trip_is_taken_off() {
        let mut samples = Samples::default();
        // Sent at 100, back at 300: their clock showed 1,000,500 when ours showed 1,000,000.
        assert_eq!(samples.add(100, 300, 1_000_500, 1_000_100), Some(500));
    }

    #[test]
    fn the_quickest_sample_counts_until_it_is_old() {
        let mut samples = Samples::default();
        assert_eq!(samples.add(0, 10, 5005, 5010), Some(0));
        for _ in 1..SAMPLES_MAX {
            assert_eq!(samples.add(0, 1000, 7000, 6000), Some(0), "a slow one replaced it");
        }
        assert_eq!(samples.add(0, 1000, 7000, 6000), Some(1500));
    }

    #[test]
    fn what_took_too_long_or_was_never_sent_does_not_count() {
        let mut samples = Samples::default();
        assert_eq!(samples.add(0, ROUND_TRIP_US_MAX + 1, 1, 1), None);
        assert_eq!(samples.add(50, 10, 1, 1), None);
    }

    #[test]
    fn wild_clocks_do_not_overflow() {
        let mut samples = Samples::default();
        assert_eq!(samples.add(0, 0, u64::MAX, 0), Some(i64::MAX));
    }
}
