//! Builds engines: a single node, several in one process, or this process's node of a cluster.
//!
//! What contradicts itself is refused here, before anything is written. What contradicts the
//! directory or the other nodes is refused when the node starts.

use crate::background::on_own_thread;
use crate::engine::{Engine, Member};
use crate::error::Error;
use crate::leases::{ClockDrift, ReadMode};
use crate::node::{JOURNAL, Node};
use crate::options::{
    Limits, Network, NodeOptions, REQUEST_TIMEOUT, default_lanes, segment_bytes_min,
};
use crate::splits::{check_splits, even_splits};
use bytes::Bytes;
use flotilla_router::peer::LocalNetwork;
use flotilla_shard::NodeId;
use prometheus::Registry;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The most nodes that [`Builder::replicas`] puts into one process.
const REPLICAS_MAX: u64 = 9;

/// Chooses what an [`Engine`] is, and starts it.
///
/// Each method's default is written at it. Nothing happens before [`Builder::start`].
///
/// # Examples
///
/// Three replicas in one process, each with its own subdirectory and thread, and eight shards:
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let directory = tempfile::tempdir().unwrap();
/// let db = flotilla::Engine::builder(directory.path()).replicas(3).shards(8).start().await?;
/// db.put("key", "value").await?;
/// assert_eq!(db.statuses().len(), 3);
/// # db.shutdown().await
/// # }).unwrap();
/// ```
///
/// This process's node of a cluster of three:
///
/// ```no_run
/// # async fn start() -> Result<(), flotilla::Error> {
/// let db = flotilla::Engine::builder("/var/lib/flotilla")
///     .node_id(1)
///     .listen("10.0.0.1:7400".parse().expect("an address"))
///     .peers([(1, "10.0.0.1:7400"), (2, "10.0.0.2:7400"), (3, "10.0.0.3:7400")])
///     .start()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing happens before start()"]
#[derive(Debug)]
pub struct Builder {
    directory: PathBuf,
    replicas: Option<u64>,
    node_id: Option<u64>,
    listen: Option<SocketAddr>,
    listener: Option<TcpListener>,
    peers: BTreeMap<u64, String>,
    /// A node that was listed twice.
    peer_twice: Option<u64>,
    shards: Option<u32>,
    split_keys: Option<Vec<Bytes>>,
    cluster_name: Option<String>,
    lanes: Option<usize>,
    request_timeout: Duration,
    budget_bytes: Option<u64>,
    memtable_bytes: Option<u64>,
    merged_memtable_bytes: Option<u64>,
    cache_bytes: Option<usize>,
    checkpoint_age: Option<Duration>,
    segment_bytes: Option<u64>,
    election_timeout: Option<Duration>,
    heartbeat_interval: Option<Duration>,
    key_bytes_max: Option<u64>,
    value_bytes_max: Option<u64>,
    disk_reserve_bytes: Option<u64>,
    disk_stall_max: Option<Duration>,
    log_retain_bytes: Option<u64>,
    snapshot_bytes_per_second: Option<u64>,
    clock_skew_max: Option<Duration>,
    pub(crate) reads: Option<ReadMode>,
    pub(crate) clock_drift_max: Option<ClockDrift>,
    accept_data_loss: bool,
}

impl Builder {
    pub(crate) fn new(directory: &Path) -> Builder {
        Builder {
            directory: directory.to_owned(),
            replicas: None,
            node_id: None,
            listen: None,
            listener: None,
            peers: BTreeMap::new(),
            peer_twice: None,
            shards: None,
            split_keys: None,
            cluster_name: None,
            lanes: None,
            request_timeout: REQUEST_TIMEOUT,
            budget_bytes: None,
            memtable_bytes: None,
            merged_memtable_bytes: None,
            cache_bytes: None,
            checkpoint_age: None,
            segment_bytes: None,
            election_timeout: None,
            heartbeat_interval: None,
            key_bytes_max: None,
            value_bytes_max: None,
            disk_reserve_bytes: None,
            disk_stall_max: None,
            log_retain_bytes: None,
            snapshot_bytes_per_second: None,
            clock_skew_max: None,
            reads: None,
            clock_drift_max: None,
            accept_data_loss: false,
        }
    }

