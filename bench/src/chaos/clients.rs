//! The load: clients that ask through all nodes, record what they are told, and never stop asking.
//!
//! Each client has one request under way and goes from node to node. There are four families of
//! keys, spread over all shards: *registers* are written, read and removed; *locks* are taken with
//! `SET NX`, read and removed; *tallies* are incremented as anybody would, and what is in doubt stays
//! in doubt; *ledgers* are incremented under a session of the client, which repeats every increment
//! until it has the answer, through whichever node.
//!
//! What is absent: any verdict. Answers go into the history and into [`Seen`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{MissedTickBehavior, interval};

use crate::answers::{Answer, Came};
use crate::connection::{Connection, ReadResult, WriteResult};
use crate::history::{Called, Recorder, Returned, Token};
use crate::resp::Reply;

use super::keys::{Family, Keys};

/// Replies are waited for this long, by every third client each: soon, so that not everybody waits
/// for the same silent node and gaps can be told; longer; and longer than nodes take to give up.
const REPLY_TIMEOUTS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(7)];
/// How long a client waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// After a refusal.
const REFUSAL_PAUSE: Duration = Duration::from_millis(20);
/// After so many requests a client goes to another node anyway.
const REQUESTS_PER_NODE: u32 = 100;
/// A repeated increment that has no answer after this long is left in doubt.
const REPEATED_MAX: Duration = Duration::from_secs(120);

/// What a client saw.
#[derive(Default)]
pub struct Seen {
    /// Every answer, with the shard that it came from.
    pub answers: Vec<(u32, Answer)>,
    /// By command: answered, refused, in doubt.
    pub outcomes: BTreeMap<&'static str, [u64; 3]>,
    /// What went wrong, and how often.
    pub problems: BTreeMap<String, u64>,
    /// By key of a counter: increments that were acknowledged, and those that are in doubt.
    pub increments: BTreeMap<Vec<u8>, Increments>,
    /// How often increments of ledgers were sent again.
    pub repeats: u64,
}

/// What one client knows of one counter.
#[derive(Clone, Debug, Default)]
pub struct Increments {
    /// The sums that acknowledgements told.
    pub sums: Vec<i64>,
    /// Increments of which nobody knows.
    pub unknown: u64,
}

/// What all clients share.
pub struct Load {
    /// Where the nodes are.
    pub servers: Vec<SocketAddr>,
    /// The keys.
    pub keys: Keys,
    /// Where operations are recorded.
    pub recorder: Recorder,
    /// Set when clients shall finish what they have begun and end.
    pub stop: AtomicBool,
    /// Between two requests of a client.
    pub period: Duration,
}

/// One client.
pub struct Client {
    id: u64,
    load: Arc<Load>,
    random: SmallRng,
    server: usize,
    requests_here: u32,
    reply_timeout: Duration,
    values: u64,
    session: Session,
    repeated: Option<Repeated>,
    seen: Seen,
}

/// A client's session, for what is counted exactly once.
struct Session {
    id: u64,
    born_ms: u128,
    sequence: u64,
}

/// An increment that is sent until it is answered.
struct Repeated {
    key: Vec<u8>,
    shard: u32,
    asked: Instant,
    token: Option<Token>,
}

impl Session {
    fn new(random: &mut SmallRng) -> Session {
        let born = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let id = random.random_range(1..=i64::MAX as u64);
        Session { id, born_ms: born.as_millis(), sequence: 0 }
    }
}

