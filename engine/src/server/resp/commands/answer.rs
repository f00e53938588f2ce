//! Writes replies, once the data has answered.

use super::Replies;
use super::expiry::{Unit, counted, now_ms, time_left};
use super::lcs::LcsAnswer;
use super::object::encoding;
use super::transaction::{PartAnswer, WatchedKey};
use crate::server::resp::error::CommandError;
use bytes::Bytes;
use flotilla_router::RouteError;
use flotilla_shard::{Answer, Entry, WriteOutcome};

/// What of an answer the reply is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A read: the value, or null.
    Value,
    /// A read: the value's length, or 0.
    Length,
    /// A read: 1 if there is a value, else 0.
    Presence,
    /// A read: a part of the value. Negative positions count from its end.
    Range {
        /// The first byte.
        start: i64,
        /// The last byte.
        end: i64,
    },
    /// A read: the time until the key expires.
    TimeLeft(Unit),
    /// A read: the time when the key expires.
    ExpiresAt(Unit),
    /// A read: the type of the value.
    Type,
    /// A read: how Redis would encode the value.
    Encoding,
    /// A read: how often the value is shared.
    References,
    /// A read: when it was used last, which nobody knows.
    IdleTime,
    /// A read: how often it was used, which nobody knows.
    Frequency,
    /// A rename of a key to itself, which is a read: `OK`, or 0 for `RENAMENX`.
    SameName {
        /// Of `RENAMENX`.
        flag: bool,
    },
    /// A put: `OK` if it was written, else null.
    Stored,
    /// A put: 1 if it was written, else 0.
    StoredFlag,
    /// A put: the value that was there before, or null.
    Previous,
    /// Another write that returns the value that was there: the value, or null.
    Returned,
    /// Several puts at once: `OK`.
    Done,
    /// A change of an expiry: 1 if there was one, else 0.
    ExpiryChanged,
    /// A rename: `OK`.
    Renamed,
    /// A rename or copy that may find its target taken: 1 if it happened, else 0.
    MovedFlag,
    /// Another write: the number that it results in.
    Outcome,
}

impl Shape {
    /// True for shapes of reads only.
    pub fn is_read(self) -> bool {
        match self {
            Shape::Value
            | Shape::Length
            | Shape::Presence
            | Shape::Range { .. }
            | Shape::TimeLeft(_)
            | Shape::ExpiresAt(_)
            | Shape::Type
            | Shape::Encoding
            | Shape::References
            | Shape::IdleTime
            | Shape::Frequency
            | Shape::SameName { .. } => true,
            Shape::Stored
            | Shape::StoredFlag
            | Shape::Previous
            | Shape::Returned
            | Shape::Done
            | Shape::ExpiryChanged
            | Shape::Renamed
            | Shape::MovedFlag
            | Shape::Outcome => false,
        }
    }
}

/// The answer to something that is more than one operation on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WideAnswer {
    /// Values in the order of their keys.
    Values(Vec<Option<Entry>>),
    /// A count.
    Number(u64),
    /// Keys, and the cursor to go on with; 0 at the end.
    ScannedKeys {
        /// Where to go on.
        cursor: u64,
        /// The keys found.
        keys: Vec<Bytes>,
    },
    /// Rows, and the key to go on from.
    Rows {
        /// Where to go on; `None` at the end.
        next: Option<Bytes>,
        /// The rows found.
        rows: Vec<(Bytes, Entry)>,
    },
    /// Keys.
    Keys(Vec<Bytes>),
    /// Some key, or null.
    Key(Option<Bytes>),
    /// What two values have in common.
    Lcs(LcsAnswer),
    /// It was done.
    Done,
    /// The keys are watched from now on.
    Watched(Vec<WatchedKey>),
    /// A transaction: what its commands ended in; `None` if a watched key had changed.
    Transaction(Option<Vec<PartAnswer>>),
}

/// Writes the reply to a single operation. An error has not been written but is returned, so that
/// it can be counted.
///
/// # Errors
///
/// [`CommandError`]: the reply that is to be written instead.
pub fn reply(
    shape: Shape,
    result: Result<Answer, RouteError>,
    replies: &mut Replies<'_>,
) -> Result<(), CommandError> {
    let answer = result.map_err(|error| CommandError::of_route(&error, !shape.is_read()))?;
    match answer {
        Answer::Value(entry) => value_reply(shape, entry, replies),
        Answer::Written(outcome) => outcome_reply(shape, outcome, replies),
        _ => Err(CommandError::unexpected_answer()),
    }
}

