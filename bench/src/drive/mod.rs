//! Drives a target with a workload and measures what its clients see.
//!
//! Two ways to ask. *Closed loop*: each client keeps a number of operations under way and asks for
//! the next when one is answered; while the target stalls, nobody asks. *Open loop*: operations are
//! due at a given rate whatever the target does, and latencies count from the moment when they were
//! due, so that a stall is counted for everybody who would have come meanwhile.
//!
//! What is absent: what it costs the servers, and how results are told.

mod arrivals;
mod client;
mod driven;
mod driver;
mod options;
mod recorder;
mod tally;
mod thread;

#[cfg(test)]
mod tests;

pub use driven::{Driven, Progress, Second};
pub use driver::{Driver, drive};
pub use options::{DriveOptions, End, Rate, Spacing};
pub use recorder::{Recorder, Token};
