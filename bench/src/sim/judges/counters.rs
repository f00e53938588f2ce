//! Exactly once: counters that clients increase by one.
//!
//! Each answer is the counter's value after the increment, so no two answers of a counter are equal.
//! At any time a value lies between the number of increments that were answered before it was read and
//! the number of those that were asked and not refused for certain.

use std::collections::{BTreeMap, BTreeSet};

use super::{Rule, Violation};

#[derive(Debug, Default)]
struct Counter {
    asked: u64,
    refused: u64,
    answers: BTreeSet<u64>,
}

impl Counter {
    fn possible(&self) -> u64 {
        self.asked - self.refused
    }
}

/// All counters, by key.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counters: BTreeMap<Vec<u8>, Counter>,
}

impl Counters {
    fn counter(&mut self, key: &[u8]) -> &mut Counter {
        if !self.counters.contains_key(key) {
            self.counters.insert(key.to_vec(), Counter::default());
        }
        self.counters.get_mut(key).expect("just inserted")
    }

    pub(super) fn asked(&mut self, key: &[u8]) {
        self.counter(key).asked += 1;
    }

    pub(super) fn refused(&mut self, key: &[u8]) -> Result<(), Violation> {
        let counter = self.counter(key);
        counter.refused += 1;
        if counter.refused + counter.answers.len() as u64 <= counter.asked {
            return Ok(());
        }
        Err(broken(key, "has more answers and refusals than increments".to_owned()))
    }

    pub(super) fn answered(&mut self, key: &[u8], value: u64) -> Result<(), Violation> {
        let counter = self.counter(key);
        if !counter.answers.insert(value) {
            return Err(broken(key, format!("two increments were answered with {value}")));
        }
        let possible = counter.possible();
        if value == 0 || value > possible {
            let text = format!("an increment gave {value}, but only {possible} can have counted");
            return Err(broken(key, text));
        }
        Ok(())
    }

    /// The value of the counter when nothing is under way any more.
    pub(super) fn ended_at(&mut self, key: &[u8], value: u64) -> Result<(), Violation> {
        let counter = self.counter(key);
        let (least, most) = (counter.answers.len() as u64, counter.possible());
        let highest = counter.answers.last().copied().unwrap_or(0);
        if value < least.max(highest) {
            let text = format!(
                "is {value} in the end, but {least} increments were answered, up to {highest}"
            );
            return Err(broken(key, text));
        }
        if value > most {
            let text = format!("is {value} in the end, but only {most} can have counted");
            return Err(broken(key, text));
        }
        Ok(())
    }
}

fn broken(key: &[u8], text: String) -> Violation {
    let key = String::from_utf8_lossy(key);
    Violation::new(Rule::ExactlyOnce, format!("counter {key}: {text}"))
}
