//! What the transport counts. One set per node; nothing by group.

use super::message::Class;
use flotilla_shard::NodeId;
use parking_lot::Mutex;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Metrics of one node's peer connections. Clones share the same counts.
#[derive(Clone)]
pub struct PeerMetrics {
    pub(crate) sent_bytes: IntCounter,
    pub(crate) received_bytes: IntCounter,
    pub(crate) sent_frames: IntCounter,
    pub(crate) received_frames: IntCounter,
    pub(crate) messages_per_frame: Histogram,
    dropped_messages: IntCounterVec,
    pub(crate) dropped: [IntCounter; Class::COUNT],
    pub(crate) refused_requests: IntCounter,
    connections: IntGaugeVec,
    pub(crate) connections_inbound: IntGauge,
    pub(crate) connections_outbound: IntGauge,
    pub(crate) reconnects: IntCounter,
    pub(crate) rejected_handshakes: IntCounter,
    pub(crate) malformed_frames: IntCounter,
    pub(crate) outbox_bytes: IntGauge,
    clock_offset: Gauge,
    clock_offsets_us: Arc<Mutex<BTreeMap<NodeId, i64>>>,
}

impl Default for PeerMetrics {
    fn default() -> Self {
        PeerMetrics::new()
    }
}

impl PeerMetrics {
    /// Metrics that belong to no registry yet.
    pub fn new() -> PeerMetrics {
        let counter = |name: &str, help: &str| {
            IntCounter::new(format!("flotilla_peer_{name}"), help).expect("a valid name")
        };
        let dropped_messages = IntCounterVec::new(
            Opts::new(
                "flotilla_peer_dropped_messages_total",
                "Raft messages and replies that were dropped because the peer was away or slow",
            ),
            &["class"],
        )
        .expect("a valid name");
        let connections = IntGaugeVec::new(
            Opts::new("flotilla_peer_connections", "Established connections with peers"),
            &["direction"],
        )
        .expect("a valid name");
        let messages_per_frame = HistogramOpts::new(
            "flotilla_peer_messages_per_frame",
            "How many messages travelled together in a sent frame",
        )
        .buckets(prometheus::exponential_buckets(1.0, 2.0, 15).expect("valid buckets"));
        PeerMetrics {
            sent_bytes: counter("sent_bytes_total", "Bytes written to peers"),
            received_bytes: counter("received_bytes_total", "Bytes read from peers"),
            sent_frames: counter("sent_frames_total", "Frames with messages written to peers"),
            received_frames: counter(
                "received_frames_total",
                "Frames with messages read from peers",
            ),
            messages_per_frame: Histogram::with_opts(messages_per_frame).expect("valid options"),
            dropped: Class::ALL.map(|class| dropped_messages.with_label_values(&[class.name()])),
            dropped_messages,
            refused_requests: counter(
                "refused_requests_total",
                "Forwarded requests that were certainly not sent",
            ),
            connections_inbound: connections.with_label_values(&["inbound"]),
            connections_outbound: connections.with_label_values(&["outbound"]),
            connections,
            reconnects: counter(
                "reconnects_total",
                "Connections to peers that were established again after a loss",
            ),
            rejected_handshakes: counter(
                "rejected_handshakes_total",
                "Incoming connections that were closed in their handshake",
            ),
            malformed_frames: counter(
                "malformed_frames_total",
                "Incoming connections that were closed because of bytes that are no frame",
            ),
            outbox_bytes: IntGauge::new(
                "flotilla_peer_outbox_bytes",
                "Bytes of messages that wait for a socket",
            )
            .expect("a valid name"),
            clock_offset: Gauge::new(
                "flotilla_peer_clock_offset_seconds",
                "Wall clock of the peer that differs most, minus this node's; 0 without peers",
            )
            .expect("a valid name"),
            clock_offsets_us: Arc::default(),
        }
    }

    /// Adds all of them to `registry`.
    ///
    /// # Errors
    ///
    /// If a metric of the same name is there already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.sent_bytes.clone()))?;
        registry.register(Box::new(self.received_bytes.clone()))?;
        registry.register(Box::new(self.sent_frames.clone()))?;
        registry.register(Box::new(self.received_frames.clone()))?;
        registry.register(Box::new(self.messages_per_frame.clone()))?;
        registry.register(Box::new(self.dropped_messages.clone()))?;
        registry.register(Box::new(self.refused_requests.clone()))?;
        registry.register(Box::new(self.connections.clone()))?;
        registry.register(Box::new(self.reconnects.clone()))?;
        registry.register(Box::new(self.rejected_handshakes.clone()))?;
        registry.register(Box::new(self.malformed_frames.clone()))?;
        registry.register(Box::new(self.outbox_bytes.clone()))?;
        registry.register(Box::new(self.clock_offset.clone()))
    }

    /// Takes note of a peer's clock, or that it cannot be seen.
    pub(crate) fn show_clock_offset(&self, peer: NodeId, offset_us: Option<i64>) {
        let mut offsets_us = self.clock_offsets_us.lock();
        match offset_us {
            Some(us) => offsets_us.insert(peer, us),
            None => offsets_us.remove(&peer),
        };
        let most_us = offsets_us.values().max_by_key(|us| us.unsigned_abs());
        self.clock_offset.set(most_us.map_or(0.0, |us| *us as f64 / 1e6));
    }
}

/// Counts in a gauge for as long as it lives.
pub(crate) struct Counted<'g>(&'g IntGauge);

impl<'g> Counted<'g> {
    pub(crate) fn new(gauge: &'g IntGauge) -> Counted<'g> {
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
