//! Does what the schedule says to running servers, and watches them meanwhile.
//!
//! Invariants:
//!
//! * Whatever was done is undone when [`Conductor::play`] returns: every node was started again, is
//!   connected, and has its own directory and its disk.
//! * A node that ends by itself breaks a promise, unless its disk failed: then it must say so by exit
//!   code 1, and is started again.
//!
//! What is absent: clients and their answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::cluster::Cluster;
use crate::proxy::Weather;

use super::fault::{Kind, Victims, worse};
use super::network::Network;
use super::schedule::{Planned, Schedule};
use super::tools::Tools;
use super::tracer::Tracer;

/// Between two looks at the nodes.
const WATCH: Duration = Duration::from_millis(50);
/// At most so much of the time between two looks counts where nodes are given time: what is more was
/// lost by this program too, because the machine stood still.
const WATCH_COUNTED_MAX: Duration = Duration::from_millis(250);
/// Between two cuts of the same connections.
const CUT_AGAIN: Duration = Duration::from_millis(300);
/// How long a node with an empty directory may take to refuse.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long after its syncs failed a node may still end for it.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of a planned fault.
#[derive(Clone, Debug)]
pub struct Happened {
    /// What was planned.
    pub planned: Planned,
    /// Who was hit.
    pub victims: BTreeSet<u64>,
    /// When all of it was in force.
    pub begun: Instant,
    /// Just before the first of it was undone.
    pub ended: Instant,
    /// Why it was not done, if it was not.
    pub skipped: Option<String>,
}

/// What happened in all.
#[derive(Default)]
pub struct Conducted {
    /// The faults, in the order of their end.
    pub happened: Vec<Happened>,
    /// Broken promises, in words.
    pub violations: Vec<String>,
    /// What is worth telling besides.
    pub notes: Vec<String>,
    /// How often a node ended because its disk failed.
    pub ended_by_disk: u64,
    /// How often a node with an empty directory refused to run.
    pub refused_blank: u64,
}

/// A fault in force.
struct Active {
    happened: Happened,
    tracers: Vec<Tracer>,
    cut_next: Instant,
}

/// Does what a schedule says.
pub struct Conductor<'a> {
    cluster: &'a mut Cluster,
    network: &'a Network,
    tools: &'a Tools,
    active: BTreeMap<usize, Active>,
    /// Until when a node may end because of its disk, by `awake`.
    excused: BTreeMap<u64, Duration>,
    /// How long this has watched.
    awake: Duration,
    watched_at: Instant,
    blank: BTreeSet<u64>,
    done: Conducted,
}

impl<'a> Conductor<'a> {
    /// Of `cluster`, whose nodes all run.
    pub fn new(cluster: &'a mut Cluster, network: &'a Network, tools: &'a Tools) -> Conductor<'a> {
        let (active, excused) = (BTreeMap::new(), BTreeMap::new());
        let (blank, done) = (BTreeSet::new(), Conducted::default());
        let (awake, watched_at) = (Duration::ZERO, Instant::now());
        Conductor { cluster, network, tools, active, excused, awake, watched_at, blank, done }
    }

    /// Plays `schedule` from now on, until `length` is over. What cannot be played is told as a broken
    /// promise: nobody knows what the rest would prove.
    pub async fn play(mut self, schedule: &Schedule, length: Duration) -> Conducted {
        if let Err(error) = self.play_all(schedule, length).await {
            self.done.violations.push(format!("the schedule cannot be played: {error:#}"));
        }
        while let Some(number) = self.active.keys().next().copied() {
            if let Err(error) = self.end(number).await {
                self.done.violations.push(format!("a fault cannot be undone: {error:#}"));
            }
        }
        if let Err(error) = self.heal() {
            self.done.violations.push(format!("the cluster cannot be healed: {error:#}"));
        }
        self.done
    }

    async fn play_all(&mut self, schedule: &Schedule, length: Duration) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut edges: Vec<(Duration, bool, usize)> = Vec::new();
        for (number, planned) in schedule.faults.iter().enumerate() {
            edges.push((planned.at, true, number));
            edges.push((planned.end(), false, number));
        }
        // What ends goes first.
        edges.sort();
        for (at, begins, number) in edges {
            self.watch_until(begin + at).await?;
            let planned = &schedule.faults[number];
            match begins {
                true => self.begin(number, planned).await,
                false => self.end(number).await,
            }
            .with_context(|| format!("{}", planned.fault))?;
        }
        self.watch_until(begin + length).await
    }

