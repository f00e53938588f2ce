//! Sessions against servers of this file, which answer as they are told.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::session::RespSession;
use crate::target::{Completion, Operation, Outcome, Session};

/// What a server does with one connection: for each entry, it waits until it has read text that ends
/// like the first, and answers with the second. Then it closes the connection.
type Script = &'static [(&'static str, &'static [u8])];

async fn serve(scripts: Vec<Script>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for script in scripts {
            let (mut stream, _) = listener.accept().await.unwrap();
            for (asked, answer) in script {
                wait_for(&mut stream, asked).await;
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    address
}

async fn wait_for(stream: &mut TcpStream, asked: &str) {
    let mut input = Vec::new();
    while !input.ends_with(asked.as_bytes()) {
        assert_ne!(stream.read_buf(&mut input).await.unwrap(), 0, "{}", input.escape_ascii());
    }
}

async fn connect(address: SocketAddr) -> RespSession {
    RespSession::connect(Arc::new([address]), 0).await.unwrap()
}

/// Submits `operations`, tagged from 0, and waits until all are completed.
async fn complete(session: &mut RespSession, operations: Vec<Operation>) -> Vec<Completion> {
    let count = operations.len();
    for (tag, operation) in (0..).zip(operations) {
        session.submit(tag, operation);
    }
    let mut done = Vec::new();
    while done.len() < count {
        poll_fn(|context| session.poll(context, &mut done)).await;
    }
    done.sort_by_key(|completion| completion.tag);
    done
}

fn get(key: &'static str) -> Operation {
    Operation::Get { key: Bytes::from_static(key.as_bytes()) }
}

fn put(key: &'static str) -> Operation {
    let key = Bytes::from_static(key.as_bytes());
    Operation::Put { key, value: Bytes::from_static(b"v") }
}

fn outcomes(done: Vec<Completion>) -> Vec<Outcome> {
    done.into_iter().map(|completion| completion.outcome).collect()
}

#[tokio::test]
async fn pipelined_answers_are_those_of_their_operations() {
    let address = serve(vec![&[(
        "$1\r\nd\r\n",
        b"+OK\r\n$1\r\nx\r\n$-1\r\n-BUSY later\r\n-INDOUBT lost\r\n-TRYAGAIN x\r\n:1\r\n",
    )]])
    .await;
    let delete = Operation::Delete { key: Bytes::from_static(b"d") };
    let operations = vec![put("1"), get("2"), get("3"), put("4"), put("5"), get("6"), delete];
    let done = complete(&mut connect(address).await, operations).await;
    let want = [
        Outcome::WRITTEN,
        Outcome::read(Some(Bytes::from_static(b"x"))),
        Outcome::read(None),
        Outcome::NoEffect("BUSY".into()),
        Outcome::Unknown("INDOUBT".into()),
        Outcome::NoEffect("TRYAGAIN".into()),
        Outcome::WRITTEN,
    ];
    assert_eq!(outcomes(done), want);
}

#[tokio::test]
async fn what_was_sent_over_a_lost_connection_is_in_doubt_and_the_next_one_serves() {
    let address =
        serve(vec![&[("$1\r\n2\r\n", b"+OK\r\n")], &[("$1\r\n3\r\n$1\r\nv\r\n", b"+OK\r\n")]])
            .await;
    let mut session = connect(address).await;
    let done = complete(&mut session, vec![put("0"), put("1"), get("2")]).await;
    let want = [
        Outcome::WRITTEN,
        Outcome::Unknown("connection lost".into()),
        Outcome::NoEffect("connection lost".into()),
    ];
    assert_eq!(outcomes(done), want);
    assert_eq!(outcomes(complete(&mut session, vec![put("3")]).await), [Outcome::WRITTEN]);
}

#[tokio::test]
async fn what_was_never_sent_had_no_effect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut session = connect(address).await;
    // The server is gone, and nobody takes its place.
    drop(listener.accept().await.unwrap());
    drop(listener);
    let mut done = Vec::new();
    session.submit(0, put("0"));
    poll_fn(|context| session.poll(context, &mut done)).await;
    session.submit(1, put("1"));
    while done.len() < 2 {
        poll_fn(|context| session.poll(context, &mut done)).await;
    }
    assert!(matches!(&done[0].outcome, Outcome::Unknown(_) | Outcome::NoEffect(_)));
    assert_eq!(done[1].outcome, Outcome::NoEffect("not connected".into()));
}

#[tokio::test]
async fn a_read_modify_write_reads_and_then_writes() {
    let address = serve(vec![&[
        ("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"$3\r\nold\r\n"),
        ("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n", b"+OK\r\n"),
        ("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"-BUSY later\r\n"),
    ]])
    .await;
    let operation = Operation::ReadModifyWrite {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
    };
    let mut session = connect(address).await;
    let done = complete(&mut session, vec![operation.clone()]).await;
    assert_eq!(outcomes(done), [Outcome::read(Some(Bytes::from_static(b"old")))]);
    let done = complete(&mut session, vec![operation]).await;
    assert_eq!(outcomes(done), [Outcome::NoEffect("BUSY".into())], "nothing was written yet");
}

#[tokio::test]
async fn a_scan_begins_at_its_key_and_goes_on_until_it_has_its_rows() {
    let address = serve(vec![&[
        (
            "FLOTILLA.RANGE\r\n$3\r\nabc\r\n$0\r\n\r\n$5\r\nLIMIT\r\n$1\r\n3\r\n",
            b"*2\r\n$1\r\nb\r\n*4\r\n$3\r\nabc\r\n$1\r\n1\r\n$3\r\nabd\r\n$0\r\n\r\n",
        ),
        (
            "FLOTILLA.RANGE\r\n$1\r\nb\r\n$0\r\n\r\n$5\r\nLIMIT\r\n$1\r\n1\r\n",
            b"*2\r\n$1\r\nc\r\n*2\r\n$1\r\nb\r\n$1\r\n1\r\n",
        ),
        ("LIMIT\r\n$1\r\n3\r\n", b"*2\r\n$0\r\n\r\n*0\r\n"),
        ("LIMIT\r\n$1\r\n3\r\n", b"-BUSY later\r\n"),
    ]])
    .await;
    let scan = Operation::Scan { start: Bytes::from_static(b"abc"), limit: 3 };
    let mut session = connect(address).await;
    for want in [Outcome::scanned(3), Outcome::scanned(0), Outcome::NoEffect("BUSY".into())] {
        let done = complete(&mut session, vec![scan.clone()]).await;
        assert_eq!(outcomes(done), [want]);
    }
}

#[tokio::test]
async fn what_is_no_reply_ends_the_connection() {
    for bytes in [&b"?\r\n"[..], b"+OK\r\n+OK\r\n", b"*1\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            wait_for(&mut stream, "\r\n").await;
            stream.write_all(bytes).await.unwrap();
            // Open until the client closes it.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        });
        let mut session = connect(address).await;
        let done = complete(&mut session, vec![get("k")]).await;
        assert!(
            matches!(&done[0].outcome, Outcome::NoEffect(why) if why == "malformed reply"),
            "{done:?}"
        );
    }
}
