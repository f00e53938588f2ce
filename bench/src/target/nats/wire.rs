//! The text protocol of NATS, as far as a client of JetStream needs it.

use bytes::{BufMut, BytesMut};

/// The longest line. The INFO of a server of many addresses has some KiB.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A message of a subscription; `headers` is empty if it has none.
    Message {
        subject: &'a [u8],
        headers: &'a [u8],
        payload: &'a [u8],
    },
    /// JSON about the server.
    Info(&'a [u8]),
    Ping,
    Pong,
    Okay,
    /// `-ERR 'text'`, without the quotes.
    Error(&'a [u8]),
}

/// Bytes that are no frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a frame of NATS: {0}")]
pub(super) struct BadFrame(String);

fn bad(line: &[u8]) -> BadFrame {
    BadFrame(line[..line.len().min(60)].escape_ascii().to_string())
}

/// The first frame in `input` and how many bytes it has; `None` if it is not all there yet.
pub(super) fn parse(input: &[u8]) -> Result<Option<(Frame<'_>, usize)>, BadFrame> {
    let Some(newline) = input.iter().position(|byte| *byte == b'\n') else {
        return match input.len() > LINE_BYTES_MAX {
            true => Err(bad(input)),
            false => Ok(None),
        };
    };
    let line = input[..newline].strip_suffix(b"\r").ok_or_else(|| bad(input))?;
    let head = newline + 1;
    let (word, rest) = match line.iter().position(|byte| *byte == b' ') {
        Some(space) => (&line[..space], line[space + 1..].trim_ascii()),
        None => (line, &[][..]),
    };
    match word {
        b"MSG" => message(input, line, rest, head, false),
        b"HMSG" => message(input, line, rest, head, true),
        b"INFO" => Ok(Some((Frame::Info(rest), head))),
        b"PING" => Ok(Some((Frame::Ping, head))),
        b"PONG" => Ok(Some((Frame::Pong, head))),
        b"+OK" => Ok(Some((Frame::Okay, head))),
        b"-ERR" => {
            let text = rest.strip_prefix(b"'").and_then(|text| text.strip_suffix(b"'"));
            Ok(Some((Frame::Error(text.unwrap_or(rest)), head)))
        }
        _ => Err(bad(line)),
    }
}

/// `MSG subject sid [reply] bytes` or `HMSG subject sid [reply] header-bytes bytes`.
fn message<'a>(
    input: &'a [u8],
    line: &[u8],
    words: &'a [u8],
    head: usize,
    has_headers: bool,
) -> Result<Option<(Frame<'a>, usize)>, BadFrame> {
    let mut words = words.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let subject = words.next().ok_or_else(|| bad(line))?;
    let number = |word: Option<&[u8]>| -> Result<usize, BadFrame> {
        let text = word.and_then(|word| std::str::from_utf8(word).ok());
        text.and_then(|text| text.parse().ok()).ok_or_else(|| bad(line))
    };
    let total = number(words.next_back())?;
    let header_bytes = if has_headers { number(words.next_back())? } else { 0 };
    if header_bytes > total {
        return Err(bad(line));
    }
    let Some(body) = input.get(head..).filter(|body| body.len() >= total + 2) else {
        return Ok(None);
    };
    if &body[total..total + 2] != b"\r\n" {
        return Err(bad(line));
    }
    let (headers, payload) = body[..total].split_at(header_bytes);
    Ok(Some((Frame::Message { subject, headers, payload }, head + total + 2)))
}

/// The status in the first line of `headers`, such as 503 when nobody listens to a request.
pub(super) fn status(headers: &[u8]) -> Option<u16> {
    let rest = headers.strip_prefix(b"NATS/1.0")?.trim_ascii_start();
    std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()
}

