//! What the lanes of a node and other threads share: how the node is, and what all groups hold
//! together.
//!
//! Each lane reports what its groups hold at every tick; the first lane draws the conclusions, and
//! replicas find them in [`Conditions`] at their next event. Nothing here takes a lock on the way
//! of a request.
//!
//! What is absent: what replicas make of it (`replica::retire`, `replica::propose`).

use super::LaneOptions;
use super::reasons::Reasons;
use crate::budget::{Account, Budget, Part};
use crate::descriptor::Descriptor;
use crate::effects::Conditions;
use crate::lane::Load;
use crate::metrics::ShardMetrics;
use crate::status::{PublishedStatus, SharedStatus};
use arc_swap::ArcSwap;
use flotilla_storage::GroupId;
use flotilla_storage::journal::JournalHealth;
use flotilla_storage::store::CheckpointHandle;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Writes are refused when memtables hold this many times what they should.
const MEMTABLES_MAX: u64 = 3;

/// When logs reach this part of the retain budget they are cut, to a little less than it: not again
/// at each checkpoint, and never beyond the budget in between.
const LOG_LIMIT_PERMILLE: u64 = 900;
const LOG_TARGET_PERMILLE: u64 = 800;

/// While the journal's files are too large and there is too little in them to free, logs are cut to
/// this part of what the files may take: then a third of the files is dead, and can be freed.
const LOG_OF_FILES_PERMILLE: u64 = 500;

/// The caches of all logs together may hold this part of the node's budget, and a quarter of it
/// when the budget is nearly used up.
const LOG_CACHES_PART: u64 = 8;

/// The caches of single logs are bounded between these.
const LOG_CACHE_BYTES_MIN: u64 = 16 << 10;
const LOG_CACHE_BYTES_MAX: u64 = 1 << 20;

/// Where lanes count what their groups hold.
struct Accounts {
    budget: Budget,
    memtables: Account,
    log_caches: Account,
    metrics: ShardMetrics,
    journal: Arc<JournalHealth>,
    checkpoints: Option<CheckpointHandle>,
    /// Of merged memtables, as counted last.
    merged_bytes: AtomicU64,
}

impl Accounts {
    /// Memtables that were merged and stay readable take memory too, if under a limit of their own.
    fn count_merged(&self) {
        let Some(checkpoints) = &self.checkpoints else { return };
        let bytes = checkpoints.merged_bytes();
        let before = self.merged_bytes.swap(bytes, Relaxed);
        self.memtables.add(bytes);
        self.memtables.sub(before);
    }
}

/// What lanes and other threads share.
pub(crate) struct Shared {
    pub(super) options: LaneOptions,
    pub(super) statuses: ArcSwap<BTreeMap<GroupId, SharedStatus>>,
    halted: AtomicBool,
    pub(super) on_halt: OnceLock<Box<dyn Fn(&str) + Send + Sync>>,
    /// By lane: how much speaks for a checkpoint, as last reported.
    pressure_bytes: Vec<AtomicU64>,
    freeze_generation: AtomicU64,
    frozen_last: Mutex<Instant>,
    /// By lane: the rest of what was reported last.
    loads: Mutex<Vec<Load>>,
    accounts: OnceLock<Accounts>,
    pub(super) is_disk_full: AtomicBool,
    is_memory_full: AtomicBool,
    log_share_bytes: AtomicU64,
    log_keep_bytes: AtomicU64,
    log_cache_bytes_max: AtomicU64,
    is_cache_over: AtomicBool,
    /// Why this node must not lead.
    pub(super) forbidden: Reasons,
    /// Why other nodes should rather lead.
    pub(super) reluctant: Reasons,
}

impl Shared {
    pub(super) fn new(options: LaneOptions) -> Shared {
        Shared {
            options,
            statuses: ArcSwap::default(),
            halted: AtomicBool::new(false),
            on_halt: OnceLock::new(),
            pressure_bytes: (0..options.lanes).map(|_| AtomicU64::new(0)).collect(),
            freeze_generation: AtomicU64::new(0),
            frozen_last: Mutex::new(Instant::now()),
            loads: Mutex::new(vec![Load::default(); options.lanes]),
            accounts: OnceLock::new(),
            is_disk_full: AtomicBool::new(false),
            is_memory_full: AtomicBool::new(false),
            log_share_bytes: AtomicU64::new(options.log_retain_bytes),
            log_keep_bytes: AtomicU64::new(u64::MAX),
            log_cache_bytes_max: AtomicU64::new(LOG_CACHE_BYTES_MAX),
            is_cache_over: AtomicBool::new(false),
            forbidden: Reasons::default(),
            reluctant: Reasons::default(),
        }
    }

