//! The demo's keys: names of two and more letters, so that they fall evenly into shards that begin
//! at letters, and what people type by hand falls somewhere too.

use bytes::Bytes;

const LETTERS: u64 = 26;

/// One shard per two-letter beginning at most.
pub const SHARDS_MAX: u32 = 676;

/// The first keys of all shards but the first, even over two-letter beginnings.
///
/// # Panics
///
/// If `shards` is 0 or above [`SHARDS_MAX`].
pub fn splits(shards: u32) -> Vec<Bytes> {
    assert!((1..=SHARDS_MAX).contains(&shards), "{shards} shards");
    (1..shards)
        .map(|shard| {
            let pair = u64::from(shard) * u64::from(SHARDS_MAX) / u64::from(shards);
            Bytes::from(vec![letter(pair / LETTERS), letter(pair % LETTERS)])
        })
        .collect()
}

/// The `number`th key: four letters that follow from the number, and the number.
pub fn key(number: u64) -> Bytes {
    Bytes::from(key_text(number))
}

/// The `number`th key as text.
pub fn key_text(number: u64) -> String {
    let mut mixed = mix(number);
    let mut text = String::with_capacity(16);
    for _ in 0..4 {
        text.push(char::from(letter(mixed % LETTERS)));
        mixed /= LETTERS;
    }
    text.push_str(&format!(":{number:06}"));
    text
}

/// The value that belongs to the `number`th key: whoever reads it can tell that it is right.
pub fn value(number: u64) -> Bytes {
    let name = key_text(number);
    let mut text = format!("{{\"ship\":\"{name}\",\"number\":{number},\"log\":\"");
    while text.len() < 200 {
        text.push_str(&format!("{:016x}", mix(number ^ text.len() as u64)));
    }
    text.push_str("\"}");
    Bytes::from(text)
}

/// Spreads numbers over all 64 bits (the finalizer of SplitMix64).
pub fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn letter(position: u64) -> u8 {
    b'a' + u8::try_from(position % LETTERS).expect("a remainder of 26 is below 256")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_ascend_for_every_number_of_shards() {
        for shards in 1..=SHARDS_MAX {
            let keys = splits(shards);
            assert_eq!(keys.len() as u32, shards - 1);
            flotilla::splits::check_splits(&keys).unwrap();
        }
    }

    #[test]
    fn keys_fall_evenly_into_the_shards() {
        let splits = splits(8);
        let mut counts = [0_u32; 8];
        for number in 0..20_000 {
            let key = key(number);
            counts[splits.partition_point(|split| *split <= key)] += 1;
        }
        assert!(counts.iter().all(|count| (2_200..2_800).contains(count)), "{counts:?}");
    }
}
