//! Which keys a history is about.

/// A share of all keys, chosen by a hash of the key: the same keys in every process and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// A key is in if its hash is at most this; `None`: no key is.
    hash_max: Option<u64>,
}

impl Sample {
    /// Every key.
    pub const ALL: Sample = Sample { hash_max: Some(u64::MAX) };

    /// About this share of the keys, from 0 to 1; what is outside counts as the nearest.
    pub fn share(share: f64) -> Sample {
        let hash_max = match share {
            share if share >= 1.0 => Some(u64::MAX),
            share if share > 0.0 => Some((share * u64::MAX as f64) as u64),
            _ => None,
        };
        Sample { hash_max }
    }

    /// About `keys` of `all` keys.
    pub fn keys(keys: u64, all: u64) -> Sample {
        Sample::share(keys as f64 / all.max(1) as f64)
    }

    /// True if `key` is in.
    pub fn holds(self, key: &[u8]) -> bool {
        self.hash_max.is_some_and(|hash_max| hash(key) <= hash_max)
    }
}

/// FNV-1a with splitmix64's finalizer, without which short keys that differ in their last bytes
/// would share their high bits.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_wanted_share_is_in_and_always_the_same() {
        for (share, few, many) in [(0.01, 70, 130), (0.5, 4_800, 5_200), (1.0, 10_000, 10_000)] {
            let sample = Sample::share(share);
            let held =
                (0..10_000_u32).filter(|key| sample.holds(format!("key:{key:012}").as_bytes()));
            let held: Vec<u32> = held.collect();
            assert!((few..=many).contains(&held.len()), "{} of 10,000 for {share}", held.len());
            assert!(held.iter().all(|key| sample.holds(format!("key:{key:012}").as_bytes())));
        }
        assert!(!Sample::share(0.0).holds(b"a"));
        assert_eq!(Sample::keys(5, 3), Sample::ALL);
    }
}
