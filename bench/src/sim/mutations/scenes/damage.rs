//! A journal of which a bit is flipped, far below what later batches prove to have been synced.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use flotilla_storage::GroupId;
use flotilla_storage::fs::FileSystem;
use flotilla_storage::journal::{
    Change, Journal, JournalError, JournalOptions, LogEntry, Recovery, SEGMENT_BYTES_MIN, Write,
};
use flotilla_storage::sim::SimFs;

use super::super::super::judges::{Group, Judges, Position, Reopened, Replica, Violation};

const GROUP: GroupId = GroupId(1);
const REPLICA: Replica = Replica(1);
const TERM: u64 = 1;
const ENTRIES: u64 = 10;

fn payload(index: u64) -> Bytes {
    Bytes::from(format!("the payload of entry {index} "))
}

fn dir() -> PathBuf {
    PathBuf::from("/journal")
}

fn open(fs: &SimFs, boot: u64) -> Result<(Journal, Recovery), JournalError> {
    let options = JournalOptions {
        segment_bytes: 4 * SEGMENT_BYTES_MIN,
        boot_nonce: Some(boot),
        ..JournalOptions::default()
    };
    Journal::open(Arc::new(fs.clone()), dir(), options)
}

/// One round, durable.
fn commit(journal: &mut Journal, ticket: u64, change: Change) -> Result<(), JournalError> {
    journal.write(&[Write { group: GROUP, ticket, change }])?;
    journal.sync()
}

fn write_all(fs: &SimFs, judges: &mut Judges) -> Result<(), JournalError> {
    let (mut journal, _) = open(fs, 1)?;
    commit(&mut journal, 0, Change::Birth { meta: Bytes::from_static(b"born") })?;
    let (group, replica) = (Group(GROUP.0), REPLICA);
    for index in 1..=ENTRIES {
        let entries = vec![LogEntry { index, term: TERM, payload: payload(index) }];
        judges.entry(group, replica, index, TERM, index);
        judges.wrote(group, replica, index);
        commit(&mut journal, index, Change::Append { state: None, entries })?;
        judges.synced(group, replica, index);
    }
    Ok(())
}

/// Flips a bit of an entry in the middle of the log.
fn damage(fs: &SimFs) {
    let names = fs.list(&dir()).expect("the simulated disk lists its files");
    let wanted = payload(ENTRIES / 2);
    for name in names {
        let path = dir().join(name);
        let content = fs.content(Path::new(&path)).expect("the simulated disk has its files");
        let found = content.windows(wanted.len()).position(|bytes| bytes == &wanted[..]);
        if let Some(offset) = found {
            fs.flip(&path, offset as u64, 1).expect("the simulated disk flips a bit");
            return;
        }
    }
    panic!("the entry is not on the disk");
}

/// What was synced is found again, or the group says that it lost something.
///
/// # Errors
///
/// If it is lost in silence.
pub fn in_the_middle() -> Result<(), Violation> {
    let (fs, mut judges) = (SimFs::new(1), Judges::new());
    write_all(&fs, &mut judges).expect("the simulated disk takes it");
    damage(&fs);
    let (_, recovery) = open(&fs, 2).expect("damage is no error");
    let recovered = &recovery.groups[&GROUP];
    let entries: Vec<(u64, u64)> = (1..=recovered.last_index).map(|index| (TERM, index)).collect();
    let found = Reopened {
        term: TERM,
        vote: None,
        base: Position::default(),
        entries: &entries,
        suspect: recovered.suspect,
        // Only who says so is excused.
        damaged: recovered.suspect,
    };
    judges.reopened(Group(GROUP.0), REPLICA, &found);
    judges.verdict()
}
