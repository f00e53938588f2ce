//! What `run` measures: a target that runs already, or one that is started for it.

use std::path::PathBuf;
use std::sync::Arc;

use super::RunArgs;
use crate::cluster::{Cluster, ClusterArgs, Layout};
use crate::target::resp::{Dialect, RespTarget};
use crate::target::{OpenOptions, Target, TargetSpec};

/// Shards of a cluster when nobody says how many.
const SHARDS: u32 = 8;

/// A target and, if it was started here, the cluster behind it.
pub struct Subject {
    /// What is driven.
    pub target: Arc<dyn Target>,
    /// Into how many shards its keys are cut, where that is known.
    pub shards: Option<u32>,
    cluster: Option<Cluster>,
    /// Where fresh directories of a store in this process are made.
    parent: Option<PathBuf>,
    is_local: bool,
}

impl Subject {
    /// Opens the target that `args` name, or starts the cluster.
    pub(super) async fn open(args: &RunArgs) -> anyhow::Result<Subject> {
        match (&args.target, args.cluster) {
            (Some(spec), _) => Subject::open_target(spec, args).await,
            (None, nodes) => {
                let shards = args.shards.unwrap_or(SHARDS);
                let nodes = nodes.expect("clap demands one of them");
                let cluster = args.servers.cluster(nodes, shards, args.split_at.clone());
                Subject::start(&cluster).await
            }
        }
    }

    async fn open_target(spec: &TargetSpec, args: &RunArgs) -> anyhow::Result<Subject> {
        let options = OpenOptions {
            directory: args.servers.dir.clone(),
            shards: args.shards,
            processes: args.server_pid.clone(),
        };
        let target = spec.open(&options).await?;
        let (shards, is_local) = match spec {
            TargetSpec::Embedded { .. } => (Some(args.shards.unwrap_or(1)), true),
            TargetSpec::Redb(_) | TargetSpec::Fjall(_) => (None, true),
            _ => (args.shards, false),
        };
        let parent = args.servers.dir.clone();
        Ok(Subject { target, shards, cluster: None, parent, is_local })
    }

    /// Opens an engine in this process that is cut into `shards`, with fresh directories in `parent`.
    ///
    /// # Errors
    ///
    /// If it does not open.
    pub async fn cut(
        spec: &TargetSpec,
        shards: u32,
        parent: Option<PathBuf>,
    ) -> anyhow::Result<Subject> {
        let (directory, processes) = (parent.clone(), Vec::new());
        let options = OpenOptions { directory, shards: Some(shards), processes };
        let target = spec.open(&options).await?;
        Ok(Subject { target, shards: Some(shards), cluster: None, parent, is_local: true })
    }

    /// Starts a cluster and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If a server does not start.
    pub async fn start(args: &ClusterArgs) -> anyhow::Result<Subject> {
        let cluster = Cluster::start(args).await?;
        let shards = match cluster.layout() {
            Layout::Even(shards) => *shards,
            Layout::SplitAt(splits) => splits.split(',').count() as u32 + 1,
        };
        let hosts: Vec<String> = cluster.resp_addresses().iter().map(ToString::to_string).collect();
        let processes = cluster.processes();
        let target = RespTarget::open(Dialect::Flotilla, &hosts, processes).await?;
        let parent = args.dir.clone();
        let (target, cluster) = (Arc::new(target) as Arc<dyn Target>, Some(cluster));
        Ok(Subject { target, shards: Some(shards), cluster, parent, is_local: true })
    }

    /// Where the data is, if it is on this machine: what its disk gives belongs beside the figures.
    pub fn data_directory(&self) -> Option<PathBuf> {
        if !self.is_local {
            return None;
        }
        match &self.cluster {
            Some(cluster) => Some(cluster.directory().to_owned()),
            None => Some(self.parent.clone().unwrap_or_else(std::env::temp_dir)),
        }
    }

    /// Ends what was started here.
    ///
    /// # Errors
    ///
    /// If a server does not stop cleanly.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.target.shutdown().await?;
        match self.cluster {
            Some(mut cluster) => cluster.stop_all().await,
            None => Ok(()),
        }
    }
}
