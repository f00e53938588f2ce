//! Three replicas of a group: the production core with disks that are fast, messages that go where
//! the scene says, and a clock for each.
//!
//! What is absent: chance.

use std::time::Duration;

use bytes::Bytes;
use flotilla_shard::raft::{
    Event, HardState, Index, Leases, Limits, Message, Options, Position, Raft, ReadId, ReplicaId,
    Restored, Role, Time,
};

/// The election timeout of the three.
pub const TIMEOUT: Duration = Duration::from_millis(1000);

/// How far the clocks of the three may drift, in millionths.
pub const DRIFT_PPM: u32 = 200_000;

/// One of the three.
struct Member {
    raft: Raft,
    hard_state: HardState,
    /// Terms of its log, from index 1.
    log: Vec<u64>,
    applied: Index,
    /// Reads that were confirmed, in order: by which name, at which index.
    confirmed: Vec<(ReadId, Index)>,
    now: Time,
}

/// Three replicas, named 1 to 3.
pub struct Trio {
    members: Vec<Member>,
    /// On their way, in order: from, to.
    mail: Vec<(usize, usize, Message)>,
    leases: Option<Leases>,
}

/// The options of one of the three.
pub fn options(id: usize, leases: Option<Leases>) -> Options {
    Options {
        id: ReplicaId(id as u64),
        voters: [1, 2, 3].map(ReplicaId).to_vec(),
        election_timeout: TIMEOUT,
        heartbeat_interval: Duration::from_millis(100),
        seed: 1,
        suspect: false,
        pre_vote: false,
        check_quorum: false,
        disk_stall_max: TIMEOUT,
        may_lead: true,
        leases,
        limits: Limits::default(),
    }
}

impl Trio {
    /// Three that have never run. `leases`: their leader reads without asking.
    pub fn new(leases: bool) -> Trio {
        let leases = leases.then_some(Leases { reads: true, clock_drift_max_ppm: DRIFT_PPM });
        let members = (1..=3).map(|id| Member {
            raft: Raft::new(options(id, leases), Restored::default(), Time(1)),
            hard_state: HardState::default(),
            log: Vec::new(),
            applied: Index(0),
            confirmed: Vec::new(),
            now: Time(1),
        });
        Trio { members: members.collect(), mail: Vec::new(), leases }
    }

    fn member(&mut self, id: usize) -> &mut Member {
        &mut self.members[id - 1]
    }

    /// The clock of a replica goes on.
    pub fn wait(&mut self, id: usize, duration: Duration) {
        let member = self.member(id);
        member.now = member.now + duration;
    }

    /// Something happens to a replica, and it makes its turns. What it says is put into the mail.
    pub fn step(&mut self, id: usize, event: Event) {
        let member = self.member(id);
        member.raft.step(member.now, event);
        self.turn(id);
    }

    /// A replica makes its turns.
    fn turn(&mut self, id: usize) {
        let member = &mut self.members[id - 1];
        loop {
            let ready = member.raft.ready(member.now);
            let is_done = ready.is_empty();
            for envelope in ready.messages {
                self.mail.push((id, envelope.to.0 as usize, envelope.message));
            }
            for outcome in ready.reads {
                if let Ok(index) = outcome.result {
                    member.confirmed.push((outcome.id, index));
                }
            }
            if let Some(entry) = ready.apply.last() {
                member.applied = entry.index;
            }
            if let Some(persist) = ready.persist {
                member.hard_state = persist.hard_state.unwrap_or(member.hard_state);
                for entry in &persist.entries {
                    member.log.truncate(entry.index.0 as usize - 1);
                    member.log.push(entry.term.0);
                }
                member.raft.step(member.now, Event::Persisted(persist.ticket));
            } else if is_done {
                return;
            }
        }
    }

