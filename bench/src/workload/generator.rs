//! The operations of one client, one after the other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::zipfian::{Zipfian, scramble};
use super::{Distribution, Values, Workload};
use crate::keys::KeyFormat;
use crate::target::{Operation, OperationKind};

/// Keys and values are cut from chunks of this size.
const ARENA_BYTES: usize = 16 << 10;

/// Which keys were inserted during a run; shared by all clients.
///
/// As in YCSB, a key is drawn for other operations only when its own insert and those of all keys
/// before it have been answered.
#[derive(Debug)]
pub struct Inserted {
    /// The key that is inserted next.
    next: AtomicU64,
    /// Keys below this have been answered.
    answered: AtomicU64,
    /// Keys that were answered before an earlier one was.
    early: Mutex<BTreeSet<u64>>,
}

impl Inserted {
    /// Keys below `keys` are there.
    pub fn new(keys: u64) -> Inserted {
        Inserted {
            next: AtomicU64::new(keys),
            answered: AtomicU64::new(keys),
            early: Mutex::default(),
        }
    }

    /// How many keys may be drawn.
    pub fn keys(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The insert of key number `number` was answered, whether it succeeded or not.
    pub fn answer(&self, number: u64) {
        let mut early = self.early.lock().expect("no holder panics");
        early.insert(number);
        let mut answered = self.answered.load(Ordering::Relaxed);
        while early.remove(&answered) {
            answered += 1;
        }
        self.answered.store(answered, Ordering::Relaxed);
    }
}

/// An operation to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// As what it is counted.
    pub kind: OperationKind,
    /// What is asked.
    pub operation: Operation,
    /// The key number of an insert, to be told to [`Inserted::answer`] when it was answered.
    pub insert: Option<u64>,
}

/// How the next key is found.
#[derive(Clone)]
enum Chooser {
    /// Ranks scattered over this many keys, of which some may not be inserted yet.
    Scrambled(Zipfian, u64),
    Uniform,
    Latest(Zipfian),
    /// The next place in the sequence, and how far it is to the one after it.
    Sequential(u64, u64),
}

/// Makes the generators of all clients.
pub struct Generators {
    workload: Workload,
    clients: u32,
    seed: u64,
    phase: u16,
    batch: u64,
    chooser: Chooser,
    pool: Bytes,
    inserted: Arc<Inserted>,
}

impl Generators {
    /// Operations of `workload` for `clients` clients, whose puts have `batch` keys each. The same
    /// `seed` gives the same operations; what is drawn while clients insert side by side depends on
    /// how far the others are, too. `phase` tells runs over one store apart: no value of a phase
    /// equals one of another.
    ///
    /// # Panics
    ///
    /// Without clients, keys in the batch, or keys in the workload.
    pub fn new(
        workload: &Workload,
        clients: usize,
        batch: usize,
        seed: u64,
        phase: u16,
    ) -> Generators {
        assert!(clients > 0 && batch > 0 && workload.keys > 0, "there is somebody, with something");
        let keys = workload.keys;
        let chooser = match workload.distribution {
            Distribution::Zipfian => {
                Chooser::Scrambled(Zipfian::scrambled(), keys + workload.expected_inserts())
            }
            Distribution::Uniform => Chooser::Uniform,
            Distribution::Latest => Chooser::Latest(Zipfian::new(keys.max(2) - 1)),
            Distribution::Sequential => Chooser::Sequential(0, clients as u64),
        };
        Generators {
            workload: workload.clone(),
            clients: u32::try_from(clients).expect("nobody has so many clients"),
            seed,
            phase,
            batch: batch as u64,
            chooser,
            pool: Values::pool(workload.value_bytes),
            inserted: Arc::new(Inserted::new(keys)),
        }
    }

    /// The keys that were inserted so far.
    pub fn inserted(&self) -> &Arc<Inserted> {
        &self.inserted
    }

    /// The operations of client number `client`.
    ///
    /// # Panics
    ///
    /// If there is no such client.
    pub fn client(&self, client: u32) -> Generator {
        assert!(client < self.clients, "clients are counted from 0");
        let mut sum = 0.0;
        let mix = self.workload.mix.iter().map(|(kind, share)| {
            sum += share;
            (*kind, sum)
        });
        let mix = mix.collect();
        let chooser = match &self.chooser {
            Chooser::Sequential(_, step) => Chooser::Sequential(client.into(), *step),
            other => other.clone(),
        };
        let first_sequence = u64::from(self.phase) << 48;
        let (bytes, pool) = (self.workload.value_bytes, self.pool.clone());
        // The constant keeps neighbouring seeds and clients apart.
        let seed = self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ u64::from(client);
        Generator {
            mix,
            chooser,
            random: SmallRng::seed_from_u64(seed),
            values: Values::new(client, first_sequence, bytes, pool),
            arena: BytesMut::new(),
            key: BytesMut::new(),
            inserted: Arc::clone(&self.inserted),
            scan_rows_max: self.workload.scan_rows_max,
            key_format: self.workload.key_format,
            batch: self.batch,
        }
    }
}

