//! What a comparison comes to: a row for each figure, and whether something got worse.
//!
//! Worse is what fell behind by more than allowed **and** by more than noise explains. Better is
//! told but never makes up for worse. Where noise would hide a loss of twice what is allowed, nothing
//! was shown, and that is said too: silence would be taken for "no worse".

use std::fmt::Write as _;

use super::matching::Matched;
use super::measures::Measure;
use super::statistics::Difference;
use crate::report::{Grid, count, grid_text};
use crate::result::{Measurement, RunResult, median};

/// By how much the share of operations that failed may rise: a store that refuses is quick.
const FAILED_SHARE_RISE_MAX: f64 = 0.001;

/// So many times what is allowed must show, or nothing was shown.
const UNCLEAR: f64 = 2.0;

/// What is said of one figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// No difference that noise would not explain.
    WithinNoise,
    /// Noise would hide a loss of twice what is allowed.
    Unclear,
    /// A difference, but a smaller one than allowed.
    WithinLimit,
    /// Better, beyond noise.
    Better,
    /// Worse, beyond noise and the limit.
    Worse,
}

/// One compared figure.
#[derive(Clone, Debug)]
pub struct Row {
    /// Of which measurement.
    pub name: String,
    /// Which figure.
    pub measure: String,
    /// Medians of both sides, with units.
    pub values: (String, String),
    /// By which share it is worse; negative for better.
    pub worse_by: f64,
    /// By which share it may be off.
    pub noise: f64,
    /// What that means.
    pub word: Word,
}

/// What a comparison comes to.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// The figures.
    pub rows: Vec<Row>,
    /// Other reasons to call it worse.
    pub failures: Vec<String>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// Which share worse was allowed.
    pub regress_max: f64,
}

/// Judges pairs of measurements: worse by more than the share `regress_max` fails.
pub fn judge(matched: &Matched<'_>, regress_max: f64) -> Verdict {
    let mut verdict = Verdict { regress_max, ..Verdict::default() };
    for (before, after) in &matched.pairs {
        let name = &before.first().name;
        let took_turns = took_turns(before, after);
        let kinds: Vec<String> = before.first().operations.keys().cloned().collect();
        for measure in Measure::all(&kinds) {
            let (one, other) = (measure.values(before), measure.values(after));
            let turns = took_turns.then(|| Difference::between_turns(&one, &other)).flatten();
            let difference = turns.or_else(|| Difference::between(&one, &other));
            let Some(difference) = difference else { continue };
            let difference = difference.at_least(measure.margin(before, after, took_turns));
            verdict.rows.push(row(name, &measure, difference, regress_max, (&one, &other)));
        }
        let (failed_before, failed_after) = (failed_share(before), failed_share(after));
        if failed_after > failed_before + FAILED_SHARE_RISE_MAX {
            let (before, after) = (failed_before * 100.0, failed_after * 100.0);
            let text =
                format!("{name}: {after:.2} % of the operations failed, {before:.2} % before");
            verdict.failures.push(text);
        }
        verdict.notes.extend(notes(name, before, after, took_turns));
    }
    verdict.notes.extend(matched.alone.iter().cloned());
    verdict
}

fn row(
    name: &str,
    measure: &Measure,
    difference: Difference,
    regress_max: f64,
    (before, after): (&[f64], &[f64]),
) -> Row {
    let worse_by = measure.worse_by(difference.estimate);
    // Either end of the interval; which one is the bad one depends on the figure.
    let ends = [measure.worse_by(difference.low), measure.worse_by(difference.high)];
    let best = ends[0].min(ends[1]);
    let worst = ends[0].max(ends[1]);
    let word = match () {
        () if worst < 0.0 => Word::Better,
        () if best <= 0.0 && measure.is_headline && worst > regress_max * UNCLEAR => Word::Unclear,
        () if best <= 0.0 => Word::WithinNoise,
        () if worse_by > regress_max * measure.tolerance => Word::Worse,
        () => Word::WithinLimit,
    };
    let text = |values: &[f64]| median(values).map(measure.text).unwrap_or_default();
    Row {
        name: name.to_owned(),
        measure: measure.name.clone(),
        values: (text(before), text(after)),
        worse_by,
        noise: difference.noise(),
        word,
    }
}

fn failed_share(measurement: &Measurement<'_>) -> f64 {
    let sum = |figure: fn(&RunResult) -> u64| {
        measurement.rounds.iter().map(|round| figure(round)).sum::<u64>() as f64
    };
    let failed = sum(RunResult::errors_total) + sum(RunResult::unknown_total);
    let all = failed + sum(RunResult::operations_total);
    if all > 0.0 { failed / all } else { 0.0 }
}

