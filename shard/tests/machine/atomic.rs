//! Several steps at once: guards, order, failures that stay alone, and readers that see all or
//! nothing.

use crate::support::*;
use flotilla_shard::*;

fn atomic(guards: &[(&str, u64)], steps: Vec<Step>) -> Write {
    let guard = |(key, version): &(&str, u64)| Guard { key: bytes(key), version: *version };
    Write::Atomic { guards: guards.iter().map(guard).collect(), steps }
}

fn step(write: Write) -> Step {
    Step::Write(write)
}

fn get(key: &str) -> Step {
    Step::Get { key: bytes(key) }
}

fn add(key: &str) -> Step {
    step(Write::Add { key: bytes(key), delta: 1 })
}

fn outcomes(outcome: WriteOutcome) -> Vec<StepOutcome> {
    match outcome {
        WriteOutcome::Atomic { outcomes: Some(outcomes), .. } => outcomes,
        other => panic!("ended in {other:?}"),
    }
}

fn is_refused(outcome: &WriteOutcome) -> bool {
    matches!(outcome, WriteOutcome::Atomic { outcomes: None, .. })
}

#[test]
fn steps_see_those_before_them_and_share_one_version() {
    for checkpointed in [false, true] {
        let mut fixture = Fixture::new();
        fixture.set("n", "5", Expiry::After(1000));
        if checkpointed {
            fixture.checkpoint();
        }
        let version = fixture.machine.shard().version() + 1;
        let steps = vec![
            add("n"),
            get("n"),
            step(Write::Take { key: bytes("n") }),
            get("n"),
            add("n"),
            step(put("a", "x", Expiry::After(9))),
            step(Write::Append { key: bytes("a"), value: bytes("y") }),
            step(Write::Rename { from: bytes("a"), to: bytes("b"), only_if_absent: true }),
            step(Write::Delete { keys: vec![bytes("a"), bytes("b"), bytes("b")] }),
            step(Write::SetRange { key: bytes("z"), offset: 1, value: bytes("z") }),
        ];
        let six = Entry { value: bytes("6"), version, expires_at_ms: Some(fixture.now_ms + 1000) };
        let write = atomic(&[], steps);
        let outcome = fixture.write(write.clone());
        assert!(write.is_answered_by(&outcome));
        let expected = vec![
            StepOutcome::Written(WriteOutcome::Number(6)),
            StepOutcome::Value(Some(six.clone())),
            StepOutcome::Written(WriteOutcome::Taken(Some(six))),
            StepOutcome::Value(None),
            StepOutcome::Written(WriteOutcome::Number(1)),
            StepOutcome::Written(WriteOutcome::Put { version, written: true, previous: None }),
            StepOutcome::Written(WriteOutcome::Length(2)),
            StepOutcome::Written(WriteOutcome::Renamed { version, renamed: true }),
            StepOutcome::Written(WriteOutcome::Deleted { version, count: 1 }),
            StepOutcome::Written(WriteOutcome::Length(2)),
        ];
        assert_eq!(outcome, WriteOutcome::Atomic { version, outcomes: Some(expected) });
        assert_eq!(fixture.machine.shard().version(), version, "one for all");
        let rows: Vec<_> =
            fixture.rows().into_iter().map(|(key, entry)| (key, entry.value)).collect();
        assert_eq!(rows, [(bytes("n"), bytes("1")), (bytes("z"), bytes("\0z"))]);
        assert_eq!(fixture.ttl_ms("n"), None, "taken, then begun anew");
    }
}

#[test]
fn a_step_that_fails_fails_alone() {
    let mut fixture = Fixture::new();
    fixture.set("t", "text", Expiry::Never);
    let done = outcomes(fixture.write(atomic(&[], vec![add("n"), add("t"), add("n")])));
    let failed = WriteOutcome::Failed(CommandFailure::NotAnInteger);
    assert_eq!(done[1], StepOutcome::Written(failed));
    assert_eq!(fixture.text("n").as_deref(), Some("2"));
    assert_eq!(fixture.text("t").as_deref(), Some("text"));
}

#[test]
fn a_guard_holds_while_its_key_is_as_it_was() {
    let mut fixture = Fixture::new();
    fixture.set("k", "1", Expiry::Never);
    let version = fixture.get("k").unwrap().version;
    let watched = |version| atomic(&[("k", version), ("none", 0)], vec![add("n")]);
    assert_eq!(outcomes(fixture.write(watched(version))).len(), 1);
    fixture.set("k", "1", Expiry::Never);
    let before = fixture.machine.shard().version();
    let outcome = fixture.write(watched(version));
    assert!(is_refused(&outcome), "written again, if only with the same value");
    assert_eq!(fixture.machine.shard().version(), before, "nothing was done");
    let version = fixture.get("k").unwrap().version;
    fixture.set("none", "1", Expiry::Never);
    assert!(is_refused(&fixture.write(watched(version))), "it exists now");
    fixture.write(Write::Delete { keys: vec![bytes("k"), bytes("none")] });
    assert!(is_refused(&fixture.write(watched(version))), "it is gone");
    assert_eq!(fixture.text("n").as_deref(), Some("1"));
}

