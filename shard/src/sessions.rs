//! Which writes of which sessions a shard has applied, and what it answered: a retry is recognized
//! and gets the first answer.
//!
//! Invariants:
//!
//! * A sequence of a session is applied at most once. Every repeat gets what the first one got, or
//!   is told that the answer is no longer kept.
//! * Whoever is forgotten raises the watermark: a session that may once have been known is never
//!   admitted as a new one.
//! * Everything follows from the commands alone, so all replicas hold the same table at the same
//!   index. The limits below are therefore part of the format.
//! * Looking up changes nothing: a command that waits for rows is looked up again.
//!
//! What is absent: clocks (time is the commands' stamps), and routing refusals, which are never
//! recorded.

use crate::codec::{DecodeError, Reader, Writer};
use crate::command::{CommandFailure, Origin, WriteOutcome};
use flotilla_mutation::{Mutation, planted};
use std::collections::{BTreeMap, VecDeque};

/// A session that has not been heard of for this long is forgotten.
pub const SESSION_IDLE_MS: u64 = 3_600_000;

/// At most this many sessions are known at a time.
pub const SESSIONS_MAX: usize = 4096;

/// At most this many bytes of answers are kept, counted as [`ANSWER_BYTES`] each, and for each step
/// of an atomic write, and the values that they carry.
pub const ANSWERS_BYTES_MAX: u64 = 4 << 20;

/// What an answer, or a step of one, counts for besides its values.
pub const ANSWER_BYTES: u64 = 64;

/// Idle sessions are looked for when a stamp enters another stretch of this length.
const SWEEP_MS: u64 = 60_000;

/// Whom a session belongs to: its id, and its birth so that a name may be used again.
type SessionKey = (u64, u64);

/// The sessions that a shard knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionTable {
    sessions: BTreeMap<SessionKey, Session>,
    watermark_ms: u64,
    /// What all answers count for.
    bytes: u64,
}

/// One session: a router's lane in one boot, or whatever a client named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    /// The stamp of its last command.
    used_ms: u64,
    /// Everything below has been answered to its caller, or its answer is no longer kept.
    lowest: u64,
    /// What the answers count for.
    bytes: u64,
    /// In ascending order of sequence, none below `lowest`.
    answers: VecDeque<(u64, WriteOutcome)>,
}

/// What the table knows about a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// It is to be applied, and then recorded.
    Never,
    /// It has been applied and was answered with this.
    Answered(&'a WriteOutcome),
    /// It must not be applied: it may have been.
    Refused(CommandFailure),
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

    /// What the kept answers count for.
    pub fn answers_bytes(&self) -> u64 {
        self.bytes
    }

    /// An unknown session is admitted only if it was born after this, in milliseconds since the
    /// Unix epoch.
    pub fn watermark_ms(&self) -> u64 {
        self.watermark_ms
    }

    /// What is known about the write of `origin`.
    pub fn look_up(&self, origin: &Origin) -> Seen<'_> {
        if origin.session == 0 {
            return Seen::Never;
        }
        let Some(session) = self.sessions.get(&key(origin)) else {
            let watermark_ms = self.watermark_ms;
            let may_be_known = origin.session_born_ms <= watermark_ms;
            if may_be_known && !planted(Mutation::AdmitEvictedSession) {
                return Seen::Refused(CommandFailure::SessionExpired { watermark_ms });
            }
            return match origin.sequence < origin.lowest_unacknowledged {
                true => Seen::Refused(CommandFailure::Acknowledged),
                false => Seen::Never,
            };
        };
        if origin.sequence < session.lowest.max(origin.lowest_unacknowledged) {
            return Seen::Refused(CommandFailure::Acknowledged);
        }
        match session.find(origin.sequence) {
            Ok(at) => Seen::Answered(&session.answers[at].1),
            Err(_) => Seen::Never,
        }
    }

    /// A repeat was answered: its session is in use.
    pub fn touch(&mut self, origin: &Origin, stamp_ms: u64) {
        if let Some(session) = self.sessions.get_mut(&key(origin)) {
            session.used_ms = stamp_ms;
            self.bytes -= session.acknowledge(origin.lowest_unacknowledged);
        }
    }

    /// The write of `origin`, never seen before, was applied and gets `outcome` for an answer.
    pub fn record(&mut self, origin: &Origin, stamp_ms: u64, outcome: &WriteOutcome) {
        if origin.session == 0 {
            return;
        }
        let key = key(origin);
        let is_new = !self.sessions.contains_key(&key);
        if is_new && self.sessions.len() >= SESSIONS_MAX {
            // Several at once, so that looking for them costs little for each newcomer.
            self.evict_least_recent(key, |table| table.len() > SESSIONS_MAX / 8 * 7);
        }
        let session = self.sessions.entry(key).or_default();
        session.used_ms = stamp_ms;
        self.bytes -= session.acknowledge(origin.lowest_unacknowledged);
        self.bytes += session.insert(origin.sequence, outcome.clone());
        if self.bytes > ANSWERS_BYTES_MAX {
            self.shrink(key);
        }
    }

    /// Time has passed: sessions that have been idle for too long are forgotten.
    pub fn advance(&mut self, from_ms: u64, to_ms: u64) {
        if from_ms / SWEEP_MS == to_ms / SWEEP_MS {
            return;
        }
        let idle = |session: &Session| session.used_ms.saturating_add(SESSION_IDLE_MS) < to_ms;
        let sessions = self.sessions.iter().filter(|(_, session)| idle(session));
        let doomed: Vec<SessionKey> = sessions.map(|(key, _)| *key).collect();
        doomed.into_iter().for_each(|key| self.evict(key));
    }

    /// Too many bytes of answers: the session at hand gives up answers when it holds more than its
    /// share, else the sessions that were used least recently go.
    fn shrink(&mut self, key: SessionKey) {
        let share = ANSWERS_BYTES_MAX / self.sessions.len() as u64;
        let session = self.sessions.get_mut(&key).expect("the session at hand");
        if session.bytes > share {
            self.bytes -= session.shrink(share / 2);
        }
        if self.bytes > ANSWERS_BYTES_MAX {
            self.evict_least_recent(key, |table| table.bytes > ANSWERS_BYTES_MAX / 8 * 7);
        }
    }

    /// Forgets sessions, but never `spared`, in the order in which they were used while `goes_on`.
    fn evict_least_recent(&mut self, spared: SessionKey, goes_on: impl Fn(&Self) -> bool) {
        let sessions = self.sessions.iter().filter(|(key, _)| **key != spared);
        let mut by_use: Vec<_> = sessions.map(|(key, session)| (session.used_ms, *key)).collect();
        by_use.sort_unstable();
        for (_, key) in by_use {
            if !goes_on(self) {
                break;
            }
            self.evict(key);
        }
    }

    fn evict(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.remove(&key) {
            self.watermark_ms = self.watermark_ms.max(key.1);
            self.bytes -= session.bytes;
        }
    }

    /// Appends the table's bytes to `out`.
    pub fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.watermark_ms);
        out.u32(self.sessions.len() as u32);
        for ((id, born_ms), session) in &self.sessions {
            out.u64(*id);
            out.u64(*born_ms);
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
        let mut table = SessionTable { watermark_ms: input.u64()?, ..SessionTable::default() };
        for _ in 0..input.count(4 * 8 + 4)? {
            let key = (input.u64()?, input.u64()?);
            let session = Session::decode(input)?;
            table.bytes += session.bytes;
            if table.sessions.insert(key, session).is_some() {
                return Err(DecodeError("a session is listed twice"));
            }
        }
        Ok(table)
    }
}

