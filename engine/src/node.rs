//! Assembles a node: the only place that knows all the parts.
//!
//! Starting goes from the disk upwards: directory, genesis, lanes, journal, store, transport,
//! router, and last the replicas, so that nobody speaks before everything that it must remember is
//! in place. Stopping goes the other way round.
//!
//! Invariants:
//!
//! * No replica lives before its birth is durable in the journal.
//! * When the journal or the store fails, or a replica panics, no effect leaves the node any more:
//!   it has halted, and says why through [`Node::fatal`].
//!
//! What is absent: the public API, configuration files, and the servers.

use crate::directory::Directory;
use crate::error::Error;
use crate::options::{Network, NodeOptions};
use crate::restore::{self, Opened};
use flotilla_router::genesis::{
    self, FORMAT_VERSION, Genesis, GenesisOptions, GenesisState, GenesisStore, NodeBirth,
};
use flotilla_router::peer::{
    Inbound, LocalNetwork, PeerMetrics, PeerStatus, TcpTransport, TransportOptions,
};
use flotilla_router::{Router, RouterMetrics, RouterOptions, TransportSlot};
use flotilla_shard::{Budget, LaneOptions, Lanes, NodeId, ShardMetrics, ShardStatus, Wiring};
use flotilla_storage::fs::RealFs;
use flotilla_storage::journal::{
    Completion, Journal, JournalMetrics, JournalOptions, JournalThread,
};
use flotilla_storage::store::{
    CheckpointCompletion, Checkpointer, ReadPool, Store, StoreMetrics, StoreOptions,
};
use parking_lot::Mutex;
use prometheus::Registry;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// The journal's folder within a data directory.
pub(crate) const JOURNAL: &str = "journal";
/// The store's folder within a data directory.
pub(crate) const STORE: &str = "store";

/// Threads that read below the memtables.
const READ_THREADS: usize = 2;

/// A running node. Dropping it stops it without a last checkpoint.
pub(crate) struct Node {
    id: NodeId,
    router: Router,
    lanes: Lanes,
    fatal: watch::Receiver<Option<String>>,
    cluster_name: String,
    transport: Option<Arc<TcpTransport>>,
    running: Mutex<Option<Running>>,
}

/// What must be stopped, in the order of its fields.
struct Running {
    router: Router,
    lanes: Lanes,
    transport: Option<Arc<TcpTransport>>,
    local: Option<(LocalNetwork, NodeId)>,
    checkpointer: Checkpointer,
    journal: JournalThread,
    pool: Arc<ReadPool>,
    _directory: Directory,
}

impl Node {
    /// Starts a node that is alone or reaches its peers through sockets. In a new cluster this
    /// returns when all nodes have agreed on what it is.
    pub(crate) async fn start(options: NodeOptions, registry: Registry) -> Result<Node, Error> {
        let mut directory = Directory::open(&options.directory, options.node_id)?;
        let lanes = start_lanes(&options)?;
        let agreed = match &options.network {
            Network::Tcp { listener, peers } => {
                agree(&options, &mut directory, &lanes, listener, peers).await
            }
            Network::Alone | Network::Local(_) => {
                be_born_together(std::slice::from_ref(&&options), &mut [&mut directory])
            }
        };
        let genesis = match agreed {
            Ok(genesis) => genesis,
            Err(error) => {
                stop_lanes(lanes).await;
                return Err(error);
            }
        };
        assemble(options, directory, genesis, lanes, registry).await
    }

    /// Starts the nodes of a cluster that lives in one process.
    pub(crate) async fn start_together(
        nodes: Vec<(NodeOptions, Registry)>,
    ) -> Result<Vec<Node>, Error> {
        let mut directories = Vec::new();
        for (options, _) in &nodes {
            directories.push(Directory::open(&options.directory, options.node_id)?);
        }
        let options: Vec<&NodeOptions> = nodes.iter().map(|(options, _)| options).collect();
        let mut borrowed: Vec<&mut Directory> = directories.iter_mut().collect();
        let genesis = be_born_together(&options, &mut borrowed)?;
        let mut started = Vec::new();
        for ((options, registry), directory) in nodes.into_iter().zip(directories) {
            let lanes = start_lanes(&options)?;
            started.push(assemble(options, directory, genesis.clone(), lanes, registry).await?);
        }
        Ok(started)
    }

