//! The door of the core: one replica of one group, in whatever role it is.
//!
//! What is the same in every role is done here: taking events in, going from role to role, and
//! gathering the effects of a turn. Messages are sorted in `receive`; everything else is in the
//! role modules.

use bytes::Bytes;

use crate::{
    core::Core,
    error::{ProposeError, ReadError},
    event::Event,
    fetching::Need,
    leader::Leader,
    node::{Candidate, Follower, Leave, Node, PreCandidate},
    options::{Options, Restored},
    progress::Progress,
    ready::{Fetch, Ready, RoleChange},
    status::Status,
    types::{Entry, Index, Position, ReadId, ReplicaId, Role, Term, Ticket, Time},
};

/// One replica of one Raft group: events in, effects out.
///
/// Feed it with [`Raft::step`], [`Raft::propose`] and [`Raft::read`], as many as there are, then
/// call [`Raft::ready`] once and do what it says.
pub struct Raft {
    pub(crate) state: State,
}

pub(crate) enum State {
    Follower(Node<Follower>),
    PreCandidate(Node<PreCandidate>),
    Candidate(Node<Candidate>),
    Leader(Node<Leader>),
    /// Only while a transition moves the node.
    Moving,
}

/// Evaluates an expression for the node in whatever role it is.
macro_rules! any_role {
    ($state:expr, $node:ident => $body:expr) => {
        match $state {
            State::Follower($node) => $body,
            State::PreCandidate($node) => $body,
            State::Candidate($node) => $body,
            State::Leader($node) => $body,
            State::Moving => unreachable!("a transition was left unfinished"),
        }
    };
}

pub(crate) use any_role;

impl Raft {
    /// A replica that follows nobody yet. A group of one voter elects itself at the first tick.
    ///
    /// # Panics
    ///
    /// If `options` are contradictory (no voters, ids that are 0 or repeated), or if `restored`
    /// is not the memory of a healthy replica (see [`Restored::validate`]) and the options do not
    /// say that it is suspect.
    pub fn new(options: Options, restored: Restored, now: Time) -> Self {
        assert!(!options.election_timeout.is_zero(), "elections need a timeout");
        let mut core = Box::new(Core::new(options, restored, now));
        let alone = core.voters.quorum() == 1 && core.may_campaign();
        let deadline = if alone { now } else { core.draw_deadline(now) };
        let received = core.commit();
        let role = Follower { leader: None, heard_at: None, deadline, received, told: Index(0) };
        Self { state: State::Follower(Node { core, role }) }
    }

    /// Takes in something that happened. `now` never goes back, and is read from the clock after
    /// the event: a message that was received is not older than `now`.
    ///
    /// # Panics
    ///
    /// If the shell breaks its side of the contract (acknowledges a ticket that was never handed
    /// out) or an invariant of the core is broken. Never because of what a message says.
    pub fn step(&mut self, now: Time, event: Event) {
        if matches!(event, Event::Tick) {
            self.tick(now);
            return;
        }
        self.core_mut().stirred = true;
        match event {
            Event::Tick => {}
            Event::Receive { from, message } => self.receive(now, from, message),
            Event::Persisted(ticket) => self.persisted(now, ticket),
            Event::Fetched { entries } => self.fetched(now, entries),
            Event::FetchFailed { from } => {
                let core = self.core_mut();
                if core.fetching.is_awaiting(from) {
                    core.fetching.abandon(now + core.options.heartbeat_interval);
                }
            }
            Event::Compact(to) => self.core_mut().compact(to),
            Event::Unreachable(id) => {
                if let State::Leader(node) = &mut self.state {
                    node.unreachable(now, id);
                }
            }
            Event::Campaign => self.campaign(now),
            Event::Transfer { to } => {
                if let State::Leader(node) = &mut self.state {
                    node.transfer(now, to);
                }
            }
            Event::MayLead(may_lead) => {
                self.core_mut().may_lead = may_lead;
                self.reconsider(now);
            }
            Event::Reluctant(reluctant) => {
                self.core_mut().reluctant = reluctant;
                self.reconsider(now);
            }
            Event::RowsLost => {
                self.core_mut().rows.lost = true;
                self.reconsider(now);
            }
            Event::SnapshotSent { to, position } => {
                if let State::Leader(node) = &mut self.state {
                    node.snapshot_sent(to, position);
                }
            }
            Event::SnapshotFailed { to } => {
                if let State::Leader(node) = &mut self.state {
                    node.snapshot_failed(now, to);
                }
            }
            Event::SnapshotReceived(position) => {
                if let State::Follower(node) = &mut self.state {
                    node.snapshot_received(position);
                }
            }
            Event::SnapshotInstalled(position) => {
                self.core_mut().installed(position);
                if let State::Follower(node) = &mut self.state {
                    // Committed before this term's leader, so it has it too.
                    node.role.received = node.role.received.max(position.index);
                }
            }
            Event::SnapshotRefused(position) => self.core_mut().refused(position),
        }
    }

