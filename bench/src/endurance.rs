//! Overwrites at full speed for minutes: does anything grow?
//!
//! A table over time: memory and disk of the largest node, checkpoints, and how often the journal
//! was written over. The verdict: nothing of it grows between the second and the last third, no
//! node's disk exceeds three times its live data and 2 GiB, and it was long enough to say so: there
//! were twenty checkpoints, and as much was written as fills all journal files three times.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use crate::cluster::{Cluster, ClusterArgs};
use crate::drive::End;
use crate::run::Puts;
use crate::sampling::{Sample, metric};

/// What may be added to three times the live data.
const SLACK_BYTES: u64 = 2 << 30;
/// By how much the last third may exceed the second: samples are taken between checkpoints.
const GROWTH_MAX: f64 = 1.25;
/// Fewer checkpoints, or fewer times that the journal's files were written over, prove nothing.
const CHECKPOINTS_MIN: u64 = 20;
const JOURNAL_ROUNDS_MIN: f64 = 3.0;
/// Bytes of a key.
const KEY_BYTES: u64 = 16;

/// Bytes of keys and values of so many rows.
pub(crate) fn live_bytes(keys: u64, value_bytes: u64) -> u64 {
    keys * (KEY_BYTES + value_bytes)
}

/// What a node's disk may hold at most.
pub(crate) fn disk_bound(live_bytes: u64) -> u64 {
    3 * live_bytes + SLACK_BYTES
}

/// Arguments of `endurance`.
#[derive(Clone, Debug, Args)]
pub struct EnduranceArgs {
    /// How long.
    #[arg(long, default_value_t = 600)]
    pub seconds: u64,
    /// Between two rows of the table.
    #[arg(long, default_value_t = 30)]
    pub every_seconds: u64,
    /// How many keys are overwritten.
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 1024)]
    pub value_size: usize,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// Requests in flight on each.
    #[arg(long, default_value_t = 4)]
    pub pipeline: usize,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// The largest of all nodes at a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    resident_bytes: u64,
    journal_bytes: u64,
    store_bytes: u64,
    disk_bytes: u64,
    /// The fewest of all nodes.
    checkpoints: u64,
    /// The fewest of all nodes: how often the bytes of the journal's files were written.
    journal_rounds: f64,
}

/// Runs `endurance`. Returns false if something grew.
///
/// # Errors
///
/// If a node fails.
pub async fn run(args: &EnduranceArgs) -> anyhow::Result<bool> {
    if args.seconds < 3 * args.every_seconds || args.every_seconds == 0 {
        bail!("--seconds must be at least three times --every-seconds, which must not be 0");
    }
    println!("{}", args.cluster.binary_note()?);
    let mut cluster = Cluster::start(&args.cluster).await?;
    let puts = Puts {
        servers: cluster.resp_addresses(),
        clients: args.clients,
        pipeline: args.pipeline,
        keys: args.keys,
        value_bytes: args.value_size,
        end: End::After(Duration::from_secs(args.seconds)),
    };
    println!(
        "{:>7}{:>14}{:>13}{:>11}{:>10}{:>13}{:>16}",
        "after s",
        "resident MiB",
        "journal MiB",
        "store MiB",
        "disk MiB",
        "checkpoints",
        "journal rounds"
    );
    let loading = tokio::spawn(async move { puts.run().await });
    let begin = Instant::now();
    let mut rows = Vec::new();
    for number in 1..=args.seconds / args.every_seconds {
        let at = Duration::from_secs(number * args.every_seconds);
        tokio::time::sleep(at.saturating_sub(begin.elapsed())).await;
        let row = look(&cluster).await?;
        println!(
            "{:>7.0}{:>14}{:>13}{:>11}{:>10}{:>13}{:>16.1}",
            begin.elapsed().as_secs_f64(),
            row.resident_bytes >> 20,
            row.journal_bytes >> 20,
            row.store_bytes >> 20,
            row.disk_bytes >> 20,
            row.checkpoints,
            row.journal_rounds
        );
        rows.push(row);
    }
    let driven = loading.await.context("the load failed")??;
    let puts = driven.latencies().summary();
    println!(
        "{} puts, {:.0} per second, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.0} ms, {} errors",
        puts.operations,
        driven.per_second(),
        puts.p50_ms,
        puts.p99_ms,
        puts.p999_ms,
        puts.max_ms,
        driven.errors.values().sum::<u64>()
    );
    let live_bytes = live_bytes(args.keys, args.value_size as u64);
    let most = rows.iter().map(|row| row.disk_bytes).max().unwrap_or(0);
    println!(
        "at most {} MiB on a disk, of at most {} MiB for {} MiB live",
        most >> 20,
        disk_bound(live_bytes) >> 20,
        live_bytes >> 20
    );
    let problems = judge(&rows, live_bytes);
    problems.iter().for_each(|problem| println!("  {problem}"));
    cluster.stop_all().await?;
    println!("{}", if problems.is_empty() { "PASS: flat" } else { "FAIL" });
    Ok(problems.is_empty() && driven.is_clean())
}

