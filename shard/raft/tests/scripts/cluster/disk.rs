//! What a replica's disk holds, and how a script says it.

use flotilla_raft::{Entry, HardState, Index, Persist, Position, ReplicaId, Restored, Term};

use super::number;
use crate::show;

/// Everything that survives a crash.
#[derive(Default)]
pub struct Disk {
    pub hard_state: HardState,
    /// From index 1. Those up to the base only hold their places.
    pub entries: Vec<Entry>,
    pub base: Index,
    /// Where the state machine's rows end.
    pub rows: Position,
    pub needs_snapshot: bool,
    pub suspect: bool,
}

impl Disk {
    /// A snapshot takes the place of the rows.
    pub fn swap(&mut self, position: Position) {
        self.rows = position;
        self.needs_snapshot = false;
    }

    /// The rows are saved as of `index`.
    pub fn checkpoint(&mut self, index: Index) {
        self.rows = Position { index, term: self.term_at(index) };
    }

    pub fn write(&mut self, persist: &Persist) {
        if let Some(base) = persist.reset {
            self.reset(base);
        }
        if let Some(state) = persist.hard_state {
            self.hard_state = state;
        }
        if let Some(first) = persist.entries.first() {
            self.entries.truncate(first.index.0 as usize - 1);
            self.entries.extend_from_slice(&persist.entries);
        }
    }

    /// The log goes on after `base`: what follows that entry stays, if the log holds it.
    fn reset(&mut self, base: Position) {
        self.base = base.index;
        if self.entries.get(base.index.0 as usize - 1).is_some_and(|it| it.position() == base) {
            return;
        }
        let filler = Entry { index: base.index, term: base.term, payload: "".into() };
        self.entries.truncate(base.index.0 as usize - 1);
        self.entries.resize(base.index.0 as usize, filler);
    }

    fn term_at(&self, index: Index) -> Term {
        match index.0 {
            0 => Term(0),
            index => self.entries[index as usize - 1].term,
        }
    }

    /// What a restart finds.
    pub fn restored(&mut self) -> Restored {
        let runs = self.entries[self.base.0 as usize..].chunk_by(|a, b| a.term == b.term);
        let mut restored = Restored {
            hard_state: self.hard_state,
            base: Position { index: self.base, term: self.term_at(self.base) },
            term_starts: runs.map(|run| run[0].position()).collect(),
            last_index: Index(self.entries.len() as u64),
            applied: self.rows.index,
            needs_snapshot: self.needs_snapshot,
        };
        if restored.resume_after_swap(self.rows) {
            self.reset(self.rows);
        }
        restored
    }
}

/// `1x3 4x2 6` are three entries of term 1, two of term 4, one of term 6.
pub fn parse(words: &[&str]) -> Result<Disk, String> {
    let mut disk = Disk::default();
    let mut term = 0;
    let mut applied = Index(0);
    for word in words {
        match word.split_once('=') {
            Some(("term", value)) => disk.hard_state.term = Term(number(value)?),
            Some(("vote", value)) => disk.hard_state.vote = Some(ReplicaId(number(value)?)),
            Some(("commit", value)) => disk.hard_state.commit = Index(number(value)?),
            Some(("installing", at)) => disk.hard_state.installing = Some(show::position(at)?),
            Some(("applied", value)) => applied = Index(number(value)?),
            Some(("base", value)) => disk.base = Index(number(value)?),
            Some((other, _)) => return Err(format!("unknown field {other}")),
            None if *word == "suspect" => disk.suspect = true,
            None if *word == "needs-snapshot" => disk.needs_snapshot = true,
            None => {
                let (value, count) = word.split_once('x').unwrap_or((word, "1"));
                term = number(value)?;
                for _ in 0..number(count)? {
                    let index = Index(disk.entries.len() as u64 + 1);
                    let payload = "x".into();
                    disk.entries.push(Entry { index, term: Term(term), payload });
                }
            }
        }
    }
    disk.hard_state.term = disk.hard_state.term.max(Term(term));
    let applied = if disk.needs_snapshot { applied } else { applied.max(disk.base) };
    disk.checkpoint(applied);
    Ok(disk)
}
