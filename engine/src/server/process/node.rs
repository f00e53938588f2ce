//! One node with its doors: binds, starts, watches, stops. `serve` runs one, `demo` several.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};

use prometheus::Registry;

use super::Failure;
use crate::Engine;
use crate::server::admin::view::NodeView;
use crate::server::admin::{AdminNode, AdminServer};
use crate::server::resp::RespServer;
use crate::settings::Settings;

/// The sockets of a node, bound before anything is started, so that a port in use is told before a
/// data directory is touched.
pub struct Listeners {
    /// For peers; `None` for a cluster of one.
    peer: Option<TcpListener>,
    resp: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    /// Binds what `settings` say.
    ///
    /// # Errors
    ///
    /// As [`bind`].
    pub fn bind(settings: &Settings) -> Result<Listeners, Failure> {
        let peer = match settings.peers.len() {
            0 | 1 => None,
            _ => Some(bind("peer_addr", settings.peer_listen_addr())?),
        };
        Ok(Listeners {
            peer,
            resp: bind("resp_addr", &settings.resp_addr)?,
            admin: bind("admin_addr", &settings.admin_addr)?,
        })
    }

    /// These three, bound by the caller.
    pub fn bound(peer: Option<TcpListener>, resp: TcpListener, admin: TcpListener) -> Listeners {
        Listeners { peer, resp, admin }
    }
}

/// Binds one address.
///
/// # Errors
///
/// If it cannot be had; the failure names the setting and says what to do.
pub fn bind(key: &str, address: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; another process has it: stop that one, or choose another port"
            }
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 want privileges",
            std::io::ErrorKind::AddrNotAvailable => "; no interface of this machine has it",
            _ => "",
        };
        Failure::runtime(format!("cannot listen on {key} {address}: {error}{advice}"))
    })
}

/// What the admin port sees: a node that is being born, and then its engine.
struct Slot {
    node_id: u64,
    cluster: String,
    /// Filled once, when the engine runs.
    engine: OnceLock<Engine>,
    /// Empty: what is gathered until the engine runs.
    unborn: Registry,
}

impl AdminNode for Slot {
    fn view(&self) -> NodeView {
        match self.engine.get() {
            Some(engine) => NodeView::of(&engine.status()),
            None => NodeView::unborn(self.node_id, &self.cluster),
        }
    }

    fn failure(&self) -> Option<String> {
        self.engine.get().and_then(Engine::failure)
    }

    fn registry(&self) -> Registry {
        self.engine.get().map_or_else(|| self.unborn.clone(), |engine| engine.registry().clone())
    }
}

/// A node that serves.
pub struct RunningNode {
    engine: Engine,
    resp: RespServer,
    admin: AdminServer,
}

impl RunningNode {
    /// Opens the data directory, agrees with the peers on the cluster if it is new, and serves.
    /// Until that is done only the admin port answers, and says that the node is not ready.
    ///
    /// # Errors
    ///
    /// If the engine does not start, or a door cannot be opened.
    pub async fn start(settings: &Settings, listeners: Listeners) -> Result<RunningNode, Failure> {
        let slot = Arc::new(Slot {
            node_id: settings.node_id,
            cluster: settings.cluster_name.clone(),
            engine: OnceLock::new(),
            unborn: Registry::new(),
        });
        let admin = AdminServer::start(listeners.admin, Arc::clone(&slot) as Arc<dyn AdminNode>)
            .map_err(|error| Failure::runtime(format!("cannot serve the admin port: {error}")))?;

        let engine = match start_engine(settings, listeners.peer).await {
            Ok(engine) => engine,
            Err(failure) => {
                admin.shutdown().await;
                return Err(failure);
            }
        };
        let exposed = !settings.exposed_addresses().is_empty();
        crate::metrics::register_insecure(engine.registry(), exposed)
            .map_err(|error| Failure::runtime(format!("cannot register metrics: {error}")))?;
        let resp =
            RespServer::start(engine.clone(), listeners.resp, settings.limits.connections_max)
                .map_err(|error| {
                    Failure::runtime(format!("cannot serve Redis clients: {error}"))
                })?;
        assert!(slot.engine.set(engine.clone()).is_ok(), "the slot is filled here only");
        Ok(RunningNode { engine, resp, admin })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Where Redis clients connect.
    pub fn resp_address(&self) -> SocketAddr {
        self.resp.address()
    }

    /// Where the admin port is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// What the node hosts.
    pub fn view(&self) -> NodeView {
        NodeView::of(&self.engine.status())
    }

    /// Waits until the node stops itself, if ever; gives the reason.
    pub async fn failed(&self) -> String {
        self.engine.failed().await
    }

    /// Closes the doors, then the engine.
    ///
    /// # Errors
    ///
    /// If the engine does not close cleanly.
    pub async fn stop(self) -> Result<(), Failure> {
        self.resp.shutdown().await;
        let stopped = self.engine.shutdown().await;
        self.admin.shutdown().await;
        stopped.map_err(|error| Failure::runtime(format!("the node stopped, but: {error}")))
    }
}

async fn start_engine(settings: &Settings, peer: Option<TcpListener>) -> Result<Engine, Failure> {
    let cache_bytes = usize::try_from(settings.storage.cache_bytes.get())
        .map_err(|_| Failure::usage("storage.cache_bytes is more than this machine can address"))?;
    let mut builder = Engine::builder(&settings.data_dir)
        .node_id(settings.node_id)
        .cluster_name(&settings.cluster_name)
        .election_timeout(settings.raft.election_timeout)
        .heartbeat_interval(settings.raft.heartbeat_interval)
        .memtable_bytes(settings.storage.memtable_bytes.get())
        .merged_memtable_bytes(settings.storage.merged_memtable_bytes.get())
        .cache_bytes(cache_bytes)
        .segment_bytes(settings.storage.segment_bytes.get())
        .checkpoint_age(settings.storage.checkpoint_age)
        .key_bytes_max(settings.limits.key_bytes_max.get())
        .value_bytes_max(settings.limits.value_bytes_max.get())
        .budget_bytes(settings.limits.budget_bytes.get())
        .disk_reserve_bytes(settings.storage.disk_reserve.get())
        .disk_stall_max(settings.storage.disk_stall_max)
        .log_retain_bytes(settings.storage.log_retain.get())
        .snapshot_bytes_per_second(settings.storage.snapshot_rate.get())
        .clock_skew_max(settings.raft.clock_skew_max)
        .reads(settings.raft.reads)
        .clock_drift_max(settings.raft.clock_drift_max)
        .accept_data_loss(settings.storage.accept_data_loss);
    if settings.lanes > 0 {
        builder = builder.lanes(settings.lanes);
    }
    if let Some(keys) = settings.split_keys().map_err(Failure::usage)? {
        builder = builder.split_at(keys);
    }
    if let Some(listener) = peer {
        builder = builder.peers(settings.peers.iter()).peer_listener(listener);
    }
    builder.start().await.map_err(|error| {
        Failure::runtime(format!("node {} cannot start: {error}", settings.node_id))
    })
}
