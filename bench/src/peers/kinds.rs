//! Which stores are compared, what they need, and how they are started.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;

use super::daemon::{self, Daemon};
use crate::cluster::free_ports;
use crate::cluster::{Cluster, ClusterArgs};
use crate::target::Target;
use crate::target::etcd::Etcd;
use crate::target::fjall::Fjall;
use crate::target::nats::Nats;
use crate::target::redb::Redb;
use crate::target::resp::{Dialect, RespTarget};

/// etcd refuses writes when its file has 2 GiB, unless told otherwise; it keeps every version of
/// every key until it is told to forget them, which nobody does here.
const ETCD_QUOTA_BYTES: u64 = 8 << 30;

/// A store that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// This engine: one process a node, over the Redis protocol.
    Flotilla,
    /// etcd: one process a node, over gRPC.
    Etcd,
    /// A key-value bucket of NATS JetStream: one process a node. Not synced per write.
    Nats,
    /// One Redis with `appendfsync always`: no replication.
    Redis,
    /// redb in this process: no replication.
    Redb,
    /// fjall in this process: no replication.
    Fjall,
}

impl Kind {
    /// As it is named in results and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Flotilla => "flotilla",
            Kind::Etcd => "etcd",
            Kind::Nats => "nats",
            Kind::Redis => "redis",
            Kind::Redb => "redb",
            Kind::Fjall => "fjall",
        }
    }

    /// The program that it needs and the Debian package that has it.
    fn program(self) -> Option<(&'static str, &'static str)> {
        match self {
            Kind::Etcd => Some(("etcd", "etcd-server")),
            Kind::Nats => Some(("nats-server", "nats-server")),
            Kind::Redis => Some(("redis-server", "redis-server")),
            Kind::Flotilla | Kind::Redb | Kind::Fjall => None,
        }
    }

    /// Why it cannot be started here, with what would help.
    pub(super) fn missing(self) -> Option<String> {
        let (program, package) = self.program()?;
        match daemon::find(program) {
            Some(_) => None,
            None => Some(format!("`{program}` is not installed; the Debian package is {package}")),
        }
    }
}

/// A store that runs, and what keeps it running.
pub(super) struct Peer {
    pub(super) kind: Kind,
    pub(super) target: Arc<dyn Target>,
    /// Dropped after the target: clients first, then servers.
    daemons: Vec<Daemon>,
    cluster: Option<Cluster>,
}

/// What every peer is started with.
pub(super) struct Start<'a> {
    /// Flotilla's nodes. Their number is that of the other clusters too.
    pub(super) cluster: &'a ClusterArgs,
    /// An existing directory; each peer makes its own below it.
    pub(super) home: &'a Path,
}

impl Peer {
    /// Starts a store in a fresh directory and waits until it takes requests.
    pub(super) async fn start(kind: Kind, start: &Start<'_>) -> anyhow::Result<Peer> {
        let started = match kind {
            Kind::Flotilla => flotilla(start).await,
            Kind::Etcd => etcd(start).await,
            Kind::Nats => nats(start).await,
            Kind::Redis => redis(start).await,
            Kind::Redb => in_process(kind, Arc::new(Redb::fresh(Some(start.home))?)),
            Kind::Fjall => in_process(kind, Arc::new(Fjall::fresh(Some(start.home))?)),
        };
        started.with_context(|| format!("starting {}", kind.name()))
    }

    /// How many nodes clients are spread over.
    pub(super) fn nodes(&self) -> usize {
        self.target.processes().len().max(1)
    }

    /// An error, with the end of its log, if a server has ended.
    pub(super) fn assert_alive(&mut self) -> anyhow::Result<()> {
        self.daemons.iter_mut().try_for_each(Daemon::assert_alive)
    }

    /// Ends the store but leaves what its servers wrote, where that is.
    pub(super) fn keep(self) {
        if let Some(cluster) = self.cluster {
            cluster.keep();
        }
    }
}

fn in_process(kind: Kind, target: Arc<dyn Target>) -> anyhow::Result<Peer> {
    Ok(Peer { kind, target, daemons: Vec::new(), cluster: None })
}

fn program(kind: Kind) -> anyhow::Result<PathBuf> {
    let (program, package) = kind.program().expect("only kinds that have one ask");
    daemon::find(program).with_context(|| format!("no `{program}`; install {package}"))
}