    /// Appends a command to the log if this replica leads. The position names the entry: the
    /// command took effect if and only if an entry with this index **and term** is applied.
    ///
    /// # Errors
    ///
    /// [`ProposeError`]; nothing was appended then.
    pub fn propose(&mut self, _now: Time, payload: Bytes) -> Result<Position, ProposeError> {
        match &mut self.state {
            State::Leader(node) => {
                let position = node.propose(payload)?;
                node.core.stirred = true;
                Ok(position)
            }
            _ => Err(ProposeError::NotLeader { leader: self.leader() }),
        }
    }

    /// Asks for a linearizable read. The answer comes in [`Ready::reads`]: an index that must be
    /// applied before the read is served, or a refusal. All reads asked between two calls of
    /// [`Raft::ready`] are confirmed by one round of heartbeats.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; no answer will come then.
    pub fn read(&mut self, _now: Time) -> Result<ReadId, ReadError> {
        match &mut self.state {
            State::Leader(node) => {
                let id = node.read()?;
                node.core.stirred = true;
                Ok(id)
            }
            _ => Err(ReadError::NotLeader { leader: self.leader() }),
        }
    }

    /// A linearizable read without a round: the index that must be applied before it is served, if this
    /// replica holds a lease at `now`; else ask with [`Raft::read`]. Changes nothing.
    ///
    /// The clock must be read for `now` after the read was asked. The rows may be read any time later:
    /// what another leader commits after `now` need not be seen.
    pub fn lease_read(&self, now: Time) -> Option<Index> {
        match &self.state {
            State::Leader(node) => node.lease_read(now),
            _ => None,
        }
    }

    /// While paused, [`Ready::apply`] stays empty and nothing is fetched for it: a state machine that
    /// cannot go on must not make the shell hold the rest of the log. Commits go on.
    pub fn pause_apply(&mut self, paused: bool) {
        let core = self.core_mut();
        if core.apply_paused != paused {
            core.apply_paused = paused;
            core.stirred = true;
        }
    }

    /// Gathers everything to be done. Cheap if nothing happened. `now` is read from the clock before
    /// any of it is done: messages are sent at `now` or later.
    pub fn ready(&mut self, now: Time) -> Ready {
        if !self.core().stirred {
            return Ready::default();
        }
        self.core_mut().stirred = false;
        if let State::Leader(node) = &mut self.state {
            node.begin_reads(now);
            node.replicate(now);
            node.drive_transfer();
        }
        let role_changed = self.take_role_change();
        let core = self.core_mut();
        let install = core.take_install();
        let persist = core.take_persist(now);
        let apply = core.take_apply();
        let fetch = self.take_fetch();
        let core = self.core_mut();
        core.evict();
        let more = core.is_apply_behind() && core.log.is_cached(core.applied().next());
        if more {
            core.stirred = true;
        }
        Ready {
            persist,
            messages: std::mem::take(&mut core.outbox),
            apply,
            reads: std::mem::take(&mut core.outcomes),
            fetch,
            role_changed,
            snapshots: std::mem::take(&mut core.snapshots),
            install,
            more,
        }
    }

