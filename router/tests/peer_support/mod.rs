//! What the tests of the transport share: a recording end, messages, and a peer made of raw bytes.
#![allow(dead_code, reason = "each test binary uses a part")]

use bytes::{Bytes, BytesMut};
use flotilla_raft::{Entry, Index, Position, Round, Term};
use flotilla_router::peer::frame::{Assembly, Decoded, Parsed, decode_frame, parse};
use flotilla_router::peer::{
    ForwardedRequest, Inbound, PeerAddress, PeerMessage, PeerMetrics, TcpTransport,
    TransportOptions,
};
use flotilla_shard::{
    Consistency, Epoch, GroupId, GroupMessage, Message, NodeId, Operation, Origin, ReplicaId, Write,
};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub const CLUSTER: u128 = 0xC1A5_7E12;
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// The protocol version that `docs/peer-protocol.md` describes.
pub const VERSION: u16 = 3;

/// A test that hangs is a failed test.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(30), future).await;
    waited.unwrap_or_else(|_| panic!("still waiting: {what}"))
}

#[derive(Debug, PartialEq)]
pub enum Event {
    Received(NodeId, Vec<PeerMessage>),
    Connected(NodeId),
    Disconnected(NodeId),
    Unsent(NodeId, Vec<u64>),
}

struct Recorder(mpsc::UnboundedSender<Event>);

impl Inbound for Recorder {
    fn receive(&self, from: NodeId, messages: Vec<PeerMessage>) {
        let _ = self.0.send(Event::Received(from, messages));
    }
    fn connected(&self, node: NodeId) {
        let _ = self.0.send(Event::Connected(node));
    }
    fn disconnected(&self, node: NodeId) {
        let _ = self.0.send(Event::Disconnected(node));
    }
    fn unsent(&self, node: NodeId, requests: Vec<u64>) {
        let _ = self.0.send(Event::Unsent(node, requests));
    }
}

pub struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    pub async fn next(&mut self) -> Event {
        within("an event", self.0.recv()).await.expect("the transport is gone")
    }

    pub async fn until(&mut self, wanted: Event) {
        while self.next().await != wanted {}
    }

    /// The next batch from `node`.
    pub async fn received(&mut self, node: NodeId) -> Vec<PeerMessage> {
        loop {
            match self.next().await {
                Event::Received(from, messages) if from == node => return messages,
                _ => {}
            }
        }
    }

    pub fn try_next(&mut self) -> Option<Event> {
        self.0.try_recv().ok()
    }
}

pub fn recorder() -> (Arc<dyn Inbound>, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Arc::new(Recorder(sender)), Events(receiver))
}

pub fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Node ids double as incarnations, times 100.
pub fn incarnation(node: u64) -> u64 {
    node * 100
}

pub fn options(me: u64, peers: &[(u64, &str)]) -> TransportOptions {
    let mut options = TransportOptions::new(NodeId(me), incarnation(me), 1, CLUSTER);
    options.peers = peers
        .iter()
        .map(|(node, address)| {
            let incarnation = incarnation(*node);
            (NodeId(*node), PeerAddress { address: address.to_string(), incarnation })
        })
        .collect::<BTreeMap<_, _>>();
    options
}

pub struct Node {
    pub transport: Arc<TcpTransport>,
    pub events: Events,
    pub metrics: PeerMetrics,
}

pub fn start(options: TransportOptions, listener: TcpListener) -> Node {
    let (inbound, events) = recorder();
    let metrics = PeerMetrics::new();
    let runtimes = vec![Handle::current()];
    let transport =
        TcpTransport::start(options, listener, inbound, runtimes, metrics.clone()).unwrap();
    Node { transport, events, metrics }
}

/// The value of a metric, labels summed.
pub fn metric(metrics: &PeerMetrics, name: &str) -> f64 {
    let registry = prometheus::Registry::new();
    metrics.register(&registry).unwrap();
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).expect("a known name");
    let value =
        |m: &prometheus::proto::Metric| m.get_counter().get_value() + m.get_gauge().get_value();
    family.get_metric().iter().map(value).sum()
}

/// Waits until a metric has a value.
pub async fn until_metric(metrics: &PeerMetrics, name: &str, value: f64) {
    let reached = async {
        while metric(metrics, name) != value {
            tokio::task::yield_now().await;
        }
    };
    within(name, reached).await;
}

pub fn request(id: u64, value_bytes: usize) -> PeerMessage {
    let operation = Operation::Write(Write::Put {
        key: Bytes::from(format!("key:{id}")),
        value: Bytes::from(vec![id as u8; value_bytes]),
        condition: flotilla_shard::Condition::Always,
        return_previous: false,
        expiry: flotilla_shard::Expiry::Never,
    });
    let body = ForwardedRequest {
        group: GroupId(1),
        epoch: Epoch::FIRST,
        operation,
        consistency: Consistency::Linearizable,
        origin: Origin::default(),
        timeout: Duration::from_millis(1500),
    };
    PeerMessage::Request { id, body }
}

fn raft(group: u64, message: Message) -> PeerMessage {
    let (from, to) = (ReplicaId(1), ReplicaId(2));
    PeerMessage::Raft(GroupMessage { group: GroupId(group), from, to, message })
}

