//! Finds requests in a stream of bytes, wherever the network cut it.
//!
//! Accepts what Redis 7 accepts and complains in its words. A complaint ends the conversation,
//! since nobody knows where the next request would begin. A request that is well formed but larger
//! than this server keeps is different: its bytes are dropped as they arrive, it is reported once,
//! and the conversation goes on.
//!
//! Invariants:
//!
//! * `position` bytes of the input are understood and belong to the unfinished request; the caller
//!   only appends to the input between calls.
//! * Of a request that is too large nothing stays in the input.

use super::{Arguments, Span, inline, parse_integer};
use bytes::{Buf, BytesMut};

/// The longest line, of an inline request or of a length, as in Redis.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// What a request may occupy.
#[derive(Clone, Copy, Debug)]
pub struct DecoderLimits {
    /// A longer announcement of one argument ends the connection. Redis calls it
    /// `proto-max-bulk-len`; 512 MiB by default.
    pub bulk_bytes_max: u64,
    /// A longer argument is dropped and its request reported as too large. 8 MiB by default, as
    /// values are.
    pub argument_bytes_max: usize,
    /// A longer request is dropped and reported as too large. 32 MiB by default.
    pub request_bytes_max: usize,
    /// More arguments than this end the connection. 1,048,576 by default.
    pub arguments_max: usize,
}

impl Default for DecoderLimits {
    fn default() -> Self {
        DecoderLimits {
            bulk_bytes_max: 512 << 20,
            argument_bytes_max: 8 << 20,
            request_bytes_max: 32 << 20,
            arguments_max: 1 << 20,
        }
    }
}

/// Bytes that are no request. The connection must be closed once this has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The number of arguments is no number, or too large.
    #[error("Protocol error: invalid multibulk length")]
    InvalidArrayLength,
    /// The length of an argument is no number, negative, or too large.
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    /// An argument begins with another byte than `$`.
    #[error("Protocol error: expected '$', got '{}'", char::from(*got))]
    ExpectedBulk {
        /// The byte, printable: others are shown as a space.
        got: u8,
    },
    /// A line of words does not end.
    #[error("Protocol error: too big inline request")]
    InlineTooLong,
    /// The number of arguments does not end.
    #[error("Protocol error: too big mbulk count string")]
    ArrayLengthTooLong,
    /// The length of an argument does not end.
    #[error("Protocol error: too big bulk count string")]
    BulkLengthTooLong,
    /// A line of words has a quote too many.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

/// What a call of [`Decoder::decode`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// No whole request: more bytes are needed.
    Incomplete,
    /// A request, with at least one argument.
    Request,
    /// A request whose bytes were dropped.
    TooLarge(TooLarge),
}

/// How a request exceeded the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// By one argument.
    #[error("an argument of {bytes} bytes exceeds the limit of {bytes_max}")]
    Argument {
        /// What was announced.
        bytes: u64,
        /// What is kept.
        bytes_max: u64,
    },
    /// By all of them together.
    #[error("the request exceeds the limit of {bytes_max} bytes")]
    Request {
        /// What is kept.
        bytes_max: u64,
    },
}

/// Decodes the requests of one connection.
#[derive(Debug)]
pub struct Decoder {
    limits: DecoderLimits,
    /// Bytes at the start of the input that are understood already.
    position: usize,
    /// Bytes after `position` known to hold no line end.
    scanned: usize,
    /// Arguments still to come of the request that is being read; 0 between requests.
    remaining: usize,
    /// The announced length of the argument at `position`, once its header was read.
    bulk: Option<usize>,
    /// Set while a request is being dropped.
    too_large: Option<TooLarge>,
    /// Bytes still to be dropped of an argument.
    skip: u64,
    spans: Vec<Span>,
}

impl Decoder {
    /// At the start of a conversation.
    ///
    /// # Panics
    ///
    /// If `limits` let a request grow to 4 GiB: positions within one are kept as u32.
    pub fn new(limits: DecoderLimits) -> Self {
        assert!(
            limits.request_bytes_max < u32::MAX as usize / 2,
            "a request's positions fit a u32"
        );
        Decoder {
            limits,
            position: 0,
            scanned: 0,
            remaining: 0,
            bulk: None,
            too_large: None,
            skip: 0,
            spans: Vec::new(),
        }
    }

    /// Takes the next request from the front of `input` and puts it into `out`, which is left alone
    /// when there is none.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`]: there is no sense in calling again.
    pub fn decode(
        &mut self,
        input: &mut BytesMut,
        out: &mut Arguments,
    ) -> Result<Decoded, ProtocolError> {
        loop {
            if self.skip > 0 && !self.drop_bytes(input) {
                return Ok(Decoded::Incomplete);
            }
            if self.remaining > 0 {
                if !self.argument(input)? {
                    return Ok(Decoded::Incomplete);
                }
                if self.remaining == 0 && self.skip == 0 {
                    return Ok(self.finish(input, out));
                }
                continue;
            }
            if self.too_large.is_some() {
                return Ok(self.finish(input, out));
            }
            match input.first() {
                None => return Ok(Decoded::Incomplete),
                Some(b'*') => {
                    if !self.array(input)? {
                        return Ok(Decoded::Incomplete);
                    }
                }
                Some(_) => match self.inline(input, out)? {
                    Some(true) => return Ok(Decoded::Request),
                    Some(false) => {}
                    None => return Ok(Decoded::Incomplete),
                },
            }
        }
    }

    /// How many more bytes the unfinished argument is known to need; a hint for the size of the
    /// next read, at least 1.
    pub fn missing_bytes(&self, input: &BytesMut) -> usize {
        let end = self.position + self.bulk.map_or(1, |length| length + 2);
        end.saturating_sub(input.len()).max(1)
    }

