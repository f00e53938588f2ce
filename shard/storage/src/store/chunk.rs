//! Rows on their way from one store to another: chunks of stored rows, and the digest of them all.
//!
//! A chunk is rows in key order, each as the length of its key, the length of its stored form (both
//! u32), the key and the stored form, whose checksum covers the key. Whatever the stored form keeps
//! (version, flags, expiry) travels with it. Fixed in `docs/store-format.md`.
//!
//! The digest notices rows that are missing, doubled or out of order; the rows themselves are
//! covered by their checksums, which both ends verify.

use bytes::{Buf, BufMut, Bytes};

use super::row;

/// What a row costs in a chunk beyond key and stored form.
const ROW_OVERHEAD_BYTES: usize = 8;
/// Odd, without a pattern: the golden ratio as a fraction of 2^64.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// How many rows there were, and what they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) rows: u64,
    pub(crate) value: u64,
}

impl Digest {
    /// Adds the next row.
    pub(crate) fn add(&mut self, key: &[u8], stored: &[u8]) {
        // The first four bytes of a stored row are its checksum, over its key too.
        let crc = stored.first_chunk::<4>().map_or(0, |crc| u32::from_le_bytes(*crc));
        let lengths = ((key.len() as u64) << 32) ^ stored.len() as u64;
        for word in [u64::from(crc), lengths] {
            let mixed = (self.value ^ word).wrapping_mul(MULTIPLIER);
            self.value = mixed ^ (mixed >> 29);
        }
        self.rows += 1;
    }
}

/// Bytes that a row takes in a chunk.
pub(crate) fn row_bytes(key: &[u8], stored: &[u8]) -> usize {
    ROW_OVERHEAD_BYTES + key.len() + stored.len()
}

/// Appends a row.
pub(crate) fn put_row(out: &mut Vec<u8>, key: &[u8], stored: &[u8]) {
    for part in [key, stored] {
        let len = u32::try_from(part.len()).expect("keys and rows stay far below 4 GiB");
        out.put_u32_le(len);
    }
    out.put_slice(key);
    out.put_slice(stored);
}

/// The rows of a chunk, each checked against its checksum.
///
/// # Errors
///
/// What is wrong with the chunk, in words.
pub(crate) fn decode(chunk: &Bytes) -> Result<Vec<(Bytes, Bytes)>, String> {
    let mut rest = chunk.clone();
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let cut = || format!("a chunk of {} bytes ends inside a row", chunk.len());
        let key_len = rest.try_get_u32_le().map_err(|_| cut())? as usize;
        let stored_len = rest.try_get_u32_le().map_err(|_| cut())? as usize;
        if key_len.checked_add(stored_len).is_none_or(|len| len > rest.len()) {
            return Err(cut());
        }
        let (key, stored) = (rest.split_to(key_len), rest.split_to(stored_len));
        row::decode(&key, &stored)?;
        rows.push((key, stored));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::super::row::Row;
    use super::*;

    fn stored(key: &[u8], value: &'static [u8]) -> Vec<u8> {
        let row = Row { version: 3, flags: 1, expires_at_ms: Some(9), value: value.into() };
        let mut out = Vec::new();
        row::encode(key, &row, &mut out);
        out
    }

    fn chunk() -> Bytes {
        let mut out = Vec::new();
        for (key, value) in [(&b"a"[..], &b"one"[..]), (b"", b""), (b"key", b"two")] {
            put_row(&mut out, key, &stored(key, value));
        }
        out.into()
    }

    #[test]
    fn rows_survive_the_round_trip() {
        let rows = decode(&chunk()).unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[2].0, "key");
        assert_eq!(rows[2].1, stored(b"key", b"two"));
        let bytes: usize = rows.iter().map(|(key, stored)| row_bytes(key, stored)).sum();
        assert_eq!(bytes, chunk().len());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_inside_a_row_is_noticed() {
        let chunk = chunk();
        let whole = decode(&chunk).unwrap();
        for bit in 0..chunk.len() * 8 {
            let mut damaged = chunk.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged.into()).is_err(), "bit {bit}");
        }
        for len in 0..chunk.len() {
            // A cut between two rows shows in the digest.
            let rows = decode(&chunk.slice(..len)).map_or(0, |rows| rows.len());
            assert!(rows < whole.len(), "cut to {len}");
        }
    }

    #[test]
    fn the_digest_notices_what_is_missing_doubled_or_swapped() {
        let digest = |order: &[usize]| {
            let rows = decode(&chunk()).unwrap();
            let mut digest = Digest::default();
            order.iter().for_each(|at| digest.add(&rows[*at].0, &rows[*at].1));
            digest.value
        };
        let orders: [&[usize]; 6] = [&[], &[0], &[0, 1], &[1, 0], &[0, 0, 1], &[0, 1, 2]];
        for (at, first) in orders.iter().enumerate() {
            for second in &orders[at + 1..] {
                assert_ne!(digest(first), digest(second), "{first:?} {second:?}");
            }
        }
    }
}
