//! The clock that elections and leases are measured by.
//!
//! It never goes back, nobody can set it, and it goes on while the machine sleeps: a leader that wakes
//! up after an hour must not believe that its lease still holds. The clock of [`std::time::Instant`]
//! stands still meanwhile on Linux, so it is not good enough.
//!
//! What is absent: dates (the wall clock, for stamps and expiry), and deadlines of callers.

use flotilla_raft::Time;
use rustix::time::{ClockId, clock_gettime};

#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
/// Elsewhere this is the clock that counts sleep.
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// This moment. Costs no system call.
pub(crate) fn now() -> Time {
    let now = clock_gettime(CLOCK);
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    Time(seconds * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn it_goes_as_fast_as_other_clocks_and_never_back() {
        let (start, instant) = (now(), Instant::now());
        let mut last = start;
        while instant.elapsed().as_millis() < 20 {
            let time = now();
            assert!(time >= last);
            last = time;
        }
        // The other clock was read later at the beginning, and this one after it at the end.
        assert!(now().since(start).as_millis() >= 20);
    }
}
