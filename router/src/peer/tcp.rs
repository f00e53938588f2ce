//! The transport between processes: assembles acceptor, writers and readers on given runtimes.
//!
//! Tasks of one peer run on one runtime, peers take turns over the runtimes. Nothing here blocks a
//! thread. See the parent module for what holds.

use super::handshake::{HandshakeError, HandshakeRefusal, Identity};
use super::message::{Class, PeerMessage, node_name};
use super::metrics::PeerMetrics;
use super::outbox::Outbox;
use super::{Inbound, SendReport, Transport, inbound, outbound};
use crate::genesis::{Genesis, View};
use bytes::Bytes;
use flotilla_shard::{Account, NodeId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};

/// Everything that [`TcpTransport::start`] must know.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// This node.
    pub me: NodeId,
    /// The identity of its data directory.
    pub incarnation: u64,
    /// Which start of that directory this is.
    pub boot: u64,
    /// The cluster that it belongs to.
    pub cluster_id: u128,
    /// The other nodes. This node may be among them and is left out.
    pub peers: BTreeMap<NodeId, PeerAddress>,
    /// What to show to nodes that missed the end of the cluster's birth.
    pub genesis: Option<Genesis>,
    /// What may wait for one peer and class.
    pub outbox_bytes_max: usize,
    /// No frame is longer: neither sent nor accepted. The same on all nodes.
    pub frame_bytes_max: usize,
    /// Data frames are cut here, and longer data messages travel in pieces of this size.
    pub data_frame_bytes: usize,
    /// Liveness frames are cut here: large enough for the heartbeats of all groups of a lane.
    pub liveness_frame_bytes: usize,
    /// Bulk frames are cut here unless one message is longer.
    pub bulk_frame_bytes: usize,
    /// Where the bytes in all outboxes are counted.
    pub outbox_account: Option<Account>,
    /// Durations.
    pub timing: TransportTiming,
}

/// Where a peer is and who it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// `host:port`. May differ from what the cluster was born with.
    pub address: String,
    /// The identity of its data directory, from the cluster's birth.
    pub incarnation: u64,
}

/// Durations of a [`TcpTransport`].
#[derive(Clone, Copy, Debug)]
pub struct TransportTiming {
    /// How long a connection may be idle before it carries a sign of life.
    pub keep_alive: Duration,
    /// A connection without a byte for this long is closed.
    pub silence_max: Duration,
    /// For dialing and greeting.
    pub handshake_timeout: Duration,
    /// The first wait after a lost connection; doubles from there.
    pub reconnect_min: Duration,
    /// The longest wait.
    pub reconnect_max: Duration,
}

impl Default for TransportTiming {
    fn default() -> Self {
        TransportTiming {
            keep_alive: Duration::from_secs(1),
            silence_max: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(3),
            reconnect_min: Duration::from_millis(20),
            reconnect_max: Duration::from_secs(1),
        }
    }
}

impl TransportOptions {
    /// The usual limits, for a node without peers yet.
    pub fn new(me: NodeId, incarnation: u64, boot: u64, cluster_id: u128) -> TransportOptions {
        TransportOptions {
            me,
            incarnation,
            boot,
            cluster_id,
            peers: BTreeMap::new(),
            genesis: None,
            outbox_bytes_max: 64 << 20,
            frame_bytes_max: 64 << 20,
            data_frame_bytes: 64 << 10,
            liveness_frame_bytes: 256 << 10,
            bulk_frame_bytes: 256 << 10,
            outbox_account: None,
            timing: TransportTiming::default(),
        }
    }

    /// The options of `me` in the cluster that was born as `genesis`; `addresses` say where its
    /// nodes listen at present, and those of its birth stand in for the ones that are missing.
    pub fn for_cluster(
        me: NodeId,
        incarnation: u64,
        boot: u64,
        genesis: &Genesis,
        addresses: &BTreeMap<NodeId, String>,
    ) -> TransportOptions {
        let mut options = TransportOptions::new(me, incarnation, boot, genesis.cluster_id);
        for (node, birth) in &genesis.nodes {
            let address = addresses.get(node).unwrap_or(&birth.address).clone();
            options.peers.insert(*node, PeerAddress { address, incarnation: birth.incarnation });
        }
        options.genesis = Some(genesis.clone());
        options
    }
}

