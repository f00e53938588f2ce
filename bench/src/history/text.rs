//! Bytes as the text that stands for them in a history.
//!
//! Different bytes have different texts, but for collisions of a 64-bit hash among long values:
//! so texts can be compared in place of the bytes, and a value that was mixed of two or cut short is
//! one that nobody wrote.
//!
//! The driver's values begin with the numbers of their writer and write: those are told as such.

use std::fmt::Write;

use crate::workload::ValueName;

use super::sample::hash;

/// Longer values are told by their beginning and their hash.
const WHOLE_BYTES_MAX: usize = 48;

/// How much of a long value is told: enough for the name of its writer.
const BEGINNING_BYTES: usize = 32;

/// The text of a key: all of it, what is not printable as `\xNN`.
pub fn of_key(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

/// The text of a value.
pub fn of_value(value: &[u8]) -> String {
    // A writer's number begins with a zero byte, as no text does.
    let name = ValueName::of(value).filter(|_| value[0] == 0);
    let mut text = match name {
        Some(ValueName { client, sequence }) => {
            // The driver counts the writes of each of its phases from 0, below the phase.
            format!("client {client} write {}:{}", sequence >> 48, sequence & 0xffff_ffff_ffff)
        }
        None if value.len() <= WHOLE_BYTES_MAX => return value.escape_ascii().to_string(),
        None => value[..BEGINNING_BYTES].escape_ascii().to_string(),
    };
    write!(text, "…{}B#{:016x}", value.len(), hash(value)).expect("a String takes everything");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_keep_the_name_of_their_writer_and_differ_in_every_byte() {
        let value = [b"w0001k000001 write 7 ".to_vec(), vec![b'h'; 1_000]].concat();
        let text = of_value(&value);
        assert!(text.starts_with("w0001k000001 write 7 hhh") && text.len() < 80, "{text}");
        for at in [0, 20, 500, value.len() - 1] {
            let mut other = value.clone();
            other[at] ^= 1;
            assert_ne!(of_value(&other), text);
        }
        assert_ne!(of_value(&value[..999]), text);
    }

    #[test]
    fn the_drivers_values_are_named() {
        let value =
            [&3_u32.to_be_bytes()[..], &(17_u64 | 2 << 48).to_be_bytes(), &[0xff; 100]].concat();
        assert!(of_value(&value).starts_with("client 3 write 2:17…112B#"), "{}", of_value(&value));
        assert!(of_value(&value[..12]).starts_with("client 3 write 2:17…12B#"));
    }

    #[test]
    fn short_bytes_are_told_whole() {
        assert_eq!(of_value(b"v"), "v");
        assert_eq!(of_key(b"\x00a\"\\"), "\\x00a\\\"\\\\");
    }
}
