//! Any order of attempts, repeats, silences and newcomers: each write takes effect at most once, and
//! every repeat gets the first answer.

use crate::support::*;
use bytes::Bytes;
use flotilla_shard::command::{Change, Command};
use flotilla_shard::machine::{Applied, ShardMeta};
use flotilla_shard::sessions::SESSION_IDLE_MS;
use flotilla_shard::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What happens next.
#[derive(Clone, Debug)]
enum Act {
    /// A client makes up its next write; it reaches the log now or later, or never.
    Issue { client: usize, now: bool },
    /// A copy of any write made up so far reaches the log: a retry, or one that was delayed.
    Deliver { which: usize },
    /// A client takes note of the answers that it has without a gap.
    Acknowledge { client: usize },
    /// Time passes.
    Wait { ms: u64 },
    /// A client begins another session.
    Renew { client: usize },
    /// Rows leave memory at one of the replicas.
    Checkpoint,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..3usize, any::<bool>()).prop_map(|(client, now)| Act::Issue { client, now }),
        8 => any::<usize>().prop_map(|which| Act::Deliver { which }),
        2 => (0..3usize).prop_map(|client| Act::Acknowledge { client }),
        2 => (0..200_000u64).prop_map(|ms| Act::Wait { ms }),
        1 => (0..3u64).prop_map(|half| Act::Wait { ms: half * SESSION_IDLE_MS / 2 }),
        1 => (0..3usize).prop_map(|client| Act::Renew { client }),
        1 => Just(Act::Checkpoint),
    ]
}

/// A client as it sees itself.
struct Client {
    session: u64,
    born_ms: u64,
    next: u64,
    lowest: u64,
}

/// What is known about one write.
#[derive(Default)]
struct Fate {
    first: Option<WriteOutcome>,
    /// It was refused for good once.
    refused: bool,
}

type Name = (u64, u64);

struct World {
    fixture: Fixture,
    /// Gets the same log, but its rows leave memory.
    other: Fixture,
    clients: Vec<Client>,
    issued: Vec<Command>,
    fates: BTreeMap<Name, Fate>,
    sessions: u64,
}

impl World {
    fn new() -> World {
        let mut world = World {
            fixture: Fixture::new(),
            other: Fixture::new(),
            clients: Vec::new(),
            issued: Vec::new(),
            fates: BTreeMap::new(),
            sessions: 0,
        };
        (0..3).for_each(|_| {
            let client = world.newcomer();
            world.clients.push(client);
        });
        world
    }

    fn newcomer(&mut self) -> Client {
        self.sessions += 1;
        let born_ms = self.fixture.now_ms.max(self.watermark_ms() + 1);
        Client { session: self.sessions, born_ms, next: 1, lowest: 1 }
    }

    fn watermark_ms(&self) -> u64 {
        self.fixture.machine.meta().sessions.watermark_ms()
    }

    fn run(&mut self, act: Act) {
        match act {
            Act::Issue { client, now } => {
                let command = self.issue(client);
                self.issued.push(command.clone());
                if now {
                    self.deliver(command);
                }
            }
            Act::Deliver { which } if !self.issued.is_empty() => {
                let which = which % self.issued.len();
                self.deliver(self.issued[which].clone());
            }
            Act::Deliver { .. } => {}
            Act::Acknowledge { client } => {
                let Client { session, lowest, .. } = &mut self.clients[client];
                let answered = |name: &Name| {
                    self.fates.get(name).is_some_and(|fate| fate.first.is_some() || fate.refused)
                };
                while answered(&(*session, *lowest)) {
                    *lowest += 1;
                }
            }
            Act::Wait { ms } => self.fixture.now_ms += ms,
            Act::Renew { client } => self.clients[client] = self.newcomer(),
            Act::Checkpoint => self.other.checkpoint(),
        }
    }