    /// When [`Event::Tick`] is needed next, unless something else happens before.
    pub fn next_tick(&self) -> Time {
        let role = match &self.state {
            State::Leader(node) => node.next_tick(),
            State::Follower(node) => node.role.deadline,
            State::PreCandidate(node) => node.role.deadline,
            State::Candidate(node) => node.role.deadline,
            State::Moving => unreachable!("a transition was left unfinished"),
        };
        self.core().fetching.retry_at().map_or(role, |at| at.min(role))
    }

    /// What this replica is and knows. Allocates for a leader; not for the hot path.
    pub fn status(&self) -> Status {
        let core = self.core();
        let (followers, transferring, lease_until) = match &self.state {
            State::Leader(node) => {
                let followers = node.role.followers.iter().map(Progress::status).collect();
                (followers, node.transferring(), node.lease())
            }
            _ => (Vec::new(), None, None),
        };
        Status {
            id: core.id(),
            role: self.role(),
            term: core.term(),
            vote: core.vote(),
            leader: self.leader(),
            last: core.log.last(),
            commit: core.commit(),
            applied: core.applied(),
            persisted: core.persisted(),
            base: core.log.base(),
            suspect: core.options.suspect,
            may_lead: core.may_lead,
            reluctant: core.reluctant,
            needs_snapshot: core.rows.lost,
            installing: core.rows.installing(),
            transferring,
            lease_until,
            cached_bytes: core.log.cached_bytes(),
            violations: core.violations,
            followers,
        }
    }

    /// The term; like the accessors below, cheap enough to ask every turn.
    pub fn term(&self) -> Term {
        self.core().term()
    }

    /// The last entry of the log.
    pub fn last(&self) -> Position {
        self.core().log.last()
    }

    /// The highest index known to be committed.
    pub fn commit(&self) -> Index {
        self.core().commit()
    }

    /// The log up to here, as it is now, is durable on this replica's disk.
    pub fn persisted_index(&self) -> Index {
        self.core().persisted()
    }

    /// The log is compacted up to here.
    pub fn base(&self) -> Position {
        self.core().log.base()
    }

    /// The snapshot that takes the place of the rows at this moment: from the moment that
    /// [`Event::SnapshotReceived`] is taken to the answer to [`Ready::install`].
    pub fn installing(&self) -> Option<Position> {
        self.core().rows.installing()
    }

    /// True while the state machine is lost and no snapshot is installed.
    pub fn needs_snapshot(&self) -> bool {
        self.core().rows.lost
    }

    /// True if a snapshot that ends here would be taken now.
    pub fn wants_snapshot_at(&self, position: Position) -> bool {
        match &self.state {
            State::Follower(node) => node.wants_snapshot_at(position),
            _ => false,
        }
    }

    /// For a follower, a moment of its own clock and what the leader of this term had committed then
    /// at most, by its own word. That is not when its word arrived, which may be long after it was
    /// given, but when the newest answer was sent that the leader had when it gave it. A reader who
    /// waits until this index is applied sees all that was committed at that moment, unless the
    /// leader had been replaced without knowing it.
    pub fn heard_commit(&self) -> Option<(Time, Index)> {
        match &self.state {
            State::Follower(node) => node.core.rounds.known(node.core.term()),
            _ => None,
        }
    }

    /// Bytes of entries held in memory; walks the window of older entries, not the tail.
    pub fn cached_bytes(&self) -> usize {
        self.core().log.cached_bytes()
    }

