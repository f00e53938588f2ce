//! Compares stores: the same workloads, the same load, one run.
//!
//! Every store is started in a fresh directory, checked, and filled with the same keys. Then each
//! measurement goes round all stores before the next one begins, and all of it is repeated, so that
//! whatever else the machine does hits all of them alike. Medians over the rounds are told.
//!
//! Invariants:
//!
//! * A get that finds nothing, or a value of another size, counts as an error.
//! * Before each measurement all stores have come to rest, or the result says that they had not.
//! * Servers are stopped by their process ids however the run ends; after a failure their
//!   directories stay.
//! * What a store's acknowledgement means stands beside each of its numbers.
//!
//! What is absent: tuning. Stores run with their defaults, except that they sync where they can.

mod daemon;
mod kinds;
mod plan;
mod rest;
mod table;
mod verified;

pub use kinds::Kind;
pub use plan::Way;
pub use table::render;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tempfile::TempDir;

use crate::cluster::{ClusterArgs, Layout};
use crate::drive::{DriveOptions, End, drive};
use crate::measure::{Device, describe_machine, revision};
use crate::report;
use crate::result::{Document, Kind as DocumentKind, Machine, RunResult, Skipped};
use crate::run::{Context as RunContext, measure};
use crate::target::Target;
use crate::workload::Workload;

use kinds::{Peer, Start};
use plan::Measurement;
use verified::Verified;

/// Arguments of `peers`.
#[derive(Clone, Debug, Args)]
pub struct PeersArgs {
    /// Which stores, in this order. What is not installed is skipped.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STORE,...",
        default_values_t = [Kind::Etcd, Kind::Flotilla, Kind::Nats, Kind::Redis, Kind::Redb, Kind::Fjall])]
    pub only: Vec<Kind>,
    /// Which workloads, as `run` knows them; none that inserts keys.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...",
        default_values_t = ["put", "get", "a", "b"].map(str::to_owned))]
    pub workloads: Vec<String>,
    /// How requests in flight are spread over connections.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WAY,...",
        default_values_t = [Way::Multiplexed, Way::OneByOne])]
    pub ways: Vec<Way>,
    /// How long each measurement takes.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Load before each measurement.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// How often everything is measured; medians are told.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// How many keys of 16 bytes.
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    /// Requests in flight, of all connections together.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub in_flight: u32,
    /// Connections over which they are multiplexed; the other way has one for each.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub connections: u32,
    /// What makes keys and operations those that they are.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Threads of the clients.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// A directory for result.json and report.html.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Flotilla's nodes; etcd and NATS have as many. `--dir` holds the data of all stores.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Runs `peers`. Returns false if an operation failed.
///
/// # Errors
///
/// If a store that is installed does not start, does not do what it is told, or ends.
pub async fn run(args: &PeersArgs) -> anyhow::Result<bool> {
    let (keys, value_bytes) = (args.keys, args.value_size);
    let plan = plan::measurements(&args.workloads, &args.ways, keys, value_bytes)?;
    let missing = |kind: &&Kind| kind.missing().is_some();
    let (skipped, kinds): (Vec<&Kind>, Vec<&Kind>) = args.only.iter().partition(missing);
    let skipped = skipped
        .into_iter()
        .filter_map(|kind| Some(Skipped { name: kind.name().to_owned(), reason: kind.missing()? }));
    let skipped: Vec<Skipped> = skipped.collect();
    for Skipped { name, reason } in &skipped {
        eprintln!("skipped: {name}: {reason}");
    }
    if kinds.is_empty() || plan.is_empty() {
        bail!("there is nothing to measure");
    }
    let least =
        plan::least_duration(kinds.len(), plan.len(), args.rounds, args.duration + args.warmup);
    eprintln!(
        "{} stores, {} measurements, {} rounds: {} at least",
        kinds.len(),
        plan.len(),
        args.rounds,
        humantime::format_duration(Duration::from_secs(least.as_secs()))
    );
    let home = fresh_directory(args.cluster.dir.as_deref())?;
    let mut comparison = Comparison::new(args, home.path()).await?;
    let measured = match comparison.start(&kinds).await {
        Ok(()) => comparison.measure(&plan).await,
        Err(error) => Err(error),
    };
    let results = match measured {
        Ok(results) => results,
        Err(error) => {
            comparison.peers.into_iter().for_each(Peer::keep);
            return Err(error.context(format!("data and logs: {}", home.keep().display())));
        }
    };
    drop(comparison);
    let is_clean = results.iter().all(RunResult::is_clean);
    let document = Document::new(DocumentKind::Peers, results, skipped);
    println!("{}", render(&document));
    if let Some(out) = &args.out {
        for file in report::write(out, &document, &[])? {
            println!("written: {}", file.display());
        }
    }
    Ok(is_clean)
}

fn fresh_directory(parent: Option<&Path>) -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("flotilla-peers-");
    match parent {
        None => builder.tempdir().context("cannot make a temporary directory"),
        Some(parent) => builder
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display())),
    }
}

