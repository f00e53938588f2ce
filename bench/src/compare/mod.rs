//! `compare`: did something get worse?
//!
//! Two stored documents are compared, or two builds of this program measure in turns. Rounds of the
//! same measurement are judged together: by medians, with a noise band from how far rounds lie
//! apart.
//!
//! Invariants:
//!
//! * Only what is alike is compared: the same workload and settings, the same promises, the same
//!   machine. Else it is refused, in words.
//! * Worse means: by more than allowed, and by more than noise explains. Few rounds widen the
//!   noise; they never hide that they are few.
//!
//! Exit codes: 0 nothing is worse, 1 something is, 2 the comparison makes no sense, 3 noise would
//! hide twice what is allowed.

mod interleave;
mod matching;
mod measures;
mod statistics;
mod verdict;

#[cfg(test)]
mod tests;

pub use interleave::Interleaved;
pub use matching::{Matched, Unlike, matched};
pub use verdict::{Row, Verdict, Word, judge};

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::report::terminal_width;
use crate::result::Document;

/// The exit code for comparisons that make no sense.
const SENSELESS: u8 = 2;

/// The exit code when noise is too large to tell.
const UNCLEAR: u8 = 3;

/// Arguments of `compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// The result.json before, or the directory that has it.
    #[arg(required_unless_present = "binary_a", conflicts_with_all = ["binary_a", "binary_b"])]
    before: Option<PathBuf>,
    /// The result.json after.
    #[arg(required_unless_present = "binary_b")]
    after: Option<PathBuf>,
    /// Which share worse is allowed: 10%.
    #[arg(long, default_value = "10%", value_name = "PERCENT", value_parser = percent)]
    max_regress: f64,
    /// Compare even what differs in settings or machine.
    #[arg(long)]
    force: bool,
    /// Instead of stored results: the build of this program before. Both builds run in turns, with
    /// what stands behind `--` as arguments of their `run`.
    #[arg(long, value_name = "FILE", requires = "binary_b")]
    binary_a: Option<PathBuf>,
    /// The build after.
    #[arg(long, value_name = "FILE", requires = "binary_a")]
    binary_b: Option<PathBuf>,
    /// How often each of the builds runs.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Keeps the results of both builds in this directory, below `a` and `b`.
    #[arg(long, value_name = "DIR", requires = "binary_a")]
    out: Option<PathBuf>,
    /// Arguments of `run` for both builds, such as -- --workload a --cluster 3.
    #[arg(last = true, value_name = "ARGUMENTS")]
    run_arguments: Vec<String>,
}

/// Runs `compare`.
///
/// # Errors
///
/// If a build fails, or results cannot be stored. What makes no sense is not an error but printed,
/// with its own exit code.
pub async fn run(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let documents = match (&args.before, &args.after, &args.binary_a, &args.binary_b) {
        (Some(before), Some(after), ..) => {
            Document::read(before).and_then(|before| Ok((before, Document::read(after)?)))
        }
        (_, _, Some(before), Some(after)) => {
            let interleaved = Interleaved {
                builds: [before.clone(), after.clone()],
                rounds: args.rounds,
                arguments: args.run_arguments.clone(),
            };
            Ok(interleaved.measure(args.out.as_deref()).await?)
        }
        _ => unreachable!("the command line asks for two files or two builds"),
    };
    let (before, after) = match documents {
        Ok(documents) => documents,
        Err(error) => return Ok(senseless(&error)),
    };
    let matched = match matched(&before, &after, args.force) {
        Ok(matched) => matched,
        Err(unlike) => return Ok(senseless(&unlike)),
    };
    let verdict = judge(&matched, args.max_regress);
    print!("{}", verdict.text(terminal_width()));
    Ok(match verdict.is_well() {
        true if verdict.is_unclear() => ExitCode::from(UNCLEAR),
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn senseless(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(SENSELESS)
}

/// `10%` or `10` as 0.1.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>();
    match number {
        Ok(percent) if (0.0..=1_000.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err(format!("`{text}` is not a percentage: write 10%")),
    }
}
