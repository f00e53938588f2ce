//! Throughput, latency and CPU time over the Redis protocol.
//!
//! A closed loop: each client is a connection that keeps a number of requests in flight and sends
//! the next ones as soon as replies come. When the server stalls, a closed loop stops asking, so
//! that the stall counts once for each client and not for each request that an open world would
//! have sent; the maximum shows it, the quantiles may not.
//!
//! * `client` drives one connection, [`Tally`] is what it counts.
//! * The clients live on a few threads with a runtime each, so that they cost little beside the
//!   servers on the same machine.

mod client;
mod report;
mod tally;

pub use report::LoadReport;
pub use tally::Tally;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use tokio::sync::oneshot;

use crate::cluster::{Cluster, ClusterArgs};
use crate::cpu::{own_cpu_time, total_cpu_time};
use crate::keys::KeyFormat;

use client::{Client, Shared};

/// Arguments of `load`.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Servers, over which the clients are spread. Without any, a cluster is started for the run.
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,...")]
    pub addr: Vec<SocketAddr>,
    /// Processes of the servers, whose CPU time is counted. Known for a cluster started here.
    #[arg(long, value_delimiter = ',', value_name = "PID,...", requires = "addr")]
    pub server_pid: Vec<u32>,
    /// How many connections.
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// How many requests each keeps in flight.
    #[arg(long, default_value_t = 1)]
    pub pipeline: usize,
    /// How many keys; each request takes one at random.
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    /// Gets to puts: 0:1 only puts, 1:0 only gets, 95:5.
    #[arg(long, default_value = "0:1", value_name = "GETS:PUTS")]
    pub mix: Mix,
    /// For how long.
    #[arg(long, default_value_t = 10, conflicts_with = "requests")]
    pub seconds: u64,
    /// How many requests, instead of how long.
    #[arg(long)]
    pub requests: Option<u64>,
    /// How a key's number becomes its bytes.
    #[arg(long, value_enum, default_value_t = KeyFormat::Spread)]
    pub key_format: KeyFormat,
    /// Put every key once before the measurement, so that gets find something.
    #[arg(long)]
    pub fill: bool,
    /// Load for this long before the measurement begins.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub warmup: u64,
    /// Threads of the clients.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// The cluster to start when there is no --addr.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Gets to puts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Parts that are gets.
    pub gets: u32,
    /// Parts that are puts.
    pub puts: u32,
}

impl std::str::FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Mix, String> {
        let parse = |part: &str| part.parse::<u32>().ok().filter(|part| *part <= 1_000_000);
        let parts =
            text.split_once(':').and_then(|(gets, puts)| Some((parse(gets)?, parse(puts)?)));
        match parts {
            Some((gets, puts)) if gets + puts > 0 => Ok(Mix { gets, puts }),
            _ => Err(format!("`{text}` is not a mix: write gets:puts, such as 1:1 or 95:5")),
        }
    }
}

/// One phase of load.
#[derive(Clone, Debug)]
pub struct Phase {
    /// The servers.
    pub servers: Vec<SocketAddr>,
    /// Connections.
    pub clients: usize,
    /// Requests in flight on each.
    pub pipeline: usize,
    /// How many keys there are.
    pub keys: u64,
    /// Bytes of a value.
    pub value_size: usize,
    /// What is done to them.
    pub mix: Mix,
    /// How keys look.
    pub key_format: KeyFormat,
    /// When it ends.
    pub end: End,
    /// Threads of the clients.
    pub threads: usize,
}

/// When a phase ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After this time.
    After(Duration),
    /// After this many requests, on keys chosen at random.
    Requests(u64),
    /// When every key was taken once, in order.
    EachKeyOnce,
}

