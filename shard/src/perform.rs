//! Performs what the replicas of a lane decided: the only place where effects leave the lane.
//!
//! Journal appends and messages leave side by side: the leader's disk is one vote among others, so
//! nothing waits for it here. What must wait for it is still inside the Raft cores.

use crate::budget::{Budget, Part};
use crate::effects::{Effects, ExpiredScan, LogRead, Observed, RowRead, RowsUnread, SnapshotOrder};
use crate::held::{Chance, hold, is_large};
use crate::lane::{Inbox, Mail, Wiring, by_node};
use crate::machine::Fetched;
use crate::outbox::{Outbox, Parcel};
use crate::request::{Answer, Operation, Refusal, Reply};
use crate::serve::ColdRead;
use flotilla_storage::store::{PageOptions, StoreError};
use std::sync::Arc;
use std::time::Duration;

/// How many point reads one job of the read pool takes: enough to make the hand-over cheap, few
/// enough to use all of the pool's threads.
const COLD_READS_PER_JOB: usize = 32;

/// How much one search for expired rows looks at.
const SCANNED_ROWS_MAX: usize = 512;
const SCANNED_BYTES_MAX: usize = 256 << 10;

/// What a reader is told to wait who was put off for too long.
const RETRY_AFTER: Duration = Duration::from_millis(50);

pub(crate) fn perform(lane: usize, inbox: &Arc<Inbox>, wiring: &Wiring, effects: Effects) {
    let Effects { journal, parcels, log_reads, .. } = effects;
    let Effects { row_reads, cold_reads, expired_scans, .. } = effects;
    let Effects { frozen, snapshots, observed, reads_by_lease, reads_by_round, .. } = effects;
    if !journal.is_empty() {
        wiring.journal.submit(lane, journal);
    }
    for (node, parcels) in by_node(parcels) {
        wiring.outbox.send(node, parcels);
    }
    for read in log_reads {
        read_log(inbox, wiring, read);
    }
    if !row_reads.is_empty() {
        read_rows(inbox, wiring, row_reads);
    }
    read_cold(inbox, wiring, cold_reads);
    expired_scans.into_iter().for_each(|scan| search_expired(inbox, wiring, scan));
    if !frozen.is_empty() {
        wiring.checkpoints.submit(lane, frozen);
    }
    snapshots.into_iter().for_each(|order| ask_snapshots(wiring, order));
    observe(wiring, &observed);
    wiring.metrics.reads_by_lease.inc_by(reads_by_lease);
    wiring.metrics.reads_by_round.inc_by(reads_by_round);
}

fn ask_snapshots(wiring: &Wiring, order: SnapshotOrder) {
    let service = &wiring.snapshots;
    match order {
        SnapshotOrder::Send { group, to, term } => service.send(group, to, term),
        SnapshotOrder::Cancel { group } => service.cancel(group),
        SnapshotOrder::Answer { from, transfer, wanted } => {
            service.offer_answer(from, transfer, wanted);
        }
        SnapshotOrder::Install { group, from, transfer } => service.install(group, from, transfer),
        SnapshotOrder::Discard { from, transfer } => service.discard(from, transfer),
    }
}

fn read_log(inbox: &Arc<Inbox>, wiring: &Wiring, read: LogRead) {
    let (inbox, reader) = (inbox.clone(), wiring.reader.clone());
    wiring.pool.spawn(move || {
        let LogRead { group, from, to, bytes_max } = read;
        let entries = match reader.read(group, from, to, bytes_max) {
            Ok(entries) => Some(entries),
            Err(error) => {
                tracing::error!(group = group.0, from, to, %error, "cannot read the log");
                None
            }
        };
        inbox.put(Mail::LogRead { group, from, entries });
    });
}

fn read_rows(inbox: &Arc<Inbox>, wiring: &Wiring, reads: Vec<RowRead>) {
    let inbox = inbox.clone();
    wiring.pool.spawn(move || {
        for RowRead { group, serial, view, keys } in reads {
            let generation = view.generation();
            let rows: Result<Fetched, RowsUnread> = keys
                .into_iter()
                .map(|key| match view.get(&key) {
                    Ok(row) => Ok((key, row)),
                    Err(error @ StoreError::Corrupt { .. }) => {
                        Err(RowsUnread::Damaged(error.to_string()))
                    }
                    Err(error) => Err(RowsUnread::Unavailable(error.to_string())),
                })
                .collect();
            inbox.put(Mail::RowsRead { group, serial, generation, rows });
        }
    });
}

