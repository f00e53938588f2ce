//! `flotilla demo`: a whole cluster in one process, with real sockets, under load.
//!
//! Nothing here is special to the demo but the keys: the nodes are those of `flotilla serve`, each
//! with its own directory, journal, store, lanes and ports.

mod data;
mod load;

use std::io::IsTerminal;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use flotilla::server::admin::view::{NodeView, Readiness};
use flotilla::server::process::{Failure, Listeners, RunningNode, Signals, bind, start_logging};
use flotilla::settings::{Peers, Settings, Size};
use flotilla::splits::escape_key;
use tokio::time::Instant;

use self::load::{Load, Progress};
use crate::tables;
use crate::verdict::Verdict;

/// How long the cluster may take to be born or to come back.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(20);
/// How often a line tells how the load goes, where no line can be redrawn.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Arguments of `flotilla demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,

    /// How many shards, even over keys that begin with two letters.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=i64::from(data::SHARDS_MAX)))]
    shards: u32,

    /// Redis port of node 1; node 2 takes the next, and so on. By default free ports.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_526))]
    resp_port: Option<u16>,

    /// Admin port of node 1; node 2 takes the next, and so on. By default free ports.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_526))]
    admin_port: Option<u16>,

    /// Keep the data in this directory, and find it again next time. By default a temporary one.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// End by itself after this long, like 10s or 2m. By default Ctrl-C ends it.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,

    /// How many keys to load first.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    keys: u64,

    /// What to log.
    #[arg(long, value_name = "FILTER", default_value = "error")]
    log: String,
}

/// Runs `flotilla demo`.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    start_logging(&args.log)?;
    let temporary = match &args.dir {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("flotilla-demo-")
                .tempdir()
                .map_err(|error| Failure::runtime(format!("no temporary directory: {error}")))?,
        ),
    };
    let dir = match (&args.dir, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => unreachable!("one of the two was just chosen"),
    };

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("flotilla-demo")
        .enable_all()
        .build()
        .map_err(|error| Failure::runtime(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(demo(args, &dir));
    runtime.shutdown_timeout(Duration::from_secs(1));

    match temporary {
        Some(temporary) => temporary
            .close()
            .map_err(|error| Failure::runtime(format!("cannot remove the data: {error}")))
            .and(result),
        None => {
            say!("The data stays in {}.", dir.display());
            result
        }
    }
}

/// Starts, loads, shows and stops; whatever happens in between, the nodes are stopped.
async fn demo(args: &DemoArgs, dir: &Path) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let began = Instant::now();
    say!(
        "Starting {} with {} ...",
        counted(u64::from(args.nodes), "node"),
        counted(u64::from(args.shards), "shard")
    );
    let started = tokio::select! {
        started = start(args, dir) => started,
        signal = signals.next() => {
            say!("{signal}: stopped.");
            return Ok(());
        }
    };
    let nodes = started?;
    let shown = tokio::select! {
        shown = show(args, &nodes, began) => shown,
        signal = signals.next() => {
            say!("\n{signal}: stopping.");
            Ok(())
        }
        reason = any_failed(&nodes) => {
            Err(Failure::runtime(format!("a node stopped itself: {reason}")))
        }
    };
    let stopped = tokio::select! {
        stopped = stop(nodes) => stopped,
        signal = signals.next() => {
            Err(Failure::runtime(format!("{signal} while stopping: stopped at once")))
        }
    };
    shown.and(stopped)
}

async fn start(args: &DemoArgs, dir: &Path) -> Result<Vec<RunningNode>, Failure> {
    // All sockets first: the nodes must know each other's ports.
    let mut peers = Peers::default();
    let mut sockets: Vec<(Settings, Listeners)> = Vec::new();
    for (id, offset) in (1..=u64::from(args.nodes)).zip(0..) {
        let listen = |key, base: Option<u16>| {
            bind(key, &format!("127.0.0.1:{}", base.map_or(0, |port| port + offset)))
        };
        let peer = listen("peer_addr", None)?;
        peers.insert(id, &address_of(&peer)?).map_err(Failure::runtime)?;
        let resp = listen("--resp-port", args.resp_port)?;
        let admin = listen("--admin-port", args.admin_port)?;

        let mut settings = Settings::default();
        settings.cluster_name = "demo".to_owned();
        settings.node_id = id;
        settings.data_dir = dir.join(format!("node{id}"));
        settings.resp_addr = address_of(&resp)?;
        settings.admin_addr = address_of(&admin)?;
        settings.split_at = data::splits(args.shards).iter().map(|key| escape_key(key)).collect();
        // All nodes share this machine: what suits one server would be thrice too much.
        settings.storage.memtable_bytes = Size::mib(32);
        settings.storage.cache_bytes = Size::mib(32);
        settings.storage.segment_bytes = Size::mib(16);
        let peer = (args.nodes > 1).then_some(peer);
        sockets.push((settings, Listeners::bound(peer, resp, admin)));
    }
    for (settings, _) in &mut sockets {
        settings.peers = peers.clone();
        settings.check().map_err(Failure::usage)?;
    }
    let starting = sockets
        .into_iter()
        .map(|(settings, listeners)| async move { RunningNode::start(&settings, listeners).await });
    let nodes: Vec<RunningNode> =
        futures_util::future::join_all(starting).await.into_iter().collect::<Result<_, _>>()?;
    ready(&nodes).await?;
    Ok(nodes)
}

