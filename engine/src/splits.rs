//! Where a cluster's shards begin, and how people write the keys that say so.
//!
//! A new cluster is cut into shards once, at its birth: either evenly ([`even_splits`]) or at keys
//! that the operator chose ([`parse_key`] reads them). A split key is the first key of the shard on
//! its right; `n` split keys make `n + 1` shards.
//!
//! What is absent: which node holds what, and whether a cluster was born with these splits. Genesis
//! compares.

use bytes::Bytes;

/// The largest number of shards that [`even_splits`] makes.
///
/// Each shard costs every node a Raft group with its timers and memtable; more than this at birth
/// is more likely a slip of the keyboard than a plan. Two key bytes would allow 65,536.
pub const SHARDS_MAX: u32 = 4096;

/// Why split keys were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// The number of shards is zero or above [`SHARDS_MAX`].
    #[error("{shards} shards are out of range: give 1 to {SHARDS_MAX}")]
    Shards {
        /// The number that was asked for.
        shards: u32,
    },
    /// A written key has a backslash that begins no known escape.
    #[error(
        "key `{text}` has a bad escape at byte {position}: write \\xNN with two hex digits, or \\\\ \
         for a backslash"
    )]
    Escape {
        /// The key as written.
        text: String,
        /// Byte offset of the backslash in `text`.
        position: usize,
    },
    /// A split key is empty: the first shard begins at the empty key by itself.
    #[error("a split key is empty: the first shard begins at the lowest key by itself")]
    Empty,
    /// Two split keys are the same, or not in ascending order.
    #[error("split keys must ascend, each once: `{right}` follows `{left}`")]
    Order {
        /// The earlier key, escaped.
        left: String,
        /// The key that should have been above it, escaped.
        right: String,
    },
}

/// The split keys that cut the key space into `shards` even parts over its first two bytes.
///
/// Part `i` begins at `i * 65536 / shards`, written as two bytes, highest first. "Even" is about
/// bytes, not about anybody's keys: keys that all begin with the same two letters fall into one
/// shard, and want split keys of their own.
///
/// # Errors
///
/// [`SplitError::Shards`] unless `shards` is in `1..=SHARDS_MAX`.
pub fn even_splits(shards: u32) -> Result<Vec<Bytes>, SplitError> {
    if shards == 0 || shards > SHARDS_MAX {
        return Err(SplitError::Shards { shards });
    }
    let boundary = |part: u32| {
        let start = u64::from(part) * 65_536 / u64::from(shards);
        let start = u16::try_from(start).expect("a part before the last begins below 65,536");
        Bytes::copy_from_slice(&start.to_be_bytes())
    };
    Ok((1..shards).map(boundary).collect())
}

/// Reads a key as people write it: text, with `\xNN` for any byte and `\\` for a backslash.
///
/// # Errors
///
/// [`SplitError::Escape`] for a backslash that begins neither.
pub fn parse_key(text: &str) -> Result<Bytes, SplitError> {
    let bytes = text.as_bytes();
    let mut key = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while position < bytes.len() {
        if bytes[position] != b'\\' {
            key.push(bytes[position]);
            position += 1;
            continue;
        }
        let bad = || SplitError::Escape { text: text.to_owned(), position };
        match bytes.get(position + 1) {
            Some(b'\\') => {
                key.push(b'\\');
                position += 2;
            }
            Some(b'x') => {
                let high = bytes.get(position + 2).copied().and_then(hex_digit).ok_or_else(bad)?;
                let low = bytes.get(position + 3).copied().and_then(hex_digit).ok_or_else(bad)?;
                key.push(high << 4 | low);
                position += 4;
            }
            _ => return Err(bad()),
        }
    }
    Ok(Bytes::from(key))
}

/// Writes a key so that [`parse_key`] reads it back: printable ASCII as it is, other bytes as `\xNN`.
///
/// A comma is escaped too: lists of keys are separated by commas on the command line.
pub fn escape_key(key: &[u8]) -> String {
    use std::fmt::Write;

    let mut text = String::with_capacity(key.len());
    for &byte in key {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b',' => text.push_str("\\x2c"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => write!(text, "\\x{byte:02x}").expect("writing to a String cannot fail"),
        }
    }
    text
}

/// Checks that split keys ascend, each once, and none is empty.
///
/// # Errors
///
/// [`SplitError::Empty`] or [`SplitError::Order`], for the first offence; [`SplitError::Shards`] if
/// they would make more than [`SHARDS_MAX`] shards.
pub fn check_splits(keys: &[Bytes]) -> Result<(), SplitError> {
    let shards = u32::try_from(keys.len()).unwrap_or(u32::MAX).saturating_add(1);
    if shards > SHARDS_MAX {
        return Err(SplitError::Shards { shards });
    }
    if keys.iter().any(Bytes::is_empty) {
        return Err(SplitError::Empty);
    }
    for pair in keys.windows(2) {
        if pair[0] >= pair[1] {
            return Err(SplitError::Order {
                left: escape_key(&pair[0]),
                right: escape_key(&pair[1]),
            });
        }
    }
    Ok(())
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_splits_are_even_ascending_and_limited() {
        assert_eq!(even_splits(1).unwrap(), Vec::<Bytes>::new());
        assert_eq!(even_splits(2).unwrap(), [Bytes::from_static(b"\x80\x00")]);
        let eight = even_splits(8).unwrap();
        assert_eq!(eight.len(), 7);
        assert_eq!(eight[0], Bytes::from_static(b"\x20\x00"));
        assert_eq!(eight[6], Bytes::from_static(b"\xe0\x00"));
        for shards in [1, 2, 3, 7, 8, 100, 1000, SHARDS_MAX] {
            let keys = even_splits(shards).unwrap();
            assert_eq!(keys.len(), shards as usize - 1);
            check_splits(&keys).unwrap();
        }
        assert_eq!(even_splits(0), Err(SplitError::Shards { shards: 0 }));
        assert_eq!(even_splits(SHARDS_MAX + 1), Err(SplitError::Shards { shards: SHARDS_MAX + 1 }));
    }

    #[test]
    fn keys_survive_being_written_and_read() {
        let every_byte: Vec<u8> = (0..=255).collect();
        assert_eq!(parse_key(&escape_key(&every_byte)).unwrap(), every_byte);
        assert_eq!(parse_key("key:0000\\x00\\xFf\\\\").unwrap(), &b"key:0000\x00\xff\\"[..]);
        assert_eq!(parse_key("ключ").unwrap(), "ключ".as_bytes());
    }

    #[test]
    fn bad_escapes_are_refused_where_they_stand() {
        for (text, position) in [("a\\", 1), ("\\n", 0), ("ab\\x", 2), ("\\x1", 0), ("\\xg0", 0)] {
            let bad = SplitError::Escape { text: text.to_owned(), position };
            assert_eq!(parse_key(text), Err(bad), "{text}");
        }
    }

    #[test]
    fn splits_must_ascend() {
        let keys = |texts: &[&str]| -> Vec<Bytes> {
            texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect()
        };
        assert_eq!(check_splits(&keys(&["a", "b"])), Ok(()));
        assert_eq!(check_splits(&keys(&["a", ""])), Err(SplitError::Empty));
        let order = SplitError::Order { left: "b".into(), right: "b".into() };
        assert_eq!(check_splits(&keys(&["a", "b", "b"])), Err(order));
    }
}
