//! Damage anywhere: no panic, no wrong data, and no harm to groups that were not hit.

use flotilla_storage::journal::{Change, ReadError};
use flotilla_storage::sim::SimFs;
use proptest::prelude::*;

use super::support::*;

/// A small journal of two groups in several batches, proven to its end.
fn small_journal() -> SimFs {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1), birth(2), append(1, 1, 1, 3)]);
    commit(&mut journal, &[append(2, 1, 1, 2), state(1, "a")]);
    commit(&mut journal, &[append(1, 2, 3, 5), compact(2, 1, 1), state(2, "b")]);
    commit(&mut journal, &[append(1, 2, 6, 6), append(2, 2, 3, 3)]);
    journal.prove().unwrap();
    fs
}

#[test]
fn a_flipped_byte_anywhere_serves_nothing_wrong() {
    let pristine = small_journal();
    let path = segment_paths(&pristine)[0].clone();
    let content = pristine.content(&path).unwrap();
    let (_, offset, length) = *batches(&pristine, &path).last().unwrap();
    let end = offset + length;
    let expected = {
        let fs = SimFs::new(1);
        fs.put(&path, &content);
        let (journal, recovery) = open(&fs);
        observed(&journal, &recovery)
    };
    let (mut harmless, mut harmful) = (0, 0);
    // Every byte that means something; of the long padding every 61st.
    let padding = |at: u64| {
        let at = at as usize;
        content[at.saturating_sub(60)..(at + 60).min(content.len())].iter().all(|byte| *byte == 0)
    };
    for at in (0..end).filter(|at| !padding(*at) || at % 61 == 0) {
        let fs = SimFs::new(1);
        fs.put(&path, &content);
        fs.flip(&path, at, 1 << (at % 8)).unwrap();
        let (journal, recovery) = open(&fs);
        let suspects = recovery.groups.values().filter(|group| group.suspect).count();
        if suspects == 0 && recovery.groups.len() == 2 {
            assert_eq!(observed(&journal, &recovery), expected, "byte {at}");
            harmless += 1;
            continue;
        }
        harmful += 1;
        assert!(suspects <= 1, "byte {at}: a payload byte harms one group");
        assert!(recovery.corrupt.iter().any(|found| found.harmful), "byte {at}");
        for (id, group) in observed(&journal, &recovery) {
            let wanted = &expected[&id];
            if !group.suspect {
                assert_eq!(&group, wanted, "byte {at}: {id} was not hit");
                continue;
            }
            // What a suspect still has is true as far as it goes.
            assert!(group.birth == wanted.birth || group.birth.is_empty());
            assert!(group.state == wanted.state || group.state.is_none());
            for index in group.base.0 + 1..=group.last() {
                let has = &group.entries[(index - group.base.0 - 1) as usize];
                let original = entries(id.0, has.0, index, index);
                assert_eq!(has.1, original[0].payload, "byte {at}: {id} index {index}");
            }
        }
    }
    // Headers and directories exist twice; only payload bytes that still count do harm.
    assert!(harmful > 50 && harmless > 10 * harmful, "{harmful} harmful, {harmless} harmless");
}

#[test]
fn a_flipped_byte_under_a_running_journal_is_never_served() {
    let fs = small_journal();
    let (journal, recovery) = open(&fs);
    let expected = observed(&journal, &recovery);
    let reader = journal.reader();
    let path = segment_paths(&fs)[0].clone();
    let (_, offset, length) = *batches(&fs, &path).last().unwrap();
    let mut refused = 0;
    for at in (0..offset + length).step_by(3) {
        fs.flip(&path, at, 0x10).unwrap();
        for (id, group) in &expected {
            for index in group.base.0 + 1..=group.last() {
                match reader.read(*id, index, index, 100) {
                    Ok(read) => assert_eq!(
                        (read[0].term, &read[0].payload),
                        (
                            group.term_at(index).unwrap(),
                            &group.entries[(index - group.base.0 - 1) as usize].1
                        )
                    ),
                    Err(ReadError::Corrupt { .. }) => refused += 1,
                    Err(other) => panic!("{other}"),
                }
            }
        }
        fs.flip(&path, at, 0x10).unwrap();
    }
    assert!(refused > 0);
}

