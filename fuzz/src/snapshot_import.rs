//! Whole transfers into a store: what arrives is in order or not, and a model says what may become of
//! it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_storage::store::{
    CheckpointCompletion, CheckpointWork, Checkpointed, Checkpointer, Import, ImportEnd, NextTurn,
    PageOptions, RowChange, Shard, Store, StoreError, StoreMetrics, StoreOptions,
};
use flotilla_storage::{GroupId, KeyRange};
use redb::backends::InMemoryBackend;

use crate::choices::Choices;
use crate::rows::{chunk, row};

const GROUP: GroupId = GroupId(7);
const STEPS_MAX: usize = 24;

struct Nobody;

impl CheckpointCompletion for Nobody {
    fn checkpointed(&self, _done: &[Checkpointed]) {}

    fn failed(&self, error: &StoreError) {
        panic!("the disk does not fail: {error}");
    }
}

/// What should come of a transfer.
struct Model {
    range: KeyRange,
    rows: BTreeMap<Bytes, row::Row>,
    digest: chunk::Digest,
    is_good: bool,
}

pub(crate) fn run(mut choices: Choices<'_>) {
    let options = StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() };
    let backend =
        Box::new(|| Ok(Box::new(InMemoryBackend::new()) as Box<dyn redb::StorageBackend>));
    let (store, _) =
        Store::open_with_backend(backend, options, StoreMetrics::new()).expect("an empty store");
    // Not on a thread of its own: an input would spend most of its time waiting for the other thread.
    let (handle, mut work) = Checkpointer::without_thread(store.clone(), vec![Arc::new(Nobody)]);
    let range = match choices.byte() % 3 {
        0 => KeyRange::whole(),
        1 => KeyRange::new("b", Some("y".into())),
        _ => KeyRange::new("m", None),
    };
    let mut old = store.create_shard(GROUP, range.clone(), Bytes::new());
    let (key, value) = (Bytes::from("old"), Bytes::from("row"));
    old.apply(vec![RowChange::Put { key, value, flags: 0, expires_at_ms: None }]);
    let before = rows_of(&old);

    let import = handle.import(GROUP, range.clone());
    let mut model =
        Model { range, rows: BTreeMap::new(), digest: chunk::Digest::default(), is_good: true };
    for _ in 0..STEPS_MAX {
        if choices.is_over() {
            break;
        }
        one_chunk(&import, &mut work, &mut model, &mut choices);
    }
    let lie = choices.byte();
    let end = ImportEnd {
        applied: (9, 2),
        version: 4,
        meta: Bytes::from_static(b"meta"),
        rows: model.digest.rows + u64::from(lie == 1),
        digest: model.digest.value ^ u64::from(lie == 2),
    };
    model.is_good &= !(1..=2).contains(&lie);
    let verified = step(&mut work, |done| import.verify(end, done));
    assert_eq!(verified.is_ok(), model.is_good, "{verified:?}");
    match step(&mut work, |done| import.swap(done)) {
        Ok(new) => {
            assert!(model.is_good, "what was refused is in place");
            // By the shard's clock, which stands at 0, some rows are expired.
            model.rows.retain(|_, row| !row.is_expired(0));
            assert_eq!(rows_of(&new), model.rows);
            assert_eq!((new.version(), &new.meta()[..]), (4, &b"meta"[..]));
        }
        Err(error) => {
            assert!(!model.is_good, "{error}");
            assert!(matches!(error, StoreError::Import { .. }), "{error}");
            assert_eq!(rows_of(&old), before, "the old rows are as they were");
        }
    }
}

/// Sends a chunk: rows that were made well, perhaps damaged on the way, or bytes as they come.
fn one_chunk(
    import: &Import,
    work: &mut CheckpointWork,
    model: &mut Model,
    choices: &mut Choices<'_>,
) {
    let mut bytes = Vec::new();
    match choices.byte() % 8 {
        0 => {
            let len = usize::from(choices.byte());
            bytes.extend_from_slice(choices.bytes(len));
        }
        kind => {
            for _ in 0..choices.byte() % 6 {
                let key_len = usize::from(choices.byte() % 8);
                let key = choices.bytes(key_len).to_vec();
                let value_len = usize::from(choices.short() % 2048);
                let value = Bytes::copy_from_slice(choices.bytes(value_len));
                let flags = choices.byte();
                let expires_at_ms = (flags % 3 == 0).then(|| choices.long());
                let row = row::Row { version: choices.long(), flags, expires_at_ms, value };
                let mut stored = Vec::new();
                row::encode(&key, &row, &mut stored);
                chunk::put_row(&mut bytes, &key, &stored);
            }
            if kind == 1 && !bytes.is_empty() {
                let at = usize::from(choices.short()) % bytes.len();
                bytes[at] ^= choices.byte();
            }
        }
    }
    let bytes = Bytes::from(bytes);
    model.take(&bytes);
    let written = step(work, |done| import.write(bytes, done));
    assert_eq!(written.is_ok(), model.is_good, "{written:?}");
}

impl Model {
    /// A chunk is taken as a whole or not at all, and after the first that is not, none is.
    fn take(&mut self, bytes: &Bytes) {
        let Ok(rows) = chunk::decode(bytes) else {
            self.is_good = false;
            return;
        };
        let mut last = self.rows.last_key_value().map(|(key, _)| key.clone());
        for (key, _) in &rows {
            let is_next = last.is_none_or(|last| last < *key);
            self.is_good &= is_next && self.range.contains(key);
            last = Some(key.clone());
        }
        if !self.is_good {
            return;
        }
        for (key, stored) in rows {
            self.digest.add(&key, &stored);
            self.rows.insert(key.clone(), row::decode(&key, &stored).expect("checked").to_row());
        }
    }
}

fn step<T: Send + 'static>(
    work: &mut CheckpointWork,
    ask: impl FnOnce(Box<dyn FnOnce(Result<T, StoreError>) + Send>),
) -> Result<T, StoreError> {
    let (sender, done) = crossbeam_channel::bounded(1);
    ask(Box::new(move |result| drop(sender.send(result))));
    loop {
        match work.turn() {
            NextTurn::Now => {}
            NextTurn::WhenAsked => break,
            turn => panic!("the disk does not fail: {turn:?}"),
        }
    }
    done.try_recv().expect("every step ends")
}

/// All rows, of the model's type.
fn rows_of(shard: &Shard) -> BTreeMap<Bytes, row::Row> {
    let options =
        PageOptions { rows_max: usize::MAX, bytes_max: usize::MAX, ..PageOptions::default() };
    let page = shard.view().page(&KeyRange::whole(), options).expect("sound rows");
    let row = |row: flotilla_storage::store::Row| row::Row {
        version: row.version,
        flags: row.flags,
        expires_at_ms: row.expires_at_ms,
        value: row.value,
    };
    page.rows.into_iter().map(|(key, found)| (key, row(found))).collect()
}
