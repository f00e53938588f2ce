//! How often comparisons are wrong, over many made-up pairs of documents with the noise of a shared
//! machine: rounds that differ by some per cent, rounds that a neighbour slows by a fifth, tails
//! that differ by more.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::result::{Machine, RunResult, sample};

/// How many pairs are judged for each rate.
const PAIRS: u64 = 200;

fn document(results: Vec<RunResult>) -> Document {
    Document { results, ..sample::document() }
}

fn verdict_of(before: Vec<RunResult>, after: Vec<RunResult>) -> Verdict {
    let (before, after) = (document(before), document(after));
    judge(&matched(&before, &after, false).unwrap(), 0.1)
}

/// In which share of pairs the second is called worse, after `change` made it so. Between the two
/// the machine drifts by up to 4 %.
fn called_worse(rounds: u32, change: impl Fn(&mut RunResult)) -> f64 {
    let mut random = StdRng::seed_from_u64(u64::from(rounds));
    let worse = (0..PAIRS).filter(|pair| {
        let drift = 1.0 + random.random_range(-0.04..0.04);
        let before = sample::rounds(rounds, 1.0, 2 * pair);
        let mut after = sample::rounds(rounds, drift, 2 * pair + 1);
        after.iter_mut().for_each(&change);
        !verdict_of(before, after).is_well()
    });
    worse.count() as f64 / PAIRS as f64
}

/// Four fifths as fast, in all that clients see.
fn slow_clients(result: &mut RunResult) {
    result.per_second_total *= 0.8;
    for operation in result.operations.values_mut() {
        operation.p50_ms /= 0.8;
        operation.p99_ms /= 0.8;
    }
}

#[test]
fn two_runs_of_the_same_are_rarely_called_worse() {
    // Of a single round nobody can tell whether a neighbour slowed it.
    for (rounds, most) in [(1, 0.10), (3, 0.05), (5, 0.03), (9, 0.02)] {
        let share = called_worse(rounds, |_| {});
        println!("{rounds} rounds: {:.1} % false alarms", share * 100.0);
        assert!(share <= most, "{rounds} rounds: {share}");
    }
}

#[test]
fn a_planted_slowdown_of_a_fifth_is_found() {
    let costly = |result: &mut RunResult| {
        slow_clients(result);
        *result.cost.server_cpu_us_per_op.as_mut().unwrap() /= 0.8;
    };
    for (rounds, least) in [(1, 0.95), (3, 0.97), (5, 0.99), (9, 1.0)] {
        let share = called_worse(rounds, costly);
        println!("{rounds} rounds: {:.1} % found", share * 100.0);
        assert!(share >= least, "{rounds} rounds: {share}");
    }
}

#[test]
fn a_planted_slowdown_without_cpu_time_is_found() {
    for (rounds, least) in [(1, 0.6), (3, 0.75), (5, 0.9), (9, 0.97)] {
        let share = called_worse(rounds, slow_clients);
        println!("{rounds} rounds: {:.1} % found by what clients see", share * 100.0);
        assert!(share >= least, "{rounds} rounds: {share}");
    }
    // Throughput alone, as when clients stand still between operations.
    for (rounds, least) in [(1, 0.5), (3, 0.7), (5, 0.85), (9, 0.95)] {
        let share = called_worse(rounds, |result| result.per_second_total *= 0.8);
        println!("{rounds} rounds: {:.1} % found by throughput", share * 100.0);
        assert!(share >= least, "{rounds} rounds: {share}");
    }
}

#[test]
fn better_is_never_called_worse() {
    let share = called_worse(5, |result| result.per_second_total *= 1.25);
    assert!(share <= 0.02, "{share}");
    let verdict = verdict_of(sample::rounds(7, 1.0, 1), sample::rounds(7, 1.5, 2));
    assert_eq!(verdict.rows[0].measure, "throughput");
    assert_eq!(verdict.rows[0].word, Word::Better);
}