    /// From now on at most this much of the log's tail stays in memory, and never more than
    /// [`Limits::cache_bytes_max`](crate::Limits::cache_bytes_max). What is not both durable and
    /// committed stays in any case.
    pub fn limit_cache(&mut self, bytes_max: usize) {
        let core = self.core_mut();
        core.cache_bytes_max = bytes_max.min(core.options.limits.cache_bytes_max);
        core.evict();
    }

    /// The role of this replica.
    pub fn role(&self) -> Role {
        match &self.state {
            State::Follower(_) => Follower::ROLE,
            State::PreCandidate(_) => PreCandidate::ROLE,
            State::Candidate(_) => Candidate::ROLE,
            State::Leader(_) => Leader::ROLE,
            State::Moving => unreachable!("a transition was left unfinished"),
        }
    }

    /// The leader of this term, if known; this replica itself if it leads.
    pub fn leader(&self) -> Option<ReplicaId> {
        match &self.state {
            State::Follower(node) => node.role.leader,
            State::Leader(node) => Some(node.core.id()),
            _ => None,
        }
    }

    pub(crate) fn core(&self) -> &Core {
        any_role!(&self.state, node => &node.core)
    }

    pub(crate) fn core_mut(&mut self) -> &mut Core {
        any_role!(&mut self.state, node => &mut node.core)
    }

    pub(crate) fn transition(&mut self, go: impl FnOnce(State) -> State) {
        let state = std::mem::replace(&mut self.state, State::Moving);
        self.state = go(state);
        self.core_mut().stirred = true;
    }

    pub(crate) fn follow(&mut self, now: Time, term: Term, leader: Option<ReplicaId>) {
        self.transition(|state| {
            State::Follower(any_role!(state, node => node.into_follower(now, term, leader)))
        });
    }

    fn persisted(&mut self, now: Time, ticket: Ticket) {
        let core = self.core_mut();
        core.persistence.complete(ticket, &mut core.outbox);
        match &mut self.state {
            State::Leader(node) => node.advance_commit(),
            State::Candidate(node) => {
                node.count_own_vote();
                self.count_votes(now);
            }
            _ => {}
        }
    }

    fn fetched(&mut self, now: Time, entries: Vec<Entry>) {
        let core = self.core_mut();
        match entries.first() {
            None => core.fetching.abandon(now + core.options.heartbeat_interval),
            Some(first) => {
                if core.fetching.finish(first.index).is_some() {
                    core.log.set_window(entries);
                }
            }
        }
    }

    /// Asks the journal for entries that are needed next, if nothing else is being fetched.
    fn take_fetch(&mut self) -> Option<Fetch> {
        let core = self.core();
        if !core.fetching.is_free() {
            return None;
        }
        let applied = core.applied();
        let apply = (core.is_apply_behind() && !core.log.is_cached(applied.next()))
            .then_some((Need::Apply, applied.next()));
        let chosen = match &self.state {
            State::Leader(node) => {
                core.fetching.choose(apply.into_iter().chain(node.fetch_needs()))
            }
            _ => core.fetching.choose(apply.into_iter()),
        };
        let commit = core.commit();
        let core = self.core_mut();
        let Some((need, from)) = chosen else {
            core.log.drop_window();
            return None;
        };
        let cached = core.log.cache_start().previous();
        let limits = &core.options.limits;
        let (to, bytes_max) = match need {
            Need::Apply => (commit.min(cached), limits.apply_bytes_max),
            Need::Follower(_) => (cached, limits.inflight_bytes_max),
        };
        let fetch = Fetch { from, to, bytes_max };
        core.fetching.begin(need, fetch);
        Some(fetch)
    }

    fn take_role_change(&mut self) -> Option<RoleChange> {
        let current =
            RoleChange { role: self.role(), term: self.core().term(), leader: self.leader() };
        let core = self.core_mut();
        if core.reported == current {
            return None;
        }
        core.reported = current;
        Some(current)
    }
}
