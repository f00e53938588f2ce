//! Zipf's law as YCSB draws it, after Gray et al., "Quickly generating billion-record synthetic
//! databases".
//!
//! The constants are YCSB's, so that the head of the distribution is the same: the scrambled form
//! always draws ranks from ten billion items and scatters them over the keys there are.

/// The exponent.
const THETA: f64 = 0.99;

/// Items of the scrambled form, whatever the number of keys.
const SCRAMBLED_ITEMS: u64 = 10_000_000_000;

/// Zeta of [`SCRAMBLED_ITEMS`] items, as YCSB has it: summing it up would take minutes.
const SCRAMBLED_ZETA: f64 = 26.469_028_201_783_02;

/// Ranks by Zipf's law: 0 is drawn most often. The number of items may grow.
#[derive(Clone, Debug)]
pub(super) struct Zipfian {
    /// Items that `zeta` sums up.
    items: u64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    /// Ranks below `items`; takes time in proportion to them.
    pub(super) fn new(items: u64) -> Zipfian {
        assert!(items > 0, "there is something to draw");
        Zipfian::with_zeta(items, zeta(0, items, 0.0))
    }

    /// The ranks of the scrambled form.
    pub(super) fn scrambled() -> Zipfian {
        // YCSB counts the items from 0 to SCRAMBLED_ITEMS, both included.
        Zipfian::with_zeta(SCRAMBLED_ITEMS + 1, SCRAMBLED_ZETA)
    }

    fn with_zeta(items: u64, sum: f64) -> Zipfian {
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - THETA)) / (1.0 - zeta(0, 2, 0.0) / sum);
        Zipfian { items, zeta: sum, eta }
    }

    /// Lets ranks go up to `items`, if they do not yet.
    pub(super) fn grow(&mut self, items: u64) {
        if items > self.items {
            *self = Zipfian::with_zeta(items, zeta(self.items, items, self.zeta));
        }
    }

    /// The rank that belongs to `uniform`, which is at least 0 and below 1.
    pub(super) fn rank(&self, uniform: f64) -> u64 {
        let scaled = uniform * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) {
            return 1.min(self.items - 1);
        }
        let alpha = 1.0 / (1.0 - THETA);
        let rank = self.items as f64 * (self.eta * uniform - self.eta + 1.0).powf(alpha);
        (rank as u64).min(self.items - 1)
    }

    /// The share that rank 0 has.
    #[cfg(test)]
    pub(super) fn head_share(&self) -> f64 {
        1.0 / self.zeta
    }
}

/// The sum of `1 / i^THETA` up to `items`, of which `sum` is the part up to `from`.
fn zeta(from: u64, items: u64, sum: f64) -> f64 {
    (from..items).fold(sum, |sum, item| sum + 1.0 / ((item + 1) as f64).powf(THETA))
}

/// Where YCSB's scrambled form puts `rank` among `keys`: the hash FNV-1a of 64 bits of its bytes,
/// lowest first, without its sign.
pub(super) fn scramble(rank: u64, keys: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for octet in rank.to_le_bytes() {
        hash = (hash ^ u64::from(octet)).wrapping_mul(1_099_511_628_211);
    }
    // As Java's Math.abs() of a signed number.
    (hash as i64).unsigned_abs() % keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn the_head_is_drawn_as_often_as_zipf_says() {
        let mut random = SmallRng::seed_from_u64(1);
        for zipfian in [Zipfian::new(1_000), Zipfian::new(100_000), Zipfian::scrambled()] {
            let draws = 400_000;
            let mut counts = [0_u64; 2];
            for _ in 0..draws {
                let rank = zipfian.rank(random.random());
                assert!(rank < zipfian.items);
                if rank < 2 {
                    counts[rank as usize] += 1;
                }
            }
            for (rank, count) in counts.into_iter().enumerate() {
                let theory = zipfian.head_share() / ((rank + 1) as f64).powf(THETA);
                let share = count as f64 / draws as f64;
                assert!((share / theory - 1.0).abs() < 0.05, "rank {rank}: {share} not {theory}");
            }
        }
    }

    #[test]
    fn zeta_is_ycsbs() {
        // The sum over 100 items, from the definition; and that growing does not change it.
        let direct = (1..=100).map(|item| 1.0 / f64::from(item).powf(0.99)).sum::<f64>();
        let mut grown = Zipfian::new(10);
        grown.grow(100);
        grown.grow(50);
        assert!((grown.zeta - direct).abs() < 1e-9 && grown.items == 100);
        assert!((Zipfian::new(100).eta - grown.eta).abs() < 1e-12);
    }

    #[test]
    fn ranks_are_scattered_as_ycsb_scatters_them() {
        // Utils.fnvhash64 of 0, 1 and 2, computed apart from this code.
        let all = u64::MAX;
        assert_eq!(scramble(0, all), 6_284_781_860_667_377_211);
        assert_eq!(scramble(1, all), 8_517_097_267_634_966_620);
        assert_eq!(scramble(2, all), 1_820_151_046_732_198_393);
    }
}
