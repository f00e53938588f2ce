//! Freeing, rewriting forward, recycling, a full disk.

use std::sync::Arc;

use flotilla_storage::GroupId;
use flotilla_storage::journal::{Change, Journal, JournalOptions, SEGMENT_BYTES_MIN, Write};
use flotilla_storage::sim::SimFs;

use super::support::*;

/// Appends to a busy group, compacting behind, until `segments` more were filled.
fn fill(journal: &mut Journal, group: u64, index: &mut u64, batches: u64) {
    for _ in 0..batches {
        *index += 1;
        commit(journal, &[append(group, 1, *index, *index), compact(group, *index - 1, 1)]);
        journal.maintain().unwrap();
    }
}

#[test]
fn a_slow_group_does_not_pin_the_disk() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1), append(1, 3, 1, 9), compact(1, 4, 3), state(1, "vote")]);
    commit(&mut journal, &[write(1, 0, Change::Suspect), birth(2)]);
    let mut index = 0;
    fill(&mut journal, 2, &mut index, 1000);
    settle(&mut journal);
    let stats = journal.stats();
    assert!(stats.rewritten_bytes > 0 && stats.segments <= 5, "{stats:?}");
    assert!(fs.used_bytes() <= 10 * (64 << 10), "{} bytes", fs.used_bytes());
    let before = journal.reader().read(GroupId(1), 5, 9, 1000).unwrap();
    assert_eq!(before, entries(1, 3, 5, 9));
    fs.crash();
    let (journal, recovery) = open(&fs);
    assert_eq!(recovery.corrupt, []);
    let found = &recovery.groups[&GroupId(1)];
    assert_eq!(found.birth, "born 1");
    assert_eq!(found.state.as_deref(), Some(&b"vote"[..]));
    assert_eq!((found.base, found.last_index, found.suspect), ((4, 3), 9, true));
    assert_eq!(found.term_starts, [(5, 3)]);
    assert_eq!(journal.reader().read(GroupId(1), 5, 9, 1000).unwrap(), before);
    assert_eq!(recovery.groups[&GroupId(2)].last_index, index);
}

#[test]
fn a_copy_never_supersedes_what_is_newer() {
    // A long log in an old segment, rewritten in small steps while the group goes on: its tail is
    // replaced, its state too, its base moves, at every point of the rewriting.
    for steps in 0..12 {
        for kind in 0..4 {
            let fs = SimFs::new(steps);
            let (mut journal, _) = open(&fs);
            let mut model = Model::new();
            let mut round = |journal: &mut Journal, writes: &[Write]| {
                writes.iter().for_each(|write| apply(&mut model, write));
                commit(journal, writes);
                model.clone()
            };
            round(&mut journal, &[birth(1), state(1, "old"), birth(2)]);
            for index in 1..=20 {
                let entries = vec![entry(index, 1, &[index as u8; 500])];
                round(&mut journal, &[write(1, 0, Change::Append { state: None, entries })]);
            }
            let mut index = 0;
            while journal.stats().segments < 4 || journal.stats().rewritten_bytes == 0 {
                index += 1;
                round(&mut journal, &[append(2, 1, index, index), compact(2, index - 1, 1)]);
                journal.maintain().unwrap();
            }
            for _ in 0..steps {
                journal.maintain().unwrap();
            }
            let newer = match kind {
                0 => append(1, 2, 10, 11),
                1 => compact(1, 15, 1),
                2 => compact(1, 30, 7),
                _ => state(1, "new"),
            };
            let mut expected = round(&mut journal, &[newer]);
            for _ in 0..20 {
                index += 1;
                expected =
                    round(&mut journal, &[append(2, 1, index, index), compact(2, index - 1, 1)]);
                journal.maintain().unwrap();
            }
            journal.sync().unwrap();
            fs.crash();
            let (journal, recovery) = open(&fs);
            assert_eq!(recovery.corrupt, []);
            assert_eq!(observed(&journal, &recovery), expected, "{steps} steps, kind {kind}");
        }
    }
}

#[test]
fn freed_files_are_recycled_and_spares_are_bounded() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1)]);
    let mut index = 0;
    for _ in 0..20 {
        fill(&mut journal, 1, &mut index, 60);
        let stats = journal.stats();
        // With more than three the oldest is rewritten.
        assert!(stats.segments <= 4, "{stats:?}");
        // Segments, two spares, the prepared one.
        assert!(fs.used_bytes() <= 7 * (64 << 10), "{}", fs.used_bytes());
        assert_eq!(fs.used_bytes(), stats.disk_bytes);
    }
}

#[test]
fn idle_groups_pin_nothing_however_long_others_write() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    let idle: Vec<u64> = (1..=40).collect();
    for group in &idle {
        let writes = [birth(*group), append(*group, 1, 1, 3), state(*group, "vote")];
        commit(&mut journal, &writes);
    }
    commit(&mut journal, &[birth(100)]);
    let (mut index, mut bytes_max) = (0, 0);
    // Some 130 segments through files for fewer than ten: each is used again many times.
    for _ in 0..20 {
        fill(&mut journal, 100, &mut index, 100);
        bytes_max = bytes_max.max(fs.used_bytes());
        let stats = journal.stats();
        assert!(stats.segments <= 6 && fs.used_bytes() <= 9 * (64 << 10), "{stats:?}");
    }
    assert!(journal.stats().bytes_written > 10 * bytes_max);
    fs.crash();
    let (journal, recovery) = open(&fs);
    assert_eq!(recovery.corrupt, []);
    for group in idle {
        assert_eq!(recovery.groups[&GroupId(group)].state.as_deref(), Some(&b"vote"[..]));
        let read = journal.reader().read(GroupId(group), 1, 3, 1000).unwrap();
        assert_eq!(read, entries(group, 1, 1, 3));
    }
}

