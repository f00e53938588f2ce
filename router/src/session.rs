//! Names every write that leaves this router, so that a shard can recognize a repetition.
//!
//! A session counts its writes over all shards and knows below which number all of them are
//! finished: answered to their callers, whatever the answer was, and never to be sent again. Shards
//! may forget what they remember below that number.
//!
//! A node has a few sessions, and a thread always uses the same one: threads would otherwise fight
//! over one counter.
//!
//! Invariants:
//!
//! * A sequence is used once, by one write, over all shards, in one session; sessions are drawn at
//!   random at every start and never resumed. One that a shard has forgotten is replaced.
//! * `lowest_unacknowledged` never exceeds a sequence that is not finished, and only grows.
//!
//! What is absent: the shards' side of exactly-once, and retries.

use crate::environment::Environment;
use arc_swap::ArcSwap;
use flotilla_shard::Origin;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Sessions of one router; a power of two.
const SESSIONS: usize = 8;

/// The sessions of one router.
#[derive(Debug)]
pub struct Sessions {
    sessions: Vec<ArcSwap<Session>>,
}

impl Sessions {
    /// Fresh sessions, born now, with random names.
    pub fn new(environment: &dyn Environment) -> Sessions {
        let born_ms = environment.wall_ms();
        let fresh = |_| ArcSwap::from_pointee(Session::fresh(born_ms, environment));
        Sessions { sessions: (0..SESSIONS).map(fresh).collect() }
    }

    /// Names a write of the thread that `slot` stands for. It counts as unfinished until the ticket
    /// is dropped.
    pub fn begin(&self, slot: usize) -> Ticket {
        Session::begin(&self.sessions[slot & (SESSIONS - 1)].load())
    }

    /// Names anew a write that a shard did not take as `expired`, because it admits only sessions
    /// born after `watermark_ms`. The session at fault is replaced for all later writes, once,
    /// however many of its writes come back.
    pub fn renew(
        &self,
        expired: &Origin,
        watermark_ms: u64,
        environment: &dyn Environment,
    ) -> Ticket {
        let is_it = |session: &Session| session.id == expired.session;
        let slot = self.sessions.iter().find(|slot| is_it(&slot.load()));
        let Some(slot) = slot else {
            // Replaced meanwhile, and whoever did so knew at least one shard's watermark.
            let young = self.sessions.iter().find(|slot| slot.load().born_ms > watermark_ms);
            return match young {
                Some(slot) => Session::begin(&slot.load()),
                None => self.replace(&self.sessions[0], watermark_ms, environment),
            };
        };
        self.replace(slot, watermark_ms, environment)
    }

    fn replace(
        &self,
        slot: &ArcSwap<Session>,
        watermark_ms: u64,
        environment: &dyn Environment,
    ) -> Ticket {
        let born_ms = environment.wall_ms().max(watermark_ms.saturating_add(1));
        let fresh = Arc::new(Session::fresh(born_ms, environment));
        let ticket = Session::begin(&fresh);
        slot.store(fresh);
        ticket
    }
}

/// One session: a name, a counter, and which of the counted are finished.
#[derive(Debug)]
struct Session {
    id: u64,
    born_ms: u64,
    next: AtomicU64,
    /// A copy of the window's lowest unfinished sequence, to be read without the lock. It may lag.
    lowest: AtomicU64,
    window: Mutex<Window>,
}

impl Session {
    fn fresh(born_ms: u64, environment: &dyn Environment) -> Session {
        // 0 means "no session".
        Session::new(environment.random().max(1), born_ms)
    }

    fn new(id: u64, born_ms: u64) -> Session {
        Session {
            id,
            born_ms,
            next: AtomicU64::new(1),
            lowest: AtomicU64::new(1),
            window: Mutex::new(Window::new()),
        }
    }

    fn begin(session: &Arc<Session>) -> Ticket {
        let sequence = session.next.fetch_add(1, Ordering::Relaxed);
        // A lagging copy is lower than the truth, which is always safe.
        let lowest_unacknowledged = session.lowest.load(Ordering::Acquire);
        assert!(lowest_unacknowledged <= sequence, "an unfinished write was reported finished");
        let origin = Origin {
            session: session.id,
            session_born_ms: session.born_ms,
            sequence,
            lowest_unacknowledged,
        };
        Ticket { session: session.clone(), origin }
    }

    fn finish(&self, sequence: u64) {
        let mut window = self.window.lock();
        let lowest = window.finish(sequence);
        // Stored under the lock, so that copies only grow.
        self.lowest.store(lowest, Ordering::Release);
    }
}

/// One write on its way. Dropping it says: its caller has an answer, or has gone; it will not be
/// sent again.
#[derive(Debug)]
pub struct Ticket {
    session: Arc<Session>,
    origin: Origin,
}

