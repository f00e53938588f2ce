//! What expires, when, and for whom.

use crate::support::*;
use flotilla_shard::command::{Change, Command};
use flotilla_shard::machine::{Applied, Fetched};
use flotilla_shard::*;

fn changed(outcome: &WriteOutcome) -> bool {
    match outcome {
        WriteOutcome::Expired { changed, .. } => *changed,
        other => panic!("an expiry ended in {other:?}"),
    }
}

#[test]
fn a_row_is_absent_for_commands_stamped_at_its_expiry_or_later() {
    for checkpointed in [false, true] {
        let mut fixture = Fixture::new();
        fixture.set("k", "5", Expiry::After(100));
        if checkpointed {
            fixture.checkpoint();
        }
        fixture.now_ms += 99;
        assert_eq!(fixture.text("k").as_deref(), Some("5"));
        let add = Write::Add { key: bytes("k"), delta: 1 };
        assert_eq!(fixture.write(add.clone()), WriteOutcome::Number(6), "one before");
        assert_eq!(fixture.ttl_ms("k"), Some(1), "an increment keeps the expiry");
        fixture.now_ms += 1;
        assert_eq!(fixture.get("k"), None);
        assert_eq!(fixture.write(add), WriteOutcome::Number(1), "from nothing");
        assert_eq!(fixture.ttl_ms("k"), None, "a new key, without the old expiry");
    }
}

/// Each kind of write that looks at what is there must see nothing there.
#[test]
fn every_write_takes_an_expired_row_for_absent() {
    let key = || bytes("k");
    let value = || bytes("v");
    let conditional = |condition| Write::Put {
        key: key(),
        value: value(),
        condition,
        return_previous: true,
        expiry: Expiry::Keep,
    };
    let swap =
        |expect, new| Write::CompareAndSwap { key: key(), expect, new, expiry: Expiry::Keep };
    let absent_batch = Write::Batch {
        changes: vec![BatchChange::Put { key: key(), value: value() }],
        if_all_absent: true,
    };
    let cases = [
        conditional(Condition::Always),
        conditional(Condition::IfAbsent),
        conditional(Condition::IfPresent),
        Write::Delete { keys: vec![key()] },
        swap(Expect::Absent, Some(value())),
        swap(Expect::Value(bytes("5")), Some(value())),
        swap(Expect::Version(1), None),
        Write::AddFloat { key: key(), delta: bytes("1.5") },
        Write::Append { key: key(), value: value() },
        Write::SetRange { key: key(), offset: 1, value: value() },
        expire("k", Expiry::After(9), ExpireCondition::Always),
        Write::Take { key: key() },
        Write::Rename { from: key(), to: bytes("to"), only_if_absent: false },
        Write::Copy { from: key(), to: bytes("to"), replace: true },
        absent_batch,
        Write::Atomic { guards: vec![], steps: vec![Step::Get { key: key() }] },
        Write::Atomic { guards: vec![Guard { key: key(), version: 0 }], steps: vec![] },
        Write::Atomic { guards: vec![Guard { key: key(), version: 1 }], steps: vec![] },
        Write::Reap { keys: vec![key()] },
    ];
    for write in cases {
        for checkpointed in [false, true] {
            // The same number of commands on both sides: versions are part of what is compared.
            let mut expired = Fixture::new();
            expired.set("k", "5", Expiry::After(100));
            let mut absent = Fixture::new();
            absent.set("other", "5", Expiry::After(100));
            for fixture in [&mut expired, &mut absent] {
                if checkpointed {
                    fixture.checkpoint();
                }
                fixture.now_ms += 100;
            }
            let outcome = expired.write(write.clone());
            assert_eq!(outcome, absent.write(write.clone()), "{write:?}");
            assert_eq!(expired.rows(), absent.rows(), "{write:?}");
            let versions = (expired.machine.shard().version(), absent.machine.shard().version());
            assert_eq!(versions.0, versions.1, "{write:?}");
        }
    }
}