#[test]
fn nothing_is_freed_before_what_killed_it_is_durable() {
    let mut survived = 0;
    for seed in 0..100 {
        let fs = SimFs::new(seed);
        let (mut journal, _) = open(&fs);
        commit(&mut journal, &[birth(1)]);
        for index in 1..=60 {
            commit(&mut journal, &[append(1, 1, index, index)]);
        }
        // Zeroing ahead syncs the file as well: it must not come in between.
        journal.maintain().unwrap();
        // Everything in the old segments dies, but nobody syncs that. Were they freed now, the
        // last batch could say so and survive alone, without the death in front of it.
        journal.write(&[write(1, 0, Change::Death)]).unwrap();
        let death = segment_paths(&fs)
            .into_iter()
            .filter_map(|path| Some((batches(&fs, &path).last().copied()?, path)))
            .max()
            .map(|((_, offset, _), path)| (path, offset as usize))
            .unwrap();
        let block = |fs: &SimFs| fs.content(&death.0).unwrap()[death.1..death.1 + 4096].to_vec();
        let written = block(&fs);
        journal.maintain().unwrap();
        journal.write(&[birth(2)]).unwrap();
        fs.crash();
        // A death has no payload: either end of its batch says it all.
        let left = block(&fs);
        let death_survived = left[..512] == written[..512] || left[3584..] == written[3584..];
        let (journal, recovery) = open(&fs);
        assert_eq!(recovery.corrupt, []);
        let found = observed(&journal, &recovery);
        if !death_survived {
            assert_eq!(found[&GroupId(1)].last(), 60, "seed {seed}");
            assert!(!found.contains_key(&GroupId(2)), "seed {seed}: out of order");
            survived += 1;
        }
    }
    assert!(survived > 20, "{survived}");
}

#[test]
fn damage_met_while_rewriting_makes_the_group_suspect() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1), birth(2), birth(3)]);
    commit(&mut journal, &[append(1, 1, 1, 3), append(3, 1, 1, 3)]);
    let path = segment_paths(&fs)[0].clone();
    let content = fs.content(&path).unwrap();
    let at = content.windows(5).position(|bytes| bytes == b"1/2/1").unwrap() as u64;
    fs.flip(&path, at, 1).unwrap();
    let mut index = 0;
    fill(&mut journal, 2, &mut index, 200);
    settle(&mut journal);
    assert_eq!(journal.take_suspected(), [GroupId(1)]);
    assert_eq!(journal.take_suspected(), []);
    assert_eq!(journal.stats().corrupt_records, 1);
    assert!(journal.reader().read(GroupId(1), 1, 3, 100).is_err());
    fs.crash();
    let (journal, recovery) = open(&fs);
    assert!(recovery.groups[&GroupId(1)].suspect);
    assert_eq!(recovery.groups[&GroupId(1)].last_index, 0);
    assert!(!recovery.groups[&GroupId(3)].suspect);
    assert_eq!(journal.reader().read(GroupId(3), 1, 3, 100).unwrap(), entries(3, 1, 1, 3));
}

/// One group keeps its log for a follower that is away, another writes and forgets as fast: what the
/// one keeps lies in every segment. All files together stay within the target and the few segments
/// that are being rewritten, as long as what is kept is cut when the journal asks for it.
#[test]
fn all_files_together_stay_within_the_target() {
    let fs = SimFs::new(1);
    let target = 32 * SEGMENT_BYTES_MIN;
    let options = JournalOptions {
        total_bytes_target: target,
        spare_segments_max: 8,
        reserve_segments: 1,
        rewrite_segments_min: 64,
        ..options()
    };
    let (mut journal, _) = Journal::open(Arc::new(fs.clone()), dir(), options).unwrap();
    journal.tend_reserve().unwrap();
    commit(&mut journal, &[birth(1), birth(2)]);
    let payload = vec![7; 3000];
    let append = |group, index| {
        let entries = vec![entry(index, 1, &payload)];
        write(group, index, Change::Append { state: None, entries })
    };
    let (mut base, mut asked, mut used_max) = (0, 0, 0);
    for index in 1..=4000 {
        commit(&mut journal, &[append(1, index), append(2, index), compact(2, index - 1, 1)]);
        if journal.stats().oversized > 0 {
            assert_eq!(journal.stats().oversized, target);
            let kept = index - target / 2 / payload.len() as u64;
            assert!(kept > base, "what was cut is enough for a while");
            (base, asked) = (kept, asked + 1);
            commit(&mut journal, &[compact(1, base, 1)]);
        }
        journal.maintain().unwrap();
        used_max = used_max.max(fs.used_bytes());
    }
    let stats = journal.stats();
    let most = target + 4 * SEGMENT_BYTES_MIN;
    assert!(used_max <= most, "{used_max} bytes of {target}: {stats:?}");
    assert!(used_max > target / 4 * 3, "{used_max} of {target}: it was never put to the test");
    assert!(asked > 3 && stats.rewritten_bytes > 0, "{asked} times: {stats:?}");
    let kept = journal.reader().read(GroupId(1), base + 1, 4000, u64::MAX).unwrap();
    assert_eq!(kept.len() as u64, 4000 - base);
}
