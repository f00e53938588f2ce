//! The thread: order, one report per lane and sync, failure, shutdown.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use flotilla_storage::GroupId;
use flotilla_storage::journal::{
    Change, Completion, JournalError, JournalHandle, JournalMetrics, JournalThread, Write,
};
use flotilla_storage::sim::SimFs;
use parking_lot::Mutex;
use prometheus::{Encoder, Registry, TextEncoder};

use super::support::*;

#[derive(Debug, PartialEq)]
enum Told {
    Durable(Vec<(u64, u64)>),
    Failed,
}

struct Lane {
    sender: Mutex<Sender<Told>>,
}

impl Completion for Lane {
    fn durable(&self, done: &[(GroupId, u64)]) {
        let done = done.iter().map(|(group, ticket)| (group.0, *ticket)).collect();
        let _ = self.sender.lock().send(Told::Durable(done));
    }

    fn failed(&self, _: &JournalError) {
        let _ = self.sender.lock().send(Told::Failed);
    }
}

fn start(fs: &SimFs, lanes: usize) -> (JournalHandle, JournalThread, Vec<Receiver<Told>>) {
    let (journal, _) = open(fs);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..lanes).map(|_| channel()).unzip();
    let completions = senders
        .into_iter()
        .map(|sender| Arc::new(Lane { sender: Mutex::new(sender) }) as Arc<dyn Completion>);
    let (handle, thread) =
        JournalThread::start(journal, completions.collect(), JournalMetrics::new());
    (handle, thread, receivers)
}

fn ticketed(ticket: u64, write: Write) -> Write {
    Write { ticket, ..write }
}

#[test]
fn tickets_come_back_in_order_and_only_to_their_lane() {
    let fs = SimFs::new(1);
    let (handle, thread, lanes) = start(&fs, 2);
    let mut submitters = Vec::new();
    for lane in 0..2 {
        let handle = handle.clone();
        submitters.push(std::thread::spawn(move || {
            let group = lane as u64 + 1;
            handle.submit(lane, vec![ticketed(0, birth(group))]);
            for ticket in 1..=200 {
                handle.submit(lane, vec![ticketed(ticket, append(group, 1, ticket, ticket))]);
            }
        }));
    }
    submitters.into_iter().for_each(|submitter| submitter.join().unwrap());
    thread.shutdown().unwrap();
    for (lane, told) in lanes.into_iter().enumerate() {
        let done: Vec<(u64, u64)> = told
            .iter()
            .flat_map(|told| match told {
                Told::Durable(done) => done,
                Told::Failed => panic!("nothing failed"),
            })
            .collect();
        let expected: Vec<(u64, u64)> = (0..=200).map(|ticket| (lane as u64 + 1, ticket)).collect();
        assert_eq!(done, expected);
    }
    fs.crash();
    let (_, recovery) = open(&fs);
    assert_eq!(recovery.groups.len(), 2);
    assert!(recovery.groups.values().all(|group| group.last_index == 200));
}

#[test]
fn what_gathers_during_a_sync_shares_the_next_one() {
    let fs = SimFs::new(1);
    let (handle, thread, lanes) = start(&fs, 2);
    fs.stall();
    handle.submit(0, vec![ticketed(0, birth(1))]);
    // Wait, without a clock, until the thread is in the sync of that round: it alone writes.
    while fs.content(&segment_paths(&fs)[0]).unwrap()[4096..4100] == [0; 4] {
        std::thread::yield_now();
    }
    for ticket in 1..=50 {
        handle.submit(0, vec![ticketed(ticket, append(1, 1, ticket, ticket))]);
    }
    handle.submit(1, vec![ticketed(51, append(1, 1, 51, 51))]);
    fs.resume();
    assert_eq!(lanes[0].recv().unwrap(), Told::Durable(vec![(1, 0)]));
    let expected = (1..=50).map(|ticket| (1, ticket)).collect();
    assert_eq!(lanes[0].recv().unwrap(), Told::Durable(expected), "one report for the lane");
    assert_eq!(lanes[1].recv().unwrap(), Told::Durable(vec![(1, 51)]));
    thread.shutdown().unwrap();
}

