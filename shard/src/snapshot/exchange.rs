//! Both directions of one node's snapshots, behind one door: commands in, actions out.

use super::action::{Action, Key};
use super::handle::Command;
use super::incoming::Incoming;
use super::message::AbortReason;
use super::message::TransferId;
use super::metrics::SnapshotMetrics;
use super::outgoing::{Order, Outgoing, Pinned, Rows, Unreadable};
use super::sender::Bounds;
use super::service::SnapshotOptions;
use std::time::Duration;

pub(crate) struct Exchange {
    outgoing: Outgoing,
    incoming: Incoming,
}

impl Exchange {
    pub(crate) fn new(options: &SnapshotOptions, metrics: SnapshotMetrics) -> Exchange {
        let bounds = Bounds {
            chunk_bytes: options.chunk_bytes,
            window_chunks: options.window_chunks,
            silence_max: options.resume_timeout,
            standstill_max: options.standstill_max,
        };
        let outgoing = Outgoing::new(
            options.boot,
            options.outgoing_max,
            options.bytes_per_second,
            bounds,
            metrics.clone(),
        );
        let incoming = Incoming::new(
            options.incoming_max,
            options.retry_after,
            bounds,
            options.free_disk.clone(),
            metrics,
        );
        Exchange { outgoing, incoming }
    }

    /// True while [`Exchange::tick`] is of use.
    pub(crate) fn is_active(&self) -> bool {
        self.outgoing.is_active() || self.incoming.is_active()
    }

    pub(crate) fn command(&mut self, now: Duration, command: Command, out: &mut Vec<Action>) {
        match command {
            Command::Send { group, node, to, term } => {
                self.outgoing.send(now, Order { group, node, to, term }, out);
            }
            Command::Cancel { group } => self.outgoing.cancel(now, group, out),
            Command::OfferAnswer { from, transfer, wanted } => {
                self.incoming.offer_answer(now, (from, transfer), wanted, out);
            }
            Command::Install { group, from, transfer } => {
                self.incoming.install(now, group, (from, transfer), out);
            }
            Command::Discard { from, transfer } => {
                self.incoming.discard(now, (from, transfer), out);
            }
            Command::Receive { from, messages } => {
                for message in messages {
                    if message.is_from_sender() {
                        self.incoming.receive(now, from, message, out);
                    } else {
                        self.outgoing.receive(now, from, message, out);
                    }
                }
            }
            Command::Connected(node) => {
                self.outgoing.connected(now, node, out);
                self.incoming.connected(now, node, out);
            }
            Command::Shutdown => {
                self.outgoing.shutdown(out);
                self.incoming.shutdown(now, out);
            }
        }
    }

    pub(crate) fn pinned(
        &mut self,
        now: Duration,
        transfer: TransferId,
        result: Result<Pinned, Unreadable>,
        out: &mut Vec<Action>,
    ) {
        self.outgoing.pinned(now, transfer, result, out);
    }

    pub(crate) fn read(
        &mut self,
        now: Duration,
        transfer: TransferId,
        result: Result<Rows, Unreadable>,
        out: &mut Vec<Action>,
    ) {
        self.outgoing.read(now, transfer, result, out);
    }

    pub(crate) fn written(
        &mut self,
        now: Duration,
        key: Key,
        number: u64,
        problem: Option<AbortReason>,
        out: &mut Vec<Action>,
    ) {
        self.incoming.written(now, key, number, problem, out);
    }

    pub(crate) fn verified(
        &mut self,
        now: Duration,
        key: Key,
        problem: Option<AbortReason>,
        out: &mut Vec<Action>,
    ) {
        self.incoming.verified(now, key, problem, out);
    }

    pub(crate) fn swapped(&mut self, now: Duration, key: Key, is_ok: bool, out: &mut Vec<Action>) {
        self.incoming.swapped(now, key, is_ok, out);
    }

    pub(crate) fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        self.outgoing.tick(now, out);
        self.incoming.tick(now, out);
    }
}
