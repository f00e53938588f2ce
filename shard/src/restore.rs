//! From what a disk holds of a group to a replica that may live.
//!
//! The store holds each shard as of its last checkpoint; the journal holds what came after, and
//! what the replica promised. Both must fit together: a replica whose journal lacks something that
//! it may have promised is suspect, and neither votes nor acknowledges. One whose rows are lost
//! votes and acknowledges on, and waits for a snapshot of another one.
//!
//! What is absent: reading the journal's bytes (`flotilla_storage`), whether a loss for good may be
//! accepted (the node asks for that), and running replicas.

use crate::descriptor::{Descriptor, NodeId};
use crate::machine::ShardMeta;
use crate::replica::{ReplicaOptions, ReplicaStart};
use flotilla_raft::{HardState, Index, Leases, Limits, Options, Position, Restored, Term};
use flotilla_storage::GroupId;
use flotilla_storage::journal::{Change, Journal, JournalError, RecoveredGroup, Recovery, Write};
use flotilla_storage::store::{ShardState, Store, StoreError};
use std::time::Duration;

/// Why no replica can be made of what the disk holds.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Something that no crash and no damage explains.
    #[error("shard {group}: {problem}")]
    Corrupt {
        /// Whose.
        group: GroupId,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How the replicas of a node start, apart from what its disk holds.
#[derive(Clone, Copy, Debug)]
pub struct StartOptions {
    /// Where they live.
    pub node: NodeId,
    /// See [`Options::election_timeout`].
    pub election_timeout: Duration,
    /// See [`Options::heartbeat_interval`].
    pub heartbeat_interval: Duration,
    /// See [`Options::disk_stall_max`].
    pub disk_stall_max: Duration,
    /// See [`Options::leases`]. Promises are made whatever this node reads by: another one may rely
    /// on them.
    pub leases: Leases,
    /// See [`Options::limits`].
    pub limits: Limits,
    /// Everything else.
    pub replica: ReplicaOptions,
}

/// True if every row of the shard can be made again from its log.
pub fn is_log_whole(group: &RecoveredGroup) -> bool {
    group.base == (0, 0) && !group.suspect
}

/// Journals the births of all shards, as one durable step. Repeated if a crash came in between.
///
/// # Errors
///
/// [`RestoreError::Journal`] if that failed.
pub fn give_birth(
    descriptors: impl IntoIterator<Item = Descriptor>,
    journal: &mut Journal,
    recovery: &mut Recovery,
) -> Result<(), RestoreError> {
    let mut writes = Vec::new();
    for descriptor in descriptors {
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

/// Takes what the journal holds of a group that once lived here. If it has lost every trace,
/// whatever the group promised is forgotten, so it must not promise anything again, now or after a
/// restart.
///
/// # Errors
///
/// [`RestoreError::Journal`] if that could not be written down.
pub fn take_group(
    descriptor: &Descriptor,
    journal: &mut Journal,
    recovery: &mut Recovery,
) -> Result<RecoveredGroup, RestoreError> {
    let group = descriptor.group;
    if let Some(recovered) = recovery.groups.remove(&group) {
        return Ok(recovered);
    }
    let meta = ShardMeta::new(descriptor.clone()).encode();
    let birth = Write { group, ticket: 0, change: Change::Birth { meta: meta.clone() } };
    let suspect = Write { group, ticket: 0, change: Change::Suspect };
    journal_now(journal, &[birth, suspect])?;
    Ok(RecoveredGroup { birth: meta, suspect: true, ..RecoveredGroup::default() })
}

/// What the disk holds of a shard.
pub struct Remains {
    born: Descriptor,
    group: RecoveredGroup,
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
    /// Fits rows and journal together. `state` is what the store holds of the shard, `damage` what is
    /// wrong with its record there.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Corrupt`] if the replica's vote cannot be read.
    pub fn of(
        born: Descriptor,
        group: RecoveredGroup,
        state: Option<ShardState>,
        damage: Option<&String>,
    ) -> Result<Remains, RestoreError> {
        let mut rows_lost = damage.map(|error| format!("its record in the store: {error}"));
        let mut meta = ShardMeta::new(born.clone());
        if let Some(state) = &state {
            match ShardMeta::decode(state.meta.clone()) {
                Ok(stored) => meta = stored,
                Err(error) => rows_lost = Some(format!("its record in the store: {error}")),
            }
        }
        let applied = state.as_ref().map_or(Position::default(), |state| position(state.applied));
        if rows_lost.is_some() && is_log_whole(&group) && state.is_none() {
            // The log holds all that ever happened: nothing is lost but time.
            rows_lost = None;
        }
        let (restored, fit) =
            restored(&group, applied, rows_lost.is_some()).map_err(|problem| {
                let problem = format!("{problem}; restore a backup");
                RestoreError::Corrupt { group: born.group, problem }
            })?;
        if fit == Fit::RowsMissing {
            rows_lost.get_or_insert_with(|| match &state {
                Some(_) => "its rows end before its log begins".to_owned(),
                None => "the store does not hold it".to_owned(),
            });
        }
        let suspect = group.suspect || fit == Fit::Suspect;
        Ok(Remains {
            born,
            group,
            meta,
            state,
            is_damaged: damage.is_some(),
            rows_lost,
            restored,
            restarts: fit == Fit::Restarts,
            suspect,
        })
    }

    /// The shard as it was born.
    pub fn born(&self) -> &Descriptor {
        &self.born
    }

    /// What the journal holds of it.
    pub fn group(&self) -> &RecoveredGroup {
        &self.group
    }

    /// What is lost, in words, if this were the only replica.
    pub fn loss(&self) -> Option<String> {
        match &self.rows_lost {
            Some(problem) => Some(problem.clone()),
            None if self.suspect && self.group.birth.is_empty() => {
                Some("the journal knows nothing of it".to_owned())
            }
            None if self.suspect => Some("its part of the journal is damaged".to_owned()),
            None => None,
        }
    }

    /// Opens the shard's rows and puts together what its replica starts from. `seed` is for its
    /// election timeouts. `is_lost`: nobody has what is missing, and that was accepted.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] if the disk refuses, or is another node's.
    pub fn open(
        self,
        options: &StartOptions,
        seed: u64,
        is_lost: bool,
        store: &Store,
        journal: &mut Journal,
    ) -> Result<ReplicaStart, RestoreError> {
        let id = self.born.group;
        let Remains { meta, state, rows_lost, mut restored, suspect, .. } = self;
        if self.is_damaged && rows_lost.is_none() {
            // All of it comes back from the log.
            store.abandon(id)?;
        }
        if self.restarts {
            let Position { index, term } = restored.base;
            let change = Change::Compact { index: index.0, term: term.0 };
            journal_now(journal, &[Write { group: id, ticket: 0, change }])?;
        }
        let range = meta.descriptor.range.clone();
        let shard = match &state {
            Some(state) => store.open_shard(state, range),
            None => store.create_shard(id, range, meta.encode()),
        };
        let replica = meta.descriptor.replica_on(options.node).ok_or_else(|| {
            let node = options.node;
            let problem = format!(
                "its descriptor has no replica on node {node}; the directory is another node's"
            );
            RestoreError::Corrupt { group: id, problem }
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
            seed,
            suspect,
            pre_vote: true,
            check_quorum: true,
            disk_stall_max: options.disk_stall_max,
            may_lead: true,
            leases: Some(options.leases),
            limits: options.limits,
        };
        let log_bytes = if self.restarts || suspect { 0 } else { self.group.log_bytes };
        let options = options.replica;
        Ok(ReplicaStart { meta, shard, applied, raft, restored, log_bytes, options })
    }
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
fn journal_now(journal: &mut Journal, writes: &[Write]) -> Result<(), RestoreError> {
    journal.write(writes)?;
    Ok(journal.sync()?)
}

fn position((index, term): (u64, u64)) -> Position {
    Position { index: Index(index), term: Term(term) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{Epoch, ReplicaDescriptor};
    use flotilla_raft::ReplicaId;
    use flotilla_storage::KeyRange;

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
        let replicas =
            (1..=3).map(|n| ReplicaDescriptor { node: NodeId(n), replica: ReplicaId(n) });
        let descriptor = Descriptor {
            group: GroupId(4),
            range: KeyRange::whole(),
            epoch: Epoch::FIRST,
            replicas: replicas.collect(),
        };
        let (mut journal, mut recovery) = open();
        let taken = take_group(&descriptor, &mut journal, &mut recovery);
        let group = taken.expect("a healthy disk");
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
