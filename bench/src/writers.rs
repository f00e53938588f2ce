//! Clients that remember what they were told.
//!
//! Each writer owns its keys, all of one shard, and has one request in flight: it writes them in
//! turn, and now and then reads one back. Writers of one shard never wait for another shard, so the
//! gaps in their acknowledgements are that shard's.
//!
//! Invariants:
//!
//! * A write counts as acknowledged only after `+OK` was read from the socket.
//! * After a write in doubt its register is put aside and a fresh key takes its place
//!   ([`register`](crate::register) says why).
//! * A server that does not answer is left for the next one; what was certainly refused is not
//!   counted against the server, only counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::answers::{Answer, Came};
use crate::connection::{Connection, ReadResult, WriteResult};
use crate::history::{Called, Recorder, Returned, Token};
use crate::keys::shard_prefix;
use crate::register::{Register, Violation};

/// How long a reply may take before the connection is given up: more than the servers take to
/// answer that they do not know.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// After a refusal, so that a shard without a leader is not asked as fast as the machine can.
pub const REFUSAL_PAUSE: Duration = Duration::from_millis(5);

/// Keys that a writer takes in turn.
pub const KEYS_PER_WRITER: usize = 8;

/// Every so many operations one is a read.
const OPERATIONS_PER_READ: u64 = 8;

/// A client, and all that it remembers.
pub struct Writer {
    /// Which writer.
    pub id: u32,
    /// The shard of all its keys, counted from 0 in key order.
    pub shard: u32,
    /// What it was told, in this run.
    pub answers: Vec<Answer>,
    /// Errors, refusals and doubts by kind, in all runs.
    pub problems: BTreeMap<String, u64>,
    /// Reads during the load that no correct store would have answered so.
    pub violations: Vec<Violation>,
    /// Writes that were acknowledged, refused, and in doubt, in all runs.
    pub counts: Counts,
    current: Vec<Register>,
    aside: Vec<Register>,
    names: Names,
    value_bytes: usize,
    operations: u64,
    recorder: Option<Recorder>,
}

/// The keys of a writer, for those who read them.
#[derive(Clone)]
pub struct Names {
    writer: u32,
    shard: u32,
    prefix: [u8; 2],
    /// How many keys there are.
    generation: Arc<AtomicU64>,
}

impl Names {
    /// The shard of all of them.
    pub fn shard(&self) -> u32 {
        self.shard
    }

    /// The numbers of the keys that were taken last: those that are written at this moment, but for
    /// some that were set aside meanwhile.
    pub fn recent(&self) -> RangeInclusive<u64> {
        let last = self.generation.load(Ordering::Relaxed);
        last - (KEYS_PER_WRITER as u64 - 1)..=last
    }

    /// Key number `generation`, from 1.
    pub fn key(&self, generation: u64) -> Bytes {
        Bytes::from([&self.prefix[..], self.name(generation).as_bytes()].concat())
    }

    fn name(&self, generation: u64) -> String {
        format!("w{:04}k{generation:06}", self.writer)
    }
}

/// How writes ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// `+OK`.
    pub acknowledged: u64,
    /// Certainly without effect.
    pub refused: u64,
    /// Nobody knows.
    pub in_doubt: u64,
    /// Reads that were answered and right.
    pub reads: u64,
}

impl Writer {
    /// Writer `id` of shard `shard` of `shards` even ones.
    pub fn new(id: u32, shard: u32, shards: u32, value_bytes: usize) -> Writer {
        let mut writer = Writer {
            id,
            shard,
            answers: Vec::new(),
            problems: BTreeMap::new(),
            violations: Vec::new(),
            counts: Counts::default(),
            current: Vec::new(),
            aside: Vec::new(),
            names: Names {
                writer: id,
                shard,
                prefix: shard_prefix(shard, shards),
                generation: Arc::default(),
            },
            value_bytes,
            operations: 0,
            recorder: None,
        };
        writer.current = (0..KEYS_PER_WRITER).map(|_| writer.fresh_register()).collect();
        writer
    }

    /// `count` writers spread over `shards`.
    pub fn spread(count: u32, shards: u32, value_bytes: usize) -> Vec<Writer> {
        (0..count).map(|id| Writer::new(id, id % shards, shards, value_bytes)).collect()
    }

    /// All keys that it ever wrote.
    pub fn registers_mut(&mut self) -> impl Iterator<Item = &mut Register> {
        self.current.iter_mut().chain(&mut self.aside)
    }