fn address_of(listener: &TcpListener) -> Result<String, Failure> {
    listener.local_addr().map(|address| address.to_string()).map_err(Failure::runtime)
}

/// Waits until every node is ready and every peer connected.
async fn ready(nodes: &[RunningNode]) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let views = views(nodes);
        let whole = views.iter().all(|view| view.nodes.iter().all(|node| node.connected));
        if whole && views.iter().all(|view| Readiness::of(view, None).ready) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::runtime(format!(
                "the cluster is not ready after {}: {}",
                humantime::format_duration(READY_TIMEOUT),
                Verdict::of(&views)
            )));
        }
        tokio::time::sleep(READY_POLL).await;
    }
}

/// Loads the keys, shows what there is, and keeps a little load until the time is over.
async fn show(args: &DemoArgs, nodes: &[RunningNode], began: Instant) -> Result<(), Failure> {
    say!("Ready after {:.1} s. Loading {} keys ...", began.elapsed().as_secs_f64(), args.keys);
    let load = Load::new(nodes.iter().map(|node| node.engine().clone()).collect(), args.keys);
    let progress = Progress::loading(args.keys);
    let loading = Instant::now();
    load.fill(&progress).await.map_err(Failure::runtime)?;
    progress.finish();
    let seconds = loading.elapsed().as_secs_f64().max(0.001);
    say!(
        "Loaded in {seconds:.1} s: {:.0} acknowledged writes/s, each on the disks of a majority.\n",
        args.keys as f64 / seconds
    );
    print_status(nodes);
    print_next_steps(args, nodes);

    let until = args.duration.map(|duration| began + duration);
    match until {
        Some(_) => say!("Keeping a light load until the time is over; Ctrl-C ends it earlier."),
        None => say!("Keeping a light load; Ctrl-C ends it."),
    }
    let report = |line: &str| say!("{line}");
    let interval = if std::io::stderr().is_terminal() { None } else { Some(REPORT_INTERVAL) };
    let totals = load.keep(until, interval, &report).await.map_err(Failure::runtime)?;
    say!("Done: {totals}.");
    Ok(())
}

fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

fn views(nodes: &[RunningNode]) -> Vec<NodeView> {
    nodes.iter().map(RunningNode::view).collect()
}

fn print_status(nodes: &[RunningNode]) {
    let views = views(nodes);
    say!("{}", Verdict::of(&views));
    say!("{}", tables::shards(&views));
    let mut table = tables::table(&["node", "redis", "admin", "#leads"]);
    for (node, view) in nodes.iter().zip(&views) {
        let leads = view.shards.iter().filter(|shard| shard.role == "leader").count();
        table.add_row([
            format!("node {}", view.node_id),
            node.resp_address().to_string(),
            format!("http://{}", node.admin_address()),
            leads.to_string(),
        ]);
    }
    say!("{table}\n");
}

fn print_next_steps(args: &DemoArgs, nodes: &[RunningNode]) {
    let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else { return };
    let program = std::env::current_exe()
        .map_or_else(|_| "flotilla".to_owned(), |path| path.display().to_string());
    let admins: Vec<String> = nodes.iter().map(|node| node.admin_address().to_string()).collect();
    say!("Next, in another terminal (any node takes any key):");
    say!("  redis-cli -p {} set greeting hello", first.resp_address().port());
    say!("  redis-cli -p {} get greeting", last.resp_address().port());
    say!("  redis-cli -p {} get {}", last.resp_address().port(), data::key_text(0));
    say!("  curl -s http://{}/status", first.admin_address());
    say!("  curl -s http://{}/metrics | grep ^flotilla_shards", first.admin_address());
    say!("  {program} status --admin-addr {}", admins.join(","));
    say!("  redis-benchmark -p {} -t set,get -c 64 -n 100000", first.resp_address().port());
    if args.dir.is_none() {
        say!("The data vanishes at the end: --dir DIR keeps it.");
    }
    say!();
}

/// Waits until any node stops itself, if ever; gives the reason.
async fn any_failed(nodes: &[RunningNode]) -> String {
    let failing = nodes.iter().map(|node| Box::pin(node.failed()));
    futures_util::future::select_all(failing).await.0
}

/// Stops all nodes side by side; the first failure is told.
async fn stop(nodes: Vec<RunningNode>) -> Result<(), Failure> {
    let stopping = nodes.into_iter().map(RunningNode::stop);
    futures_util::future::join_all(stopping).await.into_iter().collect()
}
