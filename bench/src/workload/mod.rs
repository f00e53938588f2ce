//! What clients ask for: mixes of operations over keys that are drawn from a distribution.
//!
//! Deterministic: the same workload, client number and seed give the same operations. Nothing here
//! reads a clock or talks to anybody.

mod generator;
mod presets;
mod properties;
mod value;
mod zipfian;

#[cfg(test)]
mod tests;

pub use generator::{Generator, Generators, Inserted, Planned};
pub use value::{VALUE_HEAD_BYTES, ValueName, Values};

use serde::{Deserialize, Serialize};

use crate::keys::KeyFormat;
use crate::target::OperationKind;

/// How keys are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// A few keys are drawn often: Zipf's law with 0.99, scattered over the key space.
    Zipfian,
    /// Every key as often as any other.
    Uniform,
    /// As `zipfian`, counted back from the key that was inserted last.
    Latest,
    /// One key after the other, again from the first after the last; clients take turns.
    Sequential,
}

impl Distribution {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Zipfian => "zipfian",
            Distribution::Uniform => "uniform",
            Distribution::Latest => "latest",
            Distribution::Sequential => "sequential",
        }
    }
}

/// A mix of operations over keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// As it is named in results: `a`, `put`, or a file's name.
    pub name: String,
    /// Kinds of operations and their shares, which add up to 1.
    pub mix: Vec<(OperationKind, f64)>,
    /// How many keys there are before the first insert.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// How keys are drawn.
    pub distribution: Distribution,
    /// Rows of a scan: drawn evenly from 1 to this.
    pub scan_rows_max: u32,
    /// How a key's number becomes its bytes.
    pub key_format: KeyFormat,
}

impl Workload {
    /// How many inserts are expected, as YCSB reckons them for a run of as many operations as there
    /// are keys: twice their number. Zipf's ranks are scattered over these too, so that the popular
    /// keys stay the same while keys are inserted.
    pub(crate) fn expected_inserts(&self) -> u64 {
        let inserts = |(kind, share): &(OperationKind, f64)| match kind {
            OperationKind::Insert => *share,
            _ => 0.0,
        };
        let share: f64 = self.mix.iter().map(inserts).sum();
        (self.keys as f64 * share * 2.0) as u64
    }

    /// As it is called in results: YCSB's one-letter names say whose they are.
    pub fn title(&self) -> String {
        match self.name.as_str() {
            "a" | "b" | "c" | "d" | "e" | "f" => format!("ycsb-{}", self.name),
            other => other.to_owned(),
        }
    }

    /// The same workload that only writes, to fill a store with its keys.
    pub fn writes_only(&self) -> Workload {
        Workload { mix: vec![(OperationKind::Put, 1.0)], ..self.clone() }
    }

    /// True if it needs the keys to be there before it begins.
    pub fn needs_keys(&self) -> bool {
        self.mix.iter().any(|(kind, _)| !matches!(kind, OperationKind::Put | OperationKind::Insert))
    }

    /// Says what is wrong with it, if anything is.
    ///
    /// # Errors
    ///
    /// In words.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.keys > 0, "--keys must be 1 or more");
        anyhow::ensure!(
            self.value_bytes >= VALUE_HEAD_BYTES,
            "values of {} bytes cannot name their writers: {VALUE_HEAD_BYTES} are needed",
            self.value_bytes
        );
        let sum: f64 = self.mix.iter().map(|(_, share)| share).sum();
        anyhow::ensure!(
            (sum - 1.0).abs() < 1e-6,
            "the shares of the mix add up to {sum}, not to 1"
        );
        Ok(())
    }
}