    /// The node's name in its cluster.
    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    /// The cluster's name.
    pub(crate) fn cluster_name(&self) -> &str {
        &self.cluster_name
    }

    /// Takes operations.
    pub(crate) fn router(&self) -> &Router {
        &self.router
    }

    /// Runtimes on which servers spawn their connections.
    #[cfg(feature = "server")]
    pub(crate) fn handles(&self) -> &[tokio::runtime::Handle] {
        self.lanes.handles()
    }

    /// The shards with a replica here.
    pub(crate) fn statuses(&self) -> Vec<ShardStatus> {
        self.lanes.statuses()
    }

    /// The other nodes as this one sees them; empty without sockets.
    pub(crate) fn peers(&self) -> Vec<PeerStatus> {
        self.transport.as_ref().map_or_else(Vec::new, |transport| transport.peers())
    }

    /// Says why the node had to stop, once it had to.
    pub(crate) fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.clone()
    }

    /// Answers everybody, makes a last checkpoint, and ends all threads. Later calls do nothing.
    pub(crate) async fn shutdown(&self) -> Result<(), Error> {
        let Some(running) = self.running.lock().take() else { return Ok(()) };
        running.router.shutdown();
        running.lanes.freeze_all();
        running.lanes.close().await;
        if let Some(transport) = &running.transport {
            transport.shutdown().await;
        }
        // Joining threads blocks, and the caller's runtime may have just one.
        let (sender, receiver) = oneshot::channel();
        std::thread::Builder::new()
            .name("flotilla-stop".into())
            .spawn(move || drop(sender.send(running.stop())))
            .map_err(|error| Error::Storage(format!("no thread to stop the node: {error}")))?;
        receiver.await.unwrap_or(Err(Error::Shutdown))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.running.lock().take() {
            tracing::warn!(
                node = self.id.0,
                "a node was dropped without shutdown: in-flight writes end in doubt"
            );
            running.router.shutdown();
            running.lanes.halt("the node was dropped");
            if let Err(error) = running.stop() {
                tracing::error!(%error, "the node did not stop cleanly");
            }
        }
    }
}

impl Running {
    /// Blocks until every thread has ended.
    fn stop(self) -> Result<(), Error> {
        if let Some((network, node)) = &self.local {
            network.leave(*node);
        }
        let checkpointed = self.checkpointer.shutdown();
        let journaled = self.journal.shutdown();
        self.lanes.stop();
        if let Some(pool) = Arc::into_inner(self.pool) {
            pool.shutdown();
        }
        checkpointed.map_err(|error| Error::Storage(error.to_string()))?;
        journaled.map_err(|error| Error::Storage(error.to_string()))
    }
}

fn start_lanes(options: &NodeOptions) -> Result<Lanes, Error> {
    let tick_interval =
        (options.heartbeat_interval / 5).clamp(Duration::from_millis(2), Duration::from_millis(20));
    Lanes::start(LaneOptions {
        lanes: options.lanes,
        tick_interval,
        memtable_bytes_max: options.memtable_bytes,
        checkpoint_age_max: options.checkpoint_age,
        log_retain_bytes: 1 << 30,
    })
    .map_err(|error| Error::Storage(format!("the node's threads cannot be started: {error}")))
}

async fn stop_lanes(lanes: Lanes) {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        lanes.stop();
        // Nobody waits any more if the caller dropped its future.
        let _ = sender.send(());
    });
    // The thread cannot fail to answer.
    let _ = receiver.await;
}

/// Agrees with all listed nodes on what the cluster is. Runs on a lane: the caller's executor may
/// not drive sockets.
async fn agree(
    options: &NodeOptions,
    directory: &mut Directory,
    lanes: &Lanes,
    listener: &TcpListener,
    peers: &BTreeMap<NodeId, String>,
) -> Result<Genesis, Error> {
    let genesis_options = GenesisOptions {
        me: options.node_id,
        incarnation: directory.incarnation(),
        cluster_name: options.cluster_name.clone(),
        peers: peers.clone(),
        split_keys: options.split_keys.clone(),
    };
    let agreeing = genesis::agree(listener, genesis_options, directory);
    let agreed = run_on(lanes, agreeing).await;
    agreed.map_err(|error| Error::Cluster(error.to_string()))
}

