//! A journal in memory that loses at a crash what was not synced.

use flotilla_shard::raft::{self, HardState, Index, Position, Restored, Term};
use flotilla_storage::journal::{Change, LogEntry, Write};
use std::collections::VecDeque;

/// What one replica has written.
#[derive(Default)]
pub struct Journal {
    state: HardState,
    base: (u64, u64),
    entries: Vec<LogEntry>,
    /// Not synced yet.
    queue: VecDeque<Write>,
    /// Nothing becomes durable meanwhile.
    pub stalled: bool,
}

impl Journal {
    pub fn submit(&mut self, write: Write) {
        self.queue.push_back(write);
    }

    /// Syncs everything, and returns the last ticket.
    pub fn sync(&mut self) -> Option<u64> {
        if self.stalled {
            return None;
        }
        let writes = std::mem::take(&mut self.queue);
        let mut ticket = None;
        for write in writes {
            if write.ticket != 0 {
                ticket = Some(write.ticket);
            }
            self.write(write.change);
        }
        ticket
    }

    pub fn base(&self) -> u64 {
        self.base.0
    }

    fn write(&mut self, change: Change) {
        match change {
            Change::Append { state, entries } => {
                if let Some(state) = state {
                    self.state = HardState::decode(&state).expect("a replica wrote it");
                }
                if let Some(first) = entries.first() {
                    self.entries.retain(|entry| entry.index < first.index);
                    let last = self.entries.last().map_or(self.base.0, |entry| entry.index);
                    assert_eq!(first.index, last + 1, "the log has no gaps");
                }
                self.entries.extend(entries);
            }
            Change::Compact { index, term } if index > self.base.0 => {
                let holds = self.entries.iter().any(|e| (e.index, e.term) == (index, term));
                self.entries.retain(|entry| holds && entry.index > index);
                self.base = (index, term);
            }
            Change::Compact { .. } => {}
            other => panic!("a replica writes nothing like {other:?}"),
        }
    }

    pub fn read(&self, from: u64, to: u64) -> Option<Vec<LogEntry>> {
        let wanted = self.entries.iter().filter(|entry| (from..=to).contains(&entry.index));
        let entries: Vec<LogEntry> = wanted.cloned().collect();
        entries.first().is_some_and(|entry| entry.index == from).then_some(entries)
    }

    /// What a restart finds, with rows that end at `rows`.
    pub fn crash(&mut self, rows: Position) -> Restored {
        self.queue.clear();
        self.stalled = false;
        let mut term_starts: Vec<Position> = Vec::new();
        for entry in &self.entries {
            if term_starts.last().is_none_or(|start| start.term.0 != entry.term) {
                term_starts.push(position((entry.index, entry.term)));
            }
        }
        let mut restored = Restored {
            hard_state: self.state,
            base: position(self.base),
            term_starts,
            last_index: Index(self.entries.last().map_or(self.base.0, |entry| entry.index)),
            applied: rows.index,
            needs_snapshot: false,
        };
        if restored.resume_after_swap(rows) {
            self.write(Change::Compact { index: rows.index.0, term: rows.term.0 });
        }
        restored
    }
}

pub fn position((index, term): (u64, u64)) -> Position {
    Position { index: raft::Index(index), term: Term(term) }
}
