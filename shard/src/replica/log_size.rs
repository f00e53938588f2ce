//! How many bytes of log a replica keeps, and where to cut to keep fewer.
//!
//! Sizes are counted in steps of a few hundred kilobytes, so that the answer costs next to nothing
//! on the way in. What was in the log when the replica started is one step: only its sum is known.
//!
//! What is absent: why the log is cut (`retire`), and the journal's own overhead.

use std::collections::VecDeque;

/// A step ends when it holds this much.
const STEP_BYTES: u64 = 256 << 10;

/// What an entry takes in the journal beside its payload.
const ENTRY_OVERHEAD_BYTES: u64 = 32;

#[derive(Debug, Clone, Copy)]
struct Step {
    /// Indexes before the first one of this step.
    after: u64,
    /// Its last index.
    through: u64,
    bytes: u64,
}

/// The sizes of one log above its base.
#[derive(Debug, Default)]
pub(super) struct LogSize {
    base: u64,
    bytes: u64,
    steps: VecDeque<Step>,
}

impl LogSize {
    /// A log of `bytes` from after `base` through `last`.
    pub(super) fn new(base: flotilla_raft::Index, last: flotilla_raft::Index, bytes: u64) -> Self {
        let mut steps = VecDeque::new();
        if last > base {
            steps.push_back(Step { after: base.0, through: last.0, bytes });
        }
        LogSize { base: base.0, bytes, steps }
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// An entry was written at `index`, in the place of all that was there and behind it.
    pub(super) fn append(&mut self, index: u64, payload_bytes: usize) {
        if self.steps.back().is_some_and(|step| step.through >= index) {
            self.truncate(index - 1);
        }
        let bytes = payload_bytes as u64 + ENTRY_OVERHEAD_BYTES;
        self.bytes += bytes;
        match self.steps.back_mut() {
            Some(step) if step.bytes < STEP_BYTES => {
                step.through = index;
                step.bytes += bytes;
            }
            _ => self.steps.push_back(Step { after: index - 1, through: index, bytes }),
        }
    }

    fn truncate(&mut self, last: u64) {
        while let Some(step) = self.steps.back_mut() {
            if step.through <= last {
                break;
            }
            if step.after >= last {
                self.bytes -= step.bytes;
                self.steps.pop_back();
                continue;
            }
            let kept = share(step, last - step.after);
            self.bytes -= step.bytes - kept;
            (step.bytes, step.through) = (kept, last);
        }
    }

    /// Everything through `index` is gone.
    pub(super) fn compact(&mut self, index: u64) {
        self.base = self.base.max(index);
        while let Some(step) = self.steps.front_mut() {
            if step.after >= index {
                break;
            }
            if step.through <= index {
                self.bytes -= step.bytes;
                self.steps.pop_front();
                continue;
            }
            let gone = share(step, index - step.after);
            self.bytes -= gone;
            (step.bytes, step.after) = (step.bytes - gone, index);
        }
    }

    /// The log is empty and goes on after `base`.
    pub(super) fn reset(&mut self, base: u64) {
        *self = LogSize { base, ..LogSize::default() };
    }

    /// The lowest index through which the log must go so that at most about `bytes` are kept.
    pub(super) fn through_to_keep(&self, bytes: u64) -> u64 {
        let mut excess = self.bytes.saturating_sub(bytes);
        let mut through = self.base;
        for step in &self.steps {
            if excess == 0 {
                break;
            }
            if excess < step.bytes {
                // A step of the past may be large: it is cut as if its entries were alike.
                let entries = step.through - step.after;
                let cut = u128::from(entries) * u128::from(excess) / u128::from(step.bytes);
                through = step.after + u64::try_from(cut).unwrap_or(entries);
                break;
            }
            excess -= step.bytes;
            through = step.through;
        }
        through
    }
}

/// The bytes of the first `entries` of a step, as if all were alike.
fn share(step: &Step, entries: u64) -> u64 {
    let all = u128::from(step.through - step.after);
    u64::try_from(u128::from(step.bytes) * u128::from(entries) / all).unwrap_or(step.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_raft::Index;

    /// A log with entries 1 to 100 of 10,000 bytes each.
    fn log() -> LogSize {
        let mut log = LogSize::default();
        for index in 1..=100 {
            log.append(index, 10_000 - ENTRY_OVERHEAD_BYTES as usize);
        }
        assert_eq!(log.bytes(), 1_000_000);
        log
    }

    #[test]
    fn what_is_cut_off_at_either_end_is_no_longer_counted() {
        let mut log = log();
        log.compact(30);
        assert_eq!((log.base(), log.bytes()), (30, 700_000));
        log.append(61, 10_000 - ENTRY_OVERHEAD_BYTES as usize);
        assert_eq!(log.bytes(), 310_000, "31 to 61");
        log.compact(61);
        assert_eq!(log.bytes(), 0);
        log.append(62, 68);
        assert_eq!(log.bytes(), 100);
        log.reset(500);
        assert_eq!((log.base(), log.bytes()), (500, 0));
    }

    #[test]
    fn a_cut_leaves_about_what_was_asked_for() {
        let mut log = log();
        assert_eq!(log.through_to_keep(1_000_000), 0);
        assert_eq!(log.through_to_keep(0), 100);
        let through = log.through_to_keep(400_000);
        assert!((58..=62).contains(&through), "{through}");
        log.compact(through);
        assert!(log.bytes().abs_diff(400_000) <= 20_000, "{}", log.bytes());
    }

    #[test]
    fn the_past_is_cut_in_proportion() {
        let log = LogSize::new(Index(10), Index(110), 1_000);
        assert_eq!(log.through_to_keep(250), 85);
        assert_eq!(LogSize::new(Index(10), Index(110), 0).through_to_keep(0), 10);
    }
}
