//! Writes replies, once the data has answered.

use super::Replies;
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
    /// A put: `OK` if it was written, else null.
    Stored,
    /// A put: 1 if it was written, else 0.
    StoredFlag,
    /// A put: the value that was there before, or null.
    Previous,
    /// Another write: the number that it results in.
    Outcome,
}

impl Shape {
    /// True for shapes of reads.
    pub fn is_read(self) -> bool {
        matches!(self, Shape::Value | Shape::Length | Shape::Presence)
    }
}

/// The answer to something that may have asked several shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WideAnswer {
    /// Values in the order of their keys.
    Values(Vec<Option<Entry>>),
    /// A count.
    Number(u64),
    /// Keys, and the cursor to go on with; 0 at the end.
    Keys {
        /// Where to go on.
        cursor: u64,
        /// The keys found.
        keys: Vec<Bytes>,
    },
    /// It was done.
    Done,
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
        Answer::Value(entry) => match (shape, entry) {
            (Shape::Value, Some(entry)) => replies.bulk(&entry.value),
            (Shape::Value, None) => replies.null(),
            (Shape::Length, entry) => {
                replies.integer(entry.map_or(0, |entry| entry.value.len() as i64));
            }
            (Shape::Presence, entry) => replies.integer(i64::from(entry.is_some())),
            _ => return Err(CommandError::unexpected_answer()),
        },
        Answer::Written(outcome) => return outcome_reply(shape, outcome, replies),
        _ => return Err(CommandError::unexpected_answer()),
    }
    Ok(())
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
        (Shape::Previous, WriteOutcome::Put { previous: Some(entry), .. }) => {
            replies.bulk(&entry.value);
        }
        (Shape::Previous, WriteOutcome::Put { previous: None, .. }) => replies.null(),
        (Shape::Outcome, WriteOutcome::Number(number)) => replies.integer(number),
        (Shape::Outcome, WriteOutcome::Length(length)) => replies.integer(length as i64),
        (Shape::Outcome, WriteOutcome::Deleted { count, .. }) => replies.integer(count as i64),
        _ => return Err(CommandError::unexpected_answer()),
    }
    Ok(())
}

/// Writes the reply to something that may have asked several shards.
pub fn reply_wide(answer: WideAnswer, replies: &mut Replies<'_>) {
    match answer {
        WideAnswer::Values(values) => {
            replies.array(values.len());
            for value in values {
                match value {
                    Some(entry) => replies.bulk(&entry.value),
                    None => replies.null(),
                }
            }
        }
        WideAnswer::Number(number) => replies.integer(number as i64),
        WideAnswer::Keys { cursor, keys } => {
            replies.array(2);
            replies.bulk(cursor.to_string().as_bytes());
            replies.array(keys.len());
            for key in keys {
                replies.bulk(&key);
            }
        }
        WideAnswer::Done => replies.ok(),
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