#[test]
fn set_clears_or_keeps_and_the_past_deletes() {
    let mut fixture = Fixture::new();
    fixture.set("k", "1", Expiry::After(1000));
    fixture.now_ms += 10;
    fixture.set("k", "2", Expiry::Keep);
    assert_eq!((fixture.text("k").as_deref(), fixture.ttl_ms("k")), (Some("2"), Some(990)));
    fixture.set("k", "3", Expiry::Never);
    assert_eq!(fixture.ttl_ms("k"), None);
    fixture.set("k", "4", Expiry::Keep);
    assert_eq!(fixture.ttl_ms("k"), None, "there was none to keep");
    fixture.set("k", "5", Expiry::At(fixture.now_ms + 7));
    assert_eq!(fixture.ttl_ms("k"), Some(7));
    for past in [Expiry::At(0), Expiry::At(fixture.now_ms), Expiry::After(0)] {
        fixture.set("k", "6", Expiry::Never);
        fixture.set("k", "7", past);
        assert_eq!(fixture.get("k"), None, "{past:?}");
    }
    fixture.set("k", "8", Expiry::After(u64::MAX));
    assert_eq!(fixture.get("k").unwrap().expires_at_ms, Some(u64::MAX), "no overflow");
}

#[test]
fn sums_and_parts_keep_the_expiry() {
    let mut fixture = Fixture::new();
    fixture.set("k", "1", Expiry::After(1000));
    for write in [
        Write::Add { key: bytes("k"), delta: 1 },
        Write::AddFloat { key: bytes("k"), delta: bytes("0.5") },
        Write::Append { key: bytes("k"), value: bytes("0") },
        Write::SetRange { key: bytes("k"), offset: 0, value: bytes("9") },
    ] {
        fixture.write(write.clone());
        assert_eq!(fixture.ttl_ms("k"), Some(1000), "{write:?}");
    }
    assert_eq!(fixture.text("k").as_deref(), Some("9.50"));
}

/// The table of EXPIRE's options, as Redis 7 has it.
#[test]
fn conditions_compare_with_the_present_expiry() {
    use ExpireCondition::*;
    // (condition, with none, later than the present one, the same, earlier)
    let table = [
        (Always, [true, true, true, true]),
        (IfNone, [true, false, false, false]),
        (IfSome, [false, true, true, true]),
        (IfGreater, [false, true, false, false]),
        (IfLess, [true, false, false, true]),
        (IfSomeAndLess, [false, false, false, true]),
    ];
    for (condition, expected) in table {
        let cases = [(Expiry::Never, 500), (Expiry::After(400), 500), (Expiry::After(500), 500)];
        let cases = cases.into_iter().chain([(Expiry::After(600), 500)]);
        for ((present, after_ms), expected) in cases.zip(expected) {
            let mut fixture = Fixture::new();
            fixture.set("k", "v", present);
            let before = fixture.ttl_ms("k");
            let outcome = fixture.write(expire("k", Expiry::After(after_ms), condition));
            assert_eq!(changed(&outcome), expected, "{condition:?} over {present:?}");
            let ttl_ms = if expected { Some(after_ms) } else { before };
            assert_eq!(fixture.ttl_ms("k"), ttl_ms, "{condition:?} over {present:?}");
            assert_eq!(fixture.text("k").as_deref(), Some("v"));
        }
    }
}

#[test]
fn an_expiry_in_the_past_deletes_if_its_condition_holds() {
    use ExpireCondition::*;
    for (condition, present, deleted) in [
        (Always, Expiry::Never, true),
        (IfNone, Expiry::Never, true),
        (IfNone, Expiry::After(5), false),
        (IfSome, Expiry::Never, false),
        (IfSome, Expiry::After(5), true),
        (IfGreater, Expiry::After(5), false),
        (IfGreater, Expiry::Never, false),
        (IfLess, Expiry::After(5), true),
        (IfLess, Expiry::Never, true),
        (IfSomeAndLess, Expiry::Never, false),
    ] {
        for past in [Expiry::After(0), Expiry::At(0), Expiry::At(START_MS)] {
            let mut fixture = Fixture::new();
            fixture.set("k", "v", present);
            let outcome = fixture.write(expire("k", past, condition));
            assert_eq!(changed(&outcome), deleted, "{condition:?} {present:?} {past:?}");
            assert_eq!(fixture.get("k").is_none(), deleted, "{condition:?} {present:?} {past:?}");
        }
    }
}

