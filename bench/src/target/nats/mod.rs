//! A key-value bucket of NATS JetStream, over the text protocol.
//!
//! A bucket is a stream that keeps the last message of each subject. A put publishes to the key's
//! subject and waits for the stream's acknowledgement; a get asks the stream's leader for the last
//! message of the subject. (The default of NATS's own clients is a get that any replica answers,
//! which reads stale values; it is not used here.) Keys become subjects in URL-safe base64, because
//! a subject cannot hold any bytes.
//!
//! What is absent: scans and batches, which buckets do not have; compare-and-swap, which they have
//! by revisions and not by values.

mod answer;
mod base64;
mod link;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

use answer::ApiError;
use link::Link;
use session::{NatsSession, Subjects};

use super::hosts::resolve;
use super::{BoxFuture, Description, OperationKind, Session, Target};

/// The bucket that is made and measured.
const BUCKET: &str = "bench";

/// How long the servers may take to agree on a stream and its leader.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Servers of one NATS cluster, with a bucket.
#[derive(Clone, Debug)]
pub struct Nats {
    addresses: Vec<SocketAddr>,
    processes: Vec<u32>,
    subjects: Arc<Subjects>,
    version: String,
    replicas: usize,
}

/// What is read of the description of a stream.
#[derive(Deserialize)]
struct StreamInfo {
    error: Option<ApiError>,
    config: Option<StreamConfig>,
    cluster: Option<StreamCluster>,
}

#[derive(Deserialize)]
struct StreamConfig {
    num_replicas: usize,
}

#[derive(Deserialize)]
struct StreamCluster {
    leader: Option<String>,
    #[serde(default)]
    replicas: Vec<StreamReplica>,
}

#[derive(Deserialize)]
struct StreamReplica {
    current: bool,
}

impl StreamInfo {
    /// True if it has a leader, and all other replicas keep up.
    fn is_ready(&self) -> bool {
        match (&self.config, &self.cluster) {
            (Some(config), _) if config.num_replicas == 1 => true,
            (Some(_), Some(cluster)) => {
                cluster.leader.as_ref().is_some_and(|leader| !leader.is_empty())
                    && cluster.replicas.iter().all(|replica| replica.current)
            }
            _ => false,
        }
    }
}

impl Nats {
    /// Finds or makes the bucket on the servers at `hosts` (`HOST:PORT`), with one replica each and
    /// at most three. `processes` are those whose cost counts.
    ///
    /// # Errors
    ///
    /// If nobody answers, there is no JetStream, or the bucket is not ready in time.
    pub async fn open(hosts: &[String], processes: Vec<u32>) -> anyhow::Result<Nats> {
        let addresses = resolve(hosts).await?;
        let mut link = Link::open(addresses[0]).await?;
        if !link.info.jetstream {
            bail!("NATS at {} has no JetStream: start it with -js", addresses[0]);
        }
        let replicas = make_bucket(&mut link, addresses.len().min(3)).await?;
        let version = link.info.version.clone();
        let subjects = Arc::new(Subjects::of(BUCKET));
        Ok(Nats { addresses, processes, subjects, version, replicas })
    }
}

/// Makes the bucket if there is none; returns how many replicas it has.
async fn make_bucket(link: &mut Link, replicas: usize) -> anyhow::Result<usize> {
    let prefix = Subjects::of(BUCKET).prefix;
    // As `nats kv add bench --replicas 3` asks for it.
    let config = serde_json::json!({
        "name": format!("KV_{BUCKET}"), "subjects": [format!("{prefix}>")],
        "retention": "limits", "discard": "new", "storage": "file", "num_replicas": replicas,
        "max_msgs_per_subject": 1, "max_consumers": -1, "max_msgs": -1, "max_bytes": -1,
        "max_age": 0, "max_msg_size": -1, "duplicate_window": 120_000_000_000_u64,
        "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true,
    });
    let config = serde_json::to_vec(&config)?;
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let problem = match ask(link, "INFO", b"").await {
            Ok(info) if info.is_ready() => {
                return Ok(info
                    .config
                    .context("a stream that is ready has a config")?
                    .num_replicas);
            }
            Ok(StreamInfo { error: Some(error), .. }) if error.code == 404 => {
                match ask(link, "CREATE", &config).await {
                    Ok(StreamInfo { error: Some(error), .. }) => error.description,
                    Ok(_) => "it has just been made".to_owned(),
                    Err(error) => format!("{error:#}"),
                }
            }
            Ok(StreamInfo { error: Some(error), .. }) => error.description,
            Ok(_) => "no leader yet, or a replica lags".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("the bucket is not ready in {READY_TIMEOUT:?}: {problem}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(link: &mut Link, verb: &str, payload: &[u8]) -> anyhow::Result<StreamInfo> {
    let subject = format!("$JS.API.STREAM.{verb}.KV_{BUCKET}");
    let (_, answer) = link.request(&subject, payload).await?;
    if answer.is_empty() {
        bail!("nobody answers {subject}");
    }
    serde_json::from_slice(&answer).with_context(|| format!("{subject} answers something else"))
}

impl Target for Nats {
    fn describe(&self) -> Description {
        let replication = match self.replicas {
            1 => "1 replica".to_owned(),
            replicas => format!("{replicas} processes, majority"),
        };
        Description {
            name: "nats".to_owned(),
            version: self.version.clone(),
            replication,
            durability: "not synced; its default syncs every 2 minutes".to_owned(),
            reads: "from the leader, not confirmed by a majority".to_owned(),
        }
    }

    fn processes(&self) -> Vec<u32> {
        self.processes.clone()
    }

    fn refuses(&self, kind: OperationKind) -> Option<String> {
        match kind {
            OperationKind::Scan => Some("a bucket has no scans".to_owned()),
            OperationKind::CompareAndSwap => {
                Some("a bucket compares revisions, not values".to_owned())
            }
            _ => None,
        }
    }

    fn connect<'a>(&'a self, client: usize) -> BoxFuture<'a, anyhow::Result<Box<dyn Session>>> {
        Box::pin(async move {
            let subjects = Arc::clone(&self.subjects);
            let session = NatsSession::open(self.addresses.clone(), subjects, client).await?;
            Ok(Box::new(session) as Box<dyn Session>)
        })
    }
}
