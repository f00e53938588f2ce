//! The transport over real sockets: order, loss, bounds, and liveness beside large values.

mod peer_support;

use bytes::Bytes;
use flotilla_router::peer::{PeerMessage, SendReport, TcpTransport, Transport, TransportOptions};
use flotilla_shard::{Answer, NodeId};
use peer_support::*;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

async fn two_nodes() -> (Node, Node) {
    let ((first, first_address), (second, second_address)) = (listen(), listen());
    let mut one = start(options(1, &[(1, &first_address), (2, &second_address)]), first);
    let mut two = start(options(2, &[(1, &first_address), (2, &second_address)]), second);
    one.events.until(Event::Connected(TWO)).await;
    two.events.until(Event::Connected(ONE)).await;
    (one, two)
}

/// Waits until the liveness connection stands too: its messages are lost before.
async fn liveness_stands(transport: &TcpTransport) {
    let stands = async {
        while !transport.peers().iter().all(|peer| peer.is_connected()) {
            tokio::task::yield_now().await;
        }
    };
    within("both connections", stands).await;
}

#[tokio::test]
async fn a_hundred_thousand_messages_each_way_arrive_in_order() {
    const COUNT: u64 = 100_000;
    let (one, two) = two_nodes().await;
    async fn exchange(mut node: Node, peer: NodeId) -> Node {
        let (mut sent, mut expected) = (0, 0);
        while expected < COUNT {
            // As a lane does it: a batch per turn.
            if sent < COUNT {
                let batch: Vec<_> = (sent..sent + 250)
                    .map(|group| append(group, Bytes::from_static(&[7; 256])))
                    .collect();
                assert_eq!(node.transport.send(peer, batch), SendReport::default());
                sent += 250;
                tokio::task::yield_now().await;
            }
            while sent == COUNT || expected + 50_000 < sent {
                if expected == COUNT {
                    break;
                }
                for id in ids(&node.events.received(peer).await) {
                    assert_eq!(id, expected);
                    expected += 1;
                }
            }
        }
        node
    }
    let (one, two) = tokio::join!(exchange(one, TWO), exchange(two, ONE));
    for node in [&one, &two] {
        assert_eq!(metric(&node.metrics, "flotilla_peer_dropped_messages_total"), 0.0);
        let frames = metric(&node.metrics, "flotilla_peer_sent_frames_total");
        assert!(frames < COUNT as f64 / 50.0, "{frames} frames: messages do not travel together");
    }
    one.transport.shutdown().await;
    two.transport.shutdown().await;
    assert_eq!(metric(&one.metrics, "flotilla_peer_connections"), 0.0);
}

#[tokio::test]
async fn what_others_of_the_thread_send_in_the_same_turn_goes_along() {
    let (one, mut two) = two_nodes().await;
    one.transport.send(TWO, vec![append(1, Bytes::new())]);
    // The writer is awake by now, and before this task in the thread's queue.
    let transport = one.transport.clone();
    tokio::spawn(async move { transport.send(TWO, vec![append(2, Bytes::new())]) });
    let mut received = Vec::new();
    while received.len() < 2 {
        received.extend(ids(&two.events.received(ONE).await));
    }
    assert_eq!(received, [1, 2]);
    assert_eq!(metric(&one.metrics, "flotilla_peer_sent_frames_total"), 1.0);
}

#[tokio::test]
async fn connections_return_when_the_peer_does() {
    let (mut one, two) = two_nodes().await;
    let address = two.transport.local_address();
    two.transport.shutdown().await;
    one.events.until(Event::Disconnected(TWO)).await;
    let refused = one.transport.send(TWO, vec![request(1, 10), heartbeat(1)]);
    assert_eq!(refused, SendReport { refused_requests: vec![1], dropped: 1 });
    assert!(!one.transport.is_connected(TWO));

    let mut second_boot = options(2, &[(1, &one.transport.local_address().to_string())]);
    second_boot.boot = 2;
    let mut two = start(second_boot, TcpListener::bind(address).unwrap());
    one.events.until(Event::Connected(TWO)).await;
    assert!(one.transport.is_connected(TWO));
    assert_eq!(one.transport.peers()[0].boot, Some(2));
    assert_eq!(one.transport.send(TWO, vec![append(9, Bytes::new())]), SendReport::default());
    assert_eq!(ids(&two.events.received(ONE).await), [9]);
    assert!(metric(&one.metrics, "flotilla_peer_reconnects_total") >= 1.0);
}