#[test]
fn small_writes_do_not_wait_for_large_ones_of_other_groups() {
    let fs = SimFs::new(1);
    let (handle, thread, lanes) = start(&fs, 1);
    fs.stall();
    handle.submit(0, vec![ticketed(0, birth(1)), ticketed(0, birth(2))]);
    while fs.content(&segment_paths(&fs)[0]).unwrap()[4096..4100] == [0; 4] {
        std::thread::yield_now();
    }
    let large = |ticket: u64, from: u64| {
        let entries = (from..from + 10).map(|index| entry(index, 1, &[1; 30_000])).collect();
        write(1, ticket, Change::Append { state: None, entries })
    };
    handle.submit(0, vec![large(1, 1)]);
    handle.submit(0, vec![ticketed(2, append(1, 1, 11, 11)), ticketed(1, append(2, 1, 1, 1))]);
    handle.submit(0, vec![ticketed(2, append(2, 1, 2, 2)), large(3, 12)]);
    fs.resume();
    let told =
        |done: &[(u64, u64)]| assert_eq!(lanes[0].recv().unwrap(), Told::Durable(done.into()));
    told(&[(1, 0), (2, 0)]);
    told(&[(2, 1), (2, 2)]);
    told(&[(1, 1), (1, 2), (1, 3)]);
    // Nor does a shutdown forget those that wait.
    handle.submit(0, vec![large(4, 22)]);
    thread.shutdown().unwrap();
    told(&[(1, 4)]);
    fs.crash();
    let (_, recovery) = open(&fs);
    let last = |group| recovery.groups[&GroupId(group)].last_index;
    assert_eq!((last(1), last(2)), (31, 2));
}

#[test]
fn nothing_is_reported_before_its_sync_and_a_failed_one_stops_everything() {
    let fs = SimFs::new(1);
    let (handle, thread, lanes) = start(&fs, 2);
    handle.submit(0, vec![ticketed(1, birth(1))]);
    assert_eq!(lanes[0].recv().unwrap(), Told::Durable(vec![(1, 1)]));
    fs.fail_sync_after(0);
    handle.submit(0, vec![ticketed(2, append(1, 1, 1, 1))]);
    assert_eq!(lanes[0].recv().unwrap(), Told::Failed);
    assert_eq!(lanes[1].recv().unwrap(), Told::Failed);
    handle.submit(0, vec![ticketed(3, append(1, 1, 2, 2))]);
    assert!(matches!(thread.shutdown(), Err(JournalError::Io { .. })));
    assert!(lanes[0].recv().is_err(), "told once, and nothing after it");
}

#[test]
fn the_idle_thread_proves_its_last_batch() {
    let fs = SimFs::new(1);
    let (handle, thread, lanes) = start(&fs, 1);
    handle.submit(0, vec![ticketed(1, birth(1))]);
    assert_eq!(lanes[0].recv().unwrap(), Told::Durable(vec![(1, 1)]));
    let path = segment_paths(&fs)[0].clone();
    while batches(&fs, &path).len() < 3 {
        std::thread::yield_now();
    }
    drop(handle);
    thread.shutdown().unwrap();
    assert_eq!(batches(&fs, &path).len(), 3, "proven once");
}

#[test]
fn a_broken_caller_stops_the_thread_loudly() {
    let fs = SimFs::new(1);
    let (handle, thread, lanes) = start(&fs, 1);
    handle.submit(0, vec![ticketed(1, append(7, 1, 1, 1))]);
    assert_eq!(lanes[0].recv().unwrap(), Told::Failed);
    assert!(matches!(thread.shutdown(), Err(JournalError::Stopped { .. })));
}

#[test]
fn metrics_count_what_happens() {
    let fs = SimFs::new(1);
    let (journal, _) = open(&fs);
    let metrics = JournalMetrics::new();
    let registry = Registry::new();
    metrics.register(&registry).unwrap();
    let (sender, told) = channel();
    let lane: Arc<dyn Completion> = Arc::new(Lane { sender: Mutex::new(sender) });
    let (handle, thread) = JournalThread::start(journal, vec![lane], metrics);
    handle.submit(0, vec![ticketed(1, birth(1)), ticketed(2, append(1, 1, 1, 5))]);
    told.recv().unwrap();
    thread.shutdown().unwrap();
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for line in [
        "flotilla_journal_sync_duration_seconds_count 1",
        "flotilla_journal_wait_duration_seconds_count 1",
        "flotilla_journal_batch_records_sum 2",
        "flotilla_journal_batch_bytes_sum 4096",
        "flotilla_journal_corrupt_records_total 0",
        "flotilla_journal_segments 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
