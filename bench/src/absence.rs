//! A node stays away while much is written, comes back, and is killed while it catches up.
//!
//! What clients feel meanwhile is measured by a [`Probe`] that goes on all the time: before, while
//! the node catches up, and after. In the end another node is killed, so that the one that was away
//! is needed for every majority, and everything is read. No node's disk may exceed three times its
//! live data and 2 GiB, neither while the others keep log for the one that is away nor in the end.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use crate::cluster::{Cluster, READY_TIMEOUT};
use crate::drive::End;
use crate::endurance::{disk_bound, live_bytes};
use crate::failover::{Trial, WriterArgs};
use crate::probe::{Felt, Probe};
use crate::run::Puts;
use crate::sampling::metric;

/// How long the node may take to catch up at last.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(600);
/// The probe's load.
const PROBES_PER_SECOND: u32 = 400;
/// The load of those that write meanwhile: with this many clients a machine is busy, not drowned.
const WRITERS: usize = 64;

/// Arguments of `absence`.
#[derive(Clone, Debug, Args)]
pub struct AbsenceArgs {
    /// Mebibytes of values that are written while the node is away.
    #[arg(long, default_value_t = 2048)]
    pub mebibytes: u64,
    /// Bytes of each of these values.
    #[arg(long, default_value_t = 4096)]
    pub bulk_value_size: usize,
    /// Over how many keys they are spread.
    #[arg(long, default_value_t = 131_072)]
    pub bulk_keys: u64,
    /// How often the node is killed while it catches up.
    #[arg(long, default_value_t = 5)]
    pub kills: u32,
    /// Seconds of the phases before and after.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Those whose every key is read in the end.
    #[command(flatten)]
    pub writers: WriterArgs,
}

/// Runs `absence`. Returns false if a promise was broken.
///
/// # Errors
///
/// If a node does not start, stop, answer, or catch up.
pub async fn run(args: &AbsenceArgs) -> anyhow::Result<bool> {
    if args.writers.cluster.nodes < 3 {
        bail!("--nodes must be 3 or more: a majority goes on while one is away");
    }
    let mut trial = Trial::start(&args.writers).await?;
    let all: Vec<u32> = (0..trial.shards).collect();
    let absent = *trial.cluster.nodes().last().context("there are no nodes")?;
    let there: Vec<_> = trial.cluster.nodes().into_iter().filter(|id| *id != absent).collect();
    let servers: Vec<_> = there.iter().map(|id| trial.cluster.resp_address(*id)).collect();
    write_for(&mut trial, Duration::from_secs(2)).await?;

    let probe = Probe::start(&servers, PROBES_PER_SECOND, &all, trial.shards);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let before = probe.next_phase();

    trial.cluster.kill(absent);
    let requests = (args.mebibytes << 20) / args.bulk_value_size as u64;
    let puts = Puts {
        servers: servers.clone(),
        clients: WRITERS,
        pipeline: 4,
        keys: args.bulk_keys,
        value_bytes: args.bulk_value_size,
        end: End::Operations(requests),
    };
    let began = Instant::now();
    let written = puts.run().await.context("writing while a node is away")?;
    write_for(&mut trial, Duration::from_secs(2)).await?;
    println!(
        "{} MiB written in {:.1} s while node {absent} was away, {} errors",
        args.mebibytes,
        began.elapsed().as_secs_f64(),
        written.errors.values().sum::<u64>(),
    );
    let live_bytes = live_bytes(args.bulk_keys.min(requests), args.bulk_value_size as u64);
    let mut within = judge_disks(&trial.cluster, &there, live_bytes)?;
    let writing = probe.next_phase();

    let sent_before = sent_bytes(&trial.cluster, &there).await?;
    let returned = Instant::now();
    for kill in 1..=args.kills {
        trial.cluster.restart(absent)?;
        // Once it answers it has begun to catch up; how far it comes differs from kill to kill.
        wait_for_answer(&trial.cluster, absent).await?;
        tokio::time::sleep(Duration::from_millis(400) * kill).await;
        trial.cluster.kill(absent);
    }
    let repairing = probe.next_phase();
    let last_start = Instant::now();
    trial.cluster.restart(absent)?;
    trial.cluster.wait_ready(READY_TIMEOUT).await?;
    let felt = caught_up(&mut trial.cluster, absent, &probe).await?;
    let (all_along, at_last) = (returned.elapsed(), last_start.elapsed());
    let sent = sent_bytes(&trial.cluster, &there).await? - sent_before;
    println!(
        "caught up {:.1} s after its last start, {:.1} s after its first, with {} kills; \
         the others sent {} MiB of snapshots",
        at_last.as_secs_f64(),
        all_along.as_secs_f64(),
        args.kills,
        sent >> 20
    );
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let after = probe.next_phase();
    probe.stop().await?;
    println!(
        "{:<26}{:>11}{:>9}{:>10}{:>10}{:>10}{:>8}",
        "probe", "operations", "failed", "p50 ms", "p99 ms", "p99.9 ms", "max ms"
    );
    show("before", &before);
    show("while much is written", &writing);
    show("repair, with kills", &repairing);
    show("repair, undisturbed", &felt);
    show("after", &after);
    within &= judge_disks(&trial.cluster, &trial.cluster.nodes(), live_bytes)?;

    // From here on the node that was away belongs to every majority.
    let victim = there[0];
    trial.cluster.kill(victim);
    for id in there.iter().skip(1).copied().chain([absent]) {
        let read = trial.verify(id).await?;
        println!("{read} keys read through node {id} while node {victim} is down");
    }
    trial.cluster.restart(victim)?;
    trial.cluster.wait_ready(READY_TIMEOUT).await?;
    Ok(trial.conclude().await? && within)
}