/// Walks over a page of rows and says which of them have expired.
fn search_expired(inbox: &Arc<Inbox>, wiring: &Wiring, scan: ExpiredScan) {
    let inbox = inbox.clone();
    wiring.pool.spawn(move || {
        let ExpiredScan { group, view, range, now_ms } = scan;
        let options = PageOptions {
            rows_max: SCANNED_ROWS_MAX,
            bytes_max: SCANNED_BYTES_MAX,
            reverse: false,
            keys_only: true,
        };
        let (keys, rest) = match view.page(&range, options) {
            Ok(page) => {
                let expired = page.rows.into_iter().filter(|(_, row)| row.is_expired(now_ms));
                (expired.map(|(key, _)| key).collect(), page.more)
            }
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(group = group.0, %error, "found while searching expired rows");
                inbox.put(Mail::RowsLost(vec![(group, view.generation())]));
                (Vec::new(), None)
            }
            Err(error) => {
                tracing::warn!(group = group.0, %error, "cannot search for expired rows");
                (Vec::new(), None)
            }
        };
        inbox.put(Mail::Expired { group, keys, rest });
    });
}

fn read_cold(inbox: &Arc<Inbox>, wiring: &Wiring, reads: Vec<ColdRead>) {
    let mut points = Vec::new();
    for read in reads {
        if matches!(read.operation, Operation::Get { .. }) {
            points.push(read);
            if points.len() == COLD_READS_PER_JOB {
                spawn_cold(inbox, wiring, std::mem::take(&mut points), false);
            }
        } else {
            spawn_cold(inbox, wiring, vec![read], false);
        }
    }
    if !points.is_empty() {
        spawn_cold(inbox, wiring, points, false);
    }
}

/// Makes reads that were put off: one after another, in the order given.
pub(crate) fn read_again(inbox: &Arc<Inbox>, wiring: &Wiring, reads: Vec<ColdRead>) {
    spawn_cold(inbox, wiring, reads, true);
}

/// Makes the answer to a read, or none while answers are scarce and it turns out to be a large one.
/// Who asks for little does not wait because of those who ask for much.
pub(crate) fn answer_cold(
    read: &mut ColdRead,
    budget: &Budget,
    was_put_off: bool,
) -> Option<Result<Answer, Refusal>> {
    let chance = Chance::of(budget, read.entered.elapsed(), was_put_off);
    if chance == Chance::Now || !read.is_large {
        let answer = match read.run() {
            Ok(answer) => answer,
            Err(refusal) => return Some(Err(refusal)),
        };
        read.is_large = is_large(&answer);
        if chance == Chance::Now || !read.is_large {
            return Some(Ok(hold(answer, &budget.account(Part::Reads))));
        }
    }
    match chance {
        Chance::Never => Some(Err(Refusal::Busy { retry_after: RETRY_AFTER })),
        Chance::Now | Chance::Later => None,
    }
}

fn spawn_cold(inbox: &Arc<Inbox>, wiring: &Wiring, reads: Vec<ColdRead>, were_put_off: bool) {
    let inbox = inbox.clone();
    let (outbox, metrics): (Arc<dyn Outbox>, _) = (wiring.outbox.clone(), wiring.metrics.clone());
    let budget = wiring.budget.clone();
    wiring.pool.spawn(move || {
        let mut parcels = Vec::new();
        for mut read in reads {
            if matches!(&read.reply, Reply::Oneshot(sender) if sender.is_closed()) {
                read.permit.note_unserved();
                continue;
            }
            let Some(result) = answer_cold(&mut read, &budget, were_put_off) else {
                inbox.put(Mail::ReadLater(Box::new(read)));
                continue;
            };
            if result.is_err() {
                read.permit.note_unserved();
            }
            metrics.read_duration.observe(read.entered.elapsed().as_secs_f64());
            if let Err(Refusal::Corrupt(error)) = result {
                // The replica knows whether another one could answer.
                let ColdRead { group, view, reply, .. } = read;
                let generation = view.generation();
                inbox.put(Mail::ReadDamaged { group, generation, reply, error });
                continue;
            }
            match read.reply {
                // A caller who no longer listens has dropped its future.
                Reply::Oneshot(sender) => drop(sender.send(result)),
                Reply::Peer { node, id } => parcels.push((node, Parcel::Reply { id, result })),
            }
        }
        if were_put_off {
            // After those that were put off again.
            inbox.put(Mail::ReadAgain);
        }
        for (node, parcels) in by_node(parcels) {
            outbox.send(node, parcels);
        }
    });
}

fn observe(wiring: &Wiring, observed: &[Observed]) {
    let metrics = &wiring.metrics;
    for observed in observed {
        match observed {
            Observed::Write { queued, committed } => {
                metrics.write_queued.observe(queued.as_secs_f64());
                metrics.write_committed.observe(committed.as_secs_f64());
            }
            Observed::Read { total } => metrics.read_duration.observe(total.as_secs_f64()),
            Observed::LeaderChange => metrics.leader_changes.inc(),
            Observed::LostProposal => metrics.proposals_lost.inc(),
            Observed::RowsLost => metrics.rows_lost.inc(),
            Observed::SnapshotInstalled => metrics.snapshots_installed.inc(),
        }
    }
}
