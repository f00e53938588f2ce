//! From what the disk holds to replicas that may live.
//!
//! The store holds each shard as of its last checkpoint; the journal holds what came after, and
//! what the replica promised. Both must fit together: a replica whose journal lacks something that
//! it may have promised is suspect, and neither votes nor acknowledges.
//!
//! A replica whose rows are lost votes and acknowledges on, and waits for a snapshot of another one.
//! Where there is no other one, what is lost is named, and nothing starts until that is accepted:
//! see `losses`.
//!
//! What is absent: reading the journal's bytes (`flotilla_storage`), and running replicas.

mod losses;

use crate::directory::Directory;
use crate::error::Error;
use crate::leases::ReadMode;
use crate::node::STORE;
use crate::options::NodeOptions;
use flotilla_router::genesis::Genesis;
use flotilla_shard::machine::ShardMeta;
use flotilla_shard::raft::{HardState, Index, Leases, Limits, Options, Position, Restored, Term};
use flotilla_shard::{Descriptor, GroupId, ReplicaOptions, ReplicaStart};
use flotilla_storage::journal::{Change, Journal, RecoveredGroup, Recovery, Write};
use flotilla_storage::store::{ShardState, Store, StoreError, StoreMetrics, StoreOptions};
use losses::Losses;
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

/// Opens the store. A file that cannot be read at all is moved aside where that loses nothing for
/// good: the rows are in the journal or with other replicas, or their loss was accepted.
pub(crate) fn open_store(
    options: &NodeOptions,
    directory: &Directory,
    genesis: &Genesis,
    recovery: &Recovery,
    store_options: StoreOptions,
    metrics: &StoreMetrics,
) -> Result<(Store, Vec<ShardState>), Error> {
    let failed = |error: StoreError| Error::Storage(error.to_string());
    let dir = directory.path().join(STORE);
    let error = match Store::open(&dir, store_options, metrics.clone()) {
        Err(error @ StoreError::Unreadable { .. }) => error,
        result => return result.map_err(failed),
    };
    tracing::error!(directory = %dir.display(), %error, "the store cannot be read");
    let mut losses = Losses::load(directory.path(), options.accept_data_loss)?;
    for descriptor in genesis.descriptors() {
        let group = recovery.groups.get(&descriptor.group);
        if group.is_none_or(|group| !is_log_whole(group)) {
            losses.add(&descriptor, &format!("the store cannot be read ({error})"), group);
        }
    }
    losses.settle()?;
    Ok((Store::open_fresh(&dir, store_options, metrics.clone()).map_err(failed)?, Vec::new()))
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
    if !directory.is_born() {
        give_birth(genesis, &mut journal, &mut recovery)?;
        directory.set_born()?;
    }
    let mut states: BTreeMap<GroupId, ShardState> =
        states.into_iter().map(|state| (state.group, state)).collect();
    let damaged: BTreeMap<GroupId, String> =
        store.damaged().iter().map(|shard| (shard.group, shard.error.to_string())).collect();
    let mut losses = Losses::load(directory.path(), options.accept_data_loss)?;
    let mut found = Vec::new();
    for descriptor in genesis.descriptors() {
        let id = descriptor.group;
        let group = match recovery.groups.remove(&id) {
            Some(group) => group,
            // Its other replicas have everything; alone, nobody has.
            None => suspect(&mut journal, &descriptor)?,
        };
        let remains = Remains::of(&descriptor, &group, states.remove(&id), damaged.get(&id))?;
        if let Some(problem) = remains.loss(&group) {
            losses.add(&descriptor, &problem, Some(&group));
        }
        found.push((descriptor, group, remains));
    }
    // Nothing is changed for good before all that is lost was named and accepted.
    losses.settle()?;
    let mut replicas = Vec::new();
    for (descriptor, group, remains) in found {
        let is_lost = losses.is_accepted(descriptor.group) && remains.loss(&group).is_some();
        replicas.push(replica(
            options,
            descriptor,
            &group,
            remains,
            is_lost,
            &store,
            &mut journal,
        )?);
    }
    Ok(Opened { journal, store, replicas })
}

