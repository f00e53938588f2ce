//! One test for each rule of recovery.

use flotilla_storage::GroupId;
use flotilla_storage::fs::FileSystem;
use flotilla_storage::journal::{Change, JournalError, ReadError};
use flotilla_storage::sim::SimFs;

use super::support::*;

/// A journal with one durable round per group, closed without a marker.
fn three_groups(fs: &SimFs) {
    let (mut journal, _) = open(fs);
    for group in 1..=3 {
        commit(&mut journal, &[birth(group), append(group, 1, 1, 3), state(group, "s")]);
    }
}

fn flip_batch(fs: &SimFs, segment: usize, batch: usize) {
    let path = &segment_paths(fs)[segment];
    let (_, offset, length) = batches(fs, path)[batch];
    fs.flip(path, offset, 0xff).unwrap();
    fs.flip(path, offset + length - 1, 0xff).unwrap();
}

#[test]
fn a_damaged_batch_that_nothing_proves_is_a_torn_tail_and_is_cut() {
    let fs = SimFs::new(1);
    three_groups(&fs);
    flip_batch(&fs, 0, 3);
    let (_, recovery) = open(&fs);
    assert_eq!(recovery.corrupt, []);
    assert_eq!(recovery.groups.len(), 2);
    assert!(recovery.groups.values().all(|group| !group.suspect && group.last_index == 3));
}

#[test]
fn whatever_lies_behind_a_hole_in_the_tail_is_cut_too() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1), append(1, 1, 1, 3)]);
    // Never synced: the disk may have kept the second and third batch, but not the first.
    journal.write(&[append(1, 1, 4, 4)]).unwrap();
    journal.write(&[append(1, 1, 5, 5)]).unwrap();
    journal.write(&[birth(2)]).unwrap();
    drop(journal);
    flip_batch(&fs, 0, 2);
    let (_, recovery) = open(&fs);
    assert_eq!(recovery.corrupt, []);
    assert!(recovery.torn_bytes >= 2 * 4096, "{recovery:?}");
    assert_eq!(recovery.groups.keys().collect::<Vec<_>>(), [&GroupId(1)]);
    assert_eq!(recovery.groups[&GroupId(1)].last_index, 3);

    // The tail that was cut stays cut, although its sequences are now below what is synced.
    let (mut journal, recovery) = open(&fs);
    assert_eq!((recovery.corrupt.len(), recovery.groups.len()), (0, 1));
    commit(&mut journal, &[append(1, 2, 4, 4)]);
    let (journal, recovery) = open(&fs);
    assert_eq!(observed(&journal, &recovery)[&GroupId(1)].term_at(4), Some(2));
}

#[test]
fn a_damaged_batch_below_what_is_proven_is_corruption() {
    let fs = SimFs::new(1);
    three_groups(&fs);
    // The batch of group 2; the one of group 3 knew that it was synced.
    flip_batch(&fs, 0, 2);
    let (_, recovery) = open(&fs);
    assert_eq!(recovery.corrupt.len(), 1);
    assert!(recovery.corrupt[0].harmful);
    assert!(!recovery.groups[&GroupId(3)].suspect, "born behind the gap");
}

#[test]
fn the_idle_marker_proves_the_last_batch() {
    for has_marker in [false, true] {
        let fs = SimFs::new(1);
        let (mut journal, _) = open(&fs);
        commit(&mut journal, &[birth(1), append(1, 1, 1, 3)]);
        assert!(journal.is_unproven());
        if has_marker {
            journal.prove().unwrap();
            assert!(!journal.is_unproven());
        }
        drop(journal);
        flip_batch(&fs, 0, 1);
        let (_, recovery) = open(&fs);
        assert_eq!(!recovery.corrupt.is_empty(), has_marker);
    }
}

#[test]
fn a_marker_is_written_once_and_survives_as_proof() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1)]);
    journal.prove().unwrap();
    let syncs = fs.sync_count();
    journal.prove().unwrap();
    journal.sync().unwrap();
    assert_eq!(fs.sync_count(), syncs, "nothing was left to do");
}

