//! Commands on several keys, or on all of them: what they ask for.

use super::lcs::LcsOptions;
use super::range::RangePlan;
use super::transaction::TransactionPlan;
use super::{Context, Plan, RespOptions, Shape, database, integer, key, keys_from};
use crate::server::resp::backend::Backend;
use crate::server::resp::codec::{Arguments, Replies, parse_integer};
use crate::server::resp::error::CommandError;
use crate::server::resp::glob::Glob;
use bytes::Bytes;
use flotilla_shard::{KeyRange, Operation, Write};

/// Keys that one call of `SCAN` looks at, at most, whatever its `COUNT`.
const SCAN_KEYS_MAX: i64 = 10_000;

/// Something that is more than one operation on one key.
#[derive(Debug, PartialEq, Eq)]
pub enum Wide {
    /// Values, in the order of the keys.
    GetMany(Vec<Bytes>),
    /// How many of the keys exist; a key listed twice counts twice.
    CountExisting(Vec<Bytes>),
    /// Removes keys and counts those that existed.
    Delete(Vec<Bytes>),
    /// Some keys, in order.
    Scan(ScanPlan),
    /// Some rows, in order.
    Range(RangePlan),
    /// All keys that match.
    Keys {
        /// Where they are.
        range: KeyRange,
        /// What they match.
        pattern: Glob,
    },
    /// Some key.
    RandomKey,
    /// What two values have in common.
    Lcs {
        /// Two.
        keys: Vec<Bytes>,
        /// What to tell.
        options: LcsOptions,
    },
    /// The versions of keys, for a later transaction.
    Watch(Vec<Bytes>),
    /// A transaction.
    Transaction(Box<TransactionPlan>),
    /// Waits for all requests before it, then tells this number.
    Wait(u64),
    /// How many keys there are.
    CountAll,
    /// Removes all keys.
    Clear,
}

/// One step of a scan.
#[derive(Debug, PartialEq, Eq)]
pub struct ScanPlan {
    pub(super) range: KeyRange,
    pub(super) pattern: Option<Glob>,
    pub(super) rows_max: u32,
}

impl Wide {
    /// True if it may change something.
    pub fn is_write(&self) -> bool {
        matches!(self, Wide::Delete(_) | Wide::Clear | Wide::Transaction(_))
    }

    /// The keys it touches; `None` if that may be any.
    pub fn keys(&self) -> Option<&[Bytes]> {
        match self {
            Wide::GetMany(keys)
            | Wide::CountExisting(keys)
            | Wide::Delete(keys)
            | Wide::Watch(keys)
            | Wide::Lcs { keys, .. } => Some(keys),
            Wide::Transaction(plan) => Some(&plan.keys),
            Wide::Scan(_)
            | Wide::Range(_)
            | Wide::Keys { .. }
            | Wide::RandomKey
            | Wide::CountAll
            | Wide::Clear
            | Wide::Wait(_) => None,
        }
    }
}

pub(super) fn mget(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    Ok(Plan::Wide(Wide::GetMany(keys_from(options, arguments, 1)?)))
}

pub(super) fn delete(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let keys = keys_from(options, arguments, 1)?;
    if keys.len() > 1 {
        return Ok(Plan::Wide(Wide::Delete(keys)));
    }
    let operation = Operation::Write(Write::Delete { keys });
    Ok(Plan::Single { operation, shape: Shape::Outcome })
}

pub(super) fn exists(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    if arguments.len() > 2 {
        return Ok(Plan::Wide(Wide::CountExisting(keys_from(options, arguments, 1)?)));
    }
    let operation = Operation::Get { key: key(options, arguments, 1)? };
    Ok(Plan::Single { operation, shape: Shape::Presence })
}

pub(super) fn flush(arguments: &Arguments) -> Result<Plan, CommandError> {
    let known = match arguments.len() {
        1 => true,
        2 => ["sync", "async"]
            .iter()
            .any(|mode| arguments.get(1).eq_ignore_ascii_case(mode.as_bytes())),
        _ => false,
    };
    if known { Ok(Plan::Wide(Wide::Clear)) } else { Err(CommandError::SYNTAX) }
}

pub(super) fn scan<B: Backend>(
    context: &Context<B>,
    arguments: &Arguments,
    replies: &mut Replies<'_>,
) -> Result<Plan, CommandError> {
    let cursor = parse_cursor(arguments.get(1))?;
    let mut pattern = None;
    let mut count = 10;
    let mut strings = true;
    let mut index = 2;
    while index < arguments.len() {
        if index + 1 == arguments.len() {
            return Err(CommandError::SYNTAX);
        }
        let option = arguments.get(index);
        if option.eq_ignore_ascii_case(b"count") {
            count = integer(arguments, index + 1)?;
            if count < 1 {
                return Err(CommandError::SYNTAX);
            }
        } else if option.eq_ignore_ascii_case(b"match") {
            pattern = Some(Glob::new(arguments.get(index + 1)));
        } else if option.eq_ignore_ascii_case(b"type") {
            strings = arguments.get(index + 1).eq_ignore_ascii_case(b"string");
        } else {
            return Err(CommandError::SYNTAX);
        }
        index += 2;
    }
    let prefix = pattern.as_ref().map(Glob::literal_prefix).unwrap_or_default();
    let mut range = prefix_range(prefix);
    if cursor != 0 {
        let Some(next) = context.cursors.resume(cursor) else {
            return Err(CommandError::request(format!(
                "ERR cursor {cursor} is not known here: another node issued it, or this one before \
                 its last start or too long ago; begin again with cursor 0"
            )));
        };
        range.start = range.start.max(next);
    }
    // All values are strings, so any other type has no keys.
    if !strings || range.end.as_ref().is_some_and(|end| *end <= range.start) {
        replies.array(2);
        replies.bulk(b"0");
        replies.array(0);
        return Ok(Plan::Replied);
    }
    let rows_max = count.min(SCAN_KEYS_MAX) as u32;
    Ok(Plan::Wide(Wide::Scan(ScanPlan { range, pattern, rows_max })))
}

