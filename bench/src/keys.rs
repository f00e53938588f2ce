//! Which keys a load uses.

use bytes::BytesMut;
use clap::ValueEnum;

/// How the number of a key becomes its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyFormat {
    /// `key:000000012345`, as redis-benchmark writes them: 16 bytes, and all in one shard unless
    /// the cluster was cut at such keys.
    Redis,
    /// 16 bytes of which the first are spread evenly: every shard of `--shards N` gets its part.
    Spread,
}

impl KeyFormat {
    /// Writes key number `number` into `key`, replacing what is there.
    pub fn write(self, number: u64, key: &mut BytesMut) {
        self.write_grouped(number, 1, key);
    }

    /// The same, but each `group` of neighbouring numbers stays together where keys are spread, so
    /// that one request can write them all.
    pub fn write_grouped(self, number: u64, group: u64, key: &mut BytesMut) {
        key.clear();
        match self {
            KeyFormat::Redis => {
                key.extend_from_slice(b"key:");
                let mut rest = number;
                let mut digits = [b'0'; 12];
                for digit in digits.iter_mut().rev() {
                    *digit = b'0' + (rest % 10) as u8;
                    rest /= 10;
                }
                key.extend_from_slice(&digits);
            }
            KeyFormat::Spread => {
                key.extend_from_slice(&scatter(number / group).to_be_bytes());
                key.extend_from_slice(&number.to_be_bytes());
            }
        }
    }
}

/// Spreads numbers evenly over all 64 bits; different numbers stay different (the finalizer of
/// splitmix64).
fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The first two bytes of shard `shard` when a key space is cut into `shards` even parts.
pub fn shard_prefix(shard: u32, shards: u32) -> [u8; 2] {
    assert!(shard < shards, "shards are counted from 0");
    let start = u64::from(shard) * 65_536 / u64::from(shards);
    u16::try_from(start).expect("below 65,536 because shard < shards").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_keys_are_those_of_redis_benchmark() {
        let mut key = BytesMut::new();
        KeyFormat::Redis.write(12_345, &mut key);
        assert_eq!(&key[..], b"key:000000012345");
    }

    #[test]
    fn spread_keys_fill_eight_shards_evenly() {
        let mut shards = [0_u32; 8];
        let mut key = BytesMut::new();
        for number in 0..100_000 {
            KeyFormat::Spread.write(number, &mut key);
            assert_eq!(key.len(), 16);
            shards[usize::from(key[0] >> 5)] += 1;
        }
        assert!(shards.iter().all(|keys| (12_000..13_000).contains(keys)), "{shards:?}");
    }

    #[test]
    fn prefixes_are_where_even_shards_begin() {
        let even = flotilla::splits::even_splits(8).unwrap();
        for (shard, start) in (1..8).zip(even) {
            assert_eq!(shard_prefix(shard, 8), start[..]);
        }
        assert_eq!(shard_prefix(0, 8), [0, 0]);
    }
}
