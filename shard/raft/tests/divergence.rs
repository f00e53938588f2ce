//! A follower whose log diverged is repaired in a number of probes that grows with the terms in
//! which the logs differ, not with the entries.

use std::{collections::VecDeque, time::Duration};

use flotilla_raft::{
    Entry, Event, FollowerState, HardState, Index, Limits, Options, Raft, ReplicaId, Restored,
    Role, Term, Time,
};

/// A replica with a disk on which everything is durable at once.
struct Replica {
    raft: Raft,
    disk: Vec<Entry>,
}

impl Replica {
    fn new(id: u64, disk: Vec<Entry>) -> Self {
        let options = Options {
            id: ReplicaId(id),
            voters: [1, 2, 3].map(ReplicaId).to_vec(),
            election_timeout: Duration::from_secs(1),
            heartbeat_interval: Duration::from_millis(100),
            seed: 1,
            suspect: false,
            pre_vote: true,
            check_quorum: true,
            disk_stall_max: Duration::from_secs(1),
            may_lead: true,
            leases: None,
            limits: Limits::default(),
        };
        let restored = Restored {
            hard_state: HardState {
                term: disk.last().map_or(Term(0), |entry| entry.term),
                ..HardState::default()
            },
            term_starts: disk
                .chunk_by(|a, b| a.term == b.term)
                .map(|run| run[0].position())
                .collect(),
            last_index: Index(disk.len() as u64),
            ..Restored::default()
        };
        Self { raft: Raft::new(options, restored, Time(0)), disk }
    }

    /// Takes an event and returns the messages that follow from it.
    fn step(&mut self, event: Event) -> Vec<(ReplicaId, Event)> {
        let from = self.raft.status().id;
        let mut sent = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.raft.step(Time(0), event);
            loop {
                let ready = self.raft.ready(Time(0));
                if let Some(persist) = ready.persist {
                    if let Some(first) = persist.entries.first() {
                        self.disk.truncate(first.index.0 as usize - 1);
                        self.disk.extend(persist.entries);
                    }
                    events.push(Event::Persisted(persist.ticket));
                }
                if let Some(fetch) = ready.fetch {
                    let range = fetch.from.0 as usize - 1..fetch.to.0 as usize;
                    events.push(Event::Fetched { entries: self.disk[range].to_vec() });
                }
                sent.extend(
                    ready
                        .messages
                        .into_iter()
                        .map(|e| (e.to, Event::Receive { from, message: e.message })),
                );
                if !ready.more {
                    break;
                }
            }
        }
        sent
    }
}

/// `counts[i]` entries of term `terms[i]`.
fn log(runs: &[(u64, u64)]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (term, count) in runs {
        for _ in 0..*count {
            let index = Index(entries.len() as u64 + 1);
            entries.push(Entry { index, term: Term(*term), payload: vec![*term as u8; 16].into() });
        }
    }
    entries
}

/// Elects replica 1 with the vote of replica 2 and repairs replica 2; returns the probes it took.
fn repair(leader: Vec<Entry>, follower: Vec<Entry>) -> u64 {
    let mut replicas = [Replica::new(1, leader), Replica::new(2, follower)];
    let mut network = VecDeque::from(replicas[0].step(Event::Campaign));
    while let Some((to, event)) = network.pop_front() {
        assert!(network.len() < 10_000, "the replicas do not come to rest");
        if let Some(replica) = replicas.get_mut(to.0 as usize - 1) {
            network.extend(replica.step(event));
        }
    }
    let status = replicas[0].raft.status();
    assert_eq!(status.role, Role::Leader);
    let progress = status.followers[0];
    assert_eq!(progress.state, FollowerState::Replicate);
    assert_eq!(progress.matched, status.last.index);
    assert!(replicas[0].disk == replicas[1].disk, "the logs still differ");
    progress.probes_sent
}

/// Both logs share 1,000 entries of term 1. Then they took turns: the leader has the odd terms,
/// the follower the even ones.
fn alternating(diverged: u64, terms: u64) -> u64 {
    let run = |term: u64| (term, diverged / terms);
    let follower: Vec<_> = [(1, 1000)].into_iter().chain((1..=terms).map(|t| run(2 * t))).collect();
    let leader: Vec<_> =
        [(1, 1000)].into_iter().chain((1..=terms).map(|t| run(2 * t + 1))).collect();
    repair(log(&leader), log(&follower))
}

#[test]
fn probes_grow_with_terms_and_not_with_entries() {
    println!("diverged entries | terms | probes");
    for terms in [1, 3, 10, 30] {
        let probes = [300, 3_000, 30_000].map(|diverged| {
            let probes = alternating(diverged, terms);
            println!("{diverged:>16} | {terms:>5} | {probes:>6}");
            probes
        });
        assert!(probes.iter().all(|count| *count == probes[0]), "probes grow with entries");
        assert!(probes[0] <= terms + 2, "{} probes for {terms} terms", probes[0]);
    }
}

/// The follower led three terms alone and wrote 10,000 entries that nobody else has; the leader has
/// a short log of a later term.
#[test]
fn ten_thousand_entries_in_three_terms() {
    let follower = log(&[(1, 1000), (2, 3333), (3, 3333), (4, 3334)]);
    let leader = log(&[(1, 1000), (5, 10)]);
    let probes = repair(leader, follower);
    println!("10,000 diverged entries in 3 terms, short leader: {probes} probes");
    assert!(probes <= 4);

    let follower = log(&[(1, 1000), (2, 3333), (4, 3333), (6, 3334)]);
    let leader = log(&[(1, 1000), (3, 3333), (5, 3333), (7, 3334)]);
    let probes = repair(leader, follower);
    println!("10,000 diverged entries in 3 terms on both sides: {probes} probes");
    assert!(probes <= 5);
}
