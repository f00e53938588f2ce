//! Answers reads from a shard's rows: at once when they are in memory, else from a view.
//!
//! What is absent: whether the read may be served now; Raft has confirmed that before.

use crate::budget::{Part, Permit};
use crate::command::Entry;
use crate::held::{self, Chance, hold};
use crate::machine::Machine;
use crate::reads::ReadRequest;
use crate::request::{Answer, Operation, Refusal, Reply};
use flotilla_storage::store::{Lookup, PageOptions, Row, StoreError, View};
use flotilla_storage::{GroupId, KeyRange};
use std::time::{Duration, Instant};

/// A read that must look below the memtables.
pub struct ColdRead {
    /// Whose rows.
    pub group: GroupId,
    /// The rows as they were when the read was confirmed.
    pub view: View,
    /// The shard's range at that moment.
    pub range: KeyRange,
    /// What to read.
    pub operation: Operation,
    /// Where the answer goes.
    pub reply: Reply,
    /// When the request entered the node.
    pub entered: Instant,
    /// Its bytes at the door.
    pub permit: Permit,
    /// Its answer is known to be a large one.
    pub is_large: bool,
}

/// What became of a read.
pub enum Served {
    /// It was answered from memory.
    Now {
        /// Where the answer goes.
        reply: Reply,
        /// When the request entered the node.
        entered: Instant,
        /// The answer.
        result: Result<Answer, Refusal>,
    },
    /// It must look below, or wait.
    Cold(ColdRead),
}

/// Answers a confirmed read, or says that it must look below: there it also waits for its turn if
/// its answer is large and many others are under way.
///
/// `read_time_ms` is the moment at which the read sees rows that expire: what the machine makes of
/// the replica's clock ([`Machine::read_time_ms`]).
pub fn serve(machine: &Machine, group: GroupId, read: ReadRequest, read_time_ms: u64) -> Served {
    let ReadRequest { operation, reply, entered, permit, .. } = read;
    let range = &machine.descriptor().range;
    let hot = match &operation {
        Operation::Get { key } if range.contains(key) => match machine.shard().lookup(key) {
            Lookup::Row(row) => Some(Ok(Answer::Value(entry(row, read_time_ms)))),
            Lookup::Absent => Some(Ok(Answer::Value(None))),
            Lookup::Below => None,
        },
        Operation::GetMany { keys } => {
            hot_values(machine, keys, read_time_ms).map(|values| Ok(Answer::Values(values)))
        }
        Operation::Get { .. } => {
            Some(Err(Refusal::OutOfRange { descriptor: machine.descriptor().clone() }))
        }
        Operation::Page { .. } | Operation::Count { .. } => None,
        Operation::Write(_) => unreachable!("writes are proposed, not served"),
    };
    let is_large = matches!(&hot, Some(Ok(answer)) if held::is_large(answer));
    match hot {
        Some(result) if !is_large => return Served::Now { reply, entered, result },
        Some(Ok(answer)) => {
            let budget = permit.budget();
            if Chance::of(&budget, Duration::ZERO, false) == Chance::Now {
                let result = Ok(hold(answer, &budget.account(Part::Reads)));
                return Served::Now { reply, entered, result };
            }
        }
        _ => {}
    }
    let (view, range) = (machine.shard().view().at(read_time_ms), range.clone());
    Served::Cold(ColdRead { group, view, range, operation, reply, entered, permit, is_large })
}

fn hot_values(
    machine: &Machine,
    keys: &[bytes::Bytes],
    read_time_ms: u64,
) -> Option<Vec<Option<Entry>>> {
    let mut values = Vec::with_capacity(keys.len());
    for key in keys {
        match machine.shard().lookup(key) {
            Lookup::Row(row) => values.push(entry(row, read_time_ms)),
            Lookup::Absent => values.push(None),
            Lookup::Below => return None,
        }
    }
    Some(values)
}