async fn look(cluster: &Cluster) -> anyhow::Result<Row> {
    let mut row = Row { checkpoints: u64::MAX, journal_rounds: f64::MAX, ..Row::default() };
    for id in cluster.nodes() {
        let sample: Sample = cluster.sample(id)?;
        let text = cluster.metrics(id).await?;
        let number = |name: &str| {
            metric(&text, name).with_context(|| format!("node {id} does not tell {name}"))
        };
        row.resident_bytes = row.resident_bytes.max(sample.resident_bytes);
        row.journal_bytes = row.journal_bytes.max(sample.journal_bytes);
        row.store_bytes = row.store_bytes.max(sample.store_bytes);
        row.disk_bytes = row.disk_bytes.max(sample.disk_bytes());
        let checkpoints = number("flotilla_store_checkpoints_total")?;
        row.checkpoints = row.checkpoints.min(checkpoints as u64);
        let written = number("flotilla_journal_bytes_written_total")?;
        row.journal_rounds = row.journal_rounds.min(written / sample.journal_bytes.max(1) as f64);
    }
    Ok(row)
}

fn judge(rows: &[Row], live_bytes: u64) -> Vec<String> {
    let mut problems = Vec::new();
    let (second, last) = (&rows[rows.len() / 3..rows.len() * 2 / 3], &rows[rows.len() * 2 / 3..]);
    let figures: [(&str, fn(&Row) -> u64); 3] = [
        ("resident memory", |row| row.resident_bytes),
        ("the journal", |row| row.journal_bytes),
        ("the store", |row| row.store_bytes),
    ];
    for (what, figure) in figures {
        let most = |rows: &[Row]| rows.iter().map(figure).max().unwrap_or(0);
        let (earlier, later) = (most(second), most(last));
        if later as f64 > earlier as f64 * GROWTH_MAX {
            problems.push(format!("{what} grew from {earlier} to {later} bytes"));
        }
    }
    let bound = disk_bound(live_bytes);
    let most = rows.iter().map(|row| row.disk_bytes).max().unwrap_or(0);
    if most > bound {
        problems.push(format!("a node's disk took {most} bytes, more than {bound}"));
    }
    let end = rows.last().copied().unwrap_or_default();
    if end.checkpoints < CHECKPOINTS_MIN {
        let checkpoints = end.checkpoints;
        problems.push(format!("only {checkpoints} checkpoints, of {CHECKPOINTS_MIN}: run longer"));
    }
    if end.journal_rounds < JOURNAL_ROUNDS_MIN {
        let rounds = end.journal_rounds;
        problems.push(format!("the journal was written over only {rounds:.1} times: run longer"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_seen_and_a_wave_is_not() {
        let row = |resident_bytes, disk_bytes| Row {
            resident_bytes,
            disk_bytes,
            checkpoints: CHECKPOINTS_MIN,
            journal_rounds: JOURNAL_ROUNDS_MIN,
            ..Row::default()
        };
        let wave: Vec<Row> = [9, 5, 10, 8, 9, 10].map(|bytes| row(bytes, 0)).into();
        assert!(judge(&wave, 0).is_empty());
        let growth: Vec<Row> = [1, 2, 3, 4, 5, 6].map(|bytes| row(bytes, 0)).into();
        assert!(judge(&growth, 0)[0].contains("resident memory grew from 4 to 6"));
        let large: Vec<Row> = [row(1, (2 << 30) + 31); 3].into();
        assert!(judge(&large, 10)[0].contains("disk"));
        let short: Vec<Row> = [Row { checkpoints: 19, journal_rounds: 2.9, ..row(1, 1) }; 3].into();
        assert_eq!(judge(&short, 0).len(), 2, "too short to say anything");
    }
}
