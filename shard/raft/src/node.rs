//! Roles as types. A [`Node`] is a replica in one role; going from one role to another consumes
//! the node and makes another, asserting what must hold at that moment. What belongs to a role
//! cannot be reached in any other.
//!
//! ```text
//!   follower ──timeout──> pre-candidate ──quorum would vote──> candidate ──quorum votes──> leader
//!      ^                       │                                   │                        │
//!      └── leader of this term, higher term, refused by a quorum ──┴── higher term, quorum lost
//! ```

use flotilla_mutation::{Mutation, planted};

use crate::{
    core::Core,
    message::Message,
    persistence::Needs,
    types::{Index, ReplicaId, Role, Term, Time},
};

/// A replica in role `R`. The core is boxed, so that a transition moves a pointer.
pub(crate) struct Node<R> {
    pub(crate) core: Box<Core>,
    pub(crate) role: R,
}

/// Waits for a leader, or follows one.
pub(crate) struct Follower {
    pub(crate) leader: Option<ReplicaId>,
    /// When the leader of this term last spoke.
    pub(crate) heard_at: Option<Time>,
    pub(crate) deadline: Time,
    /// The log agrees with this leader's log up to here; not necessarily durably.
    pub(crate) received: Index,
    /// What the leader of this term said is committed.
    pub(crate) told: Index,
}

/// Asks whether it could win the next term. Knows no leader.
pub(crate) struct PreCandidate {
    pub(crate) ballot: Ballot,
    pub(crate) deadline: Time,
}

/// Asks for votes in this term.
pub(crate) struct Candidate {
    pub(crate) ballot: Ballot,
    pub(crate) deadline: Time,
}

/// What every role can do when it is left behind.
pub(crate) trait Leave {
    /// Which role this is.
    const ROLE: Role;

    /// When this role gives up waiting, if it waits for anything.
    fn deadline(&self) -> Option<Time>;

    /// Ends what this role has promised to others. `leader` is the leader that is followed next.
    fn leave(self, core: &mut Core, leader: Option<ReplicaId>);
}

impl Leave for Follower {
    const ROLE: Role = Role::Follower;

    fn deadline(&self) -> Option<Time> {
        Some(self.deadline)
    }

    fn leave(self, _: &mut Core, _: Option<ReplicaId>) {}
}

impl Leave for PreCandidate {
    const ROLE: Role = Role::PreCandidate;

    fn deadline(&self) -> Option<Time> {
        Some(self.deadline)
    }

    fn leave(self, _: &mut Core, _: Option<ReplicaId>) {}
}

impl Leave for Candidate {
    const ROLE: Role = Role::Candidate;

    fn deadline(&self) -> Option<Time> {
        Some(self.deadline)
    }

    fn leave(self, _: &mut Core, _: Option<ReplicaId>) {}
}

/// The answers to a candidate, each voter counted once.
#[derive(Default)]
pub(crate) struct Ballot {
    answers: Vec<(ReplicaId, bool)>,
}

impl Ballot {
    /// Takes the answer of a voter. A grant stands; a refusal may have answered an earlier
    /// attempt and gives way to a grant.
    pub(crate) fn record(&mut self, voter: ReplicaId, granted: bool) {
        match self.answers.iter_mut().find(|(id, _)| *id == voter) {
            Some((_, answer)) => *answer |= granted,
            None => self.answers.push((voter, granted)),
        }
    }

    pub(crate) fn count(&self, granted: bool) -> usize {
        self.answers.iter().filter(|(_, answer)| *answer == granted).count()
    }

    pub(crate) fn is_won(&self, core: &Core) -> bool {
        self.count(true) >= core.voters.quorum()
    }

    /// So many refused that a quorum cannot be reached any more.
    pub(crate) fn is_lost(&self, core: &Core) -> bool {
        self.count(false) + core.voters.quorum() > core.voters.ids().len()
    }
}

impl<R: Leave> Node<R> {
    /// Follows in `term`, whose leader is `leader` if it is known. In the same term the vote
    /// stays what it is: clearing it would allow a second one.
    pub(crate) fn into_follower(
        self,
        now: Time,
        term: Term,
        leader: Option<ReplicaId>,
    ) -> Node<Follower> {
        let Self { mut core, role } = self;
        assert!(term >= core.term(), "a term that is over");
        assert!(leader != Some(core.id()), "following itself");
        if term > core.term() {
            core.adopt_term(term);
        } else if planted(Mutation::ResetVoteOnEqualTerm) {
            core.forget_vote();
        }
        let waited = role.deadline();
        role.leave(&mut core, leader);
        // Only a leader's voice, or giving a vote, restarts the wait: a stream of candidates that
        // cannot win must not keep this replica from trying.
        let deadline = match waited {
            Some(deadline) if leader.is_none() => deadline,
            _ => core.draw_deadline(now),
        };
        let heard_at = leader.map(|_| now);
        let received = core.commit();
        Node { role: Follower { leader, heard_at, deadline, received, told: Index(0) }, core }
    }

    /// Asks whether an election in the next term could succeed. Nothing durable changes.
    pub(crate) fn into_pre_candidate(self, now: Time) -> Node<PreCandidate> {
        assert!(R::ROLE != Role::Leader, "a leader campaigns");
        let Self { mut core, .. } = self;
        assert_may_campaign(&core);
        let deadline = core.draw_deadline(now);
        let mut ballot = Ballot::default();
        ballot.record(core.id(), true);
        let term = core.term().next();
        request_votes(&mut core, term, Ask::Pre);
        Node { role: PreCandidate { ballot, deadline }, core }
    }

    /// Asks for votes in the next term. The own vote counts, and the requests leave, once it is
    /// durable.
    pub(crate) fn into_candidate(self, now: Time, ask: Ask) -> Node<Candidate> {
        assert!(R::ROLE != Role::Leader, "a leader campaigns");
        let Self { mut core, .. } = self;
        assert_may_campaign(&core);
        let term = core.term().next();
        core.adopt_term(term);
        let id = core.id();
        core.cast_vote(now, id, ask == Ask::Transfer);
        let deadline = core.draw_deadline(now);
        request_votes(&mut core, term, ask);
        Node { role: Candidate { ballot: Ballot::default(), deadline }, core }
    }
}

/// For what votes are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// To know whether an election could succeed.
    Pre,
    /// To be elected.
    Vote,
    /// To be elected because the leader wishes so.
    Transfer,
}

fn assert_may_campaign(core: &Core) {
    assert!(core.is_voter(), "campaigning without a vote");
    assert!(!core.options.suspect, "a suspect campaigns");
    assert!(core.may_campaign(), "campaigning without being allowed to lead");
}

fn request_votes(core: &mut Core, term: Term, ask: Ask) {
    let last = core.log.last();
    let (pre, transfer) = (ask == Ask::Pre, ask == Ask::Transfer);
    for at in 0..core.voters.ids().len() {
        let to = core.voters.ids()[at];
        if to != core.id() {
            let request = Message::RequestVote { term, pre, transfer, last };
            core.send(to, request, Needs::HardState);
        }
    }
}
