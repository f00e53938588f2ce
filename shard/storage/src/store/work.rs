//! The checkpoint thread's work without the thread: for simulations, which have one thread and
//! decide themselves when something is done.
//!
//! What is absent: the work (`worker`), and time: a pause is told, not made.

use std::time::Duration;

use crossbeam_channel::Receiver;

use super::worker::{Message, Worker};

/// When [`CheckpointWork::turn`] is to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextTurn {
    /// There is more to do.
    Now,
    /// The disk fails: after so long, or when something was handed in.
    After(Duration),
    /// When something was handed in.
    WhenAsked,
    /// Never: it met a broken invariant of its own, and has said so.
    Never,
}

/// What [`Checkpointer`](super::Checkpointer) does, to be done by its owner.
pub struct CheckpointWork {
    worker: Worker,
    receiver: Receiver<Message>,
    has_failed: bool,
}

impl CheckpointWork {
    pub(super) fn new(worker: Worker, receiver: Receiver<Message>) -> CheckpointWork {
        CheckpointWork { worker, receiver, has_failed: false }
    }

    /// True if something was handed in since the last turn.
    pub fn is_asked(&self) -> bool {
        !self.receiver.is_empty() && !self.has_failed
    }

    /// One checkpoint of all that was submitted, one step of an import, or, while the disk fails,
    /// another attempt at it. Blocks for the disk.
    pub fn turn(&mut self) -> NextTurn {
        if self.has_failed {
            return NextTurn::Never;
        }
        self.worker.take_in(self.receiver.try_iter());
        if self.worker.pause().is_none() && self.worker.is_idle() {
            return NextTurn::WhenAsked;
        }
        self.has_failed = !self.worker.attend();
        match self.worker.pause() {
            _ if self.has_failed => NextTurn::Never,
            Some(pause) => NextTurn::After(pause),
            None if self.worker.is_idle() => NextTurn::WhenAsked,
            None => NextTurn::Now,
        }
    }
}
