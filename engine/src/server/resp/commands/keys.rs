//! Commands on several keys, or on all of them.
//!
//! Their parts run side by side over the shards, and are not atomic over several.

use super::{Context, Plan, RespOptions, Shape, WideAnswer, integer, key, keys_from};
use crate::server::resp::backend::Backend;
use crate::server::resp::codec::{Arguments, Replies};
use crate::server::resp::error::CommandError;
use crate::server::resp::glob::Glob;
use bytes::Bytes;
use flotilla_router::PageOptions;
use flotilla_shard::{Entry, KeyRange, Operation, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

/// Keys that are read at once before the sizes of their values are known.
const FIRST_READ_KEYS: usize = 128;

/// Keys that are read at once at most.
const READ_KEYS_MAX: usize = 4096;

/// Keys that one call of `SCAN` looks at, at most, whatever its `COUNT`.
const SCAN_KEYS_MAX: i64 = 10_000;

/// Bytes of keys that one page of a scan holds, about.
const SCAN_PAGE_BYTES: u64 = 1 << 20;

/// Pages that one call of `SCAN` asks for, so that it ends soon even over many empty shards.
const SCAN_PAGES_MAX: u32 = 64;

/// Something that may ask several shards.
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
    /// How many keys there are.
    CountAll,
    /// Removes all keys.
    Clear,
}

/// One step of a scan.
#[derive(Debug, PartialEq, Eq)]
pub struct ScanPlan {
    range: KeyRange,
    pattern: Option<Glob>,
    rows_max: u32,
}

impl Wide {
    /// True if it may change something.
    pub fn is_write(&self) -> bool {
        matches!(self, Wide::Delete(_) | Wide::Clear)
    }