/// A subject, made of parts that are appended one after the other.
pub(super) type Parts<'a> = &'a [&'a [u8]];

/// Appends a publication. `reply` is where an answer is wanted.
pub(super) fn put_publish(
    out: &mut BytesMut,
    subject: Parts<'_>,
    reply: Parts<'_>,
    headers: &[u8],
    payload: &[u8],
) {
    out.put_slice(if headers.is_empty() { b"PUB " } else { b"HPUB " });
    subject.iter().for_each(|part| out.put_slice(part));
    out.put_u8(b' ');
    reply.iter().for_each(|part| out.put_slice(part));
    out.put_u8(b' ');
    if !headers.is_empty() {
        put_decimal(out, headers.len() as u64);
        out.put_u8(b' ');
    }
    put_decimal(out, (headers.len() + payload.len()) as u64);
    out.put_slice(b"\r\n");
    out.put_slice(headers);
    out.put_slice(payload);
    out.put_slice(b"\r\n");
}

/// Appends `number` in decimal digits.
pub(super) fn put_decimal(out: &mut BytesMut, number: u64) {
    let mut digits = [b'0'; 20];
    let (mut rest, mut at) = (number, digits.len());
    loop {
        at -= 1;
        digits[at] += (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return out.put_slice(&digits[at..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_parsed_only_when_complete() {
        let cases: [(&[u8], Frame<'_>); 8] = [
            (b"PING\r\n", Frame::Ping),
            (b"PONG\r\n", Frame::Pong),
            (b"+OK\r\n", Frame::Okay),
            (b"-ERR 'No Responders'\r\n", Frame::Error(b"No Responders")),
            (b"INFO {\"a\":1} \r\n", Frame::Info(b"{\"a\":1}")),
            (
                b"MSG _INBOX.a.7 1 29\r\n{\"stream\":\"KV_x\", \"seq\":12}\r\n\r\n",
                Frame::Message {
                    subject: b"_INBOX.a.7",
                    headers: b"",
                    payload: b"{\"stream\":\"KV_x\", \"seq\":12}\r\n",
                },
            ),
            (
                b"MSG a.b 1 reply.to 0\r\n\r\n",
                Frame::Message { subject: b"a.b", headers: b"", payload: b"" },
            ),
            (
                b"HMSG _INBOX.a.8 1 16 18\r\nNATS/1.0 503\r\n\r\nxy\r\n",
                Frame::Message {
                    subject: b"_INBOX.a.8",
                    headers: b"NATS/1.0 503\r\n\r\n",
                    payload: b"xy",
                },
            ),
        ];
        for (bytes, want) in cases {
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{}", bytes[..cut].escape_ascii());
            }
            let mut more = bytes.to_vec();
            more.extend_from_slice(b"PING\r\n");
            assert_eq!(parse(&more), Ok(Some((want, bytes.len()))));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let bad: [&[u8]; 7] = [
            b"HELLO\r\n",
            b"PING\n",
            b"MSG\r\n",
            b"MSG a 1 x\r\n",
            b"MSG a 1 1\r\nabc",
            b"HMSG a 1 5 4\r\nabcd\r\n",
            b"MSG a 1 99999999999999999999999\r\n",
        ];
        for bytes in bad {
            assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn publications_are_as_the_protocol_wants_them() {
        let mut out = BytesMut::new();
        put_publish(&mut out, &[b"$KV.", b"a"], &[b"_INBOX.x.", b"10"], b"", b"value");
        put_publish(&mut out, &[b"b"], &[b"r"], b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n", b"");
        let want: &[u8] = b"PUB $KV.a _INBOX.x.10 5\r\nvalue\r\n\
            HPUB b r 31 31\r\nNATS/1.0\r\nKV-Operation: DEL\r\n\r\n\r\n";
        assert_eq!(&out[..], want);
    }

    #[test]
    fn headers_tell_their_status() {
        assert_eq!(status(b"NATS/1.0 503\r\n\r\n"), Some(503));
        assert_eq!(status(b"NATS/1.0\r\nA: b\r\n\r\n"), None);
        assert_eq!(status(b""), None);
    }
}
