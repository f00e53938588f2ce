//! A full disk: nothing is lost, nothing stops, and it goes on when there is space.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use flotilla_storage::GroupId;
use flotilla_storage::fs::FileSystem;
use flotilla_storage::journal::{
    Change, Completion, Journal, JournalError, JournalMetrics, JournalOptions, JournalThread,
    Recovery,
};
use flotilla_storage::sim::SimFs;
use parking_lot::Mutex;

use super::support::*;

fn open_with_reserve(fs: &SimFs) -> (Journal, Recovery) {
    let options = JournalOptions { reserve_segments: 1, ..options() };
    Journal::open(Arc::new(fs.clone()), dir(), options).expect("the journal opens")
}

fn is_full(result: &Result<(), JournalError>) -> bool {
    matches!(result, Err(JournalError::Full { .. }))
}

/// Rounds that fill several segments: small ones, and now and then one of several batches.
fn rounds() -> Vec<Vec<flotilla_storage::journal::Write>> {
    let mut rounds = vec![vec![birth(1), birth(2), state(1, "a")]];
    let mut next = 1;
    for round in 0..24 {
        let large = Change::Append {
            state: None,
            entries: (next..next + 6).map(|index| entry(index, 1, &[round; 7000])).collect(),
        };
        let writes = match round % 6 {
            5 => {
                next += 6;
                vec![write(1, 0, large), state(2, "large")]
            }
            3 => vec![compact(1, next - 1, 1), state(2, "b")],
            _ => {
                next += 3;
                vec![append(1, 1, next - 3, next - 1), state(1, "c")]
            }
        };
        rounds.push(writes);
    }
    rounds
}

#[test]
fn space_that_ends_at_any_step_and_returns_loses_and_doubles_nothing() {
    let mut held = 0;
    for step in 0..160 {
        for crash in [false, true] {
            let fs = SimFs::new(step);
            let (mut journal, _) = open(&fs);
            fs.fail_space_after(Some(step));
            let mut model = Model::new();
            // What was there when a sync last succeeded: acknowledged.
            let mut durable = model.clone();
            let mut tries = 0;
            for round in rounds() {
                round.iter().for_each(|write| apply(&mut model, write));
                let mut result = journal.write(&round);
                assert!(result.is_ok() || is_full(&result), "{result:?}");
                result = result.and_then(|()| journal.sync());
                while is_full(&result) {
                    assert!(journal.stats().full);
                    held += 1;
                    tries += 1;
                    if tries == 3 {
                        if crash {
                            break;
                        }
                        fs.fail_space_after(None);
                    }
                    assert!(!journal.maintain().unwrap(), "no haste without space");
                    journal.prove().unwrap();
                    result = journal.sync();
                }
                if is_full(&result) {
                    break;
                }
                result.unwrap();
                durable = model.clone();
                journal.maintain().unwrap();
                if !journal.is_held() {
                    journal.sync().unwrap();
                }
            }
            if !crash {
                let reader = journal.reader();
                for (group, expected) in &durable {
                    if !expected.entries.is_empty() {
                        let (first, last) = (expected.base.0 + 1, expected.last());
                        let read = reader.read(*group, first, last, usize::MAX as u64).unwrap();
                        assert_eq!(read.len() as u64, last - first + 1, "step {step}");
                    }
                }
            }
            fs.fail_space_after(None);
            fs.crash();
            let (journal, recovery) = open(&fs);
            assert_eq!(recovery.corrupt, [], "step {step}, crash {crash}");
            let found = observed(&journal, &recovery);
            // The held round as a whole, or not at all.
            assert!(found == durable || crash && found == model, "step {step}: {found:?}");
        }
    }
    assert!(held > 200, "{held}");
}

