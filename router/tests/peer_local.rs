//! The transport within a process: order, cuts, bounds, and no recursion.

mod peer_support;

use flotilla_router::peer::{
    Inbound, LocalNetwork, LocalTransport, PeerMessage, SendReport, Transport,
};
use flotilla_shard::{Answer, NodeId};
use peer_support::{Event, heartbeat, ids, recorder, request};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

#[tokio::test]
async fn messages_change_hands_and_replies_find_their_requests() {
    let network = LocalNetwork::new();
    let ((first, mut one_events), (second, mut two_events)) = (recorder(), recorder());
    let one = network.join(ONE, first);
    assert_eq!(one.send(TWO, vec![request(1, 8)]).refused_requests, [1]);
    let two = network.join(TWO, second);
    assert_eq!(one_events.next().await, Event::Connected(TWO));
    assert_eq!(two_events.next().await, Event::Connected(ONE));

    assert_eq!(one.send(TWO, vec![request(5, 8), heartbeat(3)]), SendReport::default());
    let wire = ids(&two_events.received(ONE).await);
    assert_eq!(wire[1], 3);
    two.send(ONE, vec![PeerMessage::Reply { id: wire[0], result: Ok(Answer::Count(1)) }]);
    assert_eq!(ids(&one_events.received(TWO).await), [5]);

    // An answer to an earlier life matches nothing in the next one.
    let (first, mut one_events) = recorder();
    let reborn = network.join(ONE, first);
    two.send(ONE, vec![PeerMessage::Reply { id: wire[0], result: Ok(Answer::Count(1)) }]);
    assert_ne!(ids(&one_events.received(TWO).await), [5]);
    assert_eq!(one.send(TWO, vec![heartbeat(1)]).dropped, 1, "the earlier life is over");
    assert_eq!(reborn.send(TWO, vec![heartbeat(1)]).dropped, 0);
}

#[tokio::test]
async fn a_cut_refuses_until_it_is_healed() {
    let network = LocalNetwork::new();
    let ((first, mut one_events), (second, _two_events)) = (recorder(), recorder());
    let one = network.join(ONE, first);
    let _two = network.join(TWO, second);
    network.cut(TWO, ONE);
    one_events.until(Event::Disconnected(TWO)).await;
    assert!(!one.is_connected(TWO));
    let refused = one.send(TWO, vec![heartbeat(1), request(4, 8)]);
    assert_eq!(refused, SendReport { refused_requests: vec![4], dropped: 1 });
    network.heal(ONE, TWO);
    one_events.until(Event::Connected(TWO)).await;
    assert_eq!(one.send(TWO, vec![request(4, 8)]), SendReport::default());
    network.leave(TWO);
    one_events.until(Event::Disconnected(TWO)).await;
}

/// Answers every message from within `receive`, until there were enough.
struct Echo {
    peer: NodeId,
    transport: OnceLock<Arc<LocalTransport>>,
    left: AtomicU64,
    depth: AtomicU64,
    depth_max: AtomicU64,
}

impl Echo {
    fn new(peer: NodeId) -> Arc<Echo> {
        Arc::new(Echo {
            peer,
            transport: OnceLock::new(),
            left: AtomicU64::new(100_000),
            depth: AtomicU64::new(0),
            depth_max: AtomicU64::new(0),
        })
    }
}

impl Inbound for Echo {
    fn receive(&self, _from: NodeId, messages: Vec<PeerMessage>) {
        let depth = self.depth.fetch_add(1, Ordering::Relaxed) + 1;
        self.depth_max.fetch_max(depth, Ordering::Relaxed);
        if self.left.fetch_sub(1, Ordering::Relaxed) > 1 {
            self.transport.get().unwrap().send(self.peer, messages);
        }
        self.depth.fetch_sub(1, Ordering::Relaxed);
    }
    fn connected(&self, _node: NodeId) {}
    fn disconnected(&self, _node: NodeId) {}
}

#[test]
fn answering_from_within_receive_does_not_recurse() {
    let network = LocalNetwork::new();
    let (one, two) = (Echo::new(TWO), Echo::new(ONE));
    one.transport.set(network.join(ONE, one.clone())).ok().unwrap();
    two.transport.set(network.join(TWO, two.clone())).ok().unwrap();
    one.transport.get().unwrap().send(TWO, vec![heartbeat(1)]);
    assert_eq!(two.left.load(Ordering::Relaxed), 0, "the game was played to its end");
    assert!(one.depth_max.load(Ordering::Relaxed) <= 2);
    assert!(two.depth_max.load(Ordering::Relaxed) <= 2);
}

/// Sends more than the queue takes while a delivery is under way.
struct Flood {
    transport: OnceLock<Arc<LocalTransport>>,
    refused: Mutex<Vec<u64>>,
    received: AtomicU64,
}

impl Inbound for Flood {
    fn receive(&self, _from: NodeId, _messages: Vec<PeerMessage>) {
        if self.received.fetch_add(1, Ordering::Relaxed) == 0 {
            // The link to this node is delivering: what its peer sends now can only queue.
            for id in 0..100 {
                let report = self.transport.get().unwrap().send(TWO, vec![request(id, 1024)]);
                self.refused.lock().unwrap().extend(report.refused_requests);
            }
        }
    }
    fn connected(&self, _node: NodeId) {}
    fn disconnected(&self, _node: NodeId) {}
}

#[test]
fn a_link_queues_a_bounded_number_of_bytes() {
    let network = LocalNetwork::with_queue_bytes_max(20 << 10);
    let (first, _events) = recorder();
    let one = network.join(ONE, first);
    let flood = Arc::new(Flood {
        transport: OnceLock::new(),
        refused: Mutex::default(),
        received: AtomicU64::new(0),
    });
    flood.transport.set(one.clone()).ok().unwrap();
    network.join(TWO, flood.clone());
    one.send(TWO, vec![heartbeat(1)]);
    let refused = flood.refused.lock().unwrap();
    let accepted = flood.received.load(Ordering::Relaxed) - 1;
    assert!((10..20).contains(&accepted), "{accepted} of 100 fit 20 KiB");
    assert_eq!(refused.len() as u64, 100 - accepted);
}