#[test]
fn a_key_that_expired_has_changed_if_it_was_there() {
    let mut fixture = Fixture::new();
    fixture.set("k", "1", Expiry::After(100));
    let version = fixture.get("k").unwrap().version;
    fixture.now_ms += 100;
    assert!(is_refused(&fixture.write(atomic(&[("k", version)], vec![add("n")]))));
    assert!(!is_refused(&fixture.write(atomic(&[("k", 0)], vec![add("n")]))), "it was gone");
    fixture.set("k", "1", Expiry::Never);
    let version = fixture.get("k").unwrap().version;
    fixture.write(expire("k", Expiry::After(9), ExpireCondition::Always));
    assert!(is_refused(&fixture.write(atomic(&[("k", version)], vec![]))), "a new expiry");
}

#[test]
fn only_reading_takes_no_version() {
    let mut fixture = Fixture::new();
    fixture.set("k", "1", Expiry::Never);
    let version = fixture.machine.shard().version();
    let outcome = fixture.write(atomic(&[], vec![get("k"), get("none")]));
    assert_eq!(outcomes(outcome).len(), 2);
    assert_eq!(fixture.machine.shard().version(), version);
}

#[test]
fn an_atomic_write_is_repeated_once_with_all_its_answers() {
    let mut fixture = Fixture::new();
    let write = || atomic(&[("n", 0)], vec![add("n"), get("n")]);
    let first = fixture.write_as(origin(5, 1, 1), write());
    assert_eq!(fixture.write_as(origin(5, 1, 1), write()), first, "although n exists now");
    assert_eq!(fixture.text("n").as_deref(), Some("1"));
}

#[test]
fn a_batch_may_demand_that_nothing_is_there() {
    let mut fixture = Fixture::new();
    let batch = |keys: [&str; 2]| Write::Batch {
        changes: keys.map(|key| BatchChange::Put { key: bytes(key), value: bytes(key) }).to_vec(),
        if_all_absent: true,
    };
    let written = |outcome| matches!(outcome, WriteOutcome::Batch { written: true, .. });
    assert!(written(fixture.write(batch(["a", "b"]))));
    fixture.checkpoint();
    assert!(!written(fixture.write(batch(["c", "b"]))));
    assert_eq!(fixture.get("c"), None, "all or none");
    assert!(written(fixture.write(batch(["c", "d"]))));
    assert_eq!(fixture.rows().len(), 4);
}

/// A view pins one version: whatever a command writes is in it together.
#[test]
fn readers_never_see_half_a_command() {
    let mut fixture = Fixture::new();
    let both = |value: &str| {
        atomic(
            &[],
            vec![
                step(put("a", value, Expiry::Never)),
                step(Write::Copy { from: bytes("a"), to: bytes("b"), replace: true }),
            ],
        )
    };
    fixture.write(both("0"));
    let reader = fixture.machine.shard().reader();
    let (started, start) = std::sync::mpsc::channel();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopping = stop.clone();
    let reading = std::thread::spawn(move || {
        let mut pages = 0u64;
        while pages < 2 || !stopping.load(std::sync::atomic::Ordering::Relaxed) {
            let page = reader.view().page(&KeyRange::whole(), Default::default()).unwrap();
            assert_eq!(page.rows[0].1, page.rows[1].1, "both of one command");
            pages += 1;
            if pages == 1 {
                started.send(()).unwrap();
            }
        }
    });
    start.recv().unwrap();
    for value in 1..3000 {
        fixture.write(both(&value.to_string()));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    reading.join().unwrap();
}

/// A small command must not make a replica copy, store or answer without end.
#[test]
fn what_the_steps_produce_is_bounded() {
    let mut fixture = Fixture::new();
    let big = "x".repeat(VALUE_BYTES_MAX as usize - 1000);
    fixture.set("big", &big, Expiry::Never);
    let version = fixture.machine.shard().version();
    let append = || step(Write::Append { key: bytes("big"), value: bytes("y") });
    let copy = |n: usize| {
        let (from, to) = (bytes("big"), bytes(&format!("copy:{n}")));
        step(Write::Copy { from, to, replace: true })
    };
    for write in [
        atomic(&[], (0..100).map(|_| get("big")).collect()),
        atomic(&[], (0..100).map(|_| append()).collect()),
        atomic(&[], (0..100).map(copy).collect()),
    ] {
        let outcome = fixture.write(write);
        assert_eq!(outcome, WriteOutcome::Failed(CommandFailure::TooLarge));
        assert_eq!(fixture.machine.shard().version(), version, "nothing was done");
    }
    let few = atomic(&[], (0..20).map(|_| append()).chain([get("big")]).collect());
    assert_eq!(outcomes(fixture.write(few)).len(), 21);
    assert_eq!(fixture.get("big").unwrap().value.len(), big.len() + 20);
}
