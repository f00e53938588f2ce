//! Each node knows how far the clocks of its peers are from its own.

mod peer_support;

use bytes::BytesMut;
use flotilla_router::peer::Transport;
use flotilla_router::peer::frame::{
    Assembly, Decoded, Parsed, SignOfLife, decode_frame, encode_sign_of_life, parse,
};
use flotilla_shard::NodeId;
use peer_support::{Event, FakePeer, listen, metric, options, start, within};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TWO: NodeId = NodeId(2);

fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

/// Answers the next sign of life with a clock that is `offset_us` ahead.
async fn answer(liveness: &mut TcpStream, offset_us: i64) {
    let mut buffer = BytesMut::new();
    let token = loop {
        match parse(&mut buffer, 1 << 20).unwrap() {
            Parsed::Frame(frame) => {
                let mut messages = Vec::new();
                let decoded = decode_frame(frame, &mut Assembly::new(0), &mut messages).unwrap();
                if let Decoded::Sign(sign) = decoded {
                    break sign.token;
                }
            }
            Parsed::Missing(_) => {
                let read = liveness.read_buf(&mut buffer);
                assert!(within("a sign of life", read).await.unwrap() > 0);
            }
        }
    };
    assert_ne!(token, 0, "a dialer asks");
    let mut reply = BytesMut::new();
    let wall_us = wall_us().saturating_add_signed(offset_us);
    encode_sign_of_life(&mut reply, SignOfLife { token, wall_us });
    liveness.write_all(&reply).await.unwrap();
}

#[tokio::test]
async fn a_peer_whose_clock_is_ahead_is_seen() {
    let (peer, address) = FakePeer::new(2).await;
    let (listener, _) = listen();
    let mut one = start(options(1, &[(2, &address)]), listener);
    let [mut liveness, _data, _bulk] = peer.welcome_all().await;
    one.events.until(Event::Connected(TWO)).await;
    assert!(one.transport.clock_offsets().is_empty(), "nothing is known yet");
    answer(&mut liveness, 5_000_000).await;
    let seen = async {
        while one.transport.clock_offsets().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within("an offset", seen).await;
    let offset_ms = one.transport.clock_offsets()[&TWO];
    assert!((4000..=5500).contains(&offset_ms), "{offset_ms} ms");
    let gauge = metric(&one.metrics, "flotilla_peer_clock_offset_seconds");
    assert!((gauge * 1000.0 - offset_ms as f64).abs() < 2.0, "{gauge} s");
    assert_eq!(one.transport.peers()[0].clock_offset_us.map(|us| us / 1000), Some(offset_ms));

    // Who cannot be reached has no clock.
    drop(liveness);
    let gone = async {
        while !one.transport.clock_offsets().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within("no offset", gone).await;
}

#[tokio::test]
async fn two_nodes_of_one_machine_agree() {
    let (one_listener, one_address) = listen();
    let (two_listener, two_address) = listen();
    let peers = [(1, one_address.as_str()), (2, two_address.as_str())];
    let one = start(options(1, &peers), one_listener);
    let two = start(options(2, &peers), two_listener);
    let compared = async {
        while one.transport.clock_offsets().is_empty() || two.transport.clock_offsets().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within("clocks", compared).await;
    let offset_ms = one.transport.clock_offsets()[&TWO];
    assert!(offset_ms.abs() < 500, "{offset_ms} ms on one machine");
}
