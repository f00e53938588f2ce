//! The cluster that scripts drive: every message and every write waits until the script lets it
//! go on. See `testscripts/README.md` for the commands.

mod clock;
mod disk;
mod edges;
mod inspect;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    time::Duration,
};

use flotilla_raft::{
    Envelope, Event, Fetch, Index, Leases, Limits, Options, Persist, Position, Raft, ReplicaId,
};

use crate::show;
use clock::Clock;
use disk::Disk;

struct Node {
    raft: Option<Raft>,
    disk: Disk,
    writes: VecDeque<Persist>,
    fetches: VecDeque<Fetch>,
    /// The swap that the replica asked for.
    install: Option<Position>,
    clock: Clock,
    slow_disk: bool,
    slow_fetch: bool,
}

#[derive(Default)]
pub struct Cluster {
    nodes: BTreeMap<u64, Node>,
    options: Vec<String>,
    now: u64,
    /// From, to, in the order sent.
    network: VecDeque<(u64, Envelope)>,
    cut: Vec<(u64, u64)>,
    transcript: String,
    quiet: bool,
}

type Outcome = Result<(), String>;

impl Cluster {
    pub fn take_transcript(&mut self) -> String {
        std::mem::take(&mut self.transcript)
    }

    fn say(&mut self, line: &str) {
        if !self.quiet {
            self.transcript += line;
            self.transcript.push('\n');
        }
    }

