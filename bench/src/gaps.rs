//! The longest time without an acknowledgement.

use std::time::{Duration, Instant};

/// A time without any acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How long it was.
    pub length: Duration,
    /// When it began, from the beginning of the period that was looked at.
    pub begins: Duration,
}

impl Gap {
    /// No gap.
    pub const NONE: Gap = Gap { length: Duration::ZERO, begins: Duration::ZERO };
}

/// The longest gap between `from` and `to`, both of which bound gaps too: a period without any
/// acknowledgement is one gap. Acknowledgements outside of it do not count; their order is free.
pub fn longest_gap(
    acknowledgements: impl IntoIterator<Item = Instant>,
    from: Instant,
    to: Instant,
) -> Gap {
    let mut times: Vec<Instant> =
        acknowledgements.into_iter().filter(|at| *at >= from && *at <= to).collect();
    times.sort_unstable();
    times.push(to);
    let mut longest = Gap::NONE;
    let mut last = from;
    for at in times {
        let length = at.saturating_duration_since(last);
        if length > longest.length {
            longest = Gap { length, begins: last - from };
        }
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap_ms(acknowledgements_ms: &[u64], from_ms: u64, to_ms: u64) -> (u64, u64) {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let gap = longest_gap(acknowledgements_ms.iter().map(|ms| at(*ms)), at(from_ms), at(to_ms));
        (gap.length.as_millis() as u64, gap.begins.as_millis() as u64)
    }

    #[test]
    fn gaps_lie_between_before_and_after_acknowledgements() {
        assert_eq!(gap_ms(&[10, 20, 70, 80], 0, 100), (50, 20));
        assert_eq!(gap_ms(&[60, 80], 0, 100), (60, 0), "from the kill to the first");
        assert_eq!(gap_ms(&[10], 0, 100), (90, 10), "from the last to the end");
        assert_eq!(gap_ms(&[], 0, 100), (100, 0), "nothing at all");
    }

    #[test]
    fn only_the_period_counts_and_order_does_not() {
        assert_eq!(gap_ms(&[90, 50, 10, 200, 0], 40, 100), (40, 10));
    }
}
