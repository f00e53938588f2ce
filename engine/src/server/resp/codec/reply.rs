//! Replies, in either version of the protocol.
//!
//! Version 3 has its own null, maps, sets, doubles and texts with a format; for version 2 they
//! become what Redis has always sent instead. Nothing here checks that an array gets as many
//! elements as it announced: the commands' tests do.

use bytes::{BufMut, BytesMut};

/// The version of the protocol that a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What every connection starts with.
    #[default]
    Resp2,
    /// Asked for by `HELLO 3`.
    Resp3,
}

/// Appends replies to a buffer.
#[derive(Debug)]
pub struct Replies<'a> {
    out: &'a mut BytesMut,
    protocol: Protocol,
}

impl<'a> Replies<'a> {
    /// Writes at the end of `out`.
    pub fn new(out: &'a mut BytesMut, protocol: Protocol) -> Self {
        Replies { out, protocol }
    }

    /// A status line such as `OK`. `text` has no line ends.
    pub fn status(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// `OK`, the most frequent reply to a write.
    pub fn ok(&mut self) {
        self.out.put_slice(b"+OK\r\n");
    }

    /// An error line; `text` begins with its code, as in `ERR syntax error`. Line ends within it,
    /// which may come from a client's own words, become spaces.
    pub fn error(&mut self, text: &[u8]) {
        self.out.reserve(text.len() + 3);
        self.out.put_u8(b'-');
        let start = self.out.len();
        self.out.put_slice(text);
        for byte in &mut self.out[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.out.put_slice(b"\r\n");
    }

    /// A number.
    pub fn integer(&mut self, value: i64) {
        self.out.put_u8(b':');
        if value < 0 {
            self.out.put_u8(b'-');
        }
        self.digits(value.unsigned_abs());
    }

    /// A string of bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.out.reserve(bytes.len() + 16);
        self.header(b'$', bytes.len());
        self.out.put_slice(bytes);
        self.out.put_slice(b"\r\n");
    }

    /// Nothing, where a string could have been.
    pub fn null(&mut self) {
        self.out.put_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n".as_slice(),
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// Nothing, where an array could have been.
    pub fn null_array(&mut self) {
        self.out.put_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n".as_slice(),
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// The start of an array: `length` replies follow.
    pub fn array(&mut self, length: usize) {
        self.header(b'*', length);
    }

    /// The start of a map: `length` pairs of replies follow.
    pub fn map(&mut self, length: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', length * 2),
            Protocol::Resp3 => self.header(b'%', length),
        }
    }

    /// The start of a set: `length` replies follow.
    pub fn set(&mut self, length: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', length),
            Protocol::Resp3 => self.header(b'~', length),
        }
    }

    /// Text to be shown as it is; Redis marks few replies so, `INFO` among them.
    pub fn text(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.out.reserve(text.len() + 20);
                self.header(b'=', text.len() + 4);
                self.out.put_slice(b"txt:");
                self.out.put_slice(text.as_bytes());
                self.out.put_slice(b"\r\n");
            }
        }
    }

    /// Replies that were encoded before, for the same version.
    pub fn encoded(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.reserve(text.len() + 3);
        self.out.put_u8(kind);
        self.out.put_slice(text);
        self.out.put_slice(b"\r\n");
    }

    fn header(&mut self, kind: u8, length: usize) {
        self.out.put_u8(kind);
        self.digits(length as u64);
    }

    /// `value` in decimal and a line end.
    fn digits(&mut self, mut value: u64) {
        let mut text = [0u8; 22];
        text[20..].copy_from_slice(b"\r\n");
        let mut start = 20;
        loop {
            start -= 1;
            text[start] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.out.put_slice(&text[start..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(protocol: Protocol, write: impl FnOnce(&mut Replies<'_>)) -> Vec<u8> {
        let mut out = BytesMut::new();
        write(&mut Replies::new(&mut out, protocol));
        out.to_vec()
    }

    #[test]
    fn both_versions() {
        type Case = (fn(&mut Replies<'_>), &'static [u8], &'static [u8]);
        let table: [Case; 16] = [
            (|r| r.ok(), b"+OK\r\n", b"+OK\r\n"),
            (|r| r.status("PONG"), b"+PONG\r\n", b"+PONG\r\n"),
            (|r| r.error(b"ERR a\r\nb"), b"-ERR a  b\r\n", b"-ERR a  b\r\n"),
            (|r| r.integer(0), b":0\r\n", b":0\r\n"),
            (|r| r.integer(-12), b":-12\r\n", b":-12\r\n"),
            (|r| r.integer(i64::MIN), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
            (|r| r.bulk(b""), b"$0\r\n\r\n", b"$0\r\n\r\n"),
            (|r| r.bulk(b"a\r\nb"), b"$4\r\na\r\nb\r\n", b"$4\r\na\r\nb\r\n"),
            (|r| r.null(), b"$-1\r\n", b"_\r\n"),
            (|r| r.null_array(), b"*-1\r\n", b"_\r\n"),
            (|r| r.array(0), b"*0\r\n", b"*0\r\n"),
            (|r| r.array(120), b"*120\r\n", b"*120\r\n"),
            (|r| r.map(2), b"*4\r\n", b"%2\r\n"),
            (|r| r.set(3), b"*3\r\n", b"~3\r\n"),
            (|r| r.text("hi"), b"$2\r\nhi\r\n", b"=6\r\ntxt:hi\r\n"),
            (|r| r.encoded(b"+x\r\n"), b"+x\r\n", b"+x\r\n"),
        ];
        for (write, resp2, resp3) in table {
            assert_eq!(written(Protocol::Resp2, write), resp2);
            assert_eq!(written(Protocol::Resp3, write), resp3);
        }
    }
}
