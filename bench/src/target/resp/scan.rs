//! Commands and replies of more than one value.
//!
//! A scan is `FLOTILLA.RANGE`: rows from a key on, in order. Its reply says where to go on when it
//! does not hold all that was asked for.

use bytes::{Bytes, BytesMut};

use crate::resp::{self, BadReply, Reply};

/// A reply to a scan.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ScanReply<'a> {
    Rows {
        /// Where to go on; `None` at the end of all keys.
        next: Option<&'a [u8]>,
        /// How many there are in this reply.
        rows: u32,
    },
    Error(&'a [u8]),
}

/// `FLOTILLA.RANGE start "" LIMIT limit`.
pub(super) fn put_range(out: &mut BytesMut, start: &[u8], limit: u32) {
    let limit = limit.to_string();
    resp::put_command(out, &[b"FLOTILLA.RANGE", start, b"", b"LIMIT", limit.as_bytes()]);
}

/// `MSET key value …`.
pub(super) fn put_mset(out: &mut BytesMut, pairs: &[(Bytes, Bytes)]) {
    let mut words: Vec<&[u8]> = vec![b"MSET"];
    words.extend(pairs.iter().flat_map(|(key, value)| [&key[..], &value[..]]));
    resp::put_command(out, &words);
}

/// The reply to a scan at the beginning of `input`, and how many bytes it has; `None` if it is not
/// all there yet.
///
/// # Errors
///
/// [`BadReply`] for anything else, and for rows that are not in order from where they begin.
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
    let Some((2, mut at)) = array(input)? else {
        return if array(input)?.is_none() { Ok(None) } else { Err(unexpected()) };
    };
    let Some(next) = text(input, &mut at)? else { return Ok(None) };
    let Some((items, head)) = array(&input[at..])? else { return Ok(None) };
    at += head;
    if items % 2 != 0 {
        return Err(unexpected());
    }
    let mut last: Option<&[u8]> = None;
    for _ in 0..items / 2 {
        let Some(key) = text(input, &mut at)? else { return Ok(None) };
        let Some(_value) = text(input, &mut at)? else { return Ok(None) };
        if last.replace(key).is_some_and(|last| last >= key) {
            return Err(BadReply("rows that are not in order".to_owned()));
        }
    }
    let next = (!next.is_empty()).then_some(next);
    Ok(Some((ScanReply::Rows { next, rows: (items / 2) as u32 }, at)))
}

/// The string at `at`, which is moved behind it.
fn text<'a>(input: &'a [u8], at: &mut usize) -> Result<Option<&'a [u8]>, BadReply> {
    match resp::parse(&input[*at..])? {
        None => Ok(None),
        Some((Reply::Bulk(Some(text)), length)) => {
            *at += length;
            Ok(Some(text))
        }
        Some(_) => Err(unexpected()),
    }
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
    BadReply("no rows of a range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_taken_only_when_complete() {
        let cases: [(&[u8], ScanReply<'_>); 4] = [
            (
                b"*2\r\n$1\r\n7\r\n*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$0\r\n\r\n",
                ScanReply::Rows { next: Some(b"7"), rows: 2 },
            ),
            (
                b"*2\r\n$0\r\n\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n",
                ScanReply::Rows { next: None, rows: 1 },
            ),
            (b"*2\r\n$0\r\n\r\n*0\r\n", ScanReply::Rows { next: None, rows: 0 }),
            (b"-BUSY later\r\n", ScanReply::Error(b"BUSY later")),
        ];
        for (bytes, want) in cases {
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{}", bytes[..cut].escape_ascii());
            }
            assert_eq!(parse(bytes), Ok(Some((want, bytes.len()))));
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bytes in [
            &b"+OK\r\n"[..],
            b"*1\r\n$1\r\na\r\n",
            b"*2\r\n$-1\r\n*0\r\n",
            b"*2\r\n$0\r\n\r\n*1\r\n$1\r\na\r\n",
            b"*2\r\n$0\r\n\r\n*2\r\n$1\r\na\r\n$-1\r\n",
            b"*2\r\n$0\r\n\r\n*4\r\n$1\r\nb\r\n$0\r\n\r\n$1\r\na\r\n$0\r\n\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }
}
