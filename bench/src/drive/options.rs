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
    /// Operations that are due each second, of all clients together; without it, each client asks
    /// again when it was answered (closed loop).
    pub rate: Option<f64>,
    /// How the moments of an open loop are spaced.
    pub spacing: Spacing,
    /// When it ends.
    pub end: End,
    /// For how long it is driven before anything counts.
    pub warmup: Duration,
    /// How long answers are waited for after the last operation was begun; what is missing then
    /// counts as lost.
    pub answer_timeout: Duration,
    /// Threads of the clients.
    pub threads: usize,
    /// What makes keys and operations those that they are.
    pub seed: u64,
    /// Which run over the same store this is: values of different phases differ.
    pub phase: u16,
    /// Sees operations, if there is one.
    pub recorder: Option<Arc<dyn Recorder>>,
    /// Told of each second.
    pub progress: Arc<Progress>,
    /// The share of each second in which the clients' threads stand still: a planted slowdown, so that
    /// comparisons can be seen to notice. 0 for none.
    pub slowdown: f64,
}

impl Default for DriveOptions {
    fn default() -> DriveOptions {
        DriveOptions {
            clients: 64,
            pipeline: 1,
            batch: 1,
            rate: None,
            spacing: Spacing::Poisson,
            end: End::After(Duration::from_secs(10)),
            warmup: Duration::ZERO,
            answer_timeout: Duration::from_secs(30),
            threads: 1,
            seed: 1,
            phase: 0,
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
