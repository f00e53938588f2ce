//! An engine of four shards with its Redis server on a free port.

use flotilla::Engine;
use flotilla::server::resp::RespServer;
use std::net::{SocketAddr, TcpListener};
use tempfile::TempDir;

pub struct Served {
    pub runtime: tokio::runtime::Runtime,
    pub engine: Engine,
    pub server: RespServer,
    _directory: TempDir,
}

impl Served {
    pub fn start(connections_max: usize) -> Served {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let engine = runtime
            .block_on(Engine::builder(directory.path()).split_at(["c", "k", "n"]).start())
            .expect("the engine starts");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = RespServer::start(engine.clone(), listener, connections_max)
            .expect("the server starts");
        Served { runtime, engine, server, _directory: directory }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn stop(self) {
        self.runtime.block_on(async {
            self.server.shutdown().await;
            self.engine.shutdown().await.expect("the engine stops");
        });
    }
}
