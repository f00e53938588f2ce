//! What the journal and the checkpoints report to a lane.
//!
//! A journal that failed can promise nothing any more: the node halts. A store that cannot be
//! written for a while costs only leaderships, and a damaged row only the replica that owns it.

use super::Lanes;
use super::control;
use super::shared::Shared;
use crate::lane::{Inbox, Mail};
use flotilla_raft::{Index, Position, Term};
use flotilla_storage::GroupId;
use flotilla_storage::journal::{Completion, JournalError};
use flotilla_storage::store::{CheckpointCompletion, StoreError};
use std::sync::Arc;

/// Why a node whose store cannot be written does not lead.
const STORE_UNAVAILABLE: &str = "its store cannot be written";

/// Reports to one lane what the journal and the checkpoints have done for it.
pub struct LaneCompletion {
    inbox: Arc<Inbox>,
    inboxes: Vec<Arc<Inbox>>,
    shared: Arc<Shared>,
}

impl Lanes {
    /// What reports completed writes of the journal and completed checkpoints to each lane, in the
    /// order of lanes.
    pub fn completions(&self) -> Vec<Arc<LaneCompletion>> {
        let completion = |inbox: &Arc<Inbox>| {
            Arc::new(LaneCompletion {
                inbox: inbox.clone(),
                inboxes: self.inner.inboxes.clone(),
                shared: self.inner.shared.clone(),
            })
        };
        self.inner.inboxes.iter().map(completion).collect()
    }
}

impl Completion for LaneCompletion {
    fn durable(&self, done: &[(GroupId, u64)]) {
        self.inbox.put(Mail::Durable(done.to_vec()));
    }

    fn failed(&self, error: &JournalError) {
        self.shared.halt(&format!("the journal failed: {error}"));
    }

    fn suspected(&self, groups: &[GroupId]) {
        self.inbox.put(Mail::Suspected(groups.to_vec()));
    }
}

impl CheckpointCompletion for LaneCompletion {
    fn checkpointed(&self, done: &[(GroupId, (u64, u64))]) {
        let position = |(index, term)| Position { index: Index(index), term: Term(term) };
        let done = done.iter().map(|(group, applied)| (*group, position(*applied)));
        self.inbox.put(Mail::Checkpointed(done.collect()));
    }

    fn failed(&self, error: &StoreError) {
        self.shared.halt(&format!("the store failed: {error}"));
    }

    fn damaged(&self, groups: &[(GroupId, u64)]) {
        self.inbox.put(Mail::RowsLost(groups.to_vec()));
    }

    fn unavailable(&self, error: &StoreError) {
        // On a full disk leaders go on serving reads and deletes, as everywhere else.
        if !error.is_disk_full() {
            control::set_may_lead(&self.shared, &self.inboxes, false, STORE_UNAVAILABLE);
        }
    }

    fn available(&self) {
        control::set_may_lead(&self.shared, &self.inboxes, true, STORE_UNAVAILABLE);
    }
}