    async fn watch_until(&mut self, until: Instant) -> anyhow::Result<()> {
        loop {
            self.watch().await?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(WATCH)).await;
        }
    }

    /// Looks at every node once.
    async fn watch(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        self.awake += now.duration_since(self.watched_at).min(WATCH_COUNTED_MAX);
        self.watched_at = now;
        for node in self.cluster.nodes() {
            if self.blank.contains(&node) {
                self.watch_blank(node).await?;
            } else if let Some(status) = self.cluster.take_end(node)? {
                let excused = self.excused.get(&node).is_some_and(|until| self.awake < *until);
                if excused && status.code() == Some(1) {
                    self.done.ended_by_disk += 1;
                } else {
                    let said = self.cluster.log_end(node);
                    let violation = format!("node {node} ended by itself with {status}; {said}");
                    self.done.violations.push(violation);
                }
                // With a disk that still fails it would only end again.
                if !self.is_hit(node, Kind::SyncError) {
                    self.cluster.restart(node)?;
                }
            }
        }
        let now = Instant::now();
        for active in self.active.values_mut() {
            if active.happened.planned.fault.kind == Kind::Cut && active.cut_next <= now {
                active.cut_next = now + CUT_AGAIN;
                self.network.cut(self.cluster, &active.happened.victims);
            }
        }
        Ok(())
    }

    async fn watch_blank(&mut self, node: u64) -> anyhow::Result<()> {
        match self.cluster.take_end(node)? {
            Some(status) if status.success() || status.code().is_none() => {
                let violation = format!("node {node}, blank, ended with {status}: no refusal");
                self.done.violations.push(violation);
            }
            Some(_) => self.done.refused_blank += 1,
            None if self.cluster.process(node).is_some() && self.cluster.is_ready(node).await => {
                let violation = format!("node {node} is ready with an empty directory");
                self.done.violations.push(violation);
            }
            None => {}
        }
        Ok(())
    }

    fn is_hit(&self, node: u64, kind: Kind) -> bool {
        let mut active = self.active.values();
        active.any(|active| {
            active.happened.planned.fault.kind == kind && active.happened.victims.contains(&node)
        })
    }

    async fn begin(&mut self, number: usize, planned: &Planned) -> anyhow::Result<()> {
        let kind = planned.fault.kind;
        let victims = self.victims(&planned.fault.victims).await;
        let mut tracers = Vec::new();
        let mut skipped = self.tools.missing(kind).map(str::to_owned);
        if skipped.is_none()
            && let Some(node) = victims.iter().find(|node| self.cluster.process(**node).is_none())
            && !kind.is_of_network()
        {
            skipped = Some(format!("node {node} does not run at this moment"));
        }
        if skipped.is_none() {
            for node in &victims {
                match self.hit(*node, planned).await {
                    Ok(tracer) => tracers.extend(tracer),
                    // The tool was there when it was tried; a busy machine is no broken promise.
                    Err(error) if matches!(kind, Kind::SyncError | Kind::SyncDelay) => {
                        skipped = Some(format!("{error:#}"));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let now = Instant::now();
        let planned = planned.clone();
        let happened = Happened { planned, victims, begun: now, ended: now, skipped };
        self.active.insert(number, Active { happened, tracers, cut_next: now });
        self.set_weather()?;
        let active = self.active.get_mut(&number).expect("it was put there");
        active.happened.begun = Instant::now();
        let at = active.happened.begun.duration_since(now);
        if at > Duration::from_secs(1) {
            self.done.notes.push(format!("changing the network took {at:?}"));
        }
        Ok(())
    }

    /// Does to one node what is done to a node.
    async fn hit(&mut self, node: u64, planned: &Planned) -> anyhow::Result<Option<Tracer>> {
        let process = self.cluster.process(node);
        match planned.fault.kind {
            Kind::Kill | Kind::KillMajority => {
                self.cluster.kill(node);
            }
            Kind::Stop | Kind::StopMajority => self.cluster.pause(node)?,
            Kind::Restart => {
                if let Err(error) = self.cluster.stop(node).await {
                    self.done.violations.push(format!("node {node} does not stop: {error:#}"));
                    self.cluster.kill(node);
                }
            }
            Kind::Wipe => {
                self.cluster.kill(node);
                let data = self.cluster.data_directory(node).to_owned();
                fs::rename(&data, data.with_extension("aside")).context("moving the data aside")?;
                self.blank.insert(node);
                self.cluster.restart(node)?;
            }
            Kind::SyncError => {
                self.excused.insert(node, self.awake + planned.length + END_TIMEOUT);
                let process = process.context("it runs")?;
                return Ok(Some(Tracer::attach(process, "fdatasync:error=EIO").await?));
            }
            Kind::SyncDelay => {
                let super::fault::Measure::Milliseconds(ms) = planned.fault.measure else {
                    return Ok(None);
                };
                let inject = format!("fdatasync:delay_enter={}", ms * 1000);
                let process = process.context("it runs")?;
                return Ok(Some(Tracer::attach(process, &inject).await?));
            }
            Kind::FullDisk => self.tools.small_disk().context("there is one")?.fill()?,
            _ => {}
        }
        Ok(None)
    }

    async fn end(&mut self, number: usize) -> anyhow::Result<()> {
        let Some(mut active) = self.active.remove(&number) else { return Ok(()) };
        active.happened.ended = Instant::now();
        active.tracers.clear();
        let Happened { planned, victims, skipped, .. } = &active.happened;
        if skipped.is_none() {
            for node in victims {
                match planned.fault.kind {
                    Kind::Stop | Kind::StopMajority if self.cluster.process(*node).is_some() => {
                        self.cluster.resume(*node)?;
                    }
                    Kind::Wipe => self.give_back(*node).await?,
                    Kind::SyncError => {
                        self.excused.insert(*node, self.awake + END_TIMEOUT);
                        self.start_again(*node)?;
                    }
                    Kind::FullDisk => self.tools.small_disk().context("there is one")?.free()?,
                    Kind::Kill | Kind::KillMajority | Kind::Restart => self.start_again(*node)?,
                    _ => {}
                }
            }
        }
        self.set_weather()?;
        self.done.happened.push(active.happened);
        Ok(())
    }

    fn start_again(&mut self, node: u64) -> anyhow::Result<()> {
        match self.cluster.process(node) {
            None => self.cluster.restart(node),
            Some(_) => Ok(()),
        }
    }

    /// Waits until a blank node has refused, and starts it on its own directory.
    async fn give_back(&mut self, node: u64) -> anyhow::Result<()> {
        let deadline = self.awake + REFUSAL_TIMEOUT;
        while self.cluster.process(node).is_some() && self.awake < deadline {
            self.watch().await?;
            tokio::time::sleep(WATCH).await;
        }
        if self.cluster.process(node).is_some() {
            let violation =
                format!("node {node} does not refuse an empty directory in {REFUSAL_TIMEOUT:?}");
            self.done.violations.push(violation);
            self.cluster.kill(node);
        }
        self.blank.remove(&node);
        let data = self.cluster.data_directory(node).to_owned();
        if data.exists() {
            fs::remove_dir_all(&data).context("removing what the blank node left")?;
        }
        fs::rename(data.with_extension("aside"), &data).context("moving the data back")?;
        self.cluster.restart(node)
    }

    /// Ends what is in force still.
    fn heal(&mut self) -> anyhow::Result<()> {
        self.set_weather()?;
        for node in self.cluster.nodes() {
            self.start_again(node)?;
        }
        Ok(())
    }

    /// Makes the weather between all nodes what all faults in force make of it.
    fn set_weather(&self) -> anyhow::Result<()> {
        let nodes = self.cluster.nodes();
        let mut weather = BTreeMap::new();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                let faults = self.active.values().filter(|it| it.happened.skipped.is_none());
                let whole = faults.fold(Weather::FAIR, |whole, active| {
                    let Happened { planned, victims, .. } = &active.happened;
                    worse(whole, planned.fault.weather(victims, *from, *to))
                });
                weather.insert((*from, *to), whole);
            }
        }
        self.network.set_weather(self.cluster, &weather)
    }

    async fn victims(&self, victims: &Victims) -> BTreeSet<u64> {
        match victims {
            Victims::Nodes(nodes) => nodes.clone(),
            Victims::All => self.cluster.nodes().into_iter().collect(),
            Victims::Busiest => BTreeSet::from([self.busiest().await]),
        }
    }

    /// The node that leads most by the word of those that answer.
    async fn busiest(&self) -> u64 {
        let mut led: BTreeMap<u64, usize> = BTreeMap::new();
        for node in self.cluster.running() {
            let Ok(status) = self.cluster.status(node).await else { continue };
            let leads = status.shards.iter().filter(|shard| shard.role == "leader").count();
            led.insert(node, leads);
        }
        led.into_iter().max_by_key(|(_, leads)| *leads).map_or(1, |(node, _)| node)
    }
}
