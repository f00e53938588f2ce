//! One client: keeps a number of operations under way and counts what becomes of them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::tally::Tally;
use super::{End, Recorder, Token};
use crate::target::{Completion, OperationKind, Outcome, Session};
use crate::workload::{Generator, Inserted, Planned};

/// Answers that a client takes before others on its thread have a turn.
const ANSWERS_PER_TURN: usize = 1_024;

/// What all clients of all threads share.
pub(super) struct Shared {
    /// Nothing is asked before.
    pub(super) begin: Instant,
    /// What is begun from then on counts.
    pub(super) measure_from: Instant,
    /// Nothing is begun from then on.
    pub(super) until: Option<Instant>,
    pub(super) end: End,
    pub(super) keys: u64,
    pub(super) batch: u64,
    /// Operations or keys taken so far, when their number ends the drive.
    pub(super) taken: AtomicU64,
    pub(super) inserted: Arc<Inserted>,
    pub(super) recorder: Option<Arc<dyn Recorder>>,
}

/// What the clients of one thread share.
pub(super) struct Local {
    pub(super) shared: Arc<Shared>,
    pub(super) tally: RefCell<Tally>,
    /// When the latest answer that counts came.
    pub(super) last_answer: Cell<Option<Instant>>,
    /// What is due in an open loop.
    pub(super) backlog: Option<Backlog>,
}

/// What is due on a thread and not begun yet. Any client with room takes the oldest.
#[derive(Default)]
pub(super) struct Backlog {
    pub(super) moments: RefCell<VecDeque<Instant>>,
    /// Nothing more will become due.
    pub(super) is_complete: Cell<bool>,
    /// Clients that have room, in the order in which they shall be woken, so that all take their
    /// turns; each with its mark of being here.
    idle: RefCell<VecDeque<(Rc<Cell<bool>>, Waker)>>,
}

impl Backlog {
    /// Wakes as many idle clients as there are moments, or all when nothing more will come.
    pub(super) fn wake(&self) {
        let mut idle = self.idle.borrow_mut();
        let count = match self.is_complete.get() {
            true => idle.len(),
            false => self.moments.borrow().len().min(idle.len()),
        };
        for (waits, waker) in idle.drain(..count) {
            waits.set(false);
            waker.wake();
        }
    }

    /// Has the task of `context` woken when something is due, unless it `waits` already.
    fn wait(&self, waits: &Rc<Cell<bool>>, context: &Context<'_>) {
        if !waits.replace(true) {
            self.idle.borrow_mut().push_back((Rc::clone(waits), context.waker().clone()));
        }
    }
}

/// An operation under way.
struct Slot {
    intended: Instant,
    kind: OperationKind,
    weight: u64,
    written_bytes: u64,
    insert: Option<u64>,
    token: Option<Token>,
    is_taken: bool,
}

/// One client of a target.
pub(super) struct Client {
    number: usize,
    session: Box<dyn Session>,
    generator: Generator,
    slots: Vec<Slot>,
    free: Vec<usize>,
    done: Vec<Completion>,
    /// There is nothing more to ask.
    is_exhausted: bool,
    /// It will be woken when something is due.
    waits: Rc<Cell<bool>>,
    local: Rc<Local>,
}

impl Client {
    pub(super) fn new(
        number: usize,
        session: Box<dyn Session>,
        generator: Generator,
        pipeline: usize,
        local: Rc<Local>,
    ) -> Client {
        let begin = local.shared.begin;
        let slot = || Slot {
            intended: begin,
            kind: OperationKind::Get,
            weight: 1,
            written_bytes: 0,
            insert: None,
            token: None,
            is_taken: false,
        };
        Client {
            number,
            session,
            generator,
            slots: (0..pipeline).map(|_| slot()).collect(),
            free: (0..pipeline).rev().collect(),
            done: Vec::new(),
            is_exhausted: false,
            waits: Rc::default(),
            local,
        }
    }

    /// When the last operation may begin, if time ends the drive.
    pub(super) fn until(&self) -> Option<Instant> {
        self.local.shared.until
    }

