//! Large values, snapshots and small messages on one pair of nodes: who waits for whom.

mod peer_support;

use bytes::Bytes;
use flotilla_router::peer::{LocalNetwork, PeerMessage, SendReport, Transport};
use flotilla_shard::budget::Part;
use flotilla_shard::snapshot::TransferId;
use flotilla_shard::{Budget, NodeId, SnapshotMessage};
use peer_support::{
    Event, FakePeer, FrameReader, Node, append, heartbeat, ids, listen, options, recorder, request,
    start, until_metric, within,
};
use std::time::{Duration, Instant};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const LARGE: usize = 8 << 20;

/// A node whose peer is made of raw connections: liveness, data, bulk.
async fn with_fake_peer() -> (Node, [FrameReader; 3]) {
    let (peer, address) = FakePeer::new(2).await;
    let (listener, _) = listen();
    let mut one = start(options(1, &[(2, &address)]), listener);
    let streams = peer.welcome_all().await.map(FrameReader::new);
    one.events.until(Event::Connected(TWO)).await;
    (one, streams)
}

fn chunk(number: u64, bytes: usize) -> PeerMessage {
    PeerMessage::Snapshot(SnapshotMessage::Chunk {
        transfer: TransferId { boot: 1, number },
        number,
        rows: Bytes::from(vec![number as u8; bytes]),
        crc: 0,
    })
}

fn put(group: u64, id: u64, bytes: usize) -> PeerMessage {
    match request(id, bytes) {
        PeerMessage::Request { id, mut body } => {
            body.group = flotilla_shard::GroupId(group);
            PeerMessage::Request { id, body }
        }
        _ => unreachable!("a request"),
    }
}

/// Group numbers of appends, in the order of their arrival.
async fn arrivals(reader: &mut FrameReader, count: usize) -> Vec<u64> {
    let mut arrived = Vec::new();
    while arrived.len() < count {
        arrived.extend(ids(&reader.next().await.expect("more comes")));
    }
    arrived
}

/// What comes while an 8 MiB value is on its way does not wait for its end.
#[tokio::test]
async fn small_messages_pass_a_large_one() {
    let (one, [_, mut data, _]) = with_fake_peer().await;
    one.transport.send(TWO, vec![append(1, Bytes::from(vec![1; LARGE]))]);
    // The peer does not read: the window is full of pieces.
    let started = async {
        while peer_support::metric(&one.metrics, "flotilla_peer_sent_bytes_total") == 0.0 {
            tokio::task::yield_now().await;
        }
    };
    within("the first pieces", started).await;
    for group in 2..=5 {
        one.transport.send(TWO, vec![append(group, Bytes::from_static(b"small"))]);
    }
    assert_eq!(arrivals(&mut data, 5).await, [2, 3, 4, 5, 1]);
}

/// Raft takes a gap for a loss: what follows a large value in its group stays behind it.
#[tokio::test]
async fn a_group_stays_in_order() {
    let (one, [_, mut data, _]) = with_fake_peer().await;
    let value = |bytes: usize, first: u8| {
        let mut value = vec![0; bytes];
        value[0] = first;
        Bytes::from(value)
    };
    let sizes = [100, LARGE, 10, 3 << 20, 20, 30];
    for (at, bytes) in sizes.into_iter().enumerate() {
        one.transport
            .send(TWO, vec![append(1, value(bytes, at as u8)), append(2, value(9, at as u8))]);
        tokio::task::yield_now().await;
    }
    let mut seen = [Vec::new(), Vec::new()];
    while seen[0].len() + seen[1].len() < 2 * sizes.len() {
        for message in data.next().await.expect("more comes") {
            let PeerMessage::Raft(message) = message else { panic!("not an append") };
            let flotilla_shard::Message::Append { entries, .. } = message.message else {
                panic!("not an append")
            };
            seen[message.group.0 as usize - 1].push(usize::from(entries[0].payload[0]));
        }
    }
    assert_eq!(seen[0], [0, 1, 2, 3, 4, 5]);
    assert_eq!(seen[1], [0, 1, 2, 3, 4, 5]);
    until_metric(&one.metrics, "flotilla_peer_outbox_bytes", 0.0).await;
    // Nothing waits in line for nobody: the next small one goes straight through.
    one.transport.send(TWO, vec![append(1, Bytes::from_static(b"x"))]);
    assert_eq!(arrivals(&mut data, 1).await, [1]);
}

/// A request of which only some pieces were written certainly did not arrive.
#[tokio::test]
async fn a_broken_large_request_was_not_sent() {
    let (mut one, [_, data, _]) = with_fake_peer().await;
    let sent = vec![put(1, 10, LARGE), put(2, 11, LARGE), put(1, 12, 5)];
    assert_eq!(one.transport.send(TWO, sent), SendReport::default());
    let started = async {
        while peer_support::metric(&one.metrics, "flotilla_peer_sent_bytes_total") == 0.0 {
            tokio::task::yield_now().await;
        }
    };
    within("the first pieces", started).await;
    drop(data);
    loop {
        match one.events.next().await {
            Event::Unsent(TWO, mut unsent) => {
                unsent.sort_unstable();
                assert_eq!(unsent, [10, 11, 12]);
                break;
            }
            Event::Disconnected(_) => panic!("what is certain comes first"),
            _ => {}
        }
    }
    assert_eq!(one.events.next().await, Event::Disconnected(TWO));
    until_metric(&one.metrics, "flotilla_peer_outbox_bytes", 0.0).await;
}