impl ColdRead {
    /// Reads. May wait for the disk.
    pub fn run(&self) -> Result<Answer, Refusal> {
        let answer = match &self.operation {
            Operation::Get { key } => {
                Answer::Value(self.view.get(key).map_err(refusal)?.map(Entry::from))
            }
            Operation::GetMany { keys } => {
                let rows = self.view.get_many(keys).map_err(refusal)?;
                Answer::Values(rows.into_iter().map(|row| row.map(Entry::from)).collect())
            }
            Operation::Page { range, rows_max, bytes_max, reverse, keys_only } => {
                let Some(part) = range.clip(&self.range) else {
                    return Ok(Answer::Page { rows: Vec::new(), rest: None });
                };
                let options = PageOptions {
                    rows_max: *rows_max as usize,
                    bytes_max: usize::try_from(*bytes_max).unwrap_or(usize::MAX),
                    reverse: *reverse,
                    keys_only: *keys_only,
                };
                let page = self.view.page(&part, options).map_err(refusal)?;
                let rows =
                    page.rows.into_iter().map(|(key, row)| (key, Entry::from(row))).collect();
                Answer::Page { rows, rest: page.more }
            }
            Operation::Count { range } => match range.clip(&self.range) {
                Some(part) => Answer::Count(self.view.count(&part).map_err(refusal)?),
                None => Answer::Count(0),
            },
            Operation::Write(_) => unreachable!("writes are proposed, not served"),
        };
        Ok(answer)
    }
}

fn entry(row: Row, read_time_ms: u64) -> Option<Entry> {
    (!row.is_expired(read_time_ms)).then(|| Entry::from(row))
}