    pub fn command(&mut self, line: &str) -> Outcome {
        let (quiet, line) = match line.strip_prefix("quiet ") {
            Some(line) => (true, line),
            None => (false, line),
        };
        self.quiet = quiet;
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match (verb, &words[..]) {
            ("cluster", [count, options @ ..]) => {
                self.nodes.clear();
                self.network.clear();
                self.cut.clear();
                self.options = options.iter().map(ToString::to_string).collect();
                for id in 1..=number(count)? {
                    let node = Node {
                        raft: None,
                        disk: Disk::default(),
                        writes: VecDeque::new(),
                        fetches: VecDeque::new(),
                        install: None,
                        clock: Clock::true_at(self.now),
                        slow_disk: false,
                        slow_fetch: false,
                    };
                    self.nodes.insert(id, node);
                }
                let ids: Vec<u64> = self.nodes.keys().copied().collect();
                ids.into_iter().try_for_each(|id| self.start(id))
            }
            ("start", [id, log @ ..]) => {
                let id = number(id)?;
                self.node(id)?.disk = disk::parse(log)?;
                self.start(id)
            }
            ("campaign", [id]) => self.step(number(id)?, Event::Campaign),
            ("propose", [id, ..]) => {
                let id = number(id)?;
                for payload in &words[1..] {
                    self.propose(id, payload)?;
                }
                self.turn(id)
            }
            ("read", [id]) => {
                let id = number(id)?;
                let now = self.time_of(id);
                let line = match self.raft(id)?.read(now) {
                    Ok(read) => format!("n{id} read {read}"),
                    Err(error) => format!("n{id} read refused: {error}"),
                };
                self.say(&line);
                self.turn(id)
            }
            ("deliver", links) => self.deliver(links, usize::MAX),
            ("deliver-one", links) => self.deliver(links, 1),
            ("settle", []) => {
                for _ in 0..10_000 {
                    if self.network.is_empty() {
                        return Ok(());
                    }
                    self.deliver(&[], usize::MAX)?;
                }
                Err("the network never settles".to_owned())
            }
            ("drop", links) => {
                let links = parse_links(links)?;
                for (from, envelope) in self.take_messages(&links) {
                    let text = show::message(&envelope.message);
                    self.say(&format!("lost n{from} -> n{} {text}", envelope.to));
                }
                Ok(())
            }
            ("repeat", links) => {
                let links = parse_links(links)?;
                let again: Vec<_> =
                    self.network.iter().filter(|m| matches(m, &links)).cloned().collect();
                self.network.extend(again);
                Ok(())
            }
            ("reverse", links) => {
                let links = parse_links(links)?;
                let reversed = self.take_messages(&links).into_iter().rev();
                self.network.extend(reversed);
                Ok(())
            }
            ("cut", links) => {
                self.cut.extend(parse_links(links)?);
                Ok(())
            }
            ("isolate", [id]) => {
                let id = number(id)?;
                let others: Vec<u64> = self.nodes.keys().copied().filter(|o| *o != id).collect();
                self.cut.extend(others.into_iter().flat_map(|other| [(id, other), (other, id)]));
                Ok(())
            }
            ("heal", []) => {
                self.cut.clear();
                Ok(())
            }
            ("inject", [link, ..]) => {
                let (from, to) = parse_link(link)?;
                let text = rest.strip_prefix(link).unwrap_or_default().trim();
                let message = show::parse(text)?;
                self.step(to, Event::Receive { from: ReplicaId(from), message })
            }
            ("unreachable", [at, peer]) => {
                let peer = ReplicaId(number(peer)?);
                self.step(number(at)?, Event::Unreachable(peer))
            }
            ("wait", [time]) => self.wait(number(time)?),
            ("run", [time]) => {
                // Time passes and the network works.
                for _ in 0..number(time)? {
                    self.wait(1)?;
                    while !self.network.is_empty() {
                        self.deliver(&[], usize::MAX)?;
                    }
                }
                Ok(())
            }
            ("timeout", [id]) => {
                let id = number(id)?;
                let due = self.raft(id)?.next_tick();
                self.now = self.node(id)?.clock.when(due).max(self.now);
                self.step(id, Event::Tick)
            }
            ("disk", [id, speed]) => {
                self.node(number(id)?)?.slow_disk = *speed == "slow";
                Ok(())
            }
            ("journal", [id, speed]) => {
                self.node(number(id)?)?.slow_fetch = *speed == "slow";
                Ok(())
            }
            ("sync", [id]) => self.sync(number(id)?, usize::MAX),
            ("sync", [id, count]) => self.sync(number(id)?, number(count)? as usize),
            ("fetched", [id]) => self.answer_fetch(number(id)?, false),
            ("fetch-failed", [id]) => self.answer_fetch(number(id)?, true),
            ("crash", [id]) => {
                let node = self.node(number(id)?)?;
                node.raft = None;
                node.writes.clear();
                node.fetches.clear();
                node.install = None;
                Ok(())
            }
            ("restart", [id]) => self.start(number(id)?),
            ("checkpoint", [id, index]) => {
                self.node(number(id)?)?.disk.checkpoint(Index(number(index)?));
                Ok(())
            }
            ("compact", [id, index]) => {
                let (id, index) = (number(id)?, Index(number(index)?));
                self.step(id, Event::Compact(index))?;
                let base = self.raft(id)?.base().index;
                self.node(id)?.disk.base = base;
                Ok(())
            }
            ("status", ids) => self.status(ids),
            ("log", ids) => self.logs(ids),
            (verb, words) => self.edge(verb, words),
        }
    }

    fn node(&mut self, id: u64) -> Result<&mut Node, String> {
        self.nodes.get_mut(&id).ok_or(format!("there is no node {id}"))
    }

    fn raft(&mut self, id: u64) -> Result<&mut Raft, String> {
        self.node(id)?.raft.as_mut().ok_or(format!("node {id} is down"))
    }