#[tokio::test]
async fn an_answer_owed_to_an_earlier_start_matches_nothing() {
    let ((first, first_address), (second, second_address)) = (listen(), listen());
    let mut two = start(options(2, &[(1, &first_address)]), second);
    let mut one = start(options(1, &[(2, &second_address)]), first);
    one.events.until(Event::Connected(TWO)).await;
    one.transport.send(TWO, vec![request(1, 10)]);
    let old = ids(&two.events.received(ONE).await)[0];
    one.transport.shutdown().await;
    drop(one);

    let listener = TcpListener::bind(&first_address).unwrap();
    let mut one =
        start(TransportOptions { boot: 2, ..options(1, &[(2, &second_address)]) }, listener);
    one.events.until(Event::Connected(TWO)).await;
    one.transport.send(TWO, vec![request(1, 10)]);
    let new = ids(&two.events.received(ONE).await)[0];
    assert_ne!(old, new);
    let reply = |id| PeerMessage::Reply { id, result: Ok(Answer::Count(id)) };
    assert_eq!(two.transport.send(ONE, vec![reply(old), reply(new)]).dropped, 0);
    let mut replies = Vec::new();
    while replies.len() < 2 {
        replies.extend(ids(&one.events.received(TWO).await));
    }
    assert_ne!(replies[0], 1, "the answer to the earlier start's request");
    assert_eq!(replies[1], 1);
}

/// A peer that accepts and then stops reading holds its outbox's bytes and nothing else; others do
/// not notice.
#[tokio::test]
async fn a_stopped_peer_is_bounded_and_harms_nobody() {
    const BYTES_MAX: usize = 4 << 20;
    let (stopped, stopped_address) = FakePeer::new(2).await;
    let ((first, first_address), (third, third_address)) = (listen(), listen());
    let mut three = start(options(3, &[(1, &first_address)]), third);
    let mut one_options = options(1, &[(2, &stopped_address), (3, &third_address)]);
    one_options.outbox_bytes_max = BYTES_MAX;
    let mut one = start(one_options, first);
    let _held = stopped.welcome_all().await;
    one.events.until(Event::Connected(TWO)).await;
    while !one.transport.is_connected(NodeId(3)) {
        one.events.next().await;
    }

    // More than outbox and socket buffers together can take.
    let mut refused = 0;
    for id in 0..40_000 {
        refused += one.transport.send(TWO, vec![request(id, 1024)]).refused_requests.len();
        if id % 64 == 0 {
            tokio::task::yield_now().await;
            let held = metric(&one.metrics, "flotilla_peer_outbox_bytes");
            assert!(held <= BYTES_MAX as f64, "{held} bytes are held");
        }
    }
    assert!(refused > 10_000, "only {refused} of 40,000 were refused");
    assert!(one.transport.is_connected(TWO));
    assert_eq!(one.transport.send(NodeId(3), vec![append(5, Bytes::new())]), SendReport::default());
    assert_eq!(ids(&three.events.received(ONE).await), [5]);
    let after =
        one.transport.send(TWO, vec![request(1, 1024), append(1, Bytes::from(vec![0; 2048]))]);
    assert_eq!(after, SendReport { refused_requests: vec![1], dropped: 1 });
}

