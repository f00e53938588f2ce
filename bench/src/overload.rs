//! More than a cluster can do, for a minute: what is accepted, what is refused, and what it costs.
//!
//! First the capacity is measured with a closed loop. Then an open loop offers a multiple of it:
//! requests are due at fixed times, whether or not earlier ones were answered. A connection that
//! the server does not read from any more cannot take further ones; they count as held back.
//!
//! In the end the clients give up, as real ones do: they close their connections, and what they had
//! asked and not been answered is abandoned. With `--drain` they wait for every answer instead, so
//! that the servers must also answer what still lies in the sockets. From that moment on a probe on
//! connections of its own tells, second by second, how soon the cluster is its old self.
//!
//! Memory is that of the largest node, looked at five times a second.

mod client;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, ClusterArgs};
use crate::drive::End;
use crate::latency::{Latencies, Summary};
use crate::probe::{Felt, Probe};
use crate::run::Puts;

use client::{Client, Shared};

/// Operations of the probe per second.
const PROBED_PER_SECOND: u32 = 200;
/// How often memory is looked at.
const SAMPLED_EVERY: Duration = Duration::from_millis(200);
/// How long the cluster is watched after the end.
const WATCHED_SECONDS: u64 = 10;

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
    /// In the end wait for every answer, instead of closing the connections.
    #[arg(long)]
    pub drain: bool,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Runs `overload`. Returns false if a connection was lost, or an operation of the probe failed later
/// than a second after the end.
///
/// # Errors
///
/// If a node fails.
pub async fn run(args: &OverloadArgs) -> anyhow::Result<bool> {
    println!("{}", args.cluster.binary_note()?);
    let mut cluster = Cluster::start(&args.cluster).await?;
    let servers = cluster.resp_addresses();
    let capacity = capacity(args, &servers).await?;
    let all: Vec<u32> = (0..args.cluster.shards).collect();
    let start_probe = || Probe::start(&servers, PROBED_PER_SECOND, &all, args.cluster.shards);
    let probe = start_probe();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = probe.next_phase();
    probe.stop().await?;
    let before_bytes = resident(&cluster)?;

    let shared = Arc::new(Shared::default());
    let (clients, peak_bytes) = offer(args, &cluster, capacity, &shared).await?;
    shared.stop.store(true, Ordering::Relaxed);
    let probe = start_probe();
    let mut after = Vec::new();
    for _ in 0..WATCHED_SECONDS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        after.push(probe.next_phase());
    }
    let after_bytes = resident(&cluster)?;
    let mut refusals: BTreeMap<String, u64> = BTreeMap::new();
    for client in clients {
        for (kind, count) in client.await.context("a client failed")? {
            *refusals.entry(kind).or_default() += count;
        }
    }
    probe.stop().await?;
    tell_requests(args, &shared, &refusals);
    println!("probe, {PROBED_PER_SECOND} operations per second:");
    tell_felt("before", &before);
    for (second, felt) in after.iter().enumerate() {
        tell_felt(&format!("after, second {}", second + 1), felt);
    }
    println!(
        "resident, largest node: before {} MiB, at most {} MiB, {WATCHED_SECONDS} s after the end {} MiB",
        before_bytes >> 20,
        peak_bytes >> 20,
        after_bytes >> 20
    );
    cluster.stop_all().await?;
    let failed_late = after.iter().skip(1).any(|felt| felt.failed > 0);
    Ok(shared.lost.load(Ordering::Relaxed) == 0 && !failed_late)
}

type Clients = Vec<JoinHandle<BTreeMap<String, u64>>>;

/// Offers the load for as long as the arguments say. The clients go on until they are told to stop.
async fn offer(
    args: &OverloadArgs,
    cluster: &Cluster,
    capacity: f64,
    shared: &Arc<Shared>,
) -> anyhow::Result<(Clients, u64)> {
    let servers = cluster.resp_addresses();
    let per_connection = capacity * args.times / args.connections as f64;
    println!(
        "capacity {capacity:.0} puts/s; offered {:.0} puts/s on {} connections for {} s",
        capacity * args.times,
        args.connections,
        args.seconds
    );
    let clients: Clients = (0..args.connections)
        .map(|number| {
            let server = servers[number % servers.len()];
            let client = Client::new(number as u64, args, Arc::clone(shared));
            tokio::spawn(client.run(server, per_connection))
        })
        .collect();
    println!(
        "{:>7}{:>14}{:>14}{:>14}{:>14}",
        "after s", "accepted/s", "busy/s", "held back/s", "resident MiB"
    );
    let begin = Instant::now();
    let counters = [&shared.accepted, &shared.refused, &shared.held_back];
    let mut before = [0; 3];
    let mut peak_bytes = 0;
    let every = (args.seconds / 10).max(1);
    for number in 1..=args.seconds / every {
        let at = Duration::from_secs(number * every);
        let mut bytes = 0;
        while begin.elapsed() < at {
            tokio::time::sleep(SAMPLED_EVERY.min(at.saturating_sub(begin.elapsed()))).await;
            bytes = bytes.max(resident(cluster)?);
        }
        peak_bytes = peak_bytes.max(bytes);
        let now = counters.map(|counter| counter.load(Ordering::Relaxed));
        let rate = |which: usize| (now[which] - before[which]) as f64 / every as f64;
        println!(
            "{:>7.0}{:>14.0}{:>14.0}{:>14.0}{:>14}",
            begin.elapsed().as_secs_f64(),
            rate(0),
            rate(1),
            rate(2),
            bytes >> 20
        );
        before = now;
    }
    Ok((clients, peak_bytes))
}

fn tell_requests(args: &OverloadArgs, shared: &Shared, refusals: &BTreeMap<String, u64>) {
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
    match args.drain {
        true => println!("the clients waited for every answer"),
        false => println!(
            "the clients closed their connections in the end; {} requests had no answer yet",
            count(&shared.abandoned)
        ),
    }
    let seen = shared.latencies.lock().expect("nobody panics with it");
    let tell = |what: &str, latencies: &Latencies| {
        let Summary { p50_ms, p99_ms, max_ms, .. } = latencies.summary();
        println!("{what}: p50 {p50_ms:.0} ms, p99 {p99_ms:.0} ms, at most {max_ms:.0} ms");
    };
    tell("accepted, from when they were due", &seen.accepted);
    tell("busy, likewise", &seen.busy);
}

fn tell_felt(when: &str, felt: &Felt) {
    let Summary { operations, p50_ms, p99_ms, max_ms, .. } = felt.summary;
    println!(
        "  {when:<17}{operations:>6} answered, {:>4} failed, p50 {p50_ms:>8.1} ms, p99 {p99_ms:>8.1} ms, \
         at most {max_ms:>8.1} ms",
        felt.failed
    );
}

async fn capacity(args: &OverloadArgs, servers: &[SocketAddr]) -> anyhow::Result<f64> {
    let puts = Puts {
        servers: servers.to_vec(),
        clients: 128,
        pipeline: 8,
        keys: args.keys,
        value_bytes: args.value_size,
        end: End::After(Duration::from_secs(8)),
    };
    Ok(puts.run().await.context("measuring the capacity")?.per_second())
}

/// Resident memory of the largest node.
fn resident(cluster: &Cluster) -> anyhow::Result<u64> {
    let mut most = 0;
    for id in cluster.nodes() {
        most = most.max(cluster.sample(id)?.resident_bytes);
    }
    Ok(most)
}
