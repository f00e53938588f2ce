//! `FLOTILLA.RANGE`: rows from one key to another, in order, with their values.
//!
//! Invariants:
//!
//! * A reply holds all rows from where it was asked to begin up to where it says to go on. It may
//!   hold fewer than asked for, even none, while there are more.
//! * Each part is read linearizably, at one moment of its shard; parts of a reply are not one snapshot.
//!
//! What is absent: positions that the server remembers. Where to go on is a key, which any node
//! understands at any time.

use super::{Context, Plan, RespOptions, Wide, WideAnswer, integer};
use crate::server::resp::backend::Backend;
use crate::server::resp::codec::Arguments;
use crate::server::resp::error::CommandError;
use bytes::Bytes;
use flotilla_router::PageOptions;
use flotilla_shard::KeyRange;
use std::sync::Arc;
use std::time::Instant;

/// Rows of one reply when nothing is said.
const ROWS_DEFAULT: i64 = 100;

/// Rows of one reply, whatever is asked for.
const ROWS_MAX: i64 = 10_000;

/// A reply ends after the row with which its keys and values reach this many bytes.
const BYTES_MAX: usize = 1 << 20;

/// Parts of shards that one reply is made of, so that it ends soon even over many empty shards.
const PAGES_MAX: u32 = 64;

/// What to read.
#[derive(Debug, PartialEq, Eq)]
pub struct RangePlan {
    range: KeyRange,
    rows_max: u32,
}

/// `FLOTILLA.RANGE start end [LIMIT rows]`
pub(super) fn range(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let start = bound(options, arguments, 1)?;
    let end = bound(options, arguments, 2)?;
    let rows = match arguments.len() {
        3 => ROWS_DEFAULT,
        5 if arguments.get(3).eq_ignore_ascii_case(b"limit") => integer(arguments, 4)?,
        _ => return Err(CommandError::SYNTAX),
    };
    if rows < 1 {
        return Err(CommandError::fixed("ERR the limit must be positive"));
    }
    let range = KeyRange { start, end: (!end.is_empty()).then_some(end) };
    let rows_max = rows.min(ROWS_MAX) as u32;
    Ok(Plan::Wide(Wide::Range(RangePlan { range, rows_max })))
}

/// The argument at `index` as a place among keys: a key, or the place right behind one.
fn bound(
    options: &RespOptions,
    arguments: &Arguments,
    index: usize,
) -> Result<Bytes, CommandError> {
    let (bytes, bytes_max) = (arguments.get(index).len(), options.key_bytes_max + 1);
    if bytes > bytes_max {
        return Err(CommandError::request(format!(
            "ERR the bound of {bytes} bytes exceeds the limit of {bytes_max}"
        )));
    }
    Ok(arguments.share(index))
}

pub(super) async fn run_range<B: Backend>(
    context: Arc<Context<B>>,
    plan: RangePlan,
    deadline: Instant,
) -> Result<WideAnswer, CommandError> {
    let RangePlan { range, mut rows_max } = plan;
    let mut rows = Vec::new();
    let mut bytes_left = BYTES_MAX;
    let mut rest = (!range.is_empty()).then_some(range);
    let mut pages = 0;
    while let Some(range) = rest.take_if(|_| rows_max > 0 && bytes_left > 0 && pages < PAGES_MAX) {
        let bytes_max = bytes_left as u64;
        let options = PageOptions { rows_max, bytes_max, reverse: false, keys_only: false };
        let asked = context.backend.page(range, options, deadline);
        let page = asked.await.map_err(|error| CommandError::of_route(&error, false))?;
        pages += 1;
        rows_max = rows_max.saturating_sub(page.rows.len() as u32);
        for (key, entry) in page.rows {
            bytes_left = bytes_left.saturating_sub(key.len() + entry.value.len());
            rows.push((key, entry));
        }
        rest = page.rest;
    }
    Ok(WideAnswer::Rows { next: rest.map(|rest| rest.start), rows })
}
