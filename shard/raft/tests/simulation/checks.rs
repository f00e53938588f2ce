//! What must hold after every turn: the five safety properties of the Raft paper (figure 3), and
//! that promises are durable before they are made.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_raft::{Entry, Index, Message, ReplicaId, Role, Status, Term};

use crate::machine::Machine;

/// What an outside observer remembers of the whole group.
#[derive(Default)]
pub struct Observer {
    /// Everything known to be committed, from index 1.
    pub committed: Vec<Entry>,
    /// In which leader's term each of them was committed; not before the term of the entry.
    committed_in: Vec<Term>,
    leaders: BTreeMap<Term, ReplicaId>,
    /// Every entry that was ever in any log, with the term of its predecessor.
    entries: BTreeMap<(Index, Term), (Bytes, Term)>,
    votes: BTreeMap<(Term, ReplicaId), ReplicaId>,
    reads: BTreeMap<(ReplicaId, u64), u64>,
}

impl Observer {
    pub fn commit(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// Log matching: an entry is the same wherever it is, and so is its predecessor; by induction,
    /// so is everything before it.
    pub fn wrote(&mut self, machine: &Machine, entries: &[Entry]) {
        for entry in entries {
            let before = match entry.index.0 {
                1 => Term(0),
                index => machine.log[index as usize - 2].term,
            };
            let seen = self
                .entries
                .entry((entry.index, entry.term))
                .or_insert_with(|| (entry.payload.clone(), before));
            assert_eq!(seen.0, entry.payload, "two entries at {}", entry.position());
            assert_eq!(seen.1, before, "two predecessors of {}", entry.position());
        }
    }

    /// A vote leaves only when it is durable, and a voter gives one vote in a term.
    pub fn sent(&mut self, machine: &Machine, to: ReplicaId, message: &Message) {
        match *message {
            Message::Vote { term, pre: false, granted: true } => {
                let durable = machine.disk.hard_state;
                let kept =
                    durable.term > term || (durable.term == term && durable.vote == Some(to));
                assert!(kept, "replica {} gave a vote that it could forget", machine.id);
                let voted = *self.votes.entry((term, machine.id)).or_insert(to);
                assert_eq!(voted, to, "replica {} voted twice in term {term}", machine.id);
            }
            Message::RequestVote { term, pre: false, .. } => {
                assert!(machine.disk.hard_state.term >= term, "a candidate could forget its term");
            }
            _ => {}
        }
    }

    /// Checks one machine after its turn, and the group's committed log with what it knows.
    pub fn turned(&mut self, at: usize, machines: &[Machine], status: &Status) {
        let machine = &machines[at];
        let last = Index(machine.log.len() as u64);
        assert_eq!(status.last.index, last, "the core's log is not what it handed out");
        assert!(status.applied <= status.commit && status.commit <= last);
        assert!(status.persisted <= last && status.base.index <= status.applied);
        assert!(status.commit >= machine.commit, "the commit index went back");
        assert_eq!(status.violations, 0, "a correct peer was accused");
        if matches!(status.role, Role::PreCandidate | Role::Candidate) {
            let able = machine.may_lead && !machine.disk.rows_lost && machine.installing.is_none();
            assert!(able, "replica {} campaigns but may not lead", machine.id);
        }
        if status.role == Role::Leader {
            let leader = *self.leaders.entry(status.term).or_insert(machine.id);
            assert_eq!(leader, machine.id, "two leaders in term {}", status.term);
        }
        // State machine safety: what is committed is the same everywhere, for ever.
        let known = (status.commit.0 as usize).min(self.committed.len());
        let from = (machine.commit.0 as usize).min(known);
        assert_eq!(
            machine.log[from..known],
            self.committed[from..known],
            "replica {} commits something else",
            machine.id
        );
        for entry in &machine.log[known..(status.commit.0 as usize).max(known)] {
            let durable = machines.iter().filter(|machine| machine.disk.holds(entry)).count();
            assert!(
                durable > machines.len() / 2,
                "{} is committed with {durable} of {} durable copies",
                entry.position(),
                machines.len()
            );
            self.committed.push(entry.clone());
            self.committed_in.push(status.term);
        }
        for leader in machines {
            self.check_complete(leader);
        }
    }

    /// Leader completeness: a leader has everything committed in earlier terms.
    fn check_complete(&self, leader: &Machine) {
        let Some(raft) = &leader.raft else { return };
        if raft.role() != Role::Leader {
            return;
        }
        let term = raft.term();
        // Only what is newer than this leader's own commit index can be missing.
        for entry in &self.committed[(leader.commit.0 as usize).min(self.committed.len())..] {
            let at = entry.index.0 as usize - 1;
            assert!(
                leader.log.get(at) == Some(entry) || self.committed_in[at] >= term,
                "leader {} of term {term} lacks {}",
                leader.id,
                entry.position()
            );
        }
    }

    /// A read must see everything that was committed anywhere when it was asked.
    pub fn read(&mut self, machine: &Machine, id: u64, floor: Index, served: Index) {
        self.is_current(machine, floor, served);
        let times = self.reads.entry((machine.id, id | (machine.life << 40))).or_default();
        *times += 1;
        assert_eq!(*times, 1, "a read was answered twice");
    }

    /// The same for a read that is answered at once.
    pub fn is_current(&self, machine: &Machine, floor: Index, served: Index) {
        assert!(
            served >= floor,
            "stale read: replica {} serves {served}, but {floor} was committed before",
            machine.id
        );
    }
}
