//! The randomness of election timeouts: a small generator seeded by the shell.
//!
//! SplitMix64 (Steele, Lea, Flood 2014): eight bytes of state, every seed is good. It decides
//! nothing but waiting times, so it need not be unpredictable; it must be reproducible.

use std::time::Duration;

/// A seeded generator.
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A duration from `[shortest, 2 * shortest)`.
    pub(crate) fn timeout(&mut self, shortest: Duration) -> Duration {
        let nanos = u64::try_from(shortest.as_nanos()).unwrap_or(u64::MAX).max(1);
        shortest + Duration::from_nanos(self.next() % nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_spread_over_their_range() {
        let shortest = Duration::from_millis(100);
        let mut random = Random::new(1);
        let drawn: Vec<_> = (0..1000).map(|_| random.timeout(shortest)).collect();
        assert!(drawn.iter().all(|t| (shortest..2 * shortest).contains(t)));
        assert!(drawn.iter().any(|t| *t < shortest * 11 / 10));
        assert!(drawn.iter().any(|t| *t > shortest * 19 / 10));
    }
}
