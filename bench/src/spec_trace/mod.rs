//! Traces of the Raft core for [etcd's TLA+ specification](https://github.com/etcd-io/raft/tree/main/tla).
//!
//! `flotilla-bench spec-trace` writes what a cluster did as the events that the specification's trace
//! validation reads, one JSON object a line, all nodes in one file in the order in which things
//! happened. The core knows nothing of it: [`tracer`](self) sees what goes in and comes out, and
//! compares each turn with the specification's actions, so that what they would not allow is found at
//! once. Whether they are the specification's, its own tool says:
//!
//! ```text
//! flotilla-bench spec-trace --seed 7 --out trace.ndjson
//! tla/validate.sh -s Traceetcdraft.tla -c Traceetcdraft.cfg trace.ndjson
//! ```
//!
//! The specification knows no pre-vote, no quorum checks and no leases; they are off here. What it
//! does not distinguish is written durably at once.

mod event;
mod model;
mod script;
mod tracer;
mod world;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

pub use event::{Event, Line, Msg, State};
pub use script::{trace_script, trace_seed};

/// Arguments of `spec-trace`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["script", "seed"])))]
pub struct SpecTraceArgs {
    /// Trace this golden script of the Raft core, such as shard/raft/testscripts/election.txt.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Trace a random life with this seed.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Replicas in a random life.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=7))]
    voters: u64,
    /// Steps of a random life; a step is a few events.
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// Where the trace goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Writes a trace.
///
/// # Errors
///
/// If a file cannot be read or written, or what happened cannot be said in the specification's
/// words.
pub fn run(args: &SpecTraceArgs) -> anyhow::Result<ExitCode> {
    let traced = match (&args.script, args.seed) {
        (Some(path), _) => {
            let script = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            trace_script(&script).map(|(lines, ended_by)| {
                if let Some(ended_by) = ended_by {
                    println!(
                        "the trace ends before {ended_by}: the specification does not know that"
                    );
                }
                lines
            })
        }
        (None, Some(seed)) => trace_seed(seed, args.voters, args.steps),
        (None, None) => bail!("give --script or --seed"),
    };
    let lines = traced.map_err(anyhow::Error::msg)?;
    let file =
        File::create(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    let mut out = BufWriter::new(file);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for line in &lines {
        serde_json::to_writer(&mut out, line)?;
        out.write_all(b"\n")?;
        *counts.entry(line.event.name).or_default() += 1;
    }
    out.flush()?;
    println!("{} events in {}", lines.len(), args.out.display());
    for (name, count) in counts {
        println!("{count:>8} {name}");
    }
    Ok(ExitCode::SUCCESS)
}
