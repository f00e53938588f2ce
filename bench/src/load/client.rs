//! One connection under load.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use super::{End, Mix, Phase, Tally};
use crate::keys::KeyFormat;
use crate::resp::{self, Refusal, Reply};

/// A connection on which nothing comes back for this long is given up. The servers answer every
/// request earlier than that.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// After a failed connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// What all clients share.
pub(super) struct Shared {
    end: End,
    deadline: Option<Instant>,
    keys: u64,
    /// Requests taken so far; counted only when their number ends the phase.
    taken: AtomicU64,
}

impl Shared {
    pub(super) fn new(phase: &Phase) -> Shared {
        let deadline = match phase.end {
            End::After(duration) => Some(Instant::now() + duration),
            End::Requests(_) | End::EachKeyOnce => None,
        };
        Shared { end: phase.end, deadline, keys: phase.keys, taken: AtomicU64::new(0) }
    }

    /// The key of the next request; `None` when there is none.
    fn next_key(&self, now: Instant, random: &mut SmallRng) -> Option<u64> {
        let any = |random: &mut SmallRng| random.random_range(0..self.keys);
        match self.end {
            End::After(_) => (Some(now) < self.deadline).then(|| any(random)),
            End::Requests(requests) => {
                let taken = self.taken.fetch_add(1, Ordering::Relaxed);
                (taken < requests).then(|| any(random))
            }
            End::EachKeyOnce => {
                let key = self.taken.fetch_add(1, Ordering::Relaxed);
                (key < self.keys).then_some(key)
            }
        }
    }
}

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Put,
    Get,
}

/// Why a connection is used no more.
enum Ended {
    /// There is nothing more to ask, and all was answered.
    Finished,
    /// It failed.
    Lost(&'static str),
}

/// One connection at a time, and what it counted.
pub(super) struct Client {
    servers: Vec<SocketAddr>,
    server: usize,
    pipeline: usize,
    mix: Mix,
    key_format: KeyFormat,
    value: Vec<u8>,
    random: SmallRng,
    key: BytesMut,
    output: BytesMut,
    input: BytesMut,
    in_flight: VecDeque<(Instant, Asked)>,
    /// True once there was nothing more to ask.
    exhausted: bool,
}

impl Client {
    pub(super) fn new(number: usize, phase: &Phase) -> Client {
        let mut random = SmallRng::seed_from_u64(number as u64);
        Client {
            servers: phase.servers.clone(),
            server: number,
            pipeline: phase.pipeline,
            mix: phase.mix,
            key_format: phase.key_format,
            value: (0..phase.value_size).map(|_| random.random()).collect(),
            random,
            key: BytesMut::new(),
            output: BytesMut::new(),
            input: BytesMut::with_capacity(16 << 10),
            in_flight: VecDeque::new(),
            exhausted: false,
        }
    }

