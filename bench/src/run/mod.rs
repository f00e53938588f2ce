//! `run`: one workload against one target, told as a table and, if asked for, as files.
//!
//! The target runs already (`--target`), or a cluster is started for the run (`--cluster`). Every key
//! is put once, the target is warmed up, and then it is measured: in a closed loop, at a rate, or at
//! rising rates until it does not keep up (`--rate auto`, see `knee`).

mod args;
mod knee;
mod measure;
mod puts;
mod subject;

pub use args::{LoadArgs, ServerArgs, duration};
pub use measure::{Context, measure, settings};
pub use puts::Puts;
pub use subject::Subject;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::drive::{DriveOptions, Driven, End, Rate, drive};
use crate::history::{DriverRecorder, Recorder, Sample};
use crate::latency::Latencies;
use crate::measure::{Device, describe_machine, revision};
use crate::report;
use crate::result::{Document, Kind, RunResult};
use crate::target::{Target, TargetSpec};
use crate::workload::Workload;

/// Requests in flight while keys are filled in: enough for any target, not too many for any.
const FILL_CLIENTS: usize = 32;

/// How often filling is tried.
const FILL_ATTEMPTS: u16 = 3;

/// Requests of each of them.
const FILL_PIPELINE: usize = 8;

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// What is measured: embedded:1, embedded:3, resp://HOST:PORT[,...], redis://..., etcd://...,
    /// nats://..., redb:DIR, fjall:DIR (without DIR in a fresh directory).
    #[arg(long, required_unless_present = "cluster", conflicts_with = "cluster")]
    pub target: Option<TargetSpec>,
    /// Start so many server processes and measure them.
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u64).range(1..=9))]
    pub cluster: Option<u64>,
    /// Into how many shards the cluster, or an embedded engine, is cut. [default: 8; embedded: 1]
    #[arg(long, conflicts_with = "split_at")]
    pub shards: Option<u32>,
    /// The first key of each shard but the first: K1,K2,... with \xNN escapes.
    #[arg(long, value_name = "KEYS", requires = "cluster")]
    pub split_at: Option<String>,
    /// Processes of the target's servers, whose cost is counted. Known for a cluster started here.
    #[arg(long, value_delimiter = ',', value_name = "PID,...", requires = "target")]
    pub server_pid: Vec<u32>,
    /// How many clients, each with a connection of its own.
    #[arg(long, default_value_t = 64, value_parser = args::at_least_one)]
    pub clients: usize,
    /// 0: a closed loop. A number: operations each second, with latencies from when they were due.
    /// auto: rising rates, to find the highest that the target keeps up with.
    #[arg(long, default_value = "0", value_name = "0|N|auto")]
    pub rate: Rate,
    /// How often everything is measured.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// Writes result.json, report.html and histograms into this directory.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Records what clients saw of some keys in this file, for `check`.
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// About how many keys the history is of: all that was done to them is in it.
    #[arg(long, default_value_t = 100, value_name = "KEYS")]
    pub history_keys: u64,
    /// What clients do.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The cluster to start.
    #[command(flatten)]
    pub servers: ServerArgs,
}

/// Runs `run`. Returns false if there were errors or unknown outcomes.
///
/// # Errors
///
/// If the target cannot be started or reached, or cannot do what the workload asks.
pub async fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let workload = args.load.workload()?;
    let subject = Subject::open(args).await?;
    let outcome = measure_subject(args, &workload, &subject).await;
    let stopped = subject.stop().await;
    let (document, driven) = outcome?;
    stopped?;
    print!("{}", report::table(&document));
    if let Some(directory) = &args.out {
        let histograms = histograms(&document, &driven);
        for file in report::write(directory, &document, &histograms)? {
            println!("written: {}", file.display());
        }
    }
    Ok(document.results.iter().all(RunResult::is_clean))
}

