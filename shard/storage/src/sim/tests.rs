//! The simulated disk keeps what a real one keeps, and loses what a real one may lose.

use super::*;
use crate::fs::read_exact_at;

fn dir() -> PathBuf {
    PathBuf::from("/data")
}

fn with_file(seed: u64) -> (SimFs, Arc<dyn File>, PathBuf) {
    let fs = SimFs::new(seed);
    fs.create_dir_all(&dir()).unwrap();
    let path = dir().join("a");
    let file = fs.create(&path).unwrap();
    (fs, file, path)
}

#[test]
fn synced_bytes_under_a_synced_name_survive_power_loss() {
    for seed in 0..50 {
        let (fs, file, path) = with_file(seed);
        file.write_all_at(&[7; 10_000], 0).unwrap();
        file.sync_data().unwrap();
        fs.sync_dir(&dir()).unwrap();
        file.write_all_at(&[8; 100], 20_000).unwrap();
        fs.crash();
        assert!(file.len().is_err(), "a handle of a dead process");
        let content = fs.content(&path).unwrap();
        assert_eq!(content[..10_000], [7; 10_000]);
    }
}

#[test]
fn unsynced_writes_are_lost_kept_and_torn() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let (fs, file, path) = with_file(seed);
        file.write_all_at(&[1; 4096], 0).unwrap();
        file.sync_data().unwrap();
        fs.sync_dir(&dir()).unwrap();
        file.write_all_at(&[2; 4096], 0).unwrap();
        fs.crash();
        let content = fs.content(&path).unwrap();
        for sector in content.chunks(SECTOR_BYTES) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a torn sector");
        }
        match content.iter().filter(|byte| **byte == 2).count() {
            0 => lost += 1,
            4096 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 20 && kept > 20 && torn > 20, "{lost} lost, {kept} kept, {torn} torn");
}

#[test]
fn a_name_without_directory_sync_may_be_lost_with_every_synced_byte() {
    let survived = (0..100).filter(|seed| {
        let (fs, file, path) = with_file(*seed);
        file.write_all_at(&[1], 0).unwrap();
        file.sync_data().unwrap();
        fs.crash();
        fs.content(&path).is_ok()
    });
    let survived = survived.count();
    assert!((20..80).contains(&survived), "{survived} of 100");
}

#[test]
fn a_kill_keeps_the_cache_and_leaves_it_unsynced() {
    let mut lost = 0;
    for seed in 0..50 {
        let (fs, file, path) = with_file(seed);
        file.sync_data().unwrap();
        fs.sync_dir(&dir()).unwrap();
        file.write_all_at(&[5; 10], 0).unwrap();
        fs.kill();
        assert_eq!(fs.content(&path).unwrap(), [5; 10]);
        fs.crash();
        lost += u32::from(fs.content(&path).unwrap() != [5; 10]);
    }
    assert!(lost > 10, "{lost}");
}

#[test]
fn repeating_a_failed_sync_makes_nothing_durable() {
    let lost = (0..100).filter(|seed| {
        let (fs, file, path) = with_file(*seed);
        file.allocate(4096).unwrap();
        file.sync_data().unwrap();
        fs.sync_dir(&dir()).unwrap();
        file.write_all_at(&[9; 4096], 0).unwrap();
        fs.fail_sync_after(0);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        fs.crash();
        fs.content(&path).unwrap() != [9; 4096]
    });
    let lost = lost.count();
    assert!((20..80).contains(&lost), "{lost} of 100");
}

#[test]
fn a_full_disk_refuses_what_was_not_reserved() {
    let (fs, file, _) = with_file(1);
    fs.set_capacity_bytes(Some(8192));
    file.allocate(8192).unwrap();
    file.write_all_at(&[1; 8192], 0).unwrap();
    let error = file.write_all_at(&[1], 8192).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn damage_shows_and_locks_hold() {
    let (fs, file, path) = with_file(1);
    file.write_all_at(&[1; 5000], 0).unwrap();
    fs.flip(&path, 4999, 0x80).unwrap();
    let mut byte = [0];
    read_exact_at(file.as_ref(), &mut byte, 4999).unwrap();
    assert_eq!(byte, [0x81]);
    fs.fail_reads(&path, 4999).unwrap();
    assert!(file.read_at(&mut byte, 4999).is_err());
    assert!(file.read_at(&mut byte, 0).is_ok());

    let lock = fs.try_lock(&dir()).unwrap();
    assert!(matches!(fs.try_lock(&dir()), Err(LockError::Held { .. })));
    drop(lock);
    drop(fs.try_lock(&dir()).unwrap());
}

#[test]
fn a_cut_file_reads_as_zero_when_it_grows_again() {
    let (_, file, _) = with_file(1);
    file.write_all_at(&[1; 10_000], 0).unwrap();
    file.set_len(5000).unwrap();
    file.set_len(10_000).unwrap();
    let mut bytes = [7; 10_000];
    read_exact_at(file.as_ref(), &mut bytes, 0).unwrap();
    assert!(bytes[..5000].iter().all(|byte| *byte == 1));
    assert!(bytes[5000..].iter().all(|byte| *byte == 0));
}

#[test]
fn space_may_end_at_any_operation_and_in_the_middle_of_a_write() {
    let mut partly = 0;
    for seed in 0..50 {
        let (fs, file, path) = with_file(seed);
        file.allocate(8192).unwrap();
        fs.fail_space_after(Some(1));
        file.write_all_at(&[1; 100], 0).unwrap();
        let error = file.write_all_at(&[2; 4096], 4096).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let full = fs.create(&dir().join("b")).map(|_| ()).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        let written = fs.content(&path).unwrap()[4096..].iter().filter(|byte| **byte == 2).count();
        partly += u32::from((1..4096).contains(&written));
        file.sync_data().unwrap();
        fs.fail_space_after(None);
        file.write_all_at(&[2; 4096], 4096).unwrap();
    }
    assert!(partly > 40, "{partly}");
}
