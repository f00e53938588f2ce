//! What replicas of one group say to each other, and how it looks in bytes.
//!
//! A message names neither its group nor its sender: the frame around it does. All numbers are
//! little endian; payloads are slices of the received buffer, not copies. The encoding of each
//! message is written at [`Message`]. Decoding checks every length and number against the bytes
//! that are there and against what the core counts to, so that no message can make the core
//! allocate or count beyond reason; whether a message makes sense is the core's to judge.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    error::DecodeError,
    types::{Entry, Index, Position, Round, Term},
};

/// A message from one replica to another.
///
/// Every message carries its sender's term, except a pre-vote and a granted answer to it, which
/// carry the term that the candidate would have: a higher term turns the receiver into a follower,
/// a message of a lower term is answered with the higher one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks for a vote. `u8` 1, term, `u8` pre, `u8` transfer, last index, last term.
    RequestVote {
        /// The candidate's term; for a pre-vote, the term it would campaign in.
        term: Term,
        /// Only asks whether the vote would be granted: nobody's term or vote changes.
        pre: bool,
        /// The leader asked for this election: its voters' trust in it must not stand in the way.
        transfer: bool,
        /// The candidate's last entry.
        last: Position,
    },
    /// Answers [`Message::RequestVote`]. `u8` 2, term, `u8` pre, `u8` granted.
    Vote {
        /// The voter's term; for a granted pre-vote, the term that was asked for.
        term: Term,
        /// Answers a pre-vote.
        pre: bool,
        /// The vote is (or would be) given.
        granted: bool,
    },
    /// Brings entries, or probes for the place where the logs agree. `u8` 3, term, prev index,
    /// prev term, commit, `u32` count, then for each entry: term, `u32` length, payload. Indexes
    /// follow from `prev`.
    Append {
        /// The leader's term.
        term: Term,
        /// The entry just before `entries`; `(0, 0)` before the first.
        prev: Position,
        /// The leader's commit index.
        commit: Index,
        /// Entries without gaps, from `prev.index + 1`. May be empty.
        entries: Vec<Entry>,
    },
    /// Answers [`Message::Append`]. `u8` 4, term, then `u8` 0 and matched, or `u8` 1, prev, hint
    /// index, hint term, first.
    AppendReply {
        /// The follower's term.
        term: Term,
        /// What became of the append.
        outcome: AppendOutcome,
    },
    /// The leader is alive. `u8` 5, term, commit, round, answered.
    Heartbeat {
        /// The leader's term.
        term: Term,
        /// The leader's commit index. May be beyond what this follower has: it believes it only as
        /// far as its log is proven to agree.
        commit: Index,
        /// Which answer this asks for. 0: none; it only tells the commit index.
        round: Round,
        /// The highest round of this term that this follower has answered, as far as its answers
        /// have arrived; 0: none. It knows when it sent that answer, so it knows on its own
        /// clock since when this message can have been under way at most.
        answered: Round,
    },
    /// Answers [`Message::Heartbeat`]. `u8` 6, term, round, matched, received, `u8` wants
    /// snapshot, `u8` may lead, promise in nanoseconds.
    HeartbeatReply {
        /// The follower's term.
        term: Term,
        /// The round of the heartbeat.
        round: Round,
        /// The follower's log agrees with this leader's up to here, durably: as good as an
        /// accepted append, in case that answer was lost.
        matched: Index,
        /// The same without "durably": if it stands still below what was sent, appends were lost.
        received: Index,
        /// The follower's state machine is lost: it needs a snapshot, whatever its log holds.
        wants_snapshot: bool,
        /// The follower would take the leadership: nothing forbids it, it is not reluctant, and its
        /// disk keeps up.
        may_lead: bool,
        /// For how long from when it received the heartbeat, on its own clock, the follower helps
        /// nobody else into office. Zero: it promises nothing.
        promise: Duration,
    },
    /// The leader hands over: campaign at once. `u8` 7, term.
    TimeoutNow {
        /// The leader's term.
        term: Term,
    },
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The follower's log agrees with the leader's up to `matched`, durably.
    Accepted {
        /// The highest index on which both agree in this term.
        matched: Index,
    },
    /// The follower has no entry like `prev`. Nothing changed.
    Rejected {
        /// Index of the `prev` that was refused: names the append that this answers.
        prev: Index,
        /// The follower's last entry at or before `prev` whose term is not above `prev`'s.
        hint: Position,
        /// The first index at which the follower has the hint's term.
        first: Index,
    },
}

const REQUEST_VOTE: u8 = 1;
const VOTE: u8 = 2;
const APPEND: u8 = 3;
const APPEND_REPLY: u8 = 4;
const HEARTBEAT: u8 = 5;
const HEARTBEAT_REPLY: u8 = 6;
const TIMEOUT_NOW: u8 = 7;
const ACCEPTED: u8 = 0;
const REJECTED: u8 = 1;

/// Bytes of an entry beside its payload: term and length.
const ENTRY_HEADER_BYTES: usize = 8 + 4;

