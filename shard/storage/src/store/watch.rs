//! What is known to be wrong with the store, shared by its readers and the checkpoint thread.
//!
//! Two things can be wrong. A *shard* is damaged: its record cannot be read, or its tables are not
//! the trees that they should be. From then on nothing of it is read or merged, because a damaged
//! tree can lose rows without saying so. Or the *file* failed: redb refuses all further work until
//! it is opened again, which readers cannot do and therefore ask for.
//!
//! Damage belongs to a generation of the shard: rows that are swapped in from elsewhere begin
//! sound. A file is opened again at most once for each epoch, however many readers ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::error::StoreError;
use crate::GroupId;

/// A shard that cannot be read three times in a row, each time after the file was opened again and
/// written to with success, lies on bad sectors. Fewer could be a passing fault of the disk.
const READ_FAILURES_MAX: u32 = 3;

type AskReopen = Box<dyn Fn(u64) + Send + Sync>;

struct Damage {
    generation: u64,
    error: StoreError,
    /// The record itself: the tables of the shard are not known.
    in_record: bool,
}

/// What is known to be wrong.
#[derive(Default)]
pub(crate) struct Watch {
    /// How often the file was opened again.
    epoch: AtomicU64,
    /// One more than the last epoch whose end a reader has asked for.
    asked: AtomicU64,
    ask_reopen: Mutex<Option<AskReopen>>,
    any_damage: AtomicBool,
    damage: RwLock<BTreeMap<GroupId, Damage>>,
    /// Shards noted as damaged and not yet told to the lanes, with the generation that is.
    unreported: Mutex<BTreeMap<GroupId, u64>>,
    /// Epoch of the last failed read of a shard, and how many epochs in a row had one.
    read_failures: Mutex<BTreeMap<GroupId, (u64, u32)>>,
}

impl Watch {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Whom readers ask to open the file again; `ask` is handed the epoch that failed.
    pub(crate) fn on_reopen_wanted(&self, ask: Option<AskReopen>) {
        *self.ask_reopen.lock() = ask;
    }

    /// Notes that `group` is damaged in `generation`; the first error stays.
    pub(crate) fn mark_damaged(&self, group: GroupId, generation: u64, error: &StoreError) {
        self.insert(group, Damage { generation, error: error.clone(), in_record: false });
    }

    /// Notes that the record of `group` cannot be read.
    pub(crate) fn mark_record_damaged(&self, group: GroupId, generation: u64, error: &StoreError) {
        self.insert(group, Damage { generation, error: error.clone(), in_record: true });
    }

    fn insert(&self, group: GroupId, damage: Damage) {
        let mut all = self.damage.write();
        if all.get(&group).is_none_or(|known| {
            known.generation != damage.generation || (damage.in_record && !known.in_record)
        }) {
            tracing::error!(group = group.0, error = %damage.error, "a shard is damaged");
            self.unreported.lock().insert(group, damage.generation);
            all.insert(group, damage);
        }
        self.any_damage.store(true, Ordering::Release);
    }

    /// Shards noted as damaged since this was asked last, and the generation that is.
    pub(crate) fn take_unreported(&self) -> Vec<(GroupId, u64)> {
        std::mem::take(&mut *self.unreported.lock()).into_iter().collect()
    }

    /// Forgets what was wrong with `group`: it has new rows, or none.
    pub(crate) fn forget(&self, group: GroupId) {
        self.damage.write().remove(&group);
        self.read_failures.lock().remove(&group);
    }

    /// What is wrong with `group` in `generation`. Costs one load as long as nothing is damaged.
    pub(crate) fn damage(&self, group: GroupId, generation: u64) -> Option<StoreError> {
        if !self.any_damage.load(Ordering::Acquire) {
            return None;
        }
        let all = self.damage.read();
        all.get(&group)
            .filter(|damage| damage.generation == generation)
            .map(|damage| damage.error.clone())
    }

    /// True if some record is damaged, so that it is not known which tables are named.
    pub(crate) fn any_record_damaged(&self) -> bool {
        self.damage.read().values().any(|damage| damage.in_record)
    }

    /// The shards whose records are damaged.
    pub(crate) fn damaged_records(&self) -> BTreeSet<GroupId> {
        let all = self.damage.read();
        all.iter().filter(|(_, damage)| damage.in_record).map(|(group, _)| *group).collect()
    }

    /// A read of `group` failed, on a transaction of `epoch`.
    pub(crate) fn read_failed(
        &self,
        group: GroupId,
        generation: u64,
        epoch: u64,
        error: &StoreError,
    ) {
        if epoch != self.epoch() {
            return;
        }
        if error.is_io() {
            let mut failures = self.read_failures.lock();
            let (last, count) = failures.entry(group).or_insert((epoch, 1));
            match epoch - *last {
                0 => {}
                1 => (*last, *count) = (epoch, *count + 1),
                _ => (*last, *count) = (epoch, 1),
            }
            if *count >= READ_FAILURES_MAX {
                let what = format!("its rows cannot be read from the disk: {error}");
                let table = "unknown".to_owned();
                self.mark_damaged(group, generation, &StoreError::Corrupt { group, table, what });
            }
        } else if !matches!(error, StoreError::Reopened) {
            return;
        }
        if self.asked.fetch_max(epoch + 1, Ordering::AcqRel) <= epoch
            && let Some(ask) = &*self.ask_reopen.lock()
        {
            ask(epoch);
        }
    }
}