/// Runs `load`. Returns false if there were errors or unknown outcomes.
///
/// # Errors
///
/// If no cluster can be started, or the load cannot be run at all.
pub async fn run(args: &LoadArgs) -> anyhow::Result<bool> {
    if args.clients == 0 || args.pipeline == 0 || args.keys == 0 || args.threads == 0 {
        bail!("--clients, --pipeline, --keys and --threads must be 1 or more");
    }
    let mut cluster = match args.addr.is_empty() {
        true => Some(Cluster::start(&args.cluster).await?),
        false => None,
    };
    let (servers, processes) = match &cluster {
        Some(cluster) => (cluster.resp_addresses(), cluster.processes()),
        None => (args.addr.clone(), args.server_pid.clone()),
    };
    let end = match args.requests {
        Some(requests) => End::Requests(requests),
        None => End::After(Duration::from_secs(args.seconds)),
    };
    let phase = args.phase(servers, end);
    if args.fill {
        let fill = Phase { mix: Mix { gets: 0, puts: 1 }, end: End::EachKeyOnce, ..phase.clone() };
        let filled = execute(&fill).await.context("filling")?;
        if !filled.tally.is_clean() {
            bail!("filling was not without errors: {:?}", filled.tally.errors);
        }
    }
    if args.warmup > 0 {
        let end = End::After(Duration::from_secs(args.warmup));
        execute(&Phase { end, ..phase.clone() }).await.context("warming up")?;
    }
    let report = measure(&phase, &processes).await?;
    match args.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => println!("{report}"),
    }
    if let Some(cluster) = &mut cluster {
        cluster.stop_all().await?;
    }
    Ok(report.is_clean())
}

impl LoadArgs {
    fn phase(&self, servers: Vec<SocketAddr>, end: End) -> Phase {
        Phase {
            servers,
            clients: self.clients,
            pipeline: self.pipeline,
            keys: self.keys,
            value_size: self.value_size,
            mix: self.mix,
            key_format: self.key_format,
            end,
            threads: self.threads,
        }
    }
}

/// Runs one phase and counts the CPU time of `processes` and of this one meanwhile.
///
/// # Errors
///
/// If a process is gone, or the load cannot be run at all.
pub async fn measure(phase: &Phase, processes: &[u32]) -> anyhow::Result<LoadReport> {
    let (servers, own) = (total_cpu_time(processes)?, own_cpu_time()?);
    let executed = execute(phase).await?;
    let servers = total_cpu_time(processes)?.saturating_sub(servers);
    let own = own_cpu_time()?.saturating_sub(own);
    let servers = (!processes.is_empty()).then_some(servers);
    Ok(LoadReport::new(phase, &executed.tally, executed.elapsed, servers, own))
}

/// What a phase came to.
pub struct Executed {
    /// What was counted.
    pub tally: Tally,
    /// How long it took, from the first request to the last reply.
    pub elapsed: Duration,
}

/// Runs one phase on threads of its own.
///
/// # Errors
///
/// If threads cannot be started, or one panicked.
pub async fn execute(phase: &Phase) -> anyhow::Result<Executed> {
    let shared = Arc::new(Shared::new(phase));
    let started = Instant::now();
    let mut threads = Vec::new();
    for number in 0..phase.threads {
        let (done, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let clients: Vec<Client> = (0..phase.clients)
            .filter(|client| client % phase.threads == number)
            .map(|client| Client::new(client, phase))
            .collect();
        let shared = Arc::clone(&shared);
        thread::Builder::new().name(format!("load-{number}")).spawn(move || {
            // Nobody listens only when the run was given up.
            let _ = done.send(runtime.block_on(client::drive_all(clients, shared)));
        })?;
        threads.push(ended);
    }
    let mut tally = Tally::default();
    for thread in threads {
        tally.merge(&thread.await.context("a thread of clients failed")?);
    }
    Ok(Executed { tally, elapsed: started.elapsed() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_are_two_numbers() {
        assert_eq!("95:5".parse(), Ok(Mix { gets: 95, puts: 5 }));
        for bad in ["", "1", "0:0", "a:1", "-1:2", "1:2:3"] {
            assert!(bad.parse::<Mix>().unwrap_err().contains("not a mix"), "{bad}");
        }
    }
}
