//! Made-up documents for tests.

use super::*;

/// To digits that JSON keeps exactly.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// One result, with something in every field.
pub fn result() -> RunResult {
    let operation = |per_second: f64, p50_ms: f64| OperationResult {
        operations: (per_second * 10.0) as u64,
        per_second,
        p50_ms,
        p90_ms: round(p50_ms * 1.8),
        p99_ms: round(p50_ms * 4.0),
        p999_ms: round(p50_ms * 9.0),
        max_ms: round(p50_ms * 20.0),
        mean_ms: round(p50_ms * 1.2),
    };
    let curve = |p50_ms: f64| {
        let points = (0..=80).map(|step| {
            let nines = f64::from(step) / 20.0;
            (round(1.0 - 10_f64.powf(-nines)), round(p50_ms * (0.6 + 0.45 * nines.powf(1.7))))
        });
        points.chain([(1.0, round(p50_ms * 20.0))]).collect::<Vec<_>>()
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
