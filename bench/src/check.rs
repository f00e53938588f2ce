//! The command that judges a history.
//!
//! Exit codes, so that scripts can tell: 0 linearizable; 1 not; 2 the file is no history; 3 it gave
//! up, which is never taken for a good result.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::history::{self, HistoryError, Line};
use crate::linearizable::plant::{Planted, plant};
use crate::linearizable::{
    Initially, Judgement, Limits, Options, Violation, diagram, judge, reason,
};

/// The history is not linearizable.
pub const EXIT_VIOLATION: u8 = 1;
/// The file is no history.
pub const EXIT_BAD_FILE: u8 = 2;
/// It could not be judged within the limits.
pub const EXIT_GAVE_UP: u8 = 3;

/// Arguments of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The history, as `run --history` writes it.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What the keys held before the history: nothing, or whatever it was.
    #[arg(long, value_enum, default_value_t = Before::Absent)]
    pub initial: Before,
    /// MiB of memory for the search, for one key at a time.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    pub memory_mib: usize,
    /// Break a promise in what was read before judging it, to see that it is noticed.
    #[arg(long, value_enum, value_name = "PROMISE")]
    pub plant: Option<Planted>,
}

/// What keys held before the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Before {
    /// Nothing.
    Absent,
    /// Anything that the history does not write itself.
    Any,
}

impl CheckArgs {
    /// To judge `file` as the defaults say.
    pub fn of(file: PathBuf) -> CheckArgs {
        CheckArgs { file, initial: Before::Absent, memory_mib: 512, plant: None }
    }

    fn options(&self) -> Options {
        let initially = match self.initial {
            Before::Absent => Initially::Absent,
            Before::Any => Initially::Any,
        };
        let memory_bytes = self.memory_mib << 20;
        let limits = Limits { memory_bytes, ..Limits::default() };
        Options { initially, limits, ..Options::default() }
    }
}

/// Runs `check`, and prints the verdict.
pub fn run(args: &CheckArgs) -> ExitCode {
    let begun = Instant::now();
    match judge_file(args) {
        Ok(judgement) => {
            print!("{}", verdict(&judgement, begun.elapsed()));
            match (&judgement.violations[..], &judgement.gave_up[..]) {
                ([], []) => ExitCode::SUCCESS,
                ([], _) => ExitCode::from(EXIT_GAVE_UP),
                _ => ExitCode::from(EXIT_VIOLATION),
            }
        }
        Err(error) => {
            eprintln!("error: {} is no history: {error}", args.file.display());
            ExitCode::from(EXIT_BAD_FILE)
        }
    }
}

/// Judges the file without a word.
///
/// # Errors
///
/// [`HistoryError`] if it is no history.
pub fn judge_file(args: &CheckArgs) -> Result<Judgement, HistoryError> {
    judge(&read(args)?, args.options())
}

fn read(args: &CheckArgs) -> Result<Vec<(usize, Line)>, HistoryError> {
    let file = File::open(&args.file).map_err(|error| HistoryError::Read { number: 1, error })?;
    let mut lines = history::read(BufReader::with_capacity(1 << 20, file))?;
    if let Some(planted) = args.plant {
        match plant(&mut lines, planted) {
            Some(number) => println!("planted {planted:?} at line {number}"),
            None => return Err(HistoryError::NothingToPlant),
        }
    }
    Ok(lines)
}

/// What is told of a judgement that took `elapsed`.
pub fn verdict(judgement: &Judgement, elapsed: Duration) -> String {
    let mut told = Vec::new();
    let Judgement { operations, unknown, clients, keys, .. } = judgement;
    told.push(format!(
        "{operations} operations by {clients} clients on {keys} keys, at most {} on one; {unknown} of \
         unknown outcome; judged in {:.2} s",
        judgement.operations_per_key_max,
        elapsed.as_secs_f64()
    ));
    if judgement.scans > 0 {
        told.push(format!(
            "{} scans are not judged: they are no operations on one key",
            judgement.scans
        ));
    }
    if judgement.batches > 0 {
        told.push(format!(
            "{} writes of several keys are judged key by key: not whether all or none was written",
            judgement.batches
        ));
    }
    if judgement.counters_skipped > 0 {
        told.push(format!(
            "{} counters are not judged: nobody knows where they began",
            judgement.counters_skipped
        ));
    }
    for (key, operations) in &judgement.gave_up {
        told.push(format!(
            "GAVE UP on key \"{key}\" with {operations} operations: too concurrent to be judged within \
             the limits (--memory-mib)"
        ));
    }
    told.extend(judgement.violations.iter().map(explain));
    told.push(match (judgement.violations.len(), judgement.gave_up.len()) {
        (0, 0) => "PASS: linearizable, key by key".to_owned(),
        (0, keys) => {
            format!("UNDECIDED: {keys} keys could not be judged, the others are linearizable")
        }
        (keys, _) => format!("FAIL: {keys} keys are not linearizable"),
    });
    told.push(String::new());
    told.join("\n")
}

fn explain(violation: &Violation) -> String {
    let Violation { key, operations, contradiction } = violation;
    let Some(contradiction) = contradiction else {
        return format!("key \"{key}\": {operations} operations cannot be explained either");
    };
    let drawn = contradiction.history.calls.len();
    let are = if drawn == 1 { "this one" } else { "these" };
    format!(
        "key \"{key}\": of {operations} operations, {are} contradict each other ({drawn}):\n\n{}\n  \
         {}.\n",
        diagram::draw(contradiction),
        reason::reason(contradiction)
    )
}
