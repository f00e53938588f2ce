//! Load on all nodes at once, through the engine: first fast, to fill; then light, to be watched.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla::{Engine, Error};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior};

use super::data;

/// How many writes are under way at once while filling.
const FILL_CONCURRENCY: usize = 256;
/// The light load: so many workers, each with a request every so often.
const WORKERS: u64 = 8;
const PACE: Duration = Duration::from_millis(20);
/// How long one operation is tried, over elections and the like, before the demo gives up.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A progress bar on standard error; nothing where that is no terminal.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for `count` steps.
    pub fn loading(count: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
        let style = "{bar:40} {human_pos} of {human_len} keys  {per_sec}  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("a constant template is valid"));
        Progress { bar }
    }

    fn running() -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = "{spinner} {msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("a constant template is valid"));
        Progress { bar }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// What the light load did in total.
#[derive(Debug, Default, Clone, Copy)]
pub struct Totals {
    reads: u64,
    writes: u64,
    retries: u64,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} reads, each with the value that was written, and {} writes; {} retried",
            self.reads, self.writes, self.retries
        )
    }
}

/// The load.
pub struct Load {
    engines: Vec<Engine>,
    keys: u64,
    reads: AtomicU64,
    writes: AtomicU64,
    retries: AtomicU64,
    /// Latencies in microseconds since the last report.
    latencies_us: Mutex<Vec<u64>>,
}

impl Load {
    /// Load over `keys` keys, in turns on these engines.
    ///
    /// # Panics
    ///
    /// If there is no engine.
    pub fn new(engines: Vec<Engine>, keys: u64) -> Load {
        assert!(!engines.is_empty(), "no node to load");
        Load {
            engines,
            keys,
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            latencies_us: Mutex::new(Vec::new()),
        }
    }

    /// Writes every key once.
    pub async fn fill(&self, progress: &Progress) -> Result<(), String> {
        stream::iter(0..self.keys)
            .map(|number| async move {
                self.put(number).await?;
                progress.bar.inc(1);
                Ok(())
            })
            .buffer_unordered(FILL_CONCURRENCY)
            .try_collect::<()>()
            .await
    }

    /// Reads and writes a little, checks what it reads, and tells how it goes: on one line that is
    /// redrawn, or through `report` every `interval`. Ends at `until`, if ever.
    pub async fn keep(
        &self,
        until: Option<Instant>,
        interval: Option<Duration>,
        report: &dyn Fn(&str),
    ) -> Result<Totals, String> {
        let workers = (0..WORKERS).map(|worker| Box::pin(self.work(worker)));
        let workers = futures_util::future::try_join_all(workers);
        let over = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            worked = workers => worked.map(|_| ())?,
            () = self.tell(interval, report) => {}
            () = over => {}
        }
        Ok(Totals {
            reads: self.reads.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
        })
    }

    /// One worker: a write, then three reads, and so on. Ends only with an error.
    async fn work(&self, worker: u64) -> Result<(), String> {
        if self.keys == 0 {
            return std::future::pending().await;
        }
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for turn in 0_u64.. {
            ticks.tick().await;
            let number = data::mix(turn * WORKERS + worker) % self.keys;
            let began = Instant::now();
            if turn % 4 == 0 {
                self.put(number).await?;
                self.writes.fetch_add(1, Ordering::Relaxed);
            } else {
                self.check(number).await?;
                self.reads.fetch_add(1, Ordering::Relaxed);
            }
            let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.latencies_us.lock().expect("no holder panics").push(took_us);
        }
        Ok(())
    }

    /// Tells every second, or every `interval`, for ever.
    async fn tell(&self, interval: Option<Duration>, report: &dyn Fn(&str)) {
        let began = Instant::now();
        let progress = Progress::running();
        let period = interval.unwrap_or(Duration::from_secs(1));
        let mut ticks = tokio::time::interval_at(began + period, period);
        loop {
            ticks.tick().await;
            let mut latencies =
                std::mem::take(&mut *self.latencies_us.lock().expect("no holder panics"));
            latencies.sort_unstable();
            let at = |percent: usize| {
                let position = latencies.len() * percent / 100;
                latencies.get(position.min(latencies.len().saturating_sub(1))).copied().unwrap_or(0)
            };
            let line = format!(
                "{:>5} s  {:>6.0} operations/s  p50 {:.2} ms  p99 {:.2} ms  {} retried",
                began.elapsed().as_secs(),
                latencies.len() as f64 / period.as_secs_f64(),
                at(50) as f64 / 1000.0,
                at(99) as f64 / 1000.0,
                self.retries.load(Ordering::Relaxed)
            );
            match interval {
                Some(_) => report(&line),
                None => progress.bar.set_message(line),
            }
            progress.bar.tick();
        }
    }

    async fn put(&self, number: u64) -> Result<(), String> {
        let (key, value) = (data::key(number), data::value(number));
        // The value follows from the key, so a write that may have happened can be repeated.
        self.insist(number, |engine| {
            let (key, value) = (key.clone(), value.clone());
            async move { engine.put_bytes(key, value).await.map(|_| ()) }
        })
        .await
    }

    async fn check(&self, number: u64) -> Result<(), String> {
        let key = data::key(number);
        let key = &key;
        let found = self.insist(number, |engine| async move { engine.get(key).await }).await?;
        if found.as_ref() == Some(&data::value(number)) {
            return Ok(());
        }
        Err(format!("key {} has the wrong value: {found:?}", data::key_text(number)))
    }

    /// Tries on one node after the other until it works or [`OPERATION_TIMEOUT`] is over.
    async fn insist<'a, T, F: Future<Output = Result<T, Error>>>(
        &'a self,
        number: u64,
        operation: impl Fn(&'a Engine) -> F,
    ) -> Result<T, String> {
        let deadline = Instant::now() + OPERATION_TIMEOUT;
        let mut turn = number as usize;
        loop {
            match operation(&self.engines[turn % self.engines.len()]).await {
                Ok(answer) => return Ok(answer),
                Err(error) if !(error.is_retryable() || error.maybe_committed()) => {
                    return Err(format!("key {}: {error}", data::key_text(number)));
                }
                Err(error) if Instant::now() >= deadline => {
                    return Err(format!("key {} for too long: {error}", data::key_text(number)));
                }
                Err(_) => {
                    self.retries.fetch_add(1, Ordering::Relaxed);
                    turn += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}