    fn start(&mut self, id: u64) -> Outcome {
        let mut options = Options {
            id: ReplicaId(id),
            voters: self.nodes.keys().map(|id| ReplicaId(*id)).collect(),
            election_timeout: Duration::from_millis(100),
            heartbeat_interval: Duration::from_millis(20),
            seed: 1,
            suspect: false,
            pre_vote: false,
            check_quorum: false,
            disk_stall_max: Duration::from_secs(1),
            may_lead: true,
            leases: None,
            limits: Limits::default(),
        };
        let (mut leases, mut drift_percent) = (false, 0);
        for option in &self.options {
            let (name, value) = option.split_once('=').unwrap_or((option, "0"));
            let value = number(value)? as usize;
            let limits = &mut options.limits;
            match name {
                "pre-vote" => options.pre_vote = true,
                "check-quorum" => options.check_quorum = true,
                "leases" => leases = true,
                "drift_percent" => drift_percent = value as u32,
                "entry_bytes_max" => limits.entry_bytes_max = value,
                "message_bytes_max" => limits.message_bytes_max = value,
                "message_entries_max" => limits.message_entries_max = value,
                "inflight_bytes_max" => limits.inflight_bytes_max = value,
                "inflight_messages_max" => limits.inflight_messages_max = value,
                "uncommitted_bytes_max" => limits.uncommitted_bytes_max = value,
                "cache_bytes_max" => limits.cache_bytes_max = value,
                "apply_bytes_max" => limits.apply_bytes_max = value,
                "reads_pending_max" => limits.reads_pending_max = value,
                "disk_stall_max_ms" => options.disk_stall_max = Duration::from_millis(value as u64),
                other => return Err(format!("unknown option {other}")),
            }
        }
        options.leases =
            leases.then_some(Leases { reads: true, clock_drift_max_ppm: drift_percent * 10_000 });
        let now = self.time_of(id);
        let node = self.node(id)?;
        options.suspect = node.disk.suspect;
        node.raft = Some(Raft::new(options, node.disk.restored(), now));
        self.turn(id)
    }

    fn step(&mut self, id: u64, event: Event) -> Outcome {
        let now = self.time_of(id);
        self.raft(id)?.step(now, event);
        self.turn(id)
    }

    fn propose(&mut self, id: u64, payload: &str) -> Outcome {
        // `text*20` proposes twenty bytes, `text#` is a plain text.
        let payload = match payload.split_once('*') {
            Some((text, count)) => text.repeat(number(count)? as usize),
            None => payload.to_owned(),
        };
        let now = self.time_of(id);
        let outcome = self.raft(id)?.propose(now, payload.into());
        if let Err(error) = outcome {
            self.say(&format!("n{id} proposal refused: {error}"));
        }
        Ok(())
    }

    fn turn(&mut self, id: u64) -> Outcome {
        loop {
            let now = self.time_of(id);
            let ready = self.raft(id)?.ready(now);
            if let Some(change) = ready.role_changed {
                let leader = match change.leader {
                    Some(leader) if leader.0 != id => format!(" of n{leader}"),
                    _ => String::new(),
                };
                self.say(&format!("n{id} is {}{leader}, term {}", change.role, change.term));
            }
            if let Some(persist) = ready.persist {
                let mut line = format!("n{id} writes");
                if let Some(base) = persist.reset {
                    write!(line, " log after {base}").expect("strings take everything");
                }
                if let Some(state) = &persist.hard_state {
                    write!(line, " {}", show::hard_state(state)).expect("strings take everything");
                }
                if !persist.entries.is_empty() {
                    write!(line, " {}", show::entries(&persist.entries)).expect("as above");
                }
                self.say(&line);
                self.node(id)?.writes.push_back(persist);
            }
            for envelope in ready.messages {
                let text = show::message(&envelope.message);
                let to = envelope.to.0;
                if self.cut.contains(&(id, to)) {
                    self.say(&format!("n{id} -x n{to} {text}"));
                } else {
                    self.say(&format!("n{id} -> n{to} {text}"));
                    self.network.push_back((id, envelope));
                }
            }
            if !ready.apply.is_empty() {
                self.say(&format!("n{id} applies {}", show::entries(&ready.apply)));
            }
            for outcome in ready.reads {
                let answer = match outcome.result {
                    Ok(index) => format!("at {index}"),
                    Err(error) => format!("refused: {error}"),
                };
                self.say(&format!("n{id} answers read {}: {answer}", outcome.id));
            }
            for follower in ready.snapshots {
                self.say(&format!("n{id} needs a snapshot for n{follower}"));
            }
            if let Some(position) = ready.install {
                self.say(&format!("n{id} swaps in {position}"));
                self.node(id)?.install = Some(position);
            }
            if let Some(fetch) = ready.fetch {
                self.say(&format!("n{id} fetches {}..{}", fetch.from, fetch.to));
                self.node(id)?.fetches.push_back(fetch);
            }
            if ready.more {
                continue;
            }
            let node = self.node(id)?;
            if !node.slow_disk && !node.writes.is_empty() {
                return self.sync(id, usize::MAX);
            }
            if !node.slow_fetch && !node.fetches.is_empty() {
                return self.answer_fetch(id, false);
            }
            return Ok(());
        }
    }