#[test]
fn persist_says_whether_there_was_an_expiry() {
    let mut fixture = Fixture::new();
    let persist = || expire("k", Expiry::Never, ExpireCondition::Always);
    assert!(!changed(&fixture.write(persist())), "no key");
    fixture.set("k", "v", Expiry::After(5));
    assert!(changed(&fixture.write(persist())));
    assert_eq!(fixture.ttl_ms("k"), None);
    let version = fixture.machine.shard().version();
    assert!(!changed(&fixture.write(persist())), "no expiry");
    assert_eq!(fixture.machine.shard().version(), version, "nothing to change");
    // The value comes along if asked for, whether or not something changes.
    let read = |expiry| Write::Expire {
        key: bytes("k"),
        expiry,
        condition: ExpireCondition::Always,
        return_value: true,
    };
    for expiry in [Expiry::Keep, Expiry::Never, Expiry::After(9), Expiry::At(0)] {
        match fixture.write(read(expiry)) {
            WriteOutcome::Expired { entry: Some(entry), .. } => assert_eq!(entry.value, "v"),
            other => panic!("{expiry:?} ended in {other:?}"),
        }
    }
    assert_eq!(fixture.get("k"), None, "the last one had passed");
}

#[test]
fn rename_carries_the_expiry_and_copy_copies_it() {
    let mut fixture = Fixture::new();
    fixture.set("a", "1", Expiry::After(1000));
    fixture.set("b", "2", Expiry::Never);
    fixture.write(Write::Rename { from: bytes("a"), to: bytes("b"), only_if_absent: false });
    assert_eq!((fixture.get("a"), fixture.ttl_ms("b")), (None, Some(1000)));
    fixture.write(Write::Copy { from: bytes("b"), to: bytes("c"), replace: false });
    assert_eq!((fixture.ttl_ms("b"), fixture.ttl_ms("c")), (Some(1000), Some(1000)));
    fixture.set("d", "3", Expiry::Never);
    fixture.write(Write::Rename { from: bytes("d"), to: bytes("c"), only_if_absent: false });
    assert_eq!(fixture.ttl_ms("c"), None, "nor does the old one stay");
}

/// Replicas drop expired rows from their stores at different times: a reaper must not tell.
#[test]
fn reaping_does_the_same_whether_or_not_the_row_is_still_stored() {
    let (mut kept, mut dropped) = (Fixture::new(), Fixture::new());
    for fixture in [&mut kept, &mut dropped] {
        // A merge into a table with many rows drops what has expired; a table that is written anew
        // keeps it.
        for row in 0..200 {
            fixture.set(&format!("row:{row}"), "0", Expiry::Never);
        }
        fixture.checkpoint();
        fixture.set("gone", "1", Expiry::After(100));
        fixture.set("alive", "2", Expiry::After(101));
        fixture.now_ms += 100;
        fixture.set("another", "3", Expiry::Never);
    }
    dropped.checkpoint();
    let raw = |fixture: &Fixture| fixture.machine.shard().view().get(b"gone").unwrap();
    assert!(raw(&kept).is_some() && raw(&dropped).is_none(), "as the test needs it");
    let reap = || Write::Reap { keys: vec![bytes("alive"), bytes("gone"), bytes("gone")] };
    for fixture in [&mut kept, &mut dropped] {
        assert_eq!(fixture.write(reap()), WriteOutcome::Reaped { count: 1 });
        assert_eq!(fixture.text("alive").as_deref(), Some("2"));
    }
    assert_eq!(raw(&kept), None);
    assert_eq!(kept.machine.shard().version(), dropped.machine.shard().version());
    assert_eq!(kept.rows(), dropped.rows());
}

