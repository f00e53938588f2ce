//! Accepts clients, spreads them over the lanes, and ends them when the node stops.

use super::backend::Backend;
use super::clients::Clients;
use super::commands::Context;
use super::connection::{Connection, Stop};
use super::cursor::Cursors;
use super::info::{Birth, ServerInfo};
use super::metrics::RespMetrics;
use super::options::RespOptions;
use super::throttle::Refused;
use flotilla_shard::Budget;
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};

/// How long accepting rests after it failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the system may keep of a connection that is not read. By itself it would grow to several
/// megabytes each when the server cannot follow: seconds of work that nobody counts, and most of it
/// for clients that will have given up. One full window of this size per round trip is enough for
/// large values over a local network.
const RECEIVE_BUFFER_BYTES: usize = 128 << 10;

/// What a server is given besides its data.
pub struct Wiring {
    /// Limits and times.
    pub options: RespOptions,
    /// Where its tasks run.
    pub handles: Vec<Handle>,
    /// What it tells about its node.
    pub info: Arc<dyn ServerInfo>,
    /// Where it counts.
    pub metrics: RespMetrics,
    /// The node's memory.
    pub budget: Budget,
}

/// A running RESP server.
///
/// Dropping it closes all connections at once; [`RespServer::shutdown`] lets requests finish.
#[derive(Debug)]
pub struct RespServer {
    local_address: SocketAddr,
    stop: watch::Sender<Stop>,
    /// Ends when every task of the server has ended.
    ended: Mutex<Option<mpsc::Receiver<Infallible>>>,
    handle: Handle,
    shutdown_grace: Duration,
}

impl RespServer {
    /// Serves the clients of `listener` from `backend`, in tasks on the given runtimes, in turn.
    ///
    /// # Errors
    ///
    /// What the system says about the listener.
    ///
    /// # Panics
    ///
    /// If there are no runtimes.
    pub fn serve<B: Backend>(
        listener: TcpListener,
        backend: B,
        wiring: Wiring,
    ) -> io::Result<RespServer> {
        let Wiring { options, handles, info, metrics, budget } = wiring;
        let handle = handles.first().expect("a server runs on at least one runtime").clone();
        listener.set_nonblocking(true)?;
        // Connections inherit it.
        SockRef::from(&listener).set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        let local_address = listener.local_addr()?;
        let nonce: u64 = rand::random();
        let run_id = format!("{:032x}{:08x}", rand::random::<u128>(), rand::random::<u32>());
        let shutdown_grace = options.shutdown_grace;
        let context = Arc::new(Context {
            backend,
            cursors: Cursors::new(nonce, options.cursors_max),
            options,
            metrics,
            clients: Clients::default(),
            info,
            birth: Birth { started: Instant::now(), run_id },
            local_address,
            budget,
            slow_turn: Semaphore::new(1),
            refused: Arc::new(Refused::new(handles.len())),
        });
        let (stop, stopping) = watch::channel(Stop::Not);
        let (alive, ended) = mpsc::channel(1);
        let listener = {
            let _on_runtime = handle.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let acceptor = Acceptor { context, handles, stopping, alive };
        handle.spawn(acceptor.run(listener));
        let ended = Mutex::new(Some(ended));
        Ok(RespServer { local_address, stop, ended, handle, shutdown_grace })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.local_address
    }

    /// Accepts no more clients and takes no more requests, lets those under way be answered for as
    /// long as the options allow, and closes all connections. May be called again, to no effect.
    pub async fn shutdown(&self) {
        let Some(mut ended) = self.ended.lock().take() else { return };
        self.stop.send_replace(Stop::Soon);
        let (stop, grace) = (self.stop.clone(), self.shutdown_grace);
        // On the server's own runtime: the caller's may have no timers.
        let waiting = self.handle.spawn(async move {
            if tokio::time::timeout(grace, ended.recv()).await.is_err() {
                tracing::warn!(?grace, "closing Redis clients that still have requests under way");
                stop.send_replace(Stop::Now);
                ended.recv().await;
            }
        });
        if let Err(error) = waiting.await {
            tracing::warn!(%error, "the RESP server's runtime ended before its connections");
        }
    }
}

/// A client whose machine vanished is noticed after about two minutes.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4)
}

/// Takes clients in.
struct Acceptor<B> {
    context: Arc<Context<B>>,
    handles: Vec<Handle>,
    stopping: watch::Receiver<Stop>,
    /// Every task holds one: when the last is dropped, all have ended.
    alive: mpsc::Sender<Infallible>,
}

impl<B: Backend> Acceptor<B> {
    async fn run(mut self, listener: tokio::net::TcpListener) {
        let mut next = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = self.stopping.changed() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    next = (next + 1) % self.handles.len();
                    if let Err(error) = self.admit(stream, address, &self.handles[next]) {
                        tracing::debug!(%address, %error, "a Redis client was lost on arrival");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept Redis clients");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Starts the client's task on `handle`, whose reactor then owns the socket.
    fn admit(&self, stream: TcpStream, address: SocketAddr, handle: &Handle) -> io::Result<()> {
        let context = self.context.clone();
        context.metrics.connections_accepted.inc();
        if context.clients.len() >= context.options.connections_max {
            context.metrics.connections_refused.inc();
            // Told as far as the socket takes it at once, as Redis does.
            stream.try_write(b"-ERR max number of clients reached\r\n")?;
            return Ok(());
        }
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&keepalive())?;
        let local_address = stream.local_addr()?;
        let stream = stream.into_std()?;
        let stopping = self.stopping.clone();
        let alive = self.alive.clone();
        // Entered here, so that the next client already counts this one.
        let client = context.clients.enter(address, local_address);
        handle.spawn(async move {
            let _alive = alive;
            match TcpStream::from_std(stream) {
                Ok(stream) => Connection::new(context, stream, client).run(stopping).await,
                Err(error) => {
                    context.clients.leave(client.id);
                    tracing::debug!(%address, %error, "a Redis client was lost on arrival");
                }
            }
        });
        Ok(())
    }
}
