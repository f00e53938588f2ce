//! Tells the judges what a replica does, as seen from outside: what it hands to its journal, and
//! what it publishes after each turn.
//!
//! What is absent: the judges' rules.

use std::collections::BTreeMap;

use flotilla_shard::raft::{HardState, Position};
use flotilla_shard::{Descriptor, GroupId, Replica, ReplicaStart, Role, ShardStatus};
use flotilla_storage::journal::{Change, JournalReader, Write};
use flotilla_storage::store::PageOptions;

use super::judges::{self, Group, Judges, Keys, Reopened};
use super::trace::{HASH_START, hash};

/// What is known of one replica's log.
#[derive(Debug, Default)]
pub struct Book {
    base: (u64, u64),
    /// By index: term and hash.
    entries: BTreeMap<u64, (u64, u64)>,
    commit: u64,
    applied: u64,
}

fn hash_of(payload: &[u8]) -> u64 {
    hash(HASH_START, payload)
}

/// The judges' word for a position.
fn judged(position: Position) -> judges::Position {
    judges::Position::new(position.index.0, position.term.0)
}

impl Book {
    /// What the disk holds of a replica that is about to start.
    pub fn reopened(
        judges: &mut Judges,
        node: u64,
        start: &ReplicaStart,
        reader: &JournalReader,
        is_damaged: bool,
    ) -> Book {
        let descriptor = &start.meta.descriptor;
        let (group, replica) = (Group(descriptor.group.0), judges::Replica(start.raft.id.0));
        let restored = &start.restored;
        let base = restored.base;
        let mut book = Book {
            base: (base.index.0, base.term.0),
            commit: 0,
            applied: restored.applied.0,
            entries: BTreeMap::new(),
        };
        let mut found = Vec::new();
        if !start.raft.suspect {
            book.read(reader, descriptor.group, restored.last_index.0);
            found = book.entries.values().copied().collect();
        }
        let HardState { term, vote, .. } = restored.hard_state;
        let reopened = Reopened {
            term: term.0,
            vote: vote.map(|vote| vote.0),
            base: judged(base),
            entries: &found,
            suspect: start.raft.suspect,
            damaged: is_damaged,
        };
        judges.reopened(group, replica, &reopened);
        let applied = match restored.needs_snapshot {
            true => Position::default(),
            false => start.applied,
        };
        book.applied = applied.index.0;
        judges.restored(group, replica, applied.index.0, applied.term.0);
        judges.owns(node, group, descriptor.epoch.version, &keys(descriptor));
        book
    }

    fn read(&mut self, reader: &JournalReader, group: GroupId, last: u64) {
        let mut next = self.base.0 + 1;
        while next <= last {
            let Ok(entries) = reader.read(group, next, last, u64::MAX) else { return };
            for entry in entries {
                next = entry.index + 1;
                self.entries.insert(entry.index, (entry.term, hash_of(&entry.payload)));
            }
        }
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        match index == self.base.0 {
            true => Some(self.base.1),
            false => self.entries.get(&index).map(|(term, _)| *term),
        }
    }

    /// A replica made a turn, and hands `writes` to its journal. `installed`: a snapshot took the
    /// place of its rows before.
    pub fn turned(
        &mut self,
        judges: &mut Judges,
        replica: judges::Replica,
        status: &ShardStatus,
        writes: &[Write],
        installed: Option<Position>,
    ) {
        let group = Group(status.group.0);
        judges.term(group, replica, status.term);
        if let Some(position) = installed
            && status.applied_index >= position.index.0
        {
            judges.restored(group, replica, position.index.0, position.term.0);
            self.applied = position.index.0;
        }
        let mut compacted = Vec::new();
        for write in writes {
            match &write.change {
                Change::Append { entries, .. } => {
                    for entry in entries {
                        let hash = hash_of(&entry.payload);
                        judges.entry(group, replica, entry.index, entry.term, hash);
                        let _ = self.entries.split_off(&entry.index);
                        self.entries.insert(entry.index, (entry.term, hash));
                    }
                }
                Change::Compact { index, term } if *index > self.base.0 => {
                    if self.term_at(*index) == Some(*term) {
                        compacted.push((*index, *term));
                    } else {
                        judges.compacted(group, replica, *index, *term);
                        self.entries.clear();
                        self.base = (*index, *term);
                    }
                }
                _ => {}
            }
            if write.ticket != 0 {
                judges.wrote(group, replica, write.ticket);
            }
        }
        if status.commit_index > self.commit
            && let Some(term) = self.term_at(status.commit_index)
        {
            self.commit = status.commit_index;
            judges.committed(group, replica, status.commit_index, term);
        }
        for index in self.applied + 1..=status.applied_index {
            if let Some((term, hash)) = self.entries.get(&index) {
                judges.applied(group, replica, index, *term, *hash);
            }
        }
        self.applied = self.applied.max(status.applied_index);
        for (index, term) in compacted {
            judges.compacted(group, replica, index, term);
            self.entries = self.entries.split_off(&(index + 1));
            self.base = (index, term);
        }
        if status.role == Role::Leader {
            judges.leads(group, replica, status.term);
        }
        if status.suspect {
            judges.suspects(group, replica);
        }
    }
}

fn keys(descriptor: &Descriptor) -> Keys {
    let range = &descriptor.range;
    Keys { start: range.start.to_vec(), end: range.end.as_ref().map(|end| end.to_vec()) }
}

/// Tells the judges what journals hold of each group's shard.
pub fn members(judges: &mut Judges, descriptors: &[Descriptor]) {
    for descriptor in descriptors {
        let replicas = descriptor.replicas.iter();
        let members: Vec<_> = replicas.map(|replica| judges::Replica(replica.replica.0)).collect();
        judges.members(Group(descriptor.group.0), &members);
    }
}

/// A checksum of all rows of a replica; `None` if they cannot be read now.
pub fn checksum(replica: &Replica) -> Option<u64> {
    let view = replica.view();
    let mut range = replica.descriptor().range.clone();
    let options =
        PageOptions { rows_max: 1000, bytes_max: 1 << 20, reverse: false, keys_only: false };
    let mut sum = HASH_START;
    loop {
        let page = view.page(&range, options).ok()?;
        for (key, row) in page.rows {
            sum = hash(sum, &key);
            sum = hash(sum, &row.value);
            sum = hash(sum, &row.version.to_le_bytes());
        }
        match page.more {
            Some(more) => range = more,
            None => return Some(sum),
        }
    }
}