/// The data connection takes nothing at all, with many 8 MiB values queued for it; heartbeats
/// arrive regardless, all groups' in one frame.
#[tokio::test]
async fn heartbeats_pass_large_values() {
    let (peer, address) = FakePeer::new(2).await;
    let (listener, _) = listen();
    let mut one_options = options(1, &[(2, &address)]);
    one_options.outbox_bytes_max = 256 << 20;
    let one = start(one_options, listener);
    let [liveness, _data_never_read, _bulk] = peer.welcome_all().await;
    liveness_stands(&one.transport).await;

    let value = Bytes::from(vec![1; 8 << 20]);
    let mut turn: Vec<_> = (0..20).map(|group| append(group, value.clone())).collect();
    turn.extend((0..500).map(heartbeat));
    assert_eq!(one.transport.send(TWO, turn), SendReport::default());
    let mut liveness = FrameReader::new(liveness);
    let first = liveness.next().await.unwrap();
    assert_eq!(ids(&first), (0..500).collect::<Vec<_>>());

    // And still: nothing of the data has been taken off the socket.
    assert_eq!(one.transport.send(TWO, (0..500).map(heartbeat).collect()), SendReport::default());
    assert_eq!(ids(&liveness.next().await.unwrap()).len(), 500);
    let waiting = metric(&one.metrics, "flotilla_peer_outbox_bytes");
    assert!(waiting > (100 << 20) as f64, "{waiting} bytes wait behind the data connection");
}

/// What `unsent` names, the peer cannot have decoded, although the connection broke in mid-frame.
#[tokio::test]
async fn unsent_requests_certainly_did_not_arrive() {
    let (peer, address) = FakePeer::new(2).await;
    let (listener, _) = listen();
    let mut one = start(options(1, &[(2, &address)]), listener);
    let [_liveness, data, _bulk] = peer.welcome_all().await;
    one.events.until(Event::Connected(TWO)).await;
    let sent: Vec<u64> = (0..40).collect();
    for id in &sent {
        assert_eq!(one.transport.send(TWO, vec![request(*id, 1 << 20)]), SendReport::default());
    }
    let mut data = FrameReader::new(data);
    let salted = ids(&data.next().await.unwrap())[0];
    data.stream.shutdown().await.unwrap();
    let Event::Unsent(TWO, unsent) = one.events.next().await else { panic!("unsent comes first") };
    assert_eq!(one.events.next().await, Event::Disconnected(TWO));
    let mut arrived = BTreeSet::from([0]);
    while let Some(messages) = data.next().await {
        arrived.extend(ids(&messages).iter().map(|id| id.wrapping_sub(salted)));
    }
    assert!(unsent.iter().all(|id| !arrived.contains(id)), "{arrived:?} and {unsent:?}");
    assert!(unsent.contains(&39) && unsent.len() > 5, "{unsent:?}");
}

/// Nothing of a broken connection reaches the next one.
#[tokio::test]
async fn nothing_is_sent_twice() {
    let (peer, address) = FakePeer::new(2).await;
    let (listener, _) = listen();
    let mut one = start(options(1, &[(2, &address)]), listener);
    let [_liveness, data, _bulk] = peer.welcome_all().await;
    one.events.until(Event::Connected(TWO)).await;
    for id in 0..40 {
        one.transport.send(TWO, vec![request(id, 1 << 20)]);
    }
    drop(data);
    one.events.until(Event::Disconnected(TWO)).await;
    let (class, data) = peer.welcome().await;
    assert_eq!(class, 2);
    one.events.until(Event::Connected(TWO)).await;
    one.transport.send(TWO, vec![append(77, Bytes::new())]);
    assert_eq!(ids(&FrameReader::new(data).next().await.unwrap()), [77]);
}

