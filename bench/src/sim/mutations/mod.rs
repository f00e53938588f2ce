//! Tests the judges: plants one bug after the other in the product, and lives simulated lives until
//! somebody notices.
//!
//! A bug counts as caught when a judge objects, or when the product's own assertion stops it, and the
//! same life is well without the bug. Bugs that a life is unlikely to meet have a `scene` of their own,
//! in which parts of the product are driven step by step to where the bug shows; the table says which
//! it was.
//!
//! * `plan` says for each mutation what lives are likely to meet it, and which scene is left if none
//!   does; `outcome` is what came of it; `scenes` are the scenes.
//!
//! What is absent: the bugs. They are in the product, behind a feature of `flotilla-mutation`.

mod outcome;
mod plan;
mod scenes;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use flotilla_mutation::Mutation;

use super::options::Options;
use super::phases::live;
use super::trace::Trace;
use outcome::{Caught, Outcome, Table};
use plan::{Plan, Scene};

/// What the table of mutations is made from.
#[derive(Clone, Debug)]
pub struct Search {
    /// Lives for each mutation, at most.
    pub seeds_max: u64,
    /// How long faults go on in a life.
    pub life: Duration,
    /// Only mutations with this in their names.
    pub only: Option<String>,
}

/// Looks for each mutation until it is caught, and prints the table. The exit code is 1 if one is not.
///
/// # Errors
///
/// If bugs cannot be planted in this build.
pub fn run(search: &Search) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        flotilla_mutation::ENABLED,
        "no bug can be planted in this build: build with --features mutations"
    );
    let begun = Instant::now();
    let mut table = Table::default();
    let silent = panic::take_hook();
    // A panic is what is hoped for.
    panic::set_hook(Box::new(|_| {}));
    let wanted = |mutation: &Mutation| {
        search.only.as_ref().is_none_or(|only| mutation.name().contains(only.as_str()))
    };
    for mutation in Mutation::ALL.into_iter().filter(wanted) {
        let outcome = look_for(mutation, search);
        eprintln!("{:>6.0} s: {}: {outcome}", begun.elapsed().as_secs_f64(), mutation.name());
        table.add(mutation, outcome);
    }
    panic::set_hook(silent);
    println!("{table}");
    Ok(if table.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn look_for(mutation: Mutation, search: &Search) -> Outcome {
    let Plan { life, scene } = plan::of(mutation);
    let mut reached = 0;
    if let Some(shape) = life {
        for seed in 1..=search.seeds_max {
            let lived = || {
                let mut options = Options::of(seed, Some(search.life));
                shape(&mut options);
                live(options, Trace::new(None)).violation
            };
            let (found, reached_now) = with(Some(mutation), lived);
            reached += reached_now;
            let Some(found) = found else { continue };
            if let (Some(found), _) = with(None, lived) {
                return Outcome::BreaksWithout { found };
            }
            return Outcome::Caught(Caught::in_life(&found, seed));
        }
    }
    let Some(scene) = scene else { return Outcome::Missed { lives: search.seeds_max, reached } };
    let lives = life.map_or(0, |_| search.seeds_max);
    let (found, reached_now) = with(Some(mutation), || play(scene));
    let Some(found) = found else {
        return Outcome::Missed { lives, reached: reached + reached_now };
    };
    match with(None, || play(scene)) {
        (Some(found), _) => Outcome::BreaksWithout { found },
        (None, _) => Outcome::Caught(Caught::in_scene(&found, lives)),
    }
}

/// Plays a scene; what a judge said, or an assertion.
fn play(scene: Scene) -> Option<String> {
    match panic::catch_unwind(AssertUnwindSafe(scene)) {
        Ok(verdict) => verdict.err().map(|violation| violation.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Some(format!("panic: {}", text.unwrap_or("no message")))
        }
    }
}

/// Does something with a planted bug; says also how often the bug's place was reached.
#[cfg(feature = "mutations")]
fn with<T>(mutation: Option<Mutation>, work: impl FnOnce() -> T) -> (T, u64) {
    let _planted = flotilla_mutation::plant(mutation);
    let done = work();
    (done, flotilla_mutation::reached())
}

/// Nothing can be planted, so nothing is reached.
#[cfg(not(feature = "mutations"))]
fn with<T>(_: Option<Mutation>, work: impl FnOnce() -> T) -> (T, u64) {
    (work(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a bug no scene finds anything.
    #[test]
    fn every_scene_is_well_without_a_bug() {
        for mutation in Mutation::ALL {
            if let Some(scene) = plan::of(mutation).scene {
                let (found, _) = with(None, || play(scene));
                assert_eq!(found, None, "{}", mutation.name());
            }
        }
    }

    /// Every scene shows the bug that it was made for.
    #[cfg(feature = "mutations")]
    #[test]
    fn every_scene_shows_its_bug() {
        for mutation in Mutation::ALL {
            if let Some(scene) = plan::of(mutation).scene {
                let (found, reached) = with(Some(mutation), || play(scene));
                assert!(found.is_some(), "{}: reached {reached} times", mutation.name());
            }
        }
    }

    #[test]
    fn every_mutation_has_a_plan() {
        for mutation in Mutation::ALL {
            let Plan { life, scene } = plan::of(mutation);
            assert!(life.is_some() || scene.is_some(), "{}", mutation.name());
        }
    }
}
