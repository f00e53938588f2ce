//! Made-up documents for tests.

use super::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// To digits that JSON keeps exactly.
fn round_to_digits(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// One result, with something in every field.
pub fn result() -> RunResult {
    let operation = |per_second: f64, p50_ms: f64| OperationResult {
        operations: (per_second * 10.0) as u64,
        per_second,
        p50_ms,
        p90_ms: round_to_digits(p50_ms * 1.8),
        p99_ms: round_to_digits(p50_ms * 4.0),
        p999_ms: round_to_digits(p50_ms * 9.0),
        max_ms: round_to_digits(p50_ms * 20.0),
        mean_ms: round_to_digits(p50_ms * 1.2),
    };
    let curve = |p50_ms: f64| {
        let points = (0..=80).map(|step| {
            let nines = f64::from(step) / 20.0;
            (
                round_to_digits(1.0 - 10_f64.powf(-nines)),
                round_to_digits(p50_ms * (0.6 + 0.45 * nines.powf(1.7))),
            )
        });
        points.chain([(1.0, round_to_digits(p50_ms * 20.0))]).collect::<Vec<_>>()
    };
    let second = |at: u64| Second {
        operations: if at == 5 { 90 } else { 40_000 + at * 137 % 900 },
        errors: if at == 5 { 12 } else { 0 },
        unknown: if at == 5 { 3 } else { 0 },
        p99_ms: if at == 5 { 400.0 } else { 8.0 + (at % 3) as f64 },
    };
    RunResult {
        schema: SCHEMA,
        name: "ycsb-a".to_owned(),
        round: 1,
        started_at: "2026-11-21T12:00:00Z".to_owned(),
        revision: "0123abc".to_owned(),
        machine: Machine {
            cpu: "Example CPU <5>".to_owned(),
            cores: 2,
            memory_bytes: 24 << 30,
            kernel: "Linux 6.1.0".to_owned(),
            file_system: "ext4".to_owned(),
            virtualized: true,
            disk: Some(DiskProbe { samples: 512, p50_ms: 0.085, p99_ms: 0.147 }),
        },
        target: Description {
            name: "flotilla".to_owned(),
            version: "0.1.0".to_owned(),
            replication: "3 processes, majority".to_owned(),
            durability: "fdatasync before each acknowledgement".to_owned(),
            reads: "linearizable by lease".to_owned(),
        },
        settings: RunSettings {
            workload: "ycsb-a (50 % get, 50 % put)".to_owned(),
            clients: 64,
            pipeline: 4,
            batch: 1,
            rate: None,
            arrivals: String::new(),
            duration_s: 10.0,
            warmup_s: 2.0,
            keys: 100_000,
            value_bytes: 1_024,
            distribution: "zipfian 0.99".to_owned(),
            seed: 1,
            shards: Some(8),
        },
        elapsed_s: 10.0,
        operations: BTreeMap::from([
            ("get".to_owned(), operation(20_500.0, 1.6)),
            ("put".to_owned(), operation(20_400.0, 3.1)),
        ]),
        per_second_total: 40_900.0,
        errors: BTreeMap::from([("BUSY".to_owned(), 12)]),
        unknown: BTreeMap::from([("connection lost".to_owned(), 3)]),
        misses: 0,
        scanned_rows: 0,
        series: (0..10).map(second).collect(),
        events: vec![Event { at_s: 5.2, label: "leader killed".to_owned() }],
        cost: Cost {
            server_cpu_us_per_op: Some(17.9),
            client_cpu_us_per_op: Some(6.2),
            total_cpu_us_per_op: Some(24.1),
            written_bytes_per_logical_byte: Some(7.4),
            resident_bytes_max: Some(412 << 20),
        },
        percentiles: BTreeMap::from([
            ("get".to_owned(), curve(1.6)),
            ("put".to_owned(), curve(3.1)),
        ]),
        figures: vec![Figure {
            label: "longest write gap".to_owned(),
            value: 431.0,
            unit: "ms".to_owned(),
        }],
        notes: vec!["Servers and load share two cores.".to_owned()],
    }
}

/// A document of one result.
pub fn document() -> Document {
    Document {
        schema: SCHEMA,
        kind: Kind::Run,
        command: "flotilla-bench run --workload a".to_owned(),
        results: vec![result()],
        skipped: vec![Skipped {
            name: "nats".to_owned(),
            reason: "install the Debian package nats-server".to_owned(),
        }],
    }
}

/// `rounds` of one measurement on a machine that others use too, `factor` times as fast as
/// [`result`]: rounds differ by some per cent, seconds by more, CPU time by less.
pub fn rounds(rounds: u32, factor: f64, seed: u64) -> Vec<RunResult> {
    let mut random = StdRng::seed_from_u64(seed);
    // About normal: the sum of four evenly spread numbers, scaled to a deviation of 1.
    let mut normal = move || {
        let sum: f64 = (0..4).map(|_| random.random_range(-1.0..1.0)).sum();
        sum / (4.0_f64 / 3.0).sqrt()
    };
    let round = |number| {
        let mut result = RunResult { round: number, errors: BTreeMap::new(), ..result() };
        result.unknown.clear();
        result.events.clear();
        // Now and then a neighbour takes much of the machine for a whole round.
        let disturbed = if normal() > 1.6 { 0.8 } else { 1.0 };
        let speed = factor * disturbed * (1.0 + 0.05 * normal());
        result.per_second_total = round_to_digits(40_000.0 * speed);
        for operation in result.operations.values_mut() {
            operation.per_second = round_to_digits(20_000.0 * speed);
            operation.operations = (200_000.0 * speed) as u64;
            let slower = |normal: f64, deviation: f64| (1.0 + deviation * normal) / speed;
            operation.p50_ms = round_to_digits(operation.p50_ms * slower(normal(), 0.03));
            operation.p99_ms = round_to_digits(operation.p99_ms * slower(normal(), 0.08));
        }
        let cpu = (1.0 + 0.02 * normal()) / factor;
        result.cost.server_cpu_us_per_op = Some(round_to_digits(17.9 * cpu));
        result.cost.written_bytes_per_logical_byte =
            Some(round_to_digits(7.4 * (1.0 + 0.01 * normal())));
        for second in &mut result.series {
            let operations = 40_000.0 * speed * (1.0 + 0.06 * normal());
            *second = Second { operations: operations as u64, p99_ms: 8.0, ..Second::default() };
        }
        result
    };
    (1..=rounds).map(round).collect()
}

/// Rising rates until the store no longer keeps up.
pub fn sweep() -> Vec<RunResult> {
    let rates = [5_000.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0, 45_000.0, 50_000.0];
    let at = |rate: f64| {
        let load: f64 = rate / 47_000.0;
        let kept = rate.min(46_200.0 - (rate - 46_200.0).max(0.0) * 0.2);
        let factor = if load < 0.98 { 0.5 / (1.0 - load).powf(0.7) } else { 40.0 };
        let mut result = result();
        result.name = format!("ycsb-a at {rate}/s");
        result.settings.rate = Some(rate);
        result.settings.arrivals = "poisson".to_owned();
        result.per_second_total = kept;
        for operation in result.operations.values_mut() {
            operation.p50_ms = round_to_digits(operation.p50_ms * factor);
            operation.p99_ms = round_to_digits(operation.p99_ms * factor * 1.3);
            operation.p999_ms = round_to_digits(operation.p999_ms * factor * 1.6);
        }
        for curve in result.percentiles.values_mut() {
            curve.iter_mut().for_each(|(_, ms)| *ms = round_to_digits(*ms * factor));
        }
        result
    };
    rates.into_iter().map(at).collect()
}

/// Shards and clients from few to many.
pub fn scale() -> Vec<RunResult> {
    let one = |shards: u32, clients: u32, per_second: f64, cpu: f64| {
        let mut result = result();
        result.name = format!("{shards} shards, {clients} clients");
        (result.settings.shards, result.settings.clients) = (Some(shards), clients);
        result.per_second_total = round_to_digits(per_second);
        result.cost.server_cpu_us_per_op = Some(round_to_digits(cpu));
        result
    };
    let shards = [1, 4, 16, 64, 256, 1_024].into_iter().map(|shards| {
        let doublings = f64::from(shards).log2();
        one(shards, 256, 52_000.0 - 700.0 * doublings, 15.0 + 0.4 * doublings)
    });
    let clients = [1, 4, 16, 64, 1_024].into_iter().map(|clients| {
        let count = f64::from(clients);
        one(16, clients, 52_000.0 * count / (count + 24.0), 15.0 + 400.0 / (count + 1.0))
    });
    shards.chain(clients).collect()
}

/// Several stores, in two workloads.
pub fn peers() -> Vec<RunResult> {
    let stores = [
        (
            "flotilla",
            "0.1.0",
            "3 processes, majority",
            "fdatasync before each acknowledgement",
            41_000.0,
            17.9,
        ),
        (
            "etcd",
            "3.4.23",
            "3 processes, majority",
            "fdatasync before each acknowledgement",
            3_900.0,
            215.0,
        ),
        ("redis", "7.0.15", "1 process, no copy", "appendfsync always", 27_000.0, 12.4),
        (
            "nats",
            "2.9.10",
            "3 processes, majority",
            "no sync before acknowledgements (every 2 minutes)",
            9_000.0,
            82.0,
        ),
        (
            "redb",
            "4.4",
            "in process, no copy",
            "fdatasync at each commit, 256 writers grouped",
            60_000.0,
            9.0,
        ),
    ];
    let mut results = Vec::new();
    for (workload, factor) in [("put", 1.0), ("get", 2.3)] {
        for (name, version, replication, durability, per_second, cpu) in stores {
            let mut result = result();
            result.name = format!("{name} {workload}");
            result.settings.workload = format!("{workload} (100 % {workload})");
            result.target = Description {
                name: name.to_owned(),
                version: version.to_owned(),
                replication: replication.to_owned(),
                durability: durability.to_owned(),
                reads: "linearizable".to_owned(),
            };
            result.operations.retain(|kind, _| kind == workload);
            result.percentiles.retain(|kind, _| kind == workload);
            let slower = 41_000.0 / per_second;
            for curve in result.percentiles.values_mut() {
                curve.iter_mut().for_each(|(_, ms)| *ms = round_to_digits(*ms * slower));
            }
            result.per_second_total = per_second * factor;
            let in_process = name == "redb";
            result.cost.server_cpu_us_per_op = (!in_process).then_some(cpu / factor);
            result.cost.total_cpu_us_per_op = Some(round_to_digits(cpu / factor + 6.0));
            for second in &mut result.series {
                let share = second.operations as f64 / 40_000.0;
                second.operations = (share * per_second * factor) as u64;
            }
            results.push(result);
        }
    }
    results
}
