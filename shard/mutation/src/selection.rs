//! Which bug is planted in this process, and how often its place was reached.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Mutation;

/// The number of the mutation, from 1; 0 is none.
static SELECTED: AtomicU32 = AtomicU32::new(0);
static REACHED: AtomicU64 = AtomicU64::new(0);
static FIELD: Mutex<()> = Mutex::new(());

/// A planted bug. It is removed when this is dropped.
#[derive(Debug)]
pub struct Planted {
    _field: MutexGuard<'static, ()>,
}

/// Plants a bug, or none, and keeps others from planting until what this returns is dropped. Waits for
/// those who planted before.
pub fn plant(mutation: Option<Mutation>) -> Planted {
    // A panic while a bug was planted is what is to be expected.
    let field = FIELD.lock().unwrap_or_else(PoisonError::into_inner);
    REACHED.store(0, Relaxed);
    SELECTED.store(mutation.map_or(0, Mutation::number), Relaxed);
    Planted { _field: field }
}

impl Drop for Planted {
    fn drop(&mut self) {
        SELECTED.store(0, Relaxed);
    }
}

/// True if this bug is planted.
#[inline]
pub fn planted(mutation: Mutation) -> bool {
    let is_planted = SELECTED.load(Relaxed) == mutation.number();
    if is_planted {
        REACHED.fetch_add(1, Relaxed);
    }
    is_planted
}

/// How often the place of the planted bug was asked since it was planted. Zero: whatever was run does
/// not go there, so it proves nothing.
pub fn reached() -> u64 {
    REACHED.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bug_at_a_time_and_none_afterwards() {
        for mutation in Mutation::ALL {
            let guard = plant(Some(mutation));
            let others = Mutation::ALL.into_iter().filter(|other| planted(*other));
            assert_eq!(others.collect::<Vec<_>>(), [mutation]);
            assert_eq!(reached(), 1);
            drop(guard);
        }
        let _guard = plant(None);
        assert!(Mutation::ALL.iter().all(|mutation| !planted(*mutation)));
        assert_eq!(reached(), 0);
    }
}
