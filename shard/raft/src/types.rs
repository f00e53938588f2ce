//! The words of the core: ids, positions, entries and the durable hard state.
//!
//! Every number is a newtype, so that an index is never taken for a term. All of them are plain
//! data: copying one says nothing about whether it is durable, committed or current.
//!
//! What is absent: group ids, node addresses and wall clocks. The shell knows those.

use std::{fmt, ops::Add, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::DecodeError;

/// One member of a group. Never reused: a replica that is removed and added again gets a new id.
/// 0 is not a valid id (it encodes "no vote" in [`HardState`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// A Raft term. 0 is the term before any election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A log index. The first entry has index 1; 0 means "before the log".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

/// Names one write handed out in a [`Ready`](crate::Ready). Tickets increase by one within the
/// life of a [`Raft`](crate::Raft) value and start again at 1 after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names one linearizable read. Never reused within the life of a [`Raft`](crate::Raft) value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Numbers the leader's heartbeats so that their answers name their question: an answer to round
/// `r` proves that its sender still followed the leader after every read of a round `<= r` was
/// asked. Grows within one leader's term. 0 asks for no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Round(pub u64);

/// Nanoseconds on a monotonic clock of the shell. Only differences mean anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Later than anything: a timer that is not armed.
    pub const NEVER: Self = Self(u64::MAX);

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Term {
    /// The largest term that is believed. A message beyond it is refused as malformed, so that
    /// counting up never overflows.
    pub const MAX: Self = Self(u64::MAX >> 1);

    /// The term after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Index {
    /// The largest index that is believed; see [`Term::MAX`].
    pub const MAX: Self = Self(u64::MAX >> 1);

    /// The index after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// Where an entry is: its index and the term that created it. Two logs that have an entry with
/// the same position agree on everything up to it (the log matching property).
///
/// Deliberately without an order: "is this log as up to date as that one" compares terms first,
/// "is this entry before that one" compares indexes. The default, `(0, 0)`, is before the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// Index of the entry.
    pub index: Index,
    /// Term of the leader that appended it.
    pub term: Term,
}

impl Position {
    /// A position from plain numbers.
    pub fn new(index: u64, term: u64) -> Self {
        Self { index: Index(index), term: Term(term) }
    }

    /// The up-to-date rule (Raft paper, 5.4.1): true if a log that ends here may be followed by
    /// a voter whose log ends at `other`.
    pub fn is_up_to_date_with(self, other: Self) -> bool {
        (self.term, self.index) >= (other.term, other.index)
    }
}

/// One log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log, from 1.
    pub index: Index,
    /// Term of the leader that appended it.
    pub term: Term,
    /// The command, opaque to the core. Empty for the entry with which a leader opens its term.
    pub payload: Bytes,
}

impl Entry {
    /// What an entry costs beside its payload, in every byte limit of [`Limits`](crate::Limits).
    pub const OVERHEAD_BYTES: usize = 32;

    /// Payload plus a flat overhead: the size that byte limits count.
    pub fn bytes(&self) -> usize {
        self.payload.len() + Self::OVERHEAD_BYTES
    }

    /// Index and term.
    pub fn position(&self) -> Position {
        Position { index: self.index, term: self.term }
    }
}

/// What must be durable beside the entries, always written as one record: term and vote are
/// never torn apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The highest term this replica has seen.
    pub term: Term,
    /// Whom it voted for in `term`.
    pub vote: Option<ReplicaId>,
    /// A lower bound of what is committed, written along when something else is written.
    pub commit: Index,
    /// The intent to replace the rows by a snapshot that ends here. If the rows end here after a
    /// restart, the swap took place, and the log may not know yet.
    pub installing: Option<Position>,
}

impl HardState {
    /// Length of the encoding without an intent.
    pub const ENCODED_BYTES: usize = 24;

    /// Length of the encoding with an intent.
    pub const ENCODED_BYTES_MAX: usize = Self::ENCODED_BYTES + 16;

    /// Term, vote (0 for none) and commit, each a little-endian `u64`; then, if a snapshot is being
    /// installed, its index and term.
    pub fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(Self::ENCODED_BYTES_MAX);
        buffer.put_u64_le(self.term.0);
        buffer.put_u64_le(self.vote.map_or(0, |id| id.0));
        buffer.put_u64_le(self.commit.0);
        if let Some(position) = self.installing {
            buffer.put_u64_le(position.index.0);
            buffer.put_u64_le(position.term.0);
        }
        buffer.freeze()
    }

    /// Reads what [`HardState::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the length is wrong or a number is beyond what the core counts to.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() != Self::ENCODED_BYTES && bytes.len() != Self::ENCODED_BYTES_MAX {
            return Err(DecodeError::Length {
                what: "hard state",
                bytes: bytes.len(),
                expected: Self::ENCODED_BYTES,
            });
        }
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let term = |at| match number(at) {
            value if value > Term::MAX.0 => Err(DecodeError::Range { what: "term", value }),
            value => Ok(Term(value)),
        };
        let index = |what, at| match number(at) {
            value if value > Index::MAX.0 => Err(DecodeError::Range { what, value }),
            value => Ok(Index(value)),
        };
        let vote = number(8);
        let installing = if bytes.len() == Self::ENCODED_BYTES_MAX {
            Some(Position { index: index("index of the intent", 24)?, term: term(32)? })
        } else {
            None
        };
        Ok(Self {
            term: term(0)?,
            vote: (vote != 0).then_some(ReplicaId(vote)),
            commit: index("commit index", 16)?,
            installing,
        })
    }
}

/// What a replica is in its current term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether an election could succeed, before it disturbs anybody with a new term.
    PreCandidate,
    /// Asks for votes in a term of its own.
    Candidate,
    /// Leads its term.
    Leader,
}

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

display_number!(ReplicaId, Term, Index, Ticket, ReadId, Round);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_state_survives_its_encoding() {
        for vote in [None, Some(ReplicaId(7))] {
            for (installing, bytes) in [(None, 24), (Some(Position::new(8, 2)), 40)] {
                let state = HardState { term: Term(3), vote, commit: Index(9), installing };
                assert_eq!(state.encode().len(), bytes);
                assert_eq!(HardState::decode(&state.encode()).unwrap(), state);
            }
        }
    }

    #[test]
    fn damaged_hard_state_is_an_error() {
        let installing = Some(Position::new(8, 2));
        let good = HardState { term: Term(3), vote: None, commit: Index(9), installing }.encode();
        for length in (0..24).chain(25..40) {
            assert!(HardState::decode(&good[..length]).is_err());
        }
        assert!(HardState::decode(&[0xff; 24]).is_err());
        assert!(HardState::decode(&[&good[..24], &[0xff; 16]].concat()).is_err());
        assert!(HardState::decode(&[]).is_err());
    }

    #[test]
    fn up_to_date_compares_terms_before_lengths() {
        assert!(Position::new(1, 3).is_up_to_date_with(Position::new(9, 2)));
        assert!(!Position::new(9, 2).is_up_to_date_with(Position::new(1, 3)));
        assert!(Position::new(4, 2).is_up_to_date_with(Position::new(4, 2)));
        assert!(!Position::new(3, 2).is_up_to_date_with(Position::new(4, 2)));
    }
}
