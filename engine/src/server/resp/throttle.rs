//! How often a connection is read whose requests are refused.
//!
//! Refusing costs little, but not nothing: reading, parsing, saying no. Who sends ten times what
//! the node can do would keep it busy with that alone, and what was accepted would starve on the
//! same threads. So a connection that was refused something rests before it is read again, for as
//! long as makes all such connections together use only a part of their threads' time. Meanwhile
//! its requests wait where TCP tells the client to wait too.
//!
//! Invariants:
//!
//! * Connections that are refused use about a quarter of the time of the threads they run on,
//!   however many they are and whatever a refusal costs, up to the longest rest.
//! * A connection that is refused nothing never rests.
//!
//! What is absent: why a request is refused.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Context;
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Parts of rest for each part of work, over all connections that are refused.
const RESTS_PER_WORK: u32 = 3;

/// Shorter rests are not worth a timer.
const REST_MIN: Duration = Duration::from_millis(1);

/// The longest rest: a client that comes back to reason is heard again.
const REST_MAX: Duration = Duration::from_millis(500);

/// Who is refused, over all connections of a server.
#[derive(Debug)]
pub struct Refused {
    /// Connections that rest now.
    resting: AtomicUsize,
    threads: usize,
}

impl Refused {
    /// For connections that are spread over `threads` threads.
    pub fn new(threads: usize) -> Refused {
        Refused { resting: AtomicUsize::new(0), threads: threads.max(1) }
    }

    /// How long to rest after `worked`, when all that rest now do the same in turn.
    fn rest(&self, worked: Duration) -> Duration {
        let sharing = 1 + self.resting.load(Relaxed) / self.threads;
        let rests = RESTS_PER_WORK.saturating_mul(u32::try_from(sharing).unwrap_or(u32::MAX));
        worked.saturating_mul(rests).clamp(REST_MIN, REST_MAX)
    }
}

/// The rests of one connection.
#[derive(Debug)]
pub struct Throttle {
    refused: Arc<Refused>,
    /// Something was refused since the last turn ended.
    was_refused: bool,
    /// Something was refused in the last turn.
    is_refused: bool,
    timer: Option<Pin<Box<Sleep>>>,
    is_resting: bool,
}

impl Throttle {
    /// For a connection that was refused nothing yet.
    pub fn new(refused: &Arc<Refused>) -> Throttle {
        let refused = refused.clone();
        Throttle { refused, was_refused: false, is_refused: false, timer: None, is_resting: false }
    }

    /// A request was refused for want of room.
    pub fn note_refused(&mut self) {
        self.was_refused = true;
    }

    /// True if something was refused of late.
    pub fn is_refused(&self) -> bool {
        self.is_refused || self.was_refused
    }

    /// True while the connection is not to be read; the task is woken when that is over.
    pub fn poll_resting(&mut self, context: &mut Context<'_>) -> bool {
        if self.is_resting {
            let timer = self.timer.as_mut().expect("who rests has a timer");
            let is_over = timer.as_mut().poll(context).is_ready();
            self.set_resting(!is_over);
        }
        self.is_resting
    }

    /// Ends a turn in which requests were taken, and which took `worked`. True if a rest begins:
    /// [`Throttle::poll_resting`] is to be asked, so that it ends.
    pub fn end_turn(&mut self, worked: Duration) -> bool {
        self.is_refused = std::mem::take(&mut self.was_refused);
        if !self.is_refused {
            self.timer = None;
            return false;
        }
        let until = Instant::now() + self.refused.rest(worked);
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(until),
            none => *none = Some(Box::pin(tokio::time::sleep_until(until))),
        }
        self.set_resting(true);
        true
    }

    fn set_resting(&mut self, is_resting: bool) {
        match (self.is_resting, is_resting) {
            (false, true) => self.refused.resting.fetch_add(1, Relaxed),
            (true, false) => self.refused.resting.fetch_sub(1, Relaxed),
            _ => return,
        };
        self.is_resting = is_resting;
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.set_resting(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::{Poll, Waker};

    #[tokio::test]
    async fn who_is_refused_rests_and_who_is_not_does_not() {
        let refused = Arc::new(Refused::new(1));
        let mut throttle = Throttle::new(&refused);
        let mut context = Context::from_waker(Waker::noop());
        assert!(!throttle.end_turn(Duration::from_millis(5)));
        assert!(!throttle.poll_resting(&mut context));
        throttle.note_refused();
        let begin = Instant::now();
        assert!(throttle.end_turn(Duration::from_millis(5)));
        poll_fn(|context| match throttle.poll_resting(context) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
        assert!(begin.elapsed() >= Duration::from_millis(15), "three times what it worked");
        assert!(!throttle.end_turn(Duration::from_millis(5)));
        assert!(!throttle.poll_resting(&mut context));
    }

    #[tokio::test]
    async fn all_that_are_refused_share_a_quarter_of_their_threads() {
        let refused = Arc::new(Refused::new(2));
        let mut throttles: Vec<Throttle> = (0..100).map(|_| Throttle::new(&refused)).collect();
        for throttle in &mut throttles {
            throttle.note_refused();
            assert!(throttle.end_turn(Duration::from_millis(1)));
        }
        assert_eq!(refused.rest(Duration::from_millis(1)), Duration::from_millis(3 * 51));
        assert_eq!(refused.rest(Duration::from_secs(1)), REST_MAX);
        drop(throttles);
        assert_eq!(refused.rest(Duration::from_millis(1)), Duration::from_millis(3));
        assert_eq!(refused.rest(Duration::ZERO), REST_MIN);
    }
}