#[test]
fn the_reserve_takes_what_the_disk_has_no_space_for() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open_with_reserve(&fs);
    commit(&mut journal, &[birth(1)]);
    journal.tend_reserve().unwrap();
    assert!(!journal.is_reserve_amiss());
    assert_eq!(fs.used_bytes(), journal.stats().disk_bytes);
    assert_eq!(fs.used_bytes(), 2 * (64 << 10), "a segment and the reserve");
    fs.set_capacity_bytes(Some(fs.used_bytes()));
    let (mut index, mut warned_at) = (0, None);
    let error = loop {
        index += 1;
        if let Err(error) = journal.write(&[append(1, 1, index, index)]) {
            break error;
        }
        journal.sync().unwrap();
        journal.maintain().unwrap();
        if journal.stats().full {
            warned_at.get_or_insert(index);
        }
    };
    assert!(matches!(&error, JournalError::Full { dir: full, .. } if *full == dir()), "{error}");
    assert!(warned_at.unwrap() + 18 < index, "warned at {warned_at:?}, full at {index}");
    // There was room for compaction in time, had somebody asked for it; now there is none.
    assert!(is_full(&journal.sync()));
    fs.set_capacity_bytes(None);
    journal.sync().unwrap();
    journal.tend_reserve().unwrap();
    journal.maintain().unwrap();
    assert!(!journal.stats().full);
    fs.crash();
    let (journal, recovery) = open_with_reserve(&fs);
    assert!(!journal.is_reserve_amiss(), "the reserve is found again");
    assert_eq!(recovery.groups[&GroupId(1)].last_index, index);
    assert_eq!(recovery.corrupt, []);
}

#[test]
fn a_journal_on_its_reserve_that_is_compacted_goes_on_for_ever() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open_with_reserve(&fs);
    commit(&mut journal, &[birth(1)]);
    journal.tend_reserve().unwrap();
    fs.set_capacity_bytes(Some(fs.used_bytes()));
    for index in 1..=500 {
        commit(&mut journal, &[append(1, 1, index, index), compact(1, index - 1, 1)]);
        journal.maintain().unwrap();
        journal.tend_reserve().unwrap();
    }
    assert!(journal.stats().full, "it lives on what it frees");
    fs.set_capacity_bytes(None);
    journal.tend_reserve().unwrap();
    assert!(!journal.stats().full && !journal.is_reserve_amiss());
}

#[test]
fn freed_segments_are_usable_though_every_other_byte_is_taken() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open(&fs);
    commit(&mut journal, &[birth(1)]);
    fs.set_capacity_bytes(Some(fs.used_bytes() + (64 << 10)));
    // Two segments to the last block for records; the news that the first is free needs a batch.
    let mut index = 0;
    while journal.stats().bytes_written < 29 * 4096 {
        index += 1;
        commit(&mut journal, &[append(1, 1, index, index)]);
        journal.maintain().unwrap();
    }
    commit(
        &mut journal,
        &[state(1, "on"), birth(2), compact(1, index, 1), write(1, 0, Change::Death)],
    );
    for index in 1..=100 {
        commit(&mut journal, &[append(2, 1, index, index), compact(2, index - 1, 1)]);
        journal.maintain().unwrap();
    }
    fs.crash();
    fs.set_capacity_bytes(None);
    let (_, recovery) = open(&fs);
    assert_eq!(recovery.groups[&GroupId(2)].last_index, 100);
}

#[test]
fn a_reserve_that_others_need_is_given_up_and_made_again() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open_with_reserve(&fs);
    commit(&mut journal, &[birth(1)]);
    for index in 1..=100 {
        commit(&mut journal, &[append(1, 1, index, index), compact(1, index - 1, 1)]);
        journal.maintain().unwrap();
    }
    journal.tend_reserve().unwrap();
    let before = fs.used_bytes();
    journal.want_reserve(false);
    journal.tend_reserve().unwrap();
    assert!(fs.used_bytes() + 2 * (64 << 10) <= before, "the reserve, and at least a spare");
    assert_eq!(fs.used_bytes(), journal.stats().disk_bytes);
    assert!(!journal.stats().full, "given away is not full");
    journal.want_reserve(true);
    journal.tend_reserve().unwrap();
    assert!(!journal.is_reserve_amiss());
    assert!(fs.list(&dir()).unwrap().contains(&"reserve".to_string()));
}

