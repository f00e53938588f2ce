//! Real processes, real faults: a cluster under load while everything that can fail does.
//!
//! A seed is a schedule of faults, which is printed before anything happens. Clients load all nodes
//! meanwhile and record what they were told. When the schedule is over everything heals, and then:
//!
//! * all nodes are ready again within [`RECOVERY_TIMEOUT`];
//! * every key, read through every node, tells the same;
//! * the history, these reads included, is linearizable key by key, so nothing acknowledged is lost;
//! * counters hold each increment once;
//! * while no majority could agree, nobody was answered;
//! * no node ended by itself but for a failed disk, none panicked, and none ran that had forgotten
//!   what it was.
//!
//! What this machine lacks for a fault is said, and the fault counted as skipped.
//!
//! What is absent: any use of the nodes' insides. Where real processes are too slow to find what only
//! happens once in a million, the simulation looks.

mod clients;
mod conductor;
mod disk;
mod fault;
mod judge;
mod keys;
mod namespaces;
mod network;
mod prepare;
mod report;
mod schedule;
mod tools;
mod tracer;

pub use fault::Kind;
pub use schedule::{Plan, Planned, Schedule};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::check::{self, CheckArgs};
use crate::cluster::{Cluster, ClusterArgs, Layout};
use crate::history::{Recorder, Sample};

use clients::{Client, Load, Seen};
use conductor::{Conducted, Conductor};
use keys::Keys;
use prepare::Stage;
use report::Report;

/// How long a cluster may take to be ready again once everything has healed.
pub const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long there is load after all nodes are ready again.
const AFTER: Duration = Duration::from_secs(2);
/// How long the last requests of the clients may take.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(60);

/// What lies between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Between {
    /// Network namespaces where that is possible, else proxies.
    Auto,
    /// Proxies of this program.
    Proxies,
    /// A network namespace for each node.
    Namespaces,
}

