//! Kills the node that leads most under load, and judges what clients saw.
//!
//! A round: writers load every shard; the node that leads the most loaded shards is killed without
//! warning; the load goes on. Then every key is read through each surviving node, the killed node
//! is started again, catches up, and every key is read through it too. Nothing is forgotten from
//! round to round: later rounds read the keys of earlier ones.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use crate::cluster::{Cluster, ClusterArgs, Layout, READY_TIMEOUT};
use crate::gaps::{Gap, longest_gap};
use crate::register::{Register, VALUE_BYTES_MIN};
use crate::verify::verify;
use crate::writers::{Counts, Fleet, Writer, counts, problems};

/// How long reading all keys through one node may take.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a restarted node may take to catch up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(120);

/// Arguments about writers, of all commands that judge.
#[derive(Clone, Debug, Args)]
pub struct WriterArgs {
    /// How many clients, each with one request in flight; they are spread over the shards.
    #[arg(long, default_value_t = 64)]
    pub clients: u32,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `failover`.
#[derive(Clone, Debug, Args)]
pub struct FailoverArgs {
    /// How often.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Seconds of load in each round; the kill comes after a third of them.
    #[arg(long, default_value_t = 9)]
    pub seconds: u64,
    /// The writers.
    #[command(flatten)]
    pub writers: WriterArgs,
}

/// A cluster, its writers, and what they found out.
pub struct Trial {
    /// The cluster.
    pub cluster: Cluster,
    /// The writers, while they rest.
    pub writers: Vec<Writer>,
    /// Into how many shards the keys fall.
    pub shards: u32,
    /// Broken promises, in words.
    pub violations: Vec<String>,
}

impl Trial {
    /// Starts a cluster, and makes writers for it.
    ///
    /// # Errors
    ///
    /// If the arguments make no sense, or the cluster does not start.
    pub async fn start(args: &WriterArgs) -> anyhow::Result<Trial> {
        let Layout::Even(shards) = args.cluster.layout()? else {
            bail!("--split-at is for load; here the writers want --shards, to know their shards");
        };
        if args.clients < shards {
            bail!("--clients {} leaves some of {shards} shards without load", args.clients);
        }
        if args.value_size < VALUE_BYTES_MIN {
            bail!("--value-size must be {VALUE_BYTES_MIN} or more: values name their writes");
        }
        println!("{}", args.cluster.binary_note()?);
        let cluster = Cluster::start(&args.cluster).await?;
        println!(
            "{} nodes, {shards} shards, {} clients with one request in flight, values of {} B, \
             in {}",
            args.cluster.nodes,
            args.clients,
            args.value_size,
            cluster.directory().display()
        );
        let writers = Writer::spread(args.clients, shards, args.value_size);
        Ok(Trial { cluster, writers, shards, violations: Vec::new() })
    }

    /// Sets the writers to work on the nodes that run.
    pub fn load(&mut self) -> Fleet {
        let writers = std::mem::take(&mut self.writers);
        Fleet::start(writers, &self.cluster.resp_addresses(), self.shards)
    }

    /// Takes the resting writers back, with what they saw during the load.
    pub fn rest(&mut self, mut writers: Vec<Writer>) {
        for writer in &mut writers {
            let seen = std::mem::take(&mut writer.violations);
            self.violations.extend(seen.into_iter().map(|what| format!("under load: {what}")));
        }
        self.writers = writers;
    }

    /// Reads all keys through node `id`; returns how many.
    ///
    /// # Errors
    ///
    /// If some key cannot be read.
    pub async fn verify(&mut self, id: u64) -> anyhow::Result<usize> {
        let mut registers: Vec<&mut Register> =
            self.writers.iter_mut().flat_map(Writer::registers_mut).collect();
        let address = self.cluster.resp_address(id);
        let verification = verify(address, &mut registers, VERIFY_TIMEOUT).await?;
        let found = verification.violations.into_iter();
        self.violations.extend(found.map(|what| format!("through node {id}: {what}")));
        Ok(verification.read)
    }

