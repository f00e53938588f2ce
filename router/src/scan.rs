//! Requests whose keys may lie in several shards.
//!
//! Ranges are walked by key, not by shard: where one shard's part ends, the next key decides who is
//! asked next, so that a split in between changes nothing. Each part is read at one applied index
//! of its shard; parts of several shards are not one snapshot.
//!
//! Invariants:
//!
//! * Parts of a request for single keys, and of counts and deletions, run side by side; answers
//!   come in the order of the keys.
//! * A change of which some parts were done and others not ends in [`RouteError::Partial`], never in
//!   an error that says "no effect".
//!
//! What is absent: snapshots over several shards, and atomicity.

use crate::error::RouteError;
use crate::pending::Pending;
use crate::route::Router;
use bytes::Bytes;
use flotilla_shard::{Answer, Consistency, Entry, KeyRange, Operation, Write, WriteOutcome};
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

/// How much of a range one page may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageOptions {
    /// At most this many rows; at least 1.
    pub rows_max: u32,
    /// The page ends after the row with which keys and values reach this many bytes.
    pub bytes_max: u64,
    /// From the end of the range backwards.
    pub reverse: bool,
    /// Leave the values empty.
    pub keys_only: bool,
}

/// Rows of a part of a range, all of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In key order, or against it when reversed. May be empty while there is a rest.
    pub rows: Vec<(Bytes, Entry)>,
    /// What of the asked range was not read; `None`: all of it was.
    pub rest: Option<KeyRange>,
}