    /// Every write leaves a trace that is its own: appended to a value, or counted.
    fn issue(&mut self, client: usize) -> Command {
        let client = &mut self.clients[client];
        let (session, sequence) = (client.session, client.next);
        client.next += 1;
        let trace = Bytes::from(format!("{session}:{sequence};"));
        let append = Write::Append { key: bytes("trace"), value: trace };
        let write = match sequence % 5 {
            0 => Write::Batch {
                changes: vec![BatchChange::Put { key: bytes("batch"), value: bytes("x") }],
                if_all_absent: false,
            },
            1 => Write::DeleteRange { range: KeyRange::new("x", None) },
            2 => Write::Atomic {
                guards: Vec::new(),
                steps: vec![Step::Write(append), Step::Get { key: bytes("trace") }],
            },
            _ => append,
        };
        let origin = Origin {
            session,
            session_born_ms: client.born_ms,
            sequence,
            lowest_unacknowledged: client.lowest,
        };
        let (stamp_ms, change) = (0, Change::Write(write));
        Command { origin, stamp_ms, value_bytes_max: VALUE_BYTES_MAX, change }
    }

    /// A copy of the write is committed, stamped now.
    fn deliver(&mut self, mut command: Command) {
        command.stamp_ms = self.fixture.now_ms;
        let Origin { session, sequence, session_born_ms, .. } = command.origin;
        let known = self.fates.get(&(session, sequence)).is_some_and(|fate| fate.first.is_some());
        let version = self.fixture.machine.shard().version();
        let watermark_ms = self.watermark_ms();
        let applied = self.fixture.apply(&command);
        assert_eq!(self.other.apply(&command), applied, "replicas agree");
        let Applied::Outcome(outcome) = applied else { panic!("a write ended in {applied:?}") };
        let changed = self.fixture.machine.shard().version() != version;
        let fate = self.fates.entry((session, sequence)).or_default();
        match &outcome {
            WriteOutcome::Failed(CommandFailure::SessionExpired { watermark_ms: told_ms }) => {
                assert_eq!(*told_ms, watermark_ms);
                assert!(session_born_ms <= watermark_ms, "refused without need");
                fate.refused = true;
            }
            WriteOutcome::Failed(CommandFailure::Acknowledged) => {
                let lowest = self.issued.iter().filter(|c| c.origin.session == session);
                let lowest = lowest.map(|c| c.origin.lowest_unacknowledged).max();
                assert!(Some(sequence) < lowest, "refused without need");
                fate.refused = true;
            }
            _ if known => assert_eq!(fate.first.as_ref(), Some(&outcome), "the first answer"),
            _ => fate.first = Some(outcome),
        }
        let is_refused = fate.first.is_none();
        assert_eq!(changed, !known && !is_refused, "{session}:{sequence} changed something");
    }

    /// What the rows say must be what the answers said.
    fn check(&self) {
        let trace = self.fixture.text("trace").unwrap_or_default();
        let mut traces: Vec<&str> = trace.split_terminator(';').collect();
        traces.sort_unstable();
        let answered = self
            .fates
            .iter()
            .filter(|(name, fate)| fate.first.is_some() && !matches!(name.1 % 5, 0 | 1));
        let mut expected: Vec<String> =
            answered.map(|((session, sequence), _)| format!("{session}:{sequence}")).collect();
        expected.sort_unstable();
        assert_eq!(traces, expected, "each answered write took effect once, no other did");
        assert_eq!(self.fixture.rows(), self.other.rows(), "replicas agree");
        let meta = self.fixture.machine.meta();
        assert_eq!(meta, self.other.machine.meta(), "replicas agree");
        assert_eq!(ShardMeta::decode(meta.encode()).as_ref(), Ok(&meta), "a checkpoint keeps it");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn each_write_takes_effect_at_most_once(acts in vec(act(), 1..250)) {
        let mut world = World::new();
        for act in acts {
            world.run(act);
        }
        world.check();
    }
}