impl Client {
    /// Client `id` of `load`; what it asks for depends on `seed`.
    pub fn new(id: u64, seed: u64, load: &Arc<Load>) -> Client {
        let mut random = SmallRng::seed_from_u64(seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Nobody else may have the session, in other runs on the same cluster either.
        let session = Session::new(&mut SmallRng::from_os_rng());
        Client {
            id,
            load: Arc::clone(load),
            server: random.random_range(0..load.servers.len()),
            random,
            requests_here: 0,
            reply_timeout: REPLY_TIMEOUTS[id as usize % REPLY_TIMEOUTS.len()],
            values: 0,
            session,
            repeated: None,
            seen: Seen::default(),
        }
    }

    /// Asks until the load stops.
    pub async fn run(mut self) -> Seen {
        let mut due = interval(self.load.period);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection: Option<Connection> = None;
        loop {
            let stops = self.load.stop.load(Ordering::Relaxed);
            if stops && self.repeated.is_none() {
                return self.seen;
            }
            due.tick().await;
            let Some(open) = &mut connection else {
                connection = self.connect().await;
                continue;
            };
            match (&self.repeated, stops) {
                (Some(_), _) => self.repeat(open).await,
                (None, false) => self.ask(open).await,
                (None, true) => {}
            }
            self.requests_here += 1;
            if open.is_broken() || self.requests_here >= REQUESTS_PER_NODE {
                connection = None;
            }
        }
    }

    async fn connect(&mut self) -> Option<Connection> {
        self.server = (self.server + 1) % self.load.servers.len();
        self.requests_here = 0;
        self.give_up_repeating();
        let address = self.load.servers[self.server];
        let opened =
            tokio::time::timeout(CONNECT_TIMEOUT, Connection::open(address, self.reply_timeout));
        match opened.await {
            Ok(Ok(connection)) => Some(connection),
            Ok(Err(_)) | Err(_) => {
                tokio::time::sleep(REFUSAL_PAUSE).await;
                None
            }
        }
    }

    async fn ask(&mut self, connection: &mut Connection) {
        match self.random.random_range(0..100) {
            0..38 => self.get(connection, Family::Register).await,
            38..68 => self.put(connection).await,
            68..74 => self.delete(connection, Family::Register).await,
            74..79 => self.get(connection, Family::Lock).await,
            79..84 => self.take(connection).await,
            84..88 => self.delete(connection, Family::Lock).await,
            88..94 => self.increment(connection).await,
            _ => {
                let (shard, key) = self.key(Family::Ledger);
                self.session.sequence += 1;
                let token = self.load.recorder.begin(self.id, &key, Called::Add(1));
                self.repeated = Some(Repeated { key, shard, asked: Instant::now(), token });
                self.repeat(connection).await;
            }
        }
    }

    fn key(&mut self, family: Family) -> (u32, Vec<u8>) {
        self.load.keys.draw(family, &mut self.random)
    }

    fn value(&mut self) -> Vec<u8> {
        self.values += 1;
        let bytes = match self.random.random_range(0..200) {
            // Longer than a frame, so that it travels in pieces.
            0 => 100 << 10,
            1..20 => 4_000,
            _ => self.random.random_range(24..300),
        };
        let mut value = format!("c{:04}s{:08}", self.id, self.values).into_bytes();
        value.resize(bytes, b'.');
        value
    }

    async fn get(&mut self, connection: &mut Connection, family: Family) {
        let (shard, key) = self.key(family);
        let (recorder, asked) = (self.load.recorder.clone(), Instant::now());
        let token = recorder.begin(self.id, &key, Called::Get);
        let end = |returned| token.into_iter().for_each(|token| recorder.end(token, returned));
        let (came, problem) = match connection.get(&key).await {
            ReadResult::Value(value) => {
                end(Returned::Done(value.as_deref()));
                (Came::Read, None)
            }
            ReadResult::Refused(problem) => {
                end(Returned::NoEffect);
                (Came::NoEffect, Some(problem))
            }
            ReadResult::Lost(problem) => {
                end(Returned::Unknown);
                (Came::Unknown, Some(problem))
            }
        };
        self.note("get", shard, Answer::now(asked, came), problem).await;
    }

    async fn put(&mut self, connection: &mut Connection) {
        let (shard, key) = self.key(Family::Register);
        let value = self.value();
        let (recorder, asked) = (self.load.recorder.clone(), Instant::now());
        let token = recorder.begin(self.id, &key, Called::Put(&value));
        let result = connection.set(&key, &value).await;
        let done = Returned::Done(None);
        self.write_ended("set", shard, asked, token, result, done).await;
    }

    async fn delete(&mut self, connection: &mut Connection, family: Family) {
        let (shard, key) = self.key(family);
        let (recorder, asked) = (self.load.recorder.clone(), Instant::now());
        let token = recorder.begin(self.id, &key, Called::Delete);
        let (result, _) = connection.write(&[b"DEL", &key], integer).await;
        self.write_ended("del", shard, asked, token, result, Returned::Done(None)).await;
    }

    async fn take(&mut self, connection: &mut Connection) {
        let (shard, key) = self.key(Family::Lock);
        let value = self.value();
        let (recorder, asked) = (self.load.recorder.clone(), Instant::now());
        let called = Called::CompareAndSwap { old: None, new: &value };
        let token = recorder.begin(self.id, &key, called);
        let command: [&[u8]; 4] = [b"SET", &key, &value, b"NX"];
        let taken = |reply: Reply<'_>| match reply {
            Reply::Simple(b"OK") => Some(true),
            Reply::Bulk(None) => Some(false),
            _ => None,
        };
        let (result, taken) = connection.write(&command, taken).await;
        let done = Returned::Done(taken.unwrap_or_default().then_some(b""));
        self.write_ended("set nx", shard, asked, token, result, done).await;
    }

