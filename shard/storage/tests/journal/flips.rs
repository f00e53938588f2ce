//! Every byte of small journals damaged, one at a time: nothing panics, nothing wrong is read,
//! whoever lost something is suspect, and all others are as they were. What looks at the journal
//! offline says the same, and touches nothing.

use std::path::{Path, PathBuf};

use flotilla_storage::GroupId;
use flotilla_storage::journal::{Change, Journal, PlaceKind, Write, inspect};
use flotilla_storage::sim::SimFs;

use super::support::*;

/// A journal with every kind of record: three groups, one of them gone, one suspect, one sound.
fn written() -> (SimFs, Model) {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    let mut model = Model::new();
    for round in [
        vec![birth(1), birth(2), birth(3), state(1, "vote")],
        vec![append(1, 1, 1, 4), append(2, 1, 1, 3), append(3, 1, 1, 2)],
        vec![write(3, 0, Change::Death), compact(1, 2, 1), write(2, 0, Change::Suspect)],
        vec![append(1, 2, 4, 6), state(1, "newer")],
        vec![append(1, 2, 7, 7), append(2, 1, 4, 4)],
    ] {
        round.iter().for_each(|write| apply(&mut model, write));
        commit(&mut journal, &round);
    }
    journal.prove().unwrap();
    (fs, model)
}

/// What is right may only be missing from its end, and only of a suspect.
fn assert_right_or_suspect(found: &Model, model: &Model, place: &str) {
    for (id, group) in found {
        let Some(expected) = model.get(id) else {
            // The death of the third is lost with others: it is back, and must not speak.
            assert!(group.suspect, "{place}: {id} is back");
            continue;
        };
        if !group.suspect {
            assert_eq!(group, expected, "{place}: {id}");
            continue;
        }
        for (entry, index) in group.entries.iter().zip(group.base.0 + 1..) {
            let wanted = index.checked_sub(expected.base.0 + 1);
            let wanted = wanted.and_then(|position| expected.entries.get(position as usize));
            // Below the true base, or overwritten since: old, but never invented.
            let old = format!("{}/{index}/1", id.0);
            let is_old = &entry.1[..] == old.as_bytes();
            assert!(wanted == Some(entry) || is_old, "{place}: {id} has {entry:?}");
        }
    }
}

/// How often each thing happened.
#[derive(Debug, Default)]
struct Counts {
    flips: usize,
    harmful: usize,
}

/// Opens a copy of the files with one byte damaged, and judges all that can be seen of it.
fn judge(files: &[(PathBuf, Vec<u8>)], model: &Model, path: &Path, at: usize, mask: u8) -> bool {
    let place = format!("byte {at} of {} ^ {mask:#x}", path.display());
    let fs = SimFs::new(at as u64);
    for (name, content) in files {
        fs.put(name, content);
    }
    fs.flip(path, at as u64, mask).unwrap();
    let (mut journal, recovery) = open(&fs);
    let found = observed(&journal, &recovery);
    assert_right_or_suspect(&found, model, &place);
    let is_harmed = found != *model;
    assert!(!is_harmed || recovery.corrupt.iter().any(|found| found.harmful), "{place}");
    // Suspicion is durable, and life goes on for all others.
    let mut expected = found.clone();
    for (id, group) in found.iter().filter(|(_, group)| !group.suspect) {
        let next = append(id.0, 9, group.last() + 1, group.last() + 1);
        apply(&mut expected, &next);
        commit(&mut journal, &[next]);
    }
    settle(&mut journal);
    drop(journal);
    fs.crash();
    let (journal, again) = open(&fs);
    assert_eq!(observed(&journal, &again), expected, "{place}");
    is_harmed
}

/// Damages each byte in turn, by each mask; of padding every sixteenth, by the first of them.
fn flip_all(fs: &SimFs, model: &Model, masks: &[u8]) -> Counts {
    let files: Vec<(PathBuf, Vec<u8>)> = segment_paths(fs)
        .into_iter()
        .map(|path| (path.clone(), fs.content(&path).unwrap()))
        .collect();
    let mut counts = Counts::default();
    for (path, content) in &files {
        for (at, byte) in content.iter().enumerate() {
            let is_padding = *byte == 0;
            if is_padding && at % 16 != 0 {
                continue;
            }
            for mask in if is_padding { &masks[..1] } else { masks } {
                counts.flips += 1;
                counts.harmful += usize::from(judge(&files, model, path, at, *mask));
            }
        }
    }
    println!("{counts:?}");
    counts
}