/// Why a transport cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The listener cannot be used.
    #[error("the peer port cannot be used: {0}")]
    Listener(#[source] std::io::Error),
    /// There is no runtime to run on.
    #[error("a transport needs at least one runtime")]
    NoRuntime,
    /// Options that contradict each other.
    #[error("{0}")]
    BadOptions(String),
}

/// A peer as this node sees it.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its name.
    pub node: NodeId,
    /// Where this node dials it.
    pub address: String,
    /// Whether this node's connections to it stand, in the order of [`Class::ALL`].
    pub connected: [bool; Class::COUNT],
    /// Which start of its directory answered last.
    pub boot: Option<u64>,
    /// Its wall clock minus this node's, in microseconds, as far as a round trip tells; `None`
    /// without a connection.
    pub clock_offset_us: Option<i64>,
    /// Why the last attempt to connect failed, or the last connection broke. Gone once all
    /// connections stand.
    pub last_error: Option<String>,
    /// Why this node last refused a connection that claimed to come from it.
    pub last_refusal: Option<HandshakeRefusal>,
}

impl PeerStatus {
    /// True if all of this node's connections to it stand.
    pub fn is_connected(&self) -> bool {
        self.connected == [true; Class::COUNT]
    }
}

/// Peer connections over TCP.
pub struct TcpTransport {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    ended: tokio::sync::Mutex<mpsc::Receiver<()>>,
    local_address: SocketAddr,
}

pub(crate) struct Shared {
    pub(crate) options: TransportOptions,
    pub(crate) me: Identity,
    pub(crate) incarnations: BTreeMap<NodeId, u64>,
    pub(crate) peers: BTreeMap<NodeId, Arc<Peer>>,
    pub(crate) inbound: Arc<dyn Inbound>,
    pub(crate) metrics: PeerMetrics,
    pub(crate) genesis_view: Option<Bytes>,
    /// Added to the ids of this node's requests on the wire and taken off the replies: an answer
    /// that a peer owes to an earlier start of this node matches nothing.
    salt: u64,
}

pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) incarnation: u64,
    pub(crate) outbox: Outbox,
    pub(crate) runtime: Handle,
    /// By class: wakes a writer that waits before it dials again.
    pub(crate) came_back: [Notify; Class::COUNT],
    /// By class: tells the current reader that a newer connection replaces its own.
    readers: Mutex<[Arc<Notify>; Class::COUNT]>,
    status: Mutex<Status>,
}

#[derive(Default)]
struct Status {
    connected: [bool; Class::COUNT],
    boot: Option<u64>,
    clock_offset_us: Option<i64>,
    last_error: Option<String>,
    last_refusal: Option<HandshakeRefusal>,
}

