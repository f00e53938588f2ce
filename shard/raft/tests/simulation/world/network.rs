//! Messages under way: lost, cut, repeated, late.

use bytes::BytesMut;
use flotilla_raft::{Event, Message, ReplicaId};

use super::{Faults, Happening, MS, World};

impl World {
    pub(super) fn transmit(&mut self, from: usize, to: ReplicaId, message: &Message) {
        self.counts.messages += 1;
        self.counts.takeovers_asked += u64::from(matches!(message, Message::TimeoutNow { .. }));
        let to = to.0 as usize - 1;
        if self.cut.contains(&(from, to)) {
            self.counts.cut_by_partition += 1;
            if self.below(50) == 0 {
                self.counts.unreachable += 1;
                let id = self.machines[to].id;
                let now = self.time_of(from);
                if let Some(raft) = &mut self.machines[from].raft {
                    raft.step(now, Event::Unreachable(id));
                }
            }
            return;
        }
        if self.below(100) < self.loss_percent {
            self.counts.lost += 1;
            return;
        }
        let mut buffer = BytesMut::new();
        message.encode(&mut buffer);
        let bytes = buffer.freeze();
        let wild = self.storm && self.faults == Faults::All;
        let copies = if wild && self.below(20) == 0 { 2 } else { 1 };
        self.counts.repeated += copies - 1;
        for _ in 0..copies {
            let mut delay = self.below(self.delay_max) + MS / 10;
            if wild && self.below(100) == 0 {
                delay += self.below(500 * MS);
            }
            let from = self.machines[from].id;
            self.later(delay, Happening::Deliver { to, from, bytes: bytes.clone() });
        }
    }
}
