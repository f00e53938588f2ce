//! What is told in the end.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::answers::{Came, moments};
use crate::check;
use crate::gaps::{Gap, longest_gap};
use crate::linearizable::Judgement;

use super::RECOVERY_TIMEOUT;
use super::clients::Seen;
use super::conductor::{Conducted, Happened};
use super::fault::Kind;
use super::judge::{Counted, ShardGap, answers, longest_shard_gap};
use super::schedule::Schedule;
use super::tools::Tools;

/// How long after a fault a gap may still be its doing.
const AFTERMATH: Duration = Duration::from_secs(4);
/// How many of the faults are told by their gaps.
const GAPS_TOLD: usize = 8;
/// How many broken promises are told.
const VIOLATIONS_TOLD: usize = 20;

/// What is told of one kind of fault.
#[derive(Clone, Debug, Default)]
struct Row {
    done: u64,
    skipped: u64,
    reasons: BTreeMap<String, u64>,
}

/// What is told in the end.
pub struct Report {
    kinds: BTreeMap<Kind, Row>,
    outcomes: BTreeMap<&'static str, [u64; 3]>,
    problems: BTreeMap<String, u64>,
    repeats: u64,
    ended_by_disk: u64,
    refused_blank: u64,
    notes: Vec<String>,
    longest_gap: Gap,
    gaps: Vec<(Happened, ShardGap)>,
    judgement: String,
    /// Phases without a majority.
    pub windows: u64,
    /// Keys that were read through every node.
    pub keys: usize,
    /// What counters came to.
    pub counted: Counted,
    /// How long the nodes took to be ready again.
    pub recovered_after: Option<Duration>,
    /// Broken promises, in words.
    pub violations: Vec<String>,
}

impl Report {
    /// Of what was done and seen.
    pub fn new(
        schedule: &Schedule,
        told: &Conducted,
        seen: &[Seen],
        shards: u32,
        tools: &Tools,
    ) -> Report {
        let mut kinds: BTreeMap<Kind, Row> = BTreeMap::new();
        for planned in &schedule.faults {
            kinds.entry(planned.fault.kind).or_default();
        }
        for happened in &told.happened {
            let row = kinds.entry(happened.planned.fault.kind).or_default();
            match &happened.skipped {
                None => row.done += 1,
                Some(reason) => {
                    row.skipped += 1;
                    *row.reasons.entry(reason.clone()).or_default() += 1;
                }
            }
        }
        let mut outcomes: BTreeMap<&'static str, [u64; 3]> = BTreeMap::new();
        let mut problems: BTreeMap<String, u64> = BTreeMap::new();
        for seen in seen {
            for (command, counts) in &seen.outcomes {
                let all = outcomes.entry(command).or_default();
                all.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
            }
            for (problem, count) in &seen.problems {
                *problems.entry(problem.clone()).or_default() += count;
            }
        }
        for kind in Kind::ALL {
            if let Some(reason) = tools.missing(kind) {
                kinds.entry(kind).or_default().reasons.entry(reason.to_owned()).or_insert(0);
            }
        }
        Report {
            kinds,
            outcomes,
            problems,
            repeats: seen.iter().map(|seen| seen.repeats).sum(),
            ended_by_disk: told.ended_by_disk,
            refused_blank: told.refused_blank,
            notes: told.notes.clone(),
            longest_gap: with_majority(told, seen),
            gaps: gaps(told, seen, shards),
            judgement: String::new(),
            windows: 0,
            keys: 0,
            counted: Counted::default(),
            recovered_after: None,
            violations: told.violations.clone(),
        }
    }

    /// Adds what the history came to, judged in `elapsed`.
    pub fn judged(&mut self, judgement: &Judgement, elapsed: Duration) {
        self.judgement = check::verdict(judgement, elapsed);
        if !judgement.is_linearizable() {
            self.violations.push("the history is not linearizable, see above".to_owned());
        }
    }
}

/// The longest time without any acknowledged write outside of the phases without a majority.
fn with_majority(told: &Conducted, seen: &[Seen]) -> Gap {
    let written: Vec<_> = moments(answers(seen), Came::Written).collect();
    let (Some(from), Some(to)) = (written.iter().min(), written.iter().max()) else {
        return Gap::NONE;
    };
    let mut gap = Gap::NONE;
    let mut begin = *from;
    let lost = told.happened.iter().filter(|happened| {
        happened.skipped.is_none() && happened.planned.fault.kind.takes_majority()
    });
    let mut lost: Vec<_> = lost.map(|happened| (happened.begun, happened.ended)).collect();
    lost.sort();
    for (begun, ended) in lost.into_iter().chain([(*to, *to)]) {
        let here = longest_gap(written.iter().copied(), begin, begun.max(begin));
        if here.length > gap.length {
            gap = Gap { begins: begin + here.begins - *from, ..here };
        }
        begin = ended;
    }
    gap
}

