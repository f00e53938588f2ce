//! Performs what the replicas of a lane decided: the only place where effects leave the lane.
//!
//! Journal appends and messages leave side by side: the leader's disk is one vote among others, so
//! nothing waits for it here. What must wait for it is still inside the Raft cores.

use crate::effects::{Effects, LogRead, Observed, RowRead, SnapshotOrder};
use crate::lane::{Inbox, Mail, Wiring, by_node};
use crate::machine::Fetched;
use crate::outbox::{Outbox, Parcel};
use crate::request::{Operation, Reply};
use crate::serve::ColdRead;
use std::sync::Arc;

/// How many point reads one job of the read pool takes: enough to make the hand-over cheap, few
/// enough to use all of the pool's threads.
const COLD_READS_PER_JOB: usize = 32;

pub(crate) fn perform(lane: usize, inbox: &Arc<Inbox>, wiring: &Wiring, effects: Effects) {
    let Effects { journal, parcels, log_reads, row_reads, cold_reads, frozen, snapshots, observed } =
        effects;
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
    read_cold(wiring, cold_reads);
    if !frozen.is_empty() {
        wiring.checkpoints.submit(lane, frozen);
    }
    snapshots.into_iter().for_each(|order| ask_snapshots(wiring, order));
    observe(wiring, &observed);
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
            let rows: Result<Fetched, String> = keys
                .into_iter()
                .map(|key| match view.get(&key) {
                    Ok(row) => Ok((key, row)),
                    Err(error) => Err(error.to_string()),
                })
                .collect();
            inbox.put(Mail::RowsRead { group, serial, rows });
        }
    });
}

fn read_cold(wiring: &Wiring, reads: Vec<ColdRead>) {
    let mut points = Vec::new();
    for read in reads {
        if matches!(read.operation, Operation::Get { .. }) {
            points.push(read);
            if points.len() == COLD_READS_PER_JOB {
                spawn_cold(wiring, std::mem::take(&mut points));
            }
        } else {
            spawn_cold(wiring, vec![read]);
        }
    }
    if !points.is_empty() {
        spawn_cold(wiring, points);
    }
}

fn spawn_cold(wiring: &Wiring, reads: Vec<ColdRead>) {
    let (outbox, metrics): (Arc<dyn Outbox>, _) = (wiring.outbox.clone(), wiring.metrics.clone());
    wiring.pool.spawn(move || {
        let mut parcels = Vec::new();
        for read in reads {
            let result = read.run();
            metrics.read_duration.observe(read.entered.elapsed().as_secs_f64());
            match read.reply {
                // A caller who no longer listens has dropped its future.
                Reply::Oneshot(sender) => drop(sender.send(result)),
                Reply::Peer { node, id } => parcels.push((node, Parcel::Reply { id, result })),
            }
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
        }
    }
}
