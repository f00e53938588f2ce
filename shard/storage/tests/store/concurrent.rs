//! Readers on other threads while a writer applies and the checkpointer merges: no row is ever
//! missed, no half of a command ever seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use flotilla_storage::store::{
    CheckpointCompletion, Checkpointed, Checkpointer, Lookup, PageOptions, RowChange, ShardReader,
    StoreError,
};
use flotilla_storage::{GroupId, KeyRange};

use crate::disk::Disk;
use crate::support::{GROUP, metric, open, put};

const COMMANDS: u64 = 2_000;
/// Keys that every command writes, all with the same value: more than a scan reads under one hold
/// of a memtable's lock.
const TWINS: u64 = 300;

#[derive(Default)]
struct Lane {
    applied: AtomicU64,
    checkpoints: AtomicU64,
}

impl CheckpointCompletion for Lane {
    fn checkpointed(&self, done: &[Checkpointed]) {
        for (group, (index, _)) in done {
            assert_eq!(*group, GROUP);
            assert!(self.applied.swap(*index, Ordering::SeqCst) < *index, "reports are in order");
        }
        self.checkpoints.fetch_add(1, Ordering::SeqCst);
    }

    fn failed(&self, error: &StoreError) {
        panic!("no disk fails here: {error}");
    }
}

fn grown(command: u64) -> String {
    format!("grown-{command:08}")
}

/// Reads until told to stop, and returns how often.
fn read(reader: &ShardReader, written: &AtomicU64, stop: &AtomicBool, reverse: bool) -> u64 {
    let options =
        PageOptions { rows_max: usize::MAX, bytes_max: usize::MAX, reverse, keys_only: false };
    let mut rounds = 0;
    while !stop.load(Ordering::SeqCst) {
        rounds += 1;
        let certain = written.load(Ordering::SeqCst);
        let view = reader.view();
        // A key that was written before the view was taken is there, wherever it lies by now.
        for key in [certain, certain / 2, certain.saturating_sub(40), certain.saturating_sub(80)] {
            if key > 0 {
                let row = view.get(grown(key).as_bytes()).unwrap();
                assert!(row.is_some(), "{key} of {certain} is missing");
            }
        }
        let twins = view.page(&KeyRange::prefix("twin-"), options).unwrap().rows;
        assert_eq!(twins.len() as u64, if twins.is_empty() { 0 } else { TWINS });
        assert!(certain == 0 || !twins.is_empty());
        for (_, row) in &twins {
            assert_eq!(row.value, twins[0].1.value, "half a command");
            assert_eq!(row.version, twins[0].1.version, "half a command");
        }
        // Keys that a command replaces by others with one range deletion: always just one is there.
        let passing = view.page(&KeyRange::prefix("passing-"), options).unwrap().rows;
        assert!(passing.len() <= 1, "{passing:?}");
        assert!(certain == 0 || passing.len() == 1);
        if rounds % 16 == 0 {
            let keys_only = PageOptions { keys_only: true, ..options };
            let mut grown_rows = view.page(&KeyRange::prefix("grown-"), keys_only).unwrap().rows;
            if reverse {
                grown_rows.reverse();
            }
            assert!(grown_rows.len() as u64 >= certain);
            for (position, (key, _)) in grown_rows.iter().enumerate() {
                assert_eq!(*key, grown(position as u64 + 1), "no holes");
            }
        }
    }
    rounds
}

#[test]
fn readers_miss_nothing_and_see_no_half_command() {
    let (store, _) = open(&Disk::default()).unwrap();
    let mut shard = store.create_shard(GROUP, KeyRange::whole(), "".into());
    let lane = Arc::new(Lane::default());
    let checkpointer = Checkpointer::start(store.clone(), vec![lane.clone()]).unwrap();
    let handle = checkpointer.handle();
    let written = AtomicU64::new(0);
    let stop = AtomicBool::new(false);

    thread::scope(|scope| {
        let readers: Vec<_> = [false, true]
            .into_iter()
            .map(|reverse| {
                let (reader, written, stop) = (shard.reader(), &written, &stop);
                scope.spawn(move || read(&reader, written, stop, reverse))
            })
            .collect();
        for command in 1..=COMMANDS {
            let mut changes: Vec<RowChange> = (0..TWINS)
                .map(|twin| put(format!("twin-{twin:03}"), command.to_string()))
                .collect();
            changes.push(put(grown(command), "value"));
            changes.push(RowChange::DeleteRange(KeyRange::prefix("passing-")));
            changes.push(put(format!("passing-{}", command % 100), "value"));
            shard.apply(changes);
            written.store(command, Ordering::SeqCst);
            if command % 20 == 0 && shard.frozen_count() < 2 {
                handle.submit(0, vec![shard.freeze((command, 1), "".into(), 0)]);
            }
        }
        handle.submit(0, vec![shard.freeze((COMMANDS + 1, 1), "".into(), 0)]);
        checkpointer.shutdown().unwrap();
        stop.store(true, Ordering::SeqCst);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });

    assert_eq!(lane.applied.load(Ordering::SeqCst), COMMANDS + 1);
    assert!(lane.checkpoints.load(Ordering::SeqCst) > 3, "checkpoints ran beside the readers");
    assert_eq!(shard.frozen_count(), 0);
    assert_eq!(metric(&store, "flotilla_store_memtable_bytes"), shard.memory_bytes() as f64);
    assert_eq!(metric(&store, "flotilla_store_frozen_memtables"), 0.0);
    assert_eq!(shard.view().count(&KeyRange::whole()).unwrap(), COMMANDS + TWINS + 1);
    assert_eq!(shard.keys_estimate(), COMMANDS + TWINS + 1);
}

