//! The harness binary: one subcommand for each way to load, break and judge.
//!
//! Exit codes: 0 all is well, 1 a promise was broken or something failed, 2 the command line is
//! wrong, 130 ended by a signal. However it ends, no server that it started is left behind, unless
//! it is killed without warning itself.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use flotilla::server::process::{ServeArgs, serve};
use flotilla_bench::cluster::{Cluster, ClusterArgs};
use flotilla_bench::{
    absence, chaos, check, compare, crash, disk, edges, endurance, failover, increments, overload,
    peers, run, scale, sim,
};
use tokio::signal::unix::{SignalKind, signal};

/// As in the server's own binary: this program is the server that it measures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Loads, breaks and judges Flotilla.
#[derive(Debug, Parser)]
#[command(name = "flotilla-bench", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure one workload against one store: latencies, throughput, and what it costs.
    Run(Box<run::RunArgs>),
    /// Compare with etcd, NATS, Redis, redb and fjall in one run.
    Peers(Box<peers::PeersArgs>),
    /// Measure one workload over numbers of shards and of clients.
    Scale(Box<scale::ScaleArgs>),
    /// Say whether something got worse: between two stored results, or two builds that take turns.
    Compare(Box<compare::CompareArgs>),
    /// Be a node, as `flotilla serve` is one.
    #[command(hide = true)]
    ServeNode(Box<ServeArgs>),
    /// Start a cluster, print where it is, and keep it until told to stop.
    Cluster(RunClusterArgs),
    /// Kill the busiest leader under load; measure the gap, and look for losses.
    Failover(failover::FailoverArgs),
    /// Kill all nodes at once under load, and look for losses.
    Crash(crash::CrashArgs),
    /// Count under kills and a broken network: every increment must count once.
    Increments(increments::IncrementsArgs),
    /// Break everything that can break, by a schedule from a seed, and judge what clients saw.
    Chaos(Box<chaos::ChaosArgs>),
    /// Keep a node away while much is written, and kill it while it catches up.
    Absence(absence::AbsenceArgs),
    /// Overwrite at full speed for minutes: memory and disk must not grow.
    Endurance(endurance::EnduranceArgs),
    /// Offer a multiple of the capacity: refused at once, memory bounded, soon normal again.
    Overload(overload::OverloadArgs),
    /// Large values among small ones, clients that do not read, clients that come and go.
    Edges(edges::EdgesArgs),
    /// Live simulated lives of whole clusters: the product's code, virtual time, every kind of fault,
    /// the same each time.
    Sim(sim::SimArgs),
    /// Write what Raft replicas do as events of etcd's TLA+ specification.
    SpecTrace(flotilla_bench::spec_trace::SpecTraceArgs),
    /// Judge a recorded history: is every key linearizable? Exit codes: 0 yes, 1 no, 2 the file is no
    /// history, 3 gave up.
    Check(check::CheckArgs),
    /// Measure what a disk gives: write and sync of 4 KiB, one at a time.
    ProbeDisk(disk::ProbeDiskArgs),
}

/// Arguments of `cluster`.
#[derive(Debug, Args)]
struct RunClusterArgs {
    /// End by itself after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    r#for: Option<u64>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> anyhow::Result<ExitCode> {
    match &command {
        Command::Check(args) => return Ok(check::run(args)),
        Command::ServeNode(args) => return Ok(serve_node(args)),
        Command::SpecTrace(args) => return flotilla_bench::spec_trace::run(args),
        Command::Sim(args) => return sim::run(args),
        _ => {}
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start threads")?;
    let code = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let keeps = matches!(command, Command::Cluster(_));
        // Whatever is dropped here ends the servers that it started.
        tokio::select! {
            done = run(command) => done,
            _ = interrupt.recv() => Ok(ended(keeps)),
            _ = terminate.recv() => Ok(ended(keeps)),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// A signal is how a kept cluster is meant to end.
fn ended(keeps: bool) -> ExitCode {
    if keeps { ExitCode::SUCCESS } else { ExitCode::from(130) }
}

/// A server of its own: it has its own threads, and stops itself when a signal says so.
fn serve_node(args: &ServeArgs) -> ExitCode {
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("flotilla: {failure}");
            failure.exit_code()
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let well = match command {
        Command::Compare(args) => return compare::run(&args).await,
        Command::Run(args) => run::run(&args).await,
        Command::Scale(args) => scale::run(&args).await,
        Command::Peers(args) => peers::run(&args).await,
        Command::Cluster(args) => keep_cluster(&args).await,
        Command::Failover(args) => failover::run(&args).await,
        Command::Crash(args) => crash::run(&args).await,
        Command::Increments(args) => increments::run(&args).await,
        Command::Chaos(args) => chaos::run(&args).await,
        Command::Absence(args) => absence::run(&args).await,
        Command::Endurance(args) => endurance::run(&args).await,
        Command::Overload(args) => overload::run(&args).await,
        Command::Edges(args) => edges::run(&args).await,
        Command::Check(_) | Command::ServeNode(_) | Command::Sim(_) => {
            unreachable!("they need no runtime")
        }
        Command::SpecTrace(_) => unreachable!("it needs no runtime"),
        Command::ProbeDisk(args) => disk::run(&args).map(|()| true),
    };
    Ok(if well? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints one line a node, `node ID pid PID redis ADDRESS admin ADDRESS`, then `ready`.
async fn keep_cluster(args: &RunClusterArgs) -> anyhow::Result<bool> {
    let mut cluster = Cluster::start(&args.cluster).await?;
    for (id, process) in cluster.nodes().into_iter().zip(cluster.processes()) {
        let (resp, admin) = (cluster.resp_address(id), cluster.admin_address(id));
        println!("node {id} pid {process} redis {resp} admin {admin}");
    }
    println!("ready");
    match args.r#for {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => std::future::pending().await,
    }
    cluster.stop_all().await?;
    Ok(true)
}
