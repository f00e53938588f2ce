//! The journal's thread: group commit without a delay.
//!
//! It takes all that its channel holds, writes it as one round, syncs once, and tells each lane
//! once what is durable; while it syncs, the next round gathers. Large writes get rounds of their
//! own, in turns with those of small ones. Between rounds it does a bounded piece of housekeeping,
//! and when nothing comes for a while it proves the last batch.
//!
//! Invariants:
//!
//! * A write is reported only after the sync that covers it returned.
//! * Reports of one group are in the order of its submissions.
//! * After a failed write or sync every lane is told so once, and nothing is reported any more.
//! * A full disk is not a failure: the round waits, and so does everything behind it.
//!
//! What is absent: bounds on the queue. Whoever admits work bounds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, unbounded};

use super::queue::{Queue, ROUND_BYTES, Round, Submission};
use super::{Journal, JournalError, JournalHealth, JournalMetrics, JournalStats, Write};
use crate::GroupId;

/// How often a round that waits for space tries again.
const FULL_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How often the reserve is looked after.
const RESERVE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What a lane learns from the journal thread. Called on that thread: must not block.
pub trait Completion: Send + Sync {
    /// Writes of this lane that became durable, those of one group in the order in which they were
    /// submitted. Called once a sync, if there are any.
    fn durable(&self, done: &[(GroupId, u64)]);

    /// The journal stopped: nothing submitted and not reported will ever be durable. Called once.
    fn failed(&self, error: &JournalError);

    /// The journal met damage in records of these groups and marked them suspect, durably with the
    /// next sync. Every lane is told.
    fn suspected(&self, groups: &[GroupId]) {
        let _ = groups;
    }
}

/// Submits writes to the journal thread. Cheap to clone.
#[derive(Clone)]
pub struct JournalHandle {
    sender: Sender<Message>,
    health: Arc<JournalHealth>,
}

impl JournalHandle {
    /// Queues writes of a lane and returns at once; what became durable is reported to that lane's
    /// [`Completion`]. After the journal failed or shut down nothing happens.
    pub fn submit(&self, lane: usize, writes: Vec<Write>) {
        let submitted = Instant::now();
        self.health.submitted(submitted);
        let submission = Submission { lane, writes, submitted };
        // The other end is gone only after every lane was told, or on shutdown.
        let _ = self.sender.send(Message::Submit(submission));
    }

    /// How the journal is doing, to be read from any thread.
    pub fn health(&self) -> Arc<JournalHealth> {
        Arc::clone(&self.health)
    }
}

/// The running thread.
pub struct JournalThread {
    sender: Sender<Message>,
    /// A round that waits for space is given up after one more try.
    is_stopping: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Result<(), JournalError>>>,
}

impl JournalThread {
    /// Starts the thread. Lane `i` is told by `completions[i]`.
    ///
    /// # Panics
    ///
    /// If the operating system cannot start a thread. The thread panics, and tells every lane that
    /// it failed, when a lane that does not exist submits or a write breaks the rules of
    /// [`Journal::write`].
    pub fn start(
        journal: Journal,
        completions: Vec<Arc<dyn Completion>>,
        metrics: JournalMetrics,
    ) -> (JournalHandle, JournalThread) {
        let (sender, receiver) = unbounded();
        let stats = JournalStats::default();
        let health = Arc::new(JournalHealth::new());
        let is_stopping = Arc::new(AtomicBool::new(false));
        let mut worker = Worker {
            journal,
            receiver,
            lanes: completions
                .into_iter()
                .map(|completion| Lane { completion, done: Vec::new() })
                .collect(),
            metrics,
            health: Arc::clone(&health),
            is_stopping: Arc::clone(&is_stopping),
            reserve_tended: None,
            stats,
            queue: Queue::default(),
            round: Round::default(),
            has_ended: false,
        };
        let thread = thread::Builder::new()
            .name("journal".to_string())
            .spawn(move || worker.run())
            .expect("a thread can be started");
        let handle = JournalHandle { sender: sender.clone(), health };
        (handle, JournalThread { sender, is_stopping, thread: Some(thread) })
    }

    /// Makes everything submitted before durable, reports it, proves the last batch and ends the
    /// thread. On a full disk a round that finds no space is given up: it is not reported, and may
    /// or may not be there after a restart.
    ///
    /// # Errors
    ///
    /// What stopped the journal, now or earlier.
    pub fn shutdown(mut self) -> Result<(), JournalError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), JournalError> {
        self.is_stopping.store(true, Ordering::Relaxed);
        let _ = self.sender.send(Message::Shutdown);
        match self.thread.take().map(thread::JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(JournalError::Stopped { cause: PANICKED.to_string() }),
        }
    }
}

