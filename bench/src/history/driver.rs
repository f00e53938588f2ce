//! The driver's operations as those of a history.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::drive;
use crate::target::{Operation, Outcome};

use super::record::{Called, Recorder, Returned, Token};

/// Set in tokens of operations that are several in the history.
const SEVERAL: u64 = 1 << 63;

/// Records what a driver does.
///
/// A put of several keys is a put of each of them: what it promises beyond, that all or none are
/// written, is not judged. A read-modify-write of the driver is a get and a put by two requests, of
/// which the history knows that both lie between its beginning and its end.
pub struct DriverRecorder {
    recorder: Recorder,
    next_several: AtomicU64,
    several: Mutex<HashMap<u64, Vec<Token>>>,
}

impl DriverRecorder {
    /// Records with `recorder`, which stays the caller's to finish.
    pub fn new(recorder: Recorder) -> DriverRecorder {
        DriverRecorder { recorder, next_several: AtomicU64::new(0), several: Mutex::default() }
    }

    fn begin_several<'a>(
        &self,
        client: u64,
        parts: impl IntoIterator<Item = (&'a [u8], Called<'a>)>,
    ) -> Option<drive::Token> {
        let begun =
            parts.into_iter().filter_map(|(key, called)| self.recorder.begin(client, key, called));
        let begun: Vec<Token> = begun.collect();
        if begun.is_empty() {
            return None;
        }
        let number = self.next_several.fetch_add(1, Ordering::Relaxed) | SEVERAL;
        self.several.lock().expect("nobody panics while holding it").insert(number, begun);
        Some(drive::Token(number))
    }
}

impl drive::Recorder for DriverRecorder {
    fn begin(&self, client: usize, operation: &Operation) -> Option<drive::Token> {
        let client = client as u64;
        let one = |key: &[u8], called| {
            self.recorder.begin(client, key, called).map(|token| drive::Token(token.number()))
        };
        match operation {
            Operation::Get { key } => one(key, Called::Get),
            Operation::Put { key, value } => one(key, Called::Put(value)),
            Operation::Delete { key } => one(key, Called::Delete),
            Operation::Scan { start, .. } => one(start, Called::Scan),
            Operation::CompareAndSwap { key, old, new } => {
                one(key, Called::CompareAndSwap { old: old.as_deref(), new })
            }
            Operation::ReadModifyWrite { key, value } => {
                let parts = [(&key[..], Called::Get), (&key[..], Called::Put(value))];
                self.begin_several(client, parts)
            }
            Operation::PutMany { pairs } => {
                let sampled = pairs.iter().find(|(key, _)| self.recorder.wants(key));
                let mark = sampled.map(|(key, _)| (&key[..], Called::Batch));
                let puts = pairs.iter().map(|(key, value)| (&key[..], Called::Put(value)));
                self.begin_several(client, mark.into_iter().chain(puts))
            }
        }
    }

    fn end(&self, _client: usize, token: drive::Token, outcome: &Outcome) {
        let read = match outcome {
            Outcome::Done { value, .. } => value.as_deref(),
            Outcome::NoEffect(_) | Outcome::Unknown(_) => None,
        };
        let end = |token| {
            let returned = match outcome {
                Outcome::Done { .. } => Returned::Done(read),
                Outcome::NoEffect(_) => Returned::NoEffect,
                Outcome::Unknown(_) => Returned::Unknown,
            };
            self.recorder.end(token, returned);
        };
        if token.0 & SEVERAL == 0 {
            return end(Token::from_number(token.0));
        }
        let parts = self.several.lock().expect("nobody panics while holding it").remove(&token.0);
        parts.expect("an operation ends once").into_iter().for_each(end);
    }
}
