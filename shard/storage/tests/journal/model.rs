//! Random writes, truncations, compactions, births and deaths, with a crash at any operation,
//! again and again: what was reported durable is there, and nothing that was not written.

use bytes::Bytes;
use flotilla_storage::GroupId;
use flotilla_storage::journal::{Change, Journal, Recovery, Write};
use flotilla_storage::sim::SimFs;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::support::{Model, apply, entry, observed, try_open, write};

/// The model after each round that may have survived; the first is known to be durable.
struct History {
    versions: Vec<Model>,
}

impl History {
    fn latest(&self) -> &Model {
        self.versions.last().unwrap()
    }

    /// Everything so far is durable.
    fn synced(&mut self) {
        self.versions.drain(..self.versions.len() - 1);
    }

    /// What was recovered must be one of the versions; it is durable now.
    fn recovered(&mut self, seed: u64, journal: &Journal, recovery: &Recovery) {
        assert_eq!(recovery.corrupt, [], "seed {seed}");
        let found = observed(journal, recovery);
        let Some(at) = self.versions.iter().position(|version| *version == found) else {
            let durable = &self.versions[0];
            for (id, group) in durable {
                if found.get(id) != Some(group) {
                    eprintln!("{id}: durable {group:?}\n   found {:?}", found.get(id));
                }
            }
            panic!("seed {seed}: recovered none of the {} versions", self.versions.len());
        };
        self.versions = vec![self.versions.swap_remove(at)];
    }
}

fn random_write(random: &mut StdRng, model: &Model, ticket: u64) -> Write {
    let id = random.random_range(1..=6);
    let Some(group) = model.get(&GroupId(id)) else {
        return write(id, ticket, Change::Birth { meta: Bytes::from(vec![id as u8; 20]) });
    };
    let change = match random.random_range(0..100) {
        0 => Change::Death,
        1 => Change::Suspect,
        2..=24 => {
            let last = group.last();
            let index = random.random_range(group.base.0..=last + 2);
            // Mostly the entry's own term; sometimes a snapshot of another history.
            let other = random.random_range(1..=6);
            let term = match group.term_at(index) {
                Some(term) if random.random_bool(0.9) => term,
                _ => other,
            };
            Change::Compact { index, term }
        }
        _ => {
            let state = random.random_bool(0.5).then(|| Bytes::from(ticket.to_le_bytes().to_vec()));
            let first = if random.random_bool(0.8) {
                group.last() + 1
            } else {
                random.random_range(group.base.0 + 1..=group.last() + 1)
            };
            let count = random.random_range(0..5);
            // Long ones are written from where they are, short ones are copied.
            let size = if random.random_bool(0.05) { 30_000 } else { 600 };
            let entries = (first..first + count)
                .map(|index| {
                    let mut payload = vec![index as u8; random.random_range(0..size)];
                    payload.extend_from_slice(&ticket.to_le_bytes());
                    entry(index, random.random_range(1..=6), &payload)
                })
                .collect();
            Change::Append { state, entries }
        }
    };
    write(id, ticket, change)
}

/// Works on the journal until it fails or the rounds are done.
fn work(
    random: &mut StdRng,
    journal: &mut Journal,
    history: &mut History,
    ticket: &mut u64,
    rounds: u32,
) {
    for _ in 0..rounds {
        let mut model = history.latest().clone();
        let mut writes = Vec::new();
        for _ in 0..random.random_range(1..8) {
            *ticket += 1;
            let write = random_write(random, &model, *ticket);
            apply(&mut model, &write);
            writes.push(write);
        }
        history.versions.push(model);
        if journal.write(&writes).is_err() {
            return;
        }
        if random.random_bool(0.7) {
            if journal.sync().is_err() {
                return;
            }
            history.synced();
        }
        if random.random_bool(0.8) && journal.maintain().is_err() {
            return;
        }
        if random.random_bool(0.1) && journal.prove().is_err() {
            return;
        }
    }
}

fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let fs = SimFs::new(seed);
    let mut history = History { versions: vec![Model::new()] };
    let mut ticket = 0;
    let boots = 6;
    for boot in 0..=boots {
        // Crashes while opening, too.
        let is_last = boot == boots;
        if !is_last && random.random_bool(0.3) {
            fs.fail_after(random.random_range(0..12));
        }
        let (mut journal, recovery) = match try_open(&fs) {
            Ok(opened) => opened,
            Err(error) => {
                assert!(!is_last, "seed {seed}: {error}");
                if random.random_bool(0.5) {
                    fs.crash();
                } else {
                    fs.kill();
                }
                continue;
            }
        };
        history.recovered(seed, &journal, &recovery);
        if is_last {
            return;
        }
        fs.fail_after(random.random_range(0..400));
        if random.random_bool(0.1) {
            fs.fail_sync_after(random.random_range(0..40));
        }
        let rounds = random.random_range(0..150);
        work(&mut random, &mut journal, &mut history, &mut ticket, rounds);
        if random.random_bool(0.7) {
            fs.crash();
        } else {
            fs.kill();
        }
    }
}

#[test]
fn what_was_reported_durable_survives_and_nothing_is_invented() {
    for seed in 0..300 {
        run(seed);
    }
}

/// Long runs without faults until the end: segments are freed, rewritten and recycled many times.
#[test]
fn long_runs_stay_small_and_survive() {
    for seed in 1000..1020 {
        let mut random = StdRng::seed_from_u64(seed);
        let fs = SimFs::new(seed);
        let mut history = History { versions: vec![Model::new()] };
        let (mut journal, recovery) = try_open(&fs).unwrap();
        history.recovered(seed, &journal, &recovery);
        let mut ticket = 0;
        work(&mut random, &mut journal, &mut history, &mut ticket, 1500);
        let stats = journal.stats();
        assert!(stats.bytes_written > 5 << 20, "{stats:?}");
        assert!(stats.rewritten_bytes > 0, "seed {seed}: {stats:?}");
        assert!(stats.disk_bytes < 2 << 20, "seed {seed}: {stats:?}");
        fs.crash();
        let (journal, recovery) = try_open(&fs).unwrap();
        history.recovered(seed, &journal, &recovery);
    }
}