impl Drop for JournalThread {
    /// Like [`JournalThread::shutdown`]; errors were reported to the lanes.
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// What lanes and the owner learn when the thread panicked.
const PANICKED: &str = "the journal thread panicked";

enum Message {
    Submit(Submission),
    Shutdown,
}

struct Lane {
    completion: Arc<dyn Completion>,
    done: Vec<(GroupId, u64)>,
}

struct Worker {
    journal: Journal,
    receiver: Receiver<Message>,
    lanes: Vec<Lane>,
    metrics: JournalMetrics,
    health: Arc<JournalHealth>,
    is_stopping: Arc<AtomicBool>,
    reserve_tended: Option<Instant>,
    /// As of the last update of the metrics.
    stats: JournalStats,
    queue: Queue,
    round: Round,
    has_ended: bool,
}

/// What the thread does next.
enum Next {
    Round(Submission),
    /// Nothing small came; large writes wait.
    Large,
    Shutdown,
    /// Nothing came; there may be housekeeping, or the last batch to prove.
    Idle,
}

impl Worker {
    fn run(&mut self) -> Result<(), JournalError> {
        raise_priority();
        self.update_metrics();
        let result = self.serve();
        if let Err(error) = &result {
            tracing::error!(%error, "the journal stopped");
            for lane in &self.lanes {
                lane.completion.failed(error);
            }
        }
        self.has_ended = true;
        result
    }

    fn serve(&mut self) -> Result<(), JournalError> {
        let mut has_more_to_maintain = true;
        loop {
            self.tend_reserve()?;
            match self.next(has_more_to_maintain) {
                Next::Round(first) => {
                    let is_last = self.gather(first);
                    if !self.round.writes.is_empty() {
                        self.commit()?;
                    }
                    if is_last {
                        return self.finish();
                    }
                    self.commit_large()?;
                    has_more_to_maintain = self.maintain()?;
                }
                Next::Large => {
                    self.commit_large()?;
                    has_more_to_maintain = self.maintain()?;
                }
                Next::Idle => {
                    if has_more_to_maintain {
                        has_more_to_maintain = self.maintain()?;
                        // Copies that found no space are held like any round.
                        match self.journal.sync() {
                            Err(JournalError::Full { .. }) => {}
                            result => result?,
                        }
                    } else {
                        self.journal.prove()?;
                        has_more_to_maintain = self.stats.full && self.maintain()?;
                    }
                    self.update_metrics();
                }
                Next::Shutdown => return self.finish(),
            }
        }
    }

