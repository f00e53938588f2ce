//! From what the disk holds to replicas that may live.
//!
//! The store holds each shard as of its last checkpoint; the journal holds what came after, and
//! what the replica promised. Both must fit together: a replica whose journal lacks something that
//! it may have promised is suspect, and neither votes nor acknowledges.
//!
//! What is absent: reading the journal's bytes (`flotilla_storage`), and running replicas.

use crate::directory::Directory;
use crate::error::Error;
use crate::options::NodeOptions;
use flotilla_router::genesis::Genesis;
use flotilla_shard::machine::ShardMeta;
use flotilla_shard::raft::{HardState, Index, Limits, Options, Position, Restored, Term};
use flotilla_shard::{Descriptor, GroupId, ReplicaOptions, ReplicaStart};
use flotilla_storage::journal::{Change, Journal, RecoveredGroup, Recovery, Write};
use flotilla_storage::store::{ShardState, Store};
use std::collections::BTreeMap;

/// Bytes that a log entry may have beyond its value: the key, the command's header, and slack for
/// batches of small changes.
const ENTRY_OVERHEAD_BYTES: u64 = 1 << 20;

/// A disk that was opened, and the replicas that live on it.
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    pub(crate) store: Store,
    pub(crate) replicas: Vec<ReplicaStart>,
}

/// Makes the shards of a new node, or finds those of one that lived before.
pub(crate) fn restore(
    options: &NodeOptions,
    directory: &mut Directory,
    genesis: &Genesis,
    mut journal: Journal,
    mut recovery: Recovery,
    store: Store,
    states: Vec<ShardState>,
) -> Result<Opened, Error> {
    report(directory, &recovery);
    if let Some(damaged) = store.damaged().first() {
        return Err(Error::Corrupt(format!(
            "the store in {} cannot read its record of {damaged:?}; restore the directory from a \
             backup",
            directory.path().display()
        )));
    }
    if !directory.is_born() {
        give_birth(genesis, &mut journal, &mut recovery)?;
        directory.set_born()?;
    }
    let mut states: BTreeMap<GroupId, ShardState> =
        states.into_iter().map(|state| (state.group, state)).collect();
    let mut replicas = Vec::new();
    for descriptor in genesis.descriptors() {
        let group = match recovery.groups.remove(&descriptor.group) {
            Some(group) => group,
            // Its other replicas have everything; alone, nobody has.
            None if descriptor.replicas.len() > 1 => suspect(&mut journal, &descriptor)?,
            None => {
                return Err(Error::Corrupt(format!(
                    "the journal in {} knows nothing of shard {}, which has no other replica; \
                     restore the directory from a backup",
                    directory.path().display(),
                    descriptor.group
                )));
            }
        };
        let state = states.remove(&descriptor.group);
        replicas.push(replica(options, descriptor, &group, &store, state)?);
    }
    Ok(Opened { journal, store, replicas })
}

fn report(directory: &Directory, recovery: &Recovery) {
    let path = directory.path().display();
    if recovery.torn_bytes > 0 {
        tracing::info!(
            directory = %path,
            torn_bytes = recovery.torn_bytes,
            "the last write before the stop was cut off; nothing in it was acknowledged"
        );
    }
    for corruption in &recovery.corrupt {
        tracing::error!(directory = %path, ?corruption, "the journal is damaged");
    }
}

/// Journals the births of all shards, as one durable step. Repeated if a crash came in between.
fn give_birth(
    genesis: &Genesis,
    journal: &mut Journal,
    recovery: &mut Recovery,
) -> Result<(), Error> {
    let mut writes = Vec::new();
    for descriptor in genesis.descriptors() {
        let group = descriptor.group;
        if recovery.groups.contains_key(&group) {
            continue;
        }
        let meta = ShardMeta::new(descriptor).encode();
        let born = RecoveredGroup { birth: meta.clone(), ..RecoveredGroup::default() };
        recovery.groups.insert(group, born);
        writes.push(Write { group, ticket: 0, change: Change::Birth { meta } });
    }
    let failed = |error: flotilla_storage::journal::JournalError| Error::Storage(error.to_string());
    journal.write(&writes).map_err(failed)?;
    journal.sync().map_err(failed)
}