/// True if every row of the shard can be made again from its log.
fn is_log_whole(group: &RecoveredGroup) -> bool {
    group.base == (0, 0) && !group.suspect
}

/// What the disk holds of a shard.
struct Remains {
    meta: ShardMeta,
    state: Option<ShardState>,
    /// The record in the store is damaged.
    is_damaged: bool,
    /// Why the rows are lost, if they are.
    rows_lost: Option<String>,
    restored: Restored,
    /// The log must be emptied and begin behind the rows before anybody speaks.
    restarts: bool,
    /// The journal lacks something that the replica may have promised.
    suspect: bool,
}

impl Remains {
    /// Fits rows and journal together.
    fn of(
        born: &Descriptor,
        group: &RecoveredGroup,
        state: Option<ShardState>,
        damage: Option<&String>,
    ) -> Result<Remains, Error> {
        let mut rows_lost = damage.map(|error| format!("its record in the store: {error}"));
        let mut meta = ShardMeta::new(born.clone());
        if let Some(state) = &state {
            match ShardMeta::decode(state.meta.clone()) {
                Ok(stored) => meta = stored,
                Err(error) => rows_lost = Some(format!("its record in the store: {error}")),
            }
        }
        let applied = state.as_ref().map_or(Position::default(), |state| position(state.applied));
        if rows_lost.is_some() && is_log_whole(group) && state.is_none() {
            // The log holds all that ever happened: nothing is lost but time.
            rows_lost = None;
        }
        let (restored, fit) = restored(group, applied, rows_lost.is_some()).map_err(|problem| {
            Error::Corrupt(format!("shard {}: {problem}; restore a backup", born.group))
        })?;
        if fit == Fit::RowsMissing {
            rows_lost.get_or_insert_with(|| match &state {
                Some(_) => "its rows end before its log begins".to_owned(),
                None => "the store does not hold it".to_owned(),
            });
        }
        Ok(Remains {
            meta,
            state,
            is_damaged: damage.is_some(),
            rows_lost,
            restored,
            restarts: fit == Fit::Restarts,
            suspect: group.suspect || fit == Fit::Suspect,
        })
    }

    /// What is lost, in words, if this were the only replica.
    fn loss(&self, group: &RecoveredGroup) -> Option<String> {
        match &self.rows_lost {
            Some(problem) => Some(problem.clone()),
            None if self.suspect && group.birth.is_empty() => {
                Some("the journal knows nothing of it".to_owned())
            }
            None if self.suspect => Some("its part of the journal is damaged".to_owned()),
            None => None,
        }
    }
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
    journal_now(journal, &writes)
}

/// A group that once lived here and of which the journal has lost every trace: whatever it
/// promised is forgotten, so it must not promise anything again, now or after a restart.
fn suspect(journal: &mut Journal, descriptor: &Descriptor) -> Result<RecoveredGroup, Error> {
    let group = descriptor.group;
    let meta = ShardMeta::new(descriptor.clone()).encode();
    let birth = Write { group, ticket: 0, change: Change::Birth { meta: meta.clone() } };
    let suspect = Write { group, ticket: 0, change: Change::Suspect };
    journal_now(journal, &[birth, suspect])?;
    Ok(RecoveredGroup { birth: meta, suspect: true, ..RecoveredGroup::default() })
}