    /// Makes writes durable and says so.
    fn sync(&mut self, id: u64, count: usize) -> Outcome {
        let now = self.time_of(id);
        let node = self.node(id)?;
        let count = count.min(node.writes.len());
        for write in node.writes.drain(..count) {
            node.disk.write(&write);
            let raft = node.raft.as_mut().ok_or("a node that is down writes nothing")?;
            raft.step(now, Event::Persisted(write.ticket));
        }
        self.turn(id)
    }

    fn answer_fetch(&mut self, id: u64, fail: bool) -> Outcome {
        let node = self.node(id)?;
        let fetch = node.fetches.pop_front().ok_or("nothing is being fetched")?;
        let from = fetch.from;
        if fail {
            return self.step(id, Event::FetchFailed { from });
        }
        let log = &node.disk.entries;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in
            &log[(from.0 as usize - 1).min(log.len())..(fetch.to.0 as usize).min(log.len())]
        {
            bytes += entry.bytes();
            if bytes > fetch.bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        self.step(id, Event::Fetched { entries })
    }

    fn take_messages(&mut self, links: &[(u64, u64)]) -> Vec<(u64, Envelope)> {
        let (taken, left) = self.network.drain(..).partition(|message| matches(message, links));
        self.network = left;
        taken.into()
    }

    /// Delivers what is in the network now, but nothing that is sent in answer.
    fn deliver(&mut self, links: &[&str], count: usize) -> Outcome {
        let links = parse_links(links)?;
        let mut messages = self.take_messages(&links);
        let rest = messages.split_off(count.min(messages.len()));
        self.network.extend(rest);
        for (from, Envelope { to, message }) in messages {
            if self.cut.contains(&(from, to.0)) || self.node(to.0)?.raft.is_none() {
                self.say(&format!("lost n{from} -> n{to} {}", show::message(&message)));
                continue;
            }
            self.step(to.0, Event::Receive { from: ReplicaId(from), message })?;
        }
        Ok(())
    }

    /// Lets time pass; every node ticks when it is due.
    fn wait(&mut self, time_ms: u64) -> Outcome {
        let end = self.now + time_ms * 1_000_000;
        loop {
            let due = self.nodes.iter().filter_map(|(id, node)| {
                let due = node.raft.as_ref()?.next_tick();
                Some((node.clock.when(due).max(self.now), *id))
            });
            match due.min() {
                Some((due, id)) if due <= end => {
                    self.now = due;
                    self.step(id, Event::Tick)?;
                }
                _ => {
                    self.now = end;
                    return Ok(());
                }
            }
        }
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

fn parse_link(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("->").ok_or(format!("{text:?} is not a link"))?;
    Ok((number(from)?, number(to)?))
}

fn parse_links(words: &[&str]) -> Result<Vec<(u64, u64)>, String> {
    words.iter().map(|word| parse_link(word)).collect()
}

fn matches((from, envelope): &(u64, Envelope), links: &[(u64, u64)]) -> bool {
    links.is_empty() || links.contains(&(*from, envelope.to.0))
}
