//! What a router gets from the world besides shards and peers: time, chance and timers.
//!
//! A running node gives it the system's; a simulation gives it its own, so that the same code decides
//! there, and decides the same each time.
//!
//! What is absent: what is done with them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Time, chance and timers.
pub trait Environment: Send + Sync + 'static {
    /// This moment, by a clock that never goes back. Deadlines are measured by it.
    fn now(&self) -> Instant;

    /// Milliseconds since the Unix epoch, as this machine's clock says.
    fn wall_ms(&self) -> u64;

    /// Any number, each as likely as the others.
    fn random(&self) -> u64;

    /// A number that tells the calling thread from others. Threads may share one.
    fn thread_slot(&self) -> usize;

    /// Completes after `pause`, or is dropped when nothing will be timed any more.
    fn after(&self, pause: Duration) -> oneshot::Receiver<()>;
}

/// The system's clocks and chance, and the timers of a runtime.
#[derive(Debug)]
pub(crate) struct System {
    timers: Handle,
}

impl System {
    pub(crate) fn new(timers: Handle) -> System {
        System { timers }
    }
}

impl Environment for System {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        u64::try_from(now).unwrap_or(u64::MAX)
    }

    fn random(&self) -> u64 {
        rand::random()
    }

    fn thread_slot(&self) -> usize {
        thread_slot()
    }

    fn after(&self, pause: Duration) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        self.timers.spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = wake.send(());
        });
        woken
    }
}

/// Threads are numbered in the order in which they ask first.
pub(crate) fn thread_slot() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    MINE.with(|mine| *mine)
}
