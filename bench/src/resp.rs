//! The client's side of the Redis protocol: commands out, scalar replies in.
//!
//! Written apart from the server's codec, so that a mistake in one is not excused by the other.
//! Replies are parsed in place; nothing is allocated for them.

use bytes::{BufMut, BytesMut};

/// The longest line that a reply may have. Errors are one line.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A reply that is not a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `+OK`
    Simple(&'a [u8]),
    /// `-ERR …`, without the dash.
    Error(&'a [u8]),
    /// `:1`
    Integer(i64),
    /// `$3…`; `None` is the null bulk string.
    Bulk(Option<&'a [u8]>),
}

/// Bytes that are no reply, or none that this client asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct BadReply(pub String);

impl std::fmt::Display for BadReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not a reply: {}", self.0)
    }
}

impl std::error::Error for BadReply {}

/// Appends `SET key value`.
pub fn put_set(out: &mut BytesMut, key: &[u8], value: &[u8]) {
    out.put_slice(b"*3\r\n$3\r\nSET\r\n");
    put_bulk(out, key);
    put_bulk(out, value);
}

/// Appends `GET key`.
pub fn put_get(out: &mut BytesMut, key: &[u8]) {
    out.put_slice(b"*2\r\n$3\r\nGET\r\n");
    put_bulk(out, key);
}

/// Appends any command; the first word is its name.
pub fn put_command(out: &mut BytesMut, words: &[&[u8]]) {
    out.put_u8(b'*');
    put_decimal(out, words.len());
    out.put_slice(b"\r\n");
    words.iter().for_each(|word| put_bulk(out, word));
}

fn put_bulk(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u8(b'$');
    put_decimal(out, bytes.len());
    out.put_slice(b"\r\n");
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

fn put_decimal(out: &mut BytesMut, mut number: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

/// The first reply in `input` and how many bytes it has; `None` if it is not all there yet.
///
/// # Errors
///
/// [`BadReply`] for what is not RESP, and for collections: no command of this client has one as its
/// reply.
pub fn parse(input: &[u8]) -> Result<Option<(Reply<'_>, usize)>, BadReply> {
    let Some(end) = input.iter().position(|byte| *byte == b'\r') else {
        return match input.len() > LINE_BYTES_MAX {
            true => Err(BadReply("a line without an end".to_owned())),
            false => Ok(None),
        };
    };
    let Some(newline) = input.get(end + 1) else { return Ok(None) };
    if *newline != b'\n' || end == 0 {
        return Err(BadReply(excerpt(input)));
    }
    let (line, length) = (&input[1..end], end + 2);
    match input[0] {
        b'+' => Ok(Some((Reply::Simple(line), length))),
        b'-' => Ok(Some((Reply::Error(line), length))),
        b':' => Ok(Some((Reply::Integer(integer(line)?), length))),
        b'$' => parse_bulk(input, integer(line)?, length),
        _ => Err(BadReply(excerpt(input))),
    }
}

fn parse_bulk(
    input: &[u8],
    bytes: i64,
    head: usize,
) -> Result<Option<(Reply<'_>, usize)>, BadReply> {
    if bytes == -1 {
        return Ok(Some((Reply::Bulk(None), head)));
    }
    let bytes = usize::try_from(bytes).map_err(|_| BadReply(excerpt(input)))?;
    let Some(tail) = input.get(head..).filter(|rest| rest.len() >= bytes + 2) else {
        return Ok(None);
    };
    if &tail[bytes..bytes + 2] != b"\r\n" {
        return Err(BadReply("a bulk string is longer than it says".to_owned()));
    }
    Ok(Some((Reply::Bulk(Some(&tail[..bytes])), head + bytes + 2)))
}

fn integer(line: &[u8]) -> Result<i64, BadReply> {
    let number = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| BadReply(excerpt(line)))
}

fn excerpt(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(60)].escape_ascii().to_string()
}

/// What an error reply to a command says about its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Certainly without effect; the same command may be sent again.
    Certain,
    /// Whether it had an effect is unknown, and it may still come.
    InDoubt,
}

/// Reads the first word of an error. What is not a promise counts as a doubt.
pub fn classify(error: &[u8]) -> Refusal {
    match error_kind(error) {
        b"BUSY" | b"TRYAGAIN" | b"DISKFULL" | b"CROSSSLOT" => Refusal::Certain,
        _ => Refusal::InDoubt,
    }
}

/// The first word of an error.
pub fn error_kind(error: &[u8]) -> &[u8] {
    error.split(|byte| *byte == b' ').next().unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_what_redis_clients_send() {
        let mut out = BytesMut::new();
        put_set(&mut out, b"k", b"0123456789");
        put_get(&mut out, b"");
        put_command(&mut out, &[b"INCR", b"n"]);
        let want: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10\r\n0123456789\r\n\
            *2\r\n$3\r\nGET\r\n$0\r\n\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n";
        assert_eq!(&out[..], want);
    }

    #[test]
    fn replies_are_parsed_only_when_complete() {
        let cases: [(&[u8], Reply<'_>); 6] = [
            (b"+OK\r\n", Reply::Simple(b"OK")),
            (b"-BUSY later\r\n", Reply::Error(b"BUSY later")),
            (b":-12\r\n", Reply::Integer(-12)),
            (b"$-1\r\n", Reply::Bulk(None)),
            (b"$0\r\n\r\n", Reply::Bulk(Some(b""))),
            (b"$4\r\na\r\nb\r\n", Reply::Bulk(Some(b"a\r\nb"))),
        ];
        for (bytes, want) in cases {
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{}", excerpt(&bytes[..cut]));
            }
            let mut more = bytes.to_vec();
            more.extend_from_slice(b"+next");
            assert_eq!(parse(&more), Ok(Some((want, bytes.len()))));
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bad in
            [&b"OK\r\n"[..], b"\r\n", b":x\r\n", b"$-2\r\n", b"*1\r\n", b"+a\rb", b"$1\r\nabc"]
        {
            assert!(parse(bad).is_err(), "{}", excerpt(bad));
        }
    }

    #[test]
    fn only_promises_are_certain() {
        assert_eq!(classify(b"BUSY retry after 10ms"), Refusal::Certain);
        assert_eq!(classify(b"TRYAGAIN no leader"), Refusal::Certain);
        assert_eq!(classify(b"INDOUBT timed out"), Refusal::InDoubt);
        assert_eq!(classify(b"ERR storage"), Refusal::InDoubt);
    }
}
