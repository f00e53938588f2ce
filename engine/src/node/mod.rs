//! A node: the only place that knows all the parts.
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

mod assemble;
mod birth;
mod clock;
mod stop;

use crate::directory::Directory;
use crate::error::Error;
use crate::options::{Network, NodeOptions};
use assemble::{assemble, start_lanes};
use flotilla_router::Router;
use flotilla_router::peer::{PeerStatus, TcpTransport};
use flotilla_shard::{Lanes, NodeId, ShardStatus};
use parking_lot::Mutex;
use prometheus::Registry;
use std::sync::Arc;
use stop::{Running, stop_lanes};
use tokio::sync::watch;

/// The journal's folder within a data directory.
pub(crate) const JOURNAL: &str = "journal";
/// The store's folder within a data directory.
pub(crate) const STORE: &str = "store";

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

impl Node {
    /// Starts a node that is alone or reaches its peers through sockets. In a new cluster this
    /// returns when all nodes have agreed on what it is.
    pub(crate) async fn start(options: NodeOptions, registry: Registry) -> Result<Node, Error> {
        let mut directory = Directory::open(&options.directory, options.node_id)?;
        let lanes = start_lanes(&options)?;
        let agreed = match &options.network {
            Network::Tcp { listener, peers } => {
                birth::agree(&options, &mut directory, &lanes, listener, peers).await
            }
            Network::Alone | Network::Local(_) => {
                birth::be_born_together(std::slice::from_ref(&&options), &mut [&mut directory])
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
        let genesis = birth::be_born_together(&options, &mut borrowed)?;
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

    /// Runtimes of the node's own threads.
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
}
