//! How many requests have been started and have not ended, and waiting for none to be left.
//!
//! Invariants:
//!
//! * Counting takes no lock; only the last one to leave looks whether somebody waits.
//!
//! What is absent: which requests those are.

use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// The count.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    count: AtomicU64,
    none: Notify,
}

impl UnderWay {
    /// One more.
    pub(crate) fn enter(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub(crate) fn leave(&self) {
        let before = self.count.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "a request ended twice");
        if before == 1 {
            self.none.notify_waiters();
        }
    }

    /// Returns when there is none.
    pub(crate) async fn none(&self) {
        loop {
            // Registered before the look, so that the last one cannot leave unseen in between.
            let mut left = std::pin::pin!(self.none.notified());
            left.as_mut().enable();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            left.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn waits_for_the_last_one() {
        let under_way = UnderWay::default();
        let mut context = Context::from_waker(Waker::noop());
        assert!(std::pin::pin!(under_way.none()).poll(&mut context).is_ready());
        under_way.enter();
        under_way.enter();
        let mut none = std::pin::pin!(under_way.none());
        assert_eq!(none.as_mut().poll(&mut context), Poll::Pending);
        under_way.leave();
        assert_eq!(none.as_mut().poll(&mut context), Poll::Pending);
        under_way.leave();
        assert_eq!(none.as_mut().poll(&mut context), Poll::Ready(()));
    }
}