impl Message {
    /// The term that the message carries.
    pub fn term(&self) -> Term {
        match self {
            Self::RequestVote { term, .. }
            | Self::Vote { term, .. }
            | Self::Append { term, .. }
            | Self::AppendReply { term, .. }
            | Self::Heartbeat { term, .. }
            | Self::HeartbeatReply { term, .. }
            | Self::TimeoutNow { term } => *term,
        }
    }

    /// True if every number is one that the core counts to and the entries form a piece of a log
    /// of this term. Decoded messages are checked number by number already; a shell in the same
    /// process hands them over undecoded.
    pub(crate) fn is_well_formed(&self) -> bool {
        if self.term() == Term(0) || self.term() > Term::MAX {
            return false;
        }
        match self {
            Self::RequestVote { last, .. } => last.index <= Index::MAX && last.term < self.term(),
            Self::Append { term, prev, commit, entries } => {
                if prev.index > Index::MAX || *commit > Index::MAX {
                    return false;
                }
                let mut before = *prev;
                let follow = entries.iter().all(|entry| {
                    let good = entry.index == before.index.next()
                        && entry.term >= before.term
                        && entry.term.0 > 0;
                    before = entry.position();
                    good
                });
                follow && before.term <= *term && before.index <= Index::MAX
            }
            _ => true,
        }
    }

    /// True if the message must not wait behind big ones: everything except appends that carry
    /// entries and the answers to appends.
    pub fn is_urgent(&self) -> bool {
        match self {
            Self::Append { entries, .. } => entries.is_empty(),
            Self::AppendReply { .. } => false,
            _ => true,
        }
    }

    /// How many bytes [`Message::encode`] writes.
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::RequestVote { .. } => 1 + 8 + 1 + 1 + 16,
            Self::Vote { .. } => 1 + 8 + 1 + 1,
            Self::Append { entries, .. } => {
                let payloads: usize = entries.iter().map(|entry| entry.payload.len()).sum();
                1 + 8 + 16 + 8 + 4 + entries.len() * ENTRY_HEADER_BYTES + payloads
            }
            Self::AppendReply { outcome: AppendOutcome::Accepted { .. }, .. } => 1 + 8 + 1 + 8,
            Self::AppendReply { outcome: AppendOutcome::Rejected { .. }, .. } => 1 + 8 + 1 + 32,
            Self::Heartbeat { .. } => 1 + 8 + 8 + 8 + 8,
            Self::HeartbeatReply { .. } => 1 + 8 + 8 + 8 + 8 + 1 + 1 + 8,
            Self::TimeoutNow { .. } => 1 + 8,
        }
    }

    /// Appends the encoding to `buffer`.
    ///
    /// # Panics
    ///
    /// If an append's entries do not follow `prev`, or a payload is longer than `u32::MAX`: the
    /// core never builds such a message.
    pub fn encode(&self, buffer: &mut BytesMut) {
        buffer.reserve(self.encoded_len());
        match self {
            Self::RequestVote { term, pre, transfer, last } => {
                buffer.put_u8(REQUEST_VOTE);
                buffer.put_u64_le(term.0);
                buffer.put_u8(u8::from(*pre));
                buffer.put_u8(u8::from(*transfer));
                put_position(buffer, *last);
            }
            Self::Vote { term, pre, granted } => {
                buffer.put_u8(VOTE);
                buffer.put_u64_le(term.0);
                buffer.put_u8(u8::from(*pre));
                buffer.put_u8(u8::from(*granted));
            }
            Self::Append { term, prev, commit, entries } => {
                buffer.put_u8(APPEND);
                buffer.put_u64_le(term.0);
                put_position(buffer, *prev);
                buffer.put_u64_le(commit.0);
                buffer.put_u32_le(length(entries.len()));
                let mut index = prev.index;
                for entry in entries {
                    index = index.next();
                    assert_eq!(entry.index, index, "append with a gap");
                    buffer.put_u64_le(entry.term.0);
                    buffer.put_u32_le(length(entry.payload.len()));
                    buffer.put_slice(&entry.payload);
                }
            }
            Self::AppendReply { term, outcome } => {
                buffer.put_u8(APPEND_REPLY);
                buffer.put_u64_le(term.0);
                match outcome {
                    AppendOutcome::Accepted { matched } => {
                        buffer.put_u8(ACCEPTED);
                        buffer.put_u64_le(matched.0);
                    }
                    AppendOutcome::Rejected { prev, hint, first } => {
                        buffer.put_u8(REJECTED);
                        buffer.put_u64_le(prev.0);
                        put_position(buffer, *hint);
                        buffer.put_u64_le(first.0);
                    }
                }
            }
            Self::Heartbeat { term, commit, round, answered } => {
                buffer.put_u8(HEARTBEAT);
                buffer.put_u64_le(term.0);
                buffer.put_u64_le(commit.0);
                buffer.put_u64_le(round.0);
                buffer.put_u64_le(answered.0);
            }
            Self::HeartbeatReply {
                term,
                round,
                matched,
                received,
                wants_snapshot,
                may_lead,
                promise,
            } => {
                buffer.put_u8(HEARTBEAT_REPLY);
                buffer.put_u64_le(term.0);
                buffer.put_u64_le(round.0);
                buffer.put_u64_le(matched.0);
                buffer.put_u64_le(received.0);
                buffer.put_u8(u8::from(*wants_snapshot));
                buffer.put_u8(u8::from(*may_lead));
                buffer.put_u64_le(u64::try_from(promise.as_nanos()).unwrap_or(u64::MAX));
            }
            Self::TimeoutNow { term } => {
                buffer.put_u8(TIMEOUT_NOW);
                buffer.put_u64_le(term.0);
            }
        }
    }

    /// Reads one message that fills `bytes` exactly. Payloads share the memory of `bytes`.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the bytes are cut off, too many, or not a message of this version.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader { bytes };
        let message = reader.message()?;
        match reader.bytes.len() {
            0 => Ok(message),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }
}

