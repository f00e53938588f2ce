//! Kills the node that leads most under load, and judges what clients saw.
//!
//! A round: writers load every shard, and readers read what they write; the node that leads the most
//! loaded shards is killed without warning; the load goes on. Then every key is read through each
//! surviving node, the killed node is started again, catches up, and every key is read through it
//! too. Nothing is forgotten from round to round: later rounds read the keys of earlier ones.
//!
//! With a history, what readers and writers saw of the same keys at the same time is judged too.

mod round;
mod trial;

pub use trial::{Trial, WriterArgs};

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use crate::check::{self, CheckArgs};
use crate::history::{Recorder, Sample};
use crate::measure;
use crate::readers::Reader;
use crate::report;
use crate::result::{Document, Kind};
use crate::writers::Writer;

use round::Scene;

/// Arguments of `failover`.
#[derive(Clone, Debug, Args)]
pub struct FailoverArgs {
    /// How often.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Seconds of load in each round; the kill comes after a third of them.
    #[arg(long, default_value_t = 9)]
    pub seconds: u64,
    /// How many clients that only read, beside the writers.
    #[arg(long, default_value_t = 32)]
    pub readers: u32,
    /// Write result.json and report.html into this directory.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Record what was asked and answered, and judge it in the end.
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// The share of the keys that are recorded.
    #[arg(long, default_value_t = 1.0, requires = "history")]
    pub history_share: f64,
    /// The writers.
    #[command(flatten)]
    pub writers: WriterArgs,
}

/// Runs `failover`. Returns false if a promise was broken.
///
/// # Errors
///
/// If a node does not start, stop, answer, or catch up, or a file cannot be written.
pub async fn run(args: &FailoverArgs) -> anyhow::Result<bool> {
    let sample = Sample::share(args.history_share);
    let recorder = args.history.as_ref().map(|path| Recorder::start(path, sample)).transpose()?;
    let mut trial = Trial::start(&args.writers).await?;
    if let Some(recorder) = &recorder {
        trial.record(recorder);
    }
    let names: Vec<_> = trial.writers.iter().map(Writer::names).cloned().collect();
    let mut readers = Reader::spread(args.readers, &names, recorder.as_ref());
    let machine = match &args.out {
        Some(_) => Some(measure::describe_machine(Some(trial.cluster.directory()))?),
        None => None,
    };
    println!("{}", round::head());
    let mut results = Vec::new();
    for number in 1..=args.rounds {
        let scene = Scene { trial: &mut trial, readers, load: Duration::from_secs(args.seconds) };
        let round = scene.play().await.with_context(|| format!("round {number}"))?;
        println!("{}", round.row(number, trial.shards));
        if let Some(machine) = &machine {
            results.push(round.result(number, args, trial.shards, machine.clone()));
        }
        readers = round.readers;
    }
    println!("{}", round::LEGEND);
    for (problem, count) in round::problems(&readers) {
        println!("  readers, {problem}: {count}");
    }
    if let Some(out) = &args.out {
        let document = Document::new(Kind::Failover, results, Vec::new());
        report::write(out, &document, &[])?;
        println!("written to {}", out.display());
    }
    let is_explained = match (recorder, &args.history) {
        (Some(recorder), Some(path)) => judge(&recorder, path)?,
        _ => true,
    };
    Ok(trial.conclude().await? && is_explained)
}

/// Ends the history and judges it; true if it is linearizable.
fn judge(recorder: &Recorder, path: &std::path::Path) -> anyhow::Result<bool> {
    let recorded = recorder.finish()?;
    println!(
        "history {}: {} operations, {} of unknown outcome; {} without effect left out",
        path.display(),
        recorded.lines,
        recorded.unknown,
        recorded.without_effect
    );
    let begun = Instant::now();
    let judgement = check::judge_file(&CheckArgs::of(path.to_owned()))
        .with_context(|| format!("{} cannot be judged", path.display()))?;
    print!("{}", check::verdict(&judgement, begun.elapsed()));
    Ok(judgement.is_linearizable())
}
