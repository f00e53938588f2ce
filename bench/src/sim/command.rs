//! The command that lives simulated lives.
//!
//! What it prints on standard output is the same each time; real time goes to standard error.

use std::io::BufWriter;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use super::mutations::{self, Search};
use super::options::Options;
use super::phases::live;
use super::report::{Report, Sum};
use super::trace::Trace;

/// For how long faults happen in a life with a planted bug.
const MUTATED_LIFE: Duration = Duration::from_secs(20);

/// Arguments of `sim`.
#[derive(Clone, Debug, Args)]
pub struct SimArgs {
    /// Live the life of this seed, and tell all of it.
    #[arg(long, value_name = "S", conflicts_with_all = ["seeds", "hours"])]
    pub seed: Option<u64>,
    /// Live the lives of these seeds, the last one excluded, and tell the sum.
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    pub seeds: Option<Range<u64>>,
    /// Go on with fresh seeds for so many hours of real time.
    #[arg(long, value_name = "H", conflicts_with = "seeds")]
    pub hours: Option<f64>,
    /// Faults happen for so many seconds of virtual time, instead of as long as the seed says.
    #[arg(long, value_name = "SECONDS")]
    pub life: Option<u64>,
    /// Plant one bug after the other in the product, and live until it is caught. Needs a build with
    /// the feature `mutations`.
    #[arg(long, conflicts_with_all = ["seed", "seeds", "hours"])]
    pub mutations: bool,
    /// Lives for each mutation, at most.
    #[arg(long, value_name = "N", default_value_t = 100, requires = "mutations")]
    pub seeds_max: u64,
    /// Only mutations with this in their names.
    #[arg(long, value_name = "WORDS", requires = "mutations")]
    pub mutation: Option<String>,
    /// Write everything that happens into this file, in words.
    #[arg(long, value_name = "FILE", requires = "seed")]
    pub trace: Option<PathBuf>,
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("`{text}` is no range: write 1..100");
    let (first, end) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.parse().map_err(|_| wrong());
    let seeds = number(first)?..number(end)?;
    if seeds.is_empty() { Err(wrong()) } else { Ok(seeds) }
}

/// Runs `sim`. The exit code is 1 if a rule was broken.
///
/// # Errors
///
/// If the trace cannot be written.
pub fn run(args: &SimArgs) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let life = args.life.map(Duration::from_secs);
    if args.mutations {
        return mutations::run(&Search {
            seeds_max: args.seeds_max,
            life: life.unwrap_or(MUTATED_LIFE),
            only: args.mutation.clone(),
        });
    }
    if let Some(hours) = args.hours {
        let until = Duration::from_secs_f64(hours * 3600.0);
        let first = rand::random::<u64>() >> 16;
        let seeds = (first..).take_while(|_| begun.elapsed() < until);
        return Ok(live_all(seeds, life, begun));
    }
    if let Some(seeds) = &args.seeds {
        return Ok(live_all(seeds.clone(), life, begun));
    }
    let words: Option<Box<dyn std::io::Write>> = match &args.trace {
        Some(path) => {
            let file = std::fs::File::create(path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            Some(Box::new(BufWriter::new(file)))
        }
        None => None,
    };
    let report = live(Options::of(args.seed.unwrap_or(1), life), Trace::new(words));
    println!("{report}");
    tell_speed(1, report.lasted, begun);
    Ok(code(report.violation.is_none()))
}

fn code(is_well: bool) -> ExitCode {
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn live_all(seeds: impl Iterator<Item = u64>, life: Option<Duration>, begun: Instant) -> ExitCode {
    let mut sum = Sum::default();
    for seed in seeds {
        let report: Report = live(Options::of(seed, life), Trace::new(None));
        if let Some(violation) = &report.violation {
            eprintln!("seed {seed}: {violation}");
        }
        sum.add(&report);
    }
    println!("{sum}");
    tell_speed(sum.lives(), sum.virtual_time(), begun);
    code(sum.violations.is_empty())
}

fn tell_speed(lives: u64, virtual_time: Duration, begun: Instant) {
    let real = begun.elapsed().as_secs_f64();
    eprintln!(
        "{lives} lives in {real:.1} s, {:.2} lives and {:.0} s of virtual time a second",
        lives as f64 / real,
        virtual_time.as_secs_f64() / real
    );
}
