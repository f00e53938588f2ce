//! What is told of a life: its options, what happened how often, and the hash of its trace. The same
//! each time, to the letter.
//!
//! What is absent: real time, which is different each time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::options::Options;
use super::world::World;

/// What is told of a life.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it was like.
    pub options: Options,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// How often which fault happened.
    pub faults: BTreeMap<&'static str, u64>,
    /// How long after the faults all was well.
    pub well_after: Duration,
    /// Virtual time.
    pub lasted: Duration,
    /// Of the trace.
    pub hash: u64,
    /// How much the trace noted.
    pub events: u64,
    /// How much the judges were told.
    pub observations: u64,
    /// What was broken.
    pub violation: Option<String>,
}

impl Report {
    /// What is told of `world`, or of one that broke before there was any.
    pub(super) fn of(options: Options, world: Option<&World>, violation: Option<String>) -> Report {
        let mut report = Report {
            options,
            counts: BTreeMap::new(),
            faults: BTreeMap::new(),
            well_after: Duration::ZERO,
            lasted: Duration::ZERO,
            hash: 0,
            events: 0,
            observations: 0,
            violation,
        };
        if let Some(world) = world {
            report.counts = world.counts();
            report.faults = world.faults.clone();
            report.well_after = world.well_after;
            report.lasted = Duration::from_nanos(world.scene.now);
            report.hash = world.scene.trace.value();
            report.events = world.scene.trace.events();
            report.observations = world.scene.judges.observations();
        }
        report
    }
}

impl World {
    /// What was counted here, and by the journals that are open.
    fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = self.scene.counts.clone();
        counts.retain(|_, count| *count > 0);
        counts
    }
}

fn write_counts(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    counts: &BTreeMap<&'static str, u64>,
) -> fmt::Result {
    writeln!(f, "{title}:")?;
    counts.iter().try_for_each(|(name, count)| writeln!(f, "  {count:>9} {name}"))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.options.seed)?;
        writeln!(f, "{}", self.options)?;
        write_counts(f, "faults", &self.faults)?;
        write_counts(f, "events", &self.counts)?;
        writeln!(
            f,
            "virtual time {:.3} s; all was well {:.1} s after the faults; the judges were told {} times",
            self.lasted.as_secs_f64(),
            self.well_after.as_secs_f64(),
            self.observations
        )?;
        match &self.violation {
            Some(violation) => writeln!(f, "VIOLATION {violation}")?,
            None => writeln!(f, "no violation")?,
        }
        write!(f, "trace {:016x} of {} events", self.hash, self.events)
    }
}

/// Several lives together.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    lives: u64,
    virtual_time: Duration,
    counts: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
    /// Of each life, in order.
    hash: u64,
    /// The seeds of lives in which something was broken, and what.
    pub violations: Vec<(u64, String)>,
}

impl Sum {
    /// One more.
    pub fn add(&mut self, report: &Report) {
        self.lives += 1;
        self.virtual_time += report.lasted;
        for (name, count) in &report.counts {
            *self.counts.entry(name).or_default() += count;
        }
        for (name, count) in &report.faults {
            *self.faults.entry(name).or_default() += count;
        }
        self.hash = self.hash.rotate_left(7) ^ report.hash;
        if let Some(violation) = &report.violation {
            self.violations.push((report.options.seed, violation.clone()));
        }
    }

    /// How many lives.
    pub fn lives(&self) -> u64 {
        self.lives
    }

    /// Virtual time of all.
    pub fn virtual_time(&self) -> Duration {
        self.virtual_time
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_counts(f, "faults", &self.faults)?;
        write_counts(f, "events", &self.counts)?;
        for (seed, violation) in &self.violations {
            let first = violation.lines().next().unwrap_or_default();
            writeln!(f, "seed {seed}: VIOLATION {first}")?;
        }
        write!(
            f,
            "{} lives, {:.2} hours of virtual time, {} violations, traces {:016x}",
            self.lives,
            self.virtual_time.as_secs_f64() / 3600.0,
            self.violations.len(),
            self.hash
        )
    }
}