impl Router {
    /// The next rows of `range`, from its first shard (its last when reversed).
    ///
    /// # Errors
    ///
    /// [`RouteError`]; reads have no effect.
    pub fn page(
        &self,
        range: KeyRange,
        options: PageOptions,
        deadline: Instant,
    ) -> impl Future<Output = Result<Page, RouteError>> + Send + 'static {
        self.page_with(range, options, Consistency::Linearizable, deadline)
    }

    /// As [`Router::page`], as current as `consistency` says.
    ///
    /// # Errors
    ///
    /// As [`Router::page`].
    pub fn page_with(
        &self,
        range: KeyRange,
        options: PageOptions,
        consistency: Consistency,
        deadline: Instant,
    ) -> impl Future<Output = Result<Page, RouteError>> + Send + 'static {
        let router = self.clone();
        let mut asked = router.start_page(&range, options, consistency, deadline);
        async move {
            loop {
                let Some((part, pending)) = asked else {
                    return Ok(Page { rows: Vec::new(), rest: None });
                };
                match pending.await {
                    Ok(Answer::Page { rows, rest }) => {
                        let rest = remaining(&range, &part, rest, options.reverse);
                        return Ok(Page { rows, rest });
                    }
                    Ok(other) => unexpected(&other),
                    // The shard was split on the way.
                    Err(RouteError::CrossShard) => {
                        asked = router.start_page(&range, options, consistency, deadline);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn start_page(
        &self,
        range: &KeyRange,
        options: PageOptions,
        consistency: Consistency,
        deadline: Instant,
    ) -> Option<(KeyRange, Pending)> {
        let PageOptions { rows_max, bytes_max, reverse, keys_only } = options;
        let map = self.map();
        let part = if reverse { map.last_part(range) } else { map.first_part(range) }?;
        // A page without rows would never get anywhere.
        let rows_max = rows_max.max(1);
        let range = part.clone();
        let operation = Operation::Page { range, rows_max, bytes_max, reverse, keys_only };
        Some((part, self.start_read(operation, consistency, deadline)))
    }

    /// How many keys `range` holds, over all shards; not one snapshot.
    ///
    /// # Errors
    ///
    /// [`RouteError`]; reads have no effect.
    pub fn count(
        &self,
        range: KeyRange,
        deadline: Instant,
    ) -> impl Future<Output = Result<u64, RouteError>> + Send + 'static {
        let operation = |range| Operation::Count { range };
        let parts = self.fan_out_range(range, operation, deadline);
        async move {
            let mut total = 0;
            for answer in parts.await? {
                match answer {
                    Answer::Count(count) => total += count,
                    other => unexpected(&other),
                }
            }
            Ok(total)
        }
    }

    /// Removes every key of `range`, shard by shard; not atomic over several.
    ///
    /// # Errors
    ///
    /// [`RouteError`]; [`RouteError::Partial`] when some shards did it and others did not, or
    /// perhaps not.
    pub fn delete_range(
        &self,
        range: KeyRange,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), RouteError>> + Send + 'static {
        let operation = |range| Operation::Write(Write::DeleteRange { range });
        let parts = self.fan_out_range(range, operation, deadline);
        async move {
            for answer in parts.await? {
                match answer {
                    Answer::Written(WriteOutcome::RangeDeleted { .. }) => {}
                    other => unexpected(&other),
                }
            }
            Ok(())
        }
    }

    /// The values of `keys`, in their order. Keys of one shard are read at one applied index.
    ///
    /// # Errors
    ///
    /// [`RouteError`]; reads have no effect.
    pub fn get_many(
        &self,
        keys: Vec<Bytes>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<Option<Entry>>, RouteError>> + Send + 'static {
        self.get_many_with(keys, Consistency::Linearizable, deadline)
    }

    /// As [`Router::get_many`], as current as `consistency` says.
    ///
    /// # Errors
    ///
    /// As [`Router::get_many`].
    pub fn get_many_with(
        &self,
        keys: Vec<Bytes>,
        consistency: Consistency,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<Option<Entry>>, RouteError>> + Send + 'static {
        let keys: Arc<[Bytes]> = keys.into();
        let operation = |keys| Operation::GetMany { keys };
        let parts = self.fan_out_keys(keys.clone(), operation, consistency, deadline);
        async move {
            let mut values = vec![None; keys.len()];
            for (indexes, answer) in parts.await? {
                let Answer::Values(found) = answer else { unexpected(&answer) };
                assert_eq!(found.len(), indexes.len(), "a shard answers for each key");
                for (index, value) in indexes.into_iter().zip(found) {
                    values[index] = value;
                }
            }
            Ok(values)
        }
    }

    /// Removes `keys` and counts those that existed; a key listed twice counts once. Atomic within
    /// each shard, not over several.
    ///
    /// # Errors
    ///
    /// [`RouteError`]; [`RouteError::Partial`] when some shards did it and others did not, or
    /// perhaps not.
    pub fn delete_many(
        &self,
        keys: Vec<Bytes>,
        deadline: Instant,
    ) -> impl Future<Output = Result<u64, RouteError>> + Send + 'static {
        let operation = |keys| Operation::Write(Write::Delete { keys });
        let current = Consistency::Linearizable;
        let parts = self.fan_out_keys(keys.into(), operation, current, deadline);
        async move {
            let mut total = 0;
            for (_, answer) in parts.await? {
                match answer {
                    Answer::Written(WriteOutcome::Deleted { count, .. }) => total += count,
                    other => unexpected(&other),
                }
            }
            Ok(total)
        }
    }

    /// Asks all shards of `range` side by side.
    fn fan_out_range(
        &self,
        range: KeyRange,
        operation: impl Fn(KeyRange) -> Operation + Send + 'static,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<Answer>, RouteError>> + Send + 'static {
        let router = self.clone();
        let cut = move |ranges: &[KeyRange]| -> Vec<(KeyRange, Pending)> {
            let map = router.map();
            let parts: Vec<KeyRange> = ranges.iter().flat_map(|range| map.split(range)).collect();
            let operations = parts.iter().cloned().map(&operation).collect();
            parts.into_iter().zip(router.start_all(operations, deadline)).collect()
        };
        let started = cut(&[range]);
        async move { Ok(gather(started, cut).await?.into_iter().map(|(_, answer)| answer).collect()) }
    }

    /// Asks all shards of `keys` side by side; answers name the indexes of their keys.
    fn fan_out_keys(
        &self,
        keys: Arc<[Bytes]>,
        operation: impl Fn(Vec<Bytes>) -> Operation + Send + 'static,
        consistency: Consistency,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<(Vec<usize>, Answer)>, RouteError>> + Send + 'static {
        let router = self.clone();
        let all: Vec<usize> = (0..keys.len()).collect();
        let cut = move |parts: &[Vec<usize>]| -> Vec<(Vec<usize>, Pending)> {
            let map = router.map();
            let parts: Vec<Vec<usize>> =
                parts.iter().flat_map(|part| map.group_keys(&keys, part)).collect();
            let operations = parts
                .iter()
                .map(|part| operation(part.iter().map(|index| keys[*index].clone()).collect()))
                .collect();
            let started = router.start_all_with(operations, consistency, deadline);
            parts.into_iter().zip(started).collect()
        };
        let started = cut(&[all]);
        gather(started, cut)
    }
}

/// Awaits all parts. A part whose shard was split on the way is cut anew and asked again.
///
/// All are awaited even after one failed: what the others did decides how the whole failed.
async fn gather<P: Send>(
    mut started: Vec<(P, Pending)>,
    cut: impl Fn(&[P]) -> Vec<(P, Pending)> + Send,
) -> Result<Vec<(P, Answer)>, RouteError> {
    let mut answers = Vec::with_capacity(started.len());
    let mut failure: Option<RouteError> = None;
    while !started.is_empty() {
        let mut again = Vec::new();
        let (parts, pendings): (Vec<P>, Vec<Pending>) =
            std::mem::take(&mut started).into_iter().unzip();
        let results = futures_util::future::join_all(pendings).await;
        for (part, result) in parts.into_iter().zip(results) {
            match result {
                Ok(answer) => answers.push((part, answer)),
                Err(RouteError::CrossShard) => again.push(part),
                // What may have had an effect says more than what had none.
                Err(error) => {
                    if failure.as_ref().is_none_or(|known| !known.maybe_committed()) {
                        failure = Some(error);
                    }
                }
            }
        }
        if failure.is_none() && !again.is_empty() {
            started = cut(&again);
        }
    }
    let Some(cause) = failure else { return Ok(answers) };
    let wrote = answers.iter().any(|(_, answer)| matches!(answer, Answer::Written(_)));
    Err(if wrote { RouteError::Partial { cause: Box::new(cause) } } else { cause })
}

/// What of `range` is left when `part` of it was read up to `rest`.
fn remaining(
    range: &KeyRange,
    part: &KeyRange,
    rest: Option<KeyRange>,
    reverse: bool,
) -> Option<KeyRange> {
    let left = if reverse {
        let end = match rest {
            Some(rest) => rest.end,
            None => Some(part.start.clone()),
        };
        KeyRange { start: range.start.clone(), end }
    } else {
        let start = match rest {
            Some(rest) => rest.start,
            None => part.end.clone()?,
        };
        KeyRange { start, end: range.end.clone() }
    };
    (!left.is_empty()).then_some(left)
}

/// A shard answered another question than it was asked: one of the two is broken.
fn unexpected(answer: &Answer) -> ! {
    panic!("a shard gave an answer of the wrong kind: {answer:?}")
}