/// True if rounds of both sides alternated: what changed slowly then changed for both.
fn took_turns(before: &Measurement<'_>, after: &Measurement<'_>) -> bool {
    // RFC 3339 in UTC sorts as text.
    let mut starts: Vec<(&str, bool)> = Vec::new();
    starts.extend(before.rounds.iter().map(|round| (round.started_at.as_str(), false)));
    starts.extend(after.rounds.iter().map(|round| (round.started_at.as_str(), true)));
    starts.sort_unstable();
    let changes = starts.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
    let rounds = before.rounds.len().min(after.rounds.len());
    rounds > 1 && changes >= rounds
}

fn notes(
    name: &str,
    before: &Measurement<'_>,
    after: &Measurement<'_>,
    took_turns: bool,
) -> Vec<String> {
    let mut notes = Vec::new();
    let (rounds, others) = (before.rounds.len(), after.rounds.len());
    let turns = if took_turns { ", which took turns" } else { "" };
    notes.push(format!(
        "{name}: {} and {} rounds{turns}; revisions {} and {}",
        count(rounds as u64),
        count(others as u64),
        before.first().revision,
        after.first().revision
    ));
    if rounds.min(others) == 1 {
        notes.push(format!(
            "{name}: a single round says nothing about noise, so more is counted as noise: measure \
             with --rounds 5"
        ));
    }
    let sync = |one: &Measurement<'_>| one.median(|round| Some(round.machine.disk?.p50_ms));
    if let (Some(one), Some(other)) = (sync(before), sync(after))
        && !(0.7..1.43).contains(&(other / one))
    {
        notes.push(format!(
            "{name}: the disk was not the same: a synced write took {one:.3} and {other:.3} ms"
        ));
    }
    notes
}

impl Verdict {
    /// True if nothing got worse.
    pub fn is_well(&self) -> bool {
        self.failures.is_empty() && self.rows.iter().all(|row| row.word != Word::Worse)
    }

    /// True if noise would hide too much to call anything well.
    pub fn is_unclear(&self) -> bool {
        self.is_well() && self.rows.iter().any(|row| row.word == Word::Unclear)
    }

    /// The verdict as text of a terminal with so many columns.
    pub fn text(&self, width: u16) -> String {
        let head = ["", "", "before", "after", "change", "noise", "verdict"];
        let rows = self.rows.iter().map(|row| {
            vec![
                row.name.clone(),
                row.measure.clone(),
                row.values.0.clone(),
                row.values.1.clone(),
                change(row),
                format!("± {:.1} %", row.noise * 100.0),
                word(row.word).to_owned(),
            ]
        });
        let grid = Grid { head: head.map(str::to_owned).to_vec(), rows: rows.collect(), words: 2 };
        let mut out = grid_text(&grid, width) + "\n";
        for note in &self.notes {
            let _ = writeln!(out, "{note}");
        }
        for failure in &self.failures {
            let _ = writeln!(out, "WORSE {failure}");
        }
        for row in self.rows.iter().filter(|row| row.word == Word::Worse) {
            let (before, after) = &row.values;
            let _ = writeln!(
                out,
                "WORSE {}: {} went from {before} to {after}, {:.1} % worse (± {:.1} %)",
                row.name,
                row.measure,
                row.worse_by * 100.0,
                row.noise * 100.0
            );
        }
        for row in self.rows.iter().filter(|row| row.word == Word::Unclear) {
            let _ = writeln!(
                out,
                "CANNOT TELL {}: {} is known to ± {:.1} % only: take more rounds, or a quieter machine",
                row.name,
                row.measure,
                row.noise * 100.0
            );
        }
        if self.is_well() && !self.is_unclear() {
            let limit = self.regress_max * 100.0;
            let _ = writeln!(out, "nothing is worse by more than {limit:.0} % and noise");
        }
        out
    }
}

fn change(row: &Row) -> String {
    let (share, way) = match row.worse_by {
        share if share.abs() < 0.000_5 => return "none".to_owned(),
        share if share > 0.0 => (share, "worse"),
        share => (-share, "better"),
    };
    format!("{:.1} % {way}", share * 100.0)
}

fn word(word: Word) -> &'static str {
    match word {
        Word::WithinNoise => "within noise",
        Word::Unclear => "cannot tell",
        Word::WithinLimit => "within the limit",
        Word::Better => "better",
        Word::Worse => "WORSE",
    }
}
