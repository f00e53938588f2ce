//! Notices that a server has gone silent while something is asked of it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A connection on which nothing comes back for this long is given up. The servers answer every
/// request earlier than that, if only to say that they cannot.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// When something was heard last. Its timer is set anew only when it fires, so that hearing costs
/// one reading of the clock.
pub(super) struct Silence {
    heard: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    /// Something was heard just now. Needs a runtime with timers.
    pub(super) fn new() -> Silence {
        let heard = Instant::now();
        Silence { heard, timer: Box::pin(sleep_until(heard + SILENCE_MAX)) }
    }

    /// Something was heard, or is asked after a rest.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Ready when nothing was heard for too long; begins anew then.
    pub(super) fn poll_too_long(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let too_long = now >= self.heard + SILENCE_MAX;
            if too_long {
                self.heard = now;
            }
            self.timer.as_mut().reset(self.heard + SILENCE_MAX);
            if too_long {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_word() {
        let mut silence = Silence::new();
        let begin = Instant::now();
        tokio::time::advance(Duration::from_secs(10)).await;
        silence.heard();
        poll_fn(|context| silence.poll_too_long(context)).await;
        let waited = begin.elapsed();
        assert!(
            waited >= Duration::from_secs(25) && waited < Duration::from_secs(26),
            "{waited:?}"
        );
    }
}