/// A group that once lived here and of which the journal has lost every trace: whatever it
/// promised is forgotten, so it must not promise anything again, now or after a restart.
fn suspect(journal: &mut Journal, descriptor: &Descriptor) -> Result<RecoveredGroup, Error> {
    let group = descriptor.group;
    let meta = ShardMeta::new(descriptor.clone()).encode();
    let birth = Write { group, ticket: 0, change: Change::Birth { meta: meta.clone() } };
    let suspect = Write { group, ticket: 0, change: Change::Suspect };
    let failed = |error: flotilla_storage::journal::JournalError| Error::Storage(error.to_string());
    journal.write(&[birth, suspect]).map_err(failed)?;
    journal.sync().map_err(failed)?;
    Ok(RecoveredGroup { birth: meta, suspect: true, ..RecoveredGroup::default() })
}

fn replica(
    options: &NodeOptions,
    born: Descriptor,
    group: &RecoveredGroup,
    store: &Store,
    state: Option<ShardState>,
) -> Result<ReplicaStart, Error> {
    let corrupt = |problem: String| {
        Error::Corrupt(format!("shard {} on node {}: {problem}", born.group, options.node_id))
    };
    let meta = match &state {
        Some(state) => ShardMeta::decode(state.meta.clone())
            .map_err(|error| corrupt(format!("its record in the store: {error}")))?,
        None => ShardMeta::new(born.clone()),
    };
    let applied = state.as_ref().map_or(Position::default(), |state| position(state.applied));
    let range = meta.descriptor.range.clone();
    let shard = match &state {
        Some(state) => store.open_shard(state, range),
        None => store.create_shard(born.group, range, meta.encode()),
    };
    let id = meta.descriptor.replica_on(options.node_id).ok_or_else(|| {
        corrupt(
            "its descriptor has no replica on this node; the directory is another node's".into(),
        )
    })?;
    let (restored, suspect) = restored(group, applied)
        .map_err(|problem| corrupt(format!("{problem}; restore the directory from a backup")))?;
    if suspect {
        tracing::error!(
            group = born.group.0,
            "this replica lost journal content: it neither votes nor acknowledges"
        );
    }
    let raft = Options {
        id,
        voters: meta.descriptor.replicas.iter().map(|replica| replica.replica).collect(),
        election_timeout: options.election_timeout,
        heartbeat_interval: options.heartbeat_interval,
        seed: rand::random(),
        suspect,
        pre_vote: true,
        check_quorum: true,
        disk_stall_max: std::time::Duration::from_secs(1),
        may_lead: true,
        limits: Limits {
            entry_bytes_max: usize::try_from(options.value_bytes_max + ENTRY_OVERHEAD_BYTES)
                .unwrap_or(usize::MAX),
            ..Limits::default()
        },
    };
    let options =
        ReplicaOptions { value_bytes_max: options.value_bytes_max, ..ReplicaOptions::default() };
    Ok(ReplicaStart { meta, shard, applied, raft, restored, log_bytes: 0, options })
}

/// What Raft starts from, and whether the replica is suspect.
fn restored(group: &RecoveredGroup, applied: Position) -> Result<(Restored, bool), String> {
    let hard_state = match &group.state {
        Some(bytes) => {
            HardState::decode(bytes).map_err(|error| format!("its vote cannot be read: {error}"))?
        }
        None => HardState::default(),
    };
    let restored = Restored {
        hard_state,
        base: position(group.base),
        term_starts: group.term_starts.iter().map(|start| position(*start)).collect(),
        last_index: Index(group.last_index),
        applied: applied.index,
        needs_snapshot: false,
    };
    if !group.suspect && restored.validate().is_ok() && term_at(&restored, applied) {
        return Ok((restored, false));
    }
    if restored.base.index > applied.index {
        return Err("its journal begins after its last checkpoint: rows are missing".into());
    }
    // The log is not what the replica once acknowledged. It starts over behind its rows, and
    // takes part in nothing.
    let suspect = Restored {
        hard_state: HardState { commit: applied.index, ..restored.hard_state },
        base: applied,
        term_starts: Vec::new(),
        last_index: applied.index,
        applied: applied.index,
        needs_snapshot: false,
    };
    Ok((suspect, true))
}