#[test]
fn stale_batches_of_a_recycled_segment_never_chain() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1)]);
    let mut index = 0;
    // Until the current segment is a recycled file with old batches behind the new ones.
    let has_stale_batches = |fs: &SimFs| {
        segment_paths(fs).iter().any(|path| {
            let end = batches(fs, path).last().map_or(0, |(_, offset, length)| offset + length);
            let content = fs.content(path).unwrap();
            end > 0 && content[end as usize..].starts_with(b"FLTJRNLH")
        })
    };
    while index < 40 || !has_stale_batches(&fs) {
        assert!(index < 400, "no segment was recycled");
        index += 1;
        commit(&mut journal, &[append(1, 1, index, index), compact(1, index - 1, 1)]);
        journal.maintain().unwrap();
    }
    fs.crash();
    let (journal, recovery) = open(&fs);
    assert_eq!(recovery.corrupt, []);
    assert_eq!(recovery.torn_bytes, 0);
    let found = &observed(&journal, &recovery)[&GroupId(1)];
    assert_eq!((found.base.0, found.last()), (index - 1, index));
}

#[test]
fn what_recovery_kept_is_rewritten_and_synced_before_it_returns() {
    let mut unsynced_survived = 0;
    for seed in 0..50 {
        let fs = SimFs::new(seed);
        let (mut journal, _) = open(&fs);
        commit(&mut journal, &[birth(1), append(1, 1, 1, 3)]);
        journal.write(&[append(1, 1, 4, 6), state(1, "unsynced")]).unwrap();
        // The process dies, its pages stay: recovery reads them although they were never synced.
        fs.kill();
        let (_, recovery) = open(&fs);
        assert_eq!(recovery.groups[&GroupId(1)].last_index, 6);
        // Now the replica may have acknowledged them. The power fails.
        fs.crash();
        let (_, recovery) = open(&fs);
        assert_eq!(recovery.groups[&GroupId(1)].last_index, 6, "seed {seed}");
        assert_eq!(recovery.groups[&GroupId(1)].state.as_deref(), Some(&b"unsynced"[..]));

        // Without the second opening the power failure may take them: the test means something.
        let fs = SimFs::new(seed);
        let (mut journal, _) = open(&fs);
        commit(&mut journal, &[birth(1), append(1, 1, 1, 3)]);
        journal.write(&[append(1, 1, 4, 6)]).unwrap();
        fs.kill();
        fs.crash();
        let (_, recovery) = open(&fs);
        unsynced_survived += u32::from(recovery.groups[&GroupId(1)].last_index == 6);
    }
    assert!(unsynced_survived < 40, "{unsynced_survived}");
}

#[test]
fn a_round_over_several_batches_survives_whole_or_not_at_all() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1), append(1, 1, 1, 1)]);
    let large: Vec<_> = (2..=9).map(|index| entry(index, 1, &[7; 10_000])).collect();
    let state = Some(bytes::Bytes::from_static(b"with them"));
    journal.write(&[write(1, 0, Change::Append { state, entries: large })]).unwrap();
    drop(journal);
    let paths = segment_paths(&fs);
    let all: usize = paths.iter().map(|path| batches(&fs, path).len()).sum();
    assert!(all > 4, "the round is split over batches and segments");
    // The last batch of the round is lost.
    let last = paths.iter().rposition(|path| !batches(&fs, path).is_empty()).unwrap();
    flip_batch(&fs, last, batches(&fs, &paths[last]).len() - 1);
    let (_, recovery) = open(&fs);
    assert_eq!(recovery.corrupt, []);
    assert_eq!(recovery.groups[&GroupId(1)].last_index, 1);
    assert_eq!(recovery.groups[&GroupId(1)].state, None);
}

