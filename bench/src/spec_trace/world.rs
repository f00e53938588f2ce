//! Replicas whose every turn is traced, and the links between them. Writes are durable at once, and
//! what a link delivers comes in order; it may be lost.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use flotilla_shard::raft::{
    Entry, Event, HardState, Index, Limits, Message, Options, Position, Raft, ReplicaId, Restored,
    Role, Term, Time,
};

use super::event::Line;
use super::tracer::{Cause, Tag, Tracer};

/// How often a replica may have more to do in one turn.
const READIES_MAX: usize = 1000;

#[derive(Default)]
struct Node {
    raft: Option<Raft>,
    hard_state: HardState,
    entries: Vec<Entry>,
    /// Starts so far; each draws its own timeouts.
    lives: u64,
}

/// A message under way.
struct Parcel {
    from: u64,
    to: u64,
    message: Message,
    tag: Tag,
}

/// The cluster.
pub(super) struct World {
    nodes: BTreeMap<u64, Node>,
    tracer: Tracer,
    network: VecDeque<Parcel>,
    cut: Vec<(u64, u64)>,
    now: u64,
    seed: u64,
}

type Outcome<T = ()> = Result<T, String>;

impl World {
    pub(super) fn new(voters: u64, seed: u64) -> Outcome<World> {
        let ids: Vec<u64> = (1..=voters).collect();
        let mut world = World {
            nodes: ids.iter().map(|id| (*id, Node::default())).collect(),
            tracer: Tracer::new(ids.clone()),
            network: VecDeque::new(),
            cut: Vec::new(),
            now: 0,
            seed,
        };
        ids.into_iter().try_for_each(|id| world.open(id))?;
        Ok(world)
    }

    pub(super) fn into_lines(self) -> Vec<Line> {
        self.tracer.into_lines()
    }

    #[cfg(test)]
    pub(super) fn observed(&self, id: u64) -> (&Tracer, flotilla_shard::raft::Status) {
        let raft = self.nodes[&id].raft.as_ref().expect("it is up");
        (&self.tracer, raft.status())
    }

    fn open(&mut self, id: u64) -> Outcome {
        let voters = self.nodes.keys().map(|id| ReplicaId(*id)).collect();
        let node = self.nodes.get_mut(&id).ok_or_else(|| format!("there is no replica {id}"))?;
        node.lives += 1;
        let options = Options {
            id: ReplicaId(id),
            voters,
            election_timeout: Duration::from_millis(100),
            heartbeat_interval: Duration::from_millis(20),
            seed: self.seed.wrapping_mul(1_000_003).wrapping_add(node.lives << 8 | id),
            suspect: false,
            // The specification knows none of these.
            pre_vote: false,
            check_quorum: false,
            leases: None,
            disk_stall_max: Duration::from_secs(1),
            may_lead: true,
            limits: Limits::default(),
        };
        let runs = node.entries.chunk_by(|a, b| a.term == b.term);
        let restored = Restored {
            hard_state: node.hard_state,
            base: Position::default(),
            term_starts: runs.map(|run| run[0].position()).collect(),
            last_index: Index(node.entries.len() as u64),
            applied: node.hard_state.commit,
            needs_snapshot: false,
        };
        node.raft = Some(Raft::new(options, restored, Time(self.now)));
        Ok(())
    }

