//! One simulated node: a disk and a clock that last, and a life that ends with each crash.
//!
//! A life is put together as a running node is: journal, store, what both say of each group,
//! replicas, checkpoints, snapshots, router. All of that is the product's; what is made here is the
//! wiring.
//!
//! What is absent: the agreement on what the cluster is (its genesis has tests of its own), sockets,
//! settings.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use flotilla_router::peer::{Inbound, Transport};
use flotilla_router::{Router, RouterMetrics, RouterOptions};
use flotilla_shard::raft::{Leases, Limits, Position};
use flotilla_shard::restore::{self, Remains, StartOptions};
use flotilla_shard::status::PublishedStatus;
use flotilla_shard::{
    Budget, Descriptor, GroupId, NodeId, Outbox, Replica, ReplicaOptions, SnapshotHandle,
    SnapshotMetrics, SnapshotOptions, SnapshotSink, Snapshots, snapshot::SnapshotWork,
};
use flotilla_storage::journal::{Journal, JournalOptions, JournalReader, Recovery};
use flotilla_storage::sim::SimFs;
use flotilla_storage::store::{
    CheckpointCompletion, CheckpointHandle, CheckpointWork, Checkpointer, ShardState, Store,
    StoreError, StoreMetrics, StoreOptions,
};
use prometheus::Registry;
use tokio::runtime::Handle;

use super::clock::{Nanos, NodeClock, Reading};
use super::disk::{self, JOURNAL};
use super::journaling::Journaling;
use super::mailbox::Mailbox;
use super::options::Options;
use super::scene::Scene;
use super::watch::Book;

/// Bytes of memory that requests may hold: more than any life needs.
const BUDGET_BYTES: u64 = 64 << 20;

/// A node.
pub struct Node {
    /// Its place among the nodes, from 0.
    pub at: usize,
    /// Its disk.
    pub fs: SimFs,
    /// Where its store is on that.
    pub place: disk::Place,
    /// Its clock.
    pub clock: NodeClock,
    /// Its present life; `None` while it is down.
    pub life: Option<Life>,
    /// How many lives it had.
    pub lives: u64,
    /// All births of its groups are durable.
    is_born: bool,
    /// It stands still until then.
    pub paused_until: Nanos,
    /// Syncs take much longer until then.
    pub stalled_until: Nanos,
    /// Bits of what it had synced were flipped.
    pub is_rotten: bool,
    /// Its disk is nearly full.
    pub is_full: bool,
    /// A fault of its disk is to strike later.
    pub is_armed: bool,
}

/// A replica that lives here.
pub struct Hosted {
    /// The product's.
    pub replica: Replica,
    /// What it publishes.
    pub status: Arc<PublishedStatus>,
    /// What the judges were told of it.
    pub book: Book,
    /// When a preferred replica of a group without a leader campaigns next, and until when it does.
    pub eager_at: Nanos,
    /// See `eager_at`.
    pub eager_until: Nanos,
    /// A snapshot took the place of its rows since its last turn.
    pub installed: Option<Position>,
}

/// A node while it runs.
pub struct Life {
    /// Whose.
    pub at: usize,
    /// Which of its lives.
    pub number: u64,
    /// Where the parts meet.
    pub mailbox: Mailbox,
    /// What clocks show.
    pub reading: Reading,
    /// Takes operations.
    pub router: Router,
    /// Takes messages.
    pub sink: Arc<dyn Inbound>,
    /// Writes.
    pub journal: Journaling,
    /// Reads the log.
    pub reader: JournalReader,
    /// Takes frozen memtables.
    pub checkpoint_handle: CheckpointHandle,
    /// Merges them.
    pub checkpoints: CheckpointWork,
    /// Takes orders.
    pub snapshot_handle: SnapshotHandle,
    /// Sends and receives.
    pub snapshots: SnapshotWork,
    /// By group.
    pub replicas: BTreeMap<GroupId, Hosted>,
    /// So many effects are performed before the process dies.
    pub effects_left: Option<u64>,
    /// The power fails when the next round lies in the page cache.
    pub dies_unsynced: bool,
    /// When the memtables were last handed to a checkpoint, by local time.
    pub frozen_at: Nanos,
    /// What the replicas were told: the disk is slow.
    pub is_reluctant: bool,
    /// Steps that are scheduled.
    pub due: Due,
}

/// Steps of a life that are scheduled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Due {
    /// Of the lane.
    pub lane: bool,
    /// Of the checkpoints.
    pub checkpoint: bool,
    /// Of the snapshot service.
    pub snapshots: bool,
    /// Of the checkpoints, because the store cannot be written.
    pub store_retry: bool,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotOpened(String);

