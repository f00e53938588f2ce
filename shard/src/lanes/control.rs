//! What may be asked of all replicas of a node from outside: to lead or not, to hand over, to mind
//! a full disk.

use super::Lanes;
use super::shared::Shared;
use crate::descriptor::NodeId;
use crate::lane::{Inbox, Mail};
use crate::status::{Role, SharedStatus};
use flotilla_storage::GroupId;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How often a node that hands over looks whether it is done.
const HAND_OVER_INTERVAL: Duration = Duration::from_millis(5);

/// Why a node whose disk is full would rather not lead.
const DISK_FULL: &str = "its disk is full";

/// Why a node that stops does not lead.
const STOPPING: &str = "it is stopping";

pub(super) fn set_may_lead(shared: &Shared, inboxes: &[Arc<Inbox>], may_lead: bool, reason: &str) {
    shared.forbidden.set(reason, !may_lead, |is_forbidden| {
        if is_forbidden {
            tracing::warn!(reason, "this node hands its leaderships over");
        } else {
            tracing::info!("this node may lead again: nothing speaks against it any more");
        }
        inboxes.iter().for_each(|inbox| inbox.put(Mail::MayLead(!is_forbidden)));
    });
}

impl Lanes {
    /// Whether the disk is full. While it is, this node leaves leading to nodes that have room, and
    /// what it leads all the same refuses writes that need room with
    /// [`Refusal::DiskFull`](crate::Refusal::DiskFull); reads, deletes and all of Raft go on.
    pub fn set_disk_full(&self, is_full: bool) {
        let was_full = self.inner.shared.is_disk_full.swap(is_full, Relaxed);
        match (was_full, is_full) {
            (false, true) => {
                tracing::error!("the disk is full: what is led here serves only reads and deletes")
            }
            (true, false) => tracing::info!("the disk has room again: all writes are served"),
            _ => {}
        }
        self.set_reluctant(is_full, DISK_FULL);
    }

    /// Whether `reason` speaks against leading (`may_lead` false) or no longer does. A node may lead
    /// when nothing speaks against it; else it hands its leaderships over, and goes on voting and
    /// acknowledging. Groups without other replicas are led in any case.
    pub fn set_may_lead(&self, may_lead: bool, reason: &str) {
        set_may_lead(&self.inner.shared, &self.inner.inboxes, may_lead, reason);
    }

    /// Whether other nodes should rather lead, because of `reason`, or no longer because of that. A
    /// node that has such a reason is reluctant: it hands its leaderships over to nodes that are
    /// not, and keeps those that none of them can take, so that it stops nothing if all nodes are.
    pub fn set_reluctant(&self, reluctant: bool, reason: &str) {
        let inner = &self.inner;
        inner.shared.reluctant.set(reason, reluctant, |is_reluctant| {
            if is_reluctant {
                tracing::warn!(reason, "this node leaves leading to others where it can");
            } else {
                tracing::info!(reason, "this node leads as willingly as others again: it is over");
            }
            inner.inboxes.iter().for_each(|inbox| inbox.put(Mail::Reluctant(is_reluctant)));
        });
    }

    /// Asks the leader of `group`, if it is on this node, to hand over: to the replica on `to`, or
    /// to whichever can follow best. It goes on leading if nobody takes it within an election
    /// timeout.
    pub fn transfer(&self, group: GroupId, to: Option<NodeId>) {
        self.inner.inboxes[self.lane_of(group)].put(Mail::Transfer { group, to });
    }

    /// Gives all leaderships away for good, before the node stops, and waits until the outcome of
    /// everything that was proposed here is known, or `timeout` has passed. Groups that have no
    /// other replica go on being led. Returns how many others are still led from here.
    pub async fn hand_over_all(&self, timeout: Duration) -> usize {
        let until = Instant::now() + timeout;
        self.set_may_lead(false, STOPPING);
        loop {
            let (led, has_pending) = self.unfinished();
            if (led == 0 && !has_pending) || Instant::now() >= until {
                return led;
            }
            tokio::time::sleep(HAND_OVER_INTERVAL).await;
        }
    }

    /// How many groups with other replicas are led from here, and whether anybody waits for the
    /// outcome of a proposal.
    fn unfinished(&self) -> (usize, bool) {
        let statuses = self.inner.shared.statuses.load();
        let leads = |entry: &&SharedStatus| {
            entry.descriptor.replicas.len() > 1 && entry.status.role() == Role::Leader
        };
        let led = statuses.values().filter(leads).count();
        (led, statuses.values().any(|entry| entry.status.has_pending()))
    }
}
