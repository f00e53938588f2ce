//! Compares this node's clock with those of the others: expiry goes by the leader's clock, so a node
//! whose clock is far off leads nothing until it is right again.
//!
//! What counts is the median of all clocks that can be seen, the own one among them: one node that
//! is wrong does not convince the others that they are, and a pair that disagrees goes on, because
//! neither knows who is right.
//!
//! Invariants:
//!
//! * Looking is harmless: it changes nothing but whether this node leads.
//!
//! What is absent: measuring the offsets (the transport's), and setting clocks.

use flotilla_router::peer::Transport;
use flotilla_shard::Lanes;
use prometheus::{IntGauge, Registry};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How often clocks are compared.
const INTERVAL: Duration = Duration::from_secs(1);

/// Why such a node does not lead.
const CLOCK_OFF: &str = "its clock is far from those of the other nodes";

/// The running comparison. Ends when dropped.
pub(super) struct ClockWatch {
    task: JoinHandle<()>,
}

impl ClockWatch {
    /// Compares on the lanes' runtime from now on.
    ///
    /// # Errors
    ///
    /// When the gauge's name is taken in `registry`.
    pub(super) fn start(
        skew_max: Duration,
        transport: Arc<dyn Transport>,
        lanes: Lanes,
        registry: &Registry,
    ) -> Result<ClockWatch, prometheus::Error> {
        let off = IntGauge::new(
            "flotilla_clock_off",
            "1 while the node leads nothing because its clock is far from the others', else 0.",
        )?;
        registry.register(Box::new(off.clone()))?;
        let skew_max_ms = i64::try_from(skew_max.as_millis()).unwrap_or(i64::MAX);
        let handle = lanes.handles()[0].clone();
        let task = handle.spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut was_off = false;
            loop {
                ticks.tick().await;
                let offsets = transport.clock_offsets();
                let offset_ms = from_median(offsets.into_values().collect());
                let is_off = offset_ms.abs() > skew_max_ms;
                if is_off != was_off {
                    was_off = is_off;
                    off.set(i64::from(is_off));
                    match is_off {
                        true => tracing::error!(offset_ms, "{CLOCK_OFF}: set it right"),
                        false => tracing::info!(offset_ms, "the clock is right again"),
                    }
                    lanes.set_may_lead(!is_off, CLOCK_OFF);
                }
            }
        });
        Ok(ClockWatch { task })
    }
}

impl Drop for ClockWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How far the own clock is from the median, in milliseconds, positive when it is ahead; `offsets`
/// are the other clocks minus the own one.
fn from_median(mut offsets: Vec<i64>) -> i64 {
    offsets.push(0);
    offsets.sort_unstable();
    let middle = offsets.len() / 2;
    let median = match offsets.len() % 2 {
        1 => offsets[middle],
        // Of the two in the middle the one that finds less fault with this node.
        _ => *offsets[middle - 1..=middle].iter().min_by_key(|offset| offset.abs()).expect("two"),
    };
    median.saturating_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_far_from_most_is_off() {
        for (others, off) in [
            (vec![], 0),
            (vec![5], 0),
            (vec![3_600_000], 0),
            (vec![10, 3_600_000], -10),
            (vec![-3_600_000, -3_599_000], 3_599_000),
            (vec![3_600_000, 3_601_000], -3_600_000),
            (vec![-5_000, 5_000], 0),
            (vec![4_000, 4_000, 4_000, 0], -4_000),
            (vec![4_000, 4_000, 1], -1),
        ] {
            assert_eq!(from_median(others.clone()), off, "others at {others:?}");
        }
    }
}
