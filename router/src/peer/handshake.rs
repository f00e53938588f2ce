//! Who is there: the greeting that opens every connection to a peer port.
//!
//! The dialer says who it is, whom it wants, and which incarnation of it; the acceptor says
//! welcome, or why not. Nothing else is read before, and a greeting is bounded in bytes and in
//! time. Bytes: `docs/peer-protocol.md`.
//!
//! Invariants:
//!
//! * Both ends belong to one cluster, are the nodes that the other end means, and have the
//!   incarnations that the cluster was born with. A node whose directory was wiped or replaced has
//!   another one and is refused: it forgot its votes and would vote twice.
//! * The envelope and the refusal keep their layout over all protocol versions, so that any two
//!   releases can at least tell each other that they differ.
//!
//! What is absent: secrecy and authentication; a peer port belongs on a trusted network.

use super::message::{Class, node_name};
use bytes::{BufMut, Bytes, BytesMut};
use flotilla_shard::{DecodeError, NodeId, Reader, Writer};
use std::collections::BTreeMap;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The version of greetings and frames that this release speaks.
pub const PROTOCOL_VERSION: u16 = 3;

const MAGIC: [u8; 8] = *b"FLOTPEER";
const HEADER_BYTES: usize = 20;
const GREETING_BYTES_MAX: usize = 4096;
const REASON_BYTES_MAX: usize = 2048;
/// How much is read and thrown away behind a greeting that was refused.
const LINGER_BYTES_MAX: u64 = 1 << 20;

/// What a greeting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Hello = 1,
    Welcome = 2,
    Refused = 3,
    GenesisView = 4,
}

/// Who dials, and whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub class: Class,
    pub cluster_id: u128,
    pub from: Identity,
    pub to: NodeId,
    pub to_incarnation: u64,
}

/// One life of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name in the cluster.
    pub node: NodeId,
    /// Its data directory's random identity.
    pub incarnation: u64,
    /// Which start of that directory this is.
    pub boot: u64,
}

/// Why an acceptor refused a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalReason {
    /// The releases speak different protocols.
    ProtocolVersion,
    /// The two belong to different clusters.
    OtherCluster,
    /// The acceptor's cluster has no such node.
    UnknownNode,
    /// A data directory was wiped or replaced.
    WrongIncarnation,
    /// A node reached itself.
    Oneself,
    /// Another node listens at that address.
    WrongAddress,
    /// Another node has the dialer's id.
    DuplicateNode,
    /// The acceptor's cluster is still being born.
    NotReady,
    /// The greeting made no sense.
    Malformed,
    /// The releases keep data in different formats.
    OtherFormat,
    /// A reason that this release does not know.
    Other(u8),
}

impl RefusalReason {
    fn code(self) -> u8 {
        match self {
            RefusalReason::ProtocolVersion => 1,
            RefusalReason::OtherCluster => 2,
            RefusalReason::UnknownNode => 3,
            RefusalReason::WrongIncarnation => 4,
            RefusalReason::Oneself => 5,
            RefusalReason::WrongAddress => 6,
            RefusalReason::DuplicateNode => 7,
            RefusalReason::NotReady => 8,
            RefusalReason::Malformed => 9,
            RefusalReason::OtherFormat => 10,
            RefusalReason::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> RefusalReason {
        match code {
            1 => RefusalReason::ProtocolVersion,
            2 => RefusalReason::OtherCluster,
            3 => RefusalReason::UnknownNode,
            4 => RefusalReason::WrongIncarnation,
            5 => RefusalReason::Oneself,
            6 => RefusalReason::WrongAddress,
            7 => RefusalReason::DuplicateNode,
            8 => RefusalReason::NotReady,
            9 => RefusalReason::Malformed,
            10 => RefusalReason::OtherFormat,
            code => RefusalReason::Other(code),
        }
    }
}

/// A refusal as it travels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct HandshakeRefusal {
    /// For programs.
    pub reason: RefusalReason,
    /// For people: what is wrong and what to do, as the acceptor sees it.
    pub text: String,
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The network failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other end did not greet in time.
    #[error("no greeting in time: is it a Flotilla peer port, and is that node alive?")]
    TimedOut,
    /// What answers is something else.
    #[error("what answers there is not a Flotilla peer port: correct the address")]
    Foreign,
    /// The other end speaks another version of the protocol.
    #[error(
        "it speaks peer protocol {theirs}, this node {PROTOCOL_VERSION}: run releases that speak \
         the same on both"
    )]
    ProtocolVersion {
        /// Its version.
        theirs: u16,
    },
    /// The greeting makes no sense.
    #[error("malformed greeting: {0}")]
    Malformed(&'static str),
    /// The acceptor refused.
    #[error("refused: {0}")]
    Refused(HandshakeRefusal),
    /// Another incarnation of the node answered.
    #[error(
        "{name} answered with data directory {found:016x}, but the cluster was born with \
         {expected:016x}: its directory was wiped or replaced and it would vote twice; restore it",
        name = node_name(*node)
    )]
    WrongIncarnation {
        /// Who was dialed.
        node: NodeId,
        /// Of the cluster's birth.
        expected: u64,
        /// As answered.
        found: u64,
    },
    /// Another node answered.
    #[error("{found} answered instead of {expected}: correct the address of {expected}",
        found = node_name(*found), expected = node_name(*expected))]
    WrongNode {
        /// Who was dialed.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
}

