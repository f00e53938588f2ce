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

/// Unread replies, and answers on their way to become some, hold no more than this part of it.
const FULL_DIVISOR: u64 = 2;

/// The upkeep of one connection.
#[derive(Debug)]
pub struct Upkeep {
    budget: Budget,
    account: Account,
    /// Bytes of replies that are counted for this connection.
    held_bytes: u64,
    expected: Account,
    /// Bytes of answers that are counted as expected by this connection.
    expected_bytes: u64,
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
            expected: budget.account(Part::Expected),
            expected_bytes: 0,
            timer: None,
            moved: Instant::now(),
            is_moving: false,
            trimmed: true,
        }
    }

    /// Counts `bytes` of replies that the client has not taken.
    pub fn hold(&mut self, bytes: usize) {
        count(&self.account, &mut self.held_bytes, bytes as u64);
    }

    /// Counts `bytes` of answers that the connection has asked for and not turned into replies.
    pub fn expect(&mut self, bytes: usize) {
        count(&self.expected, &mut self.expected_bytes, bytes as u64);
    }

    /// True if another answer of about `bytes` may be asked for although one is under way: the
    /// answers that all connections hold or expect leave room for it.
    pub fn has_room_for_answer(&self, bytes: usize) -> bool {
        let held = self.budget.part_bytes(Part::Reads) + self.expected.used_bytes();
        held + bytes as u64 <= self.budget.bytes_max() / SCARCE_DIVISOR
    }

    /// True if all connections together hold so many answers and replies that the door would soon be
    /// closed to those who take theirs: no further large reply is made.
    pub fn is_full(&self) -> bool {
        let held = self.budget.part_bytes(Part::Reads) + self.account.used_bytes();
        held > self.budget.bytes_max() / FULL_DIVISOR
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
        self.expect(0);
    }
}

/// Sets what is counted in `account` from `counted` to `bytes`.
fn count(account: &Account, counted: &mut u64, bytes: u64) {
    if bytes > *counted {
        account.add(bytes - *counted);
    } else if bytes < *counted {
        account.sub(*counted - bytes);
    }
    *counted = bytes;
}
