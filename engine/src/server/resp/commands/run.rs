//! Does what is more than one operation on one key.
//!
//! The parts of a request run side by side over the shards; only a transaction is one write. Reads
//! of many values are done a part at a time, so that what a reply holds stays limited.

use super::keys::{prefix_range, whole_range};
use super::lcs;
use super::range::run_range;
use super::transaction::{TransactionPlan, WatchedKey};
use super::{Context, Wide, WideAnswer};
use crate::server::resp::backend::Backend;
use crate::server::resp::error::CommandError;
use crate::server::resp::glob::Glob;
use bytes::Bytes;
use flotilla_router::PageOptions;
use flotilla_shard::{Answer, Entry, KeyRange, Operation};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

/// Keys that are read at once before the sizes of their values are known.
const FIRST_READ_KEYS: usize = 128;

/// Keys that are read at once at most.
const READ_KEYS_MAX: usize = 4096;

/// Bytes of keys that one page of a scan holds, about.
const SCAN_PAGE_BYTES: u64 = 1 << 20;

/// Pages that one call of `SCAN` asks for, so that it ends soon even over many empty shards.
const SCAN_PAGES_MAX: u32 = 64;

/// Keys that one page of `KEYS` holds.
const PAGE_KEYS: u32 = 4096;

/// Among so many keys `RANDOMKEY` chooses with the same probability.
const RANDOM_KEYS: u32 = 128;

/// How often `RANDOMKEY` looks closer, each time at one more byte of the keys.
const RANDOM_DEPTH: u32 = 64;

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
        Wide::Range(plan) => Box::pin(run_range(context.clone(), plan, deadline)),
        Wide::CountAll => {
            let asked = backend.count(whole_range(), deadline);
            Box::pin(async move { asked.await.map(WideAnswer::Number).map_err(told) })
        }
        Wide::Keys { range, pattern } => {
            Box::pin(run_keys(context.clone(), range, pattern, deadline))
        }
        Wide::RandomKey => Box::pin(random_key(context.clone(), deadline)),
        Wide::Lcs { keys, options } => Box::pin(run_lcs(context.clone(), keys, options, deadline)),
        Wide::Watch(keys) => Box::pin(watch(context.clone(), keys, deadline)),
        Wide::Transaction(plan) => run_transaction(context, *plan, deadline),
        Wide::Wait(replicas) => Box::pin(std::future::ready(Ok(WideAnswer::Number(replicas)))),
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
    plan: super::keys::ScanPlan,
    deadline: Instant,
) -> Result<WideAnswer, CommandError> {
    let super::keys::ScanPlan { range, pattern, mut rows_max } = plan;
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
    Ok(WideAnswer::ScannedKeys { cursor, keys })
}

/// All keys of `range` that match, as long as they fit a reply.
async fn run_keys<B: Backend>(
    context: Arc<Context<B>>,
    range: KeyRange,
    pattern: Glob,
    deadline: Instant,
) -> Result<WideAnswer, CommandError> {
    let bytes_max = context.options.reply_bytes_max;
    let mut keys: Vec<Bytes> = Vec::new();
    let mut bytes = 0;
    let mut rest = Some(range);
    while let Some(range) = rest {
        let page = page_of_keys(&context, range, PAGE_KEYS, false, deadline).await?;
        let (found, after) = page;
        for key in found.into_iter().filter(|key| pattern.matches(key)) {
            bytes += key.len() + size_of::<Bytes>();
            keys.push(key);
        }
        if bytes > bytes_max {
            return Err(CommandError::request(format!(
                "ERR the keys exceed the limit of {bytes_max} bytes in one reply; use SCAN"
            )));
        }
        rest = after;
    }
    Ok(WideAnswer::Keys(keys))
}

async fn page_of_keys<B: Backend>(
    context: &Context<B>,
    range: KeyRange,
    rows_max: u32,
    reverse: bool,
    deadline: Instant,
) -> Result<(Vec<Bytes>, Option<KeyRange>), CommandError> {
    let options = PageOptions { rows_max, bytes_max: SCAN_PAGE_BYTES, reverse, keys_only: true };
    let page = context
        .backend
        .page(range, options, deadline)
        .await
        .map_err(|error| CommandError::of_route(&error, false))?;
    Ok((page.rows.into_iter().map(|(key, _)| key).collect(), page.rest))
}

/// The first keys of `range`, or its last, and whether these are all.
async fn some_keys<B: Backend>(
    context: &Context<B>,
    range: KeyRange,
    keys_max: u32,
    reverse: bool,
    deadline: Instant,
) -> Result<(Vec<Bytes>, bool), CommandError> {
    let mut keys = Vec::new();
    let mut rest = Some(range);
    while let Some(range) = rest.take() {
        let missing = keys_max - keys.len() as u32;
        if missing == 0 {
            return Ok((keys, false));
        }
        let (found, after) = page_of_keys(context, range, missing, reverse, deadline).await?;
        keys.extend(found);
        rest = after;
    }
    Ok((keys, true))
}