async fn measure_subject(
    args: &RunArgs,
    workload: &Workload,
    subject: &Subject,
) -> anyhow::Result<(Document, Vec<Driven>)> {
    let target = &subject.target;
    let recording = match &args.history {
        Some(path) => {
            let sample = Sample::keys(args.history_keys, workload.keys);
            Some(Recorder::start(path, sample)?)
        }
        None => None,
    };
    let recorder = recording.as_ref().map(|recorder| {
        Arc::new(DriverRecorder::new(recorder.clone())) as Arc<dyn crate::drive::Recorder>
    });
    if !args.load.no_fill {
        let options = DriveOptions { recorder: recorder.clone(), ..fill_options(args.load.batch) };
        fill(target, workload, options).await?;
    }
    let data = subject.data_directory();
    let device = data.as_deref().and_then(Device::below);
    let machine = tokio::task::spawn_blocking(move || describe_machine(data.as_deref())).await??;
    let context = Context {
        name: workload.title(),
        round: 1,
        machine,
        device,
        revision: revision(),
        shards: subject.shards,
    };
    let rate = match args.rate {
        Rate::PerSecond(rate) => Some(rate),
        Rate::Closed | Rate::Auto => None,
    };
    let options = DriveOptions { recorder, ..args.load.options(args.clients, rate) };
    let (mut results, mut all) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        let context = Context { round, ..context.clone() };
        let phase = u16::try_from(round).expect("rounds are few") << 8;
        let options = DriveOptions { phase, ..options.clone() };
        let measured = match args.rate {
            Rate::Auto => knee::sweep(target, workload, &options, &context).await?,
            Rate::Closed | Rate::PerSecond(_) => {
                vec![measure(target, workload, &options, &context).await?]
            }
        };
        for (result, driven) in measured {
            results.push(result);
            all.push(driven);
        }
    }
    if let Some(recorder) = recording {
        let recorded = tokio::task::spawn_blocking(move || recorder.finish()).await??;
        println!("history: {} lines, {} of unknown outcome", recorded.lines, recorded.unknown);
    }
    let kind = if args.rate == Rate::Auto { Kind::Sweep } else { Kind::Run };
    Ok((Document::new(kind, results, Vec::new()), all))
}

/// How keys are filled in.
pub fn fill_options(batch: usize) -> DriveOptions {
    DriveOptions {
        clients: FILL_CLIENTS,
        pipeline: FILL_PIPELINE,
        batch,
        end: End::EachKeyOnce,
        ..DriveOptions::default()
    }
}

/// Puts every key of `workload`, all of them again when a put failed.
///
/// # Errors
///
/// If puts fail again and again: then nobody knows what a measurement would find.
pub async fn fill(
    target: &Arc<dyn Target>,
    workload: &Workload,
    options: DriveOptions,
) -> anyhow::Result<()> {
    let workload = workload.writes_only();
    for attempt in 1.. {
        // A phase of its own, since values of all attempts may be read later.
        let options = DriveOptions { phase: attempt - 1, ..options.clone() };
        let filled = drive(target, &workload, &options).await.context("filling in the keys")?;
        if filled.is_clean() {
            break;
        }
        let (errors, unknown) = (&filled.errors, &filled.unknown);
        eprintln!("filling in the keys: {errors:?}, unknown {unknown:?}");
        if attempt == FILL_ATTEMPTS {
            bail!("the keys cannot be filled in without errors");
        }
    }
    Ok(())
}

/// The histograms of all results, each with a name of its own.
fn histograms<'d>(document: &Document, driven: &'d [Driven]) -> Vec<(String, &'d Latencies)> {
    let mut named = Vec::new();
    for (result, driven) in document.results.iter().zip(driven) {
        let mut name = result.name.clone();
        if document.results.iter().any(|other| other.round > 1) {
            name += &format!("-round-{}", result.round);
        }
        for (kind, latencies) in &driven.per_operation {
            named.push((format!("{name}-{}", kind.name()), latencies));
        }
    }
    named
}