#[test]
fn a_lost_block_harms_the_groups_in_it_and_recovery_converges() {
    let pristine = small_journal();
    let path = segment_paths(&pristine)[0].clone();
    let content = pristine.content(&path).unwrap();
    for block in 0..6 {
        let fs = SimFs::new(1);
        let mut damaged = content.clone();
        damaged[block * 4096..(block + 1) * 4096].fill(0xaa);
        fs.put(&path, &damaged);
        let (mut journal, first) = open(&fs);
        for (id, group) in &first.groups {
            if group.last_index > group.base.0 {
                journal.reader().read(*id, group.base.0 + 1, group.last_index, 1000).unwrap();
            }
        }
        // Life goes on, for the suspects too.
        for (id, group) in &first.groups {
            commit(&mut journal, &[append(id.0, 9, group.last_index + 1, group.last_index + 1)]);
        }
        settle(&mut journal);
        fs.crash();
        let (_, second) = open(&fs);
        for (id, group) in &second.groups {
            assert_eq!(group.suspect, first.groups[id].suspect, "block {block}, {id}");
            assert_eq!(group.last_index, first.groups[id].last_index + 1, "block {block}, {id}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_files_never_panic(
        files in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9000), 0..4),
        number in 0u64..3,
    ) {
        let fs = SimFs::new(1);
        for (at, content) in files.iter().enumerate() {
            fs.put(&dir().join(format!("{:016x}.segment", number + at as u64)), content);
        }
        let (_, recovery) = open(&fs);
        prop_assert_eq!(recovery.groups.len(), 0);
    }

    /// Bytes of a real journal, damaged and shuffled with valid checksums left in place.
    #[test]
    fn damaged_and_shuffled_blocks_never_panic(
        blocks in prop::collection::vec(0usize..16, 1..24),
        flips in prop::collection::vec((0u64..24 * 4096, any::<u8>()), 0..6),
        number in 1u64..3,
    ) {
        let pristine = small_journal();
        let path = segment_paths(&pristine)[0].clone();
        let content = pristine.content(&path).unwrap();
        let mut shuffled = Vec::new();
        for block in &blocks {
            shuffled.extend_from_slice(&content[block * 4096..(block + 1) * 4096]);
        }
        for (at, mask) in flips {
            let at = at as usize % shuffled.len();
            shuffled[at] ^= mask;
        }
        let fs = SimFs::new(1);
        fs.put(&dir().join(format!("{number:016x}.segment")), &shuffled);
        let (mut journal, recovery) = open(&fs);
        for (id, group) in &recovery.groups {
            if group.last_index > group.base.0 {
                let _ = journal.reader().read(*id, group.base.0 + 1, group.last_index, 1000);
            }
            commit(&mut journal, &[append(id.0, 9, group.last_index + 1, group.last_index + 1)]);
        }
        let _ = open(&fs);
    }

    /// Headers with valid checksums but hostile fields.
    #[test]
    fn forged_headers_never_panic(
        fields in prop::collection::vec((0usize..14, prop::sample::select(vec![
            0u64, 1, 2, 3, 4, 5, 100, 4096, u64::MAX, u64::MAX / 2, 1 << 61, 1 << 62,
        ])), 1..5),
        batch in 0usize..6,
    ) {
        const OFFSETS: [(usize, usize); 14] = [
            (14, 2), (16, 8), (32, 4), (36, 4), (40, 8), (48, 8), (56, 8), (64, 8), (72, 8),
            (80, 8), (88, 8), (96, 8), (104, 4), (112, 4),
        ];
        let fs = small_journal();
        let path = segment_paths(&fs)[0].clone();
        let (_, offset, length) = batches(&fs, &path)[batch % batches(&fs, &path).len()];
        let mut content = fs.content(&path).unwrap();
        for start in [offset as usize, (offset + length) as usize - 128] {
            let header = &mut content[start..start + 128];
            for (field, value) in &fields {
                let (at, len) = OFFSETS[*field];
                header[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
            }
            let crc = crc32c::crc32c(&header[12..]);
            header[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        fs.put(&path, &content);
        let (mut journal, recovery) = open(&fs);
        for id in recovery.groups.keys() {
            commit(&mut journal, &[write(id.0, 0, Change::Suspect)]);
        }
        let (_, again) = open(&fs);
        prop_assert!(again.groups.keys().eq(recovery.groups.keys()));
        prop_assert!(again.groups.values().all(|group| group.suspect));
    }
}