/// Arguments of `chaos`.
#[derive(Clone, Debug, Args)]
pub struct ChaosArgs {
    /// How long things break; may be a fraction.
    #[arg(long, default_value_t = 5.0)]
    pub minutes: f64,
    /// The schedule is drawn from it.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keep history, schedule and report here.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// How many clients, each with one request in flight.
    #[arg(long, default_value_t = 40)]
    pub clients: u64,
    /// Requests in a second, of all clients together.
    #[arg(long, default_value_t = 2000)]
    pub rate: u64,
    /// What lies between the nodes.
    #[arg(long, value_enum, default_value_t = Between::Auto)]
    pub network: Between,
    /// Only these faults.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub faults: Vec<Kind>,
    /// Print the schedule and end.
    #[arg(long)]
    pub dry_run: bool,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

impl ChaosArgs {
    fn plan(&self) -> anyhow::Result<Plan> {
        if !(self.minutes > 0.0 && self.minutes.is_finite()) {
            bail!("--minutes must be more than 0");
        }
        if self.cluster.nodes < 3 {
            bail!("--nodes must be 3 or more: else nothing may fail");
        }
        if self.clients == 0 || self.rate == 0 {
            bail!("--clients and --rate must be 1 or more");
        }
        let kinds: BTreeSet<Kind> = match &self.faults[..] {
            [] => Kind::ALL.into_iter().collect(),
            some => some.iter().copied().collect(),
        };
        let length = Duration::from_secs_f64(self.minutes * 60.0);
        Ok(Plan { seed: self.seed, length, nodes: self.cluster.nodes, kinds })
    }
}

/// Runs `chaos`. Returns false if a promise was broken.
///
/// # Errors
///
/// If the arguments make no sense, the cluster does not start, or a tool fails.
pub async fn run(args: &ChaosArgs) -> anyhow::Result<bool> {
    let Layout::Even(shards) = args.cluster.layout()? else {
        bail!("--split-at is for load; here the clients want --shards, to know their shards");
    };
    let plan = args.plan()?;
    let schedule = Schedule::draw(&plan);
    println!(
        "seed {}, {} nodes, {:.1} s, {} faults:",
        plan.seed,
        plan.nodes,
        plan.length.as_secs_f64(),
        schedule.faults.len()
    );
    print!("{schedule}");
    if args.dry_run {
        return Ok(true);
    }
    let scratch = Scratch::new(args)?;
    std::fs::write(scratch.file("schedule.txt"), schedule.to_string())?;
    let history = scratch.file("history.jsonl");
    let recorder = Recorder::start(&history, Sample::ALL)?;
    let mut stage = prepare::prepare(args, &schedule).await?;
    println!(
        "{} nodes in {}, {} between them; {} clients",
        plan.nodes,
        stage.cluster.directory().display(),
        stage.network.name(),
        args.clients
    );
    let keys = Keys::new(args.clients, shards);
    let fleet = Fleet::start(args, keys, &stage.cluster, &recorder);
    let Played { told, seen, recovered_after } = play(&mut stage, &plan, &schedule, fleet).await;
    let mut report = Report::new(&schedule, &told, &seen, shards, &stage.tools);
    report.recovered_after = recovered_after;
    report.violations.extend(panics(&stage.cluster)?);
    report.windows =
        judge::answered_without_majority(&told.happened, &seen, &mut report.violations);
    match judge::read_everywhere(&stage.cluster, &keys.all(), &recorder).await {
        Ok(contents) => {
            report.keys = contents.len();
            judge::compare(&contents, &mut report.violations);
            report.counted = judge::count(&contents, &seen, &mut report.violations);
        }
        Err(error) => report.violations.push(format!("{error:#}")),
    }
    let begun = Instant::now();
    let recorded = recorder.finish().map_err(anyhow::Error::from);
    match recorded.and_then(|_| Ok(check::judge_file(&CheckArgs::of(history))?)) {
        Ok(judgement) => report.judged(&judgement, begun.elapsed()),
        Err(error) => report.violations.push(format!("the history cannot be judged: {error:#}")),
    }
    conclude(report, stage, scratch).await
}

/// The clients at work.
struct Fleet {
    load: Arc<Load>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Fleet {
    fn start(args: &ChaosArgs, keys: Keys, cluster: &Cluster, recorder: &Recorder) -> Fleet {
        let load = Arc::new(Load {
            servers: cluster.resp_addresses(),
            keys,
            recorder: recorder.clone(),
            stop: AtomicBool::new(false),
            period: Duration::from_secs_f64(args.clients as f64 / args.rate as f64),
        });
        let clients = 0..args.clients;
        let clients = clients.map(|id| tokio::spawn(Client::new(id, args.seed, &load).run()));
        let clients = clients.collect();
        Fleet { load, clients }
    }

    /// Lets them finish what they have begun; who is not answered is told in `violations`.
    async fn stop(self, violations: &mut Vec<String>) -> Vec<Seen> {
        self.load.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        let deadline = tokio::time::Instant::now() + LAST_ANSWERS_TIMEOUT;
        for (id, mut client) in self.clients.into_iter().enumerate() {
            match tokio::time::timeout_at(deadline, &mut client).await {
                Ok(Ok(seen)) => all.push(seen),
                Ok(Err(error)) => violations.push(format!("client {id} failed: {error}")),
                Err(_) => {
                    client.abort();
                    // Nothing may be recorded once it is over.
                    let _ = client.await;
                    violations.push(format!("client {id} is not answered after all has healed"));
                }
            }
        }
        all
    }
}

/// What came of a schedule.
struct Played {
    told: Conducted,
    seen: Vec<Seen>,
    /// How long the nodes took to be ready again, if they are.
    recovered_after: Option<Duration>,
}

/// Plays the schedule, lets everything heal, and ends the load.
async fn play(stage: &mut Stage, plan: &Plan, schedule: &Schedule, fleet: Fleet) -> Played {
    let Stage { cluster, network, tools } = stage;
    let mut told = Conductor::new(cluster, network, tools).play(schedule, plan.length).await;
    let healed = Instant::now();
    let recovered = recover(cluster).await.map(|()| healed.elapsed());
    if let Err(error) = &recovered {
        told.violations.push(format!("not ready again: {error:#}"));
    }
    tokio::time::sleep(AFTER).await;
    let seen = fleet.stop(&mut told.violations).await;
    Played { told, seen, recovered_after: recovered.ok() }
}

/// Waits until all nodes are ready, second by second: when the machine stands still, so does the
/// time that they are given.
async fn recover(cluster: &mut Cluster) -> anyhow::Result<()> {
    let slice = Duration::from_secs(1);
    for left in (0..RECOVERY_TIMEOUT.as_secs()).rev() {
        let waited = cluster.wait_ready(slice).await;
        if cluster.running() != cluster.nodes() {
            return waited.and_then(|()| bail!("a node ended"));
        }
        match waited {
            Err(error) if left == 0 => return Err(error),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
    bail!("there is no time for it")
}

/// What nodes said when a part of them panicked.
fn panics(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for node in cluster.nodes() {
        let log = std::fs::read(cluster.log(node))?;
        let log = String::from_utf8_lossy(&log);
        let said = log.lines().filter(|line| line.contains("panicked at"));
        found.extend(said.map(|line| format!("node {node}: {line}")));
    }
    Ok(found)
}

/// Tells the verdict; keeps everything if a promise was broken.
async fn conclude(mut report: Report, mut stage: Stage, scratch: Scratch) -> anyhow::Result<bool> {
    if report.violations.is_empty()
        && let Err(error) = stage.cluster.stop_all().await
    {
        report.violations.push(format!("in the end: {error:#}"));
    }
    let text = report.to_string();
    print!("{text}");
    std::fs::write(scratch.file("report.txt"), text)?;
    if report.violations.is_empty() {
        return Ok(true);
    }
    let Stage { cluster, mut tools, .. } = stage;
    let nodes = cluster.keep();
    let kept = scratch.keep();
    println!("\nkept, to see what went wrong:");
    println!("  {}: each node's directory and log", nodes.display());
    if let Some(disk) = tools.take_small_disk() {
        println!("  {}: the disk that was filled; umount it when done", disk.keep().display());
    }
    println!("  {}: schedule, history and report", kept.display());
    println!("  flotilla-bench check {}", kept.join("history.jsonl").display());
    println!("  flotilla inspect journal {}", nodes.join("node-1").display());
    Ok(false)
}

/// Where history, schedule and report are written.
enum Scratch {
    Named(PathBuf),
    Temporary(TempDir),
}

impl Scratch {
    fn new(args: &ChaosArgs) -> anyhow::Result<Scratch> {
        match &args.out {
            Some(out) => {
                std::fs::create_dir_all(out)
                    .with_context(|| format!("cannot make {}", out.display()))?;
                Ok(Scratch::Named(out.clone()))
            }
            None => {
                let mut builder = tempfile::Builder::new();
                builder.prefix("flotilla-chaos-");
                let made = match &args.cluster.dir {
                    Some(parent) => builder.tempdir_in(parent),
                    None => builder.tempdir(),
                };
                Ok(Scratch::Temporary(made.context("cannot make a temporary directory")?))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Scratch::Named(path) => path,
            Scratch::Temporary(directory) => directory.path(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn keep(self) -> PathBuf {
        match self {
            Scratch::Named(path) => path,
            Scratch::Temporary(directory) => directory.keep(),
        }
    }
}
