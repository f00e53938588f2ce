//! Proxies between the nodes of a cluster: they cut connections and swallow frames, and make the
//! network between two nodes as bad as a [`Weather`] says.
//!
//! Every pair of nodes has a proxy for each direction: a node dials its peers there instead of at
//! their own addresses. Cutting closes the connections of a link, and the nodes dial again. A
//! swallowed frame is one that the network lost without either end noticing: the connection lives,
//! and what was in the frame never arrives.
//!
//! Weather is of one direction between two nodes, on whoever's connection the bytes travel: what a
//! node answers on a connection that its peer dialed is subject to the weather of its own direction.
//!
//! Of the peers' protocol this knows where a greeting and a frame end, as `docs/peer-protocol.md`
//! says, and nothing else.

mod way;

pub use way::Weather;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use way::Way;

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
    /// From the dialer to the acceptor.
    way: Arc<Way>,
}

/// What the connections of a link share.
struct Shared {
    to: SocketAddr,
    /// Connections of earlier generations end.
    generation: watch::Sender<u64>,
    cut: AtomicU64,
}

impl Proxies {
    /// A link from every node to every other one, on free loopback ports.
    ///
    /// # Errors
    ///
    /// If there are no ports.
    pub async fn between(nodes: &BTreeMap<u64, SocketAddr>) -> anyhow::Result<Proxies> {
        let pairs = nodes.keys().flat_map(|from| nodes.keys().map(move |to| (*from, *to)));
        let ways: BTreeMap<(u64, u64), Arc<Way>> = pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| ((from, to), Arc::new(Way::new(from << 32 | to))))
            .collect();
        let mut links = BTreeMap::new();
        let mut tasks = JoinSet::new();
        for (&(from, to), way) in &ways {
            let listener =
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port for a proxy")?;
            let shared = Arc::new(Shared {
                to: nodes[&to],
                generation: watch::Sender::new(0),
                cut: AtomicU64::new(0),
            });
            let address = listener.local_addr()?;
            let (way, back) = (Arc::clone(way), Arc::clone(&ways[&(to, from)]));
            tasks.spawn(accept(listener, Arc::clone(&shared), Arc::clone(&way), back));
            links.insert((from, to), Link { address, shared, way });
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
        self.links[&(from, to)].way.swallow(count);
    }

    /// Lets the weather from `from` to `to` be `weather` from now on.
    pub fn set_weather(&self, (from, to): (u64, u64), weather: Weather) {
        self.links[&(from, to)].way.set_weather(weather);
    }

    /// Lets everything pass from now on.
    pub fn heal(&self) {
        for link in self.links.values() {
            link.way.swallow_no_more();
            link.way.set_weather(Weather::FAIR);
        }
    }

    /// What was done so far.
    pub fn harm(&self) -> Harm {
        let cut = self.links.values().map(|link| link.shared.cut.load(Ordering::Relaxed)).sum();
        Harm { cut, swallowed: self.links.values().map(|link| link.way.swallowed()).sum() }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, way: Arc<Way>, back: Arc<Way>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let carried = carry(stream, Arc::clone(&shared), Arc::clone(&way), Arc::clone(&back));
                connections.spawn(carried);
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection until either end closes it, or it is cut.
async fn carry(dialer: TcpStream, shared: Arc<Shared>, way: Arc<Way>, back: Arc<Way>) {
    let mut generation = shared.generation.subscribe();
    generation.mark_unchanged();
    let connected = async {
        // Who dials into nothing is heard later, if at all.
        way.pass().await;
        TcpStream::connect(shared.to).await
    };
    let acceptor = tokio::select! {
        connected = connected => connected,
        _ = generation.changed() => return,
    };
    // A node that does not listen now is met with a closed connection, as without a proxy.
    let Ok(acceptor) = acceptor else { return };
    let _ = (dialer.set_nodelay(true), acceptor.set_nodelay(true));
    let (dialer_reads, dialer_writes) = dialer.into_split();
    let (acceptor_reads, acceptor_writes) = acceptor.into_split();
    tokio::select! {
        _ = way.carry_frames(dialer_reads, acceptor_writes) => {}
        _ = back.carry_bytes(acceptor_reads, dialer_writes) => {}
        _ = generation.changed() => {
            shared.cut.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::way::{GREETING_BYTES, HELLO};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    #[tokio::test]
    async fn what_is_held_arrives_when_it_is_let_go() {
        let (proxies, listener) = link().await;
        let mut dialer = TcpStream::connect(proxies.address(1, 2)).await.unwrap();
        dialer.write_all(&greeting(b"")).await.unwrap();
        let (mut acceptor, _) = listener.accept().await.unwrap();
        acceptor.read_exact(&mut [0; GREETING_BYTES]).await.unwrap();
        proxies.set_weather((1, 2), Weather { held: true, ..Weather::FAIR });
        dialer.write_all(&frame(b"late")).await.unwrap();
        // The other direction is open, and answers on this connection go its way.
        acceptor.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        dialer.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        let mut seen = vec![0; frame(b"late").len()];
        let early = acceptor.try_read(&mut seen);
        assert_eq!(early.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        proxies.set_weather((1, 2), Weather::FAIR);
        acceptor.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, frame(b"late"));
    }

    #[tokio::test]
    async fn answers_on_a_connection_are_held_with_their_own_direction() {
        let (proxies, listener) = link().await;
        let mut dialer = TcpStream::connect(proxies.address(1, 2)).await.unwrap();
        dialer.write_all(&greeting(b"")).await.unwrap();
        let (mut acceptor, _) = listener.accept().await.unwrap();
        acceptor.read_exact(&mut [0; GREETING_BYTES]).await.unwrap();
        proxies.set_weather((2, 1), Weather { held: true, ..Weather::FAIR });
        acceptor.write_all(b"answer").await.unwrap();
        dialer.write_all(&frame(b"question")).await.unwrap();
        let mut seen = vec![0; frame(b"question").len()];
        acceptor.read_exact(&mut seen).await.unwrap();
        let early = dialer.try_read(&mut [0; 6]);
        assert_eq!(early.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        proxies.heal();
        let mut answer = [0; 6];
        dialer.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
    }

    #[tokio::test]
    async fn in_a_storm_every_frame_is_lost_and_the_greeting_is_not() {
        let (proxies, listener) = link().await;
        proxies.set_weather((1, 2), Weather { lost_per_mille: 1000, ..Weather::FAIR });
        let mut dialer = TcpStream::connect(proxies.address(1, 2)).await.unwrap();
        dialer.write_all(&greeting(b"")).await.unwrap();
        let (mut acceptor, _) = listener.accept().await.unwrap();
        acceptor.read_exact(&mut [0; GREETING_BYTES]).await.unwrap();
        dialer.write_all(&frame(b"lost")).await.unwrap();
        dialer.shutdown().await.unwrap();
        assert_eq!(acceptor.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(proxies.harm(), Harm { cut: 0, swallowed: 1 });
    }
}
