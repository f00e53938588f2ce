//! The clock of each replica: by default all show the script's time, but a script can let one run
//! fast or slow.

use flotilla_raft::Time;

use super::{Cluster, Outcome, number};

/// Shows `shown` at the script's time `since`, and goes on at its own speed.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    since: u64,
    shown: u64,
    percent: u64,
}

impl Clock {
    pub(super) fn true_at(now: u64) -> Self {
        Self { since: now, shown: now, percent: 100 }
    }

    pub(super) fn at(&self, now: u64) -> Time {
        Time(self.shown + (now - self.since) * self.percent / 100)
    }

    /// The first moment of the script's time at which the clock shows `time`.
    pub(super) fn when(&self, time: Time) -> u64 {
        match time {
            Time::NEVER => u64::MAX,
            Time(time) => {
                self.since + (time.saturating_sub(self.shown) * 100).div_ceil(self.percent)
            }
        }
    }
}

impl Cluster {
    /// What the clock of a replica shows now.
    pub(super) fn time_of(&self, id: u64) -> Time {
        self.nodes.get(&id).map_or(Time(self.now), |node| node.clock.at(self.now))
    }

    pub(super) fn set_speed(&mut self, id: u64, percent: u64) -> Outcome {
        let now = self.now;
        let node = self.node(id)?;
        node.clock = Clock { since: now, shown: node.clock.at(now).0, percent };
        Ok(())
    }

    /// A read that no round may confirm.
    pub(super) fn lease_read(&mut self, id: &str) -> Outcome {
        let id = number(id)?;
        let now = self.time_of(id);
        let line = match self.raft(id)?.lease_read(now) {
            Some(index) => format!("n{id} reads by lease: at {index}"),
            None => format!("n{id} has no lease"),
        };
        self.say(&line);
        Ok(())
    }
}
