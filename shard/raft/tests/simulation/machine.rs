//! One simulated machine: a disk that survives crashes, and the replica that runs on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flotilla_raft::{
    Entry, Fetch, HardState, Index, Persist, Position, Raft, ReadId, ReplicaId, Restored, Term,
};

use crate::clock::Clock;

/// What survives a crash. Entries are kept whole; `base` only says what the core may still ask. What a
/// snapshot brought is filled in from what is known to be committed.
#[derive(Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
    pub base: Index,
    /// Where the rows of the durable checkpoint end.
    pub rows: Position,
    /// They cannot be read.
    pub rows_lost: bool,
}

impl Disk {
    /// Makes a write durable.
    pub fn write(&mut self, persist: &Persist, committed: &[Entry]) {
        if let Some(base) = persist.reset {
            self.reset(base, committed);
        }
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

    /// The log goes on after `base`.
    fn reset(&mut self, base: Position, committed: &[Entry]) {
        restart_log(&mut self.entries, base, committed);
        self.base = base.index;
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

    /// What a restart finds.
    pub fn restored(&mut self, committed: &[Entry]) -> Restored {
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
        let mut restored = Restored {
            hard_state: self.hard_state,
            base: Position { index: self.base, term: term_at(self.base) },
            term_starts,
            last_index: Index(self.entries.len() as u64),
            applied: self.rows.index,
            needs_snapshot: self.rows_lost,
        };
        if restored.resume_after_swap(self.rows) {
            self.reset(self.rows, committed);
        }
        restored
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

/// The log begins after `base`: what follows that entry stays, if the log holds it.
pub fn restart_log(log: &mut Vec<Entry>, base: Position, committed: &[Entry]) {
    let before = &committed[..base.index.0 as usize];
    assert_eq!(before.last().map(Entry::position), Some(base), "a snapshot of something else");
    if log.get(before.len() - 1) != before.last() {
        log.clear();
        log.extend_from_slice(before);
    }
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
    pub clock: Clock,
    pub turn_due: bool,
    /// Reads that wait, with the commit index known anywhere when they were asked.
    pub reads: BTreeMap<ReadId, Index>,
    /// Proposals that wait to be applied here.
    pub proposals: BTreeMap<u64, (Position, u64)>,
    pub fetching: bool,
    /// It may campaign, as far as it was told.
    pub may_lead: bool,
    /// The snapshot that was taken and is not installed, and who sent it in which life.
    pub installing: Option<Position>,
    pub sender: Option<(usize, u64)>,
    /// Snapshots that are under way from here.
    pub orders: BTreeSet<ReplicaId>,
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
            clock: Clock::new(0, id.0 << 40),
            turn_due: false,
            reads: BTreeMap::new(),
            proposals: BTreeMap::new(),
            fetching: false,
            may_lead: true,
            installing: None,
            sender: None,
            orders: BTreeSet::new(),
        }
    }
}
