//! Writes that concern keys: renaming, copying, taking, and what counts as a deletion.

use crate::support::*;
use flotilla_shard::*;

fn rename(from: &str, to: &str, only_if_absent: bool) -> Write {
    Write::Rename { from: bytes(from), to: bytes(to), only_if_absent }
}

fn copy(from: &str, to: &str, replace: bool) -> Write {
    Write::Copy { from: bytes(from), to: bytes(to), replace }
}

#[test]
fn rename_moves_a_value() {
    let mut fixture = Fixture::new();
    let no_such_key = WriteOutcome::Failed(CommandFailure::NoSuchKey);
    assert_eq!(fixture.write(rename("a", "b", false)), no_such_key);
    assert_eq!(fixture.write(rename("a", "a", false)), no_such_key);
    fixture.set("a", "1", Expiry::Never);
    fixture.set("b", "2", Expiry::Never);
    fixture.checkpoint();
    let renamed = |outcome| match outcome {
        WriteOutcome::Renamed { renamed, .. } => renamed,
        other => panic!("ended in {other:?}"),
    };
    assert!(!renamed(fixture.write(rename("a", "b", true))));
    assert!(!renamed(fixture.write(rename("a", "a", true))), "it is there");
    assert!(renamed(fixture.write(rename("a", "a", false))));
    assert_eq!(fixture.machine.shard().version(), 2, "nothing has changed so far");
    assert!(renamed(fixture.write(rename("a", "b", false))));
    assert_eq!((fixture.text("a"), fixture.text("b").as_deref()), (None, Some("1")));
    assert!(renamed(fixture.write(rename("b", "c", true))));
    assert_eq!((fixture.text("b"), fixture.text("c").as_deref()), (None, Some("1")));
}

#[test]
fn copy_leaves_the_source() {
    let mut fixture = Fixture::new();
    let copied = |outcome| match outcome {
        WriteOutcome::Copied { copied, .. } => copied,
        other => panic!("ended in {other:?}"),
    };
    assert!(!copied(fixture.write(copy("a", "b", true))));
    fixture.set("a", "1", Expiry::Never);
    fixture.checkpoint();
    assert!(!copied(fixture.write(copy("a", "a", true))));
    assert!(copied(fixture.write(copy("a", "b", false))));
    fixture.set("a", "2", Expiry::Never);
    assert!(!copied(fixture.write(copy("a", "b", false))));
    assert_eq!(fixture.text("b").as_deref(), Some("1"));
    assert!(copied(fixture.write(copy("a", "b", true))));
    assert_eq!((fixture.text("a"), fixture.text("b")), (Some("2".into()), Some("2".into())));
}

#[test]
fn take_returns_what_it_removes() {
    let mut fixture = Fixture::new();
    let take = || Write::Take { key: bytes("a") };
    assert_eq!(fixture.write(take()), WriteOutcome::Taken(None));
    fixture.set("a", "1", Expiry::After(5));
    let entry = fixture.get("a");
    assert!(entry.is_some());
    assert_eq!(fixture.write(take()), WriteOutcome::Taken(entry));
    assert_eq!(fixture.get("a"), None);
}

/// The second key of a write is the shard's too, or nothing is done.
#[test]
fn both_keys_must_lie_in_the_shard() {
    let mut fixture = Fixture::with_range(KeyRange { start: bytes("g"), end: None });
    fixture.set("h", "1", Expiry::Never);
    let version = fixture.machine.shard().version();
    let smuggled = Step::Write(put("a", "1", Expiry::Never));
    for write in [
        rename("h", "a", false),
        copy("h", "a", true),
        Write::Atomic { guards: vec![], steps: vec![smuggled] },
        Write::Atomic { guards: vec![], steps: vec![Step::Get { key: bytes("a") }] },
        Write::Atomic { guards: vec![Guard { key: bytes("a"), version: 0 }], steps: vec![] },
        Write::Reap { keys: vec![bytes("a")] },
    ] {
        let refused = WriteOutcome::Failed(CommandFailure::OutOfRange);
        assert_eq!(fixture.write(write.clone()), refused, "{write:?}");
    }
    assert_eq!(fixture.machine.shard().version(), version);
}

/// What a full disk lets through.
#[test]
fn deletions_are_told_from_other_writes() {
    let key = || bytes("k");
    let delete = || Write::Delete { keys: vec![key()] };
    let batch = |change| Write::Batch { changes: vec![change], if_all_absent: false };
    let steps = |steps| Write::Atomic { guards: vec![], steps };
    for (write, expected) in [
        (delete(), true),
        (Write::Take { key: key() }, true),
        (Write::DeleteRange { range: KeyRange::whole() }, true),
        (Write::Reap { keys: vec![key()] }, true),
        (batch(BatchChange::Delete { key: key() }), true),
        (batch(BatchChange::Put { key: key(), value: key() }), false),
        (steps(vec![Step::Write(delete()), Step::Get { key: key() }]), true),
        (steps(vec![Step::Write(delete()), Step::Write(put("k", "v", Expiry::Never))]), false),
        (put("k", "v", Expiry::Never), false),
        (Write::Add { key: key(), delta: 1 }, false),
        (rename("a", "b", false), false),
        (expire("k", Expiry::After(1), ExpireCondition::Always), false),
    ] {
        assert_eq!(write.is_delete_only(), expected, "{write:?}");
    }
}
