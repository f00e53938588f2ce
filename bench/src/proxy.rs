//! Proxies between the nodes of a cluster: they cut connections and swallow frames.
//!
//! Every pair of nodes has a proxy for each direction: a node dials its peers there instead of at
//! their own addresses. Cutting closes the connections of a link, and the nodes dial again. A
//! swallowed frame is one that the network lost without either end noticing: the connection lives,
//! and what was in the frame never arrives.
//!
//! Of the peers' protocol this knows where a greeting and a frame end, as `docs/peer-protocol.md`
//! says, and nothing else.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes of a greeting before its payload; the payload's length stands at 12.
const GREETING_BYTES: usize = 20;
/// The kind of a greeting that begins a connection with frames.
const HELLO: u8 = 1;
/// A frame's length and checksum; the length counts what follows.
const FRAME_PREFIX_BYTES: usize = 8;

/// What the proxies have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Harm {
    /// Connections that were closed.
    pub cut: u64,
    /// Frames that never arrived.
    pub swallowed: u64,
}

/// All links of a cluster. Dropping it ends them.
pub struct Proxies {
    links: BTreeMap<(u64, u64), Link>,
    _tasks: JoinSet<()>,
}

struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: SocketAddr,
    /// Connections of earlier generations end.
    generation: watch::Sender<u64>,
    /// Frames to swallow from now on.
    to_swallow: AtomicU64,
    cut: AtomicU64,
    swallowed: AtomicU64,
}

impl Proxies {
    /// A link from every node to every other one, on free loopback ports.
    ///
    /// # Errors
    ///
    /// If there are no ports.
    pub async fn between(nodes: &BTreeMap<u64, SocketAddr>) -> anyhow::Result<Proxies> {
        let mut links = BTreeMap::new();
        let mut tasks = JoinSet::new();
        for from in nodes.keys() {
            for (to, address) in nodes.iter().filter(|(to, _)| *to != from) {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                    .await
                    .context("no port for a proxy")?;
                let shared = Arc::new(Shared {
                    to: *address,
                    generation: watch::Sender::new(0),
                    to_swallow: AtomicU64::new(0),
                    cut: AtomicU64::new(0),
                    swallowed: AtomicU64::new(0),
                });
                let address = listener.local_addr()?;
                tasks.spawn(accept(listener, Arc::clone(&shared)));
                links.insert((*from, *to), Link { address, shared });
            }
        }
        Ok(Proxies { links, _tasks: tasks })
    }

    /// Where node `from` finds node `to`.
    pub fn address(&self, from: u64, to: u64) -> SocketAddr {
        self.links[&(from, to)].address
    }

    /// The pairs of nodes, each with a direction.
    pub fn links(&self) -> Vec<(u64, u64)> {
        self.links.keys().copied().collect()
    }

    /// Closes what is open from `from` to `to`.
    pub fn cut(&self, (from, to): (u64, u64)) {
        self.links[&(from, to)].shared.generation.send_modify(|generation| *generation += 1);
    }

    /// Swallows the next `count` frames from `from` to `to`.
    pub fn swallow(&self, (from, to): (u64, u64), count: u64) {
        self.links[&(from, to)].shared.to_swallow.fetch_add(count, Ordering::Relaxed);
    }

    /// Lets everything pass from now on.
    pub fn heal(&self) {
        for link in self.links.values() {
            link.shared.to_swallow.store(0, Ordering::Relaxed);
        }
    }