    /// Stops the cluster and tells the verdict; true if no promise was broken. Otherwise the nodes'
    /// directories are kept.
    ///
    /// # Errors
    ///
    /// If the cluster does not stop cleanly.
    pub async fn conclude(mut self) -> anyhow::Result<bool> {
        let Counts { acknowledged, refused, in_doubt, reads } = counts(&self.writers);
        println!(
            "{acknowledged} writes acknowledged, {refused} refused, {in_doubt} in doubt, {reads} \
             reads under load"
        );
        for (problem, count) in problems(&self.writers) {
            println!("  {problem}: {count}");
        }
        if self.violations.is_empty() {
            self.cluster.stop_all().await?;
            println!("PASS: nothing acknowledged is missing");
            return Ok(true);
        }
        println!("FAIL: {} broken promises", self.violations.len());
        for violation in self.violations.iter().take(20) {
            println!("  {violation}");
        }
        println!("the nodes' directories are kept in {}", self.cluster.keep().display());
        Ok(false)
    }
}

/// Runs `failover`. Returns false if a promise was broken.
///
/// # Errors
///
/// If a node does not start, stop, answer, or catch up.
pub async fn run(args: &FailoverArgs) -> anyhow::Result<bool> {
    let mut trial = Trial::start(&args.writers).await?;
    println!(
        "{:>5}{:>8}{:>8}{:>12}{:>14}{:>14}{:>12}{:>10}",
        "round",
        "killed",
        "led",
        "writes/s",
        "any gap ms",
        "shard gap ms",
        "back after",
        "keys read"
    );
    for number in 1..=args.rounds {
        let round = Round::run(&mut trial, Duration::from_secs(args.seconds))
            .await
            .with_context(|| format!("round {number}"))?;
        println!(
            "{number:>5}{:>8}{:>8}{:>12.0}{:>14.0}{:>14.0}{:>10.2} s{:>10}",
            format!("node {}", round.victim),
            format!("{}/{}", round.led, trial.shards),
            round.writes_per_second,
            round.any_gap.length.as_secs_f64() * 1e3,
            round.shard_gap.length.as_secs_f64() * 1e3,
            round.back_after.as_secs_f64(),
            round.keys_read,
        );
    }
    println!(
        "any gap: the longest time without any acknowledgement, of all clients together, from the \
         kill to the end of the load; shard gap: the same for the shard that waited longest"
    );
    trial.conclude().await
}

/// One kill.
struct Round {
    victim: u64,
    /// How many shards the victim led.
    led: usize,
    writes_per_second: f64,
    any_gap: Gap,
    shard_gap: Gap,
    /// From its start until it had applied all that was committed.
    back_after: Duration,
    /// Keys read in total, through all nodes.
    keys_read: usize,
}

impl Round {
    async fn run(trial: &mut Trial, load: Duration) -> anyhow::Result<Round> {
        let started = Instant::now();
        let fleet = trial.load();
        tokio::time::sleep(load / 3).await;
        let (victim, led) = most_loaded_leader(&trial.cluster, &fleet.acknowledged()).await?;
        let killed_at = trial.cluster.kill(victim);
        tokio::time::sleep(load.saturating_sub(started.elapsed())).await;
        let (writers, ended_at) = fleet.stop().await?;
        let any_gap = longest_gap(times(&writers, None), killed_at, ended_at);
        let gaps = (0..trial.shards)
            .map(|shard| longest_gap(times(&writers, Some(shard)), killed_at, ended_at));
        let shard_gap = gaps.max_by_key(|gap| gap.length).expect("there is at least one shard");
        let writes = times(&writers, None).count();
        trial.rest(writers);

        let mut keys_read = 0;
        for survivor in trial.cluster.running() {
            keys_read += trial.verify(survivor).await?;
        }
        let restarted = Instant::now();
        trial.cluster.restart(victim)?;
        trial.cluster.wait_ready(READY_TIMEOUT).await?;
        trial.cluster.wait_caught_up(victim, CATCH_UP_TIMEOUT).await?;
        let back_after = restarted.elapsed();
        keys_read += trial.verify(victim).await?;
        let writes_per_second = writes as f64 / (ended_at - started).as_secs_f64();
        Ok(Round { victim, led, writes_per_second, any_gap, shard_gap, back_after, keys_read })
    }
}

/// The acknowledgements of all writers, or of those of one shard.
fn times(writers: &[Writer], shard: Option<u32>) -> impl Iterator<Item = Instant> {
    let of_shard = writers.iter().filter(move |writer| shard.is_none_or(|it| it == writer.shard));
    of_shard.flat_map(|writer| writer.acknowledgements.iter().copied())
}

/// The node whose shards took the most writes, and how many shards it leads.
async fn most_loaded_leader(
    cluster: &Cluster,
    acknowledged: &[u64],
) -> anyhow::Result<(u64, usize)> {
    let leaders = cluster.leaders().await?;
    // Shards of the writers are counted in key order; groups may be numbered otherwise.
    let mut shards: Vec<_> = leaders.values().collect();
    shards.sort_by(|one, other| one.start.cmp(&other.start));
    if shards.len() != acknowledged.len() {
        bail!("{} of {} shards have a leader", shards.len(), acknowledged.len());
    }
    let mut nodes: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    for (shard, writes) in shards.iter().zip(acknowledged) {
        let node = nodes.entry(shard.node).or_default();
        *node = (node.0 + writes, node.1 + 1);
    }
    let most = nodes.into_iter().max_by_key(|(_, (writes, led))| (*writes, *led));
    let (node, (_, led)) = most.context("no shard has a leader")?;
    Ok((node, led))
}