/// Ends a task when the transport stops, and shows that it has ended.
#[derive(Clone)]
pub(crate) struct Life {
    stop: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

impl Life {
    /// Runs `task` until it or the transport ends.
    pub(crate) async fn run(mut self, task: impl Future<Output = ()>) {
        tokio::select! {
            _ = self.stop.wait_for(|stopped| *stopped) => {}
            () = task => {}
        }
    }
}

impl TcpTransport {
    /// Starts to accept on `listener` and to dial every peer.
    ///
    /// # Errors
    ///
    /// [`PeerError`] if the listener or the options cannot be used; nothing runs then.
    pub fn start(
        options: TransportOptions,
        listener: TcpListener,
        inbound: Arc<dyn Inbound>,
        runtimes: Vec<Handle>,
        metrics: PeerMetrics,
    ) -> Result<Arc<TcpTransport>, PeerError> {
        let first = runtimes.first().ok_or(PeerError::NoRuntime)?.clone();
        let me =
            Identity { node: options.me, incarnation: options.incarnation, boot: options.boot };
        check(&options)?;
        listener.set_nonblocking(true).map_err(PeerError::Listener)?;
        let local_address = listener.local_addr().map_err(PeerError::Listener)?;
        let listener = {
            let _context = first.enter();
            tokio::net::TcpListener::from_std(listener).map_err(PeerError::Listener)?
        };

        let others = options.peers.iter().filter(|(node, _)| **node != options.me);
        let peers: BTreeMap<_, _> = others
            .zip(runtimes.iter().cycle())
            .map(|((node, peer), runtime)| {
                let outbox = Outbox::new(
                    options.outbox_bytes_max,
                    options.data_frame_bytes,
                    options.outbox_account.clone(),
                    metrics.clone(),
                );
                (*node, Arc::new(Peer::new(*node, peer, outbox, runtime.clone())))
            })
            .collect();
        let incarnations = peers.iter().map(|(node, peer)| (*node, peer.incarnation)).collect();
        let genesis_view =
            options.genesis.as_ref().map(|genesis| View::of_member(&options, genesis).encode());
        let shared = Arc::new(Shared {
            me,
            incarnations,
            peers,
            inbound,
            metrics,
            genesis_view,
            salt: rand::random(),
            options,
        });

        let (stop, stopped) = watch::channel(false);
        let (alive, ended) = mpsc::channel(1);
        let life = Life { stop: stopped, _alive: alive };
        for peer in shared.peers.values() {
            for class in Class::ALL {
                let task = outbound::run(shared.clone(), peer.clone(), class);
                peer.runtime.spawn(life.clone().run(task));
            }
        }
        first.spawn(life.clone().run(inbound::accept(shared.clone(), listener, life)));
        let ended = tokio::sync::Mutex::new(ended);
        Ok(Arc::new(TcpTransport { shared, stop, ended, local_address }))
    }

    /// Where this node listens.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// All peers as this node sees them.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.shared.peers.values().map(|peer| peer.status()).collect()
    }

    /// Closes the listener and every connection, and returns when all tasks have ended. What is
    /// queued is lost. Safe to repeat.
    pub async fn shutdown(&self) {
        self.stop_tasks();
        // Yields `None` once every task has dropped its sender; nothing is ever sent.
        while self.ended.lock().await.recv().await.is_some() {}
    }

    fn stop_tasks(&self) {
        self.stop.send_replace(true);
        self.shared.peers.values().for_each(|peer| peer.outbox.close());
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.stop_tasks();
    }
}

impl Transport for TcpTransport {
    fn send(&self, to: NodeId, mut messages: Vec<PeerMessage>) -> SendReport {
        let Some(peer) = self.shared.peers.get(&to) else {
            let mut report = SendReport::default();
            messages.iter().for_each(|message| report.refuse(message));
            return report;
        };
        let salt = self.shared.salt;
        for message in &mut messages {
            if let PeerMessage::Request { id, .. } = message {
                *id = id.wrapping_add(salt);
            }
        }
        let mut report = peer.outbox.push(messages);
        report.refused_requests.iter_mut().for_each(|id| *id = id.wrapping_sub(salt));
        report
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.shared.peers.get(&node).is_some_and(|peer| peer.outbox.is_connected())
    }

    fn clock_offsets(&self) -> BTreeMap<NodeId, i64> {
        let offset = |(node, peer): (&NodeId, &Arc<Peer>)| {
            Some((*node, peer.status.lock().clock_offset_us? / 1000))
        };
        self.shared.peers.iter().filter_map(offset).collect()
    }
}

fn check(options: &TransportOptions) -> Result<(), PeerError> {
    let bad = |text: String| Err(PeerError::BadOptions(text));
    let me = node_name(options.me);
    if let Some(listed) = options.peers.get(&options.me)
        && listed.incarnation != options.incarnation
    {
        return bad(format!(
            "{me} is listed with data directory {:016x} but has {:016x}",
            listed.incarnation, options.incarnation
        ));
    }
    let mut owners: BTreeMap<&str, NodeId> = BTreeMap::new();
    for (node, peer) in &options.peers {
        if let Some(other) = owners.insert(peer.address.as_str(), *node) {
            return bad(format!(
                "the address {} is listed for {} and for {}: give each node its own",
                peer.address,
                node_name(other),
                node_name(*node)
            ));
        }
    }
    Ok(())
}

