//! The wire format that Redis clients speak: requests in, replies out.
//!
//! Requests are arrays of bulk strings or lines of words ("inline"); both look the same to the rest
//! of the server, as [`Arguments`]. Replies are written for the version of the protocol that the
//! connection has agreed on.
//!
//! Invariants:
//!
//! * Decoding gives the same requests wherever the network cuts the stream.
//! * What a client announces reserves no memory: buffers grow with bytes that arrived, and no
//!   request is kept beyond [`DecoderLimits`].
//!
//! What is absent: the meaning of commands, and sockets.

mod decoder;
#[cfg(test)]
mod decoder_tests;
mod inline;
mod reply;

pub use decoder::{Decoded, Decoder, DecoderLimits, TooLarge};
pub use reply::{Protocol, Replies};

use bytes::Bytes;

/// One request: the command's name and what follows it, as slices of the received bytes.
///
/// Reused from request to request, so that decoding allocates nothing.
#[derive(Debug, Default)]
pub struct Arguments {
    frame: Bytes,
    spans: Vec<Span>,
}

/// Where an argument lies in its frame.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

impl Arguments {
    /// How many there are, the command's name included.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// True between requests.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The argument at `index`; 0 is the command's name.
    ///
    /// # Panics
    ///
    /// If there is none: the caller has not checked the command's arity.
    pub fn get(&self, index: usize) -> &[u8] {
        let span = self.spans[index];
        &self.frame[span.start as usize..span.end as usize]
    }

    /// The argument at `index`, sharing the received bytes instead of copying them.
    ///
    /// # Panics
    ///
    /// If there is none: the caller has not checked the command's arity.
    pub fn share(&self, index: usize) -> Bytes {
        let span = self.spans[index];
        self.frame.slice(span.start as usize..span.end as usize)
    }

    /// The arguments from `index` on.
    pub fn iter_from(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        let spans = self.spans.get(index..).unwrap_or_default();
        spans.iter().map(|span| &self.frame[span.start as usize..span.end as usize])
    }

    /// Bytes of the request as received, framing included.
    pub fn frame_bytes(&self) -> usize {
        self.frame.len()
    }

    /// The same request, to be kept: a copy if its bytes are few, so that it does not keep the
    /// whole buffer that they were received in.
    pub fn detached(&self, copied_bytes_max: usize) -> Arguments {
        let frame = if self.frame.len() <= copied_bytes_max {
            Bytes::copy_from_slice(&self.frame)
        } else {
            self.frame.clone()
        };
        Arguments { frame, spans: self.spans.clone() }
    }

    /// The request that begins at the argument `index`.
    pub fn tail(&self, index: usize) -> Arguments {
        Arguments { frame: self.frame.clone(), spans: self.spans[index..].to_vec() }
    }

    /// Forgets the request, so that its bytes can be reused.
    pub fn clear(&mut self) {
        self.frame = Bytes::new();
        self.spans.clear();
    }
}

/// True for the words that an HTTP request has at its start: a browser can be made to send one, with
/// commands in its body, to a server that only its own machine can reach.
pub fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// Reads a decimal integer exactly as Redis does: no spaces, no plus sign, no leading zeros, no
/// minus zero. `None` for anything else and for numbers beyond 64 bits.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [] => return None,
        [b'0'] => return if negative { None } else { Some(0) },
        [b'0', ..] => return None,
        _ => {}
    }
    if digits.len() > 19 {
        return None;
    }
    let mut value: u64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // 19 digits stay below 10^19, which a u64 holds.
        value = value * 10 + u64::from(digit - b'0');
    }
    if negative { 0i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

#[cfg(test)]
mod tests {
    use super::parse_integer;

    #[test]
    fn integers_are_read_as_strictly_as_redis_does() {
        let good: [(&[u8], i64); 7] = [
            (b"0", 0),
            (b"7", 7),
            (b"-7", -7),
            (b"1234567890123456789", 1_234_567_890_123_456_789),
            (b"9223372036854775807", i64::MAX),
            (b"-9223372036854775808", i64::MIN),
            (b"10", 10),
        ];
        for (text, value) in good {
            assert_eq!(parse_integer(text), Some(value), "{}", text.escape_ascii());
        }
        let bad: [&[u8]; 14] = [
            b"",
            b"-",
            b"-0",
            b"00",
            b"01",
            b"-01",
            b"+1",
            b" 1",
            b"1 ",
            b"1.0",
            b"0x10",
            b"9223372036854775808",
            b"-9223372036854775809",
            b"99999999999999999999",
        ];
        for text in bad {
            assert_eq!(parse_integer(text), None, "{}", text.escape_ascii());
        }
    }
}
