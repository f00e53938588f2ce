//! The judge of histories is judged: against trying every order, against planted violations, and
//! by its limits.

mod brute;
mod command;
mod simulated;

use std::time::{Duration, Instant};

use flotilla_bench::check::verdict;
use flotilla_bench::history::Line;
use flotilla_bench::linearizable::plant::{Planted, plant};
use flotilla_bench::linearizable::search::search;
use flotilla_bench::linearizable::{Found, Judgement, Limits, Options, judge};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use simulated::Load;

/// How long judging a real history of 100,000 operations may take in an unoptimized test on a busy
/// machine; it takes a fraction of a second.
const JUDGING_MAX: Duration = Duration::from_secs(10);

fn judged(lines: &[(usize, Line)]) -> Judgement {
    judge(lines, Options::default()).unwrap()
}

/// A few operations with answers that may or may not fit together.
fn random_small(rng: &mut SmallRng, kinds: &[&str]) -> Vec<Line> {
    let values = ["1", "2", "3"];
    let count = rng.random_range(2..=7);
    let mut lines: Vec<Line> = Vec::new();
    for c in 0..count {
        let f = (*kinds.choose(rng).unwrap()).to_owned();
        let value = |rng: &mut SmallRng| Value::from(*values.choose(rng).unwrap());
        let or_nothing = |rng: &mut SmallRng| match rng.random_ratio(1, 4) {
            true => Value::Null,
            false => value(rng),
        };
        let (v, old, r) = match f.as_str() {
            "get" => (None, None, Some(or_nothing(rng))),
            "put" => (Some(value(rng)), None, None),
            "del" => (None, None, rng.random_bool(0.5).then(|| Value::Bool(rng.random()))),
            "cas" => (Some(value(rng)), Some(or_nothing(rng)), Some(Value::Bool(rng.random()))),
            "rmw" => (Some(value(rng)), None, Some(or_nothing(rng))),
            _ => (Some(Value::from(1)), None, Some(Value::from(rng.random_range(1..=3)))),
        };
        let call = rng.random_range(0..12);
        let ret = call + rng.random_range(0..8);
        // Reads without an answer are not in a history.
        let unk = u8::from(f != "get" && rng.random_ratio(1, 6));
        let k = "k".to_owned();
        lines.push(Line { f, k, v, old, r, c, call, ret, unk });
    }
    lines
}

#[test]
fn it_agrees_with_trying_every_order() {
    let kinds: [&[&str]; 5] = [
        &["get", "put"],
        &["get", "put", "del"],
        &["get", "get", "put", "del", "cas", "rmw"],
        &["get", "put", "incr", "incr", "del"],
        &["get", "cas", "rmw"],
    ];
    for (seed, kinds) in (1..).zip(kinds) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut verdicts = [0; 2];
        for number in 0..6_000 {
            let lines = random_small(&mut rng, kinds);
            let want = brute::is_linearizable(&lines);
            let numbered: Vec<(usize, Line)> = (1..).zip(lines.iter().cloned()).collect();
            let judgement = judged(&numbered);
            assert_eq!(
                judgement.is_linearizable(),
                want,
                "history {number} of seed {seed}: {lines:#?}"
            );
            verdicts[usize::from(want)] += 1;
            if let Some(violation) = judgement.violations.first() {
                let contradiction = violation.contradiction.as_ref().unwrap();
                let found = search(&contradiction.history, Limits::default());
                assert_eq!(found, Found::Unexplained, "the contradiction is one: {lines:#?}");
            }
        }
        println!("{kinds:?}: {} not linearizable, {} linearizable", verdicts[0], verdicts[1]);
        assert!(verdicts.iter().all(|count| *count > 400), "one-sided: {verdicts:?}");
    }
}

