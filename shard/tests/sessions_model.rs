//! The table of sessions against a model that forgets nothing: whatever is asked again, delayed, sent
//! out of order, evicted or carried over in a checkpoint, no write is let through twice.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use flotilla_shard::sessions::{ANSWERS_BYTES_MAX, SESSION_IDLE_MS, Seen, SessionTable};
use flotilla_shard::{CommandFailure, Entry, Origin, Reader, WriteOutcome, Writer};
use proptest::collection::vec;
use proptest::prelude::*;

/// Clients at a time; each may be born again, as another session of the same name.
const CLIENTS: u64 = 4;
/// The largest value that an answer carries here: a few fill the table.
const VALUE_BYTES_MAX: usize = 900 << 10;

#[derive(Clone, Debug)]
enum Act {
    /// A client's next write, whose answer carries so many bytes.
    Write {
        client: u64,
        bytes: usize,
    },
    /// An earlier one again.
    Repeat {
        client: u64,
        back: u64,
    },
    /// A client says that it has all answers but the last few.
    Acknowledge {
        client: u64,
        keep: u64,
    },
    Wait {
        ms: u64,
    },
    /// The same name, another session.
    Rebirth {
        client: u64,
    },
    /// To bytes and back, as in a checkpoint.
    Carry,
}

fn act() -> impl Strategy<Value = Act> {
    let client = || 0..CLIENTS;
    let bytes = prop_oneof![4 => Just(0), 2 => 0..2000usize, 1 => 0..VALUE_BYTES_MAX];
    prop_oneof![
        8 => (client(), bytes).prop_map(|(client, bytes)| Act::Write { client, bytes }),
        8 => (client(), 0..12u64).prop_map(|(client, back)| Act::Repeat { client, back }),
        2 => (client(), 0..5u64).prop_map(|(client, keep)| Act::Acknowledge { client, keep }),
        2 => (0..120_000u64).prop_map(|ms| Act::Wait { ms }),
        1 => (1..3u64).prop_map(|times| Act::Wait { ms: times * SESSION_IDLE_MS }),
        1 => client().prop_map(|client| Act::Rebirth { client }),
        1 => Just(Act::Carry),
    ]
}

#[derive(Default)]
struct Client {
    born_ms: u64,
    last: u64,
    lowest: u64,
    /// What each write did, once it took effect.
    applied: BTreeMap<u64, WriteOutcome>,
}

struct Model {
    table: SessionTable,
    clients: BTreeMap<u64, Client>,
    now_ms: u64,
    births: u64,
}

impl Model {
    fn new() -> Model {
        let mut model = Model {
            table: SessionTable::default(),
            clients: BTreeMap::new(),
            now_ms: 1 << 40,
            births: 0,
        };
        (0..CLIENTS).for_each(|client| model.bear(client));
        model
    }

    fn bear(&mut self, client: u64) {
        self.births += 1;
        let born_ms = self.now_ms + self.births;
        let born = Client { born_ms, lowest: 1, ..Client::default() };
        self.clients.insert(client, born);
    }

    /// A write arrives, for the first time or again.
    fn arrive(&mut self, client: u64, sequence: u64, bytes: usize) {
        let known = self.clients.get_mut(&client).expect("a client");
        let origin = Origin {
            session: client + 1,
            session_born_ms: known.born_ms,
            sequence,
            lowest_unacknowledged: known.lowest,
        };
        let before = self.table.clone();
        match self.table.look_up(&origin) {
            Seen::Never => {
                let value = Bytes::from(vec![client as u8; bytes]);
                let entry = Entry { value, version: sequence, expires_at_ms: None };
                let previous = (bytes > 0).then_some(entry);
                let outcome = WriteOutcome::Put { version: sequence, written: true, previous };
                let again = known.applied.insert(sequence, outcome.clone());
                assert_eq!(again, None, "{sequence} of {client} is let through again");
                self.table.record(&origin, self.now_ms, &outcome);
            }
            Seen::Answered(answer) => {
                let given_up = WriteOutcome::Failed(CommandFailure::Acknowledged);
                let first = known.applied.get(&sequence);
                assert!(first == Some(answer) || (first.is_some() && *answer == given_up));
                assert_eq!(self.table, before, "looking up changes nothing");
                self.table.touch(&origin, self.now_ms);
            }
            Seen::Refused(CommandFailure::Acknowledged) => assert_eq!(self.table, before),
            Seen::Refused(CommandFailure::SessionExpired { watermark_ms }) => {
                assert!(watermark_ms >= origin.session_born_ms);
                assert_eq!(watermark_ms, self.table.watermark_ms());
            }
            Seen::Refused(other) => panic!("{other}"),
        }
    }

    fn carry(&mut self) {
        let mut bytes = BytesMut::new();
        self.table.encode(&mut Writer::new(&mut bytes));
        let mut reader = Reader::new(bytes.freeze());
        let carried = SessionTable::decode(&mut reader).expect("what was written is read");
        reader.finish().expect("all of it");
        assert_eq!(carried, self.table);
        self.table = carried;
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Write { client, bytes } => {
                let known = self.clients.get_mut(&client).expect("a client");
                known.last += 1;
                let sequence = known.last;
                self.arrive(client, sequence, bytes);
            }
            Act::Repeat { client, back } => {
                let sequence = self.clients[&client].last.saturating_sub(back);
                if sequence > 0 {
                    self.arrive(client, sequence, 0);
                }
            }
            Act::Acknowledge { client, keep } => {
                let known = self.clients.get_mut(&client).expect("a client");
                known.lowest = known.lowest.max((known.last + 1).saturating_sub(keep));
            }
            Act::Wait { ms } => {
                let before = self.now_ms;
                self.now_ms += ms;
                self.table.advance(before, self.now_ms);
            }
            Act::Rebirth { client } => self.bear(client),
            Act::Carry => self.carry(),
        }
        let answers_max = ANSWERS_BYTES_MAX + VALUE_BYTES_MAX as u64 + 1024;
        assert!(self.table.answers_bytes() <= answers_max);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_write_is_let_through_twice(acts in vec(act(), 1..150)) {
        let mut model = Model::new();
        acts.into_iter().for_each(|act| model.act(act));
    }
}
