//! More than a cluster can do, for a minute: what is accepted, what is refused, and what it costs.
//!
//! First the capacity is measured with a closed loop. Then an open loop offers a multiple of it:
//! requests are due at fixed times, whether or not earlier ones were answered. A connection that
//! the server does not read from any more cannot take further ones; they count as held back. In
//! the end a probe sees how soon the cluster is its old self.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::{Buf, BytesMut};
use clap::Args;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, ClusterArgs};
use crate::keys::KeyFormat;
use crate::load::{self, End, Mix, Phase};
use crate::probe::Probe;
use crate::resp::{self, Reply};

/// A connection's own queue: what is due beyond it is held back.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// How often a connection looks at what is due.
const PACE: Duration = Duration::from_millis(5);

/// Arguments of `overload`.
#[derive(Clone, Debug, Args)]
pub struct OverloadArgs {
    /// How many times the capacity is offered.
    #[arg(long, default_value_t = 10.0)]
    pub times: f64,
    /// For how long.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Connections of the open loop.
    #[arg(long, default_value_t = 512)]
    pub connections: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 1024)]
    pub value_size: usize,
    /// How many keys.
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    due: AtomicU64,
    held_back: AtomicU64,
    sent: AtomicU64,
    accepted: AtomicU64,
    lost: AtomicU64,
}

/// Runs `overload`. Returns false if a connection was lost, or the cluster did not recover.
///
/// # Errors
///
/// If a node fails.
pub async fn run(args: &OverloadArgs) -> anyhow::Result<bool> {
    println!("{}", args.cluster.binary_note()?);
    let mut cluster = Cluster::start(&args.cluster).await?;
    let servers = cluster.resp_addresses();
    let capacity = capacity(args, &servers).await?;
    let idle_bytes = resident(&cluster)?;
    let all: Vec<u32> = (0..args.cluster.shards).collect();
    let probe = Probe::start(&servers, 200, &all, args.cluster.shards);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = probe.next_phase();
    probe.stop().await?;

    let shared = Arc::new(Shared::default());
    let per_connection = capacity * args.times / args.connections as f64;
    println!(
        "capacity {capacity:.0} puts/s; offered {:.0} puts/s on {} connections for {} s",
        capacity * args.times,
        args.connections,
        args.seconds
    );
    let clients: Vec<JoinHandle<BTreeMap<String, u64>>> = (0..args.connections)
        .map(|number| {
            let server = servers[number % servers.len()];
            let client = Client::new(number as u64, args, Arc::clone(&shared));
            tokio::spawn(client.run(server, per_connection))
        })
        .collect();
    println!("{:>7}{:>14}{:>14}{:>14}", "after s", "accepted/s", "resident MiB", "held back/s");
    let begin = Instant::now();
    let (mut accepted, mut held_back) = (0, 0);
    let mut peak_bytes = 0;
    let every = (args.seconds / 10).max(1);
    for number in 1..=args.seconds / every {
        let at = Duration::from_secs(number * every);
        tokio::time::sleep(at.saturating_sub(begin.elapsed())).await;
        let now = shared.accepted.load(Ordering::Relaxed);
        let held = shared.held_back.load(Ordering::Relaxed);
        let bytes = resident(&cluster)?;
        peak_bytes = peak_bytes.max(bytes);
        println!(
            "{:>7.0}{:>14.0}{:>14}{:>14.0}",
            begin.elapsed().as_secs_f64(),
            (now - accepted) as f64 / every as f64,
            bytes >> 20,
            (held - held_back) as f64 / every as f64
        );
        (accepted, held_back) = (now, held);
    }
    shared.stop.store(true, Ordering::Relaxed);
    let ended = Instant::now();
    let probe = Probe::start(&servers, 200, &all, args.cluster.shards);
    let mut refusals: BTreeMap<String, u64> = BTreeMap::new();
    for client in clients {
        for (kind, count) in client.await.context("a client failed")? {
            *refusals.entry(kind).or_default() += count;
        }
    }
    tokio::time::sleep(Duration::from_secs(1).saturating_sub(ended.elapsed())).await;
    let first_second = probe.next_phase();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = probe.next_phase();
    probe.stop().await?;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "due {}, sent {}, accepted {} ({:.0}/s), held back {}, connections lost {}",
        count(&shared.due),
        count(&shared.sent),
        count(&shared.accepted),
        count(&shared.accepted) as f64 / args.seconds as f64,
        count(&shared.held_back),
        count(&shared.lost)
    );
    refusals.iter().for_each(|(kind, count)| println!("  -{kind}: {count}"));
    println!(
        "probe p99: before {:.1} ms, in the first second after {:.1} ms ({} failed), then {:.1} ms",
        before.summary.p99_ms,
        first_second.summary.p99_ms,
        first_second.failed,
        after.summary.p99_ms
    );
    println!(
        "resident, largest node: idle {} MiB, at most {} MiB, in the end {} MiB",
        idle_bytes >> 20,
        peak_bytes >> 20,
        resident(&cluster)? >> 20
    );
    cluster.stop_all().await?;
    Ok(count(&shared.lost) == 0 && after.failed == 0)
}

