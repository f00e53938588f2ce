//! A session against a server that answers as it is told, and then hangs up.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use tokio::net::TcpListener;

use super::session::EtcdSession;
use crate::target::{Completion, Operation, Outcome, Session};

/// The answer of etcd 3.4.23 to `etcdctl get k` after `put k v`.
const FOUND: &[u8] =
    b"\0\0\0\0,\n\x1a\x08\xaa\xf4\xe5\xf5\x99\xf3\xeb\xe7\xd1\x01\x10\x8d\xf2\xf4\x8e\xc1\xf7\xa6\xd7\
    \xbd\x01\x18\x02 \x02\x12\x0c\n\x01k\x10\x02\x18\x02 \x01*\x01v \x01";

/// What is done with one request.
#[derive(Clone, Copy)]
enum Answer {
    /// A message in two pieces, then the status 0.
    Message(&'static [u8]),
    /// A failure by headers alone.
    Failure(&'static str),
    /// Nothing: the connection is closed when all requests have come.
    Nothing,
}

/// A server whose connections answer their requests in order as each list says.
async fn serve(connections: Vec<Vec<Answer>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answers in connections {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let hangs_up = answers.iter().any(|answer| matches!(answer, Answer::Nothing));
            let mut unanswered = Vec::new();
            for answer in answers {
                let (request, respond) = connection.accept().await.unwrap().unwrap();
                assert_eq!(request.headers()["te"], "trailers");
                match send(answer, respond) {
                    Some(respond) => unanswered.push((request, respond)),
                    None => drop(request),
                }
            }
            if !hangs_up {
                // Goes on until the client leaves.
                while connection.accept().await.is_some() {}
            }
        }
    });
    address
}

fn send(answer: Answer, mut respond: SendResponse<Bytes>) -> Option<SendResponse<Bytes>> {
    let head = || Response::builder().header("content-type", "application/grpc");
    match answer {
        Answer::Message(message) => {
            let mut body = respond.send_response(head().body(()).unwrap(), false).unwrap();
            let (one, other) = message.split_at(message.len() / 2);
            body.send_data(Bytes::from_static(one), false).unwrap();
            body.send_data(Bytes::from_static(other), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            body.send_trailers(trailers).unwrap();
            None
        }
        Answer::Failure(status) => {
            let head = head().header("grpc-status", status).header("grpc-message", "as told");
            respond.send_response(head.body(()).unwrap(), true).unwrap();
            None
        }
        Answer::Nothing => Some(respond),
    }
}

/// Submits all at once; the outcomes by tag.
async fn ask(session: &mut EtcdSession, operations: &[Operation]) -> Vec<Outcome> {
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
async fn answers_are_matched_to_requests_and_failures_told_apart() {
    const EMPTY: &[u8] = b"\0\0\0\0\0";
    let answers = [
        Answer::Message(FOUND),
        Answer::Message(EMPTY),
        Answer::Failure("8"),
        Answer::Failure("14"),
        Answer::Failure("14"),
        Answer::Message(EMPTY),
    ];
    let address = serve(vec![answers.to_vec()]).await;
    let mut session = EtcdSession::open(vec![address], 0).await.unwrap();
    let outcomes = ask(&mut session, &[get(), put(), put(), put(), get(), get()]).await;
    let reason = || "as told".into();
    assert_eq!(
        outcomes,
        [
            Outcome::read(Some(Bytes::from_static(b"v"))),
            Outcome::WRITTEN,
            Outcome::NoEffect(reason()),
            Outcome::Unknown(reason()),
            Outcome::NoEffect(reason()),
            Outcome::read(None),
        ]
    );
}

#[tokio::test]
async fn a_read_modify_write_writes_after_it_has_read() {
    let answers = vec![Answer::Message(FOUND), Answer::Message(b"\0\0\0\0\0")];
    let address = serve(vec![answers]).await;
    let mut session = EtcdSession::open(vec![address], 0).await.unwrap();
    let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"w"));
    let outcomes = ask(&mut session, &[Operation::ReadModifyWrite { key, value }]).await;
    assert_eq!(outcomes, [Outcome::read(Some(Bytes::from_static(b"v")))]);
}

#[tokio::test]
async fn a_lost_connection_ends_all_that_is_under_way_and_is_replaced() {
    let first = vec![Answer::Nothing, Answer::Nothing, Answer::Message(FOUND)];
    let address = serve(vec![first, vec![Answer::Message(FOUND)]]).await;
    let mut session = EtcdSession::open(vec![address], 0).await.unwrap();
    let outcomes = ask(&mut session, &[get(), put(), get()]).await;
    assert!(matches!(outcomes[0], Outcome::NoEffect(_)), "{outcomes:?}");
    assert!(matches!(outcomes[1], Outcome::Unknown(_)), "{outcomes:?}");
    // The third answer may have been lost with the connection.
    assert!(!matches!(outcomes[2], Outcome::Unknown(_)), "{outcomes:?}");
    let outcomes = ask(&mut session, &[get()]).await;
    assert_eq!(outcomes, [Outcome::read(Some(Bytes::from_static(b"v")))]);
}
