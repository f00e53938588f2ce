//! etcd over its v3 API: gRPC by hand over HTTP/2.
//!
//! Invariants:
//!
//! * Reads are linearizable ranges, as etcd's own clients ask by default.
//! * A client has one connection, on which all its calls are under way at once.
//! * A write is certainly without effect only if etcd refused it before it proposed it.
//!
//! What is absent: leases, watches, authentication, balancing of one client over several members.

mod call;
mod grpc;
mod messages;
mod session;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use anyhow::{Context, bail};
use prost::Message;

use messages::{StatusRequest, StatusResponse};
use session::EtcdSession;

use super::hosts::resolve;
use super::{BoxFuture, Description, Session, Target};

/// Members of one etcd cluster.
#[derive(Clone, Debug)]
pub struct Etcd {
    addresses: Vec<SocketAddr>,
    processes: Vec<u32>,
    version: String,
}

impl Etcd {
    /// Looks whether the members at `hosts` (`HOST:PORT`) answer. `processes` are those whose cost
    /// counts.
    ///
    /// # Errors
    ///
    /// If one of them does not answer, or there is no leader.
    pub async fn open(hosts: &[String], processes: Vec<u32>) -> anyhow::Result<Etcd> {
        let addresses = resolve(hosts).await?;
        let mut version = String::new();
        for address in &addresses {
            let status = status(*address).await.with_context(|| format!("etcd at {address}"))?;
            if status.leader == 0 {
                bail!("etcd at {address} knows no leader");
            }
            version = status.version;
        }
        Ok(Etcd { addresses, processes, version })
    }
}

/// What a member says about itself.
async fn status(address: SocketAddr) -> anyhow::Result<StatusResponse> {
    let (mut sender, connection) = session::connect(address).await?;
    let ask = async {
        std::future::poll_fn(|context| sender.poll_ready(context)).await?;
        let uri = session::method(address, "/etcdserverpb.Maintenance/Status");
        let answer = call::send(&mut sender, &uri, grpc::frame(&StatusRequest {}))?;
        let message = answer.await.map_err(|failure| anyhow::anyhow!("{}", failure.reason))?;
        StatusResponse::decode(message).context("it answers something else")
    };
    tokio::select! {
        answer = ask => answer,
        ended = connection => {
            ended?;
            bail!("the connection ended without an answer")
        }
        () = tokio::time::sleep(session::CONNECT_TIMEOUT) => bail!("no answer in time"),
    }
}

impl Target for Etcd {
    fn describe(&self) -> Description {
        let replication = match self.addresses.len() {
            1 => "1 address".to_owned(),
            members => format!("{members} processes, majority"),
        };
        Description {
            name: "etcd".to_owned(),
            version: self.version.clone(),
            replication,
            durability: "fdatasync before each acknowledgement".to_owned(),
            reads: "linearizable, by a round to a majority".to_owned(),
        }
    }

    fn processes(&self) -> Vec<u32> {
        self.processes.clone()
    }

    fn takes_batches(&self) -> bool {
        true
    }

    fn connect<'a>(&'a self, client: usize) -> BoxFuture<'a, anyhow::Result<Box<dyn Session>>> {
        Box::pin(async move {
            let session = EtcdSession::open(self.addresses.clone(), client).await?;
            Ok(Box::new(session) as Box<dyn Session>)
        })
    }
}
