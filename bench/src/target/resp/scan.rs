//! Commands and replies of more than one value.
//!
//! Over the Redis protocol there is no scan from a key on. What comes closest is `SCAN` for the keys
//! that begin alike, which come in key order, and `MGET` for their values.

use bytes::{Bytes, BytesMut};

use crate::resp::{self, BadReply, Reply};

/// A reply to one half of a scan.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ScanReply<'a> {
    /// To `SCAN`.
    Keys(Vec<&'a [u8]>),
    /// To `MGET`: how many were there.
    Values(u32),
    Error(&'a [u8]),
}

/// `SCAN 0 MATCH prefix* COUNT limit`.
pub(super) fn put_scan(out: &mut BytesMut, prefix: &[u8], limit: u32) {
    let mut pattern = Vec::with_capacity(2 * prefix.len() + 1);
    for byte in prefix {
        if b"*?[]\\^-".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    let limit = limit.to_string();
    resp::put_command(out, &[b"SCAN", b"0", b"MATCH", &pattern, b"COUNT", limit.as_bytes()]);
}

/// `MGET keys`.
pub(super) fn put_mget(out: &mut BytesMut, keys: &[&[u8]]) {
    let mut words: Vec<&[u8]> = vec![b"MGET"];
    words.extend_from_slice(keys);
    resp::put_command(out, &words);
}

/// `MSET key value …`.
pub(super) fn put_mset(out: &mut BytesMut, pairs: &[(Bytes, Bytes)]) {
    let mut words: Vec<&[u8]> = vec![b"MSET"];
    words.extend(pairs.iter().flat_map(|(key, value)| [&key[..], &value[..]]));
    resp::put_command(out, &words);
}

/// The reply to `SCAN` or `MGET` at the beginning of `input`, and how many bytes it has; `None` if it
/// is not all there yet.
///
/// # Errors
///
/// [`BadReply`] for anything else.
pub(super) fn parse(input: &[u8]) -> Result<Option<(ScanReply<'_>, usize)>, BadReply> {
    match input.first() {
        None => return Ok(None),
        Some(b'*') => {}
        Some(_) => {
            return match resp::parse(input)? {
                None => Ok(None),
                Some((Reply::Error(error), length)) => Ok(Some((ScanReply::Error(error), length))),
                Some(_) => Err(unexpected()),
            };
        }
    }
    let Some((count, mut at)) = array(input)? else { return Ok(None) };
    let is_scan = count == 2 && {
        // The reply to SCAN is a cursor and an array; that to MGET has no arrays in it.
        let Some((_, cursor)) = resp::parse(&input[at..])? else { return Ok(None) };
        match input.get(at + cursor) {
            None => return Ok(None),
            Some(byte) => *byte == b'*',
        }
    };
    let mut items = count;
    if is_scan {
        let Some((_, cursor)) = resp::parse(&input[at..])? else { return Ok(None) };
        at += cursor;
        let Some((keys, head)) = array(&input[at..])? else { return Ok(None) };
        at += head;
        items = keys;
    }
    let (mut keys, mut rows) = (Vec::new(), 0);
    for _ in 0..items {
        let Some((reply, length)) = resp::parse(&input[at..])? else { return Ok(None) };
        let Reply::Bulk(value) = reply else { return Err(unexpected()) };
        at += length;
        rows += u32::from(value.is_some());
        if is_scan {
            keys.push(value.ok_or_else(unexpected)?);
        }
    }
    let reply = if is_scan { ScanReply::Keys(keys) } else { ScanReply::Values(rows) };
    Ok(Some((reply, at)))
}

/// The length of the array that begins here, and where its first item is.
fn array(input: &[u8]) -> Result<Option<(usize, usize)>, BadReply> {
    let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let count = std::str::from_utf8(&input[1..end]).ok().and_then(|text| text.parse().ok());
    match count {
        Some(count) if input[0] == b'*' => Ok(Some((count, end + 2))),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> BadReply {
    BadReply("neither a page of keys nor values".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_taken_only_when_complete() {
        let cases: [(&[u8], ScanReply<'_>); 5] = [
            (b"*2\r\n$1\r\n7\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n", ScanReply::Keys(vec![b"a", b"b"])),
            (b"*2\r\n$1\r\n0\r\n*0\r\n", ScanReply::Keys(vec![])),
            (b"*3\r\n$1\r\na\r\n$-1\r\n$0\r\n\r\n", ScanReply::Values(2)),
            (b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", ScanReply::Values(2)),
            (b"-BUSY later\r\n", ScanReply::Error(b"BUSY later")),
        ];
        for (bytes, want) in cases {
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{}", bytes[..cut].escape_ascii());
            }
            assert_eq!(parse(bytes), Ok(Some((want, bytes.len()))));
        }
        assert!(parse(b"+OK\r\n").is_err());
    }

    #[test]
    fn prefixes_are_taken_as_they_are() {
        let mut out = BytesMut::new();
        put_scan(&mut out, b"a*\xff", 10);
        let want: &[u8] =
            b"*6\r\n$4\r\nSCAN\r\n$1\r\n0\r\n$5\r\nMATCH\r\n$5\r\na\\*\xff*\r\n$5\r\nCOUNT\r\n$2\r\n10\r\n";
        assert_eq!(&out[..], want);
    }
}
