//! What cluster to start.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use tempfile::TempDir;

/// How a new cluster's key space is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Evenly over the first two key bytes.
    Even(u32),
    /// At these keys, as `--split-at` takes them.
    SplitAt(String),
}

/// Arguments of commands that start a cluster.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// The flotilla binary; by default this program is the server too.
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// How many server processes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub nodes: u64,
    /// Into how many shards the key space is cut, evenly over the first two key bytes.
    #[arg(long, default_value_t = 8, conflicts_with = "split_at")]
    pub shards: u32,
    /// The first key of each shard but the first: K1,K2,... with \xNN escapes.
    #[arg(long, value_name = "KEYS")]
    pub split_at: Option<String>,
    /// Where the nodes' directories are made; they vanish at the end. By default the system's place
    /// for temporary files, which may be memory: name a directory on the disk that matters.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A further argument for every server, such as --server-arg=--log=debug. Repeatable.
    #[arg(long = "server-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub server_args: Vec<String>,
}

impl ClusterArgs {
    /// How the key space is to be cut.
    ///
    /// # Errors
    ///
    /// For no shards at all.
    pub fn layout(&self) -> anyhow::Result<Layout> {
        match &self.split_at {
            Some(keys) => Ok(Layout::SplitAt(keys.clone())),
            None if self.shards == 0 => bail!("--shards must be 1 or more"),
            None => Ok(Layout::Even(self.shards)),
        }
    }

    /// The server's binary and the subcommand that makes it a server.
    ///
    /// # Errors
    ///
    /// If there is no such file.
    pub fn server(&self) -> anyhow::Result<(PathBuf, &'static str)> {
        match &self.binary {
            Some(binary) if binary.is_file() => Ok((binary.clone(), "serve")),
            Some(binary) => bail!("there is no file {}", binary.display()),
            None => {
                let own = std::env::current_exe().context("cannot tell where this program is")?;
                Ok((own, "serve-node"))
            }
        }
    }

    /// A line about the server's binary for reports.
    ///
    /// # Errors
    ///
    /// As [`ClusterArgs::server`].
    pub fn binary_note(&self) -> anyhow::Result<String> {
        let (binary, _) = self.server()?;
        Ok(match self.binary {
            Some(_) => format!("server {}", binary.display()),
            None => "server: this program".to_owned(),
        })
    }

    /// A new directory for the cluster.
    pub(super) fn fresh_directory(&self) -> anyhow::Result<TempDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("flotilla-bench-");
        match &self.dir {
            None => builder.tempdir().context("cannot make a temporary directory"),
            Some(parent) => builder
                .tempdir_in(parent)
                .with_context(|| format!("cannot make a directory in {}", parent.display())),
        }
    }
}
