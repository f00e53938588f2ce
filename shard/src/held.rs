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
//! What is absent: values that share memory with rows above the store; they cost nothing more.

use crate::budget::{Account, Budget, Part};
use crate::request::Answer;
use bytes::Bytes;

/// Smaller values are not worth a receipt of their own; a page of them is bounded by its size.
const COUNTED_BYTES_MIN: usize = 4 << 10;

/// Values that callers keep may hold this part of the budget. Less than what puts reads off.
const KEPT_PART: u64 = 8;

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
        if value.len() >= COUNTED_BYTES_MIN {
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
    match are_many && value.len() >= COUNTED_BYTES_MIN {
        true => Bytes::copy_from_slice(&value),
        false => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Entry;

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
