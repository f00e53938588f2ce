//! Commands that only look.

use std::fmt::Write as _;

use flotilla_raft::{FollowerState, Position};

use super::{Cluster, Outcome, number};
use crate::show;

impl Cluster {
    fn selected(&self, ids: &[&str]) -> Result<Vec<u64>, String> {
        match ids {
            [] => Ok(self.nodes.keys().copied().collect()),
            ids => ids.iter().map(|id| number(id)).collect(),
        }
    }

    pub(super) fn status(&mut self, ids: &[&str]) -> Outcome {
        for id in self.selected(ids)? {
            let Some(raft) = &self.node(id)?.raft else {
                self.say(&format!("n{id} is down"));
                continue;
            };
            let status = raft.status();
            let mut line = format!(
                "n{id} {} term={} vote={} leader={} last={} commit={} applied={} persisted={}",
                status.role,
                status.term,
                status.vote.map_or("none".to_owned(), |id| format!("n{id}")),
                status.leader.map_or("none".to_owned(), |id| format!("n{id}")),
                status.last,
                status.commit,
                status.applied,
                status.persisted,
            );
            if status.base != Position::default() {
                write!(line, " base={}", status.base).expect("strings take everything");
            }
            if status.violations > 0 {
                write!(line, " violations={}", status.violations).expect("as above");
            }
            if status.suspect {
                line += " suspect";
            }
            if !status.may_lead {
                line += " may-not-lead";
            }
            if status.reluctant {
                line += " reluctant";
            }
            if status.needs_snapshot {
                line += " needs-snapshot";
            }
            if let Some(position) = status.installing {
                write!(line, " installing={position}").expect("as above");
            }
            if let Some(to) = status.transferring {
                write!(line, " transferring-to=n{to}").expect("as above");
            }
            self.say(&line);
            for follower in status.followers {
                let state = match follower.state {
                    FollowerState::Probe => "probe",
                    FollowerState::Replicate => "replicate",
                    FollowerState::Snapshot => "snapshot",
                };
                let wants = if follower.wants_snapshot { " wants-snapshot" } else { "" };
                self.say(&format!(
                    "   n{} {state} matched={} next={} inflight={}/{}B probes={}{wants}",
                    follower.id,
                    follower.matched,
                    follower.next,
                    follower.inflight_messages,
                    follower.inflight_bytes,
                    follower.probes_sent,
                ));
            }
        }
        Ok(())
    }

    pub(super) fn logs(&mut self, ids: &[&str]) -> Outcome {
        for id in self.selected(ids)? {
            let disk = &self.node(id)?.disk;
            let runs = show::runs(&disk.entries[disk.base.0 as usize..]);
            self.say(&format!("n{id} has {runs}"));
        }
        Ok(())
    }
}
