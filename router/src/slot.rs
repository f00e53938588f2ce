//! A place for a transport that is made later.
//!
//! Lanes send through a transport, a transport delivers to the router, and the router sends through
//! lanes: somebody must come first. The slot does. Until it is filled, and for ever on a node that
//! is alone, it refuses everything.

use crate::peer::{PeerMessage, SendReport, Transport};
use flotilla_shard::{NodeId, Outbox, Parcel};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// A transport that may not be there yet. Clones share it.
#[derive(Clone, Default)]
pub struct TransportSlot {
    transport: Arc<OnceLock<Arc<dyn Transport>>>,
}

impl TransportSlot {
    /// An empty slot.
    pub fn new() -> TransportSlot {
        TransportSlot::default()
    }

    /// Puts `transport` in.
    ///
    /// # Panics
    ///
    /// If the slot was filled before: messages would take two ways.
    pub fn fill(&self, transport: Arc<dyn Transport>) {
        assert!(self.transport.set(transport).is_ok(), "a transport slot was filled twice");
    }
}

impl Transport for TransportSlot {
    fn send(&self, to: NodeId, messages: Vec<PeerMessage>) -> SendReport {
        match self.transport.get() {
            Some(transport) => transport.send(to, messages),
            None => {
                let mut report = SendReport::default();
                messages.iter().for_each(|message| report.refuse(message));
                report
            }
        }
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.transport.get().is_some_and(|transport| transport.is_connected(node))
    }

    fn clock_offsets(&self) -> BTreeMap<NodeId, i64> {
        self.transport.get().map(|transport| transport.clock_offsets()).unwrap_or_default()
    }
}

impl Outbox for TransportSlot {
    fn send(&self, node: NodeId, parcels: Vec<Parcel>) {
        let messages = parcels
            .into_iter()
            .map(|parcel| match parcel {
                Parcel::Raft(message) => PeerMessage::Raft(message),
                Parcel::Reply { id, result } => PeerMessage::Reply { id, result },
                Parcel::Snapshot(message) => PeerMessage::Snapshot(message),
            })
            .collect();
        // Lost messages are repeated by Raft, lost answers end in doubt at the asking node: the
        // transport counts them, nobody waits for them here.
        let _ = Transport::send(self, node, messages);
    }
}

impl std::fmt::Debug for TransportSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TransportSlot").field("filled", &self.transport.get().is_some()).finish()
    }
}