    /// The keys it touches; `None` if that may be any.
    pub fn keys(&self) -> Option<&[Bytes]> {
        match self {
            Wide::GetMany(keys) | Wide::CountExisting(keys) | Wide::Delete(keys) => Some(keys),
            Wide::Scan(_) | Wide::CountAll | Wide::Clear => None,
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
fn prefix_range(prefix: Vec<u8>) -> KeyRange {
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
fn whole_range() -> KeyRange {
    prefix_range(Vec::new())
}

/// The future of an answer.
pub type WideFuture = Pin<Box<dyn Future<Output = Result<WideAnswer, CommandError>> + Send>>;

/// Does it. The data is asked before this returns, except for what depends on earlier answers.
pub fn run_wide<B: Backend>(
    context: &Arc<Context<B>>,
    wide: Wide,
    deadline: Instant,
) -> WideFuture {
    let write = wide.is_write();
    let told = move |error| CommandError::of_route(&error, write);
    let backend = &context.backend;
    match wide {
        Wide::GetMany(keys) => Box::pin(read_many(context.clone(), keys, deadline)),
        Wide::CountExisting(keys) => Box::pin(count_existing(context.clone(), keys, deadline)),
        Wide::Delete(keys) => {
            let asked = backend.delete_many(keys, deadline);
            Box::pin(async move { asked.await.map(WideAnswer::Number).map_err(told) })
        }
        Wide::Scan(plan) => Box::pin(run_scan(context.clone(), plan, deadline)),
        Wide::CountAll => {
            let asked = backend.count(whole_range(), deadline);
            Box::pin(async move { asked.await.map(WideAnswer::Number).map_err(told) })
        }
        Wide::Clear => {
            let asked = backend.delete_range(whole_range(), deadline);
            Box::pin(async move { asked.await.map(|()| WideAnswer::Done).map_err(told) })
        }
    }
}

/// Reads `keys` a part at a time, so that neither the sum of their values nor a part of it grows
/// far beyond the limit on replies.
async fn read_many<B: Backend>(
    context: Arc<Context<B>>,
    keys: Vec<Bytes>,
    deadline: Instant,
) -> Result<WideAnswer, CommandError> {
    let bytes_max = context.options.reply_bytes_max;
    let mut values = Vec::with_capacity(keys.len());
    let mut bytes = 0;
    let mut next = Parts::new();
    let mut rest = &keys[..];
    while !rest.is_empty() {
        let (part, after) = rest.split_at(next.keys(bytes_max - bytes).min(rest.len()));
        rest = after;
        let found = fetch(&context, part, deadline).await?;
        next.learn(&found);
        bytes += found.iter().flatten().map(|entry| entry.value.len()).sum::<usize>();
        if bytes > bytes_max {
            return Err(CommandError::request(format!(
                "ERR the values exceed the limit of {bytes_max} bytes in one reply; ask for fewer"
            )));
        }
        values.extend(found);
    }
    Ok(WideAnswer::Values(values))
}

async fn count_existing<B: Backend>(
    context: Arc<Context<B>>,
    keys: Vec<Bytes>,
    deadline: Instant,
) -> Result<WideAnswer, CommandError> {
    let mut count = 0;
    let mut next = Parts::new();
    let mut rest = &keys[..];
    while !rest.is_empty() {
        let keys_max = next.keys(context.options.reply_bytes_max);
        let (part, after) = rest.split_at(keys_max.min(rest.len()));
        rest = after;
        let found = fetch(&context, part, deadline).await?;
        next.learn(&found);
        count += found.iter().flatten().count() as u64;
    }
    Ok(WideAnswer::Number(count))
}

async fn fetch<B: Backend>(
    context: &Context<B>,
    keys: &[Bytes],
    deadline: Instant,
) -> Result<Vec<Option<Entry>>, CommandError> {
    let asked = context.backend.get_many(keys.to_vec(), deadline);
    asked.await.map_err(|error| CommandError::of_route(&error, false))
}

/// How many keys to read at once, judged by the largest value so far.
struct Parts {
    value_bytes_seen: Option<usize>,
}

impl Parts {
    fn new() -> Parts {
        Parts { value_bytes_seen: None }
    }

    fn keys(&self, bytes_left: usize) -> usize {
        match self.value_bytes_seen {
            None => FIRST_READ_KEYS,
            Some(bytes) => (bytes_left / (bytes + 64)).clamp(1, READ_KEYS_MAX),
        }
    }

    fn learn(&mut self, found: &[Option<Entry>]) {
        let largest = found.iter().flatten().map(|entry| entry.value.len()).max();
        self.value_bytes_seen = self.value_bytes_seen.max(largest).or(Some(0));
    }
}

async fn run_scan<B: Backend>(
    context: Arc<Context<B>>,
    plan: ScanPlan,
    deadline: Instant,
) -> Result<WideAnswer, CommandError> {
    let ScanPlan { range, pattern, mut rows_max } = plan;
    let mut keys = Vec::new();
    let mut rest = Some(range);
    let mut pages = 0;
    while let Some(range) = rest.take_if(|_| rows_max > 0 && pages < SCAN_PAGES_MAX) {
        let options =
            PageOptions { rows_max, bytes_max: SCAN_PAGE_BYTES, reverse: false, keys_only: true };
        let page = context
            .backend
            .page(range, options, deadline)
            .await
            .map_err(|error| CommandError::of_route(&error, false))?;
        pages += 1;
        rows_max = rows_max.saturating_sub(page.rows.len() as u32);
        let found = page.rows.into_iter().map(|(key, _)| key);
        keys.extend(found.filter(|key| pattern.as_ref().is_none_or(|glob| glob.matches(key))));
        rest = page.rest;
    }
    let cursor = rest.map_or(0, |rest| context.cursors.issue(&rest.start));
    Ok(WideAnswer::Keys { cursor, keys })
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

    #[test]
    fn parts_shrink_when_values_are_large() {
        let mut parts = Parts::new();
        assert_eq!(parts.keys(1 << 20), FIRST_READ_KEYS);
        parts.learn(&[None]);
        assert_eq!(parts.keys(1 << 20), READ_KEYS_MAX);
        let value = Bytes::from(vec![0; 1 << 20]);
        parts.learn(&[None, Some(Entry { value, version: 1, expires_at_ms: None })]);
        assert_eq!(parts.keys(10 << 20), 9);
        assert_eq!(parts.keys(0), 1);
    }
}
