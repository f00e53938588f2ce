//! Edges: large values among small ones, clients that do not read, clients that come and go.
//!
//! Each part measures what a steady probe feels, and what the largest node's memory does.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::BytesMut;
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, ClusterArgs, Layout};
use crate::connection::{Connection, WriteResult};
use crate::keys::shard_prefix;
use crate::probe::{Felt, Probe};
use crate::resp;

const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
const LARGE_BYTES: usize = 8 << 20;

/// Arguments of `edges`.
#[derive(Clone, Debug, Args)]
pub struct EdgesArgs {
    /// Seconds of each part.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Clients that write and read values of 8 MiB.
    #[arg(long, default_value_t = 2)]
    pub large_clients: u32,
    /// Clients that ask for much and read nothing.
    #[arg(long, default_value_t = 64)]
    pub silent_clients: u32,
    /// Connections opened and closed in each second.
    #[arg(long, default_value_t = 1000)]
    pub visits_per_second: u32,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Runs `edges`. Returns false if an operation failed that should not have.
///
/// # Errors
///
/// If a node fails.
pub async fn run(args: &EdgesArgs) -> anyhow::Result<bool> {
    let Layout::Even(shards) = args.cluster.layout()? else {
        bail!("--split-at is for load; here the parts want --shards");
    };
    if shards < 2 {
        bail!("--shards must be 2 or more: large values and the probe use different shards");
    }
    println!("{}", args.cluster.binary_note()?);
    let mut cluster = Cluster::start(&args.cluster).await?;
    let servers = cluster.resp_addresses();
    // The large values and the silent clients use shard 0, the probe all others.
    let others: Vec<u32> = (1..shards).collect();
    let probe = Probe::start(&servers, 400, &others, shards);
    let length = Duration::from_secs(args.seconds);
    println!(
        "{:<34}{:>11}{:>8}{:>9}{:>9}{:>10}{:>8}{:>14}",
        "", "operations", "failed", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "resident MiB"
    );
    tokio::time::sleep(length).await;
    let mut failed = 0;
    let mut show = |part: &str, felt: Felt, cluster: &Cluster| -> anyhow::Result<()> {
        let mut most = 0;
        for id in cluster.nodes() {
            most = most.max(cluster.sample(id)?.resident_bytes);
        }
        let summary = felt.summary;
        failed += felt.failed;
        println!(
            "{part:<34}{:>11}{:>8}{:>9.2}{:>9.2}{:>10.2}{:>8.0}{:>14}",
            summary.operations,
            felt.failed,
            summary.p50_ms,
            summary.p99_ms,
            summary.p999_ms,
            summary.max_ms,
            most >> 20
        );
        Ok(())
    };
    show("alone", probe.next_phase(), &cluster)?;

    let exchanged = large(args, &cluster, shards, length).await?;
    show("beside values of 8 MiB", probe.next_phase(), &cluster)?;
    let silent = silent(args, &cluster, shards, length).await?;
    show("beside clients that do not read", probe.next_phase(), &cluster)?;
    drop(silent);
    let visits = visits(args, &cluster, length).await?;
    show("while clients come and go", probe.next_phase(), &cluster)?;
    tokio::time::sleep(length).await;
    show("alone again", probe.next_phase(), &cluster)?;
    probe.stop().await?;
    println!(
        "{exchanged} values of 8 MiB written and read back; {} visits, {} of them failed",
        visits.made, visits.failed
    );
    cluster.stop_all().await?;
    Ok(failed == 0 && visits.failed == 0)
}

/// Writes and reads values of 8 MiB until the time is over; returns how many.
async fn large(
    args: &EdgesArgs,
    cluster: &Cluster,
    shards: u32,
    length: Duration,
) -> anyhow::Result<u64> {
    let mut clients = JoinSet::new();
    for number in 0..args.large_clients {
        let servers = cluster.resp_addresses();
        let address = servers[number as usize % servers.len()];
        clients.spawn(async move {
            let mut key = shard_prefix(0, shards).to_vec();
            key.extend_from_slice(format!("large{number}").as_bytes());
            let mut connection = Connection::open(address, REPLY_TIMEOUT).await?;
            let (begin, mut exchanged) = (Instant::now(), 0_u64);
            while begin.elapsed() < length {
                let value = vec![exchanged as u8; LARGE_BYTES];
                match connection.set(&key, &value).await {
                    WriteResult::Acknowledged => {}
                    WriteResult::Refused(_) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                    WriteResult::InDoubt(problem) => bail!("a large write: {problem}"),
                }
                match connection.get(&key).await {
                    crate::connection::ReadResult::Value(Some(found)) if found == value => {}
                    crate::connection::ReadResult::Refused(_) => continue,
                    _ => bail!("a large value came back otherwise"),
                }
                exchanged += 1;
            }
            anyhow::Ok(exchanged)
        });
    }
    let mut exchanged = 0;
    while let Some(client) = clients.join_next().await {
        exchanged += client.context("a client failed")??;
    }
    Ok(exchanged)
}

/// Clients that ask for a large value again and again and read nothing. They live until the result
/// is dropped.
async fn silent(
    args: &EdgesArgs,
    cluster: &Cluster,
    shards: u32,
    length: Duration,
) -> anyhow::Result<Vec<TcpStream>> {
    let servers = cluster.resp_addresses();
    let mut key = shard_prefix(0, shards).to_vec();
    key.extend_from_slice(b"wanted");
    let mut connection = Connection::open(servers[0], REPLY_TIMEOUT).await?;
    let stored = connection.set(&key, &vec![b'w'; 1 << 20]).await;
    if stored != WriteResult::Acknowledged {
        bail!("the value that silent clients ask for was not stored: {stored:?}");
    }
    let mut request = BytesMut::new();
    for _ in 0..1000 {
        resp::put_get(&mut request, &key);
    }
    let mut streams = Vec::new();
    for number in 0..args.silent_clients {
        let mut stream = TcpStream::connect(servers[number as usize % servers.len()]).await?;
        // A server may stop reading before all is sent: that is the point.
        let sending = stream.write_all(&request);
        let _ = tokio::time::timeout(Duration::from_millis(200), sending).await;
        streams.push(stream);
    }
    tokio::time::sleep(length).await;
    Ok(streams)
}

struct Visits {
    made: u64,
    failed: u64,
}

/// Clients that connect, ask once and go.
async fn visits(args: &EdgesArgs, cluster: &Cluster, length: Duration) -> anyhow::Result<Visits> {
    let servers = cluster.resp_addresses();
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let (begin, mut made) = (Instant::now(), 0_u64);
    let mut running = JoinSet::new();
    let mut failed = 0;
    while begin.elapsed() < length {
        pace.tick().await;
        let due = (begin.elapsed().as_secs_f64() * f64::from(args.visits_per_second)) as u64;
        for number in made..due {
            let address = servers[number as usize % servers.len()];
            running.spawn(async move {
                let mut stream = TcpStream::connect(address).await?;
                stream.write_all(b"PING\r\n").await?;
                let mut reply = [0; 7];
                stream.read_exact(&mut reply).await?;
                anyhow::ensure!(&reply == b"+PONG\r\n", "not a PONG");
                anyhow::Ok(())
            });
        }
        made = made.max(due);
        while let Some(visit) = running.try_join_next() {
            failed += u64::from(!matches!(visit, Ok(Ok(()))));
        }
    }
    while let Some(visit) = running.join_next().await {
        failed += u64::from(!matches!(visit, Ok(Ok(()))));
    }
    Ok(Visits { made, failed })
}