pub fn heartbeat(group: u64) -> PeerMessage {
    raft(
        group,
        Message::Heartbeat {
            term: Term(3),
            commit: Index(7),
            round: Round(group),
            answered: Round(0),
        },
    )
}

pub fn append(group: u64, value: Bytes) -> PeerMessage {
    let entry = Entry { index: Index(1), term: Term(3), payload: value };
    let message = Message::Append {
        term: Term(3),
        prev: Position::default(),
        commit: Index(0),
        entries: vec![entry],
    };
    raft(group, message)
}

pub fn ids(messages: &[PeerMessage]) -> Vec<u64> {
    messages
        .iter()
        .map(|message| match message {
            PeerMessage::Request { id, .. } | PeerMessage::Reply { id, .. } => *id,
            PeerMessage::Raft(message) => message.group.0,
            PeerMessage::Snapshot(message) => message.transfer().number,
        })
        .collect()
}

/// A greeting, written by hand from `docs/peer-protocol.md`.
pub fn envelope(version: u16, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"FLOTPEER".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend([kind, 0]);
    bytes.extend((payload.len() as u32).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[8..16]), payload);
    bytes.extend(checksum.to_le_bytes());
    bytes.extend(payload);
    bytes
}

pub struct Hello {
    pub class: u8,
    pub cluster: u128,
    pub from: (u64, u64, u64),
    pub to: (u64, u64),
}

impl Hello {
    /// What node `from` says to node `to` when all is well.
    pub fn good(from: u64, to: u64) -> Hello {
        let from = (from, incarnation(from), 1);
        Hello { class: 2, cluster: CLUSTER, from, to: (to, incarnation(to)) }
    }

    pub fn payload(&self) -> Vec<u8> {
        let mut bytes = vec![self.class];
        bytes.extend(self.cluster.to_le_bytes());
        for number in [self.from.0, self.from.1, self.from.2, self.to.0, self.to.1] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    pub fn bytes(&self) -> Vec<u8> {
        envelope(VERSION, 1, &self.payload())
    }
}

/// Reads one greeting: kind and payload.
pub async fn read_envelope(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 20];
    stream.read_exact(&mut header).await?;
    assert_eq!(&header[..8], b"FLOTPEER");
    let length = u32::from_le_bytes(header[12..16].try_into().unwrap());
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await?;
    Ok((header[10], payload))
}

/// Greets at `address` and returns the stream and the answer.
pub async fn greet(address: SocketAddr, greeting: &[u8]) -> (TcpStream, (u8, Vec<u8>)) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(greeting).await.unwrap();
    let answer = within("an answer", read_envelope(&mut stream)).await.unwrap();
    (stream, answer)
}

/// Reason and text of a refusal.
pub fn refusal((kind, payload): (u8, Vec<u8>)) -> (u8, String) {
    assert_eq!(kind, 3, "a refusal");
    (payload[0], String::from_utf8(payload[5..].to_vec()).unwrap())
}

/// A peer made of raw connections: it welcomes, and then does what the test says.
pub struct FakePeer {
    me: u64,
    listener: tokio::net::TcpListener,
}

impl FakePeer {
    pub async fn new(me: u64) -> (FakePeer, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (FakePeer { me, listener }, address)
    }

    /// Welcomes the next dialer, and returns its class.
    pub async fn welcome(&self) -> (u8, TcpStream) {
        let (mut stream, _) = within("a dialer", self.listener.accept()).await.unwrap();
        let (kind, hello) = within("a hello", read_envelope(&mut stream)).await.unwrap();
        assert_eq!(kind, 1);
        let mut payload = Vec::new();
        for number in [self.me, incarnation(self.me), 1] {
            payload.extend(number.to_le_bytes());
        }
        stream.write_all(&envelope(VERSION, 2, &payload)).await.unwrap();
        (hello[0], stream)
    }

    /// Welcomes all connections: liveness, data, bulk.
    pub async fn welcome_all(&self) -> [TcpStream; 3] {
        let mut streams = [self.welcome().await, self.welcome().await, self.welcome().await];
        streams.sort_by_key(|(class, _)| *class);
        streams.map(|(_, stream)| stream)
    }
}

/// Reads frames from a raw connection.
pub struct FrameReader {
    pub stream: TcpStream,
    buffer: BytesMut,
    assembly: Assembly,
}

impl FrameReader {
    pub fn new(stream: TcpStream) -> FrameReader {
        FrameReader { stream, buffer: BytesMut::new(), assembly: Assembly::new(FRAME_BYTES_MAX) }
    }

    /// The messages of the next frame that completes any, or `None` at the end.
    pub async fn next(&mut self) -> Option<Vec<PeerMessage>> {
        loop {
            match parse(&mut self.buffer, FRAME_BYTES_MAX).unwrap() {
                Parsed::Frame(frame) => {
                    let mut messages = Vec::new();
                    let decoded = decode_frame(frame, &mut self.assembly, &mut messages).unwrap();
                    if decoded != Decoded::Messages(0) && !messages.is_empty() {
                        return Some(messages);
                    }
                }
                Parsed::Missing(_) => {
                    let read = self.stream.read_buf(&mut self.buffer);
                    if within("a frame", read).await.unwrap_or(0) == 0 {
                        return None;
                    }
                }
            }
        }
    }
}
