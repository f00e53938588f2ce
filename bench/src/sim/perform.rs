//! Performs what replicas decided, as a lane does: into the journal, to other nodes, to the disk.
//!
//! Between any two effects the process may die: what came before has happened, what comes after
//! never does.
//!
//! What is absent: what a disk or a network makes of it.

use std::time::Duration;

use flotilla_shard::effects::{
    Effects, Event, ExpiredScan, LogRead, Observed, RowRead, RowsUnread, SnapshotOrder,
};
use flotilla_shard::machine::Fetched;
use flotilla_shard::outbox::Outbox;
use flotilla_shard::raft::{AppendOutcome, Message};
use flotilla_shard::{ColdRead, GroupMessage, Parcel, Refusal, Reply};
use flotilla_storage::store::{PageOptions, StoreError};

use super::judges::{Group, Judges, Replica};
use super::node::Life;
use super::scene::{Happening, Scene};

/// How much one search for expired rows looks at.
const SCANNED_ROWS_MAX: usize = 64;

/// A read of the disk that is under way.
pub enum Read {
    /// Of the log.
    Log(LogRead),
    /// Of rows that applying waits for.
    Rows(RowRead),
    /// Of rows for a client.
    Cold(ColdRead),
    /// In search of expired rows.
    Expired(ExpiredScan),
}

impl Life {
    /// Counts down to the death between two effects that was asked for. False: it has come.
    fn survives(&mut self) -> bool {
        match &mut self.effects_left {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    /// Performs the effects of one turn of one replica. False: the process died meanwhile.
    pub fn perform(&mut self, scene: &mut Scene, effects: Effects) -> bool {
        let (at, number) = (self.at, self.number);
        if !effects.journal.is_empty() {
            if !self.survives() {
                return false;
            }
            self.journal.submit(effects.journal);
        }
        for (node, parcel) in effects.parcels {
            if !self.survives() {
                return false;
            }
            if let Parcel::Raft(message) = &parcel {
                tell_promise(&mut scene.judges, message);
            }
            Outbox::send(&self.mailbox, node, vec![parcel]);
        }
        let log_reads = effects.log_reads.into_iter().map(Read::Log);
        let row_reads = effects.row_reads.into_iter().map(Read::Rows);
        let cold_reads = effects.cold_reads.into_iter().map(Read::Cold);
        let expired = effects.expired_scans.into_iter().map(Read::Expired);
        for read in log_reads.chain(row_reads).chain(cold_reads).chain(expired) {
            let delay = scene.delay(scene.options.read_max);
            scene.count("disk reads");
            scene.after(delay, Happening::Read(at, number, Box::new(read)));
        }
        if !effects.frozen.is_empty() {
            if !self.survives() {
                return false;
            }
            scene.add("memtables frozen", effects.frozen.len() as u64);
            self.checkpoint_handle.submit(0, effects.frozen);
        }
        for order in effects.snapshots {
            if !self.survives() {
                return false;
            }
            self.order(scene, order);
        }
        for observed in effects.observed {
            match observed {
                Observed::LeaderChange => scene.count("leader changes seen"),
                Observed::LostProposal => scene.count("proposals lost to another leader"),
                Observed::RowsLost => scene.count("rows found damaged"),
                Observed::SnapshotInstalled => scene.count("snapshots installed"),
                Observed::Write { .. } | Observed::Read { .. } => {}
            }
        }
        scene.add("reads by lease", effects.reads_by_lease);
        scene.add("reads by round", effects.reads_by_round);
        true
    }

    fn order(&mut self, scene: &mut Scene, order: SnapshotOrder) {
        let service = &self.snapshot_handle;
        match order {
            SnapshotOrder::Send { group, to, term } => {
                scene.count("snapshots asked for");
                service.send(group, to, term);
            }
            SnapshotOrder::Cancel { group } => service.cancel(group),
            SnapshotOrder::Answer { from, transfer, wanted } => {
                service.offer_answer(from, transfer, wanted);
            }
            SnapshotOrder::Install { group, from, transfer } => {
                service.install(group, from, transfer);
            }
            SnapshotOrder::Discard { from, transfer } => service.discard(from, transfer),
        }
    }

    /// Answers a read of the disk.
    pub fn read(&mut self, read: Read) {
        match read {
            Read::Log(LogRead { group, from, to, bytes_max }) => {
                let entries = self.reader.read(group, from, to, bytes_max).ok();
                self.mailbox.put(group, Event::LogRead { from, entries });
            }
            Read::Rows(RowRead { group, serial, view, keys }) => {
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
                self.mailbox.put(group, Event::RowsRead { serial, generation, rows });
            }
            Read::Cold(read) => self.read_cold(read),
            Read::Expired(ExpiredScan { group, view, range, now_ms }) => {
                let options = PageOptions {
                    rows_max: SCANNED_ROWS_MAX,
                    bytes_max: 1 << 20,
                    reverse: false,
                    keys_only: true,
                };
                let (keys, rest) = match view.page(&range, options) {
                    Ok(page) => {
                        let rows = page.rows.into_iter();
                        let expired = rows.filter(|(_, row)| row.is_expired(now_ms));
                        (expired.map(|(key, _)| key).collect(), page.more)
                    }
                    Err(StoreError::Corrupt { .. }) => {
                        let generation = view.generation();
                        self.mailbox.put(group, Event::RowsLost { generation });
                        (Vec::new(), None)
                    }
                    Err(_) => (Vec::new(), None),
                };
                self.mailbox.put(group, Event::Expired { keys, rest });
            }
        }
    }

    fn read_cold(&self, read: ColdRead) {
        let result = read.run();
        if let Err(Refusal::Corrupt(error)) = result {
            // The replica knows whether another one could answer.
            let generation = read.view.generation();
            let event = Event::ReadDamaged { generation, reply: read.reply, error };
            return self.mailbox.put(read.group, event);
        }
        match read.reply {
            // A caller who no longer listens has gone.
            Reply::Oneshot(sender) => drop(sender.send(result)),
            Reply::Peer { node, id } => {
                Outbox::send(&self.mailbox, node, vec![Parcel::Reply { id, result }]);
            }
        }
    }
}

/// Votes and acknowledgements are promises: the judges compare them with the disk.
fn tell_promise(judges: &mut Judges, message: &GroupMessage) {
    let (group, from) = (Group(message.group.0), Replica(message.from.0));
    match &message.message {
        Message::Vote { term, pre: false, granted: true } => {
            judges.voted(group, from, term.0, Replica(message.to.0));
        }
        Message::AppendReply { term, outcome: AppendOutcome::Accepted { matched } }
        | Message::HeartbeatReply { term, matched, .. } => {
            judges.acknowledged(group, from, term.0, matched.0);
        }
        _ => {}
    }
}

/// How long a checkpoint or a step of an import takes, at most.
pub const CHECKPOINT_MAX: Duration = Duration::from_millis(60);
