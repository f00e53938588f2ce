//! Watches a node's disk: is there room, and is it fast enough to lead from.
//!
//! A thread of its own, because the disk's answer may take as long as the disk is slow. It takes a
//! [`Reading`] at an interval, lets [`DiskJudge`] decide, and tells the node what changed.
//!
//! Invariants:
//!
//! * A full disk is said before the last byte is gone: the reserve stays for what makes room
//!   again, that is deletes, votes and checkpoints.
//! * Full ends only with clearly more room than it began with, so that the node does not flap.
//! * While a checkpoint finds no room, the journal's reserve is given to it.
//!
//! What is absent: what a node with a full or slow disk refuses, which the lanes know, and how the
//! journal and the store get through it, which they know.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use flotilla_shard::Lanes;
use flotilla_storage::journal::JournalHealth;
use flotilla_storage::store::{CheckpointCompletion, Checkpointed, StoreError};
use prometheus::{IntGauge, Registry};

/// How many readings in a row must be good before a slow disk counts as a fast one again.
const FAST_READINGS: u32 = 10;

/// What decides that a disk is full or slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskOptions {
    /// With less than this free, in bytes, the disk is full. It is free again with half as much
    /// more, so that a node that freed a little does not flap.
    pub(crate) reserve_bytes: u64,
    /// A write to the journal that is not durable after this long shows a slow disk.
    pub(crate) slow_after: Duration,
    /// How often the disk is asked.
    pub(crate) interval: Duration,
}

impl Default for DiskOptions {
    fn default() -> DiskOptions {
        DiskOptions {
            reserve_bytes: 256 << 20,
            slow_after: Duration::from_secs(1),
            interval: Duration::from_millis(500),
        }
    }
}

/// What the disk was found to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Bytes that may still be taken; `None`: the operating system did not say.
    pub(crate) free_bytes: Option<u64>,
    /// The journal has no space, or lives on its reserve.
    pub(crate) journal_is_full: bool,
    /// The last checkpoint found no space.
    pub(crate) store_is_full: bool,
    /// Age of the oldest write that is not durable yet.
    pub(crate) oldest_wait_ms: u64,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskEvent {
    /// There is no room for anything new.
    Full,
    /// There is room again.
    Free,
    /// Writes take too long: another node should lead, if there is one whose disk is not slow.
    Slow,
    /// Writes are fast again.
    Fast,
    /// The store needs what the journal keeps in reserve.
    GiveUpReserve,
    /// The journal may keep a reserve again.
    KeepReserve,
}

/// Turns readings into what changed. No clock, no thread.
#[derive(Debug)]
pub(crate) struct DiskJudge {
    options: DiskOptions,
    is_full: bool,
    is_slow: bool,
    is_reserve_given_up: bool,
    fast_readings: u32,
}

impl DiskJudge {
    /// Judges a disk that is taken for free and fast until read.
    pub(crate) fn new(options: DiskOptions) -> DiskJudge {
        DiskJudge {
            options,
            is_full: false,
            is_slow: false,
            is_reserve_given_up: false,
            fast_readings: 0,
        }
    }

    /// True if the disk is full, as of the last reading.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Takes a reading. Returns what it changed.
    pub(crate) fn observe(&mut self, reading: &Reading) -> Vec<DiskEvent> {
        let mut events = Vec::new();
        self.judge_room(reading, &mut events);
        self.judge_speed(reading, &mut events);
        events
    }

    fn judge_room(&mut self, reading: &Reading, events: &mut Vec<DiskEvent>) {
        let reserve = self.options.reserve_bytes;
        let enough = if self.is_full { reserve.saturating_add(reserve / 2) } else { reserve };
        // Who cannot say how much is free is believed as long as nothing fails.
        let has_room = reading.free_bytes.is_none_or(|free| free >= enough);
        let is_full = !has_room || reading.journal_is_full || reading.store_is_full;
        if is_full != self.is_full {
            self.is_full = is_full;
            events.push(if is_full { DiskEvent::Full } else { DiskEvent::Free });
        }
        // Only a store in need gets it, and it keeps it until there is room for both.
        let give_up = reading.store_is_full || (self.is_reserve_given_up && is_full);
        if give_up != self.is_reserve_given_up {
            self.is_reserve_given_up = give_up;
            events.push(if give_up { DiskEvent::GiveUpReserve } else { DiskEvent::KeepReserve });
        }
    }