#[test]
fn a_journal_opens_on_a_full_disk_as_long_as_it_has_its_reserve() {
    let fs = SimFs::new(1);
    let (mut journal, _) = open_with_reserve(&fs);
    commit(&mut journal, &[birth(1), append(1, 1, 1, 5)]);
    journal.tend_reserve().unwrap();
    fs.set_capacity_bytes(Some(fs.used_bytes()));
    fs.crash();
    let (mut journal, recovery) = open_with_reserve(&fs);
    assert_eq!(recovery.groups[&GroupId(1)].last_index, 5);
    assert!(journal.stats().full);
    commit(&mut journal, &[append(1, 1, 6, 6)]);
    fs.crash();
    let full = Journal::open(Arc::new(fs.clone()), dir(), options()).map(|_| ());
    assert!(is_full(&full), "{full:?}");
    fs.set_capacity_bytes(None);
    let (_, recovery) = open_with_reserve(&fs);
    assert_eq!(recovery.groups[&GroupId(1)].last_index, 6);
}

struct Lane {
    sender: Mutex<Sender<Result<usize, String>>>,
}

impl Completion for Lane {
    fn durable(&self, done: &[(GroupId, u64)]) {
        let _ = self.sender.lock().send(Ok(done.len()));
    }

    fn failed(&self, error: &JournalError) {
        let _ = self.sender.lock().send(Err(error.to_string()));
    }
}

#[test]
fn the_thread_holds_what_it_was_given_and_reports_it_when_there_is_space() {
    let fs = SimFs::new(1);
    let (journal, _) = open(&fs);
    let (sender, told) = channel();
    let lane: Arc<dyn Completion> = Arc::new(Lane { sender: Mutex::new(sender) });
    let (handle, thread) = JournalThread::start(journal, vec![lane], JournalMetrics::new());
    let health = handle.health();
    handle.submit(0, vec![birth(1)]);
    assert_eq!(told.recv().unwrap(), Ok(1));
    assert!(!health.is_full());
    fs.fail_space_after(Some(0));
    handle.submit(0, vec![append(1, 1, 1, 1)]);
    while !health.is_full() || health.oldest_wait_ms() == 0 {
        std::thread::yield_now();
    }
    handle.submit(0, vec![append(1, 1, 2, 2)]);
    assert!(told.try_recv().is_err(), "nothing is durable");
    fs.fail_space_after(None);
    assert_eq!(told.recv().unwrap(), Ok(1));
    assert_eq!(told.recv().unwrap(), Ok(1));
    while health.is_full() {
        std::thread::yield_now();
    }
    assert_eq!(health.oldest_wait_ms(), 0);
    thread.shutdown().unwrap();
    fs.crash();
    let (_, recovery) = open(&fs);
    assert_eq!(recovery.groups[&GroupId(1)].last_index, 2);
}

#[test]
fn a_thread_without_space_can_be_shut_down() {
    let fs = SimFs::new(1);
    let (journal, _) = open(&fs);
    let (sender, told) = channel();
    let lane: Arc<dyn Completion> = Arc::new(Lane { sender: Mutex::new(sender) });
    let (handle, thread) = JournalThread::start(journal, vec![lane], JournalMetrics::new());
    fs.fail_space_after(Some(0));
    handle.submit(0, vec![birth(1)]);
    while !handle.health().is_full() {
        std::thread::yield_now();
    }
    assert!(is_full(&thread.shutdown()));
    assert!(told.recv().unwrap().unwrap_err().contains("no space"));
    assert!(told.try_recv().is_err(), "told once, and nothing was reported");
}
