//! Server processes: started, watched, killed and started again.
//!
//! Invariants:
//!
//! * Only processes that this started are ever signalled, by their ids, and none of them is left
//!   when a [`Cluster`] is dropped.
//! * A node keeps its ports and its directory over restarts.
//! * Waiting means asking until a deadline; a process that died meanwhile ends the wait, with the
//!   end of its log in the error.
//!
//! What is absent: clients. What the servers hold is others' business.

mod options;
mod ports;
mod process;
mod site;
mod wait;

pub use options::{ClusterArgs, Layout};
pub(crate) use ports::free_ports;
pub use process::{Addresses, Server};
pub use site::Site;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flotilla::server::admin::view::{NodeView, ShardView};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::proxy::Proxies;
use crate::sampling::Sample;

/// How long a cluster may take until all its nodes are ready. Starting takes less than a second;
/// replaying a full journal on a busy machine may take many.
pub const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a node may take to stop by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Running server processes.
pub struct Cluster {
    servers: BTreeMap<u64, Server>,
    directory: Option<TempDir>,
    layout: Layout,
    proxies: Option<Proxies>,
}

impl Cluster {
    /// Starts a cluster in a fresh directory and waits until every node is ready.
    ///
    /// # Errors
    ///
    /// If the binary cannot be started, or a node ends or is not ready in time.
    pub async fn start(args: &ClusterArgs) -> anyhow::Result<Cluster> {
        Cluster::start_at(args, Site::loopback(args.nodes)?).await
    }

    /// As [`Cluster::start`], with [`Proxies`] between the nodes.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`], and if there are no ports for the proxies.
    pub async fn start_through_proxies(args: &ClusterArgs) -> anyhow::Result<Cluster> {
        Cluster::start_at(args, Site::loopback(args.nodes)?.through_proxies().await?).await
    }

    /// As [`Cluster::start`], with the nodes where `site` says.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`].
    pub async fn start_at(args: &ClusterArgs, site: Site) -> anyhow::Result<Cluster> {
        let layout = args.layout()?;
        let (binary, subcommand) = args.server()?;
        let directory = args.fresh_directory()?;
        let Site { addresses, proxies, mut data_directories, mut wrappers } = site;
        let listens: BTreeMap<u64, SocketAddr> =
            addresses.iter().map(|(id, node)| (*id, node.peer)).collect();
        let mut cluster = Cluster {
            servers: BTreeMap::new(),
            directory: Some(directory),
            layout: layout.clone(),
            proxies,
        };
        for (id, addresses) in addresses {
            let home = cluster.directory();
            let mut arguments = vec![subcommand.to_owned()];
            let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
            flag("--cluster-name", "bench".to_owned());
            flag("--node-id", id.to_string());
            let data =
                data_directories.remove(&id).unwrap_or_else(|| home.join(format!("node-{id}")));
            flag("--data-dir", data.display().to_string());
            flag("--resp-addr", addresses.resp.to_string());
            flag("--admin-addr", addresses.admin.to_string());
            let seen = |peer: u64, listens: SocketAddr| match &cluster.proxies {
                Some(proxies) if peer != id => proxies.address(id, peer),
                _ => listens,
            };
            let peers: Vec<String> = listens
                .iter()
                .map(|(peer, listens)| format!("{peer}={}", seen(*peer, *listens)))
                .collect();
            flag("--peers", peers.join(","));
            match &layout {
                Layout::Even(shards) => flag("--shards", shards.to_string()),
                Layout::SplitAt(keys) => flag("--split-at", keys.clone()),
            }
            arguments.extend(args.server_args.iter().cloned());
            let log = home.join(format!("node-{id}.log"));
            let mut server = Server::new(id, binary.clone(), arguments, addresses, data, log)
                .wrapped(wrappers.remove(&id).unwrap_or_default());
            server.spawn()?;
            cluster.servers.insert(id, server);
        }
        cluster.wait_ready(READY_TIMEOUT).await?;
        Ok(cluster)
    }

