//! A session against a server that answers as it is told, and then hangs up.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::session::{NatsSession, Subjects};
use crate::target::{Completion, Operation, Outcome, Session};

const STORED: &str = r#"{"stream":"KV_bench", "seq":5}"#;
const FOUND: &str = r#"{"type":"t","message":{"subject":"$KV.bench.aw","seq":1,"data":"dg=="}}"#;

/// A server whose connections answer their requests as each list says, the last request first, and
/// close when an answer is `None`.
async fn serve(connections: Vec<Vec<Option<&'static str>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answers in connections {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream
                .write_all(b"INFO {\"version\":\"2.9.10\",\"jetstream\":true}\r\n")
                .await
                .unwrap();
            let mut inboxes = Vec::new();
            while inboxes.len() < answers.len() {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                let words: Vec<&str> = line.split_whitespace().collect();
                match words[0] {
                    "PING" => stream.write_all(b"PONG\r\n").await.unwrap(),
                    "PUB" => {
                        let mut payload = vec![0; words[3].parse::<usize>().unwrap() + 2];
                        stream.read_exact(&mut payload).await.unwrap();
                        inboxes.push(words[2].to_owned());
                    }
                    word => assert!(["CONNECT", "SUB"].contains(&word), "{line}"),
                }
            }
            for (inbox, answer) in inboxes.iter().zip(&answers).rev() {
                if let Some(answer) = answer {
                    // In the midst of them the server asks whether the client lives.
                    let frame = format!("MSG {inbox} 1 {}\r\n{answer}\r\nPING\r\n", answer.len());
                    stream.write_all(frame.as_bytes()).await.unwrap();
                }
            }
            if answers.iter().all(Option::is_some) {
                // Goes on until the client leaves.
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    });
    address
}

async fn open(address: SocketAddr) -> NatsSession {
    NatsSession::open(vec![address], Arc::new(Subjects::of("bench")), 0).await.unwrap()
}

/// Submits all at once; the outcomes by tag.
async fn ask(session: &mut NatsSession, operations: &[Operation]) -> Vec<Outcome> {
    for (tag, operation) in operations.iter().enumerate() {
        session.submit(tag as u64, operation.clone());
    }
    let mut done: Vec<Completion> = Vec::new();
    while done.len() < operations.len() {
        poll_fn(|context| session.poll(context, &mut done)).await;
    }
    done.sort_by_key(|completion| completion.tag);
    let tags: Vec<u64> = done.iter().map(|completion| completion.tag).collect();
    assert_eq!(tags, (0..operations.len() as u64).collect::<Vec<_>>(), "each tag exactly once");
    done.into_iter().map(|completion| completion.outcome).collect()
}

fn get() -> Operation {
    Operation::Get { key: Bytes::from_static(b"k") }
}

fn put() -> Operation {
    Operation::Put { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v") }
}

#[tokio::test]
async fn answers_in_any_order_are_matched_to_requests() {
    let address = serve(vec![vec![Some(FOUND), Some(STORED)]]).await;
    let mut session = open(address).await;
    let outcomes = ask(&mut session, &[get(), put()]).await;
    assert_eq!(outcomes, [Outcome::read(Some(Bytes::from_static(b"v"))), Outcome::WRITTEN]);
}

#[tokio::test]
async fn what_a_bucket_cannot_do_is_refused_without_asking() {
    let address = serve(vec![vec![Some(FOUND)]]).await;
    let mut session = open(address).await;
    let scan = Operation::Scan { start: Bytes::new(), limit: 10 };
    let outcomes = ask(&mut session, &[scan]).await;
    assert!(matches!(outcomes[0], Outcome::NoEffect(_)), "{outcomes:?}");
}

#[tokio::test]
async fn a_lost_connection_ends_all_that_is_under_way_and_is_replaced() {
    let address = serve(vec![vec![None, None], vec![Some(FOUND)]]).await;
    let mut session = open(address).await;
    let outcomes = ask(&mut session, &[get(), put()]).await;
    assert!(matches!(outcomes[0], Outcome::NoEffect(_)), "{outcomes:?}");
    assert!(matches!(outcomes[1], Outcome::Unknown(_)), "{outcomes:?}");
    let outcomes = ask(&mut session, &[get()]).await;
    assert_eq!(outcomes, [Outcome::read(Some(Bytes::from_static(b"v")))]);
}