fn hosts(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn processes(daemons: &[Daemon]) -> Vec<u32> {
    daemons.iter().map(Daemon::process).collect()
}

async fn flotilla(start: &Start<'_>) -> anyhow::Result<Peer> {
    let args = ClusterArgs { dir: Some(start.home.to_owned()), ..start.cluster.clone() };
    let cluster = Cluster::start(&args).await?;
    let hosts = hosts(&cluster.resp_addresses());
    let target = RespTarget::open(Dialect::Flotilla, &hosts, cluster.processes()).await;
    let target: Arc<dyn Target> = match target {
        Ok(target) => Arc::new(target),
        Err(error) => {
            cluster.keep();
            return Err(error);
        }
    };
    Ok(Peer { kind: Kind::Flotilla, target, daemons: Vec::new(), cluster: Some(cluster) })
}

async fn etcd(start: &Start<'_>) -> anyhow::Result<Peer> {
    let nodes = start.cluster.nodes as usize;
    let program = program(Kind::Etcd)?;
    let ports = free_ports(nodes * 2)?;
    let (clients, members) = ports.split_at(nodes);
    let url = |address: &SocketAddr| format!("http://{address}");
    let cluster: Vec<String> =
        (1..=nodes).zip(members).map(|(node, member)| format!("n{node}={}", url(member))).collect();
    let mut daemons = Vec::with_capacity(nodes);
    for (at, (client, member)) in clients.iter().zip(members).enumerate() {
        let name = format!("etcd-{}", at + 1);
        let directory = start.home.join(&name);
        let flags = [
            ("--name", format!("n{}", at + 1)),
            ("--data-dir", directory.join("data").display().to_string()),
            ("--listen-client-urls", url(client)),
            ("--advertise-client-urls", url(client)),
            ("--listen-peer-urls", url(member)),
            ("--initial-advertise-peer-urls", url(member)),
            ("--initial-cluster", cluster.join(",")),
            ("--initial-cluster-token", "flotilla-bench".to_owned()),
            ("--initial-cluster-state", "new".to_owned()),
            ("--quota-backend-bytes", ETCD_QUOTA_BYTES.to_string()),
        ];
        let arguments: Vec<String> =
            flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        daemons.push(Daemon::spawn(&program, &arguments, &directory, &name)?);
    }
    let (hosts, processes) = (hosts(clients), processes(&daemons));
    let opened = daemon::wait_open(&mut daemons, || Etcd::open(&hosts, processes.clone())).await?;
    Ok(Peer { kind: Kind::Etcd, target: Arc::new(opened), daemons, cluster: None })
}

async fn nats(start: &Start<'_>) -> anyhow::Result<Peer> {
    let nodes = start.cluster.nodes as usize;
    let program = program(Kind::Nats)?;
    let ports = free_ports(nodes * 2)?;
    let (clients, members) = ports.split_at(nodes);
    let routes: Vec<String> = members.iter().map(|member| format!("\"nats://{member}\"")).collect();
    let mut daemons = Vec::with_capacity(nodes);
    for (at, (client, member)) in clients.iter().zip(members).enumerate() {
        let name = format!("nats-{}", at + 1);
        let directory = start.home.join(&name);
        fs::create_dir_all(&directory)?;
        let store = directory.join("data");
        let mut config = format!(
            "server_name: \"n{}\"\nlisten: \"{client}\"\njetstream {{ store_dir: {store:?} }}\n",
            at + 1,
        );
        if nodes > 1 {
            config += &format!(
                "cluster {{ name: \"bench\", listen: \"{member}\", routes: [{}] }}\n",
                routes.join(", ")
            );
        }
        let file = directory.join("nats.conf");
        fs::write(&file, config)?;
        let arguments = ["-c".to_owned(), file.display().to_string()];
        daemons.push(Daemon::spawn(&program, &arguments, &directory, &name)?);
    }
    let (hosts, processes) = (hosts(clients), processes(&daemons));
    let opened = daemon::wait_open(&mut daemons, || Nats::open(&hosts, processes.clone())).await?;
    Ok(Peer { kind: Kind::Nats, target: Arc::new(opened), daemons, cluster: None })
}

async fn redis(start: &Start<'_>) -> anyhow::Result<Peer> {
    let program = program(Kind::Redis)?;
    let ports = free_ports(1)?;
    let directory = start.home.join("redis");
    let flags = [
        ("--bind", ports[0].ip().to_string()),
        ("--port", ports[0].port().to_string()),
        ("--dir", directory.display().to_string()),
        ("--daemonize", "no".to_owned()),
        ("--appendonly", "yes".to_owned()),
        ("--appendfsync", "always".to_owned()),
        // The log is all that is needed; copies of everything beside it would only cost.
        ("--save", String::new()),
    ];
    let arguments: Vec<String> =
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    let mut daemons = vec![Daemon::spawn(&program, &arguments, &directory, "redis")?];
    let (hosts, processes) = (hosts(&ports), processes(&daemons));
    let open = || RespTarget::open(Dialect::Redis, &hosts, processes.clone());
    let opened = daemon::wait_open(&mut daemons, open).await?;
    Ok(Peer { kind: Kind::Redis, target: Arc::new(opened), daemons, cluster: None })
}
