//! One kill: what is done, what is measured, and how it is told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::answers::{Answer, Came, latencies, moments, series};
use crate::cluster::{Cluster, READY_TIMEOUT};
use crate::gaps::{Gap, longest_gap};
use crate::latency::per_second;
use crate::measure;
use crate::readers::{Audience, Reader};
use crate::result::{
    Cost, Description, Event, Figure, Machine, OperationResult, RunResult, RunSettings, SCHEMA,
    Second,
};
use crate::writers::Writer;

use super::{FailoverArgs, Trial};

/// How long a restarted node may take to catch up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(120);

/// What the columns mean.
pub const LEGEND: &str = "any gap: the longest time without any acknowledged write, of all clients \
    together, from the kill to the end of the load; shard gap: the same for the shard that waited \
    longest; read gap: that shard gap for answered reads";

/// What happens in a round.
pub struct Scene<'a> {
    pub trial: &'a mut Trial,
    pub readers: Vec<Reader>,
    /// How long there is load; the kill comes after a third of it.
    pub load: Duration,
}

/// What happened in a round.
pub struct Round {
    started_at: String,
    victim: u64,
    /// How many shards the victim led.
    led: usize,
    elapsed: Duration,
    any_gap: Gap,
    shard_gap: Gap,
    read_gap: Gap,
    /// From its start until it had applied all that was committed.
    back_after: Duration,
    /// Keys read in total, through all nodes.
    keys_read: usize,
    answers: Vec<Answer>,
    series: Vec<Second>,
    events: Vec<Event>,
    /// The readers, at rest.
    pub readers: Vec<Reader>,
}

impl Scene<'_> {
    /// # Errors
    ///
    /// If a node does not start, answer, or catch up.
    pub async fn play(self) -> anyhow::Result<Round> {
        let Scene { trial, readers, load } = self;
        let (started_at, started) = (measure::now(), Instant::now());
        let fleet = trial.load();
        let audience = Audience::start(readers, &trial.cluster.resp_addresses());
        tokio::time::sleep(load / 3).await;
        let (victim, led) = most_loaded_leader(&trial.cluster, &fleet.acknowledged()).await?;
        let killed_at = trial.cluster.kill(victim);
        tokio::time::sleep(load.saturating_sub(started.elapsed())).await;
        let (writers, ended_at) = fleet.stop().await?;
        let readers = audience.stop().await?;

        let writes = |shard| of_writers(&writers, shard, Came::Written);
        let any_gap = longest_gap(writes(None), killed_at, ended_at);
        let shard_gap =
            longest_of(trial.shards, |shard| longest_gap(writes(Some(shard)), killed_at, ended_at));
        // A shard that nobody reads has no gap.
        let read: Vec<u32> = readers.iter().map(|reader| reader.shard).collect();
        let read_gap = longest_of(trial.shards, |shard| match read.contains(&shard) {
            true => longest_gap(of_readers(&readers, shard), killed_at, ended_at),
            false => Gap::NONE,
        });
        let answers: Vec<Answer> = writers
            .iter()
            .flat_map(|writer| writer.answers.iter())
            .chain(readers.iter().flat_map(|reader| reader.answers.iter()))
            .copied()
            .collect();
        trial.rest(writers);

        let mut keys_read = 0;
        for survivor in trial.cluster.running() {
            keys_read += trial.verify(survivor).await?;
        }
        let restarted_at = Instant::now();
        trial.cluster.restart(victim)?;
        trial.cluster.wait_ready(READY_TIMEOUT).await?;
        trial.cluster.wait_caught_up(victim, CATCH_UP_TIMEOUT).await?;
        let back_after = restarted_at.elapsed();
        keys_read += trial.verify(victim).await?;

        let event = |at: Instant, label: String| Event {
            at_s: at.saturating_duration_since(started).as_secs_f64(),
            label,
        };
        let events = vec![
            event(killed_at, format!("node {victim} killed, led {led} of {}", trial.shards)),
            event(ended_at, "load ends, every key is read through the survivors".to_owned()),
            event(restarted_at, format!("node {victim} started again")),
            event(restarted_at + back_after, format!("node {victim} has caught up")),
        ];
        Ok(Round {
            started_at,
            victim,
            led,
            elapsed: ended_at - started,
            any_gap,
            shard_gap,
            read_gap,
            back_after,
            keys_read,
            series: series(&answers, started, restarted_at + back_after),
            answers,
            events,
            readers,
        })
    }
}

impl Round {
    /// One line of the table.
    pub fn row(&self, number: u32, shards: u32) -> String {
        format!(
            "{number:>5}{:>8}{:>7}{:>11.0}{:>11.0}{:>13.0}{:>14.0}{:>13.0}{:>10.2} s{:>10}",
            format!("node {}", self.victim),
            format!("{}/{shards}", self.led),
            self.rate(Came::Written),
            self.rate(Came::Read),
            ms(self.any_gap),
            ms(self.shard_gap),
            ms(self.read_gap),
            self.back_after.as_secs_f64(),
            self.keys_read,
        )
    }