fn put_position(buffer: &mut BytesMut, position: Position) {
    buffer.put_u64_le(position.index.0);
    buffer.put_u64_le(position.term.0);
}

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("message parts stay far below 4 GiB")
}

/// A cursor that never reads past the end.
struct Reader {
    bytes: Bytes,
}

impl Reader {
    fn message(&mut self) -> Result<Message, DecodeError> {
        let kind = self.u8("message kind")?;
        match kind {
            REQUEST_VOTE => Ok(Message::RequestVote {
                term: self.term()?,
                pre: self.flag("pre-vote flag")?,
                transfer: self.flag("transfer flag")?,
                last: self.position()?,
            }),
            VOTE => Ok(Message::Vote {
                term: self.term()?,
                pre: self.flag("pre-vote flag")?,
                granted: self.flag("granted flag")?,
            }),
            APPEND => self.append(),
            APPEND_REPLY => {
                let term = self.term()?;
                let outcome = match self.u8("append outcome")? {
                    ACCEPTED => AppendOutcome::Accepted { matched: self.index()? },
                    REJECTED => AppendOutcome::Rejected {
                        prev: self.index()?,
                        hint: self.position()?,
                        first: self.index()?,
                    },
                    value => return Err(DecodeError::Unknown { what: "append outcome", value }),
                };
                Ok(Message::AppendReply { term, outcome })
            }
            HEARTBEAT => Ok(Message::Heartbeat {
                term: self.term()?,
                commit: self.index()?,
                round: Round(self.u64("round")?),
                answered: Round(self.u64("answered round")?),
            }),
            HEARTBEAT_REPLY => Ok(Message::HeartbeatReply {
                term: self.term()?,
                round: Round(self.u64("round")?),
                matched: self.index()?,
                received: self.index()?,
                wants_snapshot: self.flag("snapshot flag")?,
                may_lead: self.flag("leading flag")?,
                promise: Duration::from_nanos(self.u64("promise")?),
            }),
            TIMEOUT_NOW => Ok(Message::TimeoutNow { term: self.term()? }),
            value => Err(DecodeError::Unknown { what: "message kind", value }),
        }
    }

    fn append(&mut self) -> Result<Message, DecodeError> {
        let term = self.term()?;
        let prev = self.position()?;
        let commit = self.index()?;
        let count = self.u32("entry count")? as usize;
        // Every entry takes at least its header, so a count that the bytes cannot hold is refused
        // before anything is allocated for it.
        self.need("entries", count.saturating_mul(ENTRY_HEADER_BYTES))?;
        let last = prev.index.0 + count as u64;
        if last > Index::MAX.0 {
            return Err(DecodeError::Range { what: "last index", value: last });
        }
        let mut entries = Vec::with_capacity(count);
        let mut index = prev.index;
        for _ in 0..count {
            index = index.next();
            let term = self.term()?;
            let bytes = self.u32("payload length")? as usize;
            self.need("payload", bytes)?;
            entries.push(Entry { index, term, payload: self.bytes.split_to(bytes) });
        }
        Ok(Message::Append { term, prev, commit, entries })
    }

    fn need(&self, what: &'static str, needed: usize) -> Result<(), DecodeError> {
        let left = self.bytes.len();
        if left < needed {
            return Err(DecodeError::Truncated { what, needed, left });
        }
        Ok(())
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.need(what, 1)?;
        Ok(self.bytes.get_u8())
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.need(what, 4)?;
        Ok(self.bytes.get_u32_le())
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.need(what, 8)?;
        Ok(self.bytes.get_u64_le())
    }

    fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(DecodeError::Unknown { what, value }),
        }
    }

    fn term(&mut self) -> Result<Term, DecodeError> {
        match self.u64("term")? {
            value if value > Term::MAX.0 => Err(DecodeError::Range { what: "term", value }),
            value => Ok(Term(value)),
        }
    }

    fn index(&mut self) -> Result<Index, DecodeError> {
        match self.u64("index")? {
            value if value > Index::MAX.0 => Err(DecodeError::Range { what: "index", value }),
            value => Ok(Index(value)),
        }
    }

    fn position(&mut self) -> Result<Position, DecodeError> {
        Ok(Position { index: self.index()?, term: self.term()? })
    }
}