    /// What was done so far.
    pub fn harm(&self) -> Harm {
        let sum = |count: fn(&Shared) -> &AtomicU64| {
            self.links.values().map(|link| count(&link.shared).load(Ordering::Relaxed)).sum()
        };
        Harm { cut: sum(|shared| &shared.cut), swallowed: sum(|shared| &shared.swallowed) }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(carry(stream, Arc::clone(&shared)));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection until either end closes it, or it is cut.
async fn carry(dialer: TcpStream, shared: Arc<Shared>) {
    let mut generation = shared.generation.subscribe();
    generation.mark_unchanged();
    // A node that does not listen now is met with a closed connection, as without a proxy.
    let Ok(acceptor) = TcpStream::connect(shared.to).await else { return };
    let _ = (dialer.set_nodelay(true), acceptor.set_nodelay(true));
    let (dialer_reads, mut dialer_writes) = dialer.into_split();
    let (mut acceptor_reads, acceptor_writes) = acceptor.into_split();
    tokio::select! {
        _ = forth(dialer_reads, acceptor_writes, &shared) => {}
        _ = copy(&mut acceptor_reads, &mut dialer_writes) => {}
        _ = generation.changed() => {
            shared.cut.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Carries what the dialer says: a greeting, then frames.
async fn forth(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut greeting = [0; GREETING_BYTES];
    from.read_exact(&mut greeting).await?;
    to.write_all(&greeting).await?;
    if greeting[10] != HELLO {
        copy(&mut from, &mut to).await?;
        return Ok(());
    }
    pass(&mut from, &mut to, u64::from(number_at(&greeting, 12))).await?;
    loop {
        let mut prefix = [0; FRAME_PREFIX_BYTES];
        from.read_exact(&mut prefix).await?;
        let length = u64::from(number_at(&prefix, 0));
        if take_one(&shared.to_swallow) {
            shared.swallowed.fetch_add(1, Ordering::Relaxed);
            pass(&mut from, &mut tokio::io::sink(), length).await?;
        } else {
            to.write_all(&prefix).await?;
            pass(&mut from, &mut to, length).await?;
        }
    }
}

fn number_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn take_one(count: &AtomicU64) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok()
}

async fn pass<W: tokio::io::AsyncWrite + Unpin>(
    from: &mut OwnedReadHalf,
    to: &mut W,
    bytes: u64,
) -> std::io::Result<()> {
    let passed = copy(&mut from.take(bytes), to).await?;
    if passed < bytes {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(payload: &[u8]) -> Vec<u8> {
        let mut bytes = b"FLOTPEER".to_vec();
        bytes.extend_from_slice(&[1, 0, HELLO, 0]);
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(payload);
        bytes
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(payload);
        bytes
    }

    async fn link() -> (Proxies, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nodes = [(1, "127.0.0.1:1".parse().unwrap()), (2, listener.local_addr().unwrap())];
        (Proxies::between(&nodes.into()).await.unwrap(), listener)
    }

    #[tokio::test]
    async fn whole_frames_are_swallowed_and_nothing_else() {
        let (proxies, listener) = link().await;
        let mut dialer = TcpStream::connect(proxies.address(1, 2)).await.unwrap();
        dialer.write_all(&greeting(b"hello")).await.unwrap();
        let (mut acceptor, _) = listener.accept().await.unwrap();
        let mut seen = vec![0; greeting(b"hello").len()];
        acceptor.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, greeting(b"hello"));
        proxies.swallow((1, 2), 1);
        dialer.write_all(&frame(b"lost in the network")).await.unwrap();
        dialer.write_all(&frame(b"kept")).await.unwrap();
        let mut seen = vec![0; frame(b"kept").len()];
        acceptor.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, frame(b"kept"));
        assert_eq!(proxies.harm(), Harm { cut: 0, swallowed: 1 });
    }

    #[tokio::test]
    async fn a_cut_closes_both_ends_and_later_connections_live() {
        let (proxies, listener) = link().await;
        for cut in 1..=2 {
            let mut dialer = TcpStream::connect(proxies.address(1, 2)).await.unwrap();
            dialer.write_all(&greeting(b"")).await.unwrap();
            let (mut acceptor, _) = listener.accept().await.unwrap();
            acceptor.read_exact(&mut [0; GREETING_BYTES]).await.unwrap();
            proxies.cut((1, 2));
            assert!(!matches!(dialer.read(&mut [0; 8]).await, Ok(1..)));
            assert!(!matches!(acceptor.read(&mut [0; 8]).await, Ok(1..)));
            assert_eq!(proxies.harm().cut, cut);
        }
    }
}