    /// As documents hold it.
    pub fn result(
        &self,
        number: u32,
        args: &FailoverArgs,
        shards: u32,
        machine: Machine,
    ) -> RunResult {
        let operations = [("get", Came::Read), ("put", Came::Written)].map(|(name, came)| {
            let latencies = latencies(&self.answers, came);
            (name.to_owned(), latencies)
        });
        let count = |came| self.answers.iter().filter(|answer| answer.came == came).count() as u64;
        let counted = |label: &str, count: u64| match count {
            0 => BTreeMap::new(),
            _ => BTreeMap::from([(label.to_owned(), count)]),
        };
        let figure = |label: &str, value: f64, unit: &str| Figure {
            label: label.to_owned(),
            value,
            unit: unit.to_owned(),
        };
        RunResult {
            schema: SCHEMA,
            name: "failover".to_owned(),
            round: number,
            started_at: self.started_at.clone(),
            revision: measure::revision(),
            machine,
            target: Description {
                name: "flotilla".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                replication: format!("{} processes, majority", args.writers.cluster.nodes),
                durability: "synced by a majority before each acknowledgement".to_owned(),
                reads: "linearizable".to_owned(),
            },
            settings: RunSettings {
                workload: "failover (writers of their own keys, readers of all)".to_owned(),
                clients: args.writers.clients + args.readers,
                pipeline: 1,
                batch: 1,
                duration_s: args.seconds as f64,
                keys: u64::from(args.writers.clients) * crate::writers::KEYS_PER_WRITER as u64,
                value_bytes: args.writers.value_size as u64,
                distribution: "in turn".to_owned(),
                shards: Some(shards),
                ..RunSettings::default()
            },
            elapsed_s: self.elapsed.as_secs_f64(),
            per_second_total: self.rate(Came::Written) + self.rate(Came::Read),
            percentiles: operations
                .iter()
                .map(|(name, latencies)| (name.clone(), OperationResult::curve(latencies)))
                .collect(),
            operations: operations
                .iter()
                .map(|(name, latencies)| {
                    (name.clone(), OperationResult::new(latencies, self.elapsed))
                })
                .collect(),
            errors: counted("refused", count(Came::NoEffect)),
            unknown: counted("in doubt", count(Came::Unknown)),
            misses: 0,
            scanned_rows: 0,
            series: self.series.clone(),
            events: self.events.clone(),
            cost: Cost::default(),
            figures: vec![
                figure("longest write gap of a shard", ms(self.shard_gap), "ms"),
                figure("longest read gap of a shard", ms(self.read_gap), "ms"),
                figure("longest write gap of all shards together", ms(self.any_gap), "ms"),
                figure("killed node back after", self.back_after.as_secs_f64(), "s"),
                figure("keys read afterwards", self.keys_read as f64, ""),
            ],
            notes: vec![
                "Gaps are counted from the kill to the end of the load. The seconds after it are \
                 without load: keys are read through the survivors, which is not in the series."
                    .to_owned(),
            ],
        }
    }

    fn rate(&self, came: Came) -> f64 {
        per_second(moments(&self.answers, came).count() as u64, self.elapsed)
    }
}

/// The head of the table whose rows [`Round::row`] makes.
pub fn head() -> String {
    format!(
        "{:>5}{:>8}{:>7}{:>11}{:>11}{:>13}{:>14}{:>13}{:>12}{:>10}",
        "round",
        "killed",
        "led",
        "writes/s",
        "reads/s",
        "any gap ms",
        "shard gap ms",
        "read gap ms",
        "back after",
        "keys read"
    )
}

/// What went wrong for all readers, by kind.
pub fn problems(readers: &[Reader]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (problem, count) in readers.iter().flat_map(|reader| &reader.problems) {
        *all.entry(problem.clone()).or_default() += count;
    }
    all
}

fn ms(gap: Gap) -> f64 {
    gap.length.as_secs_f64() * 1e3
}

fn longest_of(shards: u32, gap: impl Fn(u32) -> Gap) -> Gap {
    let longest = (0..shards).map(gap).max_by_key(|gap| gap.length);
    longest.expect("there is at least one shard")
}

/// When writes of all shards, or of one, came to this.
fn of_writers(writers: &[Writer], shard: Option<u32>, came: Came) -> impl Iterator<Item = Instant> {
    let of_shard = writers.iter().filter(move |writer| shard.is_none_or(|it| it == writer.shard));
    of_shard.flat_map(move |writer| moments(&writer.answers, came))
}

fn of_readers(readers: &[Reader], shard: u32) -> impl Iterator<Item = Instant> {
    let of_shard = readers.iter().filter(move |reader| reader.shard == shard);
    of_shard.flat_map(|reader| moments(&reader.answers, Came::Read))
}

/// The node whose shards took the most writes, and how many shards it leads.
async fn most_loaded_leader(
    cluster: &Cluster,
    acknowledged: &[u64],
) -> anyhow::Result<(u64, usize)> {
    let leaders = cluster.leaders().await?;
    // Shards of the writers are counted in key order; groups may be numbered otherwise.
    let mut shards: Vec<_> = leaders.values().collect();
    shards.sort_by(|one, other| one.start.cmp(&other.start));
    if shards.len() != acknowledged.len() {
        bail!("{} of {} shards have a leader", shards.len(), acknowledged.len());
    }
    let mut nodes: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    for (shard, writes) in shards.iter().zip(acknowledged) {
        let node = nodes.entry(shard.node).or_default();
        *node = (node.0 + writes, node.1 + 1);
    }
    let most = nodes.into_iter().max_by_key(|(_, (writes, led))| (*writes, *led));
    let (node, (_, led)) = most.context("no shard has a leader")?;
    Ok((node, led))
}
