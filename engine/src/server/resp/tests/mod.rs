//! Connections over a pipe in memory, with data that answers when the test says so.

mod fake;
mod limits;
mod model;
mod ordering;
mod range;
mod transactions;

use super::clients::Clients;
use super::commands::Context;
use super::connection::{Connection, Stop};
use super::cursor::Cursors;
use super::info::{Birth, ServerFacts, ServerInfo};
use super::metrics::RespMetrics;
use super::options::RespOptions;
use fake::Fake;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

struct NoFacts;

impl ServerInfo for NoFacts {
    fn facts(&self) -> ServerFacts {
        ServerFacts::default()
    }
}

/// A client of a connection, on a runtime of one thread without clocks or sockets.
struct Client {
    stream: DuplexStream,
    fake: Fake,
    stop: watch::Sender<Stop>,
    context: Arc<Context<Fake>>,
    served: JoinHandle<()>,
}

impl Client {
    /// A client whose pipe holds `pipe_bytes` each way.
    fn connect(fake: Fake, options: RespOptions, pipe_bytes: usize) -> Client {
        let address = "127.0.0.1:1".parse().expect("an address");
        let context = Arc::new(Context {
            backend: fake.clone(),
            cursors: Cursors::new(1, options.cursors_max),
            options,
            metrics: RespMetrics::register(&prometheus::Registry::new()).expect("fresh registry"),
            clients: Clients::default(),
            info: Arc::new(NoFacts),
            birth: Birth { started: Instant::now(), run_id: String::new() },
            local_address: address,
            budget: flotilla_shard::Budget::new(64 << 20),
            slow_turn: tokio::sync::Semaphore::new(1),
            refused: std::sync::Arc::new(super::throttle::Refused::new(1)),
        });
        let (stream, far) = tokio::io::duplex(pipe_bytes);
        let (stop, stopping) = watch::channel(Stop::Not);
        let entry = context.clients.enter(address, address);
        let connection = Connection::new(context.clone(), far, entry);
        let served = tokio::spawn(connection.run(stopping));
        Client { stream, fake, stop, context, served }
    }

    fn new(fake: Fake) -> Client {
        Client::connect(fake, RespOptions::default(), 1 << 20)
    }

    /// Sends `input` and lets the connection do all it can with it.
    async fn send(&mut self, input: impl AsRef<[u8]>) {
        self.stream.write_all(input.as_ref()).await.expect("the connection reads");
        settle().await;
    }

    /// Receives exactly `expected`.
    async fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut got = vec![0; expected.len()];
        let mut filled = 0;
        while filled < got.len() {
            match self.stream.read(&mut got[filled..]).await.expect("the pipe works") {
                0 => break,
                bytes => filled += bytes,
            }
        }
        assert_eq!(got[..filled].escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    /// Receives the end, and nothing before it.
    async fn expect_end(mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.expect("the pipe works");
        assert_eq!(rest.escape_ascii().to_string(), "");
        self.served.await.expect("the connection did not panic");
        assert_eq!(self.context.clients.len(), 0);
        assert_eq!(self.context.metrics.connections.get(), 0);
    }
}

/// Lets every other task run until it waits: all run on this thread, and none waits for a clock.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
        .block_on(future);
}