    /// Works until there is nothing more to ask and all was answered.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut answers = 0;
        let mut now = Instant::now();
        loop {
            self.ask(now);
            if self.is_exhausted && self.free.len() == self.slots.len() {
                return Poll::Ready(());
            }
            if let Some(backlog) = &self.local.backlog
                && !self.free.is_empty()
            {
                backlog.wait(&self.waits, context);
            }
            if self.session.poll(context, &mut self.done).is_pending() {
                return Poll::Pending;
            }
            now = Instant::now();
            answers += self.done.len();
            self.count(now);
            if answers >= ANSWERS_PER_TURN {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Begins what there is room for.
    fn ask(&mut self, now: Instant) {
        while let Some(&slot) = self.free.last() {
            let Some((intended, planned)) = self.next(now) else { return };
            self.free.pop();
            let Planned { kind, operation, insert } = planned;
            let recorder = self.local.shared.recorder.as_ref();
            self.slots[slot] = Slot {
                intended,
                kind,
                weight: operation.weight(),
                written_bytes: operation.written_bytes(),
                insert,
                token: recorder.and_then(|recorder| recorder.begin(self.number, &operation)),
                is_taken: true,
            };
            self.session.submit(slot as u64, operation);
        }
    }

    /// The next operation and the moment from which its latency counts; `None` if there is none now.
    fn next(&mut self, now: Instant) -> Option<(Instant, Planned)> {
        if self.is_exhausted {
            return None;
        }
        let shared = &self.local.shared;
        if let Some(backlog) = &self.local.backlog {
            let intended = backlog.moments.borrow_mut().pop_front();
            if intended.is_none() && backlog.is_complete.get() {
                self.is_exhausted = true;
            }
            return intended.map(|intended| (intended, self.generator.plan()));
        }
        self.is_exhausted = match shared.end {
            End::After(_) => shared.until.is_some_and(|until| now >= until),
            End::Operations(count) => {
                now >= shared.measure_from && shared.taken.fetch_add(1, Ordering::Relaxed) >= count
            }
            End::EachKeyOnce => {
                let number = shared.taken.fetch_add(shared.batch, Ordering::Relaxed);
                if number < shared.keys {
                    let operation = match shared.batch {
                        1 => self.generator.put(number),
                        _ => self.generator.put_group(number),
                    };
                    let kind = OperationKind::Put;
                    return Some((now, Planned { kind, operation, insert: None }));
                }
                true
            }
        };
        (!self.is_exhausted).then(|| (now, self.generator.plan()))
    }

    /// Counts what was completed.
    fn count(&mut self, now: Instant) {
        let shared = &self.local.shared;
        let mut tally = self.local.tally.borrow_mut();
        for Completion { tag, outcome } in self.done.drain(..) {
            let at = tag as usize;
            let slot = &mut self.slots[at];
            assert!(std::mem::take(&mut slot.is_taken), "a session completed {tag} twice");
            self.free.push(at);
            if let Some(token) = slot.token.take() {
                let recorder = shared.recorder.as_ref().expect("it gave the token");
                recorder.end(self.number, token, &outcome);
            }
            if let Some(number) = slot.insert {
                shared.inserted.answer(number);
            }
            if slot.intended < shared.measure_from {
                continue;
            }
            self.local.last_answer.set(Some(now));
            match outcome {
                Outcome::Done { value, rows } => {
                    let latency = now.saturating_duration_since(slot.intended);
                    tally.success(slot.kind, latency, slot.weight);
                    tally.written(slot.written_bytes);
                    match slot.kind {
                        OperationKind::Get | OperationKind::ReadModifyWrite if value.is_none() => {
                            tally.miss();
                        }
                        OperationKind::Scan => tally.scanned(rows),
                        _ => {}
                    }
                }
                Outcome::NoEffect(reason) => tally.error(reason, slot.weight),
                Outcome::Unknown(reason) => tally.unknown(reason, slot.weight),
            }
        }
    }

    /// Gives up what was not answered and counts it: nobody knows of writes.
    pub(super) fn give_up(&mut self) {
        let measure_from = self.local.shared.measure_from;
        let mut tally = self.local.tally.borrow_mut();
        for slot in self.slots.iter().filter(|slot| slot.is_taken && slot.intended >= measure_from)
        {
            match slot.kind.is_write() {
                true => tally.unknown("not answered in time".into(), slot.weight),
                false => tally.error("not answered in time".into(), slot.weight),
            }
        }
    }
}

/// How long what was due in an open loop may still be begun after its end. What is not begun then
/// counts as an error.
pub(super) const BACKLOG_TIMEOUT: Duration = Duration::from_secs(1);
