//! How fast all snapshots of a node may leave: a bucket of bytes that time refills.

use std::time::Duration;

/// How much may leave at once after a pause, as a part of what may leave in a second.
const BURST: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Rate {
    bytes_per_second: u64,
    /// May be negative: what has left was larger than what was there.
    balance_bytes: f64,
    filled_at: Duration,
}

impl Rate {
    pub(crate) fn new(bytes_per_second: u64) -> Rate {
        let balance_bytes = bytes_per_second as f64 * BURST.as_secs_f64();
        Rate { bytes_per_second, balance_bytes, filled_at: Duration::ZERO }
    }

    /// True if something may leave now, however large.
    pub(crate) fn allows(&mut self, now: Duration) -> bool {
        let elapsed = now.saturating_sub(self.filled_at);
        self.filled_at = now.max(self.filled_at);
        let rate = self.bytes_per_second as f64;
        let full = rate * BURST.as_secs_f64();
        self.balance_bytes = (self.balance_bytes + rate * elapsed.as_secs_f64()).min(full);
        self.balance_bytes > 0.0
    }

    /// So much has left.
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.balance_bytes -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over any stretch of time no more leaves than the rate, a burst and one item.
    #[test]
    fn what_leaves_in_a_second_is_bounded() {
        let mut rate = Rate::new(1000);
        let mut left = 0;
        for ms in 0..10_000 {
            while rate.allows(Duration::from_millis(ms)) {
                rate.spend(64);
                left += 64;
            }
        }
        assert!((9_900..=10_200).contains(&left), "{left} bytes left in ten seconds");
    }

    #[test]
    fn a_large_item_is_paid_for_afterwards() {
        let mut rate = Rate::new(1000);
        assert!(rate.allows(Duration::ZERO));
        rate.spend(2100);
        assert!(!rate.allows(Duration::from_millis(1999)));
        assert!(rate.allows(Duration::from_millis(2001)));
    }

    #[test]
    fn a_pause_saves_no_more_than_a_burst() {
        let mut rate = Rate::new(1000);
        assert!(rate.allows(Duration::from_secs(3600)));
        rate.spend(101);
        assert!(!rate.allows(Duration::from_secs(3600)));
    }
}