impl Ticket {
    /// What the write carries to its shard; the same for every attempt.
    pub fn origin(&self) -> Origin {
        self.origin
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.finish(self.origin.sequence);
    }
}

/// Finished sequences at or above the lowest unfinished one: a bit each.
///
/// One write stuck for five seconds behind a million writes a second costs 640 KiB, and gives them
/// back when it ends.
#[derive(Debug)]
struct Window {
    /// The sequence of the first bit; a multiple of 64.
    base: u64,
    /// Set: finished. The first word is never full.
    words: VecDeque<u64>,
}

impl Window {
    /// Sequence 0 does not exist and counts as finished.
    fn new() -> Window {
        Window { base: 0, words: VecDeque::from([1]) }
    }

    /// Marks `sequence` and returns the lowest that is not finished.
    fn finish(&mut self, sequence: u64) -> u64 {
        assert!(sequence >= self.base, "a write was finished twice");
        let offset = sequence - self.base;
        let word = usize::try_from(offset / 64).expect("a window fits the address space");
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (offset % 64);
        assert_eq!(self.words[word] & bit, 0, "a write was finished twice");
        self.words[word] |= bit;
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            self.base += 64;
        }
        self.base + self.words.front().map_or(0, |word| u64::from(word.trailing_ones()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::thread_slot;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};
    use tokio::sync::oneshot;

    /// A clock that stands at 1, and the system's chance.
    struct Fixed;

    impl Environment for Fixed {
        fn now(&self) -> Instant {
            Instant::now()
        }

        fn wall_ms(&self) -> u64 {
            1
        }

        fn random(&self) -> u64 {
            rand::random()
        }

        fn thread_slot(&self) -> usize {
            thread_slot()
        }

        fn after(&self, _: Duration) -> oneshot::Receiver<()> {
            oneshot::channel().1
        }
    }

    #[test]
    fn the_lowest_waits_for_the_oldest_write() {
        let session = Arc::new(Session::new(7, 1));
        let first = Session::begin(&session);
        let others: Vec<Ticket> = (0..200).map(|_| Session::begin(&session)).collect();
        assert_eq!(first.origin().sequence, 1);
        drop(others);
        let late = Session::begin(&session);
        assert_eq!(late.origin().lowest_unacknowledged, 1);
        drop(first);
        let later = Session::begin(&session);
        assert_eq!(later.origin().lowest_unacknowledged, late.origin().sequence);
        drop(late);
        assert_eq!(Session::begin(&session).origin().lowest_unacknowledged, 203);
    }

    #[test]
    fn threads_share_no_sequence() {
        let sessions = Sessions::new(&Fixed);
        let origins: Vec<Origin> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..20)
                .map(|_| {
                    scope.spawn(|| {
                        (0..500).map(|_| sessions.begin(thread_slot()).origin()).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let names: BTreeSet<(u64, u64)> =
            origins.iter().map(|origin| (origin.session, origin.sequence)).collect();
        assert_eq!(names.len(), origins.len());
        assert!(origins.iter().all(|origin| origin.session != 0 && origin.session_born_ms == 1));
        assert!(origins.iter().all(|origin| origin.lowest_unacknowledged <= origin.sequence));
    }

    #[test]
    fn a_forgotten_session_is_replaced_once_for_all_its_writes() {
        let sessions = Sessions::new(&Fixed);
        let (first, second) = (sessions.begin(thread_slot()), sessions.begin(thread_slot()));
        let far = u64::MAX / 2;
        let renewed = sessions.renew(&first.origin(), far, &Fixed);
        assert_ne!(renewed.origin().session, first.origin().session);
        assert!(renewed.origin().session_born_ms > far);
        let again = sessions.renew(&second.origin(), far, &Fixed);
        assert_eq!(again.origin().session, renewed.origin().session, "the same fresh one");
        assert_ne!(again.origin().sequence, renewed.origin().sequence);
        assert_eq!(sessions.begin(thread_slot()).origin().session, renewed.origin().session);
        // Another shard has forgotten even later ones.
        let later = sessions.renew(&second.origin(), far * 2, &Fixed);
        assert!(later.origin().session_born_ms > far * 2);
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set(order in Just((1..300u64).collect::<Vec<_>>()).prop_shuffle())
        {
            let mut window = Window::new();
            let mut unfinished: BTreeSet<u64> = (1..=300).collect();
            for sequence in order {
                unfinished.remove(&sequence);
                prop_assert_eq!(window.finish(sequence), *unfinished.first().unwrap());
            }
            prop_assert!(window.words.len() <= 1, "finished sequences keep no memory");
        }
    }
}