impl Session {
    fn find(&self, sequence: u64) -> Result<usize, usize> {
        // Nearly always the next one.
        match self.answers.back() {
            Some((last, _)) if *last >= sequence => {
                self.answers.binary_search_by_key(&sequence, |(sequence, _)| *sequence)
            }
            _ => Err(self.answers.len()),
        }
    }

    /// Keeps an answer; returns what it counts for.
    fn insert(&mut self, sequence: u64, outcome: WriteOutcome) -> u64 {
        let at = self.find(sequence).expect_err("a sequence is answered once");
        let bytes = count(&outcome);
        self.answers.insert(at, (sequence, outcome));
        self.bytes += bytes;
        bytes
    }

    /// Drops answers below `lowest`; returns what they counted for.
    fn acknowledge(&mut self, lowest: u64) -> u64 {
        self.lowest = self.lowest.max(lowest);
        let mut bytes = 0;
        while let Some((sequence, outcome)) = self.answers.front() {
            if *sequence >= self.lowest {
                break;
            }
            bytes += count(outcome);
            self.answers.pop_front();
        }
        self.bytes -= bytes;
        bytes
    }

    /// Gives up the oldest answers until no more than `bytes_max` are left: first the values that
    /// they carry, so that the writes stay known, then whole answers. Returns what that saved.
    fn shrink(&mut self, bytes_max: u64) -> u64 {
        let before = self.bytes;
        for (_, outcome) in &mut self.answers {
            let more_bytes = count(outcome) - ANSWER_BYTES;
            if self.bytes > bytes_max && more_bytes > 0 {
                self.bytes -= more_bytes;
                *outcome = WriteOutcome::Failed(CommandFailure::Acknowledged);
            }
        }
        while self.bytes > bytes_max
            && let Some((sequence, outcome)) = self.answers.pop_front()
        {
            self.bytes -= count(&outcome);
            self.lowest = sequence + 1;
        }
        before - self.bytes
    }

    fn decode(input: &mut Reader) -> Result<Session, DecodeError> {
        let (used_ms, lowest) = (input.u64()?, input.u64()?);
        let mut session = Session { used_ms, lowest, ..Session::default() };
        for _ in 0..input.count(8 + 2)? {
            let sequence = input.u64()?;
            let last = session.answers.back().map(|(last, _)| *last);
            if sequence < lowest || last.is_some_and(|last| last >= sequence) {
                return Err(DecodeError("answers of a session are out of order"));
            }
            let outcome = WriteOutcome::decode(input)?;
            session.bytes += count(&outcome);
            session.answers.push_back((sequence, outcome));
        }
        Ok(session)
    }
}

fn key(origin: &Origin) -> SessionKey {
    (origin.session, origin.session_born_ms)
}

fn count(outcome: &WriteOutcome) -> u64 {
    let steps = match outcome {
        WriteOutcome::Atomic { outcomes: Some(outcomes), .. } => outcomes.len() as u64,
        _ => 0,
    };
    ANSWER_BYTES * (1 + steps) + outcome.payload_bytes()
}
