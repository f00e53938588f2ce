//! What one connection does besides serving: counting what it holds, and noticing that nothing
//! moves.
//!
//! The timer is armed only while the connection has something to give back or waits for its client,
//! so that thousands of idle connections cost nothing.

use flotilla_shard::{Account, Budget, Part};
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// How often a connection with something to look after looks.
const TICK: Duration = Duration::from_secs(1);

/// Unread replies of all connections are too many beyond this part of the node's budget.
const SCARCE_DIVISOR: u64 = 4;

/// The upkeep of one connection.
#[derive(Debug)]
pub struct Upkeep {
    budget: Budget,
    account: Account,
    /// Bytes of replies that are counted for this connection.
    held_bytes: u64,
    timer: Option<Pin<Box<Sleep>>>,
    /// When bytes last moved, either way.
    moved: Instant,
    /// Something moved since the last tick.
    is_moving: bool,
    /// There is nothing left to give back.
    trimmed: bool,
}

impl Upkeep {
    /// For a connection that has just begun, on a node with `budget`.
    pub fn new(budget: &Budget) -> Upkeep {
        Upkeep {
            budget: budget.clone(),
            account: budget.account(Part::Replies),
            held_bytes: 0,
            timer: None,
            moved: Instant::now(),
            is_moving: false,
            trimmed: true,
        }
    }

    /// Counts `bytes` of replies that the client has not taken.
    pub fn hold(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        if bytes > self.held_bytes {
            self.account.add(bytes - self.held_bytes);
        } else if bytes < self.held_bytes {
            self.account.sub(self.held_bytes - bytes);
        }
        self.held_bytes = bytes;
    }

    /// True if the unread replies of all connections are too many.
    pub fn is_scarce(&self) -> bool {
        self.account.used_bytes() > self.budget.bytes_max() / SCARCE_DIVISOR
    }

    /// True if so many answers are under way that no further rows are fetched.
    pub fn are_answers_scarce(&self) -> bool {
        self.budget.part_bytes(Part::Reads) >= self.budget.bytes_max() / SCARCE_DIVISOR
    }

    /// Notes that bytes were sent or received.
    pub fn note_moved(&mut self) {
        self.is_moving = true;
        self.trimmed = false;
    }

    /// True once per tick while there is something to look after; the caller asks again then, so
    /// that it is woken by the next.
    pub fn poll_tick(&mut self, context: &mut Context<'_>, idle: bool) -> bool {
        if self.timer.is_none() {
            if idle && self.trimmed {
                return false;
            }
            self.timer = Some(Box::pin(tokio::time::sleep(TICK)));
        }
        let timer = self.timer.as_mut().expect("armed above");
        if timer.as_mut().poll(context).is_pending() {
            return false;
        }
        self.timer = None;
        if self.is_moving {
            self.moved = Instant::now();
        }
        true
    }

    /// True if nothing moved since the last tick; asked once per tick, before what is not needed
    /// is given back.
    pub fn has_rested(&mut self) -> bool {
        let rested = !std::mem::take(&mut self.is_moving);
        self.trimmed = rested;
        rested
    }

    /// How long nothing has moved, a tick more or less.
    pub fn stuck_for(&self) -> Duration {
        self.moved.elapsed()
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.hold(0);
    }
}