#[test]
fn suspicion_is_durable() {
    let fs = SimFs::new(1);
    three_groups(&fs);
    let (mut journal, _) = open(&fs);
    // Damage to group 1 alone: its payload, with a directory to say whose it is.
    let path = segment_paths(&fs)[0].clone();
    let (_, offset, _) = batches(&fs, &path)[1];
    let content = fs.content(&path).unwrap();
    let needle = b"1/2/1";
    let at = content.windows(needle.len()).position(|bytes| bytes == needle).unwrap() as u64;
    assert!(at > offset);
    commit(&mut journal, &[append(2, 1, 4, 4)]);
    drop(journal);
    fs.flip(&path, at, 1).unwrap();
    let (_, recovery) = open(&fs);
    let suspects = |recovery: &flotilla_storage::journal::Recovery| {
        let groups = recovery.groups.iter().filter(|(_, group)| group.suspect);
        groups.map(|(id, _)| id.0).collect::<Vec<_>>()
    };
    assert_eq!(suspects(&recovery), [1]);
    fs.crash();
    let (_, recovery) = open(&fs);
    assert_eq!(suspects(&recovery), [1]);
    // The damage is undone, as if a later read had gone well: still suspect.
    fs.flip(&path, at, 1).unwrap();
    let (_, recovery) = open(&fs);
    assert_eq!(recovery.corrupt, []);
    assert_eq!(suspects(&recovery), [1]);
    // And it may be said from above.
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[write(3, 0, Change::Suspect)]);
    fs.crash();
    let (mut journal, recovery) = open(&fs);
    assert_eq!(suspects(&recovery), [1, 3]);
    // Only death ends it.
    commit(&mut journal, &[write(1, 0, Change::Death), birth(1), append(1, 1, 1, 1)]);
    fs.crash();
    let (_, recovery) = open(&fs);
    assert_eq!(suspects(&recovery), [3]);
    assert_eq!(recovery.groups[&GroupId(1)].last_index, 1);
}

#[test]
fn a_surviving_directory_attributes_damage() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    let large = |group: u64| {
        let entries = vec![entry(1, 1, &vec![group as u8; 6000])];
        write(group, 0, Change::Append { state: None, entries })
    };
    // One batch of several blocks.
    commit(&mut journal, &[birth(1), large(1), birth(2), large(2), birth(3), large(3)]);
    journal.prove().unwrap();
    drop(journal);
    let path = segment_paths(&fs)[0].clone();
    let (_, offset, _) = batches(&fs, &path)[1];
    // The head with its directory is gone, and so is a part of group 2's payload.
    fs.flip(&path, offset + 8, 0xff).unwrap();
    let content = fs.content(&path).unwrap();
    let at = content.windows(100).position(|bytes| bytes == [2; 100]).unwrap() as u64;
    fs.flip(&path, at + 3000, 0xff).unwrap();
    let (journal, recovery) = open(&fs);
    let suspects: Vec<_> =
        recovery.groups.iter().map(|(id, group)| (id.0, group.suspect, group.last_index)).collect();
    assert_eq!(suspects, [(1, false, 1), (2, true, 0), (3, false, 1)]);
    assert!(recovery.corrupt.iter().any(|found| found.group == Some(GroupId(2)) && found.harmful));
    assert_eq!(journal.reader().read(GroupId(3), 1, 1, 1).unwrap()[0].payload, vec![3; 6000]);
}

#[test]
fn lost_records_that_were_superseded_harm_nobody() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1)]);
    let victim = vec![entry(1, 1, b"victim")];
    commit(&mut journal, &[write(1, 0, Change::Append { state: None, entries: victim })]);
    commit(&mut journal, &[append(1, 2, 1, 2)]);
    journal.prove().unwrap();
    drop(journal);
    let path = segment_paths(&fs)[0].clone();
    let content = fs.content(&path).unwrap();
    let at = content.windows(6).position(|bytes| bytes == b"victim").unwrap() as u64;
    fs.flip(&path, at, 1).unwrap();
    let (_, recovery) = open(&fs);
    assert_eq!(recovery.corrupt.len(), 1);
    assert_eq!(recovery.corrupt[0].group, Some(GroupId(1)));
    assert!(!recovery.corrupt[0].harmful);
    assert!(!recovery.groups[&GroupId(1)].suspect);
}

#[test]
fn with_both_directories_lost_only_an_unbroken_chain_clears_a_group() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    let all: Vec<_> = (1..=4).map(birth).collect();
    commit(&mut journal, &all);
    // The batch that will be lost: groups 1 and 2.
    commit(&mut journal, &[append(1, 1, 1, 1), append(2, 1, 1, 1)]);
    // Behind it: group 1 again, whose chain leads into the gap; group 3, whose chain leads over
    // it. Group 4 says nothing any more and cannot prove anything.
    commit(&mut journal, &[append(1, 1, 2, 2), append(3, 1, 1, 1)]);
    journal.prove().unwrap();
    drop(journal);
    flip_batch(&fs, 0, 2);
    for _ in 0..2 {
        let (_, recovery) = open(&fs);
        let suspects: Vec<_> =
            recovery.groups.iter().map(|(id, group)| (id.0, group.suspect)).collect();
        assert_eq!(suspects, [(1, true), (2, true), (3, false), (4, true)]);
        assert_eq!(recovery.groups[&GroupId(1)].last_index, 0, "cut below the hole");
        assert_eq!(recovery.groups[&GroupId(3)].last_index, 1);
        fs.crash();
    }
}

