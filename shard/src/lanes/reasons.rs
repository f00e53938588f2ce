//! Why a node does not lead, or rather not: a set of reasons, of which one is enough.
//!
//! Invariant: whether there is any is told in the order in which it changed, whatever threads changed
//! it.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

/// What speaks for something, as several threads have found.
#[derive(Default)]
pub(crate) struct Reasons {
    reasons: Mutex<BTreeSet<String>>,
    is_any: AtomicBool,
}

impl Reasons {
    /// True if there is a reason.
    pub(crate) fn is_any(&self) -> bool {
        self.is_any.load(Acquire)
    }

    /// Adds or removes a reason. If that changes whether there is any, `tell` is called with it before
    /// anybody else can change it again.
    pub(super) fn set(&self, reason: &str, holds: bool, tell: impl FnOnce(bool)) {
        let mut reasons = self.reasons.lock();
        if holds {
            reasons.insert(reason.to_owned());
        } else {
            reasons.remove(reason);
        }
        let is_any = !reasons.is_empty();
        if self.is_any.swap(is_any, AcqRel) != is_any {
            tell(is_any);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reason_is_enough() {
        let reasons = Reasons::default();
        let set = |reason, holds| {
            let mut told = None;
            reasons.set(reason, holds, |is_any| told = Some(is_any));
            told
        };
        assert!(!reasons.is_any());
        assert_eq!(set("clock", true), Some(true));
        assert_eq!(set("store", true), None);
        assert_eq!(set("store", true), None);
        assert_eq!(set("clock", false), None);
        assert!(reasons.is_any());
        assert_eq!(set("store", false), Some(false));
        assert_eq!(set("store", false), None);
        assert!(!reasons.is_any());
    }

    /// The last that is told is what holds, whatever thread told it.
    #[test]
    fn changes_are_told_in_the_order_in_which_they_were_made() {
        let reasons = Reasons::default();
        let told = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for reason in ["clock", "store", "disk"] {
                let (reasons, told) = (&reasons, &told);
                scope.spawn(move || {
                    for _ in 0..1000 {
                        for holds in [true, false] {
                            reasons.set(reason, holds, |is_any| {
                                // As long as another thread needs to get in between.
                                std::thread::yield_now();
                                told.lock().push(is_any);
                            });
                        }
                    }
                });
            }
        });
        let told = told.into_inner();
        assert!(told.len() >= 2 && told.last() == Some(&false) && told[0]);
        assert!(told.windows(2).all(|pair| pair[0] != pair[1]), "told in another order");
    }
}