fn refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::Corrupt { .. } => Refusal::Corrupt(error.to_string()),
        other => Refusal::Storage(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::command::{Change, Command, Condition, Expiry, Origin, Write};
    use crate::descriptor::{Descriptor, Epoch};
    use crate::machine::{Applied, Fetched, ShardMeta};
    use bytes::Bytes;
    use flotilla_storage::store::{Store, StoreMetrics, StoreOptions};
    use tokio::sync::oneshot;

    const GROUP: GroupId = GroupId(1);
    const START_MS: u64 = 1_000_000;

    fn put(machine: &mut Machine, key: &'static str, expiry: Expiry) {
        let (key, value) = (Bytes::from(key), Bytes::from("v"));
        let condition = Condition::Always;
        let write = Write::Put { key, value, condition, return_previous: false, expiry };
        let command = Command {
            origin: Origin::default(),
            stamp_ms: START_MS,
            value_bytes_max: 100,
            change: Change::Write(write),
        };
        assert!(matches!(machine.apply(&command, &Fetched::new()), Applied::Outcome(_)));
    }

    /// The answer, and whether it came from memory.
    fn ask(machine: &Machine, operation: Operation, read_time_ms: u64) -> (Answer, bool) {
        let now = Instant::now();
        let (reply, _answer) = oneshot::channel();
        let permit = Budget::new(100).acquire(1).unwrap();
        let reply = Reply::Oneshot(reply);
        let read = ReadRequest { operation, reply, deadline: now, entered: now, permit };
        match serve(machine, GROUP, read, read_time_ms) {
            Served::Now { result, .. } => (result.unwrap(), true),
            Served::Cold(cold) => (cold.run().unwrap(), false),
        }
    }

    /// A shard of everything without rows, and its store.
    fn empty(dir: &tempfile::TempDir) -> (Store, Machine) {
        let (store, _) =
            Store::open(dir.path(), StoreOptions::default(), StoreMetrics::new()).unwrap();
        let descriptor = Descriptor {
            group: GROUP,
            range: KeyRange::whole(),
            epoch: Epoch::FIRST,
            replicas: Vec::new(),
        };
        let meta = ShardMeta::new(descriptor);
        let shard = store.create_shard(GROUP, KeyRange::whole(), meta.encode());
        (store, Machine::new(meta, shard))
    }

    #[test]
    fn reads_see_what_has_not_expired_at_their_time() {
        let dir = tempfile::TempDir::new().unwrap();
        let (store, mut machine) = empty(&dir);
        put(&mut machine, "brief", Expiry::After(100));
        put(&mut machine, "lasting", Expiry::Never);
        for from_memory in [true, false] {
            for (read_time_ms, brief) in [(START_MS + 99, true), (START_MS + 100, false)] {
                let (brief_key, lasting) = (Bytes::from("brief"), Bytes::from("lasting"));
                let get = Operation::Get { key: brief_key.clone() };
                let (answer, hot) = ask(&machine, get, read_time_ms);
                assert_eq!(hot, from_memory);
                assert!(matches!(answer, Answer::Value(entry) if entry.is_some() == brief));
                let many = Operation::GetMany { keys: vec![brief_key, lasting] };
                let (answer, hot) = ask(&machine, many, read_time_ms);
                assert_eq!(hot, from_memory);
                let Answer::Values(values) = answer else { panic!("{answer:?}") };
                assert_eq!(values.iter().map(Option::is_some).collect::<Vec<_>>(), [brief, true]);
                let count = Operation::Count { range: KeyRange::whole() };
                let (answer, _) = ask(&machine, count, read_time_ms);
                assert_eq!(answer, Answer::Count(1 + u64::from(brief)));
                let page = Operation::Page {
                    range: KeyRange::whole(),
                    rows_max: 9,
                    bytes_max: 1 << 20,
                    reverse: false,
                    keys_only: true,
                };
                let (answer, _) = ask(&machine, page, read_time_ms);
                let Answer::Page { rows, rest: None } = answer else { panic!("{answer:?}") };
                assert_eq!(rows.len(), 1 + usize::from(brief));
            }
            let (meta, stamp_ms) = (machine.meta().encode(), machine.stamp_ms());
            let frozen = machine.shard_mut().freeze((2, 1), meta, stamp_ms);
            store.checkpoint(&[frozen]).unwrap();
            store.release_merged_memtables();
        }
    }

    /// A large row above the store costs memory as soon as it is overwritten or travels: its answer
    /// waits like any other while too many are under way. A small one never waits.
    #[test]
    fn large_rows_in_memory_wait_while_answers_are_scarce() {
        let dir = tempfile::TempDir::new().unwrap();
        let (store, mut machine) = empty(&dir);
        put(&mut machine, "small", Expiry::Never);
        let (key, value) = (Bytes::from("large"), Bytes::from(vec![7; 10_000]));
        let write = Write::Put {
            key,
            value,
            condition: Condition::Always,
            return_previous: false,
            expiry: Expiry::Never,
        };
        let command = Command {
            origin: Origin::default(),
            stamp_ms: START_MS,
            value_bytes_max: 10_000,
            change: Change::Write(write),
        };
        machine.apply(&command, &Fetched::new());
        let budget = Budget::new(100_000);
        let answers = budget.account(Part::Reads);
        let serve_now = |operation: Operation| {
            let now = Instant::now();
            let reply = Reply::Oneshot(oneshot::channel().0);
            let permit = budget.acquire(1).unwrap();
            let read = ReadRequest { operation, reply, deadline: now, entered: now, permit };
            serve(&machine, GROUP, read, START_MS)
        };
        let get = |key: &'static str| Operation::Get { key: Bytes::from(key) };
        let both = Operation::GetMany { keys: vec![Bytes::from("small"), Bytes::from("large")] };

        let served = serve_now(get("large"));
        assert!(matches!(&served, Served::Now { .. }));
        assert_eq!(answers.used_bytes(), 10_000, "it is counted while it lives");
        drop(served);
        assert_eq!(answers.used_bytes(), 0);
        answers.add(25_000);
        for operation in [get("large"), both] {
            let Served::Cold(mut cold) = serve_now(operation) else { panic!("it was answered") };
            assert!(
                cold.is_large && crate::perform::answer_cold(&mut cold, &budget, false).is_none()
            );
            answers.sub(25_000);
            let answer = crate::perform::answer_cold(&mut cold, &budget, true).unwrap().unwrap();
            assert!(held::is_large(&answer));
            answers.add(25_000);
        }
        assert!(matches!(serve_now(get("small")), Served::Now { .. }));
        // Below the memtables nobody knows how large a row is before it was read.
        let (meta, stamp_ms) = (machine.meta().encode(), machine.stamp_ms());
        let frozen = machine.shard_mut().freeze((2, 1), meta, stamp_ms);
        store.checkpoint(&[frozen]).unwrap();
        store.release_merged_memtables();
        for (key, is_large) in [("small", false), ("large", true)] {
            let now = Instant::now();
            let reply = Reply::Oneshot(oneshot::channel().0);
            let permit = budget.acquire(1).unwrap();
            let operation = get(key);
            let read = ReadRequest { operation, reply, deadline: now, entered: now, permit };
            let Served::Cold(mut cold) = serve(&machine, GROUP, read, START_MS) else {
                panic!("{key} is in memory")
            };
            assert!(!cold.is_large);
            let answer = crate::perform::answer_cold(&mut cold, &budget, false);
            assert_eq!((answer.is_none(), cold.is_large), (is_large, is_large));
        }
        answers.sub(25_000);
    }
}
