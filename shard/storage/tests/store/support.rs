//! Shards, commands and a model of them, for all tests.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_storage::store::{
    Frozen, PageOptions, RowChange, Shard, ShardState, Store, StoreError, StoreMetrics,
    StoreOptions, View,
};
use flotilla_storage::{GroupId, KeyRange};

use crate::disk::Disk;

pub const GROUP: GroupId = GroupId(7);

pub fn open(disk: &Disk) -> Result<(Store, Vec<ShardState>), StoreError> {
    let options = StoreOptions { cache_bytes: 4 << 20, ..StoreOptions::default() };
    Store::open_file(disk.file(), options, StoreMetrics::new())
}

/// The same of a store that was there before.
pub fn open_known(disk: &Disk) -> Result<(Store, Vec<ShardState>), StoreError> {
    let options =
        StoreOptions { cache_bytes: 4 << 20, must_exist: true, ..StoreOptions::default() };
    Store::open_file(disk.file(), options, StoreMetrics::new())
}

/// The value of one of the store's counters or gauges, over all its labels.
pub fn metric(store: &Store, name: &str) -> f64 {
    let registry = prometheus::Registry::new();
    store.metrics().register(&registry).unwrap();
    let family = registry.gather().into_iter().find(|family| family.name() == name);
    let family = family.unwrap_or_else(|| panic!("no metric {name}"));
    family
        .get_metric()
        .iter()
        .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
        .sum()
}

pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> RowChange {
    RowChange::Put { key: key.into(), value: value.into(), flags: 0, expires_at_ms: None }
}

pub fn delete(key: impl Into<Bytes>) -> RowChange {
    RowChange::Delete { key: key.into() }
}

/// A command as the log would hold it.
#[derive(Clone, Debug)]
pub enum Command {
    Changes(Vec<RowChange>),
    Clear,
}

/// What a row should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub version: u64,
    pub value: Bytes,
}

/// A shard with its log, and what it should hold after each command.
pub struct Modelled {
    pub group: GroupId,
    pub shard: Shard,
    pub log: Vec<Command>,
    pub rows: BTreeMap<Bytes, Expected>,
    /// States after 0, 1, 2, … commands.
    pub history: Vec<BTreeMap<Bytes, Expected>>,
}

impl Modelled {
    pub fn create(store: &Store, group: GroupId) -> Modelled {
        Modelled {
            group,
            shard: store.create_shard(group, KeyRange::whole(), Bytes::new()),
            log: Vec::new(),
            rows: BTreeMap::new(),
            history: vec![BTreeMap::new()],
        }
    }

    pub fn apply(&mut self, command: Command) {
        let version = apply(&mut self.shard, &command);
        match &command {
            Command::Clear => self.rows.clear(),
            Command::Changes(changes) => {
                for change in changes {
                    match change {
                        RowChange::Put { key, value, .. } => {
                            let row = Expected { version, value: value.clone() };
                            self.rows.insert(key.clone(), row);
                        }
                        RowChange::Delete { key } => {
                            self.rows.remove(key);
                        }
                        RowChange::DeleteRange(range) => {
                            self.rows.retain(|key, _| !range.contains(key));
                        }
                    }
                }
            }
        }
        self.log.push(command);
        self.history.push(self.rows.clone());
    }

    /// Index and term of the last command; the term is made up from the index.
    pub fn applied(&self) -> (u64, u64) {
        position(self.log.len())
    }

    pub fn freeze(&mut self) -> Frozen {
        let meta = Bytes::from(format!("meta {}", self.log.len()));
        self.shard.freeze(self.applied(), meta, 0)
    }

    /// Opens the shard again from what the store has of it, and replays the rest of the log.
    pub fn recover(&mut self, store: &Store, states: &[ShardState]) {
        let state = states.iter().find(|state| state.group == self.group);
        self.shard = match state {
            None => store.create_shard(self.group, KeyRange::whole(), Bytes::new()),
            Some(state) => {
                let index = state.applied.0 as usize;
                assert_eq!(state.applied, position(index));
                assert_eq!(state.meta, format!("meta {index}"));
                assert!(index < self.history.len(), "the store is ahead of the log");
                let shard = store.open_shard(state, KeyRange::whole());
                // Exactly the rows of the applied index: neither behind nor ahead.
                check(&shard.view(), &self.history[index]);
                assert_eq!(shard.keys_estimate(), self.history[index].len() as u64);
                shard
            }
        };
        let replay_from = state.map_or(0, |state| state.applied.0 as usize);
        for command in &self.log[replay_from..] {
            apply(&mut self.shard, command);
        }
        check(&self.shard.view(), &self.rows);
    }

    pub fn check(&self) {
        check(&self.shard.view(), &self.rows);
    }
}

fn position(index: usize) -> (u64, u64) {
    (index as u64, index as u64 / 10 + 1)
}

fn apply(shard: &mut Shard, command: &Command) -> u64 {
    match command {
        Command::Clear => shard.clear(),
        Command::Changes(changes) => shard.apply(changes.clone()),
    }
}

/// Walks `range` page by page.
pub fn scan(view: &View, range: &KeyRange, options: PageOptions) -> Vec<(Bytes, Expected)> {
    let mut rows = Vec::new();
    let mut rest = Some(range.clone());
    while let Some(range) = rest {
        let page = view.page(&range, options).unwrap();
        assert!(page.rows.len() <= options.rows_max.max(1));
        assert!(page.more.is_none() || !page.rows.is_empty(), "a page makes progress");
        assert!(page.rows.iter().all(|(key, _)| range.contains(key)));
        rows.extend(page.rows.into_iter().map(|(key, row)| {
            assert!(!options.keys_only || row.value.is_empty());
            (key, Expected { version: row.version, value: row.value })
        }));
        rest = page.more;
    }
    rows
}

/// Compares everything that a view can be asked with the model.
pub fn check(view: &View, rows: &BTreeMap<Bytes, Expected>) {
    for rows_max in [1, 3, 1000] {
        for reverse in [false, true] {
            let options = PageOptions { rows_max, reverse, ..PageOptions::default() };
            check_scan(view, &KeyRange::whole(), options, rows);
        }
    }
    for (key, expected) in rows {
        let row = view.get(key).unwrap().expect("the row is there");
        assert_eq!(row.value, expected.value);
        assert_eq!(row.version, expected.version);
    }
    assert_eq!(view.count(&KeyRange::whole()).unwrap(), rows.len() as u64);
}

pub fn check_scan(
    view: &View,
    range: &KeyRange,
    options: PageOptions,
    rows: &BTreeMap<Bytes, Expected>,
) {
    let mut want: Vec<_> = rows
        .iter()
        .filter(|(key, _)| range.contains(key))
        .map(|(key, row)| (key.clone(), row.clone()))
        .collect();
    if options.reverse {
        want.reverse();
    }
    if options.keys_only {
        want.iter_mut().for_each(|(_, row)| row.value = Bytes::new());
    }
    assert_eq!(scan(view, range, options), want, "{range:?} {options:?}");
}