    /// How the key space was cut.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The proxies between the nodes, if it was started through some.
    pub fn proxies(&self) -> Option<&Proxies> {
        self.proxies.as_ref()
    }

    /// What node `id` occupies now.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn sample(&self, id: u64) -> anyhow::Result<Sample> {
        let process = self.server(id).process().with_context(|| format!("node {id} is down"))?;
        Sample::take(process, self.data_directory(id))
    }

    /// The text of node `id`'s `/metrics`.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub async fn metrics(&self, id: u64) -> anyhow::Result<String> {
        let (code, body) = wait::get(self.admin_address(id), "/metrics").await?;
        if code != 200 {
            bail!("node {id} answers {code} for /metrics");
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Where the nodes' directories and logs are.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("taken only by keep(), which ends the cluster").path()
    }

    /// Where node `id` keeps its data.
    pub fn data_directory(&self, id: u64) -> &Path {
        &self.server(id).data_directory
    }

    /// What node `id` has said so far, over all its starts.
    pub fn log(&self, id: u64) -> &Path {
        &self.server(id).log
    }

    /// The last lines of it.
    pub fn log_end(&self, id: u64) -> String {
        self.server(id).log_end()
    }

    /// The process of node `id` while it runs.
    pub fn process(&self, id: u64) -> Option<u32> {
        self.server(id).process()
    }

    /// Ends the cluster but keeps its directories, for a look at what went wrong.
    pub fn keep(mut self) -> std::path::PathBuf {
        self.kill_all();
        self.directory.take().expect("taken here only").keep()
    }

    /// All nodes, running or not.
    pub fn nodes(&self) -> Vec<u64> {
        self.servers.keys().copied().collect()
    }

    /// The nodes that were started and not ended by this harness.
    pub fn running(&self) -> Vec<u64> {
        self.servers.values().filter(|server| server.is_started()).map(|server| server.id).collect()
    }

    /// Where Redis clients connect to node `id`.
    pub fn resp_address(&self, id: u64) -> SocketAddr {
        self.server(id).addresses.resp
    }

    /// The same for all nodes, in order of their ids.
    pub fn resp_addresses(&self) -> Vec<SocketAddr> {
        self.servers.values().map(|server| server.addresses.resp).collect()
    }

    /// Where the admin port of node `id` is.
    pub fn admin_address(&self, id: u64) -> SocketAddr {
        self.server(id).addresses.admin
    }

    /// The processes that run.
    pub fn processes(&self) -> Vec<u32> {
        self.servers.values().filter_map(Server::process).collect()
    }

    /// Kills node `id` without warning and returns the moment just before.
    pub fn kill(&mut self, id: u64) -> Instant {
        let at = Instant::now();
        self.server_mut(id).kill();
        at
    }

    /// Kills all nodes without warning, one right after the other, and returns the moment just
    /// before the first. No node is waited for until all were hit.
    pub fn kill_all(&mut self) -> Instant {
        let at = Instant::now();
        for server in self.servers.values_mut() {
            server.send_kill();
        }
        for server in self.servers.values_mut() {
            server.kill();
        }
        at
    }

    /// Lets node `id` stand still (SIGSTOP), until [`Cluster::resume`] or its end.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn pause(&self, id: u64) -> anyhow::Result<()> {
        self.server(id).send(Signal::STOP)
    }

    /// Lets node `id` go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn resume(&self, id: u64) -> anyhow::Result<()> {
        self.server(id).send(Signal::CONT)
    }

    /// How node `id` ended, if it has ended by itself since it was started; told once.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub fn take_end(&mut self, id: u64) -> anyhow::Result<Option<ExitStatus>> {
        self.server_mut(id).take_end()
    }

    /// True if node `id` says now that it is ready.
    pub async fn is_ready(&self, id: u64) -> bool {
        self.server(id).is_ready().await
    }

    /// Asks node `id` to stop (SIGTERM) and waits for it.
    ///
    /// # Errors
    ///
    /// If it does not stop in time, or not cleanly.
    pub async fn stop(&mut self, id: u64) -> anyhow::Result<()> {
        self.server_mut(id).terminate(STOP_TIMEOUT).await
    }

    /// Stops all nodes that run.
    ///
    /// # Errors
    ///
    /// If one does not stop in time, or not cleanly.
    pub async fn stop_all(&mut self) -> anyhow::Result<()> {
        for id in self.running() {
            self.stop(id).await?;
        }
        Ok(())
    }

    /// Starts node `id` again on its directory and ports; does not wait until it is ready.
    ///
    /// # Errors
    ///
    /// If the binary cannot be started.
    pub fn restart(&mut self, id: u64) -> anyhow::Result<()> {
        self.server_mut(id).spawn()
    }

    /// Waits until every running node is ready by its own word.
    ///
    /// # Errors
    ///
    /// If that takes longer than `timeout`, or a node ends.
    pub async fn wait_ready(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        for server in self.servers.values_mut().filter(|server| server.is_started()) {
            server.wait_ready(deadline).await?;
        }
        Ok(())
    }

    /// Waits until node `id` has applied all that the leaders of its shards have committed.
    /// Commits must have come to rest.
    ///
    /// # Errors
    ///
    /// If that takes longer than `timeout`, or a node ends.
    pub async fn wait_caught_up(&mut self, id: u64, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let leaders = self.leaders().await?;
            let status = self.status(id).await?;
            let behind = status.shards.iter().find(|shard| {
                leaders.get(&shard.group).is_none_or(|leader| {
                    shard.leader.is_none() || shard.applied_index != leader.commit_index
                })
            });
            let Some(behind) = behind else { return Ok(()) };
            if Instant::now() >= deadline {
                let leader = leaders.get(&behind.group);
                bail!("node {id} does not catch up: it has {behind:?}, the leader {leader:?}");
            }
            self.server_mut(id).assert_alive()?;
            wait::pause().await;
        }
    }

    /// What node `id` says about itself.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub async fn status(&self, id: u64) -> anyhow::Result<NodeView> {
        let (code, body) = wait::get(self.admin_address(id), "/status").await?;
        if code != 200 {
            bail!("node {id} answers {code} for /status");
        }
        serde_json::from_slice(&body)
            .with_context(|| format!("node {id}: /status is not as agreed"))
    }

    /// For each group, the shard as its leader among the running nodes sees it. Of two that both
    /// say they lead, the one of the higher term does.
    ///
    /// # Errors
    ///
    /// If a running node does not answer.
    pub async fn leaders(&self) -> anyhow::Result<BTreeMap<u64, LeaderView>> {
        let mut leaders: BTreeMap<u64, LeaderView> = BTreeMap::new();
        for node in self.running() {
            for shard in self.status(node).await?.shards {
                let newest = leaders.get(&shard.group).is_none_or(|known| known.term < shard.term);
                if shard.role == "leader" && newest {
                    leaders.insert(shard.group, LeaderView::new(node, &shard));
                }
            }
        }
        Ok(leaders)
    }

    fn server(&self, id: u64) -> &Server {
        self.servers.get(&id).expect("ids come from nodes()")
    }

    fn server_mut(&mut self, id: u64) -> &mut Server {
        self.servers.get_mut(&id).expect("ids come from nodes()")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// A shard as its leader sees it.
#[derive(Clone, Debug)]
pub struct LeaderView {
    /// The node that leads.
    pub node: u64,
    /// Its term.
    pub term: u64,
    /// What it has committed.
    pub commit_index: u64,
    /// The shard's first key, in hex.
    pub start: String,
}

impl LeaderView {
    fn new(node: u64, shard: &ShardView) -> LeaderView {
        let (term, commit_index) = (shard.term, shard.commit_index);
        LeaderView { node, term, commit_index, start: shard.start.clone() }
    }
}