#[test]
fn stamps_never_go_back() {
    let mut fixture = Fixture::new();
    fixture.now_ms += 1000;
    fixture.set("k", "v", Expiry::After(1));
    fixture.now_ms += 1;
    fixture.set("other", "v", Expiry::Never);
    // A leader whose clock is behind: its command sees the time that was reached.
    fixture.now_ms -= 1000;
    let add = Write::Add { key: bytes("k"), delta: 1 };
    assert_eq!(fixture.write(add), WriteOutcome::Number(1), "the value v is gone");
    assert_eq!(fixture.machine.stamp_ms(), START_MS + 1001);
    fixture.set("k", "v", Expiry::After(5));
    assert_eq!(fixture.get("k").unwrap().expires_at_ms, Some(START_MS + 1006));
}

#[test]
fn reads_go_by_the_clock_between_stamp_and_ceiling() {
    let mut fixture = Fixture::new();
    assert!(!fixture.machine.has_expiring() && !fixture.machine.may_hold_expired());
    fixture.set("k", "v", Expiry::After(5000));
    assert!(fixture.machine.has_expiring() && fixture.machine.may_hold_expired());
    let machine = &fixture.machine;
    assert_eq!(machine.clock_floor_ms(), START_MS);
    assert_eq!(machine.read_time_ms(START_MS + 9), START_MS, "no ceiling: the stamp alone");
    fixture.ceiling(START_MS + 2000);
    let machine = &fixture.machine;
    assert_eq!(machine.clock_floor_ms(), START_MS + 2000);
    assert_eq!(machine.read_time_ms(START_MS - 9), START_MS, "never before the last command");
    assert_eq!(machine.read_time_ms(START_MS + 9), START_MS + 9);
    assert_eq!(machine.read_time_ms(START_MS + 2001), START_MS + 2000, "never beyond the ceiling");
    fixture.ceiling(START_MS + 1000);
    assert_eq!(fixture.machine.clock_floor_ms(), START_MS + 2000, "a ceiling stays");
    assert!(fixture.machine.has_expiring());
    fixture.ceiling(START_MS + 5000);
    assert!(!fixture.machine.has_expiring(), "all have expired below the floor");
    assert!(fixture.machine.may_hold_expired(), "but may still be stored");
    fixture.write(Write::DeleteRange { range: KeyRange::whole() });
    assert!(!fixture.machine.may_hold_expired());
}

/// Which rows have gone must survive a checkpoint: else a key could come back after a restart.
#[test]
fn a_checkpoint_keeps_the_time() {
    let mut fixture = Fixture::new();
    fixture.set("k", "v", Expiry::After(5000));
    fixture.ceiling(START_MS + 2000);
    let meta = machine::ShardMeta::decode(fixture.machine.meta().encode()).unwrap();
    assert_eq!((meta.stamp_ms, meta.ceiling_ms), (START_MS, START_MS + 2000));
    assert_eq!(meta.expiring_until_ms, START_MS + 5000);
}

/// A command that lacks a row has changed nothing, not even the time.
#[test]
fn a_command_that_waits_for_rows_leaves_no_trace() {
    let mut fixture = Fixture::new();
    fixture.set("k", "1", Expiry::After(50));
    fixture.checkpoint();
    let before = fixture.machine.meta();
    let command = Command {
        origin: origin(5, 1, 1),
        stamp_ms: fixture.now_ms + 100,
        value_bytes_max: VALUE_BYTES_MAX,
        change: Change::Write(Write::Add { key: bytes("k"), delta: 1 }),
    };
    let missing = fixture.machine.apply(&command, &Fetched::new());
    assert_eq!(missing, Applied::Missing(vec![bytes("k")]));
    assert_eq!(fixture.machine.meta(), before);
    assert_eq!(fixture.apply(&command), Applied::Outcome(WriteOutcome::Number(1)));
    assert_eq!(fixture.apply(&command), Applied::Outcome(WriteOutcome::Number(1)), "a repeat");
}
