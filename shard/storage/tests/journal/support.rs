//! What the tests share: a small journal on a simulated disk, and a model of what it should hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use flotilla_storage::GroupId;
use flotilla_storage::journal::{
    Change, Journal, JournalError, JournalOptions, LogEntry, Recovery, SEGMENT_BYTES_MIN, Write,
};
use flotilla_storage::sim::SimFs;

pub fn dir() -> PathBuf {
    PathBuf::from("/journal")
}

/// Small segments, so that everything that happens to segments happens soon.
pub fn options() -> JournalOptions {
    static BOOTS: AtomicU64 = AtomicU64::new(1);
    JournalOptions {
        segment_bytes: SEGMENT_BYTES_MIN,
        batch_bytes_max: 24 << 10,
        spare_segments_max: 2,
        reserve_segments: 0,
        rewrite_segments_min: 3,
        total_bytes_target: 8 * SEGMENT_BYTES_MIN,
        rewrite_bytes_max: 4 << 10,
        boot_nonce: Some(BOOTS.fetch_add(1, Ordering::Relaxed)),
        ..JournalOptions::default()
    }
}

pub fn try_open(fs: &SimFs) -> Result<(Journal, Recovery), JournalError> {
    Journal::open(Arc::new(fs.clone()), dir(), options())
}

pub fn open(fs: &SimFs) -> (Journal, Recovery) {
    try_open(fs).expect("the journal opens")
}

/// Segment files, oldest first.
pub fn segment_paths(fs: &SimFs) -> Vec<PathBuf> {
    use flotilla_storage::fs::FileSystem;
    let names = fs.list(&dir()).unwrap();
    names.iter().filter(|name| name.ends_with(".segment")).map(|name| dir().join(name)).collect()
}

/// Sequence, offset and length of the batches whose header has the right magic, in one segment.
pub fn batches(fs: &SimFs, path: &Path) -> Vec<(u64, u64, u64)> {
    let content = fs.content(path).unwrap();
    let number = |at: usize, len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(&content[at..at + len]);
        u64::from_le_bytes(bytes)
    };
    let name = path.file_stem().unwrap().to_str().unwrap();
    let segment = u64::from_str_radix(name, 16).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while at + 4096 <= content.len() && &content[at..at + 8] == b"FLTJRNLH" {
        if number(at + 24, 8) != segment {
            break;
        }
        found.push((number(at + 16, 8), at as u64, number(at + 36, 4)));
        at += number(at + 36, 4) as usize;
    }
    found
}

pub fn entry(index: u64, term: u64, payload: &[u8]) -> LogEntry {
    LogEntry { index, term, payload: Bytes::copy_from_slice(payload) }
}

/// Entries `from..=to` of one term, each with a payload that names all of it.
pub fn entries(group: u64, term: u64, from: u64, to: u64) -> Vec<LogEntry> {
    (from..=to)
        .map(|index| entry(index, term, format!("{group}/{index}/{term}").as_bytes()))
        .collect()
}

pub fn write(group: u64, ticket: u64, change: Change) -> Write {
    Write { group: GroupId(group), ticket, change }
}

pub fn birth(group: u64) -> Write {
    write(group, 0, Change::Birth { meta: Bytes::from(format!("born {group}")) })
}

pub fn append(group: u64, term: u64, from: u64, to: u64) -> Write {
    write(group, 0, Change::Append { state: None, entries: entries(group, term, from, to) })
}

pub fn state(group: u64, state: &str) -> Write {
    let state = Some(Bytes::copy_from_slice(state.as_bytes()));
    write(group, 0, Change::Append { state, entries: Vec::new() })
}

pub fn compact(group: u64, index: u64, term: u64) -> Write {
    write(group, 0, Change::Compact { index, term })
}

/// One round, durable.
pub fn commit(journal: &mut Journal, writes: &[Write]) {
    journal.write(writes).expect("a write");
    journal.sync().expect("a sync");
}

/// Housekeeping until there is none.
pub fn settle(journal: &mut Journal) {
    while journal.maintain().expect("housekeeping") {
        journal.sync().expect("a sync");
    }
    journal.sync().expect("a sync");
    journal.prove().expect("a marker");
}

/// What a group should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelGroup {
    pub birth: Bytes,
    pub state: Option<Bytes>,
    pub base: (u64, u64),
    pub entries: Vec<(u64, Bytes)>,
    pub suspect: bool,
}

impl ModelGroup {
    pub fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub fn term_at(&self, index: u64) -> Option<u64> {
        let at = index.checked_sub(self.base.0 + 1)?;
        self.entries.get(at as usize).map(|(term, _)| *term)
    }
}

/// What all groups should be.
pub type Model = BTreeMap<GroupId, ModelGroup>;

/// Does to the model what the journal should do.
pub fn apply(model: &mut Model, write: &Write) {
    let id = write.group;
    match &write.change {
        Change::Birth { meta } => {
            model.insert(id, ModelGroup { birth: meta.clone(), ..ModelGroup::default() });
        }
        Change::Death => {
            model.remove(&id);
        }
        Change::Suspect => model.get_mut(&id).unwrap().suspect = true,
        Change::Append { state, entries } => {
            let group = model.get_mut(&id).unwrap();
            if state.is_some() {
                group.state.clone_from(state);
            }
            for entry in entries {
                group.entries.truncate((entry.index - group.base.0 - 1) as usize);
                group.entries.push((entry.term, entry.payload.clone()));
            }
        }
        Change::Compact { index, term } => {
            let group = model.get_mut(&id).unwrap();
            if *index <= group.base.0 {
                return;
            }
            if group.term_at(*index) == Some(*term) {
                group.entries.drain(..(*index - group.base.0) as usize);
            } else {
                group.entries.clear();
            }
            group.base = (*index, *term);
        }
    }
}

/// What a recovery found, with every entry read back, as a model.
pub fn observed(journal: &Journal, recovery: &Recovery) -> Model {
    let reader = journal.reader();
    let mut model = Model::new();
    for (id, found) in &recovery.groups {
        let mut entries: Vec<LogEntry> = Vec::new();
        while found.base.0 + (entries.len() as u64) < found.last_index {
            let from = found.base.0 + 1 + entries.len() as u64;
            entries.extend(reader.read(*id, from, found.last_index, 10_000).expect("entries"));
        }
        let mut starts: Vec<(u64, u64)> = Vec::new();
        for (entry, index) in entries.iter().zip(found.base.0 + 1..) {
            assert_eq!(entry.index, index);
            if starts.last().is_none_or(|(_, term)| *term != entry.term) {
                starts.push((index, entry.term));
            }
        }
        assert_eq!(found.term_starts, starts, "{id}");
        model.insert(
            *id,
            ModelGroup {
                birth: found.birth.clone(),
                state: found.state.clone(),
                base: found.base,
                entries: entries.into_iter().map(|entry| (entry.term, entry.payload)).collect(),
                suspect: found.suspect,
            },
        );
    }
    model
}
