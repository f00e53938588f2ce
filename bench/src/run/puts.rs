//! Nothing but puts, for commands that watch what servers do meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::drive::{DriveOptions, Driven, End, drive};
use crate::target::Target;
use crate::target::resp::{Dialect, RespTarget};
use crate::workload::{Distribution, Workload};

/// Puts of keys drawn evenly, in a closed loop.
#[derive(Clone, Debug)]
pub struct Puts {
    /// Flotilla's nodes.
    pub servers: Vec<SocketAddr>,
    /// Connections.
    pub clients: usize,
    /// Puts in flight on each.
    pub pipeline: usize,
    /// How many keys.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// When it ends.
    pub end: End,
}

impl Puts {
    /// Does them.
    ///
    /// # Errors
    ///
    /// If no node answers, or a client cannot connect.
    pub async fn run(&self) -> anyhow::Result<Driven> {
        let hosts: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        let target = RespTarget::open(Dialect::Flotilla, &hosts, Vec::new()).await?;
        let workload = Workload {
            keys: self.keys,
            value_bytes: self.value_bytes,
            distribution: Distribution::Uniform,
            ..Workload::named("put")?
        };
        let options = DriveOptions {
            clients: self.clients,
            pipeline: self.pipeline,
            end: self.end,
            ..DriveOptions::default()
        };
        drive(&(Arc::new(target) as Arc<dyn Target>), &workload, &options).await
    }
}