/// True if the log holds exactly the entry that the rows contain last.
fn term_at(restored: &Restored, applied: Position) -> bool {
    if applied.index == restored.base.index {
        return applied.term == restored.base.term;
    }
    let run = restored.term_starts.iter().rev().find(|start| start.index <= applied.index);
    run.is_some_and(|start| start.term == applied.term)
}

fn position((index, term): (u64, u64)) -> Position {
    Position { index: Index(index), term: Term(term) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_shard::ReplicaId;

    fn group(last_index: u64, starts: &[(u64, u64)], term: u64) -> RecoveredGroup {
        let state = HardState { term: Term(term), vote: Some(ReplicaId(1)), ..HardState::default() };
        RecoveredGroup {
            state: Some(state.encode()),
            last_index,
            term_starts: starts.to_vec(),
            ..RecoveredGroup::default()
        }
    }

    fn at(index: u64, term: u64) -> Position {
        position((index, term))
    }

    #[test]
    fn rows_and_log_that_fit_make_a_healthy_replica() {
        let group = group(9, &[(1, 1), (5, 3)], 3);
        let (restored, suspect) = restored(&group, at(6, 3)).expect("they fit");
        assert!(!suspect);
        assert_eq!((restored.last_index, restored.applied), (Index(9), Index(6)));
    }

    #[test]
    fn a_log_that_lacks_what_the_rows_contain_makes_a_suspect() {
        for (group, applied) in [
            (group(4, &[(1, 1)], 1), at(6, 1)),
            (group(9, &[(1, 1)], 1), at(6, 2)),
            (group(0, &[], 1), at(6, 1)),
        ] {
            let (restored, suspect) = restored(&group, applied).expect("the rows are whole");
            assert!(suspect);
            assert_eq!((restored.base, restored.last_index), (applied, applied.index));
            restored.validate().expect("a suspect starts from a log that makes sense");
        }
    }

    #[test]
    fn a_group_that_the_journal_forgot_is_suspect_for_good() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let open = || {
            let options = flotilla_storage::journal::JournalOptions {
                segment_bytes: 1 << 20,
                ..Default::default()
            };
            let fs = std::sync::Arc::new(flotilla_storage::fs::RealFs);
            Journal::open(fs, dir.path(), options).expect("a journal")
        };
        let replicas = (1..=3).map(|n| flotilla_shard::ReplicaDescriptor {
            node: flotilla_shard::NodeId(n),
            replica: ReplicaId(n),
        });
        let descriptor = Descriptor {
            group: GroupId(4),
            range: flotilla_shard::KeyRange::whole(),
            epoch: flotilla_shard::Epoch::FIRST,
            replicas: replicas.collect(),
        };
        let (mut journal, _) = open();
        let group = suspect(&mut journal, &descriptor).expect("a healthy disk");
        assert!(restored(&group, at(6, 2)).expect("the rows are whole").1);
        drop(journal);
        let (_, recovery) = open();
        let again = &recovery.groups[&GroupId(4)];
        assert!(again.suspect);
        assert!(restored(again, at(6, 2)).expect("the rows are whole").1);
    }

    #[test]
    fn rows_older_than_the_log_are_an_error() {
        let group = RecoveredGroup { base: (5, 1), ..group(9, &[(6, 1)], 1) };
        assert!(restored(&group, at(3, 1)).is_err());
    }
}
