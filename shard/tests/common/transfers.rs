//! Snapshots between the stores of a group: what the service does, without its messages.

use super::journal::position;
use super::{GROUP, Group};
use bytes::Bytes;
use flotilla_shard::effects::{Event, SnapshotOrder};
use flotilla_shard::snapshot::TransferId;
use flotilla_shard::{NodeId, SnapshotEvent};
use flotilla_storage::store::{Checkpointer, Import, ImportEnd, Shard, Store};
use std::sync::mpsc;

/// A snapshot on its way.
pub struct Transfer {
    sender: u64,
    receiver: u64,
    to: flotilla_shard::ReplicaId,
    chunks: Vec<Bytes>,
    end: ImportEnd,
    import: Option<(Import, Checkpointer)>,
}

impl Transfer {
    /// Gives the receiver's store up.
    fn end(self) {
        if let Some((import, checkpointer)) = self.import {
            drop(import);
            checkpointer.shutdown().expect("a healthy store");
        }
    }
}

/// What is done with an order to install.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Installs {
    /// It is carried out.
    #[default]
    Done,
    /// It waits.
    Held,
    /// It is carried out, and the node crashes before anybody learns of it.
    CrashAfterSwap,
}

impl Group {
    pub(super) fn order(&mut self, n: u64, order: SnapshotOrder) {
        match order {
            SnapshotOrder::Send { to: (node, to), .. } => {
                let reachable = !self.cut.contains(&node) && !self.cut.contains(&NodeId(n));
                let begun = reachable && self.begin(n, node.0, to);
                if !begun {
                    self.event(n, Event::Snapshot(SnapshotEvent::Failed { group: GROUP, to }));
                }
            }
            SnapshotOrder::Cancel { .. } => {
                let transfers = std::mem::take(&mut self.transfers);
                let (ended, others) =
                    transfers.into_iter().partition(|(_, transfer)| transfer.sender == n);
                self.transfers = others;
                let ended: std::collections::BTreeMap<_, _> = ended;
                ended.into_values().for_each(Transfer::end);
                self.event(n, Event::Snapshot(SnapshotEvent::Unpinned { group: GROUP }));
            }
            SnapshotOrder::Answer { transfer, wanted: true, .. } => self.load(n, transfer),
            SnapshotOrder::Answer { transfer, wanted: false, .. }
            | SnapshotOrder::Discard { transfer, .. } => self.fail(transfer.number),
            SnapshotOrder::Install { transfer, .. } => match self.installs {
                Installs::Held => self.held_installs.push((n, order)),
                Installs::Done => self.swap(n, transfer.number, true),
                Installs::CrashAfterSwap => self.swap(n, transfer.number, false),
            },
        }
    }

    fn begin(&mut self, sender: u64, receiver: u64, to: flotilla_shard::ReplicaId) -> bool {
        let export = self.member(sender).store.export(GROUP).expect("the store is healthy");
        let Some(mut export) = export else { return false };
        let mut chunks = Vec::new();
        while let Some(chunk) = export.next(1000).expect("the store is healthy") {
            chunks.push(chunk);
        }
        let end = ImportEnd {
            applied: export.applied(),
            version: export.version(),
            meta: export.meta().clone(),
            rows: export.rows(),
            digest: export.digest(),
        };
        self.snapshots_sent += 1;
        let number = self.snapshots_sent;
        let ends_at = position(end.applied);
        let transfer = Transfer { sender, receiver, to, chunks, end, import: None };
        self.transfers.insert(number, transfer);
        let pinned = SnapshotEvent::Pinned { group: GROUP, position: ends_at };
        self.event(sender, Event::Snapshot(pinned));
        let offered = SnapshotEvent::Offered {
            group: GROUP,
            transfer: TransferId { boot: 1, number },
            from: NodeId(sender),
            to,
            term: flotilla_shard::raft::Term(1),
            position: ends_at,
        };
        self.event(receiver, Event::Snapshot(offered));
        true
    }

    fn load(&mut self, n: u64, transfer: TransferId) {
        let store = self.member(n).store.clone();
        let Some(moving) = self.transfers.get_mut(&transfer.number) else { return };
        let range = flotilla_shard::KeyRange::whole();
        let checkpointer = Checkpointer::start(store, Vec::new()).expect("a thread");
        let import = checkpointer.handle().import(GROUP, range);
        let (sender, receiver) = mpsc::channel();
        let done = || {
            let sender = sender.clone();
            Box::new(move |result| sender.send(result).expect("the test waits"))
        };
        for chunk in &moving.chunks {
            import.write(chunk.clone(), done());
            receiver.recv().expect("an answer").expect("a healthy disk");
        }
        import.verify(moving.end.clone(), done());
        receiver.recv().expect("an answer").expect("the rows are whole");
        moving.import = Some((import, checkpointer));
        let (from, ends_at) = (NodeId(moving.sender), position(moving.end.applied));
        let group = GROUP;
        let received = SnapshotEvent::Received { group, transfer, from, position: ends_at };
        self.event(n, Event::Snapshot(received));
    }

    fn fail(&mut self, number: u64) {
        let Some(transfer) = self.transfers.remove(&number) else { return };
        let Transfer { sender, to, .. } = transfer;
        transfer.end();
        self.event(sender, Event::Snapshot(SnapshotEvent::Failed { group: GROUP, to }));
        self.event(sender, Event::Snapshot(SnapshotEvent::Unpinned { group: GROUP }));
    }

    fn swap(&mut self, n: u64, number: u64, tell: bool) {
        let Some(transfer) = self.transfers.remove(&number) else { return };
        let Transfer { sender, receiver, to, end, import, .. } = transfer;
        assert_eq!(receiver, n);
        let (import, checkpointer) = import.expect("it was loaded");
        let shard = swapped(&import);
        drop(import);
        checkpointer.shutdown().expect("a healthy store");
        let ends_at = position(end.applied);
        if tell {
            let (group, meta) = (GROUP, end.meta);
            let installed = SnapshotEvent::Installed { group, position: ends_at, meta, shard };
            self.event(n, Event::Snapshot(installed));
        } else {
            drop(shard);
            self.restart(n);
        }
        let sent = SnapshotEvent::Sent { group: GROUP, to, position: ends_at };
        self.event(sender, Event::Snapshot(sent));
        self.event(sender, Event::Snapshot(SnapshotEvent::Unpinned { group: GROUP }));
    }

    /// The transfers to a node that crashes end.
    pub(super) fn forget_transfers_to(&mut self, n: u64) {
        self.held_installs.retain(|(node, _)| *node != n);
        let lost = self.transfers.iter().filter(|(_, transfer)| transfer.receiver == n);
        let lost: Vec<u64> = lost.map(|(number, _)| *number).collect();
        lost.into_iter().for_each(|number| self.fail(number));
    }

    /// Whether a snapshot is ready to be swapped in on node `n`.
    pub fn has_held_install(&self, n: u64) -> bool {
        self.held_installs.iter().any(|(node, _)| *node == n)
    }

    /// Orders are carried out again, those that were held first.
    pub fn release_installs(&mut self) {
        self.installs = Installs::Done;
        for (n, order) in std::mem::take(&mut self.held_installs) {
            self.order(n, order);
        }
        self.settle();
    }
}

fn swapped(import: &Import) -> Shard {
    let (sender, receiver) = mpsc::channel();
    import.swap(Box::new(move |result| sender.send(result).expect("the test waits")));
    receiver.recv().expect("an answer").expect("a healthy disk")
}

/// Rows of the group on disk.
pub fn rows_on_disk(store: &Store) -> u64 {
    store.state(GROUP).map_or(0, |state| state.rows)
}
