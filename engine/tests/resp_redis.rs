//! The same requests to a real Redis and to Flotilla: their replies must agree.
//!
//! Needs a `redis-server`, whose path is in the environment variable `REDIS_SERVER`; ignored
//! otherwise, so that `cargo test` needs nothing that is not there.

use flotilla::Engine;
use flotilla::server::resp::RespServer;
use script::Server;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[path = "resp/script.rs"]
mod script;

/// A Redis that keeps nothing and goes away with its test.
struct Redis {
    process: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Redis {
    fn start(program: &str) -> Redis {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let process = Command::new(program)
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--databases", "1"])
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        let redis = Redis { process, address, _directory: directory };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{program} does not listen");
            std::thread::yield_now();
        }
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "needs a redis-server, named by REDIS_SERVER"]
fn flotilla_replies_as_redis_does() {
    let program = std::env::var("REDIS_SERVER").expect("REDIS_SERVER names a redis-server");
    let redis = Redis::start(&program);

    let directory = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let engine = runtime
        .block_on(Engine::builder(directory.path()).split_at(["c", "k", "n"]).start())
        .expect("the engine starts");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = RespServer::start(engine.clone(), listener, 100).expect("the server starts");

    let both = [
        Server { address: redis.address, is_flotilla: false },
        Server { address: server.address(), is_flotilla: true },
    ];
    let mut problems = Vec::new();
    let mut compared = 0;
    for (name, text) in script::SCRIPTS {
        for server in &both {
            let who = if server.is_flotilla { "flotilla" } else { "redis" };
            let (count, found) = script::run(name, text, server);
            compared += count;
            problems.extend(found.into_iter().map(|problem| format!("{who} {problem}")));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    println!("{compared} replies agree");

    runtime.block_on(async {
        server.shutdown().await;
        engine.shutdown().await.expect("the engine stops");
    });
}