#[test]
fn the_text_says_what_got_worse_and_by_how_much() {
    let verdict = verdict_of(sample::rounds(5, 1.0, 3), sample::rounds(5, 0.6, 4));
    let text = verdict.text(140);
    for part in ["WORSE ycsb-a: throughput went from ", "% worse (± ", "WORSE", "5 and 5 rounds"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let verdict = verdict_of(sample::rounds(5, 1.0, 3), sample::rounds(5, 1.0, 3));
    let text = verdict.text(140);
    assert!(text.contains("within noise") && text.contains("nothing is worse"), "{text}");
    let single = verdict_of(sample::rounds(1, 1.0, 3), sample::rounds(1, 1.0, 4)).text(140);
    assert!(single.contains("a single round says nothing about noise"), "{single}");
}

#[test]
fn each_figure_alone_can_get_worse() {
    let worse = |change: fn(&mut RunResult)| -> Vec<String> {
        let mut after = sample::rounds(5, 1.0, 5);
        after.iter_mut().for_each(change);
        let verdict = verdict_of(sample::rounds(5, 1.0, 6), after);
        let rows = verdict.rows.iter().filter(|row| row.word == Word::Worse);
        rows.map(|row| row.measure.clone()).collect()
    };
    assert_eq!(worse(|_| {}), [] as [&str; 0]);
    assert_eq!(worse(|result| result.per_second_total *= 0.7), ["throughput"]);
    assert_eq!(
        worse(|result| *result.cost.server_cpu_us_per_op.as_mut().unwrap() *= 1.3),
        ["server CPU per operation"]
    );
    assert_eq!(
        worse(|result| *result.cost.written_bytes_per_logical_byte.as_mut().unwrap() *= 1.3),
        ["bytes written per byte"]
    );
    assert_eq!(
        worse(|result| result.operations.get_mut("put").unwrap().p50_ms *= 1.4),
        ["put p50"]
    );
    assert_eq!(
        worse(|result| result.operations.get_mut("get").unwrap().p99_ms *= 1.8),
        ["get p99"]
    );
}

#[test]
fn more_failures_are_worse_however_quick_they_are() {
    let mut after = sample::rounds(5, 1.0, 5);
    after[2].errors.insert("BUSY".to_owned(), 20_000);
    let verdict = verdict_of(sample::rounds(5, 1.0, 6), after);
    assert!(!verdict.is_well() && verdict.text(120).contains("% of the operations failed"));
}

#[test]
fn rounds_that_took_turns_may_differ_by_less() {
    let at = |mut results: Vec<RunResult>, minute: usize| {
        for (number, result) in results.iter_mut().enumerate() {
            result.started_at = format!("2026-11-21T12:{:02}:00Z", minute + 2 * number);
        }
        results
    };
    let judge = |first: usize| {
        let before = at(sample::rounds(20, 1.0, 5), 0);
        let after = at(sample::rounds(20, 0.93, 6), first);
        let (before, after) = (document(before), document(after));
        judge(&matched(&before, &after, false).unwrap(), 0.02)
    };
    assert!(judge(40).rows[0].word == Word::Unclear, "{}", judge(40).text(120));
    assert!(judge(1).rows[0].word == Word::Worse, "{}", judge(1).text(120));
}

#[test]
fn what_noise_would_hide_is_not_called_well() {
    let wild = |seed| {
        let mut results = sample::rounds(5, 1.0, seed);
        for (number, result) in results.iter_mut().enumerate() {
            result.per_second_total *= [1.0, 0.4, 2.0, 0.7, 1.5][number];
        }
        results
    };
    let verdict = verdict_of(wild(1), wild(2));
    let text = verdict.text(140);
    assert!(verdict.is_well() && verdict.is_unclear(), "{text}");
    assert!(text.contains("CANNOT TELL ycsb-a: throughput is known to ± "), "{text}");
    assert!(!text.contains("nothing is worse"), "{text}");
    // What is worse is worse, however unclear the rest.
    let mut worse = wild(2);
    worse.iter_mut().for_each(|result| *result.cost.server_cpu_us_per_op.as_mut().unwrap() *= 1.4);
    let verdict = verdict_of(wild(1), worse);
    assert!(!verdict.is_well() && !verdict.is_unclear(), "{}", verdict.text(140));
    assert!(!verdict_of(sample::rounds(7, 1.0, 1), sample::rounds(7, 1.0, 2)).is_unclear());
}

#[test]
fn turns_show_what_a_restless_machine_hides() {
    let pace = [1.0, 0.5, 1.8, 0.7, 1.3, 0.9, 0.6];
    let side = |factor: f64, offset: usize| {
        let mut results = sample::rounds(7, factor, 7 + offset as u64);
        for (number, result) in results.iter_mut().enumerate() {
            result.per_second_total = 40_000.0 * factor * pace[number];
            result.started_at = format!("2026-11-21T12:{:02}:00Z", 2 * number + offset);
        }
        results
    };
    let slower = verdict_of(side(1.0, 0), side(0.8, 1));
    assert_eq!(slower.rows[0].word, Word::Worse, "{}", slower.text(140));
    let same = verdict_of(side(1.0, 0), side(1.0, 1));
    assert_eq!(same.rows[0].word, Word::WithinNoise, "{}", same.text(140));
}

#[tokio::test]
async fn files_are_compared_and_nonsense_has_its_own_exit_code() {
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: CompareArgs,
    }
    let directory = tempfile::tempdir().unwrap();
    let store = |name: &str, results: Vec<RunResult>| {
        document(results).write(&directory.path().join(name)).unwrap()
    };
    let mut elsewhere = sample::rounds(5, 1.0, 3);
    elsewhere.iter_mut().for_each(|result| result.machine = Machine::default());
    let (same, slow) =
        (store("same", sample::rounds(5, 1.0, 2)), store("slow", sample::rounds(5, 0.6, 4)));
    let (before, elsewhere) =
        (store("before", sample::rounds(5, 1.0, 1)), store("else", elsewhere));
    let missing = directory.path().join("missing");
    for (after, more, code) in [
        (&same, None, 0),
        (&slow, None, 1),
        (&slow, Some("--max-regress=90%"), 0),
        (&elsewhere, None, 2),
        (&elsewhere, Some("--force"), 0),
        (&missing, None, 2),
    ] {
        let arguments = ["compare".into(), before.clone(), after.clone()];
        let cli =
            Cli::try_parse_from(arguments.into_iter().chain(more.map(PathBuf::from))).unwrap();
        let ended = run(&cli.args).await.unwrap();
        assert_eq!(
            format!("{ended:?}"),
            format!("{:?}", ExitCode::from(code)),
            "{after:?} {more:?}"
        );
    }
    for arguments in [&["compare", "a"][..], &["compare"], &["compare", "--binary-a", "x"]] {
        assert!(Cli::try_parse_from(arguments).is_err(), "{arguments:?}");
    }
    assert!(
        Cli::try_parse_from(["compare", "--binary-a", "x", "--binary-b", "y", "--", "--seed", "2"])
            .is_ok()
    );
    assert!(percent("x").is_err() && percent("5").unwrap() == 0.05);
}