/// The operations of one client. It never ends.
pub struct Generator {
    /// Kinds with the sum of their shares and of those before.
    mix: Vec<(OperationKind, f64)>,
    chooser: Chooser,
    random: SmallRng,
    values: Values,
    arena: BytesMut,
    key: BytesMut,
    inserted: Arc<Inserted>,
    scan_rows_max: u32,
    key_format: KeyFormat,
    batch: u64,
}

impl Generator {
    /// The next operation.
    pub fn plan(&mut self) -> Planned {
        let kind = self.kind();
        let mut insert = None;
        let operation = match kind {
            OperationKind::Get => Operation::Get { key: self.drawn_key() },
            OperationKind::Put if self.batch > 1 => {
                let number = self.draw();
                self.put_group(number)
            }
            OperationKind::Put => {
                let number = self.draw();
                self.put(number)
            }
            OperationKind::Insert => {
                let number = self.inserted.take();
                insert = Some(number);
                self.put(number)
            }
            OperationKind::Delete => Operation::Delete { key: self.drawn_key() },
            OperationKind::Scan => {
                let limit = self.random.random_range(1..=self.scan_rows_max);
                Operation::Scan { start: self.drawn_key(), limit }
            }
            OperationKind::ReadModifyWrite => {
                let (key, value) = (self.drawn_key(), self.value());
                Operation::ReadModifyWrite { key, value }
            }
            OperationKind::CompareAndSwap => {
                let (key, new) = (self.drawn_key(), self.value());
                Operation::CompareAndSwap { key, old: None, new }
            }
        };
        Planned { kind, operation, insert }
    }

    /// Puts key number `number`.
    pub fn put(&mut self, number: u64) -> Operation {
        Operation::Put { key: self.key(number), value: self.value() }
    }

    /// Puts the group of keys that key number `number` belongs to. Keys of a group lie side by side
    /// where the key format spreads keys.
    pub fn put_group(&mut self, number: u64) -> Operation {
        let first = number - number % self.batch;
        let last = (first + self.batch).min(self.inserted.keys());
        let pairs = (first..last).map(|number| (self.key(number), self.value())).collect();
        Operation::PutMany { pairs }
    }

    fn kind(&mut self) -> OperationKind {
        let (last, before) = self.mix.split_last().expect("a mix is not empty");
        if before.is_empty() {
            return last.0;
        }
        let at: f64 = self.random.random();
        before.iter().find(|(_, sum)| at < *sum).unwrap_or(last).0
    }

    /// A key that is there.
    fn draw(&mut self) -> u64 {
        let keys = self.inserted.keys();
        match &mut self.chooser {
            Chooser::Uniform => self.random.random_range(0..keys),
            Chooser::Scrambled(zipfian, space) => loop {
                let key = scramble(zipfian.rank(self.random.random()), *space);
                if key < keys {
                    return key;
                }
            },
            Chooser::Latest(zipfian) => {
                let last = keys - 1;
                zipfian.grow(last);
                last - zipfian.rank(self.random.random()).min(last)
            }
            Chooser::Sequential(next, step) => {
                let key = *next % keys;
                *next += *step;
                key
            }
        }
    }

    fn drawn_key(&mut self) -> Bytes {
        let number = self.draw();
        self.key(number)
    }

    fn key(&mut self, number: u64) -> Bytes {
        self.key_format.write_grouped(number, self.batch, &mut self.key);
        self.room(self.key.len());
        self.arena.extend_from_slice(&self.key);
        self.arena.split().freeze()
    }

    fn value(&mut self) -> Bytes {
        self.room(self.values.bytes());
        self.values.write(&mut self.arena);
        self.arena.split().freeze()
    }

    /// Makes room in the arena, so that it is not moved bit by bit.
    fn room(&mut self, bytes: usize) {
        if self.arena.capacity() < bytes {
            self.arena = BytesMut::with_capacity(bytes.max(ARENA_BYTES));
        }
    }
}

impl Iterator for Generator {
    type Item = Operation;

    fn next(&mut self) -> Option<Operation> {
        Some(self.plan().operation)
    }
}
