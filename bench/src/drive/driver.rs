//! Runs clients on threads and puts together what they saw.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::sync::oneshot;

use super::arrivals::{self, Due, Schedule};
use super::client::Shared;
use super::tally::Seconds;
use super::thread::{self, Ended, Started, Work};
use super::{DriveOptions, Driven, End, Progress};
use crate::target::Target;
use crate::workload::{Generators, Workload};

/// Between the last connection and the first operation, so that all threads begin at once.
const COUNTDOWN: Duration = Duration::from_millis(20);

/// A drive under way.
pub struct Driver {
    threads: Vec<oneshot::Receiver<Ended>>,
    measure_from: Instant,
    progress: Arc<Progress>,
}

/// Drives `target` with `workload` to the end.
///
/// # Errors
///
/// As [`Driver::start`] and [`Driver::finish`].
pub async fn drive(
    target: &Arc<dyn Target>,
    workload: &Workload,
    options: &DriveOptions,
) -> anyhow::Result<Driven> {
    Driver::start(target, workload, options).await?.finish().await
}

impl Driver {
    /// Connects all clients and lets them begin.
    ///
    /// # Errors
    ///
    /// If the options make no sense, the target cannot do what the workload asks, or a client cannot
    /// connect.
    pub async fn start(
        target: &Arc<dyn Target>,
        workload: &Workload,
        options: &DriveOptions,
    ) -> anyhow::Result<Driver> {
        check(target, workload, options)?;
        let threads = options.threads.min(options.clients);
        let generators =
            Generators::new(workload, options.clients, options.batch, options.seed, options.phase);
        let seconds = Arc::new(Seconds::new(threads, Arc::clone(&options.progress)));
        let mut started = Vec::with_capacity(threads);
        let mut dues = Vec::new();
        for number in 0..threads {
            let due = options.rate.map(|_| Arc::new(Due::default()));
            dues.extend(due.clone());
            let clients = (number..options.clients).step_by(threads);
            let work = Work {
                target: Arc::clone(target),
                clients: clients.map(|client| (client, generators.client(client as u32))).collect(),
                pipeline: options.pipeline,
                answer_timeout: options.answer_timeout,
                seconds: Arc::clone(&seconds),
                due,
                slowdown: options.slowdown,
            };
            started.push(thread::start(number, work)?);
        }
        for thread in &mut started {
            (&mut thread.connected).await.context("a thread of clients failed")??;
        }
        let begin = Instant::now() + COUNTDOWN;
        let measure_from = begin + options.warmup;
        let until = match options.end {
            End::After(duration) => Some(measure_from + duration),
            End::Operations(_) | End::EachKeyOnce => None,
        };
        if let (Some(rate), Some(until)) = (options.rate, until) {
            let schedule = Schedule::new(rate, options.spacing, options.seed);
            arrivals::start(schedule, begin, until, dues).context("no thread for arrivals")?;
        }
        let shared = Arc::new(Shared {
            begin,
            measure_from,
            until,
            end: options.end,
            keys: workload.keys,
            batch: options.batch as u64,
            taken: AtomicU64::new(0),
            inserted: Arc::clone(generators.inserted()),
            recorder: options.recorder.clone(),
        });
        let mut threads = Vec::with_capacity(started.len());
        for Started { begin, ended, .. } in started {
            // A thread that is gone is noticed when its end is waited for.
            let _ = begin.send(Arc::clone(&shared));
            threads.push(ended);
        }
        Ok(Driver { threads, measure_from, progress: Arc::clone(&options.progress) })
    }

    /// When the measurement begins, or began: after warming up.
    pub fn measure_from(&self) -> Instant {
        self.measure_from
    }

    /// Waits until the measurement begins.
    pub async fn warmed_up(&self) {
        tokio::time::sleep_until(self.measure_from.into()).await;
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// If a thread failed.
    pub async fn finish(self) -> anyhow::Result<Driven> {
        let mut driven = Driven::default();
        let mut last_answer = None;
        for thread in self.threads {
            let ended = thread.await.context("a thread of clients failed")?;
            driven.merge(&ended.driven);
            last_answer = last_answer.max(ended.last_answer);
        }
        let last_answer = last_answer.unwrap_or(self.measure_from);
        driven.elapsed = last_answer.saturating_duration_since(self.measure_from);
        driven.series = self.progress.seconds();
        Ok(driven)
    }
}

fn check(
    target: &Arc<dyn Target>,
    workload: &Workload,
    options: &DriveOptions,
) -> anyhow::Result<()> {
    ensure!(options.clients > 0, "--clients must be 1 or more");
    ensure!(options.pipeline > 0, "--pipeline must be 1 or more");
    ensure!(options.batch > 0, "--batch must be 1 or more");
    ensure!(options.threads > 0, "--threads must be 1 or more");
    ensure!((0.0..1.0).contains(&options.slowdown), "a slowdown is at least 0 and below 1");
    ensure!(
        options.rate.is_none() || matches!(options.end, End::After(_)),
        "an open loop ends by time, not after a number of operations"
    );
    workload.check()?;
    let name = target.describe().name;
    for (kind, _) in &workload.mix {
        if let Some(why) = target.refuses(*kind) {
            anyhow::bail!("workload {} cannot be measured with {name}: {why}", workload.name);
        }
    }
    if options.batch > 1 && !target.takes_batches() {
        anyhow::bail!("{name} has no puts of several keys: leave --batch at 1");
    }
    Ok(())
}
