//! The bytes that a node has let in and not yet answered.
//!
//! Mailboxes, channels and caches behind the door are not bounded one by one: everything in them
//! was paid for here, so they are bounded together. Only the door refuses; what was let in is
//! carried through.
//!
//! Invariants:
//!
//! * The sum of all living permits never exceeds the maximum, except that a single request larger
//!   than the maximum is let in when nothing else is (else it could never be served).
//! * A permit gives its bytes back exactly once, when it is dropped.
//!
//! What is absent: waiting. Who is refused is told so at once and decides for itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A shared account of bytes. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    used_bytes: AtomicU64,
    bytes_max: u64,
}

impl Budget {
    /// An account of at most `bytes_max` bytes at a time.
    pub fn new(bytes_max: u64) -> Budget {
        Budget { shared: Arc::new(Shared { used_bytes: AtomicU64::new(0), bytes_max }) }
    }

    /// Takes `bytes` from the account, or `None` when they are not there now.
    pub fn acquire(&self, bytes: u64) -> Option<Permit> {
        let before = self.shared.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before != 0 && before.saturating_add(bytes) > self.shared.bytes_max {
            self.shared.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(Permit { shared: self.shared.clone(), bytes })
    }

    /// Bytes held by living permits.
    pub fn used_bytes(&self) -> u64 {
        self.shared.used_bytes.load(Ordering::Relaxed)
    }

    /// The most that may be held at a time.
    pub fn bytes_max(&self) -> u64 {
        self.shared.bytes_max
    }
}

/// Bytes taken from a [`Budget`]; dropping it gives them back.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Permit {
    /// How many bytes it stands for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.shared.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        assert!(before >= self.bytes, "a budget was given back more than it lent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_over_the_maximum_and_recovers() {
        let budget = Budget::new(100);
        let first = budget.acquire(60).unwrap();
        assert!(budget.acquire(41).is_none());
        assert_eq!(budget.used_bytes(), 60);
        let second = budget.acquire(40).unwrap();
        drop(first);
        assert_eq!(budget.used_bytes(), 40);
        drop(second);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn one_oversized_request_passes_alone() {
        let budget = Budget::new(100);
        let alone = budget.acquire(1000).expect("nothing else is held");
        assert!(budget.acquire(1).is_none());
        drop(alone);
        assert!(budget.acquire(1).is_some());
    }
}
