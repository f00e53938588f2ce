//! Puts a node's parts together, from the disk upwards.
//!
//! Invariants:
//!
//! * No replica lives before everything that it must remember is read, and everything that watches
//!   over the node is in place.
//!
//! What is absent: stopping (`stop`), and what the cluster is (`birth`).

use super::clock::ClockWatch;
use super::stop::{Running, stop_lanes};
use super::{JOURNAL, Node};
use crate::directory::Directory;
use crate::disk::{self, DiskMetrics, DiskMonitor, DiskOptions, StoreRoom};
use crate::error::Error;
use crate::options::{Network, NodeOptions};
use crate::restore::{self, Opened};
use flotilla_router::genesis::Genesis;
use flotilla_router::peer::{
    Inbound, LocalNetwork, LocalTransport, PeerMetrics, TcpTransport, Transport, TransportOptions,
};
use flotilla_router::{Router, RouterMetrics, RouterOptions, TransportSlot};
use flotilla_shard::{
    Budget, LaneOptions, Lanes, Pace, Part, ShardMetrics, SnapshotMetrics, SnapshotOptions,
    Snapshots, Wiring,
};
use flotilla_storage::fs::{RealFs, free_bytes};
use flotilla_storage::journal::{
    Completion, Journal, JournalMetrics, JournalOptions, JournalThread,
};
use flotilla_storage::store::{
    CheckpointCompletion, Checkpointer, ReadPool, StoreMetrics, StoreOptions,
};
use parking_lot::Mutex;
use prometheus::Registry;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Threads that read below the memtables.
const READ_THREADS: usize = 2;

/// Why a node whose journal takes too long does not lead.
const DISK_SLOW: &str = "its disk is slow";

pub(super) fn start_lanes(options: &NodeOptions) -> Result<Lanes, Error> {
    let tick_interval =
        (options.heartbeat_interval / 5).clamp(Duration::from_millis(2), Duration::from_millis(20));
    Lanes::start(LaneOptions {
        lanes: options.lanes,
        tick_interval,
        memtable_bytes_max: options.memtable_bytes,
        checkpoint_age_max: options.checkpoint_age,
        log_retain_bytes: options.log_retain_bytes,
    })
    .map_err(|error| Error::Storage(format!("the node's threads cannot be started: {error}")))
}

/// Reads the directory and starts everything on top of it. Ends the lanes when that fails.
pub(super) async fn assemble(
    options: NodeOptions,
    mut directory: Directory,
    genesis: Genesis,
    lanes: Lanes,
    registry: Registry,
) -> Result<Node, Error> {
    let opened = open_disk(&options, &mut directory, &genesis, &registry);
    let (opened, metrics) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            stop_lanes(lanes).await;
            return Err(error);
        }
    };
    let (fatal_sender, fatal) = watch::channel(None);
    lanes.on_halt(move |reason| drop(fatal_sender.send(Some(reason.to_owned()))));

    let Opened { journal, store, replicas } = opened;
    let room = StoreRoom::new();
    let completions = lanes.completions();
    let to_journal = completions.iter().map(|lane| lane.clone() as Arc<dyn Completion>).collect();
    let mut to_store: Vec<Arc<dyn CheckpointCompletion>> =
        completions.iter().map(|lane| lane.clone() as Arc<dyn CheckpointCompletion>).collect();
    to_store.push(room.clone());
    let reader = journal.reader();
    let (handle, journal) = JournalThread::start(journal, to_journal, metrics.journal);
    let checkpointer = Checkpointer::start(store.clone(), to_store).map_err(failed)?;
    let pool = Arc::new(ReadPool::start(READ_THREADS, metrics.store).map_err(failed)?);

    let slot = TransportSlot::new();
    let budget = Budget::paced(options.budget_bytes, Pace::of_budget(options.budget_bytes));
    let router = Router::new(
        router_options(&options),
        lanes.clone(),
        Arc::new(slot.clone()),
        budget.clone(),
        RouterMetrics::register(&registry).map_err(failed)?,
    );
    let (snapshot_handle, snapshots) = Snapshots::start(
        snapshot_options(&options, &directory),
        store,
        checkpointer.handle(),
        Arc::new(slot.clone()),
        Arc::new(lanes.clone()),
        metrics.snapshots,
    )
    .map_err(failed)?;
    let (transport, local) = connect(&options, &directory, &genesis, &lanes, &router, &registry)?;
    match (&transport, &local) {
        (Some(tcp), _) => slot.fill(tcp.clone()),
        (None, Some((_, local))) => slot.fill(local.clone()),
        (None, None) => {}
    }
    let disk = watch_disk(&options, &directory, &lanes, &handle, room, &registry)?;
    let wiring = Wiring {
        journal: handle,
        reader,
        checkpoints: checkpointer.handle(),
        pool: pool.clone(),
        outbox: Arc::new(slot.clone()),
        snapshots: snapshot_handle,
        budget,
        metrics: metrics.shard,
    };
    lanes.open(wiring, replicas).await;
    router.learn(lanes.descriptors());
    let clock = ClockWatch::start(
        options.clock_skew_max,
        Arc::new(slot) as Arc<dyn Transport>,
        lanes.clone(),
        &registry,
    )
    .map_err(failed)?;
    let watched = lanes.clone();
    crate::metrics::register(&registry, move || watched.statuses()).map_err(failed)?;
    announce(&options, &genesis, &directory);
    Ok(Node {
        id: options.node_id,
        router: router.clone(),
        lanes: lanes.clone(),
        fatal,
        cluster_name: genesis.cluster_name,
        transport: transport.clone(),
        running: Mutex::new(Some(Running {
            router,
            lanes,
            clock,
            disk,
            transport,
            local: local.map(|(network, _)| (network, options.node_id)),
            snapshots,
            checkpointer,
            journal,
            pool,
            _directory: directory,
        })),
    })
}