#[test]
fn every_flipped_byte_harms_only_whom_it_hits() {
    let (fs, model) = written();
    let counts = flip_all(&fs, &model, &[0x20, 0x01, 0x80, 0xff]);
    assert!(counts.harmful > 200 && counts.flips > 5_000, "{counts:?}");
}

/// A journal whose first segments were freed and used again, with records that were rewritten
/// forward: of a slow group, of a suspect one, and of one that is gone.
fn lived() -> (SimFs, Model) {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    let mut model = Model::new();
    let mut round = |journal: &mut Journal, writes: &[Write]| {
        writes.iter().for_each(|write| apply(&mut model, write));
        commit(journal, writes);
        model.clone()
    };
    round(&mut journal, &[birth(1), birth(2), birth(3), birth(4), state(1, "vote")]);
    round(&mut journal, &[append(1, 1, 1, 6), append(3, 1, 1, 3), append(4, 1, 1, 2)]);
    round(&mut journal, &[compact(1, 2, 1), write(3, 0, Change::Suspect)]);
    round(&mut journal, &[append(1, 2, 5, 7), write(4, 0, Change::Death)]);
    let mut index = 0;
    while journal.stats().rewritten_bytes == 0 || journal.stats().segments > 3 || index < 60 {
        index += 1;
        round(&mut journal, &[append(2, 1, index, index), compact(2, index - 1, 1)]);
        journal.maintain().unwrap();
        assert!(index < 5_000, "{:?}", journal.stats());
    }
    let model = round(&mut journal, &[state(1, "newer"), append(1, 2, 8, 8)]);
    settle(&mut journal);
    (fs, model)
}

#[test]
fn every_flipped_byte_of_a_journal_with_a_past_harms_only_whom_it_hits() {
    let (fs, model) = lived();
    let counts = flip_all(&fs, &model, &[0x20]);
    assert!(counts.harmful > 50 && counts.flips > 10_000, "{counts:?}");
}

#[test]
fn an_inspection_sees_what_recovery_sees_and_touches_nothing() {
    let (fs, _) = written();
    let path = segment_paths(&fs)[0].clone();
    let content = fs.content(&path).unwrap();
    let offsets = batches(&fs, &path);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(path.file_name().unwrap());
    let look = |content: &[u8]| {
        std::fs::write(&file, content).unwrap();
        let found = inspect(dir.path()).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), content);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        found
    };
    let sound = look(&content);
    assert!(sound.places.is_empty());
    assert_eq!(sound.segments[0].batches.len(), offsets.len());
    assert_eq!(sound.groups.len(), 2);
    let one = &sound.groups[&GroupId(1)];
    assert_eq!((one.recovered.base, one.recovered.last_index), ((2, 1), 7));
    assert!(one.live_bytes > one.recovered.log_bytes && one.recovered.log_bytes > 0);
    assert!(sound.groups[&GroupId(2)].recovered.suspect, "as it was written");

    for (sequence, offset, bytes) in &offsets {
        let mut damaged = content.clone();
        damaged[*offset as usize..(offset + bytes) as usize].fill(0xaa);
        let fs = SimFs::new(1);
        fs.put(&path, &damaged);
        let (_, recovery) = open(&fs);
        let found = look(&damaged);
        let corrupt: Vec<_> =
            found.places.iter().filter(|place| place.kind == PlaceKind::Corrupt).collect();
        assert_eq!(corrupt.len(), recovery.corrupt.len(), "batch {sequence}");
        for (place, corruption) in corrupt.iter().zip(&recovery.corrupt) {
            assert_eq!(place.batch, corruption.batch);
            assert_eq!(place.is_harmful, corruption.harmful);
        }
        let seen = found.groups.iter().map(|(id, group)| (id, group.recovered.suspect));
        assert!(seen.eq(recovery.groups.iter().map(|(id, group)| (id, group.suspect))));
    }
    // The last batch with records, unproven, is cut: that is no damage.
    let (fs, _) = written();
    let (_, marker, _) = offsets[offsets.len() - 1];
    let (_, last, _) = offsets[offsets.len() - 2];
    let mut torn = fs.content(&path).unwrap();
    torn[marker as usize..].fill(0);
    let payload = torn[last as usize..].windows(5).position(|bytes| bytes == b"1/7/2").unwrap();
    torn[last as usize + payload] ^= 1;
    let found = look(&torn);
    assert_eq!(found.places.len(), 1);
    assert_eq!(found.places[0].kind, PlaceKind::Torn);
    assert_eq!(found.places[0].at.map(|at| at.1), Some(last));
}
