//! Commands about snapshots, lost rows, leases, and who may lead.

use flotilla_raft::{Event, Position, ReplicaId};

use super::{Cluster, Outcome, number};
use crate::show;

impl Cluster {
    pub(super) fn edge(&mut self, verb: &str, words: &[&str]) -> Outcome {
        match (verb, words) {
            ("transfer", [id]) => self.step(number(id)?, Event::Transfer { to: None }),
            ("transfer", [id, to]) => {
                let to = Some(ReplicaId(number(to)?));
                self.step(number(id)?, Event::Transfer { to })
            }
            ("may-lead", [id, may]) => self.step(number(id)?, Event::MayLead(*may == "yes")),
            ("reluctant", [id, is]) => self.step(number(id)?, Event::Reluctant(*is == "yes")),
            ("lease-read", [id]) => self.lease_read(id),
            ("clock", [id, percent]) => self.set_speed(number(id)?, number(percent)?),
            ("rows-lost", [id]) => {
                let id = number(id)?;
                self.node(id)?.disk.needs_snapshot = true;
                self.step(id, Event::RowsLost)
            }
            ("snapshot-sent", [id, to, at]) => {
                let (to, position) = (ReplicaId(number(to)?), show::position(at)?);
                self.step(number(id)?, Event::SnapshotSent { to, position })
            }
            ("snapshot-failed", [id, to]) => {
                let to = ReplicaId(number(to)?);
                self.step(number(id)?, Event::SnapshotFailed { to })
            }
            ("snapshot", [id, at]) => {
                let (id, position) = (number(id)?, show::position(at)?);
                let raft = self.raft(id)?;
                let wanted = raft.wants_snapshot_at(position);
                let now = self.time_of(id);
                let raft = self.raft(id)?;
                raft.step(now, Event::SnapshotReceived(position));
                let taken = raft.installing() == Some(position);
                if taken != wanted && raft.installing().is_none() {
                    return Err("what was wanted is not taken".to_owned());
                }
                let answer = if wanted { "takes" } else { "does not want" };
                self.say(&format!("n{id} {answer} the snapshot at {position}"));
                self.turn(id)
            }
            ("swap", [id]) => {
                let id = number(id)?;
                let position = self.installing(id)?;
                self.node(id)?.disk.swap(position);
                Ok(())
            }
            ("installed", [id]) => {
                let id = number(id)?;
                let position = self.installing(id)?;
                let node = self.node(id)?;
                node.disk.swap(position);
                node.install = None;
                self.step(id, Event::SnapshotInstalled(position))
            }
            ("install-refused", [id]) => {
                let id = number(id)?;
                let position = self.installing(id)?;
                self.node(id)?.install = None;
                self.step(id, Event::SnapshotRefused(position))
            }
            _ => Err(format!("unknown command {verb:?} {words:?}")),
        }
    }

    fn installing(&mut self, id: u64) -> Result<Position, String> {
        self.node(id)?.install.ok_or(format!("node {id} was not asked to swap"))
    }
}
