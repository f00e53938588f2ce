//! Counters under fire: does every increment count once?
//!
//! Clients increment counters through all nodes while leaders are killed and proxies between the
//! nodes cut connections and swallow frames. A server that retries a write whose answer was lost
//! must not count it twice, and one that does not retry must not call it done.
//!
//! The verdict, for each counter: what was acknowledged is in it; at most what was reported unknown
//! is in it besides; and no two acknowledgements gave the same number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::{SeedableRng, seq::IndexedRandom};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, ClusterArgs, Layout, READY_TIMEOUT};
use crate::connection::{Connection, ReadResult, WriteResult};
use crate::keys::shard_prefix;

const REPLY_TIMEOUT: Duration = Duration::from_secs(15);
const REFUSAL_PAUSE: Duration = Duration::from_millis(5);
/// How long reading a counter may take in the end.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a killed node stays away.
const AWAY: Duration = Duration::from_millis(1500);

/// Arguments of `increments`.
#[derive(Clone, Debug, Args)]
pub struct IncrementsArgs {
    /// How many clients, each with one request in flight.
    #[arg(long, default_value_t = 64)]
    pub clients: u32,
    /// How many counters, spread over the shards.
    #[arg(long, default_value_t = 8)]
    pub counters: u32,
    /// How long.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// How many times the node that leads most is killed meanwhile.
    #[arg(long, default_value_t = 10)]
    pub kills: u32,
    /// A connection between two nodes is cut, or frames on it are swallowed, this often.
    #[arg(long, default_value_t = 150, value_name = "MILLISECONDS")]
    pub harm_every_ms: u64,
    /// Seed of the faults.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Succeed only if a promise was broken: for servers that were told to forget who asks.
    #[arg(long)]
    pub expect_violations: bool,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What one client was told about its counter.
#[derive(Default)]
struct Told {
    counter: u32,
    /// The numbers that acknowledgements gave.
    numbers: Vec<i64>,
    unknown: u64,
    refused: u64,
    problems: BTreeMap<String, u64>,
}

/// Runs `increments`. Returns false if a promise was broken (or, if violations are expected, none).
///
/// # Errors
///
/// If a node does not start or answer, or the arguments make no sense.
pub async fn run(args: &IncrementsArgs) -> anyhow::Result<bool> {
    let Layout::Even(shards) = args.cluster.layout()? else {
        bail!("--split-at is for load; here the counters want --shards");
    };
    if args.clients == 0 || args.counters == 0 || args.seconds == 0 {
        bail!("--clients, --counters and --seconds must be 1 or more");
    }
    println!("{}", args.cluster.binary_note()?);
    let mut cluster = Cluster::start_through_proxies(&args.cluster).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let key = |counter: u32| {
        let mut key = shard_prefix(counter % shards, shards).to_vec();
        key.extend_from_slice(format!("counter{counter}").as_bytes());
        key
    };
    let clients: Vec<JoinHandle<Told>> = (0..args.clients)
        .map(|id| {
            let counter = id % args.counters;
            let servers = cluster.resp_addresses();
            tokio::spawn(count(id, counter, key(counter), servers, Arc::clone(&stop)))
        })
        .collect();
    let kills = harm(args, &mut cluster).await?;
    stop.store(true, Ordering::Relaxed);
    let mut told = Vec::new();
    for client in clients {
        told.push(client.await.context("a client failed")?);
    }
    let proxies = cluster.proxies().expect("it was started through proxies");
    proxies.heal();
    let harm = proxies.harm();
    cluster.wait_ready(READY_TIMEOUT).await?;
    println!(
        "{kills} leaders killed, {} connections cut, {} frames swallowed",
        harm.cut, harm.swallowed
    );
    let mut violations = Vec::new();
    println!(
        "{:>8}{:>14}{:>10}{:>10}{:>12}{:>9}",
        "counter", "acknowledged", "unknown", "refused", "found", "excess"
    );
    for counter in 0..args.counters {
        let mine: Vec<&Told> = told.iter().filter(|told| told.counter == counter).collect();
        let found = read_everywhere(&cluster, &key(counter)).await?;
        judge(counter, &mine, &found, &mut violations);
    }
    let mut problems: BTreeMap<&str, u64> = BTreeMap::new();
    for (problem, count) in told.iter().flat_map(|told| &told.problems) {
        *problems.entry(problem).or_default() += count;
    }
    problems.iter().for_each(|(problem, count)| println!("  {problem}: {count}"));
    violations.iter().for_each(|violation| println!("  BROKEN: {violation}"));
    let as_expected = violations.is_empty() != args.expect_violations;
    match (violations.is_empty(), args.expect_violations) {
        (true, false) => println!("PASS: every increment counts once"),
        (true, true) => println!("FAIL: no violation, although some were expected"),
        (false, true) => println!("PASS: {} violations, as expected", violations.len()),
        (false, false) => println!(
            "FAIL: {} broken promises; the nodes' directories are kept in {}",
            violations.len(),
            cluster.keep().display()
        ),
    }
    Ok(as_expected)
}

/// Kills, cuts and swallows until the time is over. All nodes run in the end.
async fn harm(args: &IncrementsArgs, cluster: &mut Cluster) -> anyhow::Result<u32> {
    let mut random = SmallRng::seed_from_u64(args.seed);
    let (begin, length) = (Instant::now(), Duration::from_secs(args.seconds));
    let mut kills = 0;
    let mut away: Option<(u64, Instant)> = None;
    while begin.elapsed() < length {
        tokio::time::sleep(Duration::from_millis(args.harm_every_ms)).await;
        let proxies = cluster.proxies().expect("it was started through proxies");
        let links = proxies.links();
        let link = *links.choose(&mut random).context("one node has no links")?;
        match random.random_range(0..4) {
            0 => proxies.cut(link),
            _ => proxies.swallow(link, random.random_range(1..=3)),
        }
        if let Some((node, back_at)) = away {
            if Instant::now() >= back_at {
                cluster.restart(node)?;
                away = None;
            }
            continue;
        }
        let due = length.mul_f64((f64::from(kills) + 0.5) / f64::from(args.kills.max(1)));
        if kills < args.kills && begin.elapsed() >= due {
            // A node that is not up yet must not be missed by a majority.
            cluster.wait_ready(READY_TIMEOUT).await?;
            if let Some(node) = leads_most(cluster).await? {
                cluster.kill(node);
                kills += 1;
                away = Some((node, Instant::now() + AWAY));
            }
        }
    }
    if let Some((node, _)) = away {
        cluster.restart(node)?;
    }
    Ok(kills)
}

async fn leads_most(cluster: &Cluster) -> anyhow::Result<Option<u64>> {
    let mut led: BTreeMap<u64, usize> = BTreeMap::new();
    for leader in cluster.leaders().await?.values() {
        *led.entry(leader.node).or_default() += 1;
    }
    Ok(led.into_iter().max_by_key(|(_, shards)| *shards).map(|(node, _)| node))
}

async fn count(
    id: u32,
    counter: u32,
    key: Vec<u8>,
    servers: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
) -> Told {
    let mut told = Told { counter, ..Told::default() };
    let mut server = id as usize;
    let mut connection: Option<Connection> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(open) = &mut connection else {
            match Connection::open(servers[server % servers.len()], REPLY_TIMEOUT).await {
                Ok(open) => connection = Some(open),
                Err(_) => {
                    server += 1;
                    tokio::time::sleep(REFUSAL_PAUSE).await;
                }
            }
            continue;
        };
        let (result, number) = open.increment(&key).await;
        match result {
            WriteResult::Acknowledged => told.numbers.extend(number),
            WriteResult::Refused(kind) => {
                told.refused += 1;
                *told.problems.entry(format!("refused: {kind}")).or_default() += 1;
                tokio::time::sleep(REFUSAL_PAUSE).await;
            }
            WriteResult::InDoubt(kind) => {
                told.unknown += 1;
                *told.problems.entry(format!("unknown: {kind}")).or_default() += 1;
            }
        }
        if open.is_broken() {
            connection = None;
            server += 1;
        }
    }
    told
}

