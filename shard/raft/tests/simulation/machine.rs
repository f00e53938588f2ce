//! One simulated machine: a disk that survives crashes, and the replica that runs on it.

use std::collections::{BTreeMap, VecDeque};

use flotilla_raft::{
    Entry, Fetch, HardState, Index, Persist, Position, Raft, ReadId, ReplicaId, Restored, Term,
};

/// What survives a crash. Entries are kept whole; `base` only says what the core may still ask.
#[derive(Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
    pub base: Index,
    /// The state machine's durable checkpoint.
    pub checkpoint: Index,
}

impl Disk {
    /// Makes a write durable.
    pub fn write(&mut self, persist: &Persist) {
        if let Some(state) = persist.hard_state {
            let before = self.hard_state;
            assert!(state.term >= before.term, "the term went back on disk");
            if state.term == before.term && before.vote.is_some() {
                assert_eq!(state.vote, before.vote, "the vote of a term changed on disk");
            }
            assert!(state.commit >= before.commit, "the commit index went back on disk");
            self.hard_state = state;
        }
        replace_suffix(&mut self.entries, &persist.entries);
        if let Some(last) = persist.entries.last() {
            assert!(last.term <= self.hard_state.term, "an entry newer than the term on disk");
        }
    }

    pub fn holds(&self, entry: &Entry) -> bool {
        self.entries.get(entry.index.0 as usize - 1) == Some(entry)
    }

    pub fn read(&self, fetch: Fetch) -> Vec<Entry> {
        assert!(fetch.from > self.base, "fetching what is compacted");
        let mut bytes = 0;
        let range = fetch.from.0 as usize - 1..(fetch.to.0 as usize).min(self.entries.len());
        let mut entries = Vec::new();
        for entry in self.entries.get(range).unwrap_or_default() {
            bytes += entry.bytes();
            if bytes > fetch.bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        entries
    }

    pub fn restored(&self) -> Restored {
        let term_at = |index: Index| match index.0 {
            0 => Term(0),
            index => self.entries[index as usize - 1].term,
        };
        let mut term_starts: Vec<Position> = Vec::new();
        for entry in &self.entries[self.base.0 as usize..] {
            if term_starts.last().is_none_or(|run| run.term < entry.term) {
                term_starts.push(entry.position());
            }
        }
        Restored {
            hard_state: self.hard_state,
            base: Position { index: self.base, term: term_at(self.base) },
            term_starts,
            last_index: Index(self.entries.len() as u64),
            applied: self.checkpoint,
            needs_snapshot: false,
        }
    }
}

/// Replaces everything from the first of `entries` on.
pub fn replace_suffix(log: &mut Vec<Entry>, entries: &[Entry]) {
    let Some(first) = entries.first() else { return };
    let at = first.index.0 as usize - 1;
    assert!(at <= log.len(), "a write leaves a gap in the log");
    log.truncate(at);
    log.extend_from_slice(entries);
}

/// A machine and the replica on it.
pub struct Machine {
    pub id: ReplicaId,
    pub raft: Option<Raft>,
    /// Counts restarts: what belongs to an earlier life is dropped.
    pub life: u64,
    pub disk: Disk,
    /// Handed out for writing, not durable.
    pub writes: VecDeque<Persist>,
    pub disk_free_at: u64,
    pub disk_delay_max: u64,
    /// The log as the core has it: what was ever handed out for writing.
    pub log: Vec<Entry>,
    pub applied: Index,
    pub commit: Index,
    pub paused_until: u64,
    pub turn_due: bool,
    /// Reads that wait, with the commit index known anywhere when they were asked.
    pub reads: BTreeMap<ReadId, Index>,
    /// Proposals that wait to be applied here.
    pub proposals: BTreeMap<u64, (Position, u64)>,
    pub fetching: bool,
}

impl Machine {
    pub fn new(id: ReplicaId) -> Self {
        Self {
            id,
            raft: None,
            life: 0,
            disk: Disk::default(),
            writes: VecDeque::new(),
            disk_free_at: 0,
            disk_delay_max: 0,
            log: Vec::new(),
            applied: Index(0),
            commit: Index(0),
            paused_until: 0,
            turn_due: false,
            reads: BTreeMap::new(),
            proposals: BTreeMap::new(),
            fetching: false,
        }
    }
}
