//! From what the disk holds to replicas that may live.
//!
//! How journal and rows of each shard fit together is decided by `flotilla_shard::restore`. Where
//! rows or promises are lost and there is no other replica, what is lost is named, and nothing
//! starts until that is accepted: see `losses`.
//!
//! What is absent: what becomes of replicas that lost something, and running them.

mod losses;

use crate::directory::Directory;
use crate::error::Error;
use crate::leases::ReadMode;
use crate::node::STORE;
use crate::options::NodeOptions;
use flotilla_router::genesis::Genesis;
use flotilla_shard::raft::{Leases, Limits};
use flotilla_shard::restore::{
    Remains, RestoreError, StartOptions, give_birth, is_log_whole, take_group,
};
use flotilla_shard::{GroupId, ReplicaOptions, ReplicaStart};
use flotilla_storage::journal::{Journal, Recovery};
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
    // It is made before the births are recorded: an empty one is not the one that was there.
    let store_options = StoreOptions { must_exist: directory.is_born(), ..store_options };
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
        give_birth(genesis.descriptors(), &mut journal, &mut recovery).map_err(failed)?;
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
        // Its other replicas have everything; alone, nobody has.
        let group = take_group(&descriptor, &mut journal, &mut recovery).map_err(failed)?;
        let state = states.remove(&id);
        let remains = Remains::of(descriptor, group, state, damaged.get(&id)).map_err(failed)?;
        if let Some(problem) = remains.loss() {
            losses.add(remains.born(), &problem, Some(remains.group()));
        }
        found.push(remains);
    }
    // Nothing is changed for good before all that is lost was named and accepted.
    losses.settle()?;
    let start = start_options(options);
    let mut replicas = Vec::new();
    for remains in found {
        let is_lost = losses.is_accepted(remains.born().group) && remains.loss().is_some();
        let replica = remains.open(&start, rand::random(), is_lost, &store, &mut journal);
        replicas.push(replica.map_err(failed)?);
    }
    Ok(Opened { journal, store, replicas })
}

fn failed(error: RestoreError) -> Error {
    match error {
        RestoreError::Corrupt { .. } => Error::Corrupt(error.to_string()),
        RestoreError::Journal(_) | RestoreError::Store(_) => Error::Storage(error.to_string()),
    }
}

fn start_options(options: &NodeOptions) -> StartOptions {
    StartOptions {
        node: options.node_id,
        election_timeout: options.election_timeout,
        heartbeat_interval: options.heartbeat_interval,
        disk_stall_max: options.disk_stall_max,
        leases: Leases {
            reads: options.reads == ReadMode::Lease,
            clock_drift_max_ppm: options.clock_drift_max.ppm(),
        },
        limits: Limits {
            entry_bytes_max: usize::try_from(options.value_bytes_max + ENTRY_OVERHEAD_BYTES)
                .unwrap_or(usize::MAX),
            ..Limits::default()
        },
        replica: ReplicaOptions {
            value_bytes_max: options.value_bytes_max,
            ..ReplicaOptions::default()
        },
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