    /// Asks until there is nothing more to ask; a server that fails is left for the next one.
    async fn drive(mut self, shared: Arc<Shared>, tally: Rc<RefCell<Tally>>) {
        while !self.exhausted {
            let address = self.servers[self.server % self.servers.len()];
            let lost = match TcpStream::connect(address).await {
                Ok(stream) => match self.exchange(stream, &shared, &tally).await {
                    Ended::Finished => return,
                    Ended::Lost(how) => how,
                },
                Err(_) => "not connected",
            };
            let puts = self.in_flight.iter().filter(|(_, asked)| *asked == Asked::Put).count();
            // A lost connection without a get in flight counts as one error too.
            let gets_or_connect = (self.in_flight.len() - puts).max(1);
            tally.borrow_mut().unknown(lost, puts as u64);
            tally.borrow_mut().error(lost, gets_or_connect as u64);
            self.in_flight.clear();
            self.output.clear();
            self.input.clear();
            self.server += 1;
            let now = Instant::now();
            if shared.deadline.is_some_and(|deadline| now >= deadline) {
                return;
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    async fn exchange(
        &mut self,
        mut stream: TcpStream,
        shared: &Shared,
        tally: &RefCell<Tally>,
    ) -> Ended {
        if stream.set_nodelay(true).is_err() {
            return Ended::Lost("not connected");
        }
        let (mut reader, mut writer) = stream.split();
        let mut last_reply = Instant::now();
        let silence = tokio::time::sleep(SILENCE_MAX);
        tokio::pin!(silence);
        loop {
            self.ask(shared);
            if self.in_flight.is_empty() {
                return Ended::Finished;
            }
            tokio::select! {
                biased;
                written = writer.write_buf(&mut self.output), if !self.output.is_empty() => {
                    if !matches!(written, Ok(1..)) {
                        return Ended::Lost("connection lost");
                    }
                }
                read = reader.read_buf(&mut self.input) => {
                    if !matches!(read, Ok(1..)) {
                        return Ended::Lost("connection lost");
                    }
                    last_reply = Instant::now();
                    if self.take_replies(last_reply, &mut tally.borrow_mut()).is_err() {
                        return Ended::Lost("malformed reply");
                    }
                }
                () = &mut silence => {
                    if last_reply.elapsed() >= SILENCE_MAX {
                        return Ended::Lost("no reply");
                    }
                    silence.as_mut().reset((last_reply + SILENCE_MAX).into());
                }
            }
        }
    }

    /// Fills the window.
    fn ask(&mut self, shared: &Shared) {
        if self.exhausted || self.in_flight.len() >= self.pipeline {
            return;
        }
        let now = Instant::now();
        while self.in_flight.len() < self.pipeline {
            let Some(number) = shared.next_key(now, &mut self.random) else {
                self.exhausted = true;
                return;
            };
            self.key_format.write(number, &mut self.key);
            let asked = match self.random.random_ratio(self.mix.gets, self.mix.gets + self.mix.puts)
            {
                true => Asked::Get,
                false => Asked::Put,
            };
            match asked {
                Asked::Get => resp::put_get(&mut self.output, &self.key),
                Asked::Put => resp::put_set(&mut self.output, &self.key, &self.value),
            }
            self.in_flight.push_back((now, asked));
        }
    }

    /// Counts the replies that are there. One clock reading serves all of them.
    fn take_replies(&mut self, now: Instant, tally: &mut Tally) -> Result<(), resp::BadReply> {
        while let Some((reply, length)) = resp::parse(&self.input)? {
            let Some((sent, asked)) = self.in_flight.pop_front() else {
                return Err(resp::BadReply("a reply that nobody asked for".to_owned()));
            };
            let latency = now - sent;
            match (asked, reply) {
                (Asked::Put, Reply::Simple(b"OK")) => tally.puts.record(latency),
                (Asked::Get, Reply::Bulk(value)) => {
                    tally.gets.record(latency);
                    tally.misses += u64::from(value.is_none());
                }
                (asked, Reply::Error(error)) => {
                    let kind = String::from_utf8_lossy(resp::error_kind(error));
                    match (asked, resp::classify(error)) {
                        (Asked::Put, Refusal::InDoubt) => tally.unknown(&kind, 1),
                        _ => tally.error(&kind, 1),
                    }
                }
                _ => return Err(resp::BadReply("a reply to another command".to_owned())),
            }
            self.input.advance(length);
        }
        Ok(())
    }
}

/// Drives all clients of one thread side by side.
///
/// Histograms are large, so that the clients of a thread share one tally.
pub(super) async fn drive_all(clients: Vec<Client>, shared: Arc<Shared>) -> Tally {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let drive = async {
        let mut tasks = JoinSet::new();
        for client in clients {
            tasks.spawn_local(client.drive(Arc::clone(&shared), Rc::clone(&tally)));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a client does not panic");
        }
    };
    LocalSet::new().run_until(drive).await;
    tally.take()
}
