//! A few threads for reads that may wait for the disk, so that lanes never do.
//!
//! Jobs run in the order in which they were spawned, each on whichever thread is free. The queue
//! has no bound of its own: whoever spawns holds a share of the node's byte budget for each job.
//!
//! What is absent: results. A job carries its own way back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender};

use super::error::{StoreError, panic_message};
use super::metrics::StoreMetrics;

type Job = Box<dyn FnOnce() + Send>;

/// The read threads. Dropping the pool lets them finish what was spawned; [`ReadPool::shutdown`]
/// waits for that.
pub struct ReadPool {
    sender: Sender<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl ReadPool {
    /// Starts `threads` threads (two are a good start: redb reads scale with the cores).
    ///
    /// # Errors
    ///
    /// [`StoreError::Thread`] if the operating system refuses a thread.
    ///
    /// # Panics
    ///
    /// If `threads` is 0: no job would ever run.
    pub fn start(threads: usize, metrics: StoreMetrics) -> Result<ReadPool, StoreError> {
        assert!(threads > 0, "a read pool without threads");
        let (sender, receiver) = crossbeam_channel::unbounded::<Job>();
        let start = |number: usize| {
            let name = format!("read-{number}");
            let (receiver, metrics) = (receiver.clone(), metrics.clone());
            thread::Builder::new()
                .name(name.clone())
                .spawn(move || run(&receiver, &metrics))
                .map_err(|source| StoreError::Thread { name, source: Arc::new(source) })
        };
        let threads = (0..threads).map(start).collect::<Result<_, _>>()?;
        Ok(ReadPool { sender, threads })
    }

    /// Runs `job` on one of the threads; returns at once.
    ///
    /// A job that panics is counted and logged, and the thread lives on. What the job held is
    /// dropped by the unwinding, so that a caller who waits on a channel sees it closed.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.sender.send(Box::new(job)).expect("the threads live as long as the pool");
    }

    /// Jobs that wait for a thread.
    pub fn queued(&self) -> usize {
        self.sender.len()
    }

    /// Waits until everything that was spawned has run.
    pub fn shutdown(self) {
        drop(self.sender);
        for thread in self.threads {
            // Panics of jobs were caught; there is nothing else that could panic.
            let _ = thread.join();
        }
    }
}

fn run(jobs: &Receiver<Job>, metrics: &StoreMetrics) {
    for job in jobs {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(job)) {
            metrics.read_pool_panics_total.inc();
            tracing::error!(panic = panic_message(&*panic), "a job of the read pool panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_and_a_panic_harms_only_its_own() {
        let metrics = StoreMetrics::new();
        let pool = ReadPool::start(2, metrics.clone()).unwrap();
        let (sender, receiver) = crossbeam_channel::unbounded();
        for number in 0..100 {
            let sender = sender.clone();
            pool.spawn(move || {
                assert_ne!(number % 10, 7, "planted");
                sender.send(number).unwrap();
            });
        }
        drop(sender);
        assert_eq!(receiver.iter().count(), 90);
        pool.shutdown();
        assert_eq!(metrics.read_pool_panics_total.get(), 10);
    }

    #[test]
    fn shutdown_runs_what_was_spawned() {
        let pool = ReadPool::start(1, StoreMetrics::new()).unwrap();
        let (sender, receiver) = crossbeam_channel::unbounded();
        for number in 0..10 {
            let sender = sender.clone();
            pool.spawn(move || sender.send(number).unwrap());
        }
        pool.shutdown();
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    }
}