    fn judge_speed(&mut self, reading: &Reading, events: &mut Vec<DiskEvent>) {
        let waited = Duration::from_millis(reading.oldest_wait_ms);
        // What waits for room does not wait for the disk, but it waits: leading helps nobody.
        if waited >= self.options.slow_after {
            self.fast_readings = 0;
            if !self.is_slow {
                self.is_slow = true;
                events.push(DiskEvent::Slow);
            }
        } else if self.is_slow {
            self.fast_readings += 1;
            if self.fast_readings >= FAST_READINGS {
                self.is_slow = false;
                events.push(DiskEvent::Fast);
            }
        }
    }
}

/// Remembers whether the store's last checkpoint found room. To be given to the checkpointer
/// beside the lanes.
#[derive(Debug, Default)]
pub(crate) struct StoreRoom {
    is_full: AtomicBool,
}

impl StoreRoom {
    /// A store that has room.
    pub(crate) fn new() -> Arc<StoreRoom> {
        Arc::default()
    }

    /// True if the last checkpoint failed for want of space.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }
}

impl CheckpointCompletion for StoreRoom {
    fn checkpointed(&self, _done: &[Checkpointed]) {
        self.is_full.store(false, Ordering::Relaxed);
    }

    fn failed(&self, _error: &StoreError) {}

    fn unavailable(&self, error: &StoreError) {
        if error.is_disk_full() {
            self.is_full.store(true, Ordering::Relaxed);
        }
    }

    fn available(&self) {
        self.is_full.store(false, Ordering::Relaxed);
    }
}

/// What the node says of its disk to Prometheus.
#[derive(Clone, Debug)]
pub(crate) struct DiskMetrics {
    free_bytes: IntGauge,
    full: IntGauge,
    slow: IntGauge,
}

impl DiskMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken in `registry`.
    pub(crate) fn register(registry: &Registry) -> Result<DiskMetrics, prometheus::Error> {
        let metrics = DiskMetrics {
            free_bytes: IntGauge::new(
                "flotilla_disk_free_bytes",
                "Bytes that the file system of the data directory has left for this process.",
            )?,
            full: IntGauge::new(
                "flotilla_disk_full",
                "1 while the node refuses new data because its disk has no room, else 0.",
            )?,
            slow: IntGauge::new(
                "flotilla_disk_slow",
                "1 while the node leaves leading to others because its disk takes too long, else 0.",
            )?,
        };
        for gauge in [&metrics.free_bytes, &metrics.full, &metrics.slow] {
            registry.register(Box::new(gauge.clone()))?;
        }
        Ok(metrics)
    }
}

/// Takes a reading.
pub(crate) type Probe = Box<dyn FnMut() -> Reading + Send>;

/// Is told what changed. Must not block for the disk.
pub(crate) type Told = Box<dyn FnMut(DiskEvent) + Send>;

/// The running thread. Stops when dropped.
pub(crate) struct DiskMonitor {
    stop: Option<Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl DiskMonitor {
    /// Starts to watch. The first reading is taken, and told, before this returns: a node that
    /// starts on a full disk takes nothing.
    ///
    /// # Errors
    ///
    /// When the operating system has no thread to give.
    pub(crate) fn start(
        options: DiskOptions,
        mut probe: Probe,
        mut told: Told,
        metrics: DiskMetrics,
    ) -> io::Result<DiskMonitor> {
        let (stop, stopped) = channel();
        let mut judge = DiskJudge::new(options);
        let mut watch = move || {
            let reading = probe();
            for event in judge.observe(&reading) {
                match event {
                    DiskEvent::Slow => metrics.slow.set(1),
                    DiskEvent::Fast => metrics.slow.set(0),
                    _ => {}
                }
                told(event);
            }
            metrics.full.set(i64::from(judge.is_full()));
            if let Some(free) = reading.free_bytes {
                metrics.free_bytes.set(i64::try_from(free).unwrap_or(i64::MAX));
            }
        };
        watch();
        let thread = thread::Builder::new().name("disk-monitor".to_owned()).spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(options.interval) {
                watch();
            }
        })?;
        Ok(DiskMonitor { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for DiskMonitor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say, and a panic in it was printed.
            let _ = thread.join();
        }
    }
}

/// The probe of a running node.
pub(crate) fn probe(directory: &Path, journal: Arc<JournalHealth>, store: Arc<StoreRoom>) -> Probe {
    let directory = directory.to_owned();
    let mut has_warned = false;
    Box::new(move || {
        let free = flotilla_storage::fs::free_bytes(&directory);
        if let Err(error) = &free
            && !std::mem::replace(&mut has_warned, true)
        {
            tracing::warn!(
                directory = %directory.display(), %error,
                "the file system does not say how much is free"
            );
        }
        Reading {
            free_bytes: free.ok(),
            journal_is_full: journal.is_full(),
            store_is_full: store.is_full(),
            oldest_wait_ms: journal.oldest_wait_ms(),
        }
    })
}