/// The longest shard gap of each fault, the longest first. Of a fault that takes the majority away
/// only what comes after it counts, of every one only what comes before the next, and before the
/// load ends.
fn gaps(told: &Conducted, seen: &[Seen], shards: u32) -> Vec<(Happened, ShardGap)> {
    let load_ended = moments(answers(seen), Came::Written).max();
    let done = told.happened.iter().filter(|happened| happened.skipped.is_none());
    let mut gaps: Vec<(Happened, ShardGap)> = done
        .map(|happened| {
            let takes_majority = happened.planned.fault.kind.takes_majority();
            let from = if takes_majority { happened.ended } else { happened.begun };
            let later = told.happened.iter().filter(|it| it.skipped.is_none());
            let next = later.map(|later| later.begun).filter(|begun| *begun > happened.ended).min();
            let to =
                [Some(happened.ended + AFTERMATH), next, load_ended].into_iter().flatten().min();
            let gap = longest_shard_gap(seen, shards, from, to.unwrap_or(from).max(from));
            (happened.clone(), gap)
        })
        .collect();
    gaps.sort_by_key(|(_, gap)| std::cmp::Reverse(gap.gap.length));
    gaps
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<16}{:>6}{:>9}", "fault", "done", "skipped")?;
        for (kind, row) in &self.kinds {
            writeln!(f, "{:<16}{:>6}{:>9}", kind.name(), row.done, row.skipped)?;
            for reason in row.reasons.keys() {
                writeln!(f, "  skipped: {reason}")?;
            }
        }
        writeln!(
            f,
            "{} phases without a majority; {} times a node ended because its disk failed; {} times a \
             blank node refused to run",
            self.windows, self.ended_by_disk, self.refused_blank
        )?;
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        writeln!(f, "\n{:<10}{:>10}{:>10}{:>10}", "command", "answered", "refused", "in doubt")?;
        let mut total = [0; 3];
        for (command, counts) in &self.outcomes {
            let [answered, refused, unknown] = counts;
            writeln!(f, "{command:<10}{answered:>10}{refused:>10}{unknown:>10}")?;
            total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }
        writeln!(f, "{:<10}{:>10}{:>10}{:>10}", "all", total[0], total[1], total[2])?;
        for (problem, count) in &self.problems {
            writeln!(f, "  {problem}: {count}")?;
        }
        writeln!(f, "  increments of ledgers sent again: {}", self.repeats)?;
        writeln!(
            f,
            "\nlongest time without any acknowledged write while there was a majority: {:.2} s, at \
             {:.1} s",
            self.longest_gap.length.as_secs_f64(),
            self.longest_gap.begins.as_secs_f64()
        )?;
        writeln!(f, "the longest of a single shard, by fault:")?;
        for (happened, gap) in self.gaps.iter().take(GAPS_TOLD) {
            writeln!(
                f,
                "  {:>6.2} s, shard {}, {:.2} s after it began at {:.1} s and took {:.1} s: {}",
                gap.gap.length.as_secs_f64(),
                gap.shard,
                self.after(happened, gap).as_secs_f64(),
                happened.planned.at.as_secs_f64(),
                happened.ended.duration_since(happened.begun).as_secs_f64(),
                happened.planned.fault
            )?;
        }
        if let Some(after) = self.recovered_after {
            writeln!(
                f,
                "all nodes were ready {:.2} s after everything had healed; {} s are allowed",
                after.as_secs_f64(),
                RECOVERY_TIMEOUT.as_secs()
            )?;
        }
        let Counted { counters, acknowledged, unknown, found } = self.counted;
        writeln!(
            f,
            "{} keys read through every node; {counters} counters hold {found}: {acknowledged} \
             acknowledged, {unknown} in doubt",
            self.keys
        )?;
        writeln!(f, "history: {}", self.judgement.trim_end())?;
        match self.violations.len() {
            0 => writeln!(f, "PASS: nothing was lost, doubled, stale, or stuck"),
            count => {
                writeln!(f, "FAIL: {count} broken promises")?;
                let told = self.violations.iter().take(VIOLATIONS_TOLD);
                told.clone().try_for_each(|violation| writeln!(f, "  BROKEN: {violation}"))
            }
        }
    }
}

impl Report {
    fn after(&self, happened: &Happened, gap: &ShardGap) -> Duration {
        let takes_majority = happened.planned.fault.kind.takes_majority();
        let lasted = happened.ended.duration_since(happened.begun);
        gap.gap.begins + if takes_majority { lasted } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::Answer;
    use crate::chaos::fault::{Fault, Measure, Victims};
    use crate::chaos::schedule::Planned;
    use std::collections::BTreeSet;
    use std::time::Instant;

    #[test]
    fn a_gap_belongs_to_one_fault_and_not_to_what_follows() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let happened = |kind, from: u64, to: u64| {
            let fault = Fault { kind, victims: Victims::All, measure: Measure::None };
            let (at_ms, length) = (Duration::from_millis(from), Duration::from_millis(to - from));
            let planned = Planned { at: at_ms, length, fault };
            let (begun, ended) = (at(from), at(to));
            Happened { planned, victims: BTreeSet::new(), begun, ended, skipped: None }
        };
        let lost = happened(Kind::Scatter, 3_000, 6_000);
        let told = Conducted {
            happened: vec![happened(Kind::Kill, 1_000, 2_000), lost],
            ..Conducted::default()
        };
        let written = [900, 1_700, 2_000, 2_900, 6_500, 7_000].map(|ms| {
            let answer = Answer { at: at(ms), took: Duration::ZERO, came: Came::Written };
            (0, answer)
        });
        let seen = [Seen { answers: written.to_vec(), ..Seen::default() }];
        let gaps: Vec<(Kind, u128)> = gaps(&told, &seen, 1)
            .iter()
            .map(|(happened, gap)| (happened.planned.fault.kind, gap.gap.length.as_millis()))
            .collect();
        // Neither the phase without a majority nor the time after the load is the kill's.
        assert_eq!(gaps, [(Kind::Kill, 900), (Kind::Scatter, 500)]);
        assert_eq!(with_majority(&told, &seen).length, Duration::from_millis(900));
    }
}
