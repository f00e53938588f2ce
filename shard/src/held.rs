//! Answers that are counted for as long as anybody holds them.
//!
//! A request pays for its own bytes at the door; how large its answer will be nobody knows there.
//! A value that was read from the store is memory of its own from then on, until the last who holds
//! it lets go: a channel, a connection whose client does not read. So each such value carries its
//! own receipt.
//!
//! Invariants:
//!
//! * What is added to the account is taken off exactly once, when the last clone or slice of the
//!   value is dropped, wherever that happens.
//! * What callers in this process keep holds a small part of the budget at most: an application
//!   may collect as much as it likes without closing the door to itself.
//!
//! * While many bytes of answers are held, no further large one is made, wherever its rows lie: a
//!   row above the store shares its memory with the answer only until it is overwritten, and an
//!   answer on its way to another node is copied. Small ones are always made.
//!
//! What is absent: putting reads off until there is room (`lane`, `perform`).

use crate::budget::{Account, Budget, Part};
use crate::command::Entry;
use crate::request::Answer;
use bytes::Bytes;
use std::time::Duration;

/// Smaller values are not worth a receipt of their own; a page of them is bounded by its size.
const COUNTED_BYTES_MIN: usize = 4 << 10;

/// Values that callers keep may hold this part of the budget. Less than what puts reads off.
const KEPT_PART: u64 = 8;

/// Answers made and not yet taken may hold this part of the node's budget before further large
/// ones are made: how large a row is shows only when it has been found.
const ANSWERS_PART: u64 = 4;

/// Reads that were put off may fill as much again, one after another in the order in which they
/// came: clients take their answers in that order, and those of later reads must not keep an
/// earlier one from its own.
const PUT_OFF_PART: u64 = 2;

/// How long a read may be put off because of that.
const PUT_OFF_MAX: Duration = Duration::from_secs(2);

/// When a large answer may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chance {
    Now,
    /// When fewer answers are under way.
    Later,
    /// It was put off for too long.
    Never,
}

impl Chance {
    /// For a read that entered the node so long ago, and perhaps was put off before.
    pub(crate) fn of(budget: &Budget, waited: Duration, was_put_off: bool) -> Chance {
        let part = if was_put_off { PUT_OFF_PART } else { ANSWERS_PART };
        if budget.part_bytes(Part::Reads) < budget.bytes_max() / part {
            Chance::Now
        } else if waited < PUT_OFF_MAX {
            Chance::Later
        } else {
            Chance::Never
        }
    }
}

/// True if some value of `answer` is large enough to be counted by [`hold`].
pub(crate) fn is_large(answer: &Answer) -> bool {
    let counts = |entry: &Entry| is_counted(&entry.value);
    match answer {
        Answer::Value(entry) => entry.as_ref().is_some_and(counts),
        Answer::Values(entries) => entries.iter().flatten().any(counts),
        Answer::Page { rows, .. } => rows.iter().any(|(_, entry)| counts(entry)),
        Answer::Written(_) | Answer::Count(_) => false,
    }
}

/// True if a value of this size is counted by [`hold`].
pub fn is_counted(value: &Bytes) -> bool {
    value.len() >= COUNTED_BYTES_MIN
}

/// Bytes that are counted while they live.
struct Held {
    bytes: Bytes,
    account: Account,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.sub(self.bytes.len() as u64);
    }
}

/// Counts the large values of `answer` in `account` until they are dropped.
pub fn hold(mut answer: Answer, account: &Account) -> Answer {
    let hold = |value: &mut Bytes| {
        if is_counted(value) {
            account.add(value.len() as u64);
            let held = Held { bytes: std::mem::take(value), account: account.clone() };
            *value = Bytes::from_owner(held);
        }
    };
    match &mut answer {
        Answer::Value(entry) => entry.iter_mut().for_each(|entry| hold(&mut entry.value)),
        Answer::Values(entries) => {
            entries.iter_mut().flatten().for_each(|entry| hold(&mut entry.value));
        }
        Answer::Page { rows, .. } => rows.iter_mut().for_each(|(_, entry)| hold(&mut entry.value)),
        Answer::Written(_) | Answer::Count(_) => {}
    }
    answer
}

/// Gives a value of an answer to a caller in this process, who may keep it for ever.
///
/// That costs a copy, which is nobody's but the caller's, as soon as the values that are held take
/// a noticeable part of `budget`.
pub fn release(value: Bytes, budget: &Budget) -> Bytes {
    let are_many = budget.part_bytes(Part::Reads) >= budget.bytes_max() / KEPT_PART;
    match are_many && is_counted(&value) {
        true => Bytes::copy_from_slice(&value),
        false => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_answers_are_made_while_few_are_under_way() {
        let budget = Budget::new(400);
        let answers = budget.account(Part::Reads);
        let (soon, late) = (Duration::ZERO, PUT_OFF_MAX);
        assert_eq!(Chance::of(&budget, late, false), Chance::Now);
        answers.add(99);
        assert_eq!(Chance::of(&budget, soon, false), Chance::Now);
        answers.add(1);
        assert_eq!(Chance::of(&budget, soon, false), Chance::Later);
        assert_eq!(Chance::of(&budget, late, false), Chance::Never);
        answers.add(99);
        assert_eq!(Chance::of(&budget, soon, true), Chance::Now, "who was put off comes first");
        answers.add(1);
        assert_eq!(Chance::of(&budget, soon, true), Chance::Later);
        answers.sub(200);
        assert_eq!(Chance::of(&budget, soon, false), Chance::Now);
    }

    #[test]
    fn a_value_counts_until_the_last_who_holds_it_lets_go() {
        let budget = Budget::new(1 << 30);
        let account = budget.account(Part::Reads);
        let entry = |bytes| {
            Some(Entry { value: Bytes::from(vec![7; bytes]), version: 1, expires_at_ms: None })
        };
        let answer = Answer::Values(vec![entry(10_000), None, entry(10), entry(20_000)]);
        let held = hold(answer.clone(), &account);
        assert_eq!(held, answer);
        assert_eq!(account.used_bytes(), 30_000);
        let Answer::Values(values) = held else { unreachable!("it was made so") };
        let slice = values[3].as_ref().map(|entry| entry.value.slice(5..7)).unwrap();
        drop(values);
        assert_eq!((account.used_bytes(), &slice[..]), (20_000, &[7, 7][..]));
        drop(slice);
        assert_eq!(account.used_bytes(), 0);
    }

    /// An application may collect more than all of the node's budget.
    #[test]
    fn what_a_caller_keeps_holds_little_of_the_budget() {
        let budget = Budget::new(800_000);
        let account = budget.account(Part::Reads);
        let kept: Vec<Bytes> = (0..100)
            .map(|_| {
                let value = Bytes::from(vec![7; 10_000]);
                let entry = Some(Entry { value, version: 1, expires_at_ms: None });
                let Answer::Value(Some(held)) = hold(Answer::Value(entry), &account) else {
                    unreachable!("it was made so")
                };
                release(held.value, &budget)
            })
            .collect();
        assert!(kept.iter().all(|value| value == &[7; 10_000][..]));
        assert!(account.used_bytes() <= 100_000, "{} are held", account.used_bytes());
        assert!(account.used_bytes() > 0, "a few cost no copy");
        drop(kept);
        assert_eq!(account.used_bytes(), 0);
    }
}
