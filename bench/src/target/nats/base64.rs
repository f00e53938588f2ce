//! Base64: JetStream answers values in it, and keys become subjects by it.

use bytes::{BufMut, Bytes, BytesMut};

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// For each byte its value in [`STANDARD`]; 64 for bytes that are not in it.
const VALUES: [u8; 256] = {
    let mut values = [64; 256];
    let mut value = 0;
    while value < 64 {
        values[STANDARD[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// Appends `bytes` in the URL-safe alphabet without padding: any bytes become a part of a subject.
pub(super) fn put_url_safe(out: &mut BytesMut, bytes: &[u8]) {
    for group in bytes.chunks(3) {
        let mut bits = 0_u32;
        for at in 0..3 {
            bits = bits << 8 | u32::from(group.get(at).copied().unwrap_or(0));
        }
        for at in 0..=group.len() {
            out.put_u8(URL_SAFE[(bits >> (18 - 6 * at) & 63) as usize]);
        }
    }
}

/// Reads the padded standard alphabet; `None` if `text` is not that.
pub(super) fn decode(text: &[u8]) -> Option<Bytes> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    let text = &text[..text.len() - padding];
    let mut out = BytesMut::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for at in 0..4 {
            let value = group.get(at).map_or(0, |byte| VALUES[usize::from(*byte)]);
            if value == 64 {
                return None;
            }
            bits = bits << 6 | u32::from(value);
        }
        out.put_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_vectors_of_the_standard_are_met() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(decode(encoded.as_bytes()).unwrap(), plain.as_bytes());
            let mut out = BytesMut::new();
            put_url_safe(&mut out, plain.as_bytes());
            assert_eq!(&out[..], encoded.trim_end_matches('=').as_bytes());
        }
    }

    #[test]
    fn all_bytes_are_read_back_and_make_subjects() {
        let all: Vec<u8> = (0..=255).collect();
        let mut out = BytesMut::new();
        put_url_safe(&mut out, &all);
        assert!(out.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
        let mut standard: Vec<u8> = out
            .iter()
            .map(|byte| match byte {
                b'-' => b'+',
                b'_' => b'/',
                other => *other,
            })
            .collect();
        standard.resize(standard.len().next_multiple_of(4), b'=');
        assert_eq!(decode(&standard).unwrap(), &all[..]);
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for bad in ["a", "ab", "abc", "ab=c", "a===", "ab\ncd===", "ab-_"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