impl From<DecodeError> for HandshakeError {
    fn from(error: DecodeError) -> Self {
        HandshakeError::Malformed(error.0)
    }
}

/// A greeting as read, before anybody judged it.
#[derive(Debug)]
pub(crate) struct Greeting {
    pub kind: Kind,
    pub payload: Bytes,
}

/// One greeting in bytes.
pub(crate) fn envelope(kind: Kind, payload: &[u8]) -> Bytes {
    let mut buffer = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    buffer.put_slice(&MAGIC);
    buffer.put_u16_le(PROTOCOL_VERSION);
    buffer.put_u8(kind as u8);
    buffer.put_u8(0);
    buffer.put_u32_le(u32::try_from(payload.len()).expect("greetings are bounded"));
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&buffer[8..16]), payload);
    buffer.put_u32_le(checksum);
    buffer.put_slice(payload);
    buffer.freeze()
}

/// Sends one greeting.
pub(crate) async fn write_greeting(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    payload: &[u8],
) -> io::Result<()> {
    stream.write_all(&envelope(kind, payload)).await
}

/// Sends a refusal and waits until the other end has closed: closing before it has would throw
/// away what it may not have read yet.
pub(crate) async fn refuse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    refusal: &HandshakeRefusal,
) -> io::Result<()> {
    let fits = |(start, char): &(usize, char)| start + char.len_utf8() <= REASON_BYTES_MAX;
    let text: String = refusal.text.char_indices().take_while(fits).map(|(_, char)| char).collect();
    let mut buffer = BytesMut::new();
    let mut out = Writer::new(&mut buffer);
    out.u8(refusal.reason.code());
    out.bytes(text.as_bytes());
    write_greeting(stream, Kind::Refused, &buffer).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}

/// Reads one greeting; a view of a cluster's birth may be `view_bytes_max` long. A refusal comes
/// back as [`HandshakeError::Refused`], whatever version its sender speaks.
pub(crate) async fn read_greeting(
    stream: &mut (impl AsyncRead + Unpin),
    view_bytes_max: usize,
) -> Result<Greeting, HandshakeError> {
    let mut header = [0; HEADER_BYTES];
    // Foreign traffic shows in the first bytes; it may never send as many as a header has.
    stream.read_exact(&mut header[..8]).await?;
    if header[..8] != MAGIC {
        return Err(HandshakeError::Foreign);
    }
    stream.read_exact(&mut header[8..]).await?;
    let version = u16::from_le_bytes([header[8], header[9]]);
    let length = u32::from_le_bytes([header[12], header[13], header[14], header[15]]) as usize;
    let checksum = u32::from_le_bytes([header[16], header[17], header[18], header[19]]);
    let kind = match header[10] {
        3 => Kind::Refused,
        _ if version != PROTOCOL_VERSION => {
            return Err(HandshakeError::ProtocolVersion { theirs: version });
        }
        1 => Kind::Hello,
        2 => Kind::Welcome,
        4 => Kind::GenesisView,
        _ => return Err(HandshakeError::Malformed("unknown kind of greeting")),
    };
    let length_max = if kind == Kind::GenesisView { view_bytes_max } else { GREETING_BYTES_MAX };
    if length > length_max {
        return Err(HandshakeError::Malformed("the greeting is too long"));
    }
    // Grows as bytes arrive: a claimed length reserves nothing.
    let mut payload = BytesMut::new();
    let mut rest = stream.take(length as u64);
    while payload.len() < length {
        if rest.read_buf(&mut payload).await? == 0 {
            return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    if crc32c::crc32c_append(crc32c::crc32c(&header[8..16]), &payload) != checksum {
        return Err(HandshakeError::Malformed("the greeting fails its checksum"));
    }
    let payload = payload.freeze();
    if kind == Kind::Refused {
        let mut input = Reader::new(payload);
        let reason = RefusalReason::from_code(input.u8()?);
        let text = String::from_utf8_lossy(&input.bytes()?).into_owned();
        return Err(HandshakeError::Refused(HandshakeRefusal { reason, text }));
    }
    Ok(Greeting { kind, payload })
}

impl Hello {
    pub(crate) fn encode(&self) -> BytesMut {
        let mut buffer = BytesMut::new();
        let mut out = Writer::new(&mut buffer);
        out.u8(match self.class {
            Class::Liveness => 1,
            Class::Data => 2,
            Class::Bulk => 3,
        });
        out.u64(self.cluster_id as u64);
        out.u64((self.cluster_id >> 64) as u64);
        self.from.encode(&mut out);
        out.u64(self.to.0);
        out.u64(self.to_incarnation);
        buffer
    }

    pub(crate) fn decode(payload: Bytes) -> Result<Hello, DecodeError> {
        let mut input = Reader::new(payload);
        let hello = Hello {
            class: match input.u8()? {
                1 => Class::Liveness,
                2 => Class::Data,
                3 => Class::Bulk,
                _ => return Err(DecodeError("unknown class of connection")),
            },
            cluster_id: u128::from(input.u64()?) | u128::from(input.u64()?) << 64,
            from: Identity::decode(&mut input)?,
            to: NodeId(input.u64()?),
            to_incarnation: input.u64()?,
        };
        input.finish()?;
        Ok(hello)
    }
}

impl Identity {
    pub(crate) fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.node.0);
        out.u64(self.incarnation);
        out.u64(self.boot);
    }

    pub(crate) fn decode(input: &mut Reader) -> Result<Identity, DecodeError> {
        Ok(Identity { node: NodeId(input.u64()?), incarnation: input.u64()?, boot: input.u64()? })
    }
}

