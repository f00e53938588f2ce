//! Kills every node at once under load, starts them again, and reads everything.
//!
//! What this proves: every acknowledged write had left the server processes. What it does not: that
//! it had left the operating system, which keeps running; lost power is for a simulated disk.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use crate::cluster::READY_TIMEOUT;
use crate::failover::{Trial, WriterArgs};
use crate::writers::counts;

/// Arguments of `crash`.
#[derive(Clone, Debug, Args)]
pub struct CrashArgs {
    /// How often.
    #[arg(long, default_value_t = 10)]
    pub rounds: u32,
    /// Seconds of load before each kill.
    #[arg(long, default_value_t = 3)]
    pub seconds: u64,
    /// The writers.
    #[command(flatten)]
    pub writers: WriterArgs,
}

/// Runs `crash`. Returns false if a promise was broken.
///
/// # Errors
///
/// If a node does not start, stop or answer.
pub async fn run(args: &CrashArgs) -> anyhow::Result<bool> {
    let mut trial = Trial::start(&args.writers).await?;
    println!(
        "{:>5}{:>15}{:>10}{:>14}{:>11}{:>12}",
        "round", "acknowledged", "in doubt", "ready after", "keys read", "violations"
    );
    for number in 1..=args.rounds {
        round(&mut trial, number, Duration::from_secs(args.seconds))
            .await
            .with_context(|| format!("round {number}"))?;
    }
    trial.conclude().await
}

async fn round(trial: &mut Trial, number: u32, load: Duration) -> anyhow::Result<()> {
    let before = counts(&trial.writers);
    let fleet = trial.load();
    tokio::time::sleep(load).await;
    trial.cluster.kill_all();
    let (writers, _) = fleet.stop().await?;
    trial.rest(writers);
    let after = counts(&trial.writers);

    let restarted = Instant::now();
    for id in trial.cluster.nodes() {
        trial.cluster.restart(id)?;
    }
    trial.cluster.wait_ready(READY_TIMEOUT).await?;
    let ready_after = restarted.elapsed();
    let mut keys_read = 0;
    for id in trial.cluster.nodes() {
        keys_read += trial.verify(id).await?;
    }
    println!(
        "{number:>5}{:>15}{:>10}{:>12.2} s{keys_read:>11}{:>12}",
        after.acknowledged - before.acknowledged,
        after.in_doubt - before.in_doubt,
        ready_after.as_secs_f64(),
        trial.violations.len(),
    );
    Ok(())
}