    /// Delivers what is in the mail between these, and what comes of it, until nothing is. The rest
    /// stays where it is.
    pub fn deliver(&mut self, among: &[(usize, usize)]) {
        while let Some(at) =
            self.mail.iter().position(|(from, to, _)| among.contains(&(*from, *to)))
        {
            let (from, to, message) = self.mail.remove(at);
            self.step(to, Event::Receive { from: ReplicaId(from as u64), message });
        }
    }

    /// Between everybody.
    pub fn deliver_all(&mut self) {
        self.deliver(&[(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)]);
    }

    /// Loses what is in the mail from `from` to `to`.
    pub fn lose(&mut self, from: usize, to: usize) {
        self.mail.retain(|(sender, receiver, _)| (*sender, *receiver) != (from, to));
    }

    /// A command is proposed at `id`, which leads.
    pub fn propose(&mut self, id: usize) {
        let member = self.member(id);
        let now = member.now;
        let proposed = member.raft.propose(now, Bytes::from_static(b"command"));
        proposed.expect("who leads takes a command");
        self.turn(id);
    }

    /// A read is asked of `id`, which leads.
    pub fn read(&mut self, id: usize) -> ReadId {
        let member = self.member(id);
        let now = member.now;
        let read = member.raft.read(now).expect("who leads takes a read");
        self.turn(id);
        read
    }

    /// At which index a lease lets `id` read now.
    pub fn lease_read(&mut self, id: usize) -> Option<Index> {
        let member = self.member(id);
        member.raft.lease_read(member.now)
    }

    /// Takes the reads of `id` that were confirmed since this was asked last.
    pub fn confirmed(&mut self, id: usize) -> Vec<(ReadId, Index)> {
        std::mem::take(&mut self.member(id).confirmed)
    }

    /// What `id` knows to be committed.
    pub fn commit(&self, id: usize) -> Index {
        self.members[id - 1].raft.commit()
    }

    /// True if `id` believes that it leads.
    pub fn leads(&self, id: usize) -> bool {
        self.members[id - 1].raft.role() == Role::Leader
    }

    /// A replica ends and starts again from its disk.
    pub fn restart(&mut self, id: usize) {
        let leases = self.leases;
        let member = self.member(id);
        let mut term_starts: Vec<Position> = Vec::new();
        for (at, term) in member.log.iter().enumerate() {
            if term_starts.last().is_none_or(|last| last.term.0 != *term) {
                term_starts.push(Position::new(at as u64 + 1, *term));
            }
        }
        let restored = Restored {
            hard_state: member.hard_state,
            term_starts,
            last_index: Index(member.log.len() as u64),
            applied: member.applied,
            ..Restored::default()
        };
        member.raft = Raft::new(options(id, leases), restored, member.now);
        self.turn(id);
    }

    /// Replica 1 leads, and everybody has `commands` of it.
    pub fn under_1(leases: bool, commands: u64) -> Trio {
        let mut trio = Trio::new(leases);
        trio.step(1, Event::Campaign);
        trio.deliver_all();
        for _ in 0..commands {
            trio.propose(1);
            trio.deliver_all();
        }
        trio.heartbeat(1);
        trio.deliver_all();
        trio
    }

    /// The leader's heartbeats are due.
    pub fn heartbeat(&mut self, id: usize) {
        self.wait(id, Duration::from_millis(100));
        self.step(id, Event::Tick);
    }

    /// A replica that would have waited long enough asks for votes, again and again: two are more than
    /// any answer takes.
    pub fn campaign_until_it_leads(&mut self, id: usize, among: &[(usize, usize)]) {
        for _ in 0..3 {
            if !self.leads(id) {
                self.step(id, Event::Campaign);
                self.deliver(among);
            }
        }
    }
}

impl Trio {
    /// Delivers what is in the mail from `from` to `to`, but loses what carries entries.
    pub fn deliver_but_appends(&mut self, from: usize, to: usize) {
        self.mail.retain(|(sender, receiver, message)| {
            (*sender, *receiver) != (from, to) || !matches!(message, Message::Append { .. })
        });
        self.deliver(&[(from, to)]);
    }
}