impl Shared {
    pub(crate) fn timing(&self) -> TransportTiming {
        self.options.timing
    }

    /// Ids as the router knows them, from ids on the wire.
    pub(crate) fn unsalted(&self, mut ids: Vec<u64>) -> Vec<u64> {
        ids.iter_mut().for_each(|id| *id = id.wrapping_sub(self.salt));
        ids
    }

    /// Hands over what a connection brought.
    pub(crate) fn received(&self, peer: &Peer, mut messages: Vec<PeerMessage>) {
        for message in &mut messages {
            if let PeerMessage::Reply { id, .. } = message {
                *id = id.wrapping_sub(self.salt);
            }
        }
        self.inbound.receive(peer.node, messages);
    }
}

impl Peer {
    fn new(node: NodeId, peer: &PeerAddress, outbox: Outbox, runtime: Handle) -> Peer {
        Peer {
            node,
            address: peer.address.clone(),
            incarnation: peer.incarnation,
            outbox,
            runtime,
            came_back: Default::default(),
            readers: Mutex::default(),
            status: Mutex::default(),
        }
    }

    fn status(&self) -> PeerStatus {
        let status = self.status.lock();
        PeerStatus {
            node: self.node,
            address: self.address.clone(),
            connected: status.connected,
            boot: status.boot,
            clock_offset_us: status.clock_offset_us,
            last_error: status.last_error.clone(),
            last_refusal: status.last_refusal.clone(),
        }
    }

    /// Tells the present reader of `class` to end, and returns what will tell the next one.
    pub(crate) fn replace_inbound(&self, class: Class) -> Arc<Notify> {
        let next = Arc::new(Notify::new());
        let old = std::mem::replace(&mut self.readers.lock()[class as usize], next.clone());
        old.notify_one();
        next
    }

    /// Its clock was compared with this node's, or can be no more.
    pub(crate) fn show_clock_offset(&self, offset_us: Option<i64>, metrics: &PeerMetrics) {
        self.status.lock().clock_offset_us = offset_us;
        metrics.show_clock_offset(self.node, offset_us);
    }

    /// A connection of `class` to it stands.
    pub(crate) fn greeted(&self, class: Class, answered: Identity) {
        tracing::info!(peer = %self.node, address = %self.address, class = class.name(),
            "connected");
        let mut status = self.status.lock();
        status.connected[class as usize] = true;
        status.boot = Some(answered.boot);
        if status.connected == [true; Class::COUNT] {
            status.last_error = None;
        }
    }

    /// A connection of `class` to it broke.
    pub(crate) fn broke(&self, class: Class, error: &str) {
        tracing::info!(peer = %self.node, address = %self.address, class = class.name(), error,
            "connection lost");
        let mut status = self.status.lock();
        status.connected[class as usize] = false;
        status.last_error = Some(error.to_owned());
    }

    /// An attempt to connect failed. Said once per cause: attempts go on.
    pub(crate) fn failed(&self, class: Class, error: &HandshakeError) {
        let text = error.to_string();
        let is_news = {
            let mut status = self.status.lock();
            let is_news = status.last_error.as_ref() != Some(&text);
            status.last_error = Some(text);
            is_news
        };
        if !is_news {
            return;
        }
        let (peer, address, class) = (self.node, &self.address, class.name());
        if matches!(error, HandshakeError::Io(_)) {
            tracing::info!(%peer, %address, class, %error, "cannot connect yet");
        } else {
            tracing::warn!(%peer, %address, class, %error, "cannot connect");
        }
    }

    /// Somebody who claimed to be this peer was refused. True if that is news.
    pub(crate) fn refused(&self, refusal: &HandshakeRefusal) -> bool {
        let mut status = self.status.lock();
        let is_news = status.last_refusal.as_ref() != Some(refusal);
        status.last_refusal = Some(refusal.clone());
        is_news
    }
}
