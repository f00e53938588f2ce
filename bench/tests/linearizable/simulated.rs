//! A correct store with many clients at once, made up event by event from a seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use flotilla_bench::history::Line;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

/// What the clients do.
#[derive(Clone, Copy)]
pub struct Load {
    pub seed: u64,
    pub clients: u64,
    pub keys: u64,
    pub operations: usize,
    /// Weights of gets, puts, deletes, compare-and-swaps, read-modify-writes.
    pub mix: [u32; 5],
    /// Every so many operations one loses its answer.
    pub unknown_every: u32,
    /// The longest time that an operation takes.
    pub latency_ns_max: u64,
}

impl Load {
    /// As a benchmark with a few faults would record it.
    pub fn usual() -> Load {
        Load {
            seed: 1,
            clients: 50,
            keys: 1_000,
            operations: 100_000,
            mix: [50, 40, 4, 3, 3],
            unknown_every: 1_000,
            latency_ns_max: 2_000_000,
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client begins its next operation.
    Call { client: u64 },
    /// An operation takes effect.
    Effect { operation: usize },
}

struct Store {
    rng: SmallRng,
    load: Load,
    now: u64,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    contents: HashMap<String, String>,
    /// What each client saw last of each key: what it expects when it swaps.
    seen: HashMap<(u64, String), Option<String>>,
    lines: Vec<Line>,
}

/// The history, in the order of the calls.
pub fn history(load: Load) -> Vec<(usize, Line)> {
    let mut store = Store {
        rng: SmallRng::seed_from_u64(load.seed),
        load,
        now: 0,
        events: BinaryHeap::new(),
        contents: HashMap::new(),
        seen: HashMap::new(),
        lines: Vec::new(),
    };
    for client in 0..load.clients {
        store.events.push(Reverse((client, Event::Call { client })));
    }
    while let Some(Reverse((at, event))) = store.events.pop() {
        store.now = at;
        match event {
            Event::Call { client } if store.lines.len() < load.operations => store.call(client),
            Event::Call { .. } => {}
            Event::Effect { operation } => store.effect(operation),
        }
    }
    (1..).zip(store.lines).filter(|(_, line)| line.f != "get" || line.unk == 0).collect()
}

impl Store {
    fn latency(&mut self) -> u64 {
        self.rng.random_range(1..=self.load.latency_ns_max / 2)
    }

    fn call(&mut self, client: u64) {
        let k = format!("key{}", self.rng.random_range(0..self.load.keys));
        let number = self.lines.len();
        let new = Some(Value::String(format!("c{client}w{number}")));
        let weights = self.load.mix;
        let mut draw = self.rng.random_range(0..weights.iter().sum());
        let kind = weights.iter().position(|weight| match draw.checked_sub(*weight) {
            Some(rest) => {
                draw = rest;
                false
            }
            None => true,
        });
        let (f, v) = match kind.expect("the draw is below the sum") {
            0 => ("get", None),
            1 => ("put", new),
            2 => ("del", None),
            3 => ("cas", new),
            _ => ("rmw", new),
        };
        let seen = || self.seen.get(&(client, k.clone())).cloned().unwrap_or_default();
        let old = (f == "cas").then(|| seen().map_or(Value::Null, Value::String));
        let unk = u8::from(self.rng.random_ratio(1, self.load.unknown_every));
        let f = f.to_owned();
        let line = Line { f, k, v, old, r: None, c: client, call: self.now, ret: 0, unk };
        self.lines.push(line);
        let latency = self.latency();
        let effect = Reverse((self.now + latency, Event::Effect { operation: number }));
        if unk == 0 {
            self.events.push(effect);
            return;
        }
        // The client gives up; the operation may still happen, or already has, or never will.
        let waited = self.latency();
        self.lines[number].ret = self.now + waited;
        self.events.push(Reverse((self.now + waited + 1, Event::Call { client })));
        match self.rng.random_range(0..3) {
            0 => {}
            1 => self.events.push(effect),
            _ => {
                let late = self.now + latency + 10 * self.load.latency_ns_max;
                self.events.push(Reverse((late, Event::Effect { operation: number })));
            }
        }
    }

    fn effect(&mut self, number: usize) {
        let line = &self.lines[number];
        let (key, client) = (line.k.clone(), line.c);
        let before = self.contents.get(&key).cloned();
        let new = line.v.as_ref().and_then(Value::as_str).map(str::to_owned);
        let read = before.clone().map_or(Value::Null, Value::String);
        let swaps = line.old.as_ref() == Some(&read);
        let (after, r) = match line.f.as_str() {
            "get" => (before.clone(), Some(read)),
            "put" => (new, None),
            "del" => (None, self.rng.random_bool(0.5).then_some(Value::Bool(before.is_some()))),
            "cas" => (if swaps { new } else { before.clone() }, Some(Value::Bool(swaps))),
            _ => (new, Some(read)),
        };
        match after {
            Some(after) => self.contents.insert(key.clone(), after),
            None => self.contents.remove(&key),
        };
        if self.lines[number].unk == 1 {
            return;
        }
        if matches!(self.lines[number].f.as_str(), "get" | "rmw") {
            self.seen.insert((client, key), before);
        }
        let answered = self.now + self.latency();
        let line = &mut self.lines[number];
        (line.ret, line.r) = (answered, r);
        self.events.push(Reverse((answered + 1, Event::Call { client })));
    }
}

/// Counters that are incremented and read.
pub fn counters(seed: u64, clients: u64, operations: usize) -> Vec<(usize, Line)> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut sums = [0_i64; 10];
    let mut ready = vec![0_u64; clients as usize];
    let mut lines = Vec::new();
    // Each takes effect at its number: so the order of the effects is that of the loop.
    for number in 0..operations {
        let effect = 1_000 * (number as u64 + 1);
        let able: Vec<usize> = (0..ready.len()).filter(|client| ready[*client] < effect).collect();
        let Some(client) = able.get(rng.random_range(0..able.len().max(1))).copied() else {
            continue;
        };
        let call = rng.random_range(ready[client]..effect).max(effect.saturating_sub(20_000));
        let ret = effect + rng.random_range(1..20_000);
        ready[client] = ret + 1;
        let key = rng.random_range(0..sums.len());
        let is_read = rng.random_ratio(1, 4);
        sums[key] += i64::from(!is_read);
        let (f, v, r) = match is_read {
            true if sums[key] == 0 => ("get", None, Value::Null),
            true => ("get", None, Value::from(sums[key].to_string())),
            false => ("incr", Some(Value::from(1)), Value::from(sums[key])),
        };
        let (f, k) = (f.to_owned(), format!("counter{key}"));
        let (c, r) = (client as u64, Some(r));
        lines.push((number + 1, Line { f, k, v, old: None, r, c, call, ret, unk: 0 }));
    }
    lines
}
