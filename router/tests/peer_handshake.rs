//! Every refusal of the handshake, from both ends, with its words.

mod peer_support;

use flotilla_router::peer::{PeerMetrics, RefusalReason, TcpTransport, TransportTiming};
use flotilla_shard::NodeId;
use peer_support::*;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;

/// Greets a node 1 that knows nodes 2 and 3, and returns reason and words of its refusal.
async fn refused(greeting: Vec<u8>) -> (u8, String) {
    let (listener, _) = listen();
    let one = start(options(1, &[(2, "127.0.0.1:1"), (3, "127.0.0.1:2")]), listener);
    let (mut stream, answer) = greet(one.transport.local_address(), &greeting).await;
    let mut rest = Vec::new();
    within("the end", stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    drop(stream);
    until_metric(&one.metrics, "flotilla_peer_rejected_handshakes_total", 1.0).await;
    refusal(answer)
}

fn says(refusal: &(u8, String), reason: u8, words: &[&str]) {
    assert_eq!(refusal.0, reason, "{refusal:?}");
    for word in words {
        assert!(refusal.1.contains(word), "{word:?} is not in {refusal:?}");
    }
}

#[tokio::test]
async fn another_protocol_version() {
    let hello = Hello::good(2, 1);
    for other in [1, VERSION + 1] {
        let refusal = refused(envelope(other, 1, &hello.payload())).await;
        says(
            &refusal,
            1,
            &[&format!("protocol {VERSION}"), &format!("the caller {other}"), "run releases"],
        );
    }
}

#[tokio::test]
async fn another_cluster() {
    let refusal = refused(Hello { cluster: 7, ..Hello::good(2, 1) }.bytes()).await;
    says(&refusal, 2, &["cluster", "00000007", "correct the peer addresses"]);
}

#[tokio::test]
async fn an_unknown_node() {
    let refusal = refused(Hello::good(9, 1).bytes()).await;
    says(&refusal, 3, &["no node 9", "membership"]);
}

#[tokio::test]
async fn a_wiped_directory_of_the_caller() {
    let refusal = refused(Hello { from: (2, 999, 1), ..Hello::good(2, 1) }.bytes()).await;
    says(&refusal, 4, &["node 2", "wiped or replaced", "vote twice", "restore"]);
}

#[tokio::test]
async fn a_wiped_directory_of_the_called() {
    let refusal = refused(Hello { to: (1, 999), ..Hello::good(2, 1) }.bytes()).await;
    says(&refusal, 4, &["node 2 expects node 1", "wiped or replaced", "restore"]);
}

#[tokio::test]
async fn somebody_elses_address() {
    let refusal = refused(Hello { to: (3, 300), ..Hello::good(2, 1) }.bytes()).await;
    says(&refusal, 6, &["this is node 1, not node 3", "correct the address"]);
}

#[tokio::test]
async fn two_nodes_of_one_id() {
    let refusal = refused(Hello { from: (1, 555, 1), ..Hello::good(1, 1) }.bytes()).await;
    says(&refusal, 7, &["two nodes", "same id"]);
}

#[tokio::test]
async fn a_malformed_greeting() {
    let mut changed = Hello::good(2, 1).bytes();
    *changed.last_mut().unwrap() ^= 1;
    says(&refused(changed).await, 9, &["checksum"]);
    says(&refused(envelope(VERSION, 77, b"")).await, 9, &["unknown kind"]);
}

#[tokio::test]
async fn a_greeting_that_never_ends() {
    let (listener, _) = listen();
    let mut options = options(1, &[]);
    options.timing =
        TransportTiming { handshake_timeout: Duration::from_millis(50), ..Default::default() };
    let one = start(options, listener);
    let mut stream = tokio::net::TcpStream::connect(one.transport.local_address()).await.unwrap();
    let mut rest = Vec::new();
    within("the end", stream.read_to_end(&mut rest)).await.unwrap();
    until_metric(&one.metrics, "flotilla_peer_rejected_handshakes_total", 1.0).await;
}

/// Waits until the node says why it cannot connect to `peer`.
async fn complaint(transport: &TcpTransport, peer: u64) -> String {
    let said = async {
        loop {
            let peers = transport.peers();
            let status = peers.iter().find(|status| status.node == NodeId(peer)).unwrap();
            if let Some(error) = &status.last_error {
                return error.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    within("a complaint", said).await
}

#[tokio::test]
async fn a_node_that_reaches_itself_says_so() {
    let (listener, address) = listen();
    let one = start(options(1, &[(2, &address)]), listener);
    let error = complaint(&one.transport, 2).await;
    assert!(error.contains("reached itself") && error.contains("node 2"), "{error}");
}

#[tokio::test]
async fn a_dialer_names_the_node_that_it_reached_instead() {
    let ((first, _), (third, third_address)) = (listen(), listen());
    let _three = start(options(3, &[(1, "127.0.0.1:1")]), third);
    let one = start(options(1, &[(2, &third_address)]), first);
    let error = complaint(&one.transport, 2).await;
    assert!(error.contains("this is node 3, not node 2"), "{error}");
}

#[tokio::test]
async fn a_dialer_learns_why_its_own_directory_is_refused() {
    let ((first, first_address), (second, second_address)) = (listen(), listen());
    let one = start(options(1, &[(2, &second_address)]), first);
    let mut wiped = options(2, &[(1, &first_address)]);
    wiped.incarnation = 999;
    let two = start(wiped, second);
    let error = complaint(&two.transport, 1).await;
    assert!(error.contains("vote twice"), "{error}");
    // And the other end keeps whom it turned away, and why.
    let refusal = one.transport.peers()[0].last_refusal.clone().unwrap();
    assert_eq!(refusal.reason, RefusalReason::WrongIncarnation);
}

#[tokio::test]
async fn a_dialer_recognizes_what_is_no_peer() {
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let (listener, _) = listen();
    let one = start(options(1, &[(2, &address)]), listener);
    let (mut stream, _) = within("a dialer", other.accept()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"-ERR unknown command\r\n").await.unwrap();
    let error = complaint(&one.transport, 2).await;
    assert!(error.contains("not a Flotilla peer port"), "{error}");
}

#[tokio::test]
async fn contradictory_options_do_not_start() {
    let start = |options| {
        let (inbound, _events) = recorder();
        let runtimes = vec![Handle::current()];
        let metrics = PeerMetrics::new();
        let started = TcpTransport::start(options, listen().0, inbound, runtimes, metrics);
        started.err().expect("refused").to_string()
    };
    let twice = start(options(1, &[(2, "127.0.0.1:1"), (3, "127.0.0.1:1")]));
    assert!(twice.contains("listed for node 2 and for node 3"), "{twice}");
    let mut other = options(1, &[(1, "127.0.0.1:1")]);
    other.incarnation = 5;
    assert!(start(other).contains("listed with data directory"));
}