    /// Runs this many nodes in this process, each in a subdirectory `node-1`, `node-2`, … They talk
    /// over channels and sync their own journals. Default: one node, in the directory itself.
    pub fn replicas(mut self, replicas: u64) -> Builder {
        self.replicas = Some(replicas);
        self
    }

    /// Names this process's node of a cluster, from 1. Default: 1, alone.
    pub fn node_id(mut self, node_id: u64) -> Builder {
        self.node_id = Some(node_id);
        self
    }

    /// Listens for the other nodes here. Default: no sockets.
    pub fn listen(mut self, address: SocketAddr) -> Builder {
        self.listen = Some(address);
        self
    }

    /// Listens for the other nodes on a socket that is bound already.
    pub fn peer_listener(mut self, listener: TcpListener) -> Builder {
        self.listener = Some(listener);
        self
    }

    /// Lists all nodes of the cluster, this one included, with the addresses at which they listen.
    /// All nodes must be given the same list. Default: none.
    pub fn peers<A: Into<String>>(mut self, peers: impl IntoIterator<Item = (u64, A)>) -> Builder {
        for (node, address) in peers {
            if self.peers.insert(node, address.into()).is_some() {
                self.peer_twice = Some(node);
            }
        }
        self
    }

    /// Cuts a new cluster into this many shards, even over the first two key bytes. An existing one
    /// must have been born so. Default: as at birth; a new cluster gets one shard.
    pub fn shards(mut self, shards: u32) -> Builder {
        self.shards = Some(shards);
        self
    }

    /// Cuts a new cluster into shards that begin at these ascending keys. An existing one must have
    /// been born so. Default: as at birth; a new cluster gets one shard.
    pub fn split_at<K: Into<Bytes>>(mut self, keys: impl IntoIterator<Item = K>) -> Builder {
        self.split_keys = Some(keys.into_iter().map(Into::into).collect());
        self
    }

    /// Names the cluster: nodes of another one are refused. Default: `flotilla`.
    pub fn cluster_name(mut self, name: impl Into<String>) -> Builder {
        self.cluster_name = Some(name.into());
        self
    }

    /// Hosts the shards on this many threads per node. Default: half of the processor's cores, divided
    /// among the nodes of this process, and at least one.
    pub fn lanes(mut self, lanes: usize) -> Builder {
        self.lanes = Some(lanes);
        self
    }

    /// Waits this long for the answer of a call that says nothing else. Default: 5 seconds.
    pub fn request_timeout(mut self, timeout: Duration) -> Builder {
        self.request_timeout = timeout;
        self
    }

    /// Lets in requests of at most this many bytes at a time; more end in [`Error::Busy`]. Default:
    /// 128 MiB.
    pub fn budget_bytes(mut self, bytes: u64) -> Builder {
        self.budget_bytes = Some(bytes);
        self
    }

    /// Merges rows in memory into the store when they reach this many bytes. Default: 64 MiB.
    pub fn memtable_bytes(mut self, bytes: u64) -> Builder {
        self.memtable_bytes = Some(bytes);
        self
    }

    /// Keeps rows that were merged into the store readable in memory until the next merge, as long
    /// as they take no more than this many bytes. Default: 64 MiB.
    pub fn merged_memtable_bytes(mut self, bytes: u64) -> Builder {
        self.merged_memtable_bytes = Some(bytes);
        self
    }

    /// Lets the store cache this many bytes. Default: 128 MiB.
    pub fn cache_bytes(mut self, bytes: usize) -> Builder {
        self.cache_bytes = Some(bytes);
        self
    }

