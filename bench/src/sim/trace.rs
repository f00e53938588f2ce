//! A running hash of everything that happens, by which two runs of a seed are compared; and, if asked
//! for, the same in words.
//!
//! What is absent: what is worth noting.

use std::fmt::Arguments;
use std::io::Write;

/// FNV-1a, continued from `hash`.
pub fn hash(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash ^= u64::from(*byte);
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// Where [`hash`] begins.
pub const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// The trace of one life.
pub struct Trace {
    hash: u64,
    events: u64,
    words: Option<Box<dyn Write>>,
}

impl Trace {
    /// An empty trace. What happens is also written to `words`.
    pub fn new(words: Option<Box<dyn Write>>) -> Trace {
        Trace { hash: HASH_START, events: 0, words }
    }

    /// Something happened: numbers that tell it from anything else.
    pub fn note(&mut self, numbers: &[u64]) {
        self.events += 1;
        for number in numbers {
            self.hash = hash(self.hash, &number.to_le_bytes());
        }
    }

    /// The same in words, if anybody reads them. Words are not part of the hash.
    pub fn tell(&mut self, now: u64, words: Arguments<'_>) {
        if let Some(out) = &mut self.words {
            // Who reads along and stops reading does not stop the life.
            let _ = writeln!(out, "{:>12.6} {words}", now as f64 / 1e9);
        }
    }

    /// True if words are read.
    pub fn is_told(&self) -> bool {
        self.words.is_some()
    }

    /// The hash of all so far.
    pub fn value(&self) -> u64 {
        self.hash
    }

    /// How much happened.
    pub fn events(&self) -> u64 {
        self.events
    }
}
