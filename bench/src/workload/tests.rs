//! Mixes and distributions, counted.

use std::collections::BTreeMap;

use super::*;
use crate::target::Operation;

const DRAWS: usize = 200_000;

fn workload(name: &str, keys: u64) -> Workload {
    Workload { keys, value_bytes: 16, ..Workload::named(name).unwrap() }
}

fn one_client(workload: &Workload) -> Generator {
    Generators::new(workload, 1, 1, 7, 0).client(0)
}

/// How often each key number is asked for.
fn counts(workload: &Workload) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for operation in one_client(workload).take(DRAWS) {
        let Operation::Get { key } = operation else { panic!("only gets") };
        *counts.entry(number_of(&key)).or_default() += 1;
    }
    counts
}

/// Spread keys end with their numbers.
fn number_of(key: &[u8]) -> u64 {
    u64::from_be_bytes(key[8..].try_into().unwrap())
}

#[test]
fn the_mixes_of_ycsb_have_their_shares() {
    use OperationKind::{Get, Insert, Put, ReadModifyWrite, Scan};
    for (name, shares) in [
        ("a", [(Get, 0.5), (Put, 0.5)]),
        ("b", [(Get, 0.95), (Put, 0.05)]),
        ("c", [(Get, 1.0), (Put, 0.0)]),
        ("d", [(Get, 0.95), (Insert, 0.05)]),
        ("e", [(Scan, 0.95), (Insert, 0.05)]),
        ("f", [(Get, 0.5), (ReadModifyWrite, 0.5)]),
    ] {
        let mut generator = one_client(&workload(name, 1_000));
        let mut drawn: BTreeMap<OperationKind, usize> = BTreeMap::new();
        for _ in 0..DRAWS {
            *drawn.entry(generator.plan().kind).or_default() += 1;
        }
        for (kind, share) in shares {
            let count = drawn.remove(&kind).unwrap_or(0);
            let found = count as f64 / DRAWS as f64;
            assert!((found - share).abs() < 0.005, "{name}: {kind} {found}");
        }
        assert!(drawn.is_empty(), "{name}: {drawn:?}");
    }
}

#[test]
fn zipfian_draws_the_scattered_head_as_often_as_theory_says() {
    let keys = 100_000;
    let counts = counts(&workload("c", keys));
    // The rank's share among ten billion items; other ranks that fall on the same key are few.
    for rank in 0..3 {
        let share = 1.0 / 26.469_028_201_783_02 / ((rank + 1) as f64).powf(0.99);
        let found = counts[&zipfian::scramble(rank, keys)] as f64 / DRAWS as f64;
        // YCSB's way of drawing is exact for ranks 0 and 1, and close behind them.
        let bound = if rank < 2 { 0.05 } else { 0.25 };
        assert!((found / share - 1.0).abs() < bound, "rank {rank}: {found} not {share}");
    }
}

#[test]
fn uniform_draws_every_key_alike() {
    let counts = counts(&Workload { distribution: Distribution::Uniform, ..workload("c", 100) });
    assert_eq!(counts.len(), 100);
    let even = DRAWS / 100;
    assert!(counts.values().all(|count| count.abs_diff(even) < even / 5), "{counts:?}");
}

#[test]
fn latest_follows_what_was_inserted() {
    let workload = workload("d", 1_000);
    let generators = Generators::new(&workload, 1, 1, 7, 0);
    let mut generator = generators.client(0);
    let (mut newest_read, mut gets) = (0, 0);
    for _ in 0..DRAWS {
        let newest = generators.inserted().keys() - 1;
        let planned = generator.plan();
        match (&planned.operation, planned.insert) {
            (Operation::Put { key, .. }, Some(insert)) => {
                assert_eq!(number_of(key), insert);
                assert_eq!(insert, newest + 1, "the key space grows by one key");
                generators.inserted().answer(insert);
            }
            (Operation::Get { key }, None) => {
                assert!(number_of(key) <= newest);
                newest_read += u64::from(number_of(key) == newest);
                gets += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((10_500..11_500).contains(&generators.inserted().keys()));
    // 1 / zeta is 0.128 for 1,000 keys and 0.097 for 11,000.
    let share = newest_read as f64 / f64::from(gets);
    assert!((0.095..0.13).contains(&share), "{share}");
}

#[test]
fn keys_are_drawn_when_all_inserts_before_them_were_answered() {
    let inserted = Inserted::new(10);
    inserted.answer(11);
    assert_eq!(inserted.keys(), 10);
    inserted.answer(10);
    assert_eq!(inserted.keys(), 12);
}

#[test]
fn sequential_clients_take_turns() {
    let workload = Workload { distribution: Distribution::Sequential, ..workload("c", 10) };
    let generators = Generators::new(&workload, 4, 1, 7, 0);
    let taken = |client| -> Vec<u64> {
        let operations = generators.client(client).take(4);
        operations
            .map(|operation| match operation {
                Operation::Get { key } => number_of(&key),
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(taken(0), [0, 4, 8, 2]);
    assert_eq!(taken(3), [3, 7, 1, 5]);
}

#[test]
fn scans_have_one_to_a_hundred_rows() {
    let mut rows = [0_usize; 101];
    for operation in one_client(&workload("e", 1_000)).take(DRAWS) {
        if let Operation::Scan { limit, .. } = operation {
            rows[limit as usize] += 1;
        }
    }
    assert_eq!(rows[0], 0);
    assert!(rows[1..].iter().all(|count| count.abs_diff(1_900) < 300), "{rows:?}");
}

#[test]
fn the_same_seed_gives_the_same_operations() {
    let workload = workload("a", 1_000);
    let operations = |seed, client| -> Vec<Operation> {
        Generators::new(&workload, 2, 1, seed, 0).client(client).take(1_000).collect()
    };
    assert_eq!(operations(7, 0), operations(7, 0));
    assert_ne!(operations(7, 0), operations(8, 0));
    assert_ne!(operations(7, 0), operations(7, 1));
}

#[test]
fn groups_of_keys_lie_in_one_shard() {
    let workload = workload("put", 1_000);
    let mut generator = Generators::new(&workload, 1, 16, 7, 0).client(0);
    let mut shards = [false; 8];
    for _ in 0..100 {
        let Operation::PutMany { pairs } = generator.plan().operation else { panic!("many") };
        assert!((8..=16).contains(&pairs.len()));
        assert!(pairs.iter().all(|(key, _)| key[..8] == pairs[0].0[..8]));
        let mut numbers: Vec<u64> = pairs.iter().map(|(key, _)| number_of(key)).collect();
        assert_eq!(numbers[0] % 16, 0);
        numbers.dedup();
        assert_eq!(numbers.len(), pairs.len());
        shards[usize::from(pairs[0].0[0] >> 5)] = true;
    }
    assert_eq!(shards, [true; 8]);
}