fn announce(options: &NodeOptions, genesis: &Genesis, directory: &Directory) {
    tracing::info!(
        node = options.node_id.0,
        cluster = %genesis.cluster_name,
        shards = genesis.split_keys.len() + 1,
        directory = %directory.path().display(),
        "the node is up"
    );
}

fn failed(error: impl std::error::Error) -> Error {
    Error::Storage(error.to_string())
}

/// Snapshots take no room from the reserve, which is for getting out of a full disk.
fn snapshot_options(options: &NodeOptions, directory: &Directory) -> SnapshotOptions {
    let (path, reserve) = (directory.path().to_owned(), options.disk_reserve_bytes);
    let free = move |path: &Path| match free_bytes(path) {
        Ok(free) => free.saturating_sub(reserve),
        // Who cannot say how much is free is believed as long as nothing fails.
        Err(_) => u64::MAX,
    };
    SnapshotOptions {
        bytes_per_second: options.snapshot_bytes_per_second,
        free_disk: Arc::new(move || free(&path)),
        ..SnapshotOptions::new(directory.boot())
    }
}

fn watch_disk(
    options: &NodeOptions,
    directory: &Directory,
    lanes: &Lanes,
    journal: &flotilla_storage::journal::JournalHandle,
    room: Arc<StoreRoom>,
    registry: &Registry,
) -> Result<DiskMonitor, Error> {
    let disk_options = DiskOptions {
        reserve_bytes: options.disk_reserve_bytes,
        slow_after: options.disk_stall_max,
        ..DiskOptions::default()
    };
    let leading = lanes.clone();
    let slow = move |is_slow| leading.set_reluctant(is_slow, DISK_SLOW);
    DiskMonitor::start(
        disk_options,
        disk::probe(directory.path(), journal.health(), room),
        disk::tell(lanes.clone(), journal.health(), slow),
        DiskMetrics::register(registry).map_err(failed)?,
    )
    .map_err(failed)
}

struct Metrics {
    journal: JournalMetrics,
    store: StoreMetrics,
    shard: ShardMetrics,
    snapshots: SnapshotMetrics,
}

fn open_disk(
    options: &NodeOptions,
    directory: &mut Directory,
    genesis: &Genesis,
    registry: &Registry,
) -> Result<(Opened, Metrics), Error> {
    let metrics = Metrics {
        journal: JournalMetrics::new(),
        store: StoreMetrics::new(),
        shard: ShardMetrics::new(),
        snapshots: SnapshotMetrics::new(),
    };
    let taken = |error: prometheus::Error| Error::Storage(error.to_string());
    metrics.journal.register(registry).map_err(taken)?;
    metrics.store.register(registry).map_err(taken)?;
    metrics.shard.register(registry).map_err(taken)?;
    metrics.snapshots.register(registry).map_err(taken)?;
    let journal_options = JournalOptions {
        segment_bytes: options.segment_bytes,
        total_bytes_target: options.journal_bytes_target(),
        ..JournalOptions::default()
    };
    let (journal, recovery) =
        Journal::open(Arc::new(RealFs), directory.path().join(JOURNAL), journal_options)
            .map_err(|error| Error::Storage(error.to_string()))?;
    let store_options = StoreOptions {
        cache_bytes: options.cache_bytes,
        merged_bytes_max: options.merged_memtable_bytes,
        ..StoreOptions::default()
    };
    let (store, states) =
        restore::open_store(options, directory, genesis, &recovery, store_options, &metrics.store)?;
    let opened = restore::restore(options, directory, genesis, journal, recovery, store, states)?;
    Ok((opened, metrics))
}

type Connected = (Option<Arc<TcpTransport>>, Option<(LocalNetwork, Arc<LocalTransport>)>);

fn connect(
    options: &NodeOptions,
    directory: &Directory,
    genesis: &Genesis,
    lanes: &Lanes,
    router: &Router,
    registry: &Registry,
) -> Result<Connected, Error> {
    let inbound: Arc<dyn Inbound> = router.sink();
    match &options.network {
        Network::Alone => Ok((None, None)),
        Network::Local(network) => {
            let transport = network.join(options.node_id, inbound);
            Ok((None, Some((network.clone(), transport))))
        }
        Network::Tcp { listener, peers } => {
            let cannot = |error: &dyn std::error::Error| Error::Cluster(error.to_string());
            let metrics = PeerMetrics::new();
            metrics.register(registry).map_err(|error| cannot(&error))?;
            let mut transport_options = TransportOptions::for_cluster(
                options.node_id,
                directory.incarnation(),
                directory.boot(),
                genesis,
                peers,
            );
            transport_options.outbox_account = Some(router.budget().account(Part::Outboxes));
            let transport = TcpTransport::start(
                transport_options,
                listener.try_clone().map_err(|error| cannot(&error))?,
                inbound,
                lanes.handles().to_vec(),
                metrics,
            )
            .map_err(|error| cannot(&error))?;
            Ok((Some(transport), None))
        }
    }
}

fn router_options(options: &NodeOptions) -> RouterOptions {
    #[cfg_attr(not(feature = "test-switches"), expect(unused_mut, reason = "switches change it"))]
    let mut router = RouterOptions::new(options.node_id);
    #[cfg(feature = "test-switches")]
    {
        let switch = std::env::var_os("FLOTILLA_TEST_WITHOUT_SESSIONS");
        router.without_sessions = switch.is_some_and(|value| value == "1");
    }
    router
}