    async fn increment(&mut self, connection: &mut Connection) {
        let (shard, key) = self.key(Family::Tally);
        let (recorder, asked) = (self.load.recorder.clone(), Instant::now());
        let token = recorder.begin(self.id, &key, Called::Add(1));
        let (result, sum) = connection.increment(&key).await;
        let known = self.seen.increments.entry(key).or_default();
        known.sums.extend(sum);
        known.unknown += u64::from(matches!(result, WriteResult::InDoubt(_)));
        let done = Returned::Sum(sum.unwrap_or_default());
        self.write_ended("incr", shard, asked, token, result, done).await;
    }

    /// Sends the repeated increment once more.
    async fn repeat(&mut self, connection: &mut Connection) {
        let Some(repeated) = self.repeated.take() else { return };
        let Session { id, born_ms, sequence } = &self.session;
        let words = [id.to_string(), born_ms.to_string(), sequence.to_string()];
        let command: [&[u8]; 7] = [
            b"FLOTILLA.ONCE",
            words[0].as_bytes(),
            words[1].as_bytes(),
            words[2].as_bytes(),
            words[2].as_bytes(),
            b"INCR",
            &repeated.key,
        ];
        let (result, sum) = connection.write(&command, integer).await;
        match sum {
            Some(sum) => {
                let Repeated { key, shard, asked, token } = repeated;
                self.seen.increments.entry(key).or_default().sums.push(sum);
                let done = Returned::Sum(sum);
                self.write_ended("once incr", shard, asked, token, result, done).await;
            }
            None => {
                // Whatever this copy came to, an earlier one may have taken effect.
                self.seen.repeats += 1;
                self.repeated = Some(repeated);
                if !connection.is_broken() {
                    tokio::time::sleep(REFUSAL_PAUSE).await;
                }
            }
        }
    }

    fn give_up_repeating(&mut self) {
        let Some(repeated) = self.repeated.take_if(|it| it.asked.elapsed() > REPEATED_MAX) else {
            return;
        };
        if let Some(token) = repeated.token {
            self.load.recorder.end(token, Returned::Unknown);
        }
        self.seen.increments.entry(repeated.key).or_default().unknown += 1;
        self.seen.outcomes.entry("once incr").or_default()[2] += 1;
        // The next increment must not be taken for a repetition.
        self.session = Session::new(&mut SmallRng::from_os_rng());
    }

    async fn write_ended(
        &mut self,
        command: &'static str,
        shard: u32,
        asked: Instant,
        token: Option<Token>,
        result: WriteResult,
        done: Returned<'_>,
    ) {
        let (came, returned, problem) = match result {
            WriteResult::Acknowledged => (Came::Written, done, None),
            WriteResult::Refused(problem) => (Came::NoEffect, Returned::NoEffect, Some(problem)),
            WriteResult::InDoubt(problem) => (Came::Unknown, Returned::Unknown, Some(problem)),
        };
        if let Some(token) = token {
            self.load.recorder.end(token, returned);
        }
        self.note(command, shard, Answer::now(asked, came), problem).await;
    }

    async fn note(
        &mut self,
        command: &'static str,
        shard: u32,
        answer: Answer,
        problem: Option<String>,
    ) {
        let outcome = match answer.came {
            Came::Read | Came::Written => 0,
            Came::NoEffect => 1,
            Came::Unknown => 2,
        };
        self.seen.outcomes.entry(command).or_default()[outcome] += 1;
        self.seen.answers.push((shard, answer));
        if let Some(problem) = problem {
            let what = if outcome == 1 { "refused" } else { "in doubt" };
            *self.seen.problems.entry(format!("{what}: {problem}")).or_default() += 1;
        }
        if outcome == 1 {
            tokio::time::sleep(REFUSAL_PAUSE).await;
        }
    }
}

fn integer(reply: Reply<'_>) -> Option<i64> {
    match reply {
        Reply::Integer(number) => Some(number),
        _ => None,
    }
}