fn value_reply(
    shape: Shape,
    entry: Option<Entry>,
    replies: &mut Replies<'_>,
) -> Result<(), CommandError> {
    match (shape, entry) {
        (Shape::Value, entry) => optional(entry, replies),
        (Shape::Length, entry) => {
            replies.integer(entry.map_or(0, |entry| entry.value.len() as i64));
        }
        (Shape::Presence, entry) => replies.integer(i64::from(entry.is_some())),
        (Shape::Range { start, end }, entry) => {
            let value = entry.map(|entry| entry.value).unwrap_or_default();
            replies.bulk(part_of(&value, start, end));
        }
        (Shape::TimeLeft(_) | Shape::ExpiresAt(_), None) => replies.integer(-2),
        (Shape::TimeLeft(unit), Some(entry)) => {
            let left = entry.expires_at_ms.map(|at| time_left(at, now_ms(), unit));
            replies.integer(left.unwrap_or(-1));
        }
        (Shape::ExpiresAt(unit), Some(entry)) => {
            replies.integer(entry.expires_at_ms.map_or(-1, |at| counted(at, unit)));
        }
        (Shape::Type, entry) => replies.status(if entry.is_some() { "string" } else { "none" }),
        (Shape::Encoding, Some(entry)) => replies.bulk(encoding(&entry.value).as_bytes()),
        (Shape::References, Some(_)) => replies.integer(1),
        (Shape::Encoding | Shape::References | Shape::IdleTime | Shape::Frequency, None) => {
            replies.null();
        }
        (Shape::IdleTime, Some(_)) => {
            return Err(CommandError::fixed("ERR accesses to keys are not timed here"));
        }
        (Shape::Frequency, Some(_)) => return Err(CommandError::NO_FREQUENCIES),
        (Shape::SameName { .. }, None) => return Err(CommandError::NO_SUCH_KEY),
        (Shape::SameName { flag: true }, Some(_)) => replies.integer(0),
        (Shape::SameName { flag: false }, Some(_)) => replies.ok(),
        _ => return Err(CommandError::unexpected_answer()),
    }
    Ok(())
}

fn optional(entry: Option<Entry>, replies: &mut Replies<'_>) {
    match entry {
        Some(entry) => replies.bulk(&entry.value),
        None => replies.null(),
    }
}

/// The bytes from `start` to `end`, both included; negative positions count from the end.
fn part_of(value: &[u8], start: i64, end: i64) -> &[u8] {
    let length = value.len() as i64;
    if length == 0 || (start < 0 && end < 0 && start > end) {
        return &[];
    }
    let place = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
    let (start, end) = (place(start), place(end).min(length - 1));
    if start > end { &[] } else { &value[start as usize..=end as usize] }
}

fn outcome_reply(
    shape: Shape,
    outcome: WriteOutcome,
    replies: &mut Replies<'_>,
) -> Result<(), CommandError> {
    match (shape, outcome) {
        (_, WriteOutcome::Failed(failure)) => return Err(CommandError::of_failure(failure)),
        (Shape::Stored, WriteOutcome::Put { written: true, .. }) => replies.ok(),
        (Shape::Stored, WriteOutcome::Put { written: false, .. }) => replies.null(),
        (Shape::StoredFlag, WriteOutcome::Put { written, .. }) => {
            replies.integer(i64::from(written));
        }
        (Shape::Previous, WriteOutcome::Put { previous, .. }) => optional(previous, replies),
        (Shape::Done, WriteOutcome::Batch { .. }) => replies.ok(),
        (Shape::StoredFlag, WriteOutcome::Batch { written, .. }) => {
            replies.integer(i64::from(written));
        }
        (Shape::Returned, WriteOutcome::Taken(entry)) => optional(entry, replies),
        (Shape::Returned, WriteOutcome::Expired { entry, .. }) => optional(entry, replies),
        (Shape::ExpiryChanged, WriteOutcome::Expired { changed, .. }) => {
            replies.integer(i64::from(changed));
        }
        (Shape::Renamed, WriteOutcome::Renamed { .. }) => replies.ok(),
        (Shape::MovedFlag, WriteOutcome::Renamed { renamed: moved, .. })
        | (Shape::MovedFlag, WriteOutcome::Copied { copied: moved, .. }) => {
            replies.integer(i64::from(moved));
        }
        (Shape::Outcome, WriteOutcome::Number(number)) => replies.integer(number),
        (Shape::Outcome, WriteOutcome::Float(number)) => replies.bulk(&number),
        (Shape::Outcome, WriteOutcome::Length(length)) => replies.integer(length as i64),
        (Shape::Outcome, WriteOutcome::Deleted { count, .. }) => replies.integer(count as i64),
        _ => return Err(CommandError::unexpected_answer()),
    }
    Ok(())
}

