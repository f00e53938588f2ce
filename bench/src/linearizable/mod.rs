//! Is a history linearizable, key by key?
//!
//! It is if every operation can be given a moment between its call and its return, so that one
//! after the other they explain what each of them found; an operation of unknown outcome may have
//! any later moment, or none. Keys are independent of each other: each is judged alone.
//!
//! * [`model`] says what an operation needs to find and what it leaves, [`search`] looks for the
//!   order, [`shrink`] finds the few operations that contradict each other, [`reason`] says in words
//!   why they do, and [`diagram`] draws them.
//! * [`plant`] breaks promises in a right history, to see that the judge notices.
//!
//! What is absent: promises about several keys. Scans and writes of several keys are not judged as a
//! whole, and [`Judgement`] says so.

pub mod diagram;
pub mod model;
pub mod plant;
pub mod reason;
pub mod search;
pub mod shrink;

use std::collections::{BTreeSet, HashMap};

use crate::history::{Deed, HistoryError, Line};

pub use model::{Initially, KeyHistory};
pub use search::{Found, Limits};

use model::Told;

/// How to judge.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What keys hold before the history.
    pub initially: Initially,
    /// How far the search may go for each key.
    pub limits: Limits,
    /// Of how many keys the contradiction is worked out.
    pub explained_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { initially: Initially::Absent, limits: Limits::default(), explained_max: 3 }
    }
}

/// What a history came to.
#[derive(Debug, Default)]
pub struct Judgement {
    /// Operations that were judged.
    pub operations: usize,
    /// How many of them are of unknown outcome.
    pub unknown: usize,
    /// By how many clients.
    pub clients: usize,
    /// On how many keys.
    pub keys: usize,
    /// The most operations on one key.
    pub operations_per_key_max: usize,
    /// Lines about ranges, which were not judged.
    pub scans: usize,
    /// Writes of several keys, which were judged key by key.
    pub batches: usize,
    /// Keys of counters of which nobody knows where they began: not judged.
    pub counters_skipped: usize,
    /// Keys that cannot be explained.
    pub violations: Vec<Violation>,
    /// Keys for which the search gave up, with their operations.
    pub gave_up: Vec<(String, usize)>,
}

/// A key that cannot be explained.
#[derive(Debug)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// How many operations it has.
    pub operations: usize,
    /// The contradiction; `None` if it was not worked out.
    pub contradiction: Option<Contradiction>,
}

/// A few operations that contradict each other.
#[derive(Debug)]
pub struct Contradiction {
    /// They alone.
    pub history: KeyHistory,
    /// True if they contradict each other whatever the key held before them.
    pub is_cut: bool,
    /// The line of the one whose answer made it a contradiction.
    pub last: usize,
    /// How many operations on the key are not needed for it.
    pub left_out: usize,
}

impl Judgement {
    /// True if everything was judged and explained.
    pub fn is_linearizable(&self) -> bool {
        self.violations.is_empty() && self.gave_up.is_empty()
    }
}

/// Judges the lines of a history.
///
/// # Errors
///
/// [`HistoryError`] if a line contradicts its own operation, with its number.
pub fn judge(lines: &[(usize, Line)], options: Options) -> Result<Judgement, HistoryError> {
    let mut judgement = Judgement::default();
    let mut keys: HashMap<&str, Vec<Told>> = HashMap::new();
    let mut clients = BTreeSet::new();
    for (number, line) in lines {
        let number = *number;
        let deed = line.deed().map_err(|error| HistoryError::Line { number, error })?;
        clients.insert(line.c);
        match line.f.as_str() {
            "scan" => judgement.scans += 1,
            "batch" => judgement.batches += 1,
            _ => judgement.operations += 1,
        }
        if deed != Deed::Other {
            judgement.unknown += usize::from(line.is_unknown());
            keys.entry(&line.k).or_default().push(Told {
                call: line.call,
                ret: line.ret,
                unknown: line.is_unknown(),
                client: line.c,
                line: number,
                deed,
            });
        }
    }
    judgement.clients = clients.len();
    judgement.keys = keys.len();
    // In the order of the file, so that the first contradiction is told first.
    let mut keys: Vec<(&str, Vec<Told>)> = keys.into_iter().collect();
    keys.sort_by_key(|(_, told)| told[0].line);
    for (key, told) in keys {
        judge_key(key, &told, options, &mut judgement)?;
    }
    Ok(judgement)
}

fn judge_key(
    key: &str,
    told: &[Told],
    options: Options,
    judgement: &mut Judgement,
) -> Result<(), HistoryError> {
    judgement.operations_per_key_max = judgement.operations_per_key_max.max(told.len());
    let history = KeyHistory::new(key.to_owned(), told, options.initially).map_err(|error| {
        HistoryError::Counter { number: error.line, key: key.to_owned(), value: error.value }
    })?;
    if history.is_counter && options.initially == Initially::Any {
        judgement.counters_skipped += 1;
        return Ok(());
    }
    match search::search(&history, options.limits) {
        Found::Explained => {}
        Found::GaveUp => judgement.gave_up.push((key.to_owned(), told.len())),
        Found::Unexplained => {
            let is_first = judgement.violations.len() < options.explained_max;
            let contradiction = is_first.then(|| shrink::shrink(&history));
            let (key, operations) = (key.to_owned(), told.len());
            judgement.violations.push(Violation { key, operations, contradiction });
        }
    }
    Ok(())
}