#[test]
fn a_missing_segment_is_a_gap() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1), birth(2)]);
    for index in 1..=60 {
        commit(&mut journal, &[append(1, 1, index, index)]);
    }
    commit(&mut journal, &[append(2, 1, 1, 1)]);
    journal.prove().unwrap();
    drop(journal);
    let paths = segment_paths(&fs);
    assert!(paths.len() >= 4);
    fs.remove(&paths[1]).unwrap();
    let (_, recovery) = open(&fs);
    assert_eq!(recovery.corrupt.len(), 1);
    assert_eq!(recovery.corrupt[0].segment, None);
    assert!(recovery.groups[&GroupId(1)].suspect);
    assert!(!recovery.groups[&GroupId(2)].suspect);
    assert_eq!(recovery.groups[&GroupId(2)].last_index, 1);
}

/// Nobody who is left can miss what only a lost boot knew: the damage itself must be told.
#[test]
fn the_loss_of_all_that_the_first_boots_wrote_is_told() {
    let fs = SimFs::new(1);
    for index in 1..=3 {
        let (mut journal, _) = open(&fs);
        if index == 1 {
            commit(&mut journal, &[birth(1), birth(2), append(2, 1, 1, 1)]);
        }
        commit(&mut journal, &[append(1, 1, index, index)]);
        journal.prove().unwrap();
    }
    let paths = segment_paths(&fs);
    assert_eq!(paths.len(), 3, "one for each boot");
    fs.remove(&paths[0]).unwrap();
    let (_, recovery) = open(&fs);
    assert!(recovery.groups[&GroupId(1)].suspect);
    assert!(!recovery.groups.contains_key(&GroupId(2)), "of it nothing is left");
    assert_eq!(recovery.corrupt.len(), 1, "{:?}", recovery.corrupt);
    assert!(recovery.corrupt[0].harmful && recovery.corrupt[0].segment.is_none());
    // It is told once: the log begins behind it from now on.
    let (_, again) = open(&fs);
    assert!(again.corrupt.is_empty() && again.groups[&GroupId(1)].suspect);
}

#[test]
fn an_unreadable_block_is_damage_not_an_error() {
    let fs = SimFs::new(1);
    three_groups(&fs);
    let path = segment_paths(&fs)[0].clone();
    let (_, offset, _) = batches(&fs, &path)[2];
    fs.fail_reads(&path, offset).unwrap();
    let (_, recovery) = open(&fs);
    assert_eq!(recovery.corrupt.len(), 1);
    assert!(recovery.groups[&GroupId(1)].suspect, "nothing behind the gap speaks for it");
    assert!(!recovery.groups[&GroupId(3)].suspect);
}

#[test]
fn files_are_durable_by_name_before_anything_in_them_is_reported() {
    for seed in 0..30 {
        let fs = SimFs::new(seed);
        let (mut journal, _) = open(&fs);
        commit(&mut journal, &[birth(1)]);
        for index in 1..=100 {
            commit(&mut journal, &[append(1, 1, index, index)]);
            if seed % 2 == 0 {
                journal.maintain().unwrap();
            }
        }
        fs.crash();
        let (_, recovery) = open(&fs);
        assert_eq!(recovery.groups[&GroupId(1)].last_index, 100, "seed {seed}");
    }
}

#[test]
fn a_failed_sync_stops_the_journal_and_is_not_repeated() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1)]);
    journal.write(&[append(1, 1, 1, 1)]).unwrap();
    fs.fail_sync_after(0);
    assert!(matches!(journal.sync(), Err(JournalError::Io { operation: "sync", .. })));
    let syncs = fs.sync_count();
    assert!(matches!(journal.sync(), Err(JournalError::Stopped { .. })));
    assert!(matches!(journal.write(&[append(1, 1, 2, 2)]), Err(JournalError::Stopped { .. })));
    assert!(matches!(journal.maintain(), Err(JournalError::Stopped { .. })));
    assert!(matches!(journal.prove(), Err(JournalError::Stopped { .. })));
    assert_eq!(fs.sync_count(), syncs);
}

