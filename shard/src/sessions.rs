//! Which writes of which sessions a shard has applied, and what it answered: a retry is recognized
//! and gets the first answer.
//!
//! Invariants:
//!
//! * A sequence at or above its session's lowest is applied at most once, and every repeat gets
//!   what the first one got.
//! * Whoever is forgotten raises the watermark: a session that may once have been known is never
//!   admitted as a new one.
//! * Everything follows from the commands alone, so all replicas hold the same table. The limits
//!   are part of the format.
//!
//! What is absent: clocks (time is the commands' stamps), and routing refusals, which are never
//! recorded.

use crate::codec::{DecodeError, Reader, Writer};
use crate::command::WriteOutcome;
use std::collections::{BTreeMap, VecDeque};

/// The sessions that a shard knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionTable {
    sessions: BTreeMap<u64, Session>,
    watermark_ms: u64,
}

/// One session: a router's lane in one boot, or whatever a client named.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    born_ms: u64,
    used_ms: u64,
    lowest: u64,
    /// In ascending order of sequence, none below `lowest`.
    answers: VecDeque<(u64, WriteOutcome)>,
}

impl SessionTable {
    /// How many sessions are known.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// True if no session is known.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// An unknown session is admitted only if it was born after this, in milliseconds since the
    /// Unix epoch.
    pub fn watermark_ms(&self) -> u64 {
        self.watermark_ms
    }

    /// Appends the table's bytes to `out`.
    pub fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.watermark_ms);
        out.u32(self.sessions.len() as u32);
        for (id, session) in &self.sessions {
            out.u64(*id);
            out.u64(session.born_ms);
            out.u64(session.used_ms);
            out.u64(session.lowest);
            out.u32(session.answers.len() as u32);
            for (sequence, outcome) in &session.answers {
                out.u64(*sequence);
                outcome.encode(out);
            }
        }
    }

    /// Reads what [`SessionTable::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when bytes are missing or make no sense.
    pub fn decode(input: &mut Reader) -> Result<SessionTable, DecodeError> {
        let watermark_ms = input.u64()?;
        let count = input.count(8 * 4 + 4)?;
        let mut sessions = BTreeMap::new();
        for _ in 0..count {
            let id = input.u64()?;
            let (born_ms, used_ms, lowest) = (input.u64()?, input.u64()?, input.u64()?);
            let answers_count = input.count(8 + 2)?;
            let mut answers = VecDeque::with_capacity(answers_count);
            let mut least = lowest;
            for _ in 0..answers_count {
                let sequence = input.u64()?;
                if sequence < least {
                    return Err(DecodeError("answers of a session are out of order"));
                }
                least = sequence.saturating_add(1);
                answers.push_back((sequence, WriteOutcome::decode(input)?));
            }
            let session = Session { born_ms, used_ms, lowest, answers };
            if sessions.insert(id, session).is_some() {
                return Err(DecodeError("a session is listed twice"));
            }
        }
        Ok(SessionTable { sessions, watermark_ms })
    }
}
