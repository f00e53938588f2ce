//! The server of an [`Engine`]: limits, threads and facts are the engine's.

use super::info::{ServerFacts, ServerInfo};
use super::metrics::RespMetrics;
use super::options::RespOptions;
use super::server::{RespServer, Wiring};
use crate::{Engine, Role};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

/// Bytes of a request beyond its largest value: other arguments, and framing.
const REQUEST_SLACK_BYTES: usize = 24 << 20;

/// A limit on values beyond this cannot be told to the decoder, which counts bytes as u32.
const VALUE_BYTES_MAX: u64 = 1 << 30;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The listener cannot be used.
    #[error("cannot use the listener for Redis clients: {0}")]
    Listener(#[from] io::Error),
    /// The engine has such a server already.
    #[error("cannot register the metrics of a RESP server, is there one already? {0}")]
    Metrics(#[from] prometheus::Error),
}

impl RespServer {
    /// Serves the Redis clients of `listener` from `engine`, on the engine's own threads, with the
    /// engine's limits on keys, values and time. Clients beyond `connections_max` are refused.
    ///
    /// Shut the server down before the engine, so that requests under way are answered.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn start(
        engine: Engine,
        listener: TcpListener,
        connections_max: usize,
    ) -> Result<RespServer, StartError> {
        let limits = engine.limits();
        let value_bytes_max = limits.value_bytes_max.min(VALUE_BYTES_MAX) as usize;
        let options = RespOptions {
            connections_max,
            key_bytes_max: limits.key_bytes_max.min(VALUE_BYTES_MAX) as usize,
            value_bytes_max,
            request_bytes_max: value_bytes_max + REQUEST_SLACK_BYTES,
            request_timeout: engine.request_timeout(),
            ..RespOptions::default()
        };
        let metrics = RespMetrics::register(engine.registry())?;
        let handles = engine.handles().to_vec();
        let backend = engine.router().clone();
        let budget = engine.budget().clone();
        let wiring = Wiring { options, handles, info: Arc::new(engine), metrics, budget };
        Ok(RespServer::serve(listener, backend, wiring)?)
    }
}

impl ServerInfo for Engine {
    fn facts(&self) -> ServerFacts {
        let status = self.status();
        let count = |wanted: fn(&crate::ShardStatus) -> bool| {
            status.shards.iter().filter(|shard| wanted(shard)).count() as u64
        };
        ServerFacts {
            node_id: status.node_id.0,
            cluster_name: status.cluster_name.clone(),
            shards: status.shards.len() as u64,
            shards_led: count(|shard| shard.role == Role::Leader),
            shards_leaderless: count(|shard| shard.leader.is_none()),
            nodes_connected: status.connected.len() as u64,
            // A majority has it, one of which is the leader.
            replicas_certain: status
                .shards
                .iter()
                .map(|shard| shard.nodes.len() as u64 / 2)
                .min()
                .unwrap_or(0),
            keys_estimate: status.shards.iter().map(|shard| shard.keys_estimate).sum(),
        }
    }
}