/// Two lanes, many shards: whatever has queued up goes into one commit, and each lane hears of its
/// own.
#[test]
fn each_lane_is_told_about_its_own_shards() {
    struct Recorder(crossbeam_channel::Sender<Checkpointed>);
    impl CheckpointCompletion for Recorder {
        fn checkpointed(&self, done: &[Checkpointed]) {
            done.iter().for_each(|done| self.0.send(*done).unwrap());
        }
        fn failed(&self, error: &StoreError) {
            panic!("no disk fails here: {error}");
        }
    }

    let disk = Disk::default();
    let (store, _) = open(&disk).unwrap();
    let (even, even_done) = crossbeam_channel::unbounded();
    let (odd, odd_done) = crossbeam_channel::unbounded();
    let checkpointer =
        Checkpointer::start(store.clone(), vec![Arc::new(Recorder(even)), Arc::new(Recorder(odd))])
            .unwrap();
    let mut submitted = [Vec::new(), Vec::new()];
    for number in 1..=20 {
        let mut shard = store.create_shard(GroupId(number), KeyRange::whole(), "".into());
        shard.apply(vec![put("key", number.to_string())]);
        submitted[number as usize % 2].push(shard.freeze((number, 1), "meta".into(), 0));
    }
    let [even_frozen, odd_frozen] = submitted;
    checkpointer.handle().submit(0, even_frozen);
    checkpointer.handle().submit(1, odd_frozen);
    checkpointer.shutdown().unwrap();

    let numbers = |done: crossbeam_channel::Receiver<Checkpointed>| {
        done.iter().map(|(group, (index, _))| (group.0, index)).collect::<Vec<_>>()
    };
    assert_eq!(numbers(even_done), (2..=20).step_by(2).map(|n| (n, n)).collect::<Vec<_>>());
    assert_eq!(numbers(odd_done), (1..=20).step_by(2).map(|n| (n, n)).collect::<Vec<_>>());
    drop(store);
    let (_, states) = open(&disk).unwrap();
    assert_eq!(states.len(), 20);
    assert!(states.iter().all(|state| state.applied == (state.group.0, 1) && state.rows == 1));
}

/// What was merged last is still read from memory, until there is no room for it, and never hides
/// what came later.
#[test]
fn merged_memtables_answer_reads_within_their_limit() {
    let (store, _) = open(&Disk::default()).unwrap();
    let mut shard = store.create_shard(GROUP, KeyRange::whole(), "".into());
    let held_bytes = || metric(&store, "flotilla_store_merged_memtable_bytes");
    shard.apply(vec![put("a", "1"), put("b", "1")]);
    store.checkpoint(&[shard.freeze((1, 1), "".into(), 0)]).unwrap();
    assert!(held_bytes() > 0.0);
    assert!(matches!(shard.lookup(b"a"), Lookup::Row(row) if row.value == "1"));
    shard.apply(vec![put("a", "2"), RowChange::Delete { key: "b".into() }]);
    assert!(matches!(shard.lookup(b"b"), Lookup::Absent));
    store.checkpoint(&[shard.freeze((2, 1), "".into(), 0)]).unwrap();
    assert!(matches!(shard.lookup(b"a"), Lookup::Row(row) if row.value == "2"));
    assert!(matches!(shard.lookup(b"b"), Lookup::Absent));
    assert!(matches!(shard.lookup(b"c"), Lookup::Below));
    assert_eq!(shard.memory_bytes(), 0, "it does not count as unmerged");
    shard.apply(vec![RowChange::DeleteRange(KeyRange::prefix("a"))]);
    assert!(matches!(shard.lookup(b"a"), Lookup::Absent));
    shard.clear();
    assert!(matches!(shard.lookup(b"c"), Lookup::Absent));
    store.checkpoint(&[shard.freeze((3, 1), "".into(), 0)]).unwrap();
    store.release_merged_memtables();
    assert!(matches!(shard.lookup(b"a"), Lookup::Below));
    assert_eq!(held_bytes(), 0.0);
    assert!(shard.view().get(b"a").unwrap().is_none());
}
