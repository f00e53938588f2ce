//! A checkpoint whose commit fails: what it was to write is readable all the time.

use bytes::Bytes;
use flotilla_storage::sim::SimFs;
use flotilla_storage::store::{RowChange, Store, StoreMetrics, StoreOptions};
use flotilla_storage::{GroupId, KeyRange};

use super::super::super::disk;
use super::super::super::judges::{Rule, Violation};

const KEY: &[u8] = b"key";
const NEW: &[u8] = b"new";

/// A row that was written is read while its checkpoint fails.
///
/// # Errors
///
/// If it is not found, or an older one is.
pub fn a_failed_commit() -> Result<(), Violation> {
    let fs = SimFs::new(1);
    let options = StoreOptions { merged_bytes_max: 0, ..StoreOptions::default() };
    let opened = Store::open_file(Box::new(disk::Place::new(&fs)), options, StoreMetrics::new());
    let (store, _) = opened.expect("the simulated disk takes it");
    let mut shard = store.create_shard(GroupId(1), KeyRange::whole(), Bytes::new());
    for (index, value) in [(1, &b"old"[..]), (2, NEW)] {
        let (key, value) = (Bytes::from_static(KEY), Bytes::from_static(value));
        shard.apply(vec![RowChange::Put { key, value, flags: 0, expires_at_ms: None }]);
        let frozen = shard.freeze((index, 1), Bytes::new(), 0);
        let fails = index == 2;
        if fails {
            fs.fail_after(0);
        }
        let result = store.checkpoint(&[frozen]);
        assert_eq!(result.is_err(), fails, "the disk fails when it is told to");
    }
    let found = match shard.view().get(KEY) {
        Ok(Some(row)) if row.value == NEW => return Ok(()),
        Ok(Some(row)) => format!("{:?}", row.value),
        Ok(None) => "nothing".to_owned(),
        Err(error) => error.to_string(),
    };
    let text = format!("while a checkpoint fails, a read of a row that was written gives {found}");
    Err(Violation::new(Rule::Linearizability, text))
}
