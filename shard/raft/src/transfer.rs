//! Handing leadership over (Raft thesis, 3.10): the leader stops taking proposals, brings the
//! target's log up to its own, and asks it to campaign at once. The target asks for votes without a
//! pre-vote, and says that the leader wants it, so that voters who trust the leader listen.
//!
//! Nothing here is needed for safety: the target wins or loses an election like any other. While a
//! transfer runs, at most an election timeout, the leader goes on leading in all but proposals.
//!
//! A leader that must leave (it may not lead, its rows are lost) hands over to whoever is fit, and
//! steps down if nobody has taken over in an election timeout. It stays if nobody else could ever
//! lead, unless its rows are lost: then it could answer nobody anyway.
//!
//! A leader that should leave (it is reluctant, its disk hangs) does the same while somebody is fit,
//! and stays otherwise: a slow leader is better than none, and when all disks are slow the next
//! one would be no faster.

use crate::{
    core::Core,
    leader::Leader,
    message::Message,
    node::Node,
    progress::{Feed, Progress},
    types::{ReplicaId, Round, Time},
};

/// A transfer that is under way.
pub(crate) struct Transfer {
    pub(crate) to: ReplicaId,
    /// When it is given up.
    until: Time,
    /// The target was asked to campaign since the last heartbeat.
    asked: bool,
    /// The target was asked at least once: it may campaign at any time.
    irrevocable: bool,
}

impl Node<Leader> {
    /// Starts handing over to `to`, else to whoever has most of the log. Does nothing if there is
    /// nobody fit for it, or if somebody was asked to campaign already.
    pub(crate) fn transfer(&mut self, now: Time, to: Option<ReplicaId>) {
        if self.role.transfer.as_ref().is_some_and(|running| running.irrevocable) {
            return;
        }
        let core = &self.core;
        let fit = self.role.followers.iter().filter(|follower| {
            to.is_none_or(|to| to == follower.id) && is_fit(core, follower, now)
        });
        // Of equals, the first.
        let best = fit.rev().max_by_key(|follower| follower.matched());
        if let Some(to) = best.map(|follower| follower.id) {
            let until = now + core.options.election_timeout;
            self.role.transfer = Some(Transfer { to, until, asked: false, irrevocable: false });
        }
    }

    /// To whom this leader is handing over.
    pub(crate) fn transferring(&self) -> Option<ReplicaId> {
        self.role.transfer.as_ref().map(|transfer| transfer.to)
    }

    /// Asks the target to campaign, once it has the whole log.
    pub(crate) fn drive_transfer(&mut self) {
        let Some(transfer) = &mut self.role.transfer else { return };
        let target = self.role.followers.iter().find(|follower| follower.id == transfer.to);
        let ready = target.is_some_and(|target| target.matched() == self.core.log.last().index);
        if ready && !transfer.asked {
            transfer.asked = true;
            transfer.irrevocable = true;
            self.role.asked_to_take_over = true;
            let term = self.core.term();
            self.core.send_now(transfer.to, Message::TimeoutNow { term });
        }
    }

    /// A heartbeat interval is over: what was asked may be lost.
    pub(crate) fn repeat_transfer(&mut self) {
        if let Some(transfer) = &mut self.role.transfer {
            transfer.asked = false;
        }
    }

    /// Gives up a transfer whose time is over, and starts one if this leader must leave. True if it
    /// must step down at once.
    pub(crate) fn must_step_down(&mut self, now: Time) -> bool {
        self.role.transfer.take_if(|transfer| transfer.until <= now);
        let must_leave = self.must_leave();
        let should_leave = !must_leave && self.should_leave(now);
        let heir = should_leave.then(|| self.heir(now)).flatten();
        if !must_leave && heir.is_none() {
            if self.role.leave_at.take().is_some() {
                self.role.transfer.take_if(|transfer| !transfer.irrevocable);
            }
            return false;
        }
        let timeout = self.core.options.election_timeout;
        let leave_at = *self.role.leave_at.get_or_insert(now + timeout);
        if now >= leave_at {
            return true;
        }
        if self.role.transfer.is_none() {
            self.transfer(now, heir);
        }
        false
    }

    /// Staying would be worse than nobody leading.
    fn must_leave(&self) -> bool {
        let others_could_lead = self.core.voters.quorum() > 1;
        self.core.rows.lost || (others_could_lead && !self.core.may_lead)
    }

    /// Another leader would be better.
    fn should_leave(&self, now: Time) -> bool {
        self.core.reluctant || self.core.is_disk_stalled(now, self.core.options.disk_stall_max)
    }

    /// Who would make the better leader: of those that are fit, and have said so to this leader, the
    /// one that has most of the log. Silence is no consent here: leaders that all want to go would
    /// hand over in a circle, each before it has heard what the others think.
    fn heir(&self, now: Time) -> Option<ReplicaId> {
        let followers = self.role.followers.iter().rev();
        let heirs = followers
            .filter(|follower| follower.round > Round(0) && is_fit(&self.core, follower, now));
        heirs.max_by_key(|follower| follower.matched()).map(|follower| follower.id)
    }

    /// When this leader must be ticked next.
    pub(crate) fn next_tick(&self) -> Time {
        let transfer = self.role.transfer.as_ref().map(|transfer| transfer.until);
        let leave = self.role.leave_at;
        [transfer, leave].into_iter().flatten().fold(self.role.heartbeat_at, Time::min)
    }
}

/// True if this follower could take over soon, as far as its leader knows.
fn is_fit(core: &Core, follower: &Progress, now: Time) -> bool {
    follower.may_lead
        && !follower.wants_snapshot
        && follower.feed() != Feed::Snapshot
        && now.since(follower.heard_at) < core.options.election_timeout
}