    /// From now on what lanes hold is counted there.
    pub(super) fn count_in(
        &self,
        budget: &Budget,
        metrics: &ShardMetrics,
        journal: Arc<JournalHealth>,
        checkpoints: Option<CheckpointHandle>,
    ) {
        let accounts = Accounts {
            budget: budget.clone(),
            memtables: budget.account(Part::Memtables),
            log_caches: budget.account(Part::LogCaches),
            metrics: metrics.clone(),
            journal,
            checkpoints,
            merged_bytes: AtomicU64::new(0),
        };
        assert!(self.accounts.set(accounts).is_ok(), "lanes are opened once");
    }

    pub(crate) fn is_halted(&self) -> bool {
        self.halted.load(Acquire)
    }

    pub(crate) fn halt(&self, reason: &str) {
        if !self.halted.swap(true, AcqRel) {
            tracing::error!(reason, "the node stops: it can no longer keep its promises");
            if let Some(hook) = self.on_halt.get() {
                hook(reason);
            }
        }
    }

    pub(crate) fn publish(&self, descriptor: Descriptor, status: Arc<PublishedStatus>) {
        let entry = SharedStatus { descriptor: Arc::new(descriptor), status };
        self.statuses.rcu(|statuses| {
            let mut statuses = BTreeMap::clone(statuses);
            statuses.insert(entry.descriptor.group, entry.clone());
            statuses
        });
    }

    pub(crate) fn may_lead(&self) -> bool {
        !self.forbidden.is_any()
    }

    pub(crate) fn is_reluctant(&self) -> bool {
        self.reluctant.is_any()
    }

    /// How the node is.
    pub(crate) fn conditions(&self) -> Conditions {
        Conditions {
            is_disk_full: self.is_disk_full.load(Relaxed),
            is_memory_full: self.is_memory_full.load(Relaxed),
            log_share_bytes: self.log_share_bytes.load(Relaxed),
            log_keep_bytes: self.log_keep_bytes.load(Relaxed),
            log_cache_bytes_max: self.log_cache_bytes_max.load(Relaxed),
        }
    }

    /// True while all replicas together hold more for others than they should.
    pub(crate) fn must_trim(&self) -> bool {
        self.log_keep_bytes.load(Relaxed) < u64::MAX || self.is_cache_over.load(Relaxed)
    }

    pub(crate) fn freeze_generation(&self) -> u64 {
        self.freeze_generation.load(Acquire)
    }

    /// Takes what the groups of a lane hold.
    ///
    /// `is_freezing` says that the lane carries a freeze out just now: what speaks for a checkpoint
    /// is from before.
    pub(crate) fn report(&self, lane: usize, load: Load, is_freezing: bool) {
        self.report_pressure(lane, load.pressure_bytes, is_freezing);
        let mut loads = self.loads.lock();
        let before = std::mem::replace(&mut loads[lane], load);
        if let Some(accounts) = self.accounts.get() {
            accounts.memtables.add(load.memtable_bytes);
            accounts.memtables.sub(before.memtable_bytes);
            accounts.log_caches.add(load.log_cache_bytes);
            accounts.log_caches.sub(before.log_cache_bytes);
        }
        if lane == 0 {
            let sum = loads.iter().fold(Load::default(), |sum, load| sum + *load);
            drop(loads);
            self.conclude(sum);
        }
    }

    /// What the load of all lanes means for everybody.
    fn conclude(&self, sum: Load) {
        let memtables_max = self.options.memtable_bytes_max.saturating_mul(MEMTABLES_MAX);
        self.is_memory_full.store(sum.memtable_bytes > memtables_max, Relaxed);
        let retain = self.options.log_retain_bytes;
        self.log_share_bytes.store(retain / sum.logs.groups().max(1), Relaxed);
        let log_bytes = sum.logs.total_bytes();
        let mut line = u64::MAX;
        if log_bytes > permille(retain, LOG_LIMIT_PERMILLE) {
            line = sum.logs.water_line(permille(retain, LOG_TARGET_PERMILLE));
        }
        let files_max = self.accounts.get().and_then(|accounts| accounts.journal.oversized());
        if let Some(files_max) = files_max {
            line = line.min(sum.logs.water_line(permille(files_max, LOG_OF_FILES_PERMILLE)));
        }
        self.log_keep_bytes.store(line, Relaxed);
        let Some(accounts) = self.accounts.get() else { return };
        accounts.metrics.log_bytes.set(i64::try_from(log_bytes).unwrap_or(i64::MAX));
        accounts.count_merged();
        let budget = &accounts.budget;
        budget.sample(Instant::now());
        accounts.metrics.show(budget);
        let pressed = budget.total_bytes() > budget.bytes_max() / 4 * 3;
        let part = if pressed { LOG_CACHES_PART * 4 } else { LOG_CACHES_PART };
        let is_over = sum.log_cache_bytes > budget.bytes_max() / part;
        self.is_cache_over.store(is_over, Relaxed);
        let bytes_max = self.log_cache_bytes_max.load(Relaxed);
        let bytes_max = if is_over { bytes_max / 2 } else { bytes_max * 2 };
        let bytes_max = bytes_max.clamp(LOG_CACHE_BYTES_MIN, LOG_CACHE_BYTES_MAX);
        self.log_cache_bytes_max.store(bytes_max, Relaxed);
    }