/// Appends and heartbeats never stand behind a snapshot, however full its outbox is.
#[tokio::test]
async fn a_full_bulk_outbox_delays_nothing_else() {
    let (peer, address) = FakePeer::new(2).await;
    let (listener, _) = listen();
    let mut full = options(1, &[(2, &address)]);
    full.outbox_bytes_max = 4 << 20;
    let mut one = start(full, listener);
    let [liveness, data, bulk] = peer.welcome_all().await;
    let (mut liveness, mut data) = (FrameReader::new(liveness), FrameReader::new(data));
    one.events.until(Event::Connected(TWO)).await;
    // The peer reads no bulk at all.
    let filled = async {
        let mut number = 0;
        while one.transport.send(TWO, vec![chunk(number, 256 << 10)]).dropped == 0 {
            number += 1;
            tokio::task::yield_now().await;
        }
    };
    within("a full outbox", filled).await;
    for group in 1..=20 {
        let report = one.transport.send(
            TWO,
            vec![heartbeat(group), append(group, Bytes::from(vec![7; 100_000])), chunk(1, 300_000)],
        );
        assert_eq!((report.dropped, report.refused_requests.len()), (1, 0), "only the chunk");
        assert_eq!(arrivals(&mut liveness, 1).await, [group]);
        assert_eq!(arrivals(&mut data, 1).await, [group]);
    }
    drop(bulk);
    // A lost bulk connection disturbs no request.
    one.transport.send(TWO, vec![append(99, Bytes::new())]);
    assert_eq!(arrivals(&mut data, 1).await, [99]);
    assert_eq!(one.events.try_next(), None, "somebody heard of a disconnection");
}

/// Between two real nodes: small requests while values of 8 MiB flow without a pause.
#[tokio::test]
async fn small_latency_under_large_load() {
    let (one_listener, one_address) = listen();
    let (two_listener, two_address) = listen();
    let peers = [(1, one_address.as_str()), (2, two_address.as_str())];
    let mut one = start(options(1, &peers), one_listener);
    let mut two = start(options(2, &peers), two_listener);
    one.events.until(Event::Connected(TWO)).await;
    let mut waits = Vec::new();
    let (mut large_sent, mut large_arrived) = (0, 0);
    let value = Bytes::from(vec![1; LARGE]);
    for round in 0..40u64 {
        // What the outbox has no room for is dropped: Raft would send it again.
        large_sent += 1 - one.transport.send(TWO, vec![append(1, value.clone())]).dropped;
        let sent = Instant::now();
        one.transport.send(TWO, vec![append(100 + round, Bytes::from_static(b"small"))]);
        loop {
            let messages = two.events.received(ONE).await;
            large_arrived += ids(&messages).iter().filter(|group| **group == 1).count();
            if ids(&messages).contains(&(100 + round)) {
                waits.push(sent.elapsed());
                break;
            }
        }
    }
    waits.sort_unstable();
    println!("small among large: median {:?}, worst {:?}", waits[20], waits[39]);
    assert!(large_sent > 8, "the outbox holds 8, and empties");
    while large_arrived < large_sent {
        let messages = two.events.received(ONE).await;
        large_arrived += ids(&messages).iter().filter(|group| **group == 1).count();
    }
    assert!(waits[20] < Duration::from_millis(500), "small messages wait {:?}", waits[20]);
}

/// What waits for sockets is in the node's account, and leaves it again.
#[tokio::test]
async fn outboxes_are_counted_in_the_budget() {
    let budget = Budget::new(1 << 30);
    let (peer, address) = FakePeer::new(2).await;
    let (listener, _) = listen();
    let mut counted = options(1, &[(2, &address)]);
    counted.outbox_account = Some(budget.account(Part::Outboxes));
    let mut one = start(counted, listener);
    let [_liveness, data, _bulk] = peer.welcome_all().await;
    one.events.until(Event::Connected(TWO)).await;
    // What answers readers is counted where it was read.
    let write = |id| put(1, id, LARGE);
    one.transport.send(TWO, (0..4).map(write).collect());
    let held = budget.part_bytes(Part::Outboxes);
    assert!(held > 3 * LARGE as u64, "{held} bytes are counted");
    let mut data = FrameReader::new(data);
    assert_eq!(arrivals(&mut data, 4).await.len(), 4);
    until_metric(&one.metrics, "flotilla_peer_outbox_bytes", 0.0).await;
    assert_eq!(budget.part_bytes(Part::Outboxes), 0);
    one.transport.send(TWO, (0..4).map(write).collect());
    one.transport.shutdown().await;
    drop(one);
    assert_eq!(budget.part_bytes(Part::Outboxes), 0, "what was lost is still counted");
}

/// Nodes of one process exchange snapshots too, and a cut loses them.
#[tokio::test]
async fn a_local_network_carries_snapshots() {
    let network = LocalNetwork::new();
    let ((one_inbound, _one), (two_inbound, mut two)) = (recorder(), recorder());
    let one = network.join(ONE, one_inbound);
    let _two_transport = network.join(TWO, two_inbound);
    two.until(Event::Connected(ONE)).await;
    assert_eq!(one.send(TWO, vec![chunk(1, 10)]), SendReport::default());
    assert_eq!(two.next().await, Event::Received(ONE, vec![chunk(1, 10)]));
    network.cut(ONE, TWO);
    assert_eq!(one.send(TWO, vec![chunk(2, 10)]).dropped, 1);
    network.heal(ONE, TWO);
    assert_eq!(one.send(TWO, vec![chunk(3, 10)]), SendReport::default());
    assert_eq!(one.clock_offsets().get(&TWO), Some(&0));
}