/// The dialer's half: greets over a fresh connection and returns who answered.
pub(crate) async fn introduce(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    hello: &Hello,
) -> Result<Identity, HandshakeError> {
    write_greeting(stream, Kind::Hello, &hello.encode()).await?;
    let greeting = read_greeting(stream, 0).await?;
    if greeting.kind != Kind::Welcome {
        return Err(HandshakeError::Malformed("neither a welcome nor a refusal"));
    }
    let mut input = Reader::new(greeting.payload);
    let answered = Identity::decode(&mut input)?;
    input.finish()?;
    if answered.node != hello.to {
        return Err(HandshakeError::WrongNode { expected: hello.to, found: answered.node });
    }
    if answered.incarnation != hello.to_incarnation {
        return Err(HandshakeError::WrongIncarnation {
            node: hello.to,
            expected: hello.to_incarnation,
            found: answered.incarnation,
        });
    }
    Ok(answered)
}

/// The acceptor's last word when it likes the dialer.
pub(crate) async fn write_welcome(
    stream: &mut (impl AsyncWrite + Unpin),
    me: &Identity,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    me.encode(&mut Writer::new(&mut buffer));
    write_greeting(stream, Kind::Welcome, &buffer).await
}

/// The acceptor's judgement: whether a dialer that says `hello` may come in.
pub(crate) fn judge(
    hello: &Hello,
    me: &Identity,
    cluster_id: u128,
    incarnations: &BTreeMap<NodeId, u64>,
) -> Result<(), HandshakeRefusal> {
    let refuse = |reason, text| Err(HandshakeRefusal { reason, text });
    let mine = node_name(me.node);
    let from = node_name(hello.from.node);
    if hello.cluster_id != cluster_id {
        return refuse(
            RefusalReason::OtherCluster,
            format!(
                "{mine} belongs to cluster {cluster_id:032x}, the caller ({from}) to \
                 {:032x}: correct the peer addresses, or the data directory",
                hello.cluster_id
            ),
        );
    }
    if hello.from == *me {
        return refuse(
            RefusalReason::Oneself,
            format!(
                "{mine} has reached itself: the address listed for {} is its own; correct the \
                 peer addresses",
                node_name(hello.to)
            ),
        );
    }
    if hello.from.node == me.node {
        return refuse(
            RefusalReason::DuplicateNode,
            format!("this is {mine} too: two nodes run with the same id; stop one of them"),
        );
    }
    if hello.to != me.node {
        return refuse(
            RefusalReason::WrongAddress,
            format!(
                "this is {mine}, not {to}: correct the address that is listed for {to}",
                to = node_name(hello.to)
            ),
        );
    }
    let Some(known) = incarnations.get(&hello.from.node) else {
        return refuse(
            RefusalReason::UnknownNode,
            format!(
                "the cluster of {mine} has no {from}: correct its node id; adding nodes comes \
                 with membership changes"
            ),
        );
    };
    if hello.from.incarnation != *known {
        return refuse(
            RefusalReason::WrongIncarnation,
            format!(
                "{from} comes with data directory {:016x}, but the cluster was born with {known:016x}: \
                 the directory was wiped or replaced and {from} would vote twice; restore the \
                 original one",
                hello.from.incarnation
            ),
        );
    }
    if hello.to_incarnation != me.incarnation {
        return refuse(
            RefusalReason::WrongIncarnation,
            format!(
                "{from} expects {mine} with data directory {:016x}, but it runs on {:016x}: it was \
                 wiped or replaced; restore the original one",
                hello.to_incarnation, me.incarnation
            ),
        );
    }
    Ok(())
}
