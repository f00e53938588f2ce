//! How a target is driven.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::{Progress, Recorder};

/// How a target is driven.
#[derive(Clone)]
pub struct DriveOptions {
    /// How many clients, each with a connection of its own.
    pub clients: usize,
    /// How many operations each may have under way.
    pub pipeline: usize,
    /// Keys of one put; more than one makes puts of many keys.
    pub batch: usize,
    /// Closed or open loop.
    pub rate: Rate,
    /// How the moments of an open loop are spaced.
    pub spacing: Spacing,
    /// When it ends.
    pub end: End,
    /// For how long it is driven before anything counts.
    pub warmup: Duration,
    /// Threads of the clients.
    pub threads: usize,
    /// What makes keys and operations those that they are.
    pub seed: u64,
    /// Sees operations, if there is one.
    pub recorder: Option<Arc<dyn Recorder>>,
    /// Told of each second.
    pub progress: Arc<Progress>,
    /// Time that the driver wastes for each operation, as a share of its measured latency: a planted
    /// slowdown, so that comparisons can be seen to notice. 0 wastes none.
    pub slowdown: f64,
}

impl Default for DriveOptions {
    fn default() -> DriveOptions {
        DriveOptions {
            clients: 64,
            pipeline: 1,
            batch: 1,
            rate: Rate::Closed,
            spacing: Spacing::Poisson,
            end: End::After(Duration::from_secs(10)),
            warmup: Duration::ZERO,
            threads: 1,
            seed: 1,
            recorder: None,
            progress: Arc::default(),
            slowdown: 0.0,
        }
    }
}

/// When a drive ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After this time, warming up not counted.
    After(Duration),
    /// After this many operations, warming up not counted.
    Operations(u64),
    /// When every key was put once, in order, whatever the mix.
    EachKeyOnce,
}

/// How often operations are due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As soon as another is answered.
    Closed,
    /// So many each second, whatever the answers.
    PerSecond(f64),
    /// Rising until the target does not keep up.
    Auto,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        match (text, text.parse::<f64>()) {
            ("auto", _) => Ok(Rate::Auto),
            (_, Ok(0.0)) => Ok(Rate::Closed),
            (_, Ok(rate)) if rate.is_finite() && (0.1..=1e8).contains(&rate) => {
                Ok(Rate::PerSecond(rate))
            }
            _ => Err(format!(
                "`{text}` is not a rate: write 0 for a closed loop, operations per second, or auto"
            )),
        }
    }
}

/// How the moments of an open loop lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Spacing {
    /// As independent users come.
    Poisson,
    /// At equal distances.
    Even,
}
