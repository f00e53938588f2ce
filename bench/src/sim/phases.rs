//! A life from its beginning to its end: faults, then none and everything must become well, then
//! everything is read once more.
//!
//! What is absent: the faults (`faults`), the rules (`judges`, [`crate::linearizable`]).

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use flotilla_shard::Role;

use super::clock::nanos;
use super::judges::{Group, Replica, Rule, Violation};
use super::options::Options;
use super::report::Report;
use super::scene::Happening;
use super::trace::Trace;
use super::world::World;
use crate::linearizable::{self, Limits, diagram, reason};

/// For how long clients go on asking after the faults.
const AFTERGLOW: Duration = Duration::from_secs(3);

/// How often it is looked whether all is well.
const REVIEW_INTERVAL: Duration = Duration::from_millis(100);

/// What part of a life it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Anything may happen.
    Faults,
    /// Nothing bad happens any more, and clients go on.
    Healed,
    /// Clients ask nothing new; everything under way must end.
    Quiet,
    /// Everything is read once more.
    Reading,
    /// It is over.
    Done,
}

/// Lives the life that `options` describe, and judges it.
pub fn live(options: Options, trace: Trace) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let handle = runtime.as_ref().expect("a runtime that runs nothing").handle().clone();
    let mut world = None;
    let lived = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let world = world.insert(World::new(options.clone(), trace, handle));
        world.run()
    }));
    let found = match lived {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Some(format!("panic: {}", text.unwrap_or("no message")))
        }
    };
    Report::of(options, world.as_ref(), found)
}

impl World {
    fn run(&mut self) -> Result<(), Violation> {
        while self.phase != Phase::Done {
            let happening = self.scene.take_next().expect("nodes tick");
            self.happen(happening);
            self.scene.judges.verdict()?;
            if let Some(broken) = self.broken.take() {
                return Err(Violation::new(Rule::Liveness, format!("a thread ended: {broken}")));
            }
        }
        for node in &self.nodes {
            if let Some(life) = &node.life {
                self.scene.note_journal(life);
            }
            if node.place.replacements() > 0 {
                self.scene.add("stores written anew", node.place.replacements());
            }
        }
        self.judge_history()
    }

    /// The faults end, or it is looked whether all is well since.
    pub(super) fn review(&mut self) {
        let phase = self.phase;
        match phase {
            Phase::Faults => {
                self.scene.trace.tell(self.scene.now, format_args!("HEALED"));
                self.phase = Phase::Healed;
                self.healed_at = self.scene.now;
                self.heal_all();
                self.scene.after(AFTERGLOW, Happening::Review);
                return;
            }
            Phase::Healed => {
                self.phase = Phase::Quiet;
                self.freeze_all();
            }
            Phase::Quiet => match self.unwell() {
                None => {
                    self.well_after = Duration::from_nanos(self.scene.now - self.healed_at);
                    self.end_quiet();
                }
                Some(what) => {
                    let most = nanos(self.scene.options.liveness_max());
                    if self.scene.now - self.healed_at > most {
                        self.scene.judges.must_have_ended();
                        let text = format!("{most} ns after the faults had healed, {what}");
                        self.scene.judges.found(Violation::new(Rule::Liveness, text));
                    }
                }
            },
            Phase::Reading if self.is_all_read() => {
                self.scene.judges.must_have_ended();
                self.phase = Phase::Done;
            }
            Phase::Reading | Phase::Done => {
                let most = nanos(self.scene.options.liveness_max()) * 2;
                if self.scene.now - self.healed_at > most {
                    self.scene.judges.must_have_ended();
                    let text = "the keys could not be read at the end".to_owned();
                    self.scene.judges.found(Violation::new(Rule::Liveness, text));
                }
            }
        }
        self.scene.after(REVIEW_INTERVAL, Happening::Review);
    }

    /// What is not well yet, in words.
    fn unwell(&self) -> Option<String> {
        if let Some(client) = self.clients.iter().find(|client| client.call.is_some()) {
            return Some(format!("client {} has no answer", client.number));
        }
        if let Some(unwritten) = self.unwritten() {
            return Some(unwritten);
        }
        for descriptor in &self.descriptors {
            let group = descriptor.group;
            let hosted = || {
                let lives = self.nodes.iter().filter_map(|node| node.life.as_ref());
                lives.filter_map(|life| life.replicas.get(&group))
            };
            let statuses: Vec<_> =
                hosted().map(|hosted| hosted.status.snapshot(&descriptor.clone())).collect();
            if statuses.len() < descriptor.replicas.len() {
                return Some(format!("a node of group {group} is not up"));
            }
            let Some(leader) = statuses.iter().find(|status| status.role == Role::Leader) else {
                return Some(format!("group {group} has no leader: {statuses:?}"));
            };
            let behind = statuses.iter().find(|status| {
                !status.suspect
                    && (status.applied_index < leader.last_index || status.needs_snapshot)
            });
            if let Some(behind) = behind {
                return Some(format!(
                    "a replica of group {group} is behind: {behind:?}, its leader: {leader:?}"
                ));
            }
        }
        None
    }

    fn end_quiet(&mut self) {
        for descriptor in self.descriptors.clone() {
            let is_sound = |node: u64| {
                let life = self.nodes[node as usize - 1].life.as_ref();
                let hosted = life.and_then(|life| life.replicas.get(&descriptor.group));
                hosted.is_some_and(|hosted| !hosted.status.snapshot(&descriptor).suspect)
            };
            let nodes = descriptor.replicas.iter().map(|replica| replica.node.0);
            let present: Vec<Replica> = nodes.filter(|node| is_sound(*node)).map(Replica).collect();
            self.scene.judges.must_be_caught_up(Group(descriptor.group.0), &present);
        }
        self.compare();
        self.phase = Phase::Reading;
        let (counters, values) = self.keys.all();
        self.unread = counters.into_iter().chain(values).collect();
    }

    /// Lets idle clients read what is left. True if nothing is.
    fn is_all_read(&mut self) -> bool {
        for number in 0..self.clients.len() {
            if self.clients[number].call.is_none()
                && let Some(key) = self.unread.pop()
            {
                self.read_last(number, key);
            }
        }
        self.unread.is_empty() && self.clients.iter().all(|client| client.call.is_none())
    }

    fn judge_history(&mut self) -> Result<(), Violation> {
        let limits = Limits { memory_bytes: 256 << 20, ..Limits::default() };
        let options = linearizable::Options { limits, ..linearizable::Options::default() };
        let broken = |text: String| Violation::new(Rule::Linearizability, text);
        let judgement = linearizable::judge(&self.history, options)
            .map_err(|error| broken(error.to_string()))?;
        self.scene.add("operations in histories judged", judgement.operations as u64);
        self.scene.add("keys too concurrent to be judged", judgement.gave_up.len() as u64);
        let Some(violation) = judgement.violations.first() else { return Ok(()) };
        let drawn = violation.contradiction.as_ref().map_or_else(String::new, |found| {
            format!("{}\n{}", diagram::draw(found), reason::reason(found))
        });
        Err(broken(format!("key {} cannot be explained:\n{drawn}", violation.key)))
    }
}
