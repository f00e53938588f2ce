//! The flags that set what a file or a variable may set too.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::settings::{Layers, Loaded, load};

/// Where settings come from: a file, the environment, and these flags above both.
#[derive(Debug, Default, Args)]
pub struct SettingsArgs {
    /// Configuration file (TOML); also FLOTILLA_CONFIG. Sample: configs/flotilla.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The cluster's name: nodes of another name are refused.
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,

    /// This node's id, from 1.
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,

    /// The directory that holds all that this node keeps.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,

    /// Where to listen for peers; by default what --peers says for this node.
    #[arg(long, value_name = "HOST:PORT")]
    peer_addr: Option<String>,

    /// Where Redis clients connect.
    #[arg(long, value_name = "HOST:PORT")]
    resp_addr: Option<String>,

    /// Where /healthz, /readyz, /metrics and /status are served.
    #[arg(long, value_name = "HOST:PORT")]
    admin_addr: Option<String>,

    /// All nodes of the cluster, this one included: 1=host:port,2=host:port,...
    #[arg(long, value_name = "PEERS")]
    peers: Option<String>,

    /// Into how many shards a new cluster is cut, evenly over the first two key bytes.
    #[arg(long, value_name = "N")]
    shards: Option<String>,

    /// The first key of each shard but the first, with \xNN escapes: K1,K2,...
    #[arg(long, value_name = "KEYS", conflicts_with = "shards")]
    split_at: Option<String>,

    /// How many threads host shards and connections; 0: half of the cores.
    #[arg(long, value_name = "N")]
    lanes: Option<String>,

    /// What to log: info, or warn,flotilla_router=debug.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,

    /// Allow listening beyond loopback although nothing is encrypted and nobody is authenticated.
    #[arg(long)]
    insecure: bool,

    /// Start without data that cannot be read here and that no other replica has.
    #[arg(long)]
    accept_data_loss: bool,
}

impl SettingsArgs {
    /// Puts defaults, file, environment and flags together.
    ///
    /// # Errors
    ///
    /// If what they say together makes no sense, in words.
    pub fn load(&self) -> Result<Loaded, Failure> {
        let given = [
            ("cluster_name", &self.cluster_name),
            ("node_id", &self.node_id),
            ("data_dir", &self.data_dir),
            ("peer_addr", &self.peer_addr),
            ("resp_addr", &self.resp_addr),
            ("admin_addr", &self.admin_addr),
            ("peers", &self.peers),
            ("shards", &self.shards),
            ("split_at", &self.split_at),
            ("lanes", &self.lanes),
            ("log", &self.log),
        ];
        let mut flags: Vec<(&'static str, String)> =
            given.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect();
        if self.insecure {
            flags.push(("insecure", "true".to_owned()));
        }
        if self.accept_data_loss {
            flags.push(("storage.accept_data_loss", "true".to_owned()));
        }
        // A variable that is not UTF-8 cannot be a setting of ours.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let loaded = load(&Layers { file: self.config.clone(), environment, flags })
            .map_err(Failure::usage)?;
        super::log_filter(&loaded.settings.log)?;
        Ok(loaded)
    }
}
