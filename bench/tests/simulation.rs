//! A few simulated lives, short enough for every run of the tests. `flotilla-bench sim` lives more of
//! them, and longer ones.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_bench::sim::{Options, Report, Trace, live};

fn lived(seed: u64, seconds: u64) -> Report {
    live(Options::of(seed, Some(Duration::from_secs(seconds))), Trace::new(None))
}

#[test]
fn lives_of_any_kind_break_no_rule() {
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 1..=16 {
        let report = lived(seed, 40);
        assert_eq!(report.violation, None, "flotilla-bench sim --seed {seed} --life 40");
        report.faults.iter().for_each(|(kind, count)| *faults.entry(kind).or_default() += count);
        report.counts.iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
    }
    // A quiet life proves nothing.
    for kind in ["power_loss_in_io", "kill_in_effects", "isolation", "stall", "failed_sync"] {
        assert!(faults.contains_key(kind), "no {kind} among {faults:?}");
    }
    for what in ["operations done", "snapshots installed", "checkpoint steps", "torn tails cut"] {
        assert!(counts.contains_key(what), "no {what} among {counts:?}");
    }
    assert!(counts["operations done"] > 10_000, "{counts:?}");
}

#[test]
fn a_seed_lives_the_same_life_each_time() {
    let (first, second) = (lived(7, 30), lived(7, 30));
    assert_eq!(first.to_string(), second.to_string());
    assert_ne!(first.hash, lived(8, 30).hash);
}
