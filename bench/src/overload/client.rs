//! One connection of the open loop.
//!
//! Requests are due at fixed times whether or not earlier ones were answered. What the server does
//! not read waits here up to a limit; what is due beyond it is held back, never sent later.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::OverloadArgs;
use crate::keys::KeyFormat;
use crate::latency::Latencies;
use crate::resp::{self, Reply};

/// A connection's own queue: what is due beyond it is held back.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// How often a connection looks at what is due.
const PACE: Duration = Duration::from_millis(5);

/// What all connections count together.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    pub(super) due: AtomicU64,
    pub(super) held_back: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) abandoned: AtomicU64,
    pub(super) latencies: Mutex<Seen>,
}

/// How long answers took, from the moment at which their request was due.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) accepted: Latencies,
    pub(super) busy: Latencies,
}

pub(super) struct Client {
    random: SmallRng,
    keys: u64,
    drain: bool,
    key: BytesMut,
    value: Vec<u8>,
    output: BytesMut,
    input: BytesMut,
    shared: Arc<Shared>,
    refusals: BTreeMap<String, u64>,
    /// When each request without an answer was due.
    due_at: VecDeque<Instant>,
}

impl Client {
    pub(super) fn new(number: u64, args: &OverloadArgs, shared: Arc<Shared>) -> Client {
        Client {
            random: SmallRng::seed_from_u64(number),
            keys: args.keys,
            drain: args.drain,
            key: BytesMut::new(),
            value: vec![b'o'; args.value_size],
            output: BytesMut::new(),
            input: BytesMut::with_capacity(16 << 10),
            shared,
            refusals: BTreeMap::new(),
            due_at: VecDeque::new(),
        }
    }

    /// Runs until it is told to stop; returns how often each code was the answer.
    pub(super) async fn run(
        mut self,
        server: SocketAddr,
        per_second: f64,
    ) -> BTreeMap<String, u64> {
        let shared = Arc::clone(&self.shared);
        if self.drive(server, per_second).await.is_err() {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
        // Who gives up closes its connection, whatever is still on its way.
        shared.abandoned.fetch_add(self.due_at.len() as u64, Ordering::Relaxed);
        self.refusals
    }

    async fn drive(&mut self, server: SocketAddr, per_second: f64) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.split();
        let begin = Instant::now();
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut due_before = 0;
        loop {
            let stopping = self.shared.stop.load(Ordering::Relaxed);
            if stopping && (!self.drain || self.due_at.is_empty()) {
                return Ok(());
            }
            tokio::select! {
                _ = pace.tick() => if !stopping {
                    let due = (begin.elapsed().as_secs_f64() * per_second) as u64;
                    self.fall_due(due - due_before);
                    due_before = due;
                },
                written = writer.write_buf(&mut self.output), if !self.output.is_empty() => {
                    anyhow::ensure!(written? > 0, "connection lost");
                }
                read = reader.read_buf(&mut self.input) => {
                    anyhow::ensure!(read? > 0, "connection lost");
                    self.take_replies()?;
                }
            }
        }
    }

    fn fall_due(&mut self, count: u64) {
        let shared = &self.shared;
        shared.due.fetch_add(count, Ordering::Relaxed);
        let now = Instant::now();
        for left in (1..=count).rev() {
            if self.output.len() >= OUTPUT_BYTES_MAX {
                shared.held_back.fetch_add(left, Ordering::Relaxed);
                return;
            }
            KeyFormat::Spread.write(self.random.random_range(0..self.keys), &mut self.key);
            resp::put_set(&mut self.output, &self.key, &self.value);
            self.due_at.push_back(now);
            shared.sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take_replies(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut seen = self.shared.latencies.lock().expect("nobody panics with it");
        while let Some((reply, length)) = resp::parse(&self.input)? {
            let Some(due_at) = self.due_at.pop_front() else {
                anyhow::bail!("an answer that nobody asked for: {reply:?}");
            };
            let took = now.saturating_duration_since(due_at);
            match reply {
                Reply::Simple(b"OK") => {
                    self.shared.accepted.fetch_add(1, Ordering::Relaxed);
                    seen.accepted.record(took);
                }
                Reply::Error(error) => {
                    let kind = resp::error_kind(error);
                    if kind == b"BUSY" {
                        self.shared.refused.fetch_add(1, Ordering::Relaxed);
                        seen.busy.record(took);
                    }
                    match self.refusals.iter_mut().find(|(name, _)| name.as_bytes() == kind) {
                        Some((_, count)) => *count += 1,
                        None => {
                            let kind = String::from_utf8_lossy(kind).into_owned();
                            self.refusals.insert(kind, 1);
                        }
                    }
                }
                other => anyhow::bail!("unexpected reply {other:?}"),
            }
            self.input.advance(length);
        }
        Ok(())
    }
}