/// Opens a shard's rows and puts together what its replica starts from. `is_lost`: nobody has what
/// is missing, and that was accepted.
fn replica(
    options: &NodeOptions,
    born: Descriptor,
    group: &RecoveredGroup,
    remains: Remains,
    is_lost: bool,
    store: &Store,
    journal: &mut Journal,
) -> Result<ReplicaStart, Error> {
    let id = born.group;
    let Remains { meta, state, is_damaged, rows_lost, mut restored, restarts, suspect } = remains;
    if is_damaged && rows_lost.is_none() {
        // All of it comes back from the log.
        store.abandon(id).map_err(|error| Error::Storage(error.to_string()))?;
    }
    if restarts {
        let Position { index, term } = restored.base;
        let change = Change::Compact { index: index.0, term: term.0 };
        journal_now(journal, &[Write { group: id, ticket: 0, change }])?;
    }
    let range = meta.descriptor.range.clone();
    let shard = match &state {
        Some(state) => store.open_shard(state, range),
        None => store.create_shard(id, range, meta.encode()),
    };
    let replica = meta.descriptor.replica_on(options.node_id).ok_or_else(|| {
        Error::Corrupt(format!(
            "shard {id}: its descriptor has no replica on node {}; the directory is another node's",
            options.node_id
        ))
    })?;
    if suspect {
        tracing::error!(
            group = id.0,
            "this replica lost journal content: it neither votes nor acknowledges"
        );
    }
    if let Some(problem) = &rows_lost {
        tracing::error!(
            group = id.0,
            problem,
            "the rows are lost here: a snapshot must bring them"
        );
    }
    // A shard that is lost for good answers like one that waits for a snapshot: it says so.
    restored.needs_snapshot |= is_lost;
    let applied = if rows_lost.is_some() {
        Position::default()
    } else {
        state.as_ref().map_or(Position::default(), |state| position(state.applied))
    };
    let raft = Options {
        id: replica,
        voters: meta.descriptor.replicas.iter().map(|replica| replica.replica).collect(),
        election_timeout: options.election_timeout,
        heartbeat_interval: options.heartbeat_interval,
        seed: rand::random(),
        suspect,
        pre_vote: true,
        check_quorum: true,
        disk_stall_max: options.disk_stall_max,
        may_lead: true,
        // Promises are made whatever this node reads by: another one may rely on them.
        leases: Some(Leases {
            reads: options.reads == ReadMode::Lease,
            clock_drift_max_ppm: options.clock_drift_max.ppm(),
        }),
        limits: Limits {
            entry_bytes_max: usize::try_from(options.value_bytes_max + ENTRY_OVERHEAD_BYTES)
                .unwrap_or(usize::MAX),
            ..Limits::default()
        },
    };
    let options =
        ReplicaOptions { value_bytes_max: options.value_bytes_max, ..ReplicaOptions::default() };
    let log_bytes = if restarts || suspect { 0 } else { group.log_bytes };
    Ok(ReplicaStart { meta, shard, applied, raft, restored, log_bytes, options })
}

/// How rows and journal fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// The log goes on where the rows end.
    Fits,
    /// A snapshot took the place of the rows, and the log begins anew behind it.
    Restarts,
    /// The rows lack what the log no longer holds.
    RowsMissing,
    /// The log lacks what the replica may have promised.
    Suspect,
}

/// What Raft starts from. The rows end at `applied`, or are lost.
fn restored(
    group: &RecoveredGroup,
    applied: Position,
    are_rows_lost: bool,
) -> Result<(Restored, Fit), String> {
    let hard_state = match &group.state {
        Some(bytes) => {
            HardState::decode(bytes).map_err(|error| format!("its vote cannot be read: {error}"))?
        }
        None => HardState::default(),
    };
    let mut restored = Restored {
        hard_state,
        base: position(group.base),
        term_starts: group.term_starts.iter().map(|start| position(*start)).collect(),
        last_index: Index(group.last_index),
        applied: applied.index,
        needs_snapshot: are_rows_lost,
    };
    if !are_rows_lost && !group.suspect && restored.resume_after_swap(applied) {
        return Ok((restored, Fit::Restarts));
    }
    if restored.base.index > applied.index {
        restored.needs_snapshot = true;
    }
    let agrees = restored.needs_snapshot || restored.term_at(applied.index) == Some(applied.term);
    if !group.suspect && agrees && restored.validate().is_ok() {
        let fit = if restored.needs_snapshot { Fit::RowsMissing } else { Fit::Fits };
        return Ok((restored, fit));
    }
    // The log is not what the replica once acknowledged. It starts over behind its rows, and
    // takes part in nothing.
    let base = if restored.needs_snapshot { restored.base } else { applied };
    let suspect = Restored {
        hard_state: HardState { commit: base.index, installing: None, ..restored.hard_state },
        base,
        term_starts: Vec::new(),
        last_index: base.index,
        applied: base.index,
        needs_snapshot: restored.needs_snapshot,
    };
    Ok((suspect, Fit::Suspect))
}