    /// Merges rows in memory into the store when they are this old. Default: 60 seconds.
    pub fn checkpoint_age(mut self, age: Duration) -> Builder {
        self.checkpoint_age = Some(age);
        self
    }

    /// Makes journal files of this many bytes: at least 2 MiB more than the largest value. Default:
    /// 64 MiB.
    pub fn segment_bytes(mut self, bytes: u64) -> Builder {
        self.segment_bytes = Some(bytes);
        self
    }

    /// Elects a new leader after not hearing from the old one for at least this long, at random up
    /// to twice as long. Default: 300 ms.
    pub fn election_timeout(mut self, timeout: Duration) -> Builder {
        self.election_timeout = Some(timeout);
        self
    }

    /// Lets leaders show this often that they live; well below the election timeout. Default: 60 ms.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Builder {
        self.heartbeat_interval = Some(interval);
        self
    }

    /// Allows keys of up to this many bytes. Default: 4 KiB.
    pub fn key_bytes_max(mut self, bytes: u64) -> Builder {
        self.key_bytes_max = Some(bytes);
        self
    }

    /// Allows values of up to this many bytes. Default: 8 MiB.
    pub fn value_bytes_max(mut self, bytes: u64) -> Builder {
        self.value_bytes_max = Some(bytes);
        self
    }

    /// Refuses new data with [`Error::DiskFull`] while less than this is free on the disk; what
    /// frees space goes on. Default: 256 MiB.
    pub fn disk_reserve_bytes(mut self, bytes: u64) -> Builder {
        self.disk_reserve_bytes = Some(bytes);
        self
    }

    /// Hands leaderships to nodes with faster disks when a write to the journal takes longer than
    /// this.
    /// Default: 1 second.
    pub fn disk_stall_max(mut self, stall: Duration) -> Builder {
        self.disk_stall_max = Some(stall);
        self
    }

    /// Keeps at most this many bytes of log, all shards of a node together, for followers that lag
    /// behind; who needs more gets a snapshot. Default: 1 GiB.
    pub fn log_retain_bytes(mut self, bytes: u64) -> Builder {
        self.log_retain_bytes = Some(bytes);
        self
    }

    /// Sends snapshots with at most this many bytes per second. Default: 64 MiB.
    pub fn snapshot_bytes_per_second(mut self, bytes: u64) -> Builder {
        self.snapshot_bytes_per_second = Some(bytes);
        self
    }

    /// Leads nothing while this node's clock is further than this from the median of the nodes'
    /// clocks. Default: 2 seconds.
    pub fn clock_skew_max(mut self, skew: Duration) -> Builder {
        self.clock_skew_max = Some(skew);
        self
    }

    /// Goes on without data that cannot be read and that no other replica has, instead of refusing
    /// with [`Error::DataLost`]. Look at what is lost first. Default: false.
    pub fn accept_data_loss(mut self, accept: bool) -> Builder {
        self.accept_data_loss = accept;
        self
    }

    /// Starts the engine. A new cluster is born when all its nodes have been started; a node of an
    /// existing one serves as soon as its shards have leaders.
    ///
    /// Dropping the future does not stop what has begun.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] when the choices contradict each other, [`Error::DirectoryInUse`],
    /// [`Error::Directory`] when the directory belongs to another node or cluster, [`Error::Cluster`]
    /// when the other nodes refuse this one, [`Error::DataLost`] when no replica has what cannot be
    /// read here, [`Error::Storage`] and [`Error::Corrupt`].
    pub async fn start(mut self) -> Result<Engine, Error> {
        let template = self.template()?;
        let limits = Limits {
            key_bytes_max: template.key_bytes_max,
            value_bytes_max: template.value_bytes_max,
        };
        let request_timeout = self.request_timeout;
        let all = self.nodes(template)?;
        let members = on_own_thread("flotilla-start", move || start_nodes(all)).await??;
        Ok(Engine::new(members, limits, request_timeout))
    }

    /// What all nodes of this process have in common.
    fn template(&self) -> Result<NodeOptions, Error> {
        let node = NodeId(self.node_id.unwrap_or(1));
        let mut options = NodeOptions::new(node, self.directory.clone());
        options.split_keys = self.splits()?;
        if let Some(name) = &self.cluster_name {
            options.cluster_name.clone_from(name);
        }
        let replicas = usize::try_from(self.replicas.unwrap_or(1)).unwrap_or(usize::MAX);
        options.lanes = self.lanes.unwrap_or_else(|| default_lanes(replicas));
        set(&mut options.budget_bytes, self.budget_bytes);
        set(&mut options.memtable_bytes, self.memtable_bytes);
        set(&mut options.merged_memtable_bytes, self.merged_memtable_bytes);
        set(&mut options.cache_bytes, self.cache_bytes);
        set(&mut options.checkpoint_age, self.checkpoint_age);
        set(&mut options.segment_bytes, self.segment_bytes);
        set(&mut options.election_timeout, self.election_timeout);
        set(&mut options.heartbeat_interval, self.heartbeat_interval);
        set(&mut options.key_bytes_max, self.key_bytes_max);
        set(&mut options.value_bytes_max, self.value_bytes_max);
        set(&mut options.disk_reserve_bytes, self.disk_reserve_bytes);
        set(&mut options.disk_stall_max, self.disk_stall_max);
        set(&mut options.log_retain_bytes, self.log_retain_bytes);
        set(&mut options.snapshot_bytes_per_second, self.snapshot_bytes_per_second);
        set(&mut options.clock_skew_max, self.clock_skew_max);
        set(&mut options.reads, self.reads);
        set(&mut options.clock_drift_max, self.clock_drift_max);
        options.accept_data_loss = self.accept_data_loss;
        self.check(&options)?;
        Ok(options)
    }

    fn splits(&self) -> Result<Option<Vec<Bytes>>, Error> {
        match (self.shards, &self.split_keys) {
            (Some(_), Some(_)) => refuse("give either shards or split_at, not both"),
            (Some(shards), None) => Ok(Some(even_splits(shards)?)),
            (None, Some(keys)) => {
                check_splits(keys)?;
                Ok(Some(keys.clone()))
            }
            (None, None) => Ok(None),
        }
    }

    fn check(&self, options: &NodeOptions) -> Result<(), Error> {
        if let Some(node) = self.peer_twice {
            return refuse(format!("node {node} is listed twice among the peers"));
        }
        if self.node_id == Some(0) || self.peers.contains_key(&0) {
            return refuse("node ids begin at 1");
        }
        let socket = self.listen.is_some() || self.listener.is_some();
        if self.listen.is_some() && self.listener.is_some() {
            return refuse("give either listen or peer_listener, not both");
        }
        if let Some(replicas) = self.replicas {
            if !(1..=REPLICAS_MAX).contains(&replicas) {
                return refuse(format!("replicas must be 1 to {REPLICAS_MAX}, not {replicas}"));
            }
            if socket || !self.peers.is_empty() || self.node_id.is_some() {
                return refuse(
                    "replicas puts all nodes into this process: it goes without node_id, listen \
                     and peers",
                );
            }
        }
        if self.peers.is_empty() && socket {
            return refuse("a node that listens needs peers: list all nodes, this one included");
        }
        if !self.peers.is_empty() {
            if !socket {
                return refuse("a node with peers must listen for them: give listen");
            }
            match self.node_id {
                None => return refuse("a node with peers needs its node_id"),
                Some(node) if !self.peers.contains_key(&node) => {
                    return refuse(format!("node {node} is not listed among the peers"));
                }
                Some(_) => {}
            }
        }
        if options.lanes == 0 {
            return refuse("lanes must be at least 1");
        }
        if options.key_bytes_max == 0 {
            return refuse("key_bytes_max must be at least 1");
        }
        let segment_bytes_min = segment_bytes_min(options.value_bytes_max);
        if options.segment_bytes < segment_bytes_min {
            return refuse(format!(
                "segment_bytes {} is too small for value_bytes_max {}: at least {segment_bytes_min}",
                options.segment_bytes, options.value_bytes_max
            ));
        }
        if options.heartbeat_interval.is_zero() {
            return refuse("heartbeat_interval must not be zero");
        }
        if options.election_timeout < options.heartbeat_interval * 2 {
            return refuse("election_timeout must be at least twice the heartbeat_interval");
        }
        if self.request_timeout.is_zero() {
            return refuse("request_timeout must not be zero");
        }
        if options.disk_stall_max.is_zero() || options.clock_skew_max.is_zero() {
            return refuse("disk_stall_max and clock_skew_max must not be zero");
        }
        if options.clock_drift_max > ClockDrift::MAX {
            return refuse("clock_drift_max must be at most 50 %");
        }
        if options.snapshot_bytes_per_second == 0 {
            return refuse("snapshot_bytes_per_second must be at least 1");
        }
        Ok(())
    }

    /// The nodes of this process.
    fn nodes(&mut self, template: NodeOptions) -> Result<Vec<NodeOptions>, Error> {
        // A node that was born has a journal; one whose birth was refused has none.
        let is_born = |directory: &Path| directory.join(JOURNAL).exists();
        let folder = |id: u64| self.directory.join(format!("node-{id}"));
        let count = self.replicas.unwrap_or(1);
        if count == 1 {
            if is_born(&folder(1)) {
                return self
                    .misfit("it holds several replicas; start as many as were there before");
            }
            return Ok(vec![NodeOptions { network: self.network()?, ..template }]);
        }
        if is_born(&self.directory) {
            return self.misfit("it holds a single node; open it without replicas");
        }
        if is_born(&folder(count + 1)) {
            return self.misfit("it holds more replicas; start as many as were there before");
        }
        let network = LocalNetwork::new();
        let node = |id| NodeOptions {
            node_id: NodeId(id),
            directory: folder(id),
            network: Network::Local(network.clone()),
            cluster_name: template.cluster_name.clone(),
            split_keys: template.split_keys.clone(),
            ..template
        };
        Ok((1..=count).map(node).collect())
    }

    fn network(&mut self) -> Result<Network, Error> {
        if self.peers.is_empty() {
            return Ok(Network::Alone);
        }
        let listener = match (self.listener.take(), self.listen) {
            (Some(listener), _) => listener,
            (None, Some(address)) => TcpListener::bind(address).map_err(|error| {
                Error::Options(format!("cannot listen for peers on {address}: {error}"))
            })?,
            (None, None) => return refuse("a node with peers must listen for them: give listen"),
        };
        let peers = std::mem::take(&mut self.peers);
        let peers = peers.into_iter().map(|(id, address)| (NodeId(id), address)).collect();
        Ok(Network::Tcp { listener, peers })
    }

    fn misfit<T>(&self, problem: &str) -> Result<T, Error> {
        let directory = self.directory.clone();
        Err(Error::Directory { directory, problem: problem.to_owned() })
    }
}

/// Starts all nodes of this process: several of them together, since they elect each other.
async fn start_nodes(all: Vec<NodeOptions>) -> Result<Vec<Member>, Error> {
    let registries: Vec<Registry> = all.iter().map(|_| Registry::new()).collect();
    let mut starts: Vec<_> = all.into_iter().zip(registries.iter().cloned()).collect();
    let nodes = if starts.len() == 1 {
        let (options, registry) = starts.remove(0);
        vec![Node::start(options, registry).await?]
    } else {
        Node::start_together(starts).await?
    };
    let members = nodes.into_iter().zip(registries);
    Ok(members.map(|(node, registry)| Member { node, registry }).collect())
}

fn set<T: Copy>(option: &mut T, chosen: Option<T>) {
    if let Some(chosen) = chosen {
        *option = chosen;
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Options(why.into()))
}
