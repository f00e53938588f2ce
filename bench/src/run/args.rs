//! What clients do, as it is said on the command line. Shared by the commands that drive a target.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cluster::ClusterArgs;
use crate::drive::{DriveOptions, End, Spacing};
use crate::keys::KeyFormat;
use crate::workload::{Distribution, Workload};

/// What clients do and for how long.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// a to f as YCSB has them, put, get, scan, or a file of properties in YCSB's form.
    #[arg(long, default_value = "a", value_name = "NAME|FILE")]
    pub workload: String,
    /// How many operations each has under way.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub pipeline: usize,
    /// Keys of one put, where the target has puts of several keys.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub batch: usize,
    /// How long is measured: 30s, 2m, or plain seconds.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub duration: Duration,
    /// How long the target is driven before that.
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = duration)]
    pub warmup: Duration,
    /// How many keys; by default what the workload says.
    #[arg(long)]
    pub keys: Option<u64>,
    /// Bytes of a value; by default what the workload says.
    #[arg(long)]
    pub value_size: Option<usize>,
    /// How keys are drawn; by default what the workload says.
    #[arg(long, value_enum)]
    pub distribution: Option<Distribution>,
    /// How a key's number becomes its bytes.
    #[arg(long, value_enum)]
    pub key_format: Option<KeyFormat>,
    /// How the moments of an open loop are spaced.
    #[arg(long, value_enum, default_value_t = Spacing::Poisson)]
    pub spacing: Spacing,
    /// What makes keys and operations those that they are.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Threads of the clients.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub threads: usize,
    /// Do not put every key once before: they are there.
    #[arg(long)]
    pub no_fill: bool,
    /// Lets the clients stand still for a share of each second.
    #[arg(long, hide = true, value_name = "PERCENT", value_parser = share, default_value = "0%")]
    pub plant_slowdown: f64,
}

impl LoadArgs {
    /// The workload.
    ///
    /// # Errors
    ///
    /// If it is not known or makes no sense, in words.
    pub fn workload(&self) -> anyhow::Result<Workload> {
        let named = Workload::named(&self.workload)?;
        let workload = Workload {
            keys: self.keys.unwrap_or(named.keys),
            value_bytes: self.value_size.unwrap_or(named.value_bytes),
            distribution: self.distribution.unwrap_or(named.distribution),
            key_format: self.key_format.unwrap_or(named.key_format),
            ..named
        };
        workload.check()?;
        Ok(workload)
    }

    /// How the target is driven by so many clients, in a closed loop unless `rate` says how often.
    pub fn options(&self, clients: usize, rate: Option<f64>) -> DriveOptions {
        DriveOptions {
            clients,
            pipeline: self.pipeline,
            batch: self.batch,
            rate,
            spacing: self.spacing,
            end: End::After(self.duration),
            warmup: self.warmup,
            threads: self.threads,
            seed: self.seed,
            slowdown: self.plant_slowdown,
            ..DriveOptions::default()
        }
    }
}

/// Where servers come from and live, for commands that start them.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// The server's binary; by default this program is the server too.
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Where data directories are made; they vanish at the end. By default the system's place for
    /// temporary files, which may be memory: name a directory on the disk that matters.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A further argument for every server, such as --server-arg=--log=debug. Repeatable.
    #[arg(long = "server-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub server_args: Vec<String>,
}

impl ServerArgs {
    /// A cluster of `nodes` servers.
    pub fn cluster(&self, nodes: u64, shards: u32, split_at: Option<String>) -> ClusterArgs {
        ClusterArgs {
            binary: self.binary.clone(),
            nodes,
            shards,
            split_at,
            dir: self.dir.clone(),
            server_args: self.server_args.clone(),
        }
    }
}

/// `30s`, `2m 30s`, or plain seconds.
///
/// # Errors
///
/// In words.
pub fn duration(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text)
            .map_err(|error| format!("{error}; write 30s, 2m or plain seconds")),
    }
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1_000_000) => Ok(number),
        _ => Err("write a number from 1 to 1,000,000".to_owned()),
    }
}

/// `20%` as 0.2.
fn share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).parse::<f64>();
    match percent {
        Ok(percent) if (0.0..100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("write a share below 100%".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_are_read() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        assert!(duration("soon").is_err());
        assert_eq!(share("20%"), Ok(0.2));
        assert!(share("100%").is_err());
        assert!(at_least_one("0").is_err());
    }
}
