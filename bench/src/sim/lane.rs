//! The lane of one simulated node: sorts mail to the groups, lets each make a turn, looks at the
//! clock for them.
//!
//! What is absent: threads and actors, which are all that a running node's lane has beyond this.

use flotilla_shard::effects::{Conditions, Effects, Event, Now};
use flotilla_shard::raft::Time;
use flotilla_shard::{GroupId, SnapshotEvent};
use std::collections::BTreeMap;

use super::clock::{Nanos, NodeClock, nanos};
use super::judges;
use super::mailbox::ForAll;
use super::node::{Hosted, Life, name};
use super::options::Options;
use super::scene::Scene;

/// How often a preferred replica tries to become leader at first.
const EAGER_INTERVAL: Nanos = 50_000_000;

/// Writes are refused when memtables hold this many times what they should.
const MEMTABLES_MAX: u64 = 3;

impl Life {
    /// This moment, as the node sees it.
    pub fn now(&self, clock: &NodeClock, now: Nanos, conditions: Conditions) -> Now {
        self.reading.set(clock, now);
        Now {
            time: Time(self.reading.local()),
            instant: self.reading.instant(),
            wall_ms: self.reading.wall_ms(),
            conditions,
        }
    }

    /// How the node is.
    pub fn conditions(&self, is_full: bool, options: &Options) -> Conditions {
        let memory: u64 = self.replicas.values().map(|hosted| hosted.status.memory_bytes()).sum();
        let log: u64 = self.replicas.values().map(|hosted| hosted.replica.log_bytes()).sum();
        let groups = self.replicas.len().max(1) as u64;
        let stats = self.journal.stats();
        // As much is kept as the journal can hold: less while its files are too large.
        let most = options.segment_bytes * 6;
        let keep = if log > most || stats.oversized > 0 { most / 2 / groups } else { u64::MAX };
        Conditions {
            is_disk_full: is_full || stats.full,
            is_memory_full: memory > options.memtable_bytes * MEMTABLES_MAX,
            log_share_bytes: options.log_share_bytes,
            log_keep_bytes: keep,
            log_cache_bytes_max: options.log_cache_bytes.max(1 << 10),
        }
    }

    /// Takes the mail: every group makes one turn of all that is for it. False: the process died
    /// meanwhile.
    pub fn take_mail(&mut self, scene: &mut Scene, now: &Now) -> bool {
        let (events, for_all) = self.mailbox.take_events();
        let mut bags: BTreeMap<GroupId, Vec<Event>> = BTreeMap::new();
        for told in for_all {
            for group in self.replicas.keys() {
                let event = match told {
                    ForAll::Unreachable(node) => Event::Unreachable(node),
                    ForAll::MayLead(may_lead) => Event::MayLead(may_lead),
                };
                bags.entry(*group).or_default().push(event);
            }
        }
        for (group, event) in events {
            bags.entry(group).or_default().push(event);
        }
        self.turn_all(scene, now, bags)
    }

    fn turn_all(
        &mut self,
        scene: &mut Scene,
        now: &Now,
        bags: BTreeMap<GroupId, Vec<Event>>,
    ) -> bool {
        bags.into_iter().all(|(group, events)| self.turn(scene, now, group, events))
    }

    fn turn(&mut self, scene: &mut Scene, now: &Now, group: GroupId, events: Vec<Event>) -> bool {
        // Nobody sends what is for others.
        let Some(hosted) = self.replicas.get_mut(&group) else { return true };
        let mut effects = Effects::default();
        scene.add("events", events.len() as u64);
        for event in events {
            if let Event::Snapshot(SnapshotEvent::Installed { position, .. }) = &event {
                hosted.installed = Some(*position);
            }
            hosted.replica.handle(now, event, &mut effects);
        }
        if hosted.replica.is_stirred() {
            hosted.replica.turn(now, &mut effects);
        }
        self.watch(scene, group, &effects);
        self.perform(scene, effects)
    }

    fn watch(&mut self, scene: &mut Scene, group: GroupId, effects: &Effects) {
        let Hosted { replica, status, book, installed, .. } =
            self.replicas.get_mut(&group).expect("it made a turn");
        let status = status.snapshot(replica.descriptor());
        let id = judges::Replica(name(self.at).0);
        book.turned(&mut scene.judges, id, &status, &effects.journal, installed.take());
        scene.trace.note(&[
            scene.now,
            self.at as u64,
            group.0,
            status.term,
            status.last_index,
            status.commit_index,
            status.applied_index,
            effects.journal.len() as u64,
            effects.parcels.len() as u64,
        ]);
        if scene.trace.is_told() && !effects.journal.is_empty() {
            let (at, now) = (name(self.at), scene.now);
            let writes: Vec<String> =
                effects.journal.iter().map(|write| format!("{:?}", write.change)).collect();
            let writes = writes.join(" ");
            let text: String = writes.chars().take(200).collect();
            scene.trace.tell(
                now,
                format_args!(
                    "node {at} group {group} {:?} term {} last {} commit {} applied {}: {text}",
                    status.role,
                    status.term,
                    status.last_index,
                    status.commit_index,
                    status.applied_index
                ),
            );
        }
    }

    /// Looks at the clock for all groups. False: the process died meanwhile.
    pub fn tick(&mut self, scene: &mut Scene, now: &Now) -> bool {
        let freeze = self.wants_freeze(scene, now);
        let trim = now.conditions.log_keep_bytes < u64::MAX;
        let mut bags: BTreeMap<GroupId, Vec<Event>> = BTreeMap::new();
        for (group, hosted) in &mut self.replicas {
            let mut push = |wanted, event| {
                if wanted {
                    bags.entry(*group).or_default().push(event);
                }
            };
            push(hosted.is_eager(now.time.0), Event::Campaign);
            let due = hosted.replica.next_tick() <= now.time || hosted.replica.has_waiting();
            push(due, Event::Tick);
            push(freeze, Event::Freeze);
            push(trim, Event::Trim);
            push(hosted.replica.wants_to_reap(now), Event::Reap);
        }
        self.turn_all(scene, now, bags)
    }

    fn wants_freeze(&mut self, scene: &mut Scene, now: &Now) -> bool {
        let options = &scene.options;
        let pressure: u64 =
            self.replicas.values().map(|hosted| hosted.replica.checkpoint_pressure_bytes()).sum();
        let is_old = now.time.0 - self.frozen_at >= nanos(options.checkpoint_age);
        if pressure < options.memtable_bytes && !is_old {
            return false;
        }
        self.frozen_at = now.time.0;
        true
    }

    /// Tells the replicas whether other nodes should rather lead.
    pub fn set_reluctant(&mut self, scene: &mut Scene, now: &Now, is_reluctant: bool) -> bool {
        if std::mem::replace(&mut self.is_reluctant, is_reluctant) == is_reluctant {
            return true;
        }
        let bag = |group: &GroupId| (*group, vec![Event::Reluctant(is_reluctant)]);
        let bags = self.replicas.keys().map(bag).collect();
        self.turn_all(scene, now, bags)
    }
}

impl Hosted {
    fn is_eager(&mut self, now: Nanos) -> bool {
        if now < self.eager_at {
            return false;
        }
        if now > self.eager_until || self.status.leader_node().is_some() {
            self.eager_at = Nanos::MAX;
            return false;
        }
        self.eager_at = now + EAGER_INTERVAL;
        true
    }
}