#[test]
fn right_histories_pass_whatever_their_operations() {
    for seed in 1..=20 {
        let mix = match seed % 4 {
            0 => [50, 50, 0, 0, 0],
            1 => [40, 30, 30, 0, 0],
            2 => [40, 10, 0, 50, 0],
            _ => [30, 20, 10, 20, 20],
        };
        let load = Load {
            seed,
            clients: 8,
            keys: 5,
            operations: 4_000,
            mix,
            unknown_every: 60,
            ..Load::usual()
        };
        let judgement = judged(&simulated::history(load));
        assert!(judgement.unknown > 20, "{judgement:?}");
        assert!(judgement.is_linearizable(), "seed {seed}: {}", told(&judgement));
        let judgement = judged(&simulated::counters(seed, 8, 4_000));
        assert!(judgement.is_linearizable(), "seed {seed}: {}", told(&judgement));
    }
}

fn told(judgement: &Judgement) -> String {
    verdict(judgement, Duration::ZERO)
}

#[test]
fn a_hundred_thousand_operations_are_judged_fast_and_each_planted_violation_is_found() {
    let lines = simulated::history(Load::usual());
    let begun = Instant::now();
    let judgement = judged(&lines);
    let took = begun.elapsed();
    assert!(judgement.is_linearizable(), "{}", told(&judgement));
    assert_eq!((judgement.keys, judgement.clients), (1_000, 50));
    assert!(judgement.operations > 99_000 && judgement.unknown > 20, "{judgement:?}");
    assert!(took < JUDGING_MAX, "{took:?}");

    for planted in [Planted::StaleRead, Planted::LostUpdate, Planted::DoubleApply] {
        let mut lines = lines.clone();
        let number = plant(&mut lines, planted).unwrap();
        let judgement = judged(&lines);
        let told = told(&judgement);
        println!("{planted:?} at line {number}\n{told}");
        assert_eq!((judgement.violations.len(), judgement.gave_up.len()), (1, 0));
        let contradiction = judgement.violations[0].contradiction.as_ref().unwrap();
        let few = contradiction.history.calls.len();
        assert!(few <= 4, "{few} operations are not few: {told}");
        assert!(told.contains(" ◀ cannot be explained") && told.contains("FAIL"), "{told}");
    }
}

#[test]
fn counters_that_count_twice_are_found() {
    let mut lines = simulated::counters(3, 16, 20_000);
    assert!(judged(&lines).is_linearizable());
    plant(&mut lines, Planted::DoubleApply).unwrap();
    let judgement = judged(&lines);
    assert_eq!(judgement.violations.len(), 1, "{}", told(&judgement));
    println!("{}", told(&judgement));
}

/// Two thousand clients on one key: it ends in a way that nothing explains, after removals and swaps
/// that can have happened in any order.
fn too_concurrent() -> Vec<(usize, Line)> {
    let mix = [20, 20, 40, 20, 0];
    let hot = Load { clients: 2_000, keys: 1, operations: 20_000, mix, ..Load::usual() };
    let mut lines = simulated::history(hot);
    let end = lines.iter().map(|(_, line)| line.ret).max().unwrap();
    let last = [
        r#"{"f":"cas","k":"key0","old":null,"v":"x","r":false,"c":1,"call":0,"ret":0,"unk":0}"#,
        r#"{"f":"get","k":"key0","r":null,"c":1,"call":0,"ret":0,"unk":0}"#,
    ];
    for (offset, text) in (1..).zip(last) {
        let mut line = Line::parse(text).unwrap();
        (line.call, line.ret) = (end + 10 * offset, end + 10 * offset + 1);
        lines.push((lines.len() + 1, line));
    }
    lines
}

#[test]
fn one_key_with_thousands_at_once_is_judged_within_its_bound_or_not_at_all() {
    // Values of their own: no trial is needed.
    let mix = [50, 50, 0, 0, 0];
    let hot = Load { clients: 2_000, keys: 1, operations: 20_000, mix, ..Load::usual() };
    let begun = Instant::now();
    assert!(judged(&simulated::history(hot)).is_linearizable());
    println!("gets and puts of 2,000 clients on one key: {:?}", begun.elapsed());

    let limits = Limits { memory_bytes: 1 << 20, steps: 200_000_000 };
    let options = Options { limits, ..Options::default() };
    let judgement = judge(&too_concurrent(), options).unwrap();
    assert!(!judgement.is_linearizable(), "never taken for good");
    assert_eq!((judgement.violations.len(), judgement.gave_up.len()), (0, 1));
    assert!(told(&judgement).contains("too concurrent"), "{}", told(&judgement));
}