    /// Starts a new generation of freezes when it is time. A lane that freezes just now must not
    /// start another one: two frozen memtables would close the door to writes until a checkpoint
    /// has ended.
    fn report_pressure(&self, lane: usize, pressure_bytes: u64, is_freezing: bool) {
        let counted = if is_freezing { 0 } else { pressure_bytes };
        self.pressure_bytes[lane].store(counted, Relaxed);
        let total: u64 = self.pressure_bytes.iter().map(|bytes| bytes.load(Relaxed)).sum();
        let full = total >= self.options.memtable_bytes_max;
        // One lane watches the age, so that a generation is not started twice.
        let may_be_old = lane == 0;
        if !full && !may_be_old {
            return;
        }
        let mut frozen_last = self.frozen_last.lock();
        if full || frozen_last.elapsed() >= self.options.checkpoint_age_max {
            *frozen_last = Instant::now();
            // What is reported next counts from the freeze on.
            self.pressure_bytes.iter().for_each(|bytes| bytes.store(0, Relaxed));
            self.freeze_generation.fetch_add(1, AcqRel);
        }
    }
}

fn permille(bytes: u64, permille: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(permille) / 1000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::LogSizes;
    use super::*;
    use std::time::Duration;

    fn shared(lanes: usize) -> Shared {
        Shared::new(LaneOptions {
            lanes,
            tick_interval: Duration::from_millis(20),
            memtable_bytes_max: 100,
            checkpoint_age_max: Duration::from_secs(3600),
            log_retain_bytes: 1000,
        })
    }

    fn pressure(pressure_bytes: u64) -> Load {
        Load { pressure_bytes, ..Load::default() }
    }

    /// Lanes count before their groups have frozen anything.
    #[test]
    fn full_memtables_are_frozen_once() {
        let shared = shared(2);
        shared.report(0, pressure(60), false);
        shared.report(1, pressure(60), false);
        assert_eq!(shared.freeze_generation(), 1);
        shared.report(0, pressure(60), true);
        shared.report(1, pressure(60), true);
        shared.report(0, pressure(1), false);
        shared.report(1, pressure(1), false);
        assert_eq!(shared.freeze_generation(), 1, "what is being frozen counted again");
        shared.report(1, pressure(100), false);
        assert_eq!(shared.freeze_generation(), 2);
    }

    #[test]
    fn logs_over_the_budget_are_cut_and_full_memtables_close_the_door() {
        let shared = shared(2);
        let logs = |sizes: [u64; 2]| {
            let mut logs = LogSizes::default();
            sizes.iter().for_each(|bytes| logs.count(*bytes));
            logs
        };
        let load = Load { logs: logs([200; 2]), memtable_bytes: 150, ..Load::default() };
        shared.report(1, load, false);
        shared.report(0, load, false);
        let conditions = shared.conditions();
        assert_eq!((conditions.log_keep_bytes, conditions.log_share_bytes), (u64::MAX, 250));
        assert!(!conditions.is_memory_full && !shared.must_trim());
        let logs = logs([200, 1200]);
        shared.report(1, Load { logs, memtable_bytes: 151, ..load }, false);
        shared.report(0, load, false);
        let conditions = shared.conditions();
        assert_eq!(conditions.log_keep_bytes, 200, "a quarter of eight tenths of 1,000");
        assert!(conditions.is_memory_full && shared.must_trim());
    }

    #[test]
    fn caches_of_logs_give_way_and_come_back() {
        let shared = shared(1);
        let budget = Budget::new(8 << 20);
        shared.count_in(&budget, &ShardMetrics::new(), Arc::default(), None);
        shared.report(0, Load { log_cache_bytes: 2 << 20, ..Load::default() }, false);
        assert_eq!(budget.part_bytes(Part::LogCaches), 2 << 20);
        assert_eq!(shared.conditions().log_cache_bytes_max, LOG_CACHE_BYTES_MAX / 2);
        assert!(shared.must_trim());
        shared.report(0, Load::default(), false);
        assert_eq!(budget.total_bytes(), 0);
        assert_eq!(shared.conditions().log_cache_bytes_max, LOG_CACHE_BYTES_MAX);
        assert!(!shared.must_trim());
    }
}
