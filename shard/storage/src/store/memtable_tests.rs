//! What pins keep, what overwriting frees, and what deletions hide.

use super::*;
use crate::range::KeyRange;

fn memtable() -> Arc<Memtable> {
    Arc::new(Memtable::new(0, super::super::metrics::StoreMetrics::new().memtables))
}

fn put(key: &'static str, value: &'static str) -> RowChange {
    RowChange::Put { key: key.into(), value: value.into(), flags: 0, expires_at_ms: None }
}

fn delete(key: &'static str) -> RowChange {
    RowChange::Delete { key: key.into() }
}

fn delete_range(start: &'static str, end: &'static str) -> RowChange {
    RowChange::DeleteRange(KeyRange::new(start, Some(end.into())))
}

fn value(memtable: &Memtable, key: &str) -> Option<String> {
    match memtable.get(key.as_bytes()) {
        Found::Row(row) => Some(String::from_utf8(row.value.to_vec()).unwrap()),
        Found::Absent => None,
        Found::Below => Some("below".to_owned()),
    }
}

fn scan(pinned: &Pinned) -> Vec<(String, Option<String>)> {
    let mut out = Vec::new();
    let bounds = (Bound::Unbounded, Bound::Unbounded);
    assert!(pinned.chunk(bounds, false, 1000, &mut out).is_none());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    out.iter()
        .map(|(key, cell)| {
            let value = cell.content.as_ref().map(|content| text(&content.value));
            (text(key.as_slice()), value)
        })
        .collect()
}

/// Cells held for `key`.
fn cells(memtable: &Memtable, key: &str) -> usize {
    memtable.inner.read().rows.get(key.as_bytes()).map_or(0, |slot| 1 + slot.older.len())
}

#[test]
fn without_a_pin_a_key_is_overwritten_in_place() {
    let memtable = memtable();
    memtable.apply(1, &[put("a", "1")]);
    let bytes = memtable.memory_bytes();
    for version in 2..100 {
        memtable.apply(version, &[put("a", "2")]);
    }
    assert_eq!(cells(&memtable, "a"), 1);
    assert_eq!(memtable.memory_bytes(), bytes);
    assert_eq!(value(&memtable, "a").as_deref(), Some("2"));
}

#[test]
fn a_pin_keeps_its_version_and_no_other() {
    let memtable = memtable();
    memtable.apply(1, &[put("a", "1"), put("b", "1")]);
    let pinned = memtable.pin();
    for version in 2..10 {
        memtable.apply(version, &[put("a", "new"), delete("b"), put("c", "new")]);
    }
    let old = |key: &str| (key.to_owned(), Some("1".to_owned()));
    assert_eq!(scan(&pinned), [old("a"), old("b")]);
    assert_eq!(cells(&memtable, "a"), 2, "the pinned one and the newest, none between");
    assert_eq!(value(&memtable, "a").as_deref(), Some("new"));
    assert_eq!(value(&memtable, "b"), None);

    drop(pinned);
    memtable.apply(10, &[put("a", "newer")]);
    assert_eq!(cells(&memtable, "a"), 1, "nobody needs the old one any more");
}

#[test]
fn two_pins_see_two_versions() {
    let memtable = memtable();
    memtable.apply(1, &[put("a", "1")]);
    let first = memtable.pin();
    memtable.apply(2, &[put("a", "2")]);
    let second = memtable.pin();
    memtable.apply(3, &[put("a", "3")]);
    assert_eq!(scan(&first)[0].1.as_deref(), Some("1"));
    assert_eq!(scan(&second)[0].1.as_deref(), Some("2"));
    drop(first);
    memtable.apply(4, &[delete("a")]);
    assert_eq!(cells(&memtable, "a"), 2);
    assert_eq!(scan(&second)[0].1.as_deref(), Some("2"));
    assert_eq!(memtable.key_counts(), (0, 1));
}

#[test]
fn a_range_deletion_hides_what_is_older_and_nothing_newer() {
    let memtable = memtable();
    memtable.apply(1, &[put("a", "1"), put("b", "1"), put("c", "1")]);
    let pinned = memtable.pin();
    memtable.apply(2, &[delete_range("a", "c")]);
    memtable.apply(3, &[put("b", "3")]);
    assert_eq!(value(&memtable, "a"), None);
    assert_eq!(value(&memtable, "aa"), None, "what lies below is deleted too");
    assert_eq!(value(&memtable, "b").as_deref(), Some("3"));
    assert_eq!(value(&memtable, "c").as_deref(), Some("1"));
    assert_eq!(value(&memtable, "d").as_deref(), Some("below"));
    assert!(pinned.tombstones().is_empty(), "the pin is from before");
    assert_eq!(scan(&pinned)[1].1.as_deref(), Some("1"));

    let inner = memtable.read_ordered();
    let keys: Vec<_> = inner.newest().map(|(key, _)| key).collect();
    assert_eq!(keys, [b"b", b"c"]);
}

#[test]
fn within_a_command_the_later_change_wins() {
    let memtable = memtable();
    memtable.apply(1, &[put("a", "1"), delete_range("a", "c"), put("b", "1"), put("b", "2")]);
    assert_eq!(value(&memtable, "a"), None);
    assert_eq!(value(&memtable, "b").as_deref(), Some("2"));
    memtable.apply(2, &[put("b", "3"), delete("b")]);
    assert_eq!(value(&memtable, "b"), None);
}

#[test]
fn an_emptied_memtable_hides_what_is_below_and_holds_its_memory() {
    let old = memtable();
    old.apply(1, &[put("a", "1")]);
    let pinned = old.pin();
    let new = Arc::new(Memtable::emptying(2, &old));
    assert_eq!(value(&new, "a"), None);
    assert_eq!(scan(&pinned).len(), 1);
    assert_eq!(new.memory_bytes(), old.memory_bytes());

    let mut newest = new;
    for version in 3..200_000 {
        newest = Arc::new(Memtable::emptying(version, &newest));
    }
    assert_eq!(newest.garbage.lock().len(), 1, "empty memtables leave nothing behind");
}

#[test]
fn the_gauge_follows_the_memory() {
    let memtable = memtable();
    let gauge = memtable.gauges.unmerged_bytes.clone();
    memtable.apply(1, &[put("a", "1"), delete_range("b", "c"), delete("x")]);
    assert_eq!(gauge.get() as u64, memtable.memory_bytes());
    assert!(gauge.get() > 0);
    drop(memtable);
    assert_eq!(gauge.get(), 0);
}

#[test]
fn chunks_resume_in_both_directions() {
    let memtable = memtable();
    memtable.apply(1, &[put("a", "1"), put("b", "1"), put("c", "1")]);
    let pinned = memtable.pin();
    memtable.apply(2, &[put("bb", "2")]);
    for reverse in [false, true] {
        let mut out: Vec<(Key, Cell)> = Vec::new();
        let mut resume: Option<Key> = None;
        loop {
            let bounds = match (&resume, reverse) {
                (None, _) => (Bound::Unbounded, Bound::Unbounded),
                (Some(key), false) => (Bound::Excluded(key.as_slice()), Bound::Unbounded),
                (Some(key), true) => (Bound::Unbounded, Bound::Excluded(key.as_slice())),
            };
            resume = pinned.chunk(bounds, reverse, 1, &mut out);
            if resume.is_none() {
                break;
            }
        }
        let mut keys: Vec<_> = out.iter().map(|(key, _)| key.as_slice()).collect();
        if reverse {
            keys.reverse();
        }
        assert_eq!(keys, [b"a", b"b", b"c"]);
    }
}
