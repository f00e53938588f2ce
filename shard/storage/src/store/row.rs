//! One stored row: value, version, flags, optional expiry, and a checksum over key and value.
//!
//! redb verifies its page checksums only on repair, so each row carries its own. It covers the key
//! too: a row that turns up under another key is as wrong as a flipped bit. The layout is fixed in
//! `docs/store-format.md`.
//!
//! What is absent: clocks. A row past its expiry is still a row here; whoever reads it says what
//! time it is.

use bytes::Bytes;

/// Bit of the header's first byte after the checksum: an expiry follows the version.
const HAS_EXPIRY: u8 = 1;

/// A value and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The shard's version counter when the row was written. Grows with every command.
    pub version: u64,
    /// Eight bits for the layers above; the store keeps and returns them.
    pub flags: u8,
    /// When the row expires, in milliseconds since the Unix epoch by the shard's clock. `None`:
    /// never.
    pub expires_at_ms: Option<u64>,
    /// The value.
    pub value: Bytes,
}

impl Row {
    /// True if the row is absent for whoever reads at `now_ms`.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        is_expired(self.expires_at_ms, now_ms)
    }
}

/// True if a row with this expiry is absent at `now_ms`.
pub(crate) fn is_expired(expires_at_ms: Option<u64>, now_ms: u64) -> bool {
    expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms <= now_ms)
}

/// Appends the stored form of `row` under `key` to `out`, which is cleared first.
pub(crate) fn encode(key: &[u8], row: &Row, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; 4]);
    out.push(if row.expires_at_ms.is_some() { HAS_EXPIRY } else { 0 });
    out.push(row.flags);
    out.extend_from_slice(&row.version.to_le_bytes());
    if let Some(expires_at_ms) = row.expires_at_ms {
        out.extend_from_slice(&expires_at_ms.to_le_bytes());
    }
    out.extend_from_slice(&row.value);
    let crc = checksum(key, &out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
}

/// A stored row, checked, its value still where redb has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stored<'a> {
    pub(crate) version: u64,
    pub(crate) flags: u8,
    pub(crate) expires_at_ms: Option<u64>,
    pub(crate) value: &'a [u8],
}

impl Stored<'_> {
    /// The row, with a copy of its value.
    pub(crate) fn to_row(&self) -> Row {
        self.with_value(Bytes::copy_from_slice(self.value))
    }

    /// The row with `value` instead of its own, for readers of keys only.
    pub(crate) fn with_value(&self, value: Bytes) -> Row {
        let Stored { version, flags, expires_at_ms, .. } = *self;
        Row { version, flags, expires_at_ms, value }
    }
}

/// Reads the stored form of the row under `key`.
///
/// # Errors
///
/// What does not match, in words, for [`StoreError::Corrupt`](super::StoreError::Corrupt).
pub(crate) fn decode<'a>(key: &[u8], stored: &'a [u8]) -> Result<Stored<'a>, String> {
    let Some((crc, body)) = stored.split_first_chunk::<4>() else {
        return Err(format!("a row of {} bytes has no room for its checksum", stored.len()));
    };
    let (want, got) = (u32::from_le_bytes(*crc), checksum(key, body));
    if want != got {
        return Err(format!("row checksum is {got:08x}, stored was {want:08x}"));
    }
    let short = || format!("a row of {} bytes ends inside its header", stored.len());
    let ([kind, flags], rest) = body.split_first_chunk::<2>().ok_or_else(short)?;
    let (version, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (expires_at_ms, value) = match *kind {
        0 => (None, rest),
        HAS_EXPIRY => {
            let (expires, value) = rest.split_first_chunk::<8>().ok_or_else(short)?;
            (Some(u64::from_le_bytes(*expires)), value)
        }
        kind => return Err(format!("unknown row kind {kind:#04x}: written by a later version?")),
    };
    Ok(Stored { version: u64::from_le_bytes(*version), flags: *flags, expires_at_ms, value })
}

/// The length of the key goes first: otherwise bytes could move between key and row unseen.
fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&(key.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, key), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(expires_at_ms: Option<u64>) -> Row {
        Row { version: 7, flags: 0x81, expires_at_ms, value: Bytes::from_static(b"value") }
    }

    #[test]
    fn a_row_survives_the_round_trip() {
        for expires_at_ms in [None, Some(0), Some(u64::MAX)] {
            let row = row(expires_at_ms);
            let mut stored = b"left over".to_vec();
            encode(b"key", &row, &mut stored);
            let header_bytes = if expires_at_ms.is_some() { 22 } else { 14 };
            assert_eq!(stored.len(), header_bytes + row.value.len());
            assert_eq!(decode(b"key", &stored).unwrap().to_row(), row);
        }
    }

    /// The bytes of the format document, so that a change of layout cannot go unnoticed.
    #[test]
    fn the_bytes_are_those_of_the_document() {
        let mut stored = Vec::new();
        encode(b"key", &row(Some(0x0102)), &mut stored);
        assert_eq!(stored[4..6], [1, 0x81]);
        assert_eq!(stored[6..14], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(stored[14..22], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&stored[22..], b"value");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut stored = Vec::new();
        encode(b"key", &row(Some(3)), &mut stored);
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(b"key", &damaged).is_err(), "bit {bit} flipped unseen");
        }
        for len in 0..stored.len() {
            assert!(decode(b"key", &stored[..len]).is_err(), "cut to {len} unseen");
        }
        assert!(decode(b"kex", &stored).is_err(), "a row under another key");
        assert!(decode(b"ke", &stored).is_err());
    }
}