/// Tells a node's lanes and journal. `slow` hears `true` when the disk becomes slow, `false` when it
/// is fast again; it decides what that means for leading.
pub(crate) fn tell(
    lanes: Lanes,
    journal: Arc<JournalHealth>,
    mut slow: impl FnMut(bool) + Send + 'static,
) -> Told {
    Box::new(move |event| match event {
        DiskEvent::Full => lanes.set_disk_full(true),
        DiskEvent::Free => lanes.set_disk_full(false),
        DiskEvent::Slow => slow(true),
        DiskEvent::Fast => slow(false),
        DiskEvent::GiveUpReserve => journal.want_reserve(false),
        DiskEvent::KeepReserve => journal.want_reserve(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    fn free(bytes: u64) -> Reading {
        Reading { free_bytes: Some(bytes), ..Reading::default() }
    }

    fn judge() -> DiskJudge {
        DiskJudge::new(DiskOptions { reserve_bytes: 100, ..DiskOptions::default() })
    }

    #[test]
    fn full_begins_at_the_reserve_and_ends_above_it() {
        let mut judge = judge();
        assert_eq!(judge.observe(&free(100)), []);
        assert_eq!(judge.observe(&free(99)), [DiskEvent::Full]);
        for bytes in [0, 99, 101, 149] {
            assert_eq!(judge.observe(&free(bytes)), [], "{bytes} bytes do not end it");
        }
        assert_eq!(judge.observe(&free(150)), [DiskEvent::Free]);
        assert_eq!(judge.observe(&free(101)), []);
        assert_eq!(judge.observe(&Reading::default()), [], "no answer is no alarm");
    }

    #[test]
    fn who_finds_no_room_is_believed_whatever_the_file_system_says() {
        let mut judge = judge();
        let journal = Reading { journal_is_full: true, ..free(1000) };
        assert_eq!(judge.observe(&journal), [DiskEvent::Full]);
        assert_eq!(judge.observe(&free(1000)), [DiskEvent::Free]);
        let store = Reading { store_is_full: true, ..free(1000) };
        assert_eq!(judge.observe(&store), [DiskEvent::Full, DiskEvent::GiveUpReserve]);
        // Room for the store alone: the reserve is not taken back yet.
        assert_eq!(judge.observe(&free(120)), []);
        assert_eq!(judge.observe(&free(200)), [DiskEvent::Free, DiskEvent::KeepReserve]);
    }

    #[test]
    fn a_slow_disk_must_be_fast_for_a_while() {
        let mut judge = judge();
        let slow = Reading { oldest_wait_ms: 1000, ..free(1000) };
        assert_eq!(judge.observe(&Reading { oldest_wait_ms: 999, ..free(1000) }), []);
        assert_eq!(judge.observe(&slow), [DiskEvent::Slow]);
        for _ in 0..FAST_READINGS - 1 {
            assert_eq!(judge.observe(&free(1000)), []);
        }
        assert_eq!(judge.observe(&slow), [], "slow again: it counts anew");
        for _ in 0..FAST_READINGS - 1 {
            assert_eq!(judge.observe(&free(1000)), []);
        }
        assert_eq!(judge.observe(&free(1000)), [DiskEvent::Fast]);
    }

    #[test]
    fn the_monitor_tells_the_first_reading_at_once_and_later_ones_as_they_come() {
        let (readings, next) = sync_channel(0);
        let (sender, told) = channel();
        let mut first = Some(free(0));
        let probe: Probe = Box::new(move || {
            // When the test is over there is nothing new to read.
            first.take().unwrap_or_else(|| next.recv().unwrap_or(free(1000)))
        });
        let registry = Registry::new();
        let metrics = DiskMetrics::register(&registry).expect("an empty registry");
        let options = DiskOptions {
            reserve_bytes: 100,
            interval: Duration::from_millis(1),
            ..DiskOptions::default()
        };
        let telling = Box::new(move |event| {
            let _ = sender.send(event);
        });
        let monitor =
            DiskMonitor::start(options, probe, telling, metrics.clone()).expect("a thread");
        assert_eq!(told.try_recv(), Ok(DiskEvent::Full), "told before the start returns");
        assert_eq!((metrics.full.get(), metrics.free_bytes.get()), (1, 0));
        readings.send(free(1000)).expect("the monitor asks again");
        assert_eq!(told.recv(), Ok(DiskEvent::Free));
        drop(readings);
        drop(monitor);
        assert_eq!((metrics.full.get(), metrics.free_bytes.get()), (0, 1000));
        assert!(told.recv().is_err(), "the thread has ended");
    }
}