/// Neither end waits for the kernel to notice that the other is gone or hung.
#[tokio::test]
async fn silence_ends_a_connection() {
    let (peer, address) = FakePeer::new(2).await;
    let (listener, _) = listen();
    let mut one_options = options(1, &[(2, &address)]);
    one_options.timing.keep_alive = Duration::from_millis(20);
    one_options.timing.silence_max = Duration::from_millis(100);
    let mut one = start(one_options, listener);
    let [_liveness, mut data, _bulk] = peer.welcome_all().await;
    one.events.until(Event::Connected(TWO)).await;
    // The silent peer sees signs of life, though nothing is sent.
    let mut sign = [0; 28];
    within("a sign of life", data.read_exact(&mut sign)).await.unwrap();
    assert_eq!(sign[0], 20);
    one.events.until(Event::Disconnected(TWO)).await;
    let error = one.transport.peers()[0].last_error.clone().unwrap();
    assert!(error.contains("no sign of life"), "{error}");

    // The other way round: somebody who greets well and then says nothing.
    let (mut caller, (kind, _)) =
        greet(one.transport.local_address(), &Hello::good(2, 1).bytes()).await;
    assert_eq!(kind, 2);
    let mut all = Vec::new();
    within("the end", caller.read_to_end(&mut all)).await.unwrap();
    assert!(!all.is_empty(), "the acceptor gave signs of life meanwhile");
    one.events.until(Event::Disconnected(TWO)).await;
}

#[tokio::test]
async fn bytes_that_are_no_frame_close_their_connection_only() {
    let (one, mut two) = two_nodes().await;
    let address = two.transport.local_address();
    let mut oversized = vec![0; 64];
    oversized[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut bad_checksum = vec![0; 64];
    bad_checksum[0] = 40;
    for (nth, garbage) in [oversized, bad_checksum].into_iter().enumerate() {
        let hello = Hello { class: 1, ..Hello::good(1, 2) };
        let (mut stream, (kind, _)) = greet(address, &hello.bytes()).await;
        assert_eq!(kind, 2);
        stream.write_all(&garbage).await.unwrap();
        let mut rest = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut rest)).await;
        let (name, count) = ("flotilla_peer_malformed_frames_total", nth as f64 + 1.0);
        until_metric(&two.metrics, name, count).await;
    }
    // The data connection never noticed.
    one.transport.send(TWO, vec![append(3, Bytes::new())]);
    assert_eq!(ids(&two.events.received(ONE).await), [3]);
}

#[tokio::test]
async fn foreign_traffic_is_closed_before_anything_is_believed() {
    let (listener, _) = listen();
    let one = start(options(1, &[]), listener);
    let address = one.transport.local_address();
    let mut too_long = b"FLOTPEER\x01\x00\x01\x00".to_vec();
    too_long.extend(u32::MAX.to_le_bytes());
    too_long.extend([0; 4]);
    let traffic: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", &[0xFF; 300], b"*1\r\n$4\r\nPING\r\n", &too_long];
    for (nth, bytes) in traffic.iter().enumerate() {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty() || answer.starts_with(b"FLOTPEER"));
        drop(stream);
        let (name, count) = ("flotilla_peer_rejected_handshakes_total", nth as f64 + 1.0);
        until_metric(&one.metrics, name, count).await;
    }
}

/// A request that no frame can hold is answered here; the connection goes on.
#[tokio::test]
async fn an_oversized_request_is_refused_alone() {
    let ((first, first_address), (second, second_address)) = (listen(), listen());
    let small = |mut options: TransportOptions| {
        options.frame_bytes_max = 64 << 10;
        options
    };
    let mut one = start(small(options(1, &[(2, &second_address)])), first);
    let mut two = start(small(options(2, &[(1, &first_address)])), second);
    one.events.until(Event::Connected(TWO)).await;
    one.transport.send(TWO, vec![request(1, 10), request(2, 100 << 10), request(3, 10)]);
    let refused = one.events.received(TWO).await;
    assert!(
        matches!(&refused[..], [PeerMessage::Reply { id: 2, result: Err(refusal) }]
            if refusal.to_string().contains("65536")),
        "{refused:?}"
    );
    let mut arrived = 0;
    while arrived < 2 {
        arrived += two.events.received(ONE).await.len();
    }
}
