//! What a replica's disk holds, and how a script says it.

use flotilla_raft::{Entry, HardState, Index, Position, ReplicaId, Restored, Term};

use super::number;

/// Everything that survives a crash.
#[derive(Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
    pub base: Index,
    pub checkpoint: Index,
    pub suspect: bool,
}

/// `1x3 4x2 6` are three entries of term 1, two of term 4, one of term 6.
pub fn parse(words: &[&str]) -> Result<Disk, String> {
    let mut disk = Disk::default();
    let mut term = 0;
    for word in words {
        match word.split_once('=') {
            Some(("term", value)) => disk.hard_state.term = Term(number(value)?),
            Some(("vote", value)) => disk.hard_state.vote = Some(ReplicaId(number(value)?)),
            Some(("commit", value)) => disk.hard_state.commit = Index(number(value)?),
            Some(("applied", value)) => disk.checkpoint = Index(number(value)?),
            Some(("base", value)) => disk.base = Index(number(value)?),
            Some((other, _)) => return Err(format!("unknown field {other}")),
            None if *word == "suspect" => disk.suspect = true,
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
    Ok(disk)
}

pub fn restored(disk: &Disk) -> Restored {
    let base = disk.base.0 as usize;
    let term = if base == 0 { Term(0) } else { disk.entries[base - 1].term };
    let runs = disk.entries[base..].chunk_by(|a, b| a.term == b.term);
    Restored {
        hard_state: disk.hard_state,
        base: Position { index: disk.base, term },
        term_starts: runs.map(|run| run[0].position()).collect(),
        last_index: Index(disk.entries.len() as u64),
        applied: disk.checkpoint.max(disk.base),
        needs_snapshot: false,
    }
}