#[test]
fn an_entry_that_fits_no_segment_is_refused_and_nothing_is_written() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1)]);
    let entries = vec![entry(1, 1, &[0; 70_000])];
    let refused =
        journal.write(&[append(1, 1, 1, 1), write(1, 0, Change::Append { state: None, entries })]);
    assert!(matches!(refused, Err(JournalError::EntryTooLarge { bytes: 70_012, .. })));
    commit(&mut journal, &[append(1, 1, 1, 1)]);
    let largest = vec![entry(2, 1, &[0; 61_000])];
    commit(&mut journal, &[write(1, 0, Change::Append { state: None, entries: largest })]);
    let (journal, recovery) = open(&fs);
    assert_eq!(recovery.groups[&GroupId(1)].last_index, 2);
    assert_eq!(journal.reader().read(GroupId(1), 2, 9, 1).unwrap()[0].payload.len(), 61_000);
}

#[test]
fn reads_are_bounded_and_say_what_is_wrong() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1), append(1, 1, 1, 10), append(1, 2, 8, 20)]);
    commit(&mut journal, &[compact(1, 3, 1)]);
    let reader = journal.reader();
    let read = |from, to, bytes| reader.read(GroupId(1), from, to, bytes);
    let indexes = |from, to, bytes| -> Vec<u64> {
        read(from, to, bytes).unwrap().iter().map(|entry| entry.index).collect()
    };
    assert_eq!(indexes(4, 6, 1000), [4, 5, 6]);
    assert_eq!(indexes(6, 9, 0), [6], "at least one");
    assert_eq!(indexes(6, 9, 10), [6, 7], "five bytes each");
    assert_eq!(indexes(18, 99, 1000), [18, 19, 20]);
    assert_eq!(&read(8, 8, 99).unwrap()[0].payload[..], b"1/8/2");
    assert!(matches!(read(3, 5, 99), Err(ReadError::Compacted { base: 3, .. })));
    assert!(matches!(read(21, 25, 99), Err(ReadError::OutOfRange { last: 20, .. })));
    let unknown = reader.read(GroupId(9), 1, 1, 1);
    assert!(matches!(unknown, Err(ReadError::UnknownGroup { .. })));
    for path in segment_paths(&fs) {
        for (_, offset, length) in batches(&fs, &path) {
            for at in offset..offset + length {
                fs.flip(&path, at, 1).unwrap();
            }
        }
    }
    assert!(matches!(read(4, 6, 99), Err(ReadError::Corrupt { index: 4, .. })));
}

#[test]
fn another_format_version_is_refused() {
    let fs = SimFs::new(1);
    three_groups(&fs);
    let path = segment_paths(&fs)[0].clone();
    let mut content = fs.content(&path).unwrap();
    content[12] = 2;
    let crc = crc32c::crc32c(&content[12..128]);
    content[8..12].copy_from_slice(&crc.to_le_bytes());
    fs.put(&path, &content);
    assert!(matches!(try_open(&fs), Err(JournalError::Version { found: 2, supported: 1, .. })));
}

#[test]
fn the_operating_system_s_files_serve_too() {
    use flotilla_storage::fs::RealFs;
    use flotilla_storage::journal::Journal;
    use std::sync::Arc;

    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("journal");
    let (mut journal, _) = Journal::open(Arc::new(RealFs), &dir, options()).unwrap();
    commit(&mut journal, &[birth(1)]);
    for index in 1..=200 {
        commit(&mut journal, &[append(1, 1, index, index), compact(1, index.max(6) - 5, 1)]);
        journal.maintain().unwrap();
    }
    drop(journal);
    let (journal, recovery) = Journal::open(Arc::new(RealFs), &dir, options()).unwrap();
    assert_eq!((recovery.corrupt.len(), recovery.torn_bytes), (0, 0));
    let found = &observed(&journal, &recovery)[&GroupId(1)];
    assert_eq!((found.base, found.last()), ((195, 1), 200));
}
