//! What an operator can say about one node, and what holds when nothing is said.
//!
//! [`Settings`] is plain data. [`load`] fills it from four layers, each above the one
//! before: the defaults below, a TOML file, `FLOTILLA_…` environment variables, command line flags.
//! [`Loaded`] remembers where each value came from. [`Settings::check`] finds what
//! contradicts itself before any file or socket is touched.
//!
//! Invariants:
//!
//! * Every key has a default, listed in `configs/flotilla.toml`; a test keeps the two equal.
//! * An unknown key in a file is an error; an unknown environment variable is only reported, because
//!   orchestrators inject names such as `FLOTILLA_SERVICE_HOST`.
//! * Durations and sizes carry their unit where they are written: `"500ms"`, `"64MiB"`.
//!
//! What is absent: what a data directory says. A node that was born otherwise refuses to start when
//! it opens its directory.

mod check;
mod load;
mod peers;
mod size;
mod text;

pub use check::{Invalid, is_loopback};
pub use load::{Layers, Loaded, Origin, SettingsError, load};
pub use peers::{Peers, PeersError};
pub use size::Size;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::leases::{ClockDrift, ReadMode};
use crate::splits;

/// One node's settings. Field by field the same as the keys of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// The cluster's name: nodes of another name are refused. Fixed at the cluster's birth.
    pub cluster_name: String,
    /// This node's id, from 1. Fixed at the node's birth.
    pub node_id: u64,
    /// The directory that holds all that this node keeps. One process at a time.
    pub data_dir: PathBuf,
    /// Where this node listens for its peers: `host:port`. Empty: the address that `peers` lists
    /// for this node, or `127.0.0.1:7101` if it lists none.
    pub peer_addr: String,
    /// Where Redis clients connect: `host:port`; port 0 takes a free one.
    pub resp_addr: String,
    /// Where `/healthz`, `/readyz`, `/metrics` and `/status` are served: `host:port`; port 0 takes
    /// a free one.
    pub admin_addr: String,
    /// All nodes of the cluster, this one included, with the addresses at which peers reach them.
    /// Empty: a cluster of this node alone.
    pub peers: Peers,
    /// Into how many shards, even over the first two key bytes, a new cluster is cut. Absent: one,
    /// or what `split_at` says. An existing cluster only compares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<u32>,
    /// The first key of each shard but the first, with `\xNN` escapes; instead of `shards`.
    #[serde(deserialize_with = "load::list_or_text")]
    pub split_at: Vec<String>,
    /// How many threads host shards and connections. 0: half of the cores.
    pub lanes: usize,
    /// What is logged, as a filter: `info`, or `warn,flotilla_router=debug`.
    pub log: String,
    /// Allows listening on addresses other than loopback although nothing is encrypted and nobody
    /// is asked for a password.
    pub insecure: bool,
    /// Consensus.
    pub raft: RaftSettings,
    /// Disk and memory of the store and the journal.
    pub storage: StorageSettings,
    /// What clients may ask for.
    pub limits: LimitSettings,
}

/// Settings of consensus: `[raft]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RaftSettings {
    /// A follower that hears nothing from its leader for this long (at random up to twice) asks for
    /// votes. The same on all nodes.
    #[serde(with = "humantime_serde")]
    pub election_timeout: Duration,
    /// How often a leader tells its followers that it lives. At most a fifth of the above.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// A node whose clock is further than this from the median of the nodes' clocks leads nothing.
    #[serde(with = "humantime_serde")]
    pub clock_skew_max: Duration,
    /// How linearizable reads prove that they are current: `lease` or `read_index`.
    #[serde(with = "text")]
    pub reads: ReadMode,
    /// How much faster or slower than true time a clock may run, as a ratio: leases rest on it. The same
    /// on all nodes.
    #[serde(with = "text")]
    pub clock_drift_max: ClockDrift,
}

/// Settings of the journal and the store: `[storage]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct StorageSettings {
    /// When the memtables of all shards together hold this much, they are merged into the store.
    pub memtable_bytes: Size,
    /// How much of what was merged last stays in memory too, to be read faster. 0: nothing.
    pub merged_memtable_bytes: Size,
    /// How much of the store file is kept in memory.
    pub cache_bytes: Size,
    /// Size of one journal file.
    pub segment_bytes: Size,
    /// Memtables older than this are merged into the store even when small: bounds replay.
    #[serde(with = "humantime_serde")]
    pub checkpoint_age: Duration,
    /// With less free disk than this, new data is refused; reads and deletes go on.
    pub disk_reserve: Size,
    /// A write to the journal that takes longer moves leaderships to other nodes.
    #[serde(with = "humantime_serde")]
    pub disk_stall_max: Duration,
    /// How much log all shards together keep for followers that lag behind; who needs more gets a
    /// snapshot.
    pub log_retain: Size,
    /// How many bytes of snapshots are sent per second.
    pub snapshot_rate: Size,
    /// Goes on without data that cannot be read and that no other replica has. Look at what is lost
    /// first, and take it away again afterwards.
    pub accept_data_loss: bool,
}

