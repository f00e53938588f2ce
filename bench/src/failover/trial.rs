//! A cluster, writers that remember what they were told, and the verdict about both.

use std::time::Duration;

use anyhow::bail;
use clap::Args;

use crate::cluster::{Cluster, ClusterArgs, Layout};
use crate::history::Recorder;
use crate::register::{Register, VALUE_BYTES_MIN};
use crate::verify::verify;
use crate::writers::{Counts, Fleet, Writer, counts, problems};

/// How long reading all keys through one node may take.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments about writers, of all commands that judge.
#[derive(Clone, Debug, Args)]
pub struct WriterArgs {
    /// How many clients, each with one request in flight; they are spread over the shards.
    #[arg(long, default_value_t = 64)]
    pub clients: u32,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// A cluster, its writers, and what they found out.
pub struct Trial {
    /// The cluster.
    pub cluster: Cluster,
    /// The writers, while they rest.
    pub writers: Vec<Writer>,
    /// Into how many shards the keys fall.
    pub shards: u32,
    /// Broken promises, in words.
    pub violations: Vec<String>,
    recorder: Option<Recorder>,
}

impl Trial {
    /// Starts a cluster, and makes writers for it.
    ///
    /// # Errors
    ///
    /// If the arguments make no sense, or the cluster does not start.
    pub async fn start(args: &WriterArgs) -> anyhow::Result<Trial> {
        let Layout::Even(shards) = args.cluster.layout()? else {
            bail!("--split-at is for load; here the writers want --shards, to know their shards");
        };
        if args.clients < shards {
            bail!("--clients {} leaves some of {shards} shards without load", args.clients);
        }
        if args.value_size < VALUE_BYTES_MIN {
            bail!("--value-size must be {VALUE_BYTES_MIN} or more: values name their writes");
        }
        println!("{}", args.cluster.binary_note()?);
        let cluster = Cluster::start(&args.cluster).await?;
        println!(
            "{} nodes, {shards} shards, {} clients with one request in flight, values of {} B, \
             in {}",
            args.cluster.nodes,
            args.clients,
            args.value_size,
            cluster.directory().display()
        );
        let writers = Writer::spread(args.clients, shards, args.value_size);
        Ok(Trial { cluster, writers, shards, violations: Vec::new(), recorder: None })
    }

    /// Records from now on what the writers do and what is read to verify it.
    pub fn record(&mut self, recorder: &Recorder) {
        self.recorder = Some(recorder.clone());
        for writer in &mut self.writers {
            writer.record(recorder.clone());
        }
    }

    /// Sets the writers to work on the nodes that run.
    pub fn load(&mut self) -> Fleet {
        let writers = std::mem::take(&mut self.writers);
        Fleet::start(writers, &self.cluster.resp_addresses(), self.shards)
    }

    /// Takes the resting writers back, with what they saw during the load.
    pub fn rest(&mut self, mut writers: Vec<Writer>) {
        for writer in &mut writers {
            let seen = std::mem::take(&mut writer.violations);
            self.violations.extend(seen.into_iter().map(|what| format!("under load: {what}")));
        }
        self.writers = writers;
    }

    /// Reads all keys through node `id`; returns how many.
    ///
    /// # Errors
    ///
    /// If some key cannot be read.
    pub async fn verify(&mut self, id: u64) -> anyhow::Result<usize> {
        let mut registers: Vec<&mut Register> =
            self.writers.iter_mut().flat_map(Writer::registers_mut).collect();
        let address = self.cluster.resp_address(id);
        let recorder = self.recorder.as_ref();
        let verification = verify(address, &mut registers, VERIFY_TIMEOUT, recorder).await?;
        let found = verification.violations.into_iter();
        self.violations.extend(found.map(|what| format!("through node {id}: {what}")));
        Ok(verification.read)
    }

    /// Stops the cluster and tells the verdict; true if no promise was broken. Otherwise the nodes'
    /// directories are kept.
    ///
    /// # Errors
    ///
    /// If the cluster does not stop cleanly.
    pub async fn conclude(mut self) -> anyhow::Result<bool> {
        let Counts { acknowledged, refused, in_doubt, reads } = counts(&self.writers);
        println!(
            "{acknowledged} writes acknowledged, {refused} refused, {in_doubt} in doubt, {reads} \
             reads under load"
        );
        for (problem, count) in problems(&self.writers) {
            println!("  {problem}: {count}");
        }
        if self.violations.is_empty() {
            self.cluster.stop_all().await?;
            println!("PASS: nothing acknowledged is missing");
            return Ok(true);
        }
        println!("FAIL: {} broken promises", self.violations.len());
        for violation in self.violations.iter().take(20) {
            println!("  {violation}");
        }
        println!("the nodes' directories are kept in {}", self.cluster.keep().display());
        Ok(false)
    }
}
