//! Clients that only read what writers write at the same time.
//!
//! Each reader reads keys of one shard and has one request in flight, so that the gaps in its
//! answers are that shard's. What it reads is judged afterwards, with the writers' history: a value
//! that another client is just writing cannot be judged alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Context;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

use crate::answers::{Answer, Came};
use crate::connection::{Connection, ReadResult};
use crate::history::{Called, Recorder, Returned};
use crate::writers::{Names, REFUSAL_PAUSE, REPLY_TIMEOUT};

/// Added to a reader's number, so that its number is no writer's.
const FIRST_CLIENT: u64 = 100_000;

/// A reading client, and what it saw.
pub struct Reader {
    /// Which reader.
    pub id: u32,
    /// The shard of all keys that it reads.
    pub shard: u32,
    /// What it was told, in this run.
    pub answers: Vec<Answer>,
    /// Refusals and lost connections by kind, in all runs.
    pub problems: BTreeMap<String, u64>,
    names: Vec<Names>,
    recorder: Option<Recorder>,
}

impl Reader {
    /// `count` readers spread over the shards of the writers whose keys these are.
    pub fn spread(count: u32, names: &[Names], recorder: Option<&Recorder>) -> Vec<Reader> {
        let mut shards: BTreeMap<u32, Vec<Names>> = BTreeMap::new();
        for name in names {
            shards.entry(name.shard()).or_default().push(name.clone());
        }
        let shards: Vec<(u32, Vec<Names>)> = shards.into_iter().collect();
        let reader = |id: u32| {
            let (shard, names) = shards[id as usize % shards.len()].clone();
            let recorder = recorder.cloned();
            let problems = BTreeMap::new();
            Reader { id, shard, answers: Vec::new(), problems, names, recorder }
        };
        (0..count).map(reader).collect()
    }

    async fn run(mut self, servers: Vec<SocketAddr>, stop: Arc<AtomicBool>) -> Reader {
        self.answers.clear();
        let mut rng = SmallRng::seed_from_u64(u64::from(self.id));
        let mut server = self.id as usize;
        let mut connection: Option<Connection> = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(open) = &mut connection else {
                match Connection::open(servers[server % servers.len()], REPLY_TIMEOUT).await {
                    Ok(open) => connection = Some(open),
                    Err(error) => {
                        *self.problems.entry(format!("connect: {}", error.kind())).or_default() +=
                            1;
                        server += 1;
                        tokio::time::sleep(REFUSAL_PAUSE).await;
                    }
                }
                continue;
            };
            let was_refused = self.read(&mut rng, open).await;
            if open.is_broken() {
                connection = None;
                server += 1;
            } else if was_refused {
                tokio::time::sleep(REFUSAL_PAUSE).await;
            }
        }
        self
    }

    /// Reads one key; true if that was refused.
    async fn read(&mut self, rng: &mut SmallRng, connection: &mut Connection) -> bool {
        let names = self.names.choose(rng).expect("every shard has writers");
        let key = names.key(rng.random_range(names.recent()));
        let client = FIRST_CLIENT + u64::from(self.id);
        let begin = |recorder: &Recorder| recorder.begin(client, &key, Called::Get);
        let token = self.recorder.as_ref().and_then(begin);
        let asked = Instant::now();
        let result = connection.get(&key).await;
        let (came, returned) = match &result {
            ReadResult::Value(value) => (Came::Read, Returned::Done(value.as_deref())),
            ReadResult::Refused(_) | ReadResult::Lost(_) => (Came::NoEffect, Returned::NoEffect),
        };
        self.answers.push(Answer::now(asked, came));
        if let (Some(recorder), Some(token)) = (&self.recorder, token) {
            recorder.end(token, returned);
        }
        match result {
            ReadResult::Value(_) => false,
            ReadResult::Refused(kind) | ReadResult::Lost(kind) => {
                *self.problems.entry(format!("read: {kind}")).or_default() += 1;
                true
            }
        }
    }
}

/// Readers at work.
pub struct Audience {
    tasks: Vec<JoinHandle<Reader>>,
    stop: Arc<AtomicBool>,
}

impl Audience {
    /// Sets readers to work; they begin at servers by their numbers.
    pub fn start(readers: Vec<Reader>, servers: &[SocketAddr]) -> Audience {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |reader: Reader| tokio::spawn(reader.run(servers.to_vec(), Arc::clone(&stop)));
        Audience { tasks: readers.into_iter().map(start).collect(), stop }
    }

    /// Tells the readers to end after what they have in flight, and waits for them.
    ///
    /// # Errors
    ///
    /// If a reader panicked.
    pub async fn stop(self) -> anyhow::Result<Vec<Reader>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut readers = Vec::with_capacity(self.tasks.len());
        for task in self.tasks {
            readers.push(task.await.context("a reader failed")?);
        }
        Ok(readers)
    }
}
