//! Edges: large values among small ones, clients that do not read, clients that come and go.
//!
//! Each part measures what a steady probe feels, and what the largest node's memory does. Large
//! values come first at a rate that leaves the machine room, which shows what waits behind them, and
//! then as fast as a few clients can, which also shows what a machine without room does.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::BytesMut;
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, ClusterArgs, Layout};
use crate::connection::{Connection, ReadResult, WriteResult};
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
    /// MiB of large values that they write in a second, together, in the part with room.
    #[arg(long, default_value_t = 32)]
    pub large_rate_mib: u32,
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
        for (failure, count) in &felt.failures {
            println!("    {count} × {failure}");
        }
        Ok(())
    };
    show("alone", probe.next_phase(), &cluster)?;

    let paced = large(args, &cluster, shards, length, Some(args.large_rate_mib)).await?;
    let part = format!("beside 8 MiB values, {} MiB/s", paced.mib_per_second());
    show(&part, probe.next_phase(), &cluster)?;
    let large = large(args, &cluster, shards, length, None).await?;
    let part = format!("beside 8 MiB values, {} MiB/s", large.mib_per_second());
    show(&part, probe.next_phase(), &cluster)?;
    let silent = silent(args, &cluster, shards, length).await?;
    show("beside clients that do not read", probe.next_phase(), &cluster)?;
    drop(silent);
    let visits = visits(args, &cluster, length).await?;
    show("while clients come and go", probe.next_phase(), &cluster)?;
    tokio::time::sleep(length).await;
    show("alone again", probe.next_phase(), &cluster)?;
    probe.stop().await?;
    println!(
        "{} + {} values of 8 MiB written and read back, {} refused; {} visits, {} of them failed",
        paced.exchanged,
        large.exchanged,
        paced.refused + large.refused,
        visits.made,
        visits.failed
    );
    cluster.stop_all().await?;
    Ok(failed == 0 && visits.failed == 0)
}

/// What clients with large values did.
#[derive(Clone, Copy, Debug, Default)]
struct Exchanged {
    /// Values written and read back.
    exchanged: u64,
    /// Requests that were refused with certainly no effect, and tried again.
    refused: u64,
    elapsed: Duration,
}

impl Exchanged {
    /// How much was written, and as much read, in a second.
    fn mib_per_second(&self) -> u64 {
        let bytes = self.exchanged as f64 * LARGE_BYTES as f64;
        (bytes / (1 << 20) as f64 / self.elapsed.as_secs_f64().max(0.001)).round() as u64
    }
}

/// Writes and reads values of 8 MiB until the time is over, at most `rate_mib` in a second.
async fn large(
    args: &EdgesArgs,
    cluster: &Cluster,
    shards: u32,
    length: Duration,
    rate_mib: Option<u32>,
) -> anyhow::Result<Exchanged> {
    let mut clients = JoinSet::new();
    let count = args.large_clients.max(1);
    let begin = Instant::now();
    for number in 0..args.large_clients {
        let servers = cluster.resp_addresses();
        let address = servers[number as usize % servers.len()];
        let pause = rate_mib.map_or(Duration::ZERO, |rate| {
            Duration::from_secs(LARGE_BYTES as u64) * count / (rate.max(1) << 20)
        });
        clients.spawn(async move {
            let mut key = shard_prefix(0, shards).to_vec();
            key.extend_from_slice(format!("large{number}").as_bytes());
            let mut connection = Connection::open(address, REPLY_TIMEOUT).await?;
            let mut done = Exchanged::default();
            let mut due = begin + pause * number / count;
            while due < begin + length && begin.elapsed() < length {
                tokio::time::sleep_until(due.into()).await;
                let value = vec![done.exchanged as u8; LARGE_BYTES];
                match connection.set(&key, &value).await {
                    WriteResult::Acknowledged => {}
                    WriteResult::Refused(_) => {
                        done.refused += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                    WriteResult::InDoubt(problem) => bail!("a large write: {problem}"),
                }
                match connection.get(&key).await {
                    ReadResult::Value(Some(found)) if found == value => {}
                    ReadResult::Refused(_) => {
                        done.refused += 1;
                        continue;
                    }
                    _ => bail!("a large value came back otherwise"),
                }
                done.exchanged += 1;
                due = (due + pause).max(Instant::now());
            }
            anyhow::Ok(done)
        });
    }
    let mut all = Exchanged::default();
    while let Some(client) = clients.join_next().await {
        let done = client.context("a client failed")??;
        all.exchanged += done.exchanged;
        all.refused += done.refused;
    }
    // A pace is kept by waiting: what was not used of the time belongs to it.
    all.elapsed = begin.elapsed().max(length);
    tokio::time::sleep(length.saturating_sub(begin.elapsed())).await;
    Ok(all)
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