/// Polls `future` under the first lane's runtime, so that its timers and sockets are driven there
/// while it borrows from the caller.
async fn run_on<F: Future>(lanes: &Lanes, future: F) -> F::Output {
    let handle = lanes.handles()[0].clone();
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(move |context| {
        let _entered = handle.enter();
        future.as_mut().poll(context)
    })
    .await
}

/// The birth of a cluster whose directories are all at hand: one node alone, or all in one process.
fn be_born_together(
    options: &[&NodeOptions],
    directories: &mut [&mut Directory],
) -> Result<Genesis, Error> {
    let wanted = options[0];
    let held = directories.iter().find_map(|directory| match directory.genesis() {
        GenesisState::Committed(genesis) => Some(genesis.clone()),
        GenesisState::Blank | GenesisState::Prepared(_) => None,
    });
    let genesis = match held {
        Some(genesis) => genesis,
        None => Genesis {
            format_version: FORMAT_VERSION,
            cluster_name: wanted.cluster_name.clone(),
            cluster_id: rand::random(),
            nodes: directories
                .iter()
                .zip(options)
                .map(|(directory, options)| {
                    let incarnation = directory.incarnation();
                    (options.node_id, NodeBirth { incarnation, address: String::new() })
                })
                .collect(),
            split_keys: wanted.split_keys.clone().unwrap_or_default(),
        },
    };
    for (directory, options) in directories.iter().zip(options) {
        check_birth(&genesis, directory, options)?;
    }
    let failed = |error: genesis::StoreError| Error::Storage(error.to_string());
    for directory in directories.iter_mut() {
        if matches!(directory.genesis(), GenesisState::Blank) {
            directory.save_prepared(&genesis).map_err(failed)?;
        }
    }
    for directory in directories.iter_mut() {
        if !matches!(directory.genesis(), GenesisState::Committed(_)) {
            directory.save_committed(&genesis).map_err(failed)?;
        }
    }
    Ok(genesis)
}

fn check_birth(
    genesis: &Genesis,
    directory: &Directory,
    options: &NodeOptions,
) -> Result<(), Error> {
    let problem =
        |problem: String| Err(Error::Directory { directory: directory.path().to_owned(), problem });
    if genesis.format_version != FORMAT_VERSION {
        return problem(format!(
            "it was born with format version {}, this release writes {FORMAT_VERSION}; use the \
             release that it belongs to",
            genesis.format_version
        ));
    }
    if genesis.cluster_name != options.cluster_name {
        return problem(format!(
            "it belongs to cluster `{}`, not to `{}`",
            genesis.cluster_name, options.cluster_name
        ));
    }
    if let Some(split_keys) = &options.split_keys
        && *split_keys != genesis.split_keys
    {
        return problem(format!(
            "its cluster was born with {} shards at other keys; shards are chosen once, at birth: \
             leave the setting out, or use an empty directory",
            genesis.split_keys.len() + 1
        ));
    }
    if let GenesisState::Committed(own) | GenesisState::Prepared(own) = directory.genesis()
        && own.cluster_id != genesis.cluster_id
        && matches!(directory.genesis(), GenesisState::Committed(_))
    {
        return problem("it belongs to another cluster than the other directories".into());
    }
    match genesis.nodes.get(&options.node_id) {
        None => problem(format!(
            "its cluster was born with nodes {:?}, without node {}; a cluster keeps the nodes that \
             it was born with",
            genesis.nodes.keys().map(|node| node.0).collect::<Vec<_>>(),
            options.node_id
        )),
        Some(birth) if birth.incarnation != directory.incarnation() => problem(format!(
            "it is blank, but the cluster knew node {} with another one: it would vote twice; \
             restore the old directory",
            options.node_id
        )),
        Some(_) => Ok(()),
    }
}