    #[cfg(test)]
    pub(super) fn spans_capacity(&self) -> usize {
        self.spans.capacity()
    }

    /// Reads the number of arguments; false when it has not arrived whole.
    fn array(&mut self, input: &mut BytesMut) -> Result<bool, ProtocolError> {
        let Some(line) = self.line(input, b'\r', ProtocolError::ArrayLengthTooLong)? else {
            return Ok(false);
        };
        let count = parse_integer(&input[1..line]).ok_or(ProtocolError::InvalidArrayLength)?;
        if count <= 0 {
            // Redis takes it for an empty request, and so passes over it.
            input.advance(line + 2);
            return Ok(true);
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > self.limits.arguments_max {
            return Err(ProtocolError::InvalidArrayLength);
        }
        self.remaining = count;
        self.position = line + 2;
        Ok(true)
    }

    /// Reads one argument; false when it has not arrived whole.
    fn argument(&mut self, input: &mut BytesMut) -> Result<bool, ProtocolError> {
        let length = match self.bulk {
            Some(length) => length,
            None => {
                let Some(line) = self.line(input, b'\r', ProtocolError::BulkLengthTooLong)? else {
                    return Ok(false);
                };
                let header = &input[self.position..self.position + line];
                if header.first() != Some(&b'$') {
                    // An empty header is a lone line end, and that is the byte to complain about.
                    let got = header.first().copied().unwrap_or(b'\r');
                    let shown = if got.is_ascii_graphic() { got } else { b' ' };
                    return Err(ProtocolError::ExpectedBulk { got: shown });
                }
                let length = parse_integer(&header[1..])
                    .and_then(|length| u64::try_from(length).ok())
                    .filter(|length| *length <= self.limits.bulk_bytes_max)
                    .ok_or(ProtocolError::InvalidBulkLength)?;
                self.position += line + 2;
                match self.admit(length) {
                    Some(length) => length,
                    None => {
                        self.start_dropping(input, length);
                        return Ok(true);
                    }
                }
            }
        };
        let end = self.position + length;
        // As in Redis, the two bytes after an argument are passed over unread.
        if input.len() < end + 2 {
            self.bulk = Some(length);
            return Ok(false);
        }
        self.spans.push(Span { start: self.position as u32, end: end as u32 });
        self.bulk = None;
        self.position = end + 2;
        self.remaining -= 1;
        Ok(true)
    }

    /// The length of an argument that is to be kept, or `None` if it is to be dropped.
    fn admit(&mut self, length: u64) -> Option<usize> {
        if self.too_large.is_some() {
            return None;
        }
        if length > self.limits.argument_bytes_max as u64 {
            let bytes_max = self.limits.argument_bytes_max as u64;
            self.too_large = Some(TooLarge::Argument { bytes: length, bytes_max });
            return None;
        }
        if self.position as u64 + length + 2 > self.limits.request_bytes_max as u64 {
            let bytes_max = self.limits.request_bytes_max as u64;
            self.too_large = Some(TooLarge::Request { bytes_max });
            return None;
        }
        Some(length as usize)
    }

    /// Drops what is held of the request, and the argument of `length` bytes that comes next.
    fn start_dropping(&mut self, input: &mut BytesMut, length: u64) {
        input.advance(self.position);
        self.position = 0;
        self.spans.clear();
        self.remaining -= 1;
        self.skip = length + 2;
    }

    /// Drops more of an argument; false when there is still more to come.
    fn drop_bytes(&mut self, input: &mut BytesMut) -> bool {
        let here = self.skip.min(input.len() as u64);
        input.advance(here as usize);
        self.skip -= here;
        self.skip == 0
    }

    fn finish(&mut self, input: &mut BytesMut, out: &mut Arguments) -> Decoded {
        if let Some(too_large) = self.too_large.take() {
            assert!(self.position == 0, "a dropped request left bytes behind");
            return Decoded::TooLarge(too_large);
        }
        out.frame = input.split_to(self.position).freeze();
        out.spans.clear();
        std::mem::swap(&mut out.spans, &mut self.spans);
        self.position = 0;
        Decoded::Request
    }

    /// Reads a line of words: whether it had any, or `None` when it has not arrived whole.
    fn inline(
        &mut self,
        input: &mut BytesMut,
        out: &mut Arguments,
    ) -> Result<Option<bool>, ProtocolError> {
        let Some(line) = self.line(input, b'\n', ProtocolError::InlineTooLong)? else {
            return Ok(None);
        };
        let words = input[..line].strip_suffix(b"\r").unwrap_or(&input[..line]);
        inline::split(words, out).map_err(|_| ProtocolError::UnbalancedQuotes)?;
        input.advance(line + 1);
        Ok(Some(!out.is_empty()))
    }

    /// The length of the line at `position`, up to `end`. A line that ends with a carriage return is
    /// whole only with the byte after it.
    fn line(
        &mut self,
        input: &BytesMut,
        end: u8,
        too_long: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let rest = &input[self.position..];
        let window = &rest[..rest.len().min(LINE_BYTES_MAX + 1)];
        match window[self.scanned..].iter().position(|byte| *byte == end) {
            Some(offset) => {
                let line = self.scanned + offset;
                if end == b'\r' && rest.len() < line + 2 {
                    self.scanned = line;
                    return Ok(None);
                }
                self.scanned = 0;
                Ok(Some(line))
            }
            None if window.len() > LINE_BYTES_MAX => Err(too_long),
            None => {
                self.scanned = window.len();
                Ok(None)
            }
        }
    }
}
