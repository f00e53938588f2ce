//! Writes that compute a value from the one before: sums and parts of strings.

use super::float::Float;
use super::run::{Missing, Run, failed};
use crate::command::{CommandFailure, Entry, WriteOutcome};
use bytes::{Bytes, BytesMut};

impl Run<'_> {
    pub(super) fn add(&mut self, key: &Bytes, delta: i64) -> Result<WriteOutcome, Missing> {
        let current = self.present(key)?;
        let number = match &current {
            None => 0,
            Some(entry) => match parse_integer(&entry.value) {
                Some(number) => number,
                None => return failed(CommandFailure::NotAnInteger),
            },
        };
        let Some(sum) = number.checked_add(delta) else {
            return failed(CommandFailure::Overflow);
        };
        self.put_keeping(key, Bytes::from(sum.to_string()), current.as_ref());
        Ok(WriteOutcome::Number(sum))
    }

    pub(super) fn add_float(
        &mut self,
        key: &Bytes,
        delta: &Bytes,
    ) -> Result<WriteOutcome, Missing> {
        let current = self.present(key)?;
        let number = match &current {
            None => Some(Float::ZERO),
            Some(entry) => Float::parse(&entry.value),
        };
        let (Some(number), Some(delta)) = (number, Float::parse(delta)) else {
            return failed(CommandFailure::NotAFloat);
        };
        let Some(sum) = number.add(&delta).to_text() else {
            return failed(CommandFailure::NotFinite);
        };
        if sum.len() as u64 > self.value_bytes_max {
            return failed(CommandFailure::TooLarge);
        }
        let sum = Bytes::from(sum);
        self.put_keeping(key, sum.clone(), current.as_ref());
        Ok(WriteOutcome::Float(sum))
    }

    pub(super) fn append(&mut self, key: &Bytes, value: &Bytes) -> Result<WriteOutcome, Missing> {
        let current = self.present(key)?;
        let present = value_of(current.as_ref());
        let length = (present.len() + value.len()) as u64;
        if length > self.value_bytes_max {
            return failed(CommandFailure::TooLarge);
        }
        let mut joined = BytesMut::with_capacity(length as usize);
        joined.extend_from_slice(present);
        joined.extend_from_slice(value);
        self.put_keeping(key, joined.freeze(), current.as_ref());
        Ok(WriteOutcome::Length(length))
    }

    pub(super) fn set_range(
        &mut self,
        key: &Bytes,
        offset: u64,
        value: &Bytes,
    ) -> Result<WriteOutcome, Missing> {
        let current = self.present(key)?;
        let present = value_of(current.as_ref());
        if value.is_empty() {
            return Ok(WriteOutcome::Length(present.len() as u64));
        }
        let end = offset.saturating_add(value.len() as u64);
        if end > self.value_bytes_max {
            return failed(CommandFailure::TooLarge);
        }
        let (offset, end) = (offset as usize, end as usize);
        let length = present.len().max(end);
        let mut joined = BytesMut::with_capacity(length);
        joined.extend_from_slice(present);
        joined.resize(length, 0);
        joined[offset..end].copy_from_slice(value);
        self.put_keeping(key, joined.freeze(), current.as_ref());
        Ok(WriteOutcome::Length(length as u64))
    }
}

fn value_of(entry: Option<&Entry>) -> &[u8] {
    entry.map_or(&[], |entry| &entry.value[..])
}

/// A decimal 64-bit integer exactly as Redis accepts it: no plus sign, no spaces, no leading
/// zeros, no minus zero.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [] => false,
        [b'0'] => text.len() == 1,
        [first, ..] => *first != b'0' && digits.iter().all(u8::is_ascii_digit),
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse_integer;

    #[test]
    fn integers_are_parsed_as_redis_does() {
        for (text, want) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("1.0", None),
            ("abc", None),
        ] {
            assert_eq!(parse_integer(text.as_bytes()), want, "{text:?}");
        }
    }
}