/// Writes the reply to something that is more than one operation on one key.
pub fn reply_wide(answer: WideAnswer, replies: &mut Replies<'_>) {
    match answer {
        WideAnswer::Values(values) => {
            replies.array(values.len());
            for value in values {
                optional(value, replies);
            }
        }
        WideAnswer::Number(number) => replies.integer(number as i64),
        WideAnswer::ScannedKeys { cursor, keys } => {
            replies.array(2);
            replies.bulk(cursor.to_string().as_bytes());
            list(&keys, replies);
        }
        WideAnswer::Rows { next, rows } => {
            replies.array(2);
            replies.bulk(next.as_deref().unwrap_or_default());
            replies.array(2 * rows.len());
            for (key, entry) in rows {
                replies.bulk(&key);
                replies.bulk(&entry.value);
            }
        }
        WideAnswer::Keys(keys) => list(&keys, replies),
        WideAnswer::Key(Some(key)) => replies.bulk(&key),
        WideAnswer::Key(None) => replies.null(),
        WideAnswer::Lcs(answer) => answer.write(replies),
        WideAnswer::Done | WideAnswer::Watched(_) => replies.ok(),
        WideAnswer::Transaction(None) => replies.null_array(),
        WideAnswer::Transaction(Some(parts)) => {
            replies.array(parts.len());
            for part in parts {
                part.write(replies);
            }
        }
    }
}

fn list(keys: &[Bytes], replies: &mut Replies<'_>) {
    replies.array(keys.len());
    for key in keys {
        replies.bulk(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::resp::codec::Protocol;
    use crate::server::resp::error::ErrorKind;
    use bytes::BytesMut;
    use flotilla_shard::CommandFailure;

    fn entry(value: &'static [u8]) -> Option<Entry> {
        Some(Entry { value: Bytes::from_static(value), version: 1, expires_at_ms: None })
    }

    fn put(written: bool, previous: Option<Entry>) -> Answer {
        Answer::Written(WriteOutcome::Put { version: 1, written, previous })
    }

    #[test]
    fn shapes() {
        let table: [(Shape, Answer, &[u8]); 13] = [
            (Shape::Value, Answer::Value(entry(b"ab")), b"$2\r\nab\r\n"),
            (Shape::Value, Answer::Value(None), b"$-1\r\n"),
            (Shape::Length, Answer::Value(entry(b"ab")), b":2\r\n"),
            (Shape::Length, Answer::Value(None), b":0\r\n"),
            (Shape::Presence, Answer::Value(entry(b"")), b":1\r\n"),
            (Shape::Presence, Answer::Value(None), b":0\r\n"),
            (Shape::Stored, put(true, None), b"+OK\r\n"),
            (Shape::Stored, put(false, None), b"$-1\r\n"),
            (Shape::StoredFlag, put(false, None), b":0\r\n"),
            (Shape::Previous, put(true, entry(b"x")), b"$1\r\nx\r\n"),
            (Shape::Previous, put(true, None), b"$-1\r\n"),
            (Shape::Outcome, Answer::Written(WriteOutcome::Number(-3)), b":-3\r\n"),
            (Shape::Outcome, Answer::Written(WriteOutcome::Length(7)), b":7\r\n"),
        ];
        for (shape, answer, expected) in table {
            let mut out = BytesMut::new();
            reply(shape, Ok(answer), &mut Replies::new(&mut out, Protocol::Resp2)).unwrap();
            assert_eq!(&out[..], expected, "{shape:?}");
        }
    }

    #[test]
    fn failures_and_nonsense_are_errors() {
        let mut out = BytesMut::new();
        let mut replies = Replies::new(&mut out, Protocol::Resp2);
        let overflow = Answer::Written(WriteOutcome::Failed(CommandFailure::Overflow));
        let error = reply(Shape::Outcome, Ok(overflow), &mut replies).unwrap_err();
        assert_eq!(&*error.text, b"ERR increment or decrement would overflow");
        for (shape, answer) in [
            (Shape::Value, Answer::Count(1)),
            (Shape::Value, put(true, None)),
            (Shape::Stored, Answer::Value(None)),
        ] {
            let error = reply(shape, Ok(answer), &mut replies).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Internal);
        }
        assert!(out.is_empty());
    }
}