/// Settings of what clients may ask for: `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitSettings {
    /// The longest key. The same on all nodes.
    pub key_bytes_max: Size,
    /// The longest value. The same on all nodes.
    pub value_bytes_max: Size,
    /// How many bytes of requests may be under way in this node; more are answered `BUSY`.
    pub budget_bytes: Size,
    /// How many clients may be connected.
    pub connections_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            cluster_name: "flotilla".to_owned(),
            node_id: 1,
            data_dir: PathBuf::from("flotilla-data"),
            peer_addr: String::new(),
            resp_addr: "127.0.0.1:7001".to_owned(),
            admin_addr: "127.0.0.1:7201".to_owned(),
            peers: Peers::default(),
            shards: None,
            split_at: Vec::new(),
            lanes: 0,
            log: "info".to_owned(),
            insecure: false,
            raft: RaftSettings::default(),
            storage: StorageSettings::default(),
            limits: LimitSettings::default(),
        }
    }
}

impl Default for RaftSettings {
    fn default() -> Self {
        RaftSettings {
            election_timeout: Duration::from_millis(300),
            heartbeat_interval: Duration::from_millis(60),
            clock_skew_max: Duration::from_secs(2),
            reads: ReadMode::Lease,
            clock_drift_max: ClockDrift::default(),
        }
    }
}

impl Default for StorageSettings {
    fn default() -> Self {
        StorageSettings {
            memtable_bytes: Size::mib(64),
            merged_memtable_bytes: Size::mib(64),
            cache_bytes: Size::mib(128),
            segment_bytes: Size::mib(64),
            checkpoint_age: Duration::from_secs(60),
            disk_reserve: Size::mib(256),
            disk_stall_max: Duration::from_secs(1),
            log_retain: Size::mib(1024),
            snapshot_rate: Size::mib(64),
            accept_data_loss: false,
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        LimitSettings {
            key_bytes_max: Size::kib(4),
            value_bytes_max: Size::mib(8),
            budget_bytes: Size::mib(128),
            connections_max: 10_000,
        }
    }
}

/// Where a node listens for its peers when neither `peer_addr` nor `peers` says so.
pub const PEER_ADDR_DEFAULT: &str = "127.0.0.1:7101";

impl Settings {
    /// Where this node listens for its peers, after what [`Settings::peer_addr`] leaves open.
    pub fn peer_listen_addr(&self) -> &str {
        if !self.peer_addr.is_empty() {
            return &self.peer_addr;
        }
        self.peers.get(self.node_id).unwrap_or(PEER_ADDR_DEFAULT)
    }

    /// The keys at which a new cluster is cut, ascending; `None` when neither `shards` nor
    /// `split_at` is given, and an existing cluster's own are taken as they are.
    ///
    /// # Errors
    ///
    /// [`splits::SplitError`] for a bad escape, a number or an order that [`Settings::check`]
    /// refuses too.
    pub fn split_keys(&self) -> Result<Option<Vec<Bytes>>, splits::SplitError> {
        if !self.split_at.is_empty() {
            let keys: Vec<Bytes> = self
                .split_at
                .iter()
                .map(|text| splits::parse_key(text))
                .collect::<Result<_, _>>()?;
            splits::check_splits(&keys)?;
            return Ok(Some(keys));
        }
        self.shards.map(splits::even_splits).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::NodeOptions;
    use flotilla_shard::NodeId;

    /// A program that embeds the engine and a server that runs it start from the same defaults.
    #[test]
    fn defaults_are_those_of_the_builder() {
        let settings = Settings::default();
        let options = NodeOptions::new(NodeId(settings.node_id), settings.data_dir.clone());
        assert_eq!(settings.cluster_name, options.cluster_name);
        assert_eq!(settings.raft.election_timeout, options.election_timeout);
        assert_eq!(settings.raft.heartbeat_interval, options.heartbeat_interval);
        assert_eq!(settings.storage.memtable_bytes.get(), options.memtable_bytes);
        let merged_memtable_bytes = settings.storage.merged_memtable_bytes.get();
        assert_eq!(merged_memtable_bytes, options.merged_memtable_bytes);
        assert_eq!(settings.storage.cache_bytes.get(), options.cache_bytes as u64);
        assert_eq!(settings.storage.segment_bytes.get(), options.segment_bytes);
        assert_eq!(settings.storage.checkpoint_age, options.checkpoint_age);
        assert_eq!(settings.raft.clock_skew_max, options.clock_skew_max);
        assert_eq!(settings.raft.reads, options.reads);
        assert_eq!(settings.raft.clock_drift_max, options.clock_drift_max);
        assert_eq!(settings.storage.disk_reserve.get(), options.disk_reserve_bytes);
        assert_eq!(settings.storage.disk_stall_max, options.disk_stall_max);
        assert_eq!(settings.storage.log_retain.get(), options.log_retain_bytes);
        assert_eq!(settings.storage.snapshot_rate.get(), options.snapshot_bytes_per_second);
        assert_eq!(settings.storage.accept_data_loss, options.accept_data_loss);
        assert_eq!(settings.limits.key_bytes_max.get(), options.key_bytes_max);
        assert_eq!(settings.limits.value_bytes_max.get(), options.value_bytes_max);
        assert_eq!(settings.limits.budget_bytes.get(), options.budget_bytes);
    }
}