/// Says what each node's disk holds, and whether that is within the bound.
fn judge_disks(cluster: &Cluster, nodes: &[u64], live_bytes: u64) -> anyhow::Result<bool> {
    let bound = disk_bound(live_bytes);
    let mut within = true;
    for id in nodes {
        let sample = cluster.sample(*id)?;
        let fits = sample.disk_bytes() <= bound;
        println!(
            "  node {id}: journal {} MiB + store {} MiB = {} MiB of at most {} MiB for {} MiB live: \
             {}; resident {} MiB",
            sample.journal_bytes >> 20,
            sample.store_bytes >> 20,
            sample.disk_bytes() >> 20,
            bound >> 20,
            live_bytes >> 20,
            if fits { "ok" } else { "TOO MUCH" },
            sample.resident_bytes >> 20
        );
        within &= fits;
    }
    Ok(within)
}

/// Lets the writers write; what they were told is remembered.
async fn write_for(trial: &mut Trial, length: Duration) -> anyhow::Result<()> {
    let fleet = trial.load();
    tokio::time::sleep(length).await;
    let (writers, _) = fleet.stop().await?;
    trial.rest(writers);
    Ok(())
}

async fn wait_for_answer(cluster: &Cluster, id: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    while cluster.status(id).await.is_err() {
        if Instant::now() >= deadline {
            bail!("node {id} does not answer after its restart");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Waits until `id` lacks nothing; the probe's small writes go on, so that "nothing" is what the
/// leaders had when they were asked.
async fn caught_up(cluster: &mut Cluster, id: u64, probe: &Probe) -> anyhow::Result<Felt> {
    let deadline = Instant::now() + CATCH_UP_TIMEOUT;
    loop {
        let leaders = cluster.leaders().await?;
        let status = cluster.status(id).await?;
        let behind = leaders.iter().find(|(group, leader)| {
            let own = status.shards.iter().find(|shard| shard.group == **group);
            own.is_none_or(|own| own.applied_index + 1000 < leader.commit_index)
        });
        let Some((group, leader)) = behind else { return Ok(probe.next_phase()) };
        if Instant::now() >= deadline {
            bail!("node {id} does not catch up: group {group}, leader at {}", leader.commit_index);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn sent_bytes(cluster: &Cluster, nodes: &[u64]) -> anyhow::Result<u64> {
    let mut bytes = 0.0;
    for id in nodes {
        let text = cluster.metrics(*id).await?;
        bytes += metric(&text, "flotilla_snapshot_bytes_total{direction=\"out\"}").unwrap_or(0.0);
    }
    Ok(bytes as u64)
}

fn show(phase: &str, felt: &Felt) {
    let summary = &felt.summary;
    println!(
        "{phase:<26}{:>11}{:>9}{:>10.2}{:>10.2}{:>10.2}{:>8.0}",
        summary.operations,
        felt.failed,
        summary.p50_ms,
        summary.p99_ms,
        summary.p999_ms,
        summary.max_ms
    );
}