/// A cursor as Redis reads it: an unsigned number, perhaps with a sign, or nothing at all for 0.
fn parse_cursor(text: &[u8]) -> Result<u64, CommandError> {
    const INVALID: CommandError = CommandError::fixed("ERR invalid cursor");
    let digits = text.strip_prefix(b"+").unwrap_or(text);
    if text.is_empty() {
        return Ok(0);
    }
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(INVALID);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| INVALID)?;
    digits.parse().map_err(|_| INVALID)
}

/// All keys that begin with `prefix`.
pub(super) fn prefix_range(prefix: Vec<u8>) -> KeyRange {
    let mut end = prefix.clone();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    let end = end.pop().map(|last| {
        end.push(last + 1);
        Bytes::from(end)
    });
    KeyRange { start: prefix.into(), end }
}

/// Every key there is.
pub(super) fn whole_range() -> KeyRange {
    prefix_range(Vec::new())
}

pub(super) fn keys(arguments: &Arguments) -> Plan {
    let pattern = Glob::new(arguments.get(1));
    Plan::Wide(Wide::Keys { range: prefix_range(pattern.literal_prefix()), pattern })
}

pub(super) fn rename(
    options: &RespOptions,
    arguments: &Arguments,
    only_if_absent: bool,
) -> Result<Plan, CommandError> {
    let (from, to) = (key(options, arguments, 1)?, key(options, arguments, 2)?);
    if from == to {
        let shape = Shape::SameName { flag: only_if_absent };
        return Ok(Plan::Single { operation: Operation::Get { key: from }, shape });
    }
    let shape = if only_if_absent { Shape::MovedFlag } else { Shape::Renamed };
    let operation = Operation::Write(Write::Rename { from, to, only_if_absent });
    Ok(Plan::Single { operation, shape })
}

pub(super) fn copy(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let mut replace = false;
    let mut index = 3;
    while index < arguments.len() {
        let option = arguments.get(index);
        if option.eq_ignore_ascii_case(b"replace") {
            replace = true;
        } else if option.eq_ignore_ascii_case(b"db") && index + 1 < arguments.len() {
            index += 1;
            if database(arguments, index)? != 0 {
                return Err(CommandError::NO_SUCH_DATABASE);
            }
        } else {
            return Err(CommandError::SYNTAX);
        }
        index += 1;
    }
    let (from, to) = (key(options, arguments, 1)?, key(options, arguments, 2)?);
    if from == to {
        return Err(CommandError::fixed("ERR source and destination objects are the same"));
    }
    let operation = Operation::Write(Write::Copy { from, to, replace });
    Ok(Plan::Single { operation, shape: Shape::MovedFlag })
}

/// `WAIT`: whatever was acknowledged is on a majority of the replicas already, so that it never
/// waits longer than for the requests before it.
pub(super) fn wait<B>(context: &Context<B>, arguments: &Arguments) -> Result<Plan, CommandError> {
    integer(arguments, 1)?;
    let timeout = parse_integer(arguments.get(2))
        .ok_or(CommandError::fixed("ERR timeout is not an integer or out of range"))?;
    if timeout < 0 {
        return Err(CommandError::fixed("ERR timeout is negative"));
    }
    Ok(Plan::Wide(Wide::Wait(context.info.facts().replicas_certain)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_prefixes() {
        let table: [(&[u8], Option<&[u8]>); 5] = [
            (b"", None),
            (b"a", Some(b"b")),
            (b"a\xff", Some(b"b")),
            (b"\xff\xff", None),
            (b"ab\xfe", Some(b"ab\xff")),
        ];
        for (prefix, end) in table {
            let range = prefix_range(prefix.to_vec());
            assert_eq!((&range.start[..], range.end.as_deref()), (prefix, end));
        }
    }

    #[test]
    fn cursors_are_read_as_redis_reads_them() {
        for (text, cursor) in
            [("0", 0), ("", 0), ("+0", 0), ("007", 7), ("18446744073709551615", u64::MAX)]
        {
            assert_eq!(parse_cursor(text.as_bytes()), Ok(cursor), "{text}");
        }
        for text in ["x", " 1", "1 ", "0x1", "+", "-", "18446744073709551616"] {
            let error = parse_cursor(text.as_bytes()).unwrap_err();
            assert_eq!(&*error.text, b"ERR invalid cursor", "{text}");
        }
    }
}
