//! What can be chosen: how a node is built, and how a single call behaves.
//!
//! Every default is written where the option is. Options of a call are values of their own with a
//! `Default`, so that a later option breaks no caller.

use crate::entry::ms_of;
use crate::leases::{ClockDrift, ReadMode};
use bytes::Bytes;
use flotilla_router::peer::LocalNetwork;
use flotilla_shard::{Consistency, Expiry, NodeId};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// The longest key, in bytes, unless chosen otherwise: 4 KiB.
pub const KEY_BYTES_MAX: u64 = 4 << 10;

/// The largest value, in bytes, unless chosen otherwise: 8 MiB.
pub const VALUE_BYTES_MAX: u64 = 8 << 20;

/// How long a call waits for its answer, unless chosen otherwise.
///
/// Several times what electing a new leader takes, so that a failover is seen as a slow call and
/// not as an error.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How a read behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadOptions {
    /// How long to wait for the answer. `None`: the engine's request timeout.
    pub timeout: Option<Duration>,
    /// How current the answer must be. Default: linearizable.
    pub consistency: Consistency,
}

impl ReadOptions {
    /// The defaults.
    pub fn new() -> ReadOptions {
        ReadOptions::default()
    }

    /// Waits this long for the answer.
    pub fn timeout(mut self, timeout: Duration) -> ReadOptions {
        self.timeout = Some(timeout);
        self
    }

    /// Accepts an older answer, which the replica on this node may give without asking another:
    /// see [`Consistency`].
    pub fn consistency(mut self, consistency: Consistency) -> ReadOptions {
        self.consistency = consistency;
        self
    }
}

/// How a put behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutOptions {
    /// What must hold for the value to be written.
    pub condition: PutCondition,
    /// When the value expires.
    pub expiry: PutExpiry,
    /// How long to wait for the answer. `None`: the engine's request timeout.
    pub timeout: Option<Duration>,
}

impl PutOptions {
    /// The defaults: always write.
    pub fn new() -> PutOptions {
        PutOptions::default()
    }

    /// Writes only when the key holds nothing.
    pub fn if_absent(mut self) -> PutOptions {
        self.condition = PutCondition::IfAbsent;
        self
    }

    /// Writes only when the key holds something.
    pub fn if_present(mut self) -> PutOptions {
        self.condition = PutCondition::IfPresent;
        self
    }

    /// Lets the value expire after `ttl`, counted from when the shard's leader takes the call.
    pub fn expires_in(mut self, ttl: Duration) -> PutOptions {
        self.expiry = PutExpiry::In(ttl);
        self
    }

    /// Lets the value expire at `time`. A time that has passed leaves the key empty.
    pub fn expires_at(mut self, time: SystemTime) -> PutOptions {
        self.expiry = PutExpiry::At(time);
        self
    }

    /// Lets the value expire when the one before it would have.
    pub fn keep_expiry(mut self) -> PutOptions {
        self.expiry = PutExpiry::Keep;
        self
    }

    /// Waits this long for the answer.
    pub fn timeout(mut self, timeout: Duration) -> PutOptions {
        self.timeout = Some(timeout);
        self
    }
}

/// What must hold for a put to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PutCondition {
    /// Nothing.
    #[default]
    Always,
    /// The key holds nothing.
    IfAbsent,
    /// The key holds something.
    IfPresent,
}

/// When a put value expires. Times count in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutExpiry {
    /// Never.
    #[default]
    Never,
    /// When the value before it would have.
    Keep,
    /// At this time.
    At(SystemTime),
    /// This long after the shard's leader took the call.
    In(Duration),
}