/// Some key. While there are many, they are divided by the first byte in which they differ, one
/// part is chosen at random, and the same done with that.
async fn random_key<B: Backend>(
    context: Arc<Context<B>>,
    deadline: Instant,
) -> Result<WideAnswer, CommandError> {
    let mut range = whole_range();
    let mut chosen = None;
    for _ in 0..RANDOM_DEPTH {
        let ask =
            |range, keys_max, reverse| some_keys(&context, range, keys_max, reverse, deadline);
        let (mut keys, all) = ask(range.clone(), RANDOM_KEYS, false).await?;
        if keys.is_empty() {
            // All were removed meanwhile, if there were any.
            break;
        }
        if all {
            chosen = Some(keys.swap_remove(rand::random_range(0..keys.len())));
            break;
        }
        let first = keys.swap_remove(0);
        let last = ask(range.clone(), 1, true).await?.0.pop().unwrap_or_else(|| first.clone());
        let shared = first.iter().zip(&last).take_while(|(a, b)| a == b).count();
        let border = border(&first, &last, shared).into();
        let (part, reverse) = if rand::random() {
            (KeyRange { start: border, end: range.end }, false)
        } else {
            (KeyRange { start: range.start, end: Some(border) }, true)
        };
        let key = ask(part, 1, reverse).await?.0.pop().unwrap_or(first);
        let prefix = key.get(..=shared).map(<[u8]>::to_vec);
        chosen = Some(key);
        // Without another byte it is the key that all others begin with.
        let Some(prefix) = prefix else { break };
        range = prefix_range(prefix);
    }
    Ok(WideAnswer::Key(chosen))
}

/// A place between `first` and `last`, of which `shared` bytes are the same, at a random byte.
fn border(first: &[u8], last: &[u8], shared: usize) -> Vec<u8> {
    let at = |key: &[u8]| key.get(shared).copied().unwrap_or(0);
    let byte = rand::random_range(at(first)..=at(last).max(at(first)));
    [&first[..shared], &[byte]].concat()
}

async fn run_lcs<B: Backend>(
    context: Arc<Context<B>>,
    keys: Vec<Bytes>,
    options: lcs::LcsOptions,
    deadline: Instant,
) -> Result<WideAnswer, CommandError> {
    let found = fetch(&context, &keys, deadline).await?;
    let values: Vec<Bytes> =
        found.into_iter().map(|entry| entry.map_or_else(Bytes::new, |e| e.value)).collect();
    let [a, b] = &values[..] else { return Err(CommandError::unexpected_answer()) };
    let (a, b) = (a.clone(), b.clone());
    blocking(&context, move || lcs::find(&a, &b, options)).await?.map(WideAnswer::Lcs)
}

/// Does what takes long on a thread of its own, one request at a time.
async fn blocking<B, T: Send + 'static>(
    context: &Context<B>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CommandError> {
    let _turn = context.slow_turn.acquire().await.expect("the semaphore is never closed");
    tokio::task::spawn_blocking(work).await.map_err(|_| CommandError::interrupted())
}

/// The versions of `keys`, which are read a part at a time.
async fn watch<B: Backend>(
    context: Arc<Context<B>>,
    keys: Vec<Bytes>,
    deadline: Instant,
) -> Result<WideAnswer, CommandError> {
    let mut watched = Vec::with_capacity(keys.len());
    let mut next = Parts::new();
    let mut rest = &keys[..];
    while !rest.is_empty() {
        let keys_max = next.keys(context.options.reply_bytes_max);
        let (part, after) = rest.split_at(keys_max.min(rest.len()));
        rest = after;
        let found = fetch(&context, part, deadline).await?;
        next.learn(&found);
        watched.extend(part.iter().zip(found).map(|(key, entry)| WatchedKey {
            key: key.clone(),
            version: entry.map_or(0, |entry| entry.version),
        }));
    }
    Ok(WideAnswer::Watched(watched))
}

/// Sends the one write of a transaction before this returns.
fn run_transaction<B: Backend>(
    context: &Arc<Context<B>>,
    mut plan: TransactionPlan,
    deadline: Instant,
) -> WideFuture {
    let asked =
        plan.take_write().map(|write| context.backend.start(Operation::Write(write), deadline));
    let context = context.clone();
    Box::pin(async move {
        let outcome = match asked {
            None => None,
            Some(asked) => Some(match asked.await {
                Ok(Answer::Written(outcome)) => outcome,
                Ok(_) => return Err(CommandError::unexpected_answer()),
                Err(error) => return Err(CommandError::of_route(&error, true)),
            }),
        };
        let bytes_max = context.options.reply_bytes_max;
        let answers = if plan.is_slow() {
            blocking(&context, move || plan.answers(outcome, bytes_max)).await??
        } else {
            plan.answers(outcome, bytes_max)?
        };
        Ok(WideAnswer::Transaction(answers))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