/// Writes durably, before anything runs.
fn journal_now(journal: &mut Journal, writes: &[Write]) -> Result<(), Error> {
    let failed = |error: flotilla_storage::journal::JournalError| Error::Storage(error.to_string());
    journal.write(writes).map_err(failed)?;
    journal.sync().map_err(failed)
}

fn position((index, term): (u64, u64)) -> Position {
    Position { index: Index(index), term: Term(term) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_shard::ReplicaId;

    fn group(last_index: u64, starts: &[(u64, u64)], term: u64) -> RecoveredGroup {
        let state =
            HardState { term: Term(term), vote: Some(ReplicaId(1)), ..HardState::default() };
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
        let (restored, fit) = restored(&group, at(6, 3), false).expect("they fit");
        assert_eq!(fit, Fit::Fits);
        assert_eq!((restored.last_index, restored.applied), (Index(9), Index(6)));
    }

    #[test]
    fn a_log_that_lacks_what_the_rows_contain_makes_a_suspect() {
        for (group, applied) in [
            (group(4, &[(1, 1)], 1), at(6, 1)),
            (group(9, &[(1, 1)], 1), at(6, 2)),
            (group(0, &[], 1), at(6, 1)),
        ] {
            let (restored, fit) = restored(&group, applied, false).expect("the rows are whole");
            assert_eq!(fit, Fit::Suspect);
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
        assert_eq!(restored(&group, at(6, 2), false).expect("whole rows").1, Fit::Suspect);
        drop(journal);
        let (_, recovery) = open();
        let again = &recovery.groups[&GroupId(4)];
        assert!(again.suspect);
        assert_eq!(restored(again, at(6, 2), false).expect("whole rows").1, Fit::Suspect);
    }

    #[test]
    fn rows_older_than_the_log_wait_for_a_snapshot_and_the_log_stays() {
        let group = RecoveredGroup { base: (5, 1), ..group(9, &[(6, 1)], 1) };
        for (applied, are_rows_lost) in [(at(3, 1), false), (at(0, 0), true)] {
            let (restored, fit) = restored(&group, applied, are_rows_lost).expect("a whole log");
            assert_eq!(fit, Fit::RowsMissing);
            assert!(restored.needs_snapshot);
            assert_eq!((restored.base, restored.last_index), (at(5, 1), Index(9)));
            restored.validate().expect("what it promised is there");
        }
    }

    #[test]
    fn after_a_swap_the_log_begins_behind_the_snapshot_or_goes_on() {
        let installing = |group: &RecoveredGroup, to: Position| {
            let bytes = group.state.as_ref().expect("a state");
            let state = HardState::decode(bytes).expect("a state");
            let state = HardState { installing: Some(to), ..state };
            RecoveredGroup { state: Some(state.encode()), ..group.clone() }
        };
        let group = group(9, &[(1, 1)], 3);
        // The swap took place, and the log ends before it.
        let swapped = installing(&group, at(20, 3));
        let (begun, fit) = restored(&swapped, at(20, 3), false).expect("it fits");
        assert_eq!((fit, begun.base, begun.last_index), (Fit::Restarts, at(20, 3), Index(20)));
        begun.validate().expect("it makes sense");
        // It did not take place.
        let (old, fit) = restored(&swapped, at(6, 1), false).expect("it fits");
        assert_eq!((fit, old.applied, old.last_index), (Fit::Fits, Index(6), Index(9)));
        // The log goes on from there.
        let inside = installing(&group, at(8, 1));
        let (held, fit) = restored(&inside, at(8, 1), false).expect("it fits");
        assert_eq!((fit, held.applied, held.last_index), (Fit::Fits, Index(8), Index(9)));
        // Rows that end before the log begins: what it holds was acknowledged, and stays.
        let below = RecoveredGroup { base: (7, 1), term_starts: vec![(8, 1)], ..group.clone() };
        let below = installing(&below, at(5, 1));
        let (kept, fit) = restored(&below, at(5, 1), false).expect("a snapshot will come");
        assert_eq!((fit, kept.base, kept.last_index), (Fit::RowsMissing, at(7, 1), Index(9)));
        assert!(kept.needs_snapshot);
    }
}