impl PutExpiry {
    pub(crate) fn to_shard(self) -> Expiry {
        match self {
            PutExpiry::Never => Expiry::Never,
            PutExpiry::Keep => Expiry::Keep,
            PutExpiry::At(time) => Expiry::At(ms_of(time)),
            PutExpiry::In(ttl) => Expiry::After(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// When a call that waits for `timeout` stops waiting. The longest wait is a day: longer ones mean
/// "for ever", and a clock has an end.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
    Instant::now() + timeout.min(WAIT_MAX)
}

/// How large keys and values may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest key, in bytes; the shortest has one.
    pub key_bytes_max: u64,
    /// The largest value, in bytes; the smallest is empty.
    pub value_bytes_max: u64,
}

/// How a node reaches the other nodes of its cluster.
pub(crate) enum Network {
    /// There are none: one replica of everything, no sockets.
    Alone,
    /// All nodes live in this process.
    Local(LocalNetwork),
    /// Over TCP.
    Tcp {
        /// Where this node listens for the others.
        listener: TcpListener,
        /// All nodes and their addresses, this one among them.
        peers: BTreeMap<NodeId, String>,
    },
}

/// How one node is built.
pub(crate) struct NodeOptions {
    /// The node's name in its cluster, at least 1.
    pub(crate) node_id: NodeId,
    /// Its data directory; made when missing.
    pub(crate) directory: PathBuf,
    /// The cluster's name: nodes of another one are refused.
    pub(crate) cluster_name: String,
    /// The way to the other nodes.
    pub(crate) network: Network,
    /// Where the shards of a new cluster begin; `None`: as at birth, or one shard.
    pub(crate) split_keys: Option<Vec<Bytes>>,
    /// Threads that host shards.
    pub(crate) lanes: usize,
    /// Bytes of requests let in and not yet answered.
    pub(crate) budget_bytes: u64,
    /// Bytes of rows in memory that start a checkpoint.
    pub(crate) memtable_bytes: u64,
    /// Bytes of rows that were merged into the store and stay in memory for reads.
    pub(crate) merged_memtable_bytes: u64,
    /// Bytes of the store's page cache.
    pub(crate) cache_bytes: usize,
    /// The age of the oldest change in memory that starts a checkpoint.
    pub(crate) checkpoint_age: Duration,
    /// Bytes of one journal file.
    pub(crate) segment_bytes: u64,
    /// How long a follower waits for its leader: at least this, at random up to twice as long.
    pub(crate) election_timeout: Duration,
    /// How often a leader shows that it lives.
    pub(crate) heartbeat_interval: Duration,
    /// The longest key.
    pub(crate) key_bytes_max: u64,
    /// The largest value.
    pub(crate) value_bytes_max: u64,
    /// With less free disk than this, new data is refused.
    pub(crate) disk_reserve_bytes: u64,
    /// A write to the journal that takes longer moves leaderships to nodes with faster disks.
    pub(crate) disk_stall_max: Duration,
    /// Bytes of log that all shards together keep for followers that lag behind.
    pub(crate) log_retain_bytes: u64,
    /// Bytes of snapshots sent per second.
    pub(crate) snapshot_bytes_per_second: u64,
    /// A clock that is further from the median of the peers' leads nothing.
    pub(crate) clock_skew_max: Duration,
    /// How a leader knows that a linearizable read is current.
    pub(crate) reads: ReadMode,
    /// How much faster or slower than true time clocks may run.
    pub(crate) clock_drift_max: ClockDrift,
    /// Go on without rows that cannot be read, where no other replica has them.
    pub(crate) accept_data_loss: bool,
}

impl NodeOptions {
    /// A node that is alone, with the defaults.
    pub(crate) fn new(node_id: NodeId, directory: PathBuf) -> NodeOptions {
        NodeOptions {
            node_id,
            directory,
            cluster_name: "flotilla".to_owned(),
            network: Network::Alone,
            split_keys: None,
            lanes: default_lanes(1),
            // Room for many thousands of small requests, or a handful of the largest.
            budget_bytes: 128 << 20,
            memtable_bytes: 64 << 20,
            merged_memtable_bytes: 64 << 20,
            cache_bytes: 128 << 20,
            // Bounds what a restart reads again, and how much of the journal idle shards hold.
            checkpoint_age: Duration::from_secs(60),
            segment_bytes: 64 << 20,
            // A failover is noticed after 0.3 to 0.6 seconds, and a lost heartbeat or a slow sync
            // is not mistaken for one.
            election_timeout: Duration::from_millis(300),
            heartbeat_interval: Duration::from_millis(60),
            key_bytes_max: KEY_BYTES_MAX,
            value_bytes_max: VALUE_BYTES_MAX,
            disk_reserve_bytes: 256 << 20,
            disk_stall_max: Duration::from_secs(1),
            log_retain_bytes: 1 << 30,
            snapshot_bytes_per_second: 64 << 20,
            clock_skew_max: Duration::from_secs(2),
            reads: ReadMode::Lease,
            clock_drift_max: ClockDrift::default(),
            accept_data_loss: false,
        }
    }

    /// What all files of the journal should take together: the log that is kept and a quarter more,
    /// but never less than six segments.
    pub(crate) fn journal_bytes_target(&self) -> u64 {
        let log_and_slack = self.log_retain_bytes.saturating_add(self.log_retain_bytes / 4);
        log_and_slack.max(self.segment_bytes.saturating_mul(6))
    }
}

/// The smallest journal file in which an entry with the largest value fits: a log entry may be a
/// mebibyte longer than its value, and the journal adds less than another. A journal that is given
/// more than fits into a file stops the node, and the entry would stop its peers too.
pub(crate) fn segment_bytes_min(value_bytes_max: u64) -> u64 {
    value_bytes_max.saturating_add(2 << 20)
}

/// Half of the cores, divided among `nodes` in one process, and at least one: the journal, the
/// checkpoints, cold reads and the kernel's network stack want the rest. On two cores three nodes
/// with one lane each spent half the CPU time per request of nodes with two lanes, because every
/// hop between lanes wakes a thread.
pub(crate) fn default_lanes(nodes: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2 / nodes.max(1)).max(1)
}
