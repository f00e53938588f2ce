//! Little-endian bytes for everything that travels or rests: commands, requests, descriptors.
//!
//! Written by hand because the hot path decodes hundreds of thousands of commands a second without
//! copying a key or a value: a [`Reader`] slices them out of the buffer that they arrived in.
//!
//! Invariants:
//!
//! * A [`Reader`] never panics and never allocates more than its input justifies.
//! * Lengths are u32; a range's end carries a presence byte.
//!
//! What is absent: versions and checksums. The containers (frame, journal record, row) have those.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_storage::KeyRange;

/// Bytes that ended early or said something impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode: {0}")]
pub struct DecodeError(pub &'static str);

/// Appends fields to a buffer.
pub struct Writer<'a> {
    buffer: &'a mut BytesMut,
}

impl<'a> Writer<'a> {
    /// Writes at the end of `buffer`.
    pub fn new(buffer: &'a mut BytesMut) -> Self {
        Writer { buffer }
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) {
        self.buffer.put_u8(value);
    }

    /// Appends a flag as one byte, 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.buffer.put_u8(u8::from(value));
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) {
        self.buffer.put_u32_le(value);
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.buffer.put_u64_le(value);
    }

    /// Appends eight bytes, two's complement.
    pub fn i64(&mut self, value: i64) {
        self.buffer.put_i64_le(value);
    }

    /// Appends a length and that many bytes.
    ///
    /// # Panics
    ///
    /// If `value` is longer than a u32 can say; limits at the door keep everything far below.
    pub fn bytes(&mut self, value: &[u8]) {
        let length = u32::try_from(value.len()).expect("field length fits a u32");
        self.buffer.put_u32_le(length);
        self.buffer.put_slice(value);
    }

    /// Appends a key range.
    pub fn range(&mut self, range: &KeyRange) {
        self.bytes(&range.start);
        self.bool(range.end.is_some());
        if let Some(end) = &range.end {
            self.bytes(end);
        }
    }
}

/// Takes fields from the front of a buffer.
pub struct Reader {
    input: Bytes,
}

impl Reader {
    /// Reads from the start of `input`.
    pub fn new(input: Bytes) -> Self {
        Reader { input }
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.need(1)?;
        Ok(self.input.get_u8())
    }

    /// Takes a flag; anything but 0 and 1 is an error.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError("a flag is neither 0 nor 1")),
        }
    }

    /// The next byte, left in place.
    pub fn peek(&self) -> Option<u8> {
        self.input.first().copied()
    }

    /// Takes four bytes.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.need(4)?;
        Ok(self.input.get_u32_le())
    }

    /// Takes eight bytes.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.need(8)?;
        Ok(self.input.get_u64_le())
    }

    /// Takes eight bytes, two's complement.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.need(8)?;
        Ok(self.input.get_i64_le())
    }

    /// Takes a length and that many bytes, without copying them.
    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u32()? as usize;
        self.need(length)?;
        Ok(self.input.split_to(length))
    }

    /// Takes a count of items that occupy at least `item_bytes_min` bytes each, so that a hostile
    /// count cannot make the caller reserve memory that the input does not back.
    pub fn count(&mut self, item_bytes_min: usize) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        if count.saturating_mul(item_bytes_min) > self.input.len() {
            return Err(DecodeError("a count exceeds the bytes that follow"));
        }
        Ok(count)
    }

    /// Takes a key range.
    pub fn range(&mut self) -> Result<KeyRange, DecodeError> {
        let start = self.bytes()?;
        let end = if self.bool()? { Some(self.bytes()?) } else { None };
        if end.as_ref().is_some_and(|end| *end < start) {
            return Err(DecodeError("a range ends before it starts"));
        }
        Ok(KeyRange { start, end })
    }

    /// Everything that has not been taken yet.
    pub fn rest(self) -> Bytes {
        self.input
    }

    /// Bytes that have not been taken yet.
    pub fn remaining(&self) -> usize {
        self.input.len()
    }

    /// Fails unless everything was taken.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.input.is_empty() { Ok(()) } else { Err(DecodeError("bytes are left over")) }
    }

    fn need(&self, count: usize) -> Result<(), DecodeError> {
        if self.input.len() < count {
            return Err(DecodeError("the input ends early"));
        }
        Ok(())
    }
}
