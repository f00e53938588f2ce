//! What the layers above need to know about a write without understanding it: its keys, its size,
//! and what kind of answer it gets.

use super::{BatchChange, Condition, Expect, Expiry, Step, StepOutcome, Write, WriteOutcome};
use bytes::Bytes;

impl Write {
    /// True when applying must know what the keys hold at present.
    pub fn needs_previous(&self) -> bool {
        match self {
            Write::Put { condition, return_previous, expiry, .. } => {
                *condition != Condition::Always || *return_previous || *expiry == Expiry::Keep
            }
            Write::Batch { if_all_absent, .. } => *if_all_absent,
            Write::DeleteRange { .. } => false,
            Write::Delete { .. }
            | Write::CompareAndSwap { .. }
            | Write::Add { .. }
            | Write::AddFloat { .. }
            | Write::Append { .. }
            | Write::SetRange { .. }
            | Write::Expire { .. }
            | Write::Take { .. }
            | Write::Rename { .. }
            | Write::Copy { .. }
            | Write::Atomic { .. }
            | Write::Reap { .. } => true,
        }
    }

    /// True when the write cannot make the shard hold more than before: it is let through when the
    /// disk is full.
    pub fn is_delete_only(&self) -> bool {
        match self {
            Write::Delete { .. }
            | Write::Take { .. }
            | Write::DeleteRange { .. }
            | Write::Reap { .. }
            | Write::CompareAndSwap { new: None, .. } => true,
            Write::Batch { changes, .. } => {
                changes.iter().all(|change| matches!(change, BatchChange::Delete { .. }))
            }
            Write::Atomic { steps, .. } => steps.iter().all(|step| match step {
                Step::Write(write) => write.is_delete_only(),
                Step::Get { .. } => true,
            }),
            _ => false,
        }
    }

    /// True if `outcome` is of the kind that this write ends in.
    pub fn is_answered_by(&self, outcome: &WriteOutcome) -> bool {
        match (self, outcome) {
            (_, WriteOutcome::Failed(_))
            | (Write::Put { .. }, WriteOutcome::Put { .. })
            | (Write::Delete { .. }, WriteOutcome::Deleted { .. })
            | (Write::CompareAndSwap { .. }, WriteOutcome::Swap { .. })
            | (Write::Add { .. }, WriteOutcome::Number(_))
            | (Write::AddFloat { .. }, WriteOutcome::Float(_))
            | (Write::Append { .. } | Write::SetRange { .. }, WriteOutcome::Length(_))
            | (Write::Batch { .. }, WriteOutcome::Batch { .. })
            | (Write::DeleteRange { .. }, WriteOutcome::RangeDeleted { .. })
            | (Write::Expire { .. }, WriteOutcome::Expired { .. })
            | (Write::Take { .. }, WriteOutcome::Taken(_))
            | (Write::Rename { .. }, WriteOutcome::Renamed { .. })
            | (Write::Copy { .. }, WriteOutcome::Copied { .. })
            | (Write::Atomic { .. }, WriteOutcome::Atomic { outcomes: None, .. })
            | (Write::Reap { .. }, WriteOutcome::Reaped { .. }) => true,
            (
                Write::Atomic { steps, .. },
                WriteOutcome::Atomic { outcomes: Some(outcomes), .. },
            ) => {
                steps.len() == outcomes.len()
                    && steps.iter().zip(outcomes).all(|pair| match pair {
                        (Step::Write(write), StepOutcome::Written(outcome)) => {
                            write.is_answered_by(outcome)
                        }
                        (Step::Get { .. }, StepOutcome::Value(_)) => true,
                        _ => false,
                    })
            }
            _ => false,
        }
    }

    /// Visits the single keys that the write touches or looks at; a range delete has none.
    pub fn for_each_key(&self, mut visit: impl FnMut(&Bytes)) {
        self.visit_keys(&mut visit);
    }

    fn visit_keys(&self, visit: &mut dyn FnMut(&Bytes)) {
        match self {
            Write::Put { key, .. }
            | Write::CompareAndSwap { key, .. }
            | Write::Add { key, .. }
            | Write::AddFloat { key, .. }
            | Write::Append { key, .. }
            | Write::SetRange { key, .. }
            | Write::Expire { key, .. }
            | Write::Take { key } => visit(key),
            Write::Delete { keys } | Write::Reap { keys } => keys.iter().for_each(visit),
            Write::Rename { from, to, .. } | Write::Copy { from, to, .. } => {
                visit(from);
                visit(to);
            }
            Write::Batch { changes, .. } => changes.iter().for_each(|change| visit(change.key())),
            Write::Atomic { guards, steps } => {
                guards.iter().for_each(|guard| visit(&guard.key));
                for step in steps {
                    match step {
                        Step::Write(write) => write.visit_keys(visit),
                        Step::Get { key } => visit(key),
                    }
                }
            }
            Write::DeleteRange { .. } => {}
        }
    }

    /// Bytes of keys and values, for budgets.
    pub fn payload_bytes(&self) -> u64 {
        let bytes = match self {
            Write::Put { key, value, .. }
            | Write::Append { key, value }
            | Write::SetRange { key, value, .. }
            | Write::AddFloat { key, delta: value } => key.len() + value.len(),
            Write::Delete { keys } | Write::Reap { keys } => keys.iter().map(Bytes::len).sum(),
            Write::CompareAndSwap { key, expect, new, .. } => {
                let expected = if let Expect::Value(value) = expect { value.len() } else { 0 };
                key.len() + expected + new.as_ref().map_or(0, Bytes::len)
            }
            Write::Add { key, .. } | Write::Expire { key, .. } => key.len() + 8,
            Write::Take { key } => key.len(),
            Write::Rename { from, to, .. } | Write::Copy { from, to, .. } => from.len() + to.len(),
            Write::Batch { changes, .. } => changes
                .iter()
                .map(|change| match change {
                    BatchChange::Put { key, value } => key.len() + value.len(),
                    BatchChange::Delete { key } => key.len(),
                })
                .sum(),
            Write::Atomic { guards, steps } => {
                let steps: u64 = steps
                    .iter()
                    .map(|step| match step {
                        Step::Write(write) => write.payload_bytes(),
                        Step::Get { key } => key.len() as u64,
                    })
                    .sum();
                guards.iter().map(|guard| guard.key.len() + 8).sum::<usize>() + steps as usize
            }
            Write::DeleteRange { range } => {
                range.start.len() + range.end.as_ref().map_or(0, Bytes::len)
            }
        };
        bytes as u64
    }
}