/// The counter as each node tells it.
async fn read_everywhere(cluster: &Cluster, key: &[u8]) -> anyhow::Result<Vec<i64>> {
    let mut found = Vec::new();
    for address in cluster.resp_addresses() {
        let deadline = Instant::now() + READ_TIMEOUT;
        let value = loop {
            let problem = match Connection::open(address, REPLY_TIMEOUT).await {
                Ok(mut connection) => match connection.get(key).await {
                    ReadResult::Value(value) => break value,
                    ReadResult::Refused(problem) | ReadResult::Lost(problem) => problem,
                },
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                bail!("a counter cannot be read through {address}: {problem}");
            }
            tokio::time::sleep(REFUSAL_PAUSE).await;
        };
        let text = String::from_utf8(value.unwrap_or_else(|| b"0".to_vec()))?;
        found.push(text.parse().with_context(|| format!("`{text}` is not a counter"))?);
    }
    Ok(found)
}

fn judge(counter: u32, told: &[&Told], found: &[i64], violations: &mut Vec<String>) {
    let acknowledged: usize = told.iter().map(|told| told.numbers.len()).sum();
    let unknown: u64 = told.iter().map(|told| told.unknown).sum();
    let refused: u64 = told.iter().map(|told| told.refused).sum();
    let value = found[0];
    let excess = value - acknowledged as i64;
    println!("{counter:>8}{acknowledged:>14}{unknown:>10}{refused:>10}{value:>12}{excess:>9}");
    if found.iter().any(|other| *other != value) {
        violations.push(format!("counter {counter}: the nodes tell {found:?}"));
    }
    if excess < 0 {
        violations.push(format!("counter {counter}: {} acknowledged increments are lost", -excess));
    }
    if excess > unknown as i64 {
        let doubled = excess - unknown as i64;
        violations.push(format!("counter {counter}: at least {doubled} increments counted twice"));
    }
    let mut seen = BTreeSet::new();
    let numbers = told.iter().flat_map(|told| &told.numbers);
    let repeated = numbers.filter(|number| !seen.insert(**number)).count();
    if repeated > 0 {
        violations.push(format!(
            "counter {counter}: {repeated} acknowledgements gave a number that another one gave too"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(numbers: &[i64], unknown: u64, found: &[i64]) -> Vec<String> {
        let told = Told { numbers: numbers.to_vec(), unknown, ..Told::default() };
        let mut violations = Vec::new();
        judge(0, &[&told], found, &mut violations);
        violations
    }

    #[test]
    fn each_increment_counts_once() {
        assert!(verdict(&[1, 2, 3], 0, &[3, 3, 3]).is_empty());
        assert!(verdict(&[1, 3], 1, &[3, 3, 3]).is_empty(), "an unknown one took effect");
        assert!(verdict(&[1, 2], 1, &[2, 2, 2]).is_empty(), "an unknown one did not");
        assert!(verdict(&[1, 2], 0, &[3, 3, 3])[0].contains("twice"));
        assert!(verdict(&[1, 2], 0, &[1, 1, 1])[0].contains("lost"));
        assert!(verdict(&[1, 1], 0, &[2, 2, 2])[0].contains("another one gave too"));
        assert!(verdict(&[1, 2], 0, &[2, 1, 2])[0].contains("tell"));
    }
}