/// A comparison under way.
struct Comparison<'a> {
    args: &'a PeersArgs,
    home: &'a Path,
    machine: Machine,
    revision: String,
    peers: Vec<Peer>,
    /// How often a store was driven: values of different drives differ.
    drives: u16,
}

impl<'a> Comparison<'a> {
    async fn new(args: &'a PeersArgs, home: &'a Path) -> anyhow::Result<Comparison<'a>> {
        let probed = home.to_owned();
        // Before anything runs: the probe shall see the disk at rest.
        let machine = tokio::task::spawn_blocking(move || describe_machine(Some(&probed)));
        let machine = machine.await.context("the probe of the machine failed")??;
        Ok(Comparison { args, home, machine, revision: revision(), peers: Vec::new(), drives: 0 })
    }

    /// Starts, checks and fills all stores.
    async fn start(&mut self, kinds: &[&Kind]) -> anyhow::Result<()> {
        for kind in kinds {
            let start = Start { cluster: &self.args.cluster, home: self.home };
            let peer = Peer::start(**kind, &start).await?;
            let (target, nodes) = (Arc::clone(&peer.target), peer.nodes());
            // First into the list, so that it is kept if something is wrong with it.
            self.peers.push(peer);
            let name = kind.name();
            let checked = verified::check(&*target, nodes, self.args.value_size).await;
            checked.with_context(|| format!("{name} does not do what it is told"))?;
            let seconds = self.fill(&target).await.with_context(|| format!("filling {name}"))?;
            eprintln!("{name}: filled with {} keys in {seconds:.1} s", self.args.keys);
        }
        Ok(())
    }

    async fn fill(&mut self, target: &Arc<dyn Target>) -> anyhow::Result<f64> {
        let workload = Workload {
            keys: self.args.keys,
            value_bytes: self.args.value_size,
            ..Workload::named("put")?
        };
        let options = self.options(Way::Multiplexed, End::EachKeyOnce, Duration::ZERO);
        let filled = drive(target, &workload, &options).await?;
        if !filled.is_clean() || filled.operations() < self.args.keys {
            bail!("not every key was written: {:?} {:?}", filled.errors, filled.unknown);
        }
        Ok(filled.elapsed.as_secs_f64())
    }

    fn options(&mut self, way: Way, end: End, warmup: Duration) -> DriveOptions {
        let (in_flight, connections) =
            (self.args.in_flight as usize, self.args.connections as usize);
        let (clients, pipeline) = way.spread(in_flight, connections);
        self.drives += 1;
        DriveOptions {
            clients,
            pipeline,
            end,
            warmup,
            threads: self.args.threads as usize,
            seed: self.args.seed,
            phase: self.drives,
            ..DriveOptions::default()
        }
    }

    /// Each measurement round all stores, and all of that in rounds.
    async fn measure(&mut self, plan: &[Measurement]) -> anyhow::Result<Vec<RunResult>> {
        let mut results = Vec::new();
        for round in 1..=self.args.rounds {
            for measurement in plan {
                for at in 0..self.peers.len() {
                    let result = self.measure_one(at, measurement, round).await?;
                    eprintln!(
                        "round {round}: {:<32} {:>9.0}/s{}",
                        result.name,
                        result.per_second_total,
                        failures(&result)
                    );
                    results.push(result);
                }
            }
        }
        Ok(results)
    }

    async fn measure_one(
        &mut self,
        at: usize,
        measurement: &Measurement,
        round: u32,
    ) -> anyhow::Result<RunResult> {
        // That a server has ended explains more than anything that is noticed of it later.
        self.peers.iter_mut().try_for_each(Peer::assert_alive)?;
        let all = self.peers.iter().flat_map(|peer| peer.target.processes());
        let unrest = rest::wait(all.collect()).await?;
        let end = End::After(self.args.duration);
        let options = self.options(measurement.way, end, self.args.warmup);
        let peer = &mut self.peers[at];
        let target: Arc<dyn Target> =
            Arc::new(Verified::new(Arc::clone(&peer.target), self.args.value_size));
        let name = format!("{} {}", peer.kind.name(), measurement.name());
        let shards = match (peer.kind, self.args.cluster.layout()?) {
            (Kind::Flotilla, Layout::Even(shards)) => Some(shards),
            (Kind::Flotilla, Layout::SplitAt(keys)) => Some(keys.split(',').count() as u32 + 1),
            _ => None,
        };
        let context = RunContext {
            name: name.clone(),
            round,
            machine: self.machine.clone(),
            device: Device::below(self.home),
            revision: self.revision.clone(),
            shards,
        };
        let measured = measure(&target, &measurement.workload, &options, &context).await;
        peer.assert_alive()?;
        let (mut result, _) = measured.with_context(|| format!("measuring {name}"))?;
        result.notes.extend(unrest);
        Ok(result)
    }
}

/// Empty if nothing failed.
fn failures(result: &RunResult) -> String {
    let all = result.errors.iter().chain(&result.unknown);
    let listed: Vec<String> = all.map(|(reason, count)| format!("{count} {reason}")).collect();
    match listed.is_empty() {
        true => String::new(),
        false => format!("  failed: {}", listed.join(", ")),
    }
}