    fn next(&self, has_more_to_maintain: bool) -> Next {
        let received = if has_more_to_maintain || !self.queue.is_empty() {
            self.receiver.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            })
        } else if self.journal.is_unproven() {
            self.receiver.recv_timeout(self.journal.options.idle_marker_after)
        } else {
            // Nothing says when the disk has space again, or when the reserve is asked for.
            self.receiver.recv_timeout(RESERVE_RETRY_INTERVAL)
        };
        match received {
            Ok(Message::Submit(submission)) => Next::Round(submission),
            Err(RecvTimeoutError::Timeout) if !self.queue.is_empty() => Next::Large,
            Err(RecvTimeoutError::Timeout) => Next::Idle,
            Ok(Message::Shutdown) | Err(RecvTimeoutError::Disconnected) => Next::Shutdown,
        }
    }

    /// Takes all that is there, up to a bound: more would only delay the reports. True if a shutdown
    /// came behind it.
    fn gather(&mut self, first: Submission) -> bool {
        self.queue.take(first, &mut self.round);
        while self.round.bytes < ROUND_BYTES.min(self.journal.options.batch_bytes_max) {
            match self.receiver.try_recv() {
                Ok(Message::Submit(submission)) => self.queue.take(submission, &mut self.round),
                Ok(Message::Shutdown) => return true,
                Err(_) => return false,
            }
        }
        false
    }

    /// Commits the next of the large writes that wait, if there is one.
    fn commit_large(&mut self) -> Result<(), JournalError> {
        self.queue.next(&mut self.round);
        if self.round.writes.is_empty() { Ok(()) } else { self.commit() }
    }

    fn commit(&mut self) -> Result<(), JournalError> {
        let before = self.journal.stats;
        let start = Instant::now();
        let oldest = self.round.submitted.first().copied().into_iter().chain(self.queue.oldest());
        self.health.begins(oldest.min().unwrap_or(start));
        let result = self.journal.write(&self.round.writes);
        let written = Instant::now();
        match result {
            Ok(()) => self.journal.sync()?,
            Err(JournalError::Full { .. }) => self.wait_for_space()?,
            Err(error) => return Err(error),
        }
        let synced = Instant::now();
        self.health.completed(!self.receiver.is_empty() || !self.queue.is_empty());
        for (lane, group, ticket) in &self.round.tickets {
            self.lanes[*lane].done.push((*group, *ticket));
        }
        // What the round holds is freed after the lanes know.
        for lane in &mut self.lanes {
            if !lane.done.is_empty() {
                lane.completion.durable(&lane.done);
                lane.done.clear();
            }
        }
        let now = self.journal.stats;
        let metrics = &self.metrics;
        metrics.write_duration_seconds.observe((written - start).as_secs_f64());
        metrics.sync_duration_seconds.observe((synced - written).as_secs_f64());
        metrics.batch_bytes.observe((now.bytes_written - before.bytes_written) as f64);
        metrics.batch_records.observe((now.records_written - before.records_written) as f64);
        for submitted in &self.round.submitted {
            let waited = synced.saturating_duration_since(*submitted);
            metrics.wait_duration_seconds.observe(waited.as_secs_f64());
        }
        self.round.clear();
        Ok(())
    }

    /// The round is held because the disk is full: tries until it is written and synced. Whoever
    /// submits waits meanwhile, and is told nothing.
    fn wait_for_space(&mut self) -> Result<(), JournalError> {
        tracing::error!(
            "the disk is full: the journal holds what it was given until there is space"
        );
        loop {
            self.update_metrics();
            let is_stopping = self.is_stopping.load(Ordering::Relaxed);
            thread::sleep(FULL_RETRY_INTERVAL);
            match self.journal.sync() {
                Err(JournalError::Full { .. }) if !is_stopping => {}
                result => {
                    if result.is_ok() {
                        tracing::info!("the journal has space again and goes on");
                    }
                    return result;
                }
            }
        }
    }

    /// Makes the reserve or gives it up, now and then.
    fn tend_reserve(&mut self) -> Result<(), JournalError> {
        let now = Instant::now();
        self.journal.want_reserve(self.health.is_reserve_wanted());
        if self.journal.is_reserve_amiss()
            && self.reserve_tended.is_none_or(|last| now - last >= RESERVE_RETRY_INTERVAL)
        {
            self.reserve_tended = Some(now);
            self.journal.tend_reserve()?;
            self.update_metrics();
        }
        Ok(())
    }

    fn maintain(&mut self) -> Result<bool, JournalError> {
        let has_more = self.journal.maintain()?;
        let suspected = self.journal.take_suspected();
        if !suspected.is_empty() {
            for lane in &self.lanes {
                lane.completion.suspected(&suspected);
            }
        }
        self.update_metrics();
        Ok(has_more)
    }

    fn finish(&mut self) -> Result<(), JournalError> {
        while !self.queue.is_empty() {
            self.commit_large()?;
        }
        // Held copies of what is durable elsewhere may be dropped.
        match self.journal.sync() {
            Err(JournalError::Full { .. }) => return Ok(()),
            result => result?,
        }
        self.journal.prove()
    }

    fn update_metrics(&mut self) {
        let now = self.journal.stats();
        self.metrics.update(&self.stats, &now);
        self.health.update(&now);
        self.stats = now;
    }
}

impl Drop for Worker {
    /// A panic must not leave lanes waiting for ever.
    fn drop(&mut self) {
        if !self.has_ended && thread::panicking() {
            let error = JournalError::Stopped { cause: PANICKED.to_string() };
            for lane in &self.lanes {
                lane.completion.failed(&error);
            }
        }
    }
}

/// Asks for more than a fair share: on a saturated machine the thread that waits for the disk
/// otherwise waits for a time slice too, forty times longer. Needs a privilege; done without.
fn raise_priority() {
    // Only Linux gives priorities to threads; elsewhere the whole process would be raised.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, -15) {
        tracing::debug!(%error, "the journal thread keeps its normal priority");
    }
}
