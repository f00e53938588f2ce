//! Stores that speak the Redis protocol: Flotilla's nodes, and Redis itself.

mod scan;
mod session;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{BoxFuture, Description, OperationKind, Session, Target};
use crate::connection::Connection;
use crate::resp;

use session::RespSession;

/// How long a server may take to answer the questions that are asked before anything is measured.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Which product speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Flotilla: any node takes any command; scans go in key order.
    Flotilla,
    /// Redis: one server; scans go in no order.
    Redis,
}

/// Servers that speak the Redis protocol.
pub struct RespTarget {
    dialect: Dialect,
    servers: Arc<[SocketAddr]>,
    processes: Vec<u32>,
    description: Description,
}

impl RespTarget {
    /// Servers that run already. `processes` are theirs, if they are known.
    ///
    /// # Errors
    ///
    /// If an address cannot be found, or nobody answers.
    pub async fn open(
        dialect: Dialect,
        hosts: &[String],
        processes: Vec<u32>,
    ) -> anyhow::Result<RespTarget> {
        let mut servers = Vec::with_capacity(hosts.len());
        for host in hosts {
            let mut found = tokio::net::lookup_host(host)
                .await
                .with_context(|| format!("cannot find {host}"))?;
            servers.push(found.next().with_context(|| format!("{host} has no address"))?);
        }
        let Some(first) = servers.first() else { bail!("no servers are named") };
        let info = ask(*first, &[b"INFO", b"server"]).await?;
        let description = match dialect {
            Dialect::Flotilla => Description {
                name: "flotilla".to_owned(),
                version: field(&info, "flotilla_version").unwrap_or_default(),
                replication: format!("{} processes, majority", servers.len()),
                durability: "journal synced before each acknowledgement".to_owned(),
                reads: "linearizable; a scan is FLOTILLA.RANGE, linearizable in each shard"
                    .to_owned(),
            },
            Dialect::Redis => Description {
                name: "redis".to_owned(),
                version: field(&info, "redis_version").unwrap_or_default(),
                replication: "1 process".to_owned(),
                durability: redis_durability(*first).await?,
                reads: "of the one copy".to_owned(),
            },
        };
        Ok(RespTarget { dialect, servers: servers.into(), processes, description })
    }

    /// The same, with words about replication that are known better elsewhere.
    pub fn with_replication(mut self, words: String) -> RespTarget {
        self.description.replication = words;
        self
    }
}

impl Target for RespTarget {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn processes(&self) -> Vec<u32> {
        self.processes.clone()
    }

    fn refuses(&self, kind: OperationKind) -> Option<String> {
        match (self.dialect, kind) {
            (Dialect::Redis, OperationKind::Scan) => {
                Some("Redis has no scans in key order: not supported".to_owned())
            }
            (_, OperationKind::CompareAndSwap) => {
                Some("the Redis protocol has no compare-and-swap of one request".to_owned())
            }
            _ => None,
        }
    }

    fn takes_batches(&self) -> bool {
        true
    }

    fn connect<'a>(&'a self, client: usize) -> BoxFuture<'a, anyhow::Result<Box<dyn Session>>> {
        Box::pin(async move {
            let servers = Arc::clone(&self.servers);
            let session = RespSession::connect(servers, client).await?;
            Ok(Box::new(session) as Box<dyn Session>)
        })
    }
}

async fn ask(server: SocketAddr, command: &[&[u8]]) -> anyhow::Result<String> {
    let mut connection = Connection::open(server, ASK_TIMEOUT)
        .await
        .with_context(|| format!("{server} cannot be reached"))?;
    let answer = connection.ask(command).await.with_context(|| format!("asking {server}"))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// What Redis says about its append-only file.
async fn redis_durability(server: SocketAddr) -> anyhow::Result<String> {
    let persistence = ask(server, &[b"INFO", b"persistence"]).await?;
    if field(&persistence, "aof_enabled").as_deref() != Some("1") {
        return Ok("none: appendonly no".to_owned());
    }
    let policy = redis_setting(server, "appendfsync").await.context("asking for appendfsync")?;
    Ok(match policy.as_str() {
        "always" => "appendfsync always: synced before each acknowledgement".to_owned(),
        other => format!("appendfsync {other}: acknowledged before it is synced"),
    })
}

/// One setting of a Redis. The reply is an array of its name and its value.
async fn redis_setting(server: SocketAddr, name: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    let mut command = BytesMut::new();
    resp::put_command(&mut command, &[b"CONFIG", b"GET", name.as_bytes()]);
    stream.write_all(&command).await?;
    let mut reply = Vec::new();
    let read = async {
        loop {
            let text = String::from_utf8_lossy(&reply).into_owned();
            let lines: Vec<&str> = text.split("\r\n").collect();
            // An array, two lengths, two texts, and what follows the last line's end.
            if let [_, _, _, _, value, _] = lines[..] {
                return anyhow::Ok(value.to_owned());
            }
            if stream.read_buf(&mut reply).await? == 0 || text.starts_with('-') {
                bail!("{server} does not tell its {name}: {text}");
            }
        }
    };
    timeout(ASK_TIMEOUT, read).await.context("no reply in time")?
}

fn field(info: &str, name: &str) -> Option<String> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
    info.lines().map(str::trim).find_map(value)
}