    pub(super) fn crash(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.raft = None;
        }
    }

    pub(super) fn restart(&mut self, id: u64) -> Outcome {
        self.open(id)?;
        let status = self.raft(id)?.status();
        self.tracer.restarted(id, &status)
    }

    fn raft(&mut self, id: u64) -> Outcome<&mut Raft> {
        let node = self.nodes.get_mut(&id);
        node.and_then(|node| node.raft.as_mut()).ok_or_else(|| format!("replica {id} is down"))
    }

    pub(super) fn is_up(&self, id: u64) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.raft.is_some())
    }

    pub(super) fn leader(&self) -> Option<u64> {
        let leads =
            |node: &Node| node.raft.as_ref().is_some_and(|raft| raft.role() == Role::Leader);
        self.nodes.iter().filter(|(_, node)| leads(node)).map(|(id, _)| *id).next_back()
    }

    pub(super) fn links(&self) -> Vec<(u64, u64)> {
        let mut links: Vec<_> =
            self.network.iter().map(|parcel| (parcel.from, parcel.to)).collect();
        links.sort_unstable();
        links.dedup();
        links
    }

    pub(super) fn campaign(&mut self, id: u64) -> Outcome {
        let now = Time(self.now);
        self.raft(id)?.step(now, Event::Campaign);
        self.turn(id, None)
    }

    pub(super) fn propose(&mut self, id: u64, payloads: &[Bytes]) -> Outcome {
        let now = Time(self.now);
        for payload in payloads {
            // Refused proposals are no events.
            let _ = self.raft(id)?.propose(now, payload.clone());
        }
        self.turn(id, None)
    }

    /// A linearizable read: not an event, but heartbeats follow from it.
    pub(super) fn read(&mut self, id: u64) -> Outcome {
        let now = Time(self.now);
        let _ = self.raft(id)?.read(now);
        self.turn(id, None)
    }

    pub(super) fn transfer(&mut self, id: u64, to: Option<u64>) -> Outcome {
        let now = Time(self.now);
        self.raft(id)?.step(now, Event::Transfer { to: to.map(ReplicaId) });
        self.turn(id, None)
    }

    pub(super) fn cut(&mut self, links: &[(u64, u64)]) {
        self.cut.extend(links);
    }

    pub(super) fn isolate(&mut self, id: u64) {
        let others = self.nodes.keys().filter(|other| **other != id);
        self.cut.extend(others.flat_map(|other| [(id, *other), (*other, id)]));
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    fn take(&mut self, links: &[(u64, u64)], count: usize) -> Vec<Parcel> {
        let (mut taken, mut left) = (Vec::new(), VecDeque::new());
        for parcel in self.network.drain(..) {
            let is_wanted = links.is_empty() || links.contains(&(parcel.from, parcel.to));
            if is_wanted && taken.len() < count {
                taken.push(parcel);
            } else {
                left.push_back(parcel);
            }
        }
        self.network = left;
        taken
    }

    pub(super) fn drop_messages(&mut self, links: &[(u64, u64)], count: usize) {
        self.take(links, count);
    }

    /// Delivers what is under way now, but nothing that is sent in answer.
    pub(super) fn deliver(&mut self, links: &[(u64, u64)], count: usize) -> Outcome {
        for parcel in self.take(links, count) {
            let Parcel { from, to, message, tag } = parcel;
            if self.cut.contains(&(from, to)) || !self.is_up(to) {
                continue;
            }
            let now = Time(self.now);
            let event = Event::Receive { from: ReplicaId(from), message: message.clone() };
            self.raft(to)?.step(now, event);
            self.turn(to, Some((from, message, tag)))?;
        }
        Ok(())
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.network.is_empty()
    }

    /// Lets time pass until `id` is due, and only it notices.
    pub(super) fn time_out(&mut self, id: u64) -> Outcome {
        let due = self.raft(id)?.next_tick();
        self.now = self.now.max(due.0);
        self.tick(id)
    }

    /// Lets time pass; every replica notices when it is due.
    pub(super) fn wait(&mut self, time_ms: u64) -> Outcome {
        let end = self.now + time_ms * 1_000_000;
        loop {
            let due = self.nodes.iter().filter_map(|(id, node)| {
                Some((node.raft.as_ref()?.next_tick().0.max(self.now), *id))
            });
            match due.min() {
                Some((due, id)) if due <= end => {
                    self.now = due;
                    self.tick(id)?;
                }
                _ => {
                    self.now = end;
                    return Ok(());
                }
            }
        }
    }

    fn tick(&mut self, id: u64) -> Outcome {
        let now = Time(self.now);
        self.raft(id)?.step(now, Event::Tick);
        self.turn(id, None)
    }

    /// Everything that follows from what was stepped.
    fn turn(&mut self, id: u64, cause: Option<(u64, Message, Tag)>) -> Outcome {
        let now = Time(self.now);
        let mut messages = Vec::new();
        for round in 0.. {
            assert!(round < READIES_MAX, "a turn never ends");
            let ready = self.raft(id)?.ready(now);
            if ready.is_empty() {
                break;
            }
            messages.extend(ready.messages.into_iter().map(|sent| (sent.to.0, sent.message)));
            let node = self.nodes.get_mut(&id).expect("it has just turned");
            if let Some(persist) = ready.persist {
                if let Some(state) = persist.hard_state {
                    node.hard_state = state;
                }
                if let Some(first) = persist.entries.first() {
                    node.entries.truncate(first.index.0 as usize - 1);
                    node.entries.extend(persist.entries);
                }
                self.raft(id)?.step(now, Event::Persisted(persist.ticket));
            }
            if let Some(fetch) = ready.fetch {
                let node = &self.nodes[&id];
                let range =
                    fetch.from.0 as usize - 1..(fetch.to.0 as usize).min(node.entries.len());
                let entries = node.entries[range].to_vec();
                self.raft(id)?.step(now, Event::Fetched { entries });
            }
        }
        let status = self.raft(id)?.status();
        // As if rows were saved at once: a restart knows what was committed.
        let node = self.nodes.get_mut(&id).expect("it has just turned");
        node.hard_state = HardState {
            term: Term(status.term.0),
            vote: status.vote,
            commit: status.commit,
            ..node.hard_state
        };
        let cause = match &cause {
            None => Cause::Local,
            Some((from, message, tag)) => Cause::Received { from: *from, message, tag: *tag },
        };
        let tags = self.tracer.turned(id, cause, &status, &messages)?;
        for ((to, message), tag) in messages.into_iter().zip(tags) {
            let Some(tag) = tag else { continue };
            if !self.cut.contains(&(id, to)) {
                self.network.push_back(Parcel { from: id, to, message, tag });
            }
        }
        Ok(())
    }
}