async fn capacity(args: &OverloadArgs, servers: &[SocketAddr]) -> anyhow::Result<f64> {
    let phase = Phase {
        servers: servers.to_vec(),
        clients: 128,
        pipeline: 8,
        keys: args.keys,
        value_size: args.value_size,
        mix: Mix { gets: 0, puts: 1 },
        key_format: KeyFormat::Spread,
        end: End::After(Duration::from_secs(8)),
        threads: 1,
    };
    let executed = load::execute(&phase).await.context("measuring the capacity")?;
    Ok(executed.tally.puts.count() as f64 / executed.elapsed.as_secs_f64())
}

/// Resident memory of the largest node.
fn resident(cluster: &Cluster) -> anyhow::Result<u64> {
    let mut most = 0;
    for id in cluster.nodes() {
        most = most.max(cluster.sample(id)?.resident_bytes);
    }
    Ok(most)
}

struct Client {
    random: SmallRng,
    keys: u64,
    key: BytesMut,
    value: Vec<u8>,
    output: BytesMut,
    input: BytesMut,
    shared: Arc<Shared>,
    refusals: BTreeMap<String, u64>,
    in_flight: u64,
}

impl Client {
    fn new(number: u64, args: &OverloadArgs, shared: Arc<Shared>) -> Client {
        Client {
            random: SmallRng::seed_from_u64(number),
            keys: args.keys,
            key: BytesMut::new(),
            value: vec![b'o'; args.value_size],
            output: BytesMut::new(),
            input: BytesMut::with_capacity(16 << 10),
            shared,
            refusals: BTreeMap::new(),
            in_flight: 0,
        }
    }

    async fn run(mut self, server: SocketAddr, per_second: f64) -> BTreeMap<String, u64> {
        let shared = Arc::clone(&self.shared);
        if self.drive(server, per_second).await.is_err() {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
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
            if stopping && self.output.is_empty() && self.in_flight == 0 {
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
        for _ in 0..count {
            if self.output.len() >= OUTPUT_BYTES_MAX {
                shared.held_back.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            KeyFormat::Spread.write(self.random.random_range(0..self.keys), &mut self.key);
            resp::put_set(&mut self.output, &self.key, &self.value);
            self.in_flight += 1;
            shared.sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take_replies(&mut self) -> anyhow::Result<()> {
        while let Some((reply, length)) = resp::parse(&self.input)? {
            match reply {
                Reply::Simple(b"OK") => {
                    self.shared.accepted.fetch_add(1, Ordering::Relaxed);
                }
                Reply::Error(error) => {
                    let kind = String::from_utf8_lossy(resp::error_kind(error)).into_owned();
                    *self.refusals.entry(kind).or_default() += 1;
                }
                other => anyhow::bail!("unexpected reply {other:?}"),
            }
            self.in_flight = self.in_flight.saturating_sub(1);
            self.input.advance(length);
        }
        Ok(())
    }
}
