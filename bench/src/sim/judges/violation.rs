//! What a judge says when a rule is broken: which one, and one sentence that names who and where.
//!
//! What is absent: what to do about it. The world that asked decides.

use std::fmt;

/// The rules, by the names that tables show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// At most one leader in a term of a group.
    OneLeader,
    /// Two logs with an entry of one position agree on everything up to it, and have no holes.
    LogMatching,
    /// A leader counts replicas for entries of its own term only; earlier ones follow from them.
    OwnTerm,
    /// A leader has every entry that was committed in earlier terms.
    LeaderCompleteness,
    /// All replicas have the same command at an index, apply each once, in order, when committed.
    StateMachineSafety,
    /// Every quorum that could elect a leader contains a replica that has what is committed.
    CommittedIsKept,
    /// Term and vote on a disk never go back, and a vote never changes in its term.
    HardState,
    /// What a message promises is on the disk, or was given by who may promise, before it leaves.
    Promises,
    /// A disk that was not damaged returns all that it had synced.
    DurableLog,
    /// At most one group owns a key at an epoch.
    OneOwner,
    /// Replicas that applied the same have the same rows.
    SameContents,
    /// An increment counts once if it was answered, at most once if nobody knows, and never if it
    /// was refused.
    ExactlyOnce,
    /// What clients saw can be explained by one order.
    Linearizability,
    /// Everything that was asked ends, and every replica has everything.
    Liveness,
}

impl Rule {
    /// The rule's name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Rule::OneLeader => "one leader",
            Rule::LogMatching => "log matching",
            Rule::OwnTerm => "own term",
            Rule::LeaderCompleteness => "leader completeness",
            Rule::StateMachineSafety => "state machine safety",
            Rule::CommittedIsKept => "committed is kept",
            Rule::HardState => "hard state",
            Rule::Promises => "promises",
            Rule::DurableLog => "durable log",
            Rule::OneOwner => "one owner",
            Rule::SameContents => "same contents",
            Rule::ExactlyOnce => "exactly once",
            Rule::Linearizability => "linearizability",
            Rule::Liveness => "liveness",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {text}")]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// Who, where and what, in one sentence.
    pub text: String,
}

impl Violation {
    /// A violation of `rule`.
    pub fn new(rule: Rule, text: impl Into<String>) -> Violation {
        Violation { rule, text: text.into() }
    }
}