    /// Its keys, which readers may read meanwhile.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Records from now on what it does.
    pub fn record(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    fn begin(&self, key: &[u8], called: Called<'_>) -> Option<Token> {
        self.recorder.as_ref()?.begin(u64::from(self.id), key, called)
    }

    fn end(&self, token: Option<Token>, returned: Returned<'_>) {
        if let (Some(recorder), Some(token)) = (&self.recorder, token) {
            recorder.end(token, returned);
        }
    }

    fn fresh_register(&mut self) -> Register {
        let generation = self.names.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let name = self.names.name(generation);
        Register::new(self.names.key(generation), name, self.value_bytes)
    }

    fn note(&mut self, problem: String) {
        *self.problems.entry(problem).or_default() += 1;
    }

    async fn run(mut self, servers: Vec<SocketAddr>, shared: Arc<Shared>) -> Writer {
        self.answers.clear();
        let mut server = self.id as usize;
        let mut connection: Option<Connection> = None;
        while !shared.stop.load(Ordering::Relaxed) {
            let Some(open) = &mut connection else {
                match Connection::open(servers[server % servers.len()], REPLY_TIMEOUT).await {
                    Ok(open) => connection = Some(open),
                    Err(error) => {
                        self.note(format!("connect: {}", error.kind()));
                        server += 1;
                        tokio::time::sleep(REFUSAL_PAUSE).await;
                    }
                }
                continue;
            };
            self.operations += 1;
            let at = (self.operations % KEYS_PER_WRITER as u64) as usize;
            let refused = match (self.operations / KEYS_PER_WRITER as u64) % OPERATIONS_PER_READ {
                0 => self.read(at, open).await,
                _ => self.write(at, open, &shared).await,
            };
            if open.is_broken() {
                connection = None;
                server += 1;
            } else if refused {
                tokio::time::sleep(REFUSAL_PAUSE).await;
            }
        }
        self
    }

    /// Writes one register; true if that was refused.
    async fn write(&mut self, at: usize, connection: &mut Connection, shared: &Shared) -> bool {
        let (sequence, value) = self.current[at].begin();
        let key = self.current[at].key().clone();
        let token = self.begin(&key, Called::Put(&value));
        let asked = Instant::now();
        let result = connection.set(&key, &value).await;
        let (came, returned) = match &result {
            WriteResult::Acknowledged => (Came::Written, Returned::Done(None)),
            WriteResult::Refused(_) => (Came::NoEffect, Returned::NoEffect),
            WriteResult::InDoubt(_) => (Came::Unknown, Returned::Unknown),
        };
        self.answers.push(Answer::now(asked, came));
        self.end(token, returned);
        match result {
            WriteResult::Acknowledged => {
                self.current[at].acknowledge(sequence);
                self.counts.acknowledged += 1;
                shared.acknowledged[self.shard as usize].fetch_add(1, Ordering::Relaxed);
                false
            }
            WriteResult::Refused(kind) => {
                self.counts.refused += 1;
                self.note(format!("refused: {kind}"));
                true
            }
            WriteResult::InDoubt(kind) => {
                self.current[at].doubt(sequence);
                let fresh = self.fresh_register();
                self.aside.push(std::mem::replace(&mut self.current[at], fresh));
                self.counts.in_doubt += 1;
                self.note(format!("in doubt: {kind}"));
                true
            }
        }
    }

    /// Reads one register back; true if that was refused.
    async fn read(&mut self, at: usize, connection: &mut Connection) -> bool {
        let key = self.current[at].key().clone();
        let token = self.begin(&key, Called::Get);
        let asked = Instant::now();
        let result = connection.get(&key).await;
        let (came, returned) = match &result {
            ReadResult::Value(value) => (Came::Read, Returned::Done(value.as_deref())),
            ReadResult::Refused(_) | ReadResult::Lost(_) => (Came::NoEffect, Returned::NoEffect),
        };
        self.answers.push(Answer::now(asked, came));
        self.end(token, returned);
        match result {
            ReadResult::Value(value) => {
                match self.current[at].observe(value.as_deref()) {
                    Ok(()) => self.counts.reads += 1,
                    Err(violation) => self.violations.push(violation),
                }
                false
            }
            ReadResult::Refused(kind) | ReadResult::Lost(kind) => {
                self.note(format!("read: {kind}"));
                true
            }
        }
    }
}

/// What running writers share.
struct Shared {
    stop: AtomicBool,
    /// Acknowledged writes by shard.
    acknowledged: Vec<AtomicU64>,
}

/// Writers at work.
pub struct Fleet {
    tasks: Vec<JoinHandle<Writer>>,
    shared: Arc<Shared>,
}

impl Fleet {
    /// Sets writers to work; they begin at servers by their ids.
    pub fn start(writers: Vec<Writer>, servers: &[SocketAddr], shards: u32) -> Fleet {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            acknowledged: (0..shards).map(|_| AtomicU64::new(0)).collect(),
        });
        let start =
            |writer: Writer| tokio::spawn(writer.run(servers.to_vec(), Arc::clone(&shared)));
        Fleet { tasks: writers.into_iter().map(start).collect(), shared }
    }

    /// Writes acknowledged so far, by shard.
    pub fn acknowledged(&self) -> Vec<u64> {
        self.shared.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Tells the writers to end after what they have in flight, and waits for them; the moment they
    /// were told is the end of the run.
    ///
    /// # Errors
    ///
    /// If a writer panicked.
    pub async fn stop(self) -> anyhow::Result<(Vec<Writer>, Instant)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let at = Instant::now();
        let mut writers = Vec::with_capacity(self.tasks.len());
        for task in self.tasks {
            writers.push(task.await.context("a writer failed")?);
        }
        Ok((writers, at))
    }
}

/// The problems of all writers, by kind.
pub fn problems(writers: &[Writer]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (problem, count) in writers.iter().flat_map(|writer| &writer.problems) {
        *all.entry(problem.clone()).or_default() += count;
    }
    all
}

/// The counts of all writers.
pub fn counts(writers: &[Writer]) -> Counts {
    writers.iter().fold(Counts::default(), |sum, writer| Counts {
        acknowledged: sum.acknowledged + writer.counts.acknowledged,
        refused: sum.refused + writer.counts.refused,
        in_doubt: sum.in_doubt + writer.counts.in_doubt,
        reads: sum.reads + writer.counts.reads,
    })
}