async fn assemble(
    options: NodeOptions,
    mut directory: Directory,
    genesis: Genesis,
    lanes: Lanes,
    registry: Registry,
) -> Result<Node, Error> {
    let (fatal_sender, fatal) = watch::channel(None);
    lanes.on_halt(move |reason| drop(fatal_sender.send(Some(reason.to_owned()))));

    let opened = open_disk(&options, &mut directory, &genesis, &registry);
    let (opened, metrics) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            stop_lanes(lanes).await;
            return Err(error);
        }
    };
    let Opened { journal, store, replicas } = opened;
    let completions = lanes.completions();
    let to_journal = completions.iter().map(|lane| lane.clone() as Arc<dyn Completion>).collect();
    let to_store =
        completions.iter().map(|lane| lane.clone() as Arc<dyn CheckpointCompletion>).collect();
    let reader = journal.reader();
    let failed = |error: &dyn std::error::Error| Error::Storage(error.to_string());
    let (handle, journal) = JournalThread::start(journal, to_journal, metrics.journal);
    let checkpointer = Checkpointer::start(store, to_store).map_err(|error| failed(&error))?;
    let pool = ReadPool::start(READ_THREADS, metrics.store).map_err(|error| failed(&error))?;
    let pool = Arc::new(pool);

    let slot = TransportSlot::new();
    let budget = Budget::new(options.budget_bytes);
    let router = Router::new(
        RouterOptions::new(options.node_id),
        lanes.clone(),
        Arc::new(slot.clone()),
        budget.clone(),
        RouterMetrics::register(&registry).map_err(|error| failed(&error))?,
    );
    let (transport, local) =
        connect(&options, &directory, &genesis, &lanes, router.sink(), &registry)?;
    match (&transport, &local) {
        (Some(tcp), _) => slot.fill(tcp.clone()),
        (None, Some((_, local))) => slot.fill(local.clone()),
        (None, None) => {}
    }
    let wiring = Wiring {
        journal: handle,
        reader,
        checkpoints: checkpointer.handle(),
        pool: pool.clone(),
        outbox: Arc::new(slot),
        snapshots: flotilla_shard::SnapshotHandle::unconnected(),
        budget,
        metrics: metrics.shard,
    };
    lanes.open(wiring, replicas).await;
    router.learn(lanes.descriptors());
    let watched = lanes.clone();
    crate::metrics::register(&registry, move || watched.statuses())
        .map_err(|error| failed(&error))?;
    tracing::info!(
        node = options.node_id.0,
        cluster = %genesis.cluster_name,
        shards = genesis.split_keys.len() + 1,
        directory = %directory.path().display(),
        "the node is up"
    );
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
            transport,
            local: local.map(|(network, _)| (network, options.node_id)),
            checkpointer,
            journal,
            pool,
            _directory: directory,
        })),
    })
}

struct Metrics {
    journal: JournalMetrics,
    store: StoreMetrics,
    shard: ShardMetrics,
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
    };
    let taken = |error: prometheus::Error| Error::Storage(error.to_string());
    metrics.journal.register(registry).map_err(taken)?;
    metrics.store.register(registry).map_err(taken)?;
    metrics.shard.register(registry).map_err(taken)?;
    let journal_options =
        JournalOptions { segment_bytes: options.segment_bytes, ..JournalOptions::default() };
    let (journal, recovery) =
        Journal::open(Arc::new(RealFs), directory.path().join(JOURNAL), journal_options)
            .map_err(|error| Error::Storage(error.to_string()))?;
    let store_options =
        StoreOptions { cache_bytes: options.cache_bytes, ..StoreOptions::default() };
    let (store, states) =
        Store::open(&directory.path().join(STORE), store_options, metrics.store.clone())
            .map_err(|error| Error::Storage(error.to_string()))?;
    let opened = restore::restore(options, directory, genesis, journal, recovery, store, states)?;
    Ok((opened, metrics))
}

type Connected =
    (Option<Arc<TcpTransport>>, Option<(LocalNetwork, Arc<flotilla_router::peer::LocalTransport>)>);

fn connect(
    options: &NodeOptions,
    directory: &Directory,
    genesis: &Genesis,
    lanes: &Lanes,
    inbound: Arc<dyn Inbound>,
    registry: &Registry,
) -> Result<Connected, Error> {
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
            let transport = TcpTransport::start(
                TransportOptions::for_cluster(
                    options.node_id,
                    directory.incarnation(),
                    directory.boot(),
                    genesis,
                    peers,
                ),
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
