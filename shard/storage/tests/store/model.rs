//! Random commands, freezes, checkpoints and reopenings against a plain map, compared after every
//! step through every way of reading; and views that are held across them, which show
//! one state since they were taken.

use std::collections::VecDeque;

use bytes::Bytes;
use flotilla_storage::KeyRange;
use flotilla_storage::store::{PageOptions, Row, RowChange};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::disk::Disk;
use crate::support::{Command, Expected, GROUP, Modelled, check_scan, open};

/// Views that are held at a time.
const HELD_MAX: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Apply(Command),
    Freeze,
    /// Merges all frozen memtables, however many, into one commit.
    Checkpoint,
    Reopen,
    /// Keeps a view of now; of many the oldest is let go.
    Hold,
    Scan(KeyRange, PageOptions),
}

fn key() -> impl Strategy<Value = Bytes> {
    // Few enough that they meet again, and some too long for the inside of a node.
    (vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0), Just(0xff)], 1..4), 0..10).prop_map(
        |(mut key, long)| {
            if long == 0 {
                key.extend_from_slice(&[b'x'; 60]);
            }
            Bytes::from(key)
        },
    )
}

fn range() -> impl Strategy<Value = KeyRange> {
    (key(), proptest::option::weighted(0.8, key())).prop_map(|(a, b)| match b {
        Some(b) => KeyRange::new(a.clone().min(b.clone()), Some(a.max(b))),
        None => KeyRange::new(a, None),
    })
}

fn change() -> impl Strategy<Value = RowChange> {
    let value = prop_oneof![vec(any::<u8>(), 0..20), vec(any::<u8>(), 3000..3001)];
    prop_oneof![
        6 => (key(), value).prop_map(|(key, value)| {
            RowChange::Put { key, value: value.into(), flags: 0, expires_at_ms: None }
        }),
        2 => key().prop_map(|key| RowChange::Delete { key }),
        1 => range().prop_map(RowChange::DeleteRange),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let options = (1usize..6, 1usize..4000, any::<bool>(), any::<bool>()).prop_map(
        |(rows_max, bytes_max, reverse, keys_only)| PageOptions {
            rows_max,
            bytes_max,
            reverse,
            keys_only,
        },
    );
    prop_oneof![
        20 => vec(change(), 0..5).prop_map(|changes| Step::Apply(Command::Changes(changes))),
        1 => Just(Step::Apply(Command::Clear)),
        1 => Just(Step::Apply(Command::Changes(vec![RowChange::DeleteRange(KeyRange::whole())]))),
        4 => Just(Step::Freeze),
        3 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
        3 => Just(Step::Hold),
        4 => (range(), options).prop_map(|(range, options)| Step::Scan(range, options)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_way_of_reading_agrees_with_the_model(steps in vec(step(), 1..80)) {
        let disk = Disk::default();
        let (mut store, _) = open(&disk).unwrap();
        let mut modelled = Modelled::create(&store, GROUP);
        let mut frozen = Vec::new();
        let mut held = VecDeque::new();
        let (rows_max, bytes_max) = (usize::MAX, usize::MAX);
        let all = PageOptions { rows_max, bytes_max, ..PageOptions::default() };
        for step in steps {
            match step {
                Step::Apply(command) => modelled.apply(command),
                Step::Freeze => frozen.push(modelled.freeze()),
                Step::Checkpoint => {
                    store.checkpoint(&frozen).unwrap();
                    frozen.clear();
                }
                Step::Scan(range, options) => {
                    check_scan(&modelled.shard.view(), &range, options, &modelled.rows);
                }
                Step::Hold => {
                    held.push_back((modelled.shard.view(), modelled.log.len()));
                    if held.len() > HELD_MAX {
                        held.pop_front();
                    }
                }
                Step::Reopen => {
                    // Everything that holds the file goes first.
                    held.clear();
                    frozen.clear();
                    let unused = Disk::default();
                    let (elsewhere, _) = open(&unused).unwrap();
                    modelled.shard = elsewhere.create_shard(GROUP, KeyRange::whole(), Bytes::new());
                    drop(std::mem::replace(&mut store, elsewhere));
                    let (reopened, states) = open(&disk).unwrap();
                    store = reopened;
                    modelled.recover(&store, &states);
                }
            }
            assert_eq!(modelled.shard.frozen_count(), frozen.len());
            modelled.check();
            for (view, since) in &held {
                let page = view.page(&KeyRange::whole(), all).unwrap();
                let row = |row: Row| Expected { version: row.version, value: row.value };
                let rows = page.rows.into_iter().map(|(key, found)| (key, row(found))).collect();
                let is_one = modelled.history[*since..].contains(&rows);
                assert!(is_one, "a view shows no state since it was taken: {rows:?}");
            }
        }
    }
}