fn not_opened(error: impl std::error::Error) -> NotOpened {
    NotOpened(error.to_string())
}

/// The name of the node at a place.
pub fn name(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

impl Node {
    /// A node that never ran.
    pub fn new(at: usize, scene: &mut Scene) -> Node {
        let mut clock = NodeClock::new(&mut scene.random);
        let drift = i64::from(scene.options.drift_max_ppm);
        clock.set_drift(0, scene.random.between(0, 2 * drift as u64) as i64 - drift);
        clock.set_wall(scene.random.between(0, 2000) as i64 - 1000);
        let fs = SimFs::new(scene.random.number());
        Node {
            at,
            place: disk::Place::new(&fs),
            fs,
            clock,
            life: None,
            lives: 0,
            is_born: false,
            paused_until: 0,
            stalled_until: 0,
            is_rotten: false,
            is_full: false,
            is_armed: false,
        }
    }

    /// Starts it from what its disk holds.
    ///
    /// # Errors
    ///
    /// What the disk refuses. The node is down as before.
    pub fn open(
        &mut self,
        scene: &mut Scene,
        descriptors: &[Descriptor],
        origin: std::time::Instant,
        handle: &Handle,
    ) -> Result<(), NotOpened> {
        self.lives += 1;
        let mine: Vec<&Descriptor> = descriptors
            .iter()
            .filter(|descriptor| descriptor.replica_on(name(self.at)).is_some())
            .collect();
        let options = scene.options.clone();
        let journal_options = JournalOptions {
            segment_bytes: options.segment_bytes,
            batch_bytes_max: options.segment_bytes / 2,
            spare_segments_max: 2,
            rewrite_segments_min: 3,
            total_bytes_target: options.segment_bytes * 12,
            rewrite_bytes_max: options.segment_bytes / 4,
            boot_nonce: Some(scene.random.number()),
            ..JournalOptions::default()
        };
        let fs = Arc::new(self.fs.clone());
        let (mut journal, mut recovery) =
            Journal::open(fs, JOURNAL, journal_options).map_err(not_opened)?;
        count_recovery(scene, &recovery);
        let (store, states) = self.open_store(scene, &options)?;
        if !self.is_born {
            let births = mine.iter().map(|descriptor| (*descriptor).clone());
            restore::give_birth(births, &mut journal, &mut recovery).map_err(not_opened)?;
            self.is_born = true;
        }
        let mut states: BTreeMap<GroupId, ShardState> =
            states.into_iter().map(|state| (state.group, state)).collect();
        let damaged: BTreeMap<GroupId, String> =
            store.damaged().iter().map(|shard| (shard.group, shard.error.to_string())).collect();
        let start = start_options(name(self.at), &options);
        let mut starts = Vec::new();
        for descriptor in mine {
            let id = descriptor.group;
            let group = restore::take_group(descriptor, &mut journal, &mut recovery);
            let group = group.map_err(not_opened)?;
            let state = states.remove(&id);
            let remains = Remains::of(descriptor.clone(), group, state, damaged.get(&id));
            let remains = remains.map_err(not_opened)?;
            let seed = scene.random.number();
            let start = remains.open(&start, seed, false, &store, &mut journal);
            starts.push(start.map_err(not_opened)?);
        }
        let reading = Reading::new(origin);
        reading.set(&self.clock, scene.now);
        let mailbox = Mailbox::new(reading.clone(), scene.random.fork(), handle.clone());
        let mut life = assemble(self.at, self.lives, &options, mailbox, reading, journal, store)?;
        let now = life.now(&self.clock, scene.now, life.conditions(self.is_full, &options));
        for start in starts {
            let node = name(self.at).0;
            let rotten = self.is_rotten;
            let book = Book::reopened(&mut scene.judges, node, &start, &life.reader, rotten);
            if start.raft.suspect {
                scene.count("suspect replicas started");
            }
            if start.restored.needs_snapshot {
                scene.count("replicas started without rows");
            }
            let replica = Replica::new(start, now);
            let eager_at = if replica.is_preferred() { now.time.0 } else { Nanos::MAX };
            let (status, descriptor) = (replica.status(), replica.descriptor().clone());
            life.mailbox.publish(descriptor.clone(), status.clone());
            let hosted = Hosted {
                replica,
                status,
                book,
                eager_at,
                eager_until: now.time.0 + EAGER,
                installed: None,
            };
            life.replicas.insert(descriptor.group, hosted);
        }
        life.router.learn(descriptors.to_vec());
        life.frozen_at = now.time.0;
        self.life = Some(life);
        Ok(())
    }

    fn open_store(
        &self,
        scene: &mut Scene,
        options: &Options,
    ) -> Result<(Store, Vec<ShardState>), NotOpened> {
        let store_options = StoreOptions {
            cache_bytes: 1 << 20,
            merged_bytes_max: options.merged_bytes,
            compact_file_bytes_min: 4 << 20,
            slice_bytes_min: 16 << 10,
            ..StoreOptions::default()
        };
        let open = |must_exist| {
            let store_options = StoreOptions { must_exist, ..store_options };
            Store::open_file(Box::new(self.place.clone()), store_options, StoreMetrics::new())
        };
        match open(self.is_born) {
            Err(StoreError::Unreadable { .. }) if self.is_rotten => {
                scene.count("stores set aside");
                disk::set_store_aside(&self.fs).map_err(not_opened)?;
                open(false).map_err(not_opened)
            }
            result => result.map_err(not_opened),
        }
    }

    /// True if the disk has failed in the middle of something: the power is off.
    pub fn is_down_in_io(&self) -> bool {
        self.fs.is_down()
    }

    /// A file of the node that may be damaged, and its length.
    pub fn files(&self, folder: &str) -> Vec<(std::path::PathBuf, u64)> {
        use flotilla_storage::fs::FileSystem;
        let Ok(names) = self.fs.list(Path::new(folder)) else { return Vec::new() };
        let paths = names.into_iter().map(|name| Path::new(folder).join(name));
        paths
            .filter_map(|path| {
                let len = self.fs.open(&path).ok()?.len().ok()?;
                (len > 0).then_some((path, len))
            })
            .collect()
    }
}

/// For how long after its opening a preferred replica does not wait for its election timeout.
const EAGER: Nanos = 2_000_000_000;

fn count_recovery(scene: &mut Scene, recovery: &Recovery) {
    scene.count("journals recovered");
    if recovery.torn_bytes > 0 {
        scene.count("torn tails cut");
    }
    scene.add("damaged journal records met", recovery.corrupt.len() as u64);
}

fn start_options(node: NodeId, options: &Options) -> StartOptions {
    StartOptions {
        node,
        election_timeout: options.election_timeout,
        heartbeat_interval: options.heartbeat_interval,
        disk_stall_max: options.disk_stall_max,
        leases: Leases { reads: options.lease_reads, clock_drift_max_ppm: options.drift_max_ppm },
        limits: Limits {
            cache_bytes_max: options.log_cache_bytes as usize,
            message_bytes_max: 4 << 10,
            inflight_bytes_max: 32 << 10,
            inflight_messages_max: 16,
            apply_bytes_max: 16 << 10,
            ..Limits::default()
        },
        replica: ReplicaOptions {
            compact_entries_min: options.compact_entries_min,
            ..ReplicaOptions::default()
        },
    }
}

fn assemble(
    at: usize,
    number: u64,
    options: &Options,
    mailbox: Mailbox,
    reading: Reading,
    journal: Journal,
    store: Store,
) -> Result<Life, NotOpened> {
    let reader = journal.reader();
    let completion: Arc<dyn CheckpointCompletion> = Arc::new(mailbox.clone());
    let (checkpoint_handle, checkpoints) =
        Checkpointer::without_thread(store.clone(), vec![completion]);
    let snapshot_options = SnapshotOptions {
        chunk_bytes: options.chunk_bytes,
        bytes_per_second: 1 << 20,
        resume_timeout: options.election_timeout * 10,
        ..SnapshotOptions::new(number)
    };
    let clock = reading.clone();
    let (snapshot_handle, snapshots) = Snapshots::without_thread(
        snapshot_options,
        store,
        checkpoint_handle.clone(),
        Arc::new(mailbox.clone()) as Arc<dyn Outbox>,
        Arc::new(mailbox.clone()) as Arc<dyn SnapshotSink>,
        SnapshotMetrics::new(),
        Box::new(move || std::time::Duration::from_nanos(clock.local())),
    );
    mailbox.set_snapshots(snapshot_handle.clone());
    let router = Router::with_environment(
        RouterOptions::new(name(at)),
        mailbox.clone(),
        Arc::new(mailbox.clone()) as Arc<dyn Transport>,
        Budget::new(BUDGET_BYTES),
        RouterMetrics::register(&Registry::new()).map_err(not_opened)?,
        Arc::new(mailbox.clone()),
    );
    let sink = router.sink();
    Ok(Life {
        at,
        number,
        mailbox,
        reading,
        router,
        sink,
        journal: Journaling::new(journal),
        reader,
        checkpoint_handle,
        checkpoints,
        snapshot_handle,
        snapshots,
        replicas: BTreeMap::new(),
        effects_left: None,
        dies_unsynced: false,
        frozen_at: 0,
        is_reluctant: false,
        due: Due::default(),
    })
}
