//! What a leader sends in a turn: at most a window of appends to each follower, or a probe, or a
//! note of the commit index, or nothing.
//!
//! Payloads are shared, never copied: an append to four followers holds four references to the
//! same bytes. Appends leave in the same turn in which the entries go to the leader's own disk.

use crate::{
    core::Core,
    fetching::Need,
    leader::Leader,
    message::Message,
    node::Node,
    progress::{Feed, Progress},
    types::{Entry, Index, Position, Round, Time},
};

/// Most bytes of entries in a probe: enough for the entry that opens a term, too few to matter if
/// the probe is refused.
const PROBE_BYTES_MAX: usize = 4 << 10;

impl Node<Leader> {
    /// Sends to every follower what it may have.
    pub(crate) fn replicate(&mut self, now: Time) {
        for follower in &mut self.role.followers {
            let base = self.core.log.base().index;
            if follower.next() <= base && follower.feed() != Feed::Snapshot {
                // Compacted away. The follower may have it from elsewhere: the base tells.
                follower.probe_after(base, None);
            }
            if !self.core.rows.lost && follower.order_snapshot(now) {
                self.core.snapshots.push(follower.id);
            }
            match follower.feed() {
                Feed::Probe { sent_at: None } => probe(&mut self.core, follower, now),
                Feed::Replicate => {
                    if !pipeline(&mut self.core, follower) {
                        tell_commit(&mut self.core, follower);
                    }
                }
                Feed::Probe { .. } | Feed::Snapshot => {}
            }
        }
    }

    /// Followers that could be sent entries which are not in memory, with the first such index.
    pub(crate) fn fetch_needs(&self) -> impl Iterator<Item = (Need, Index)> + Clone {
        let core = &self.core;
        let limits = &core.options.limits;
        self.role.followers.iter().filter_map(|follower| {
            let next = follower.next();
            let wants = follower.feed() == Feed::Replicate
                && next <= core.log.last().index
                && follower
                    .window(limits.inflight_messages_max, limits.inflight_bytes_max)
                    .is_some()
                && !core.log.is_cached(next);
            wants.then_some((Need::Follower(follower.id), next))
        })
    }
}

/// Asks whether the logs agree just before the follower's next entry.
fn probe(core: &mut Core, follower: &mut Progress, now: Time) {
    let prev = position_before(core, follower.next());
    let last = core.log.last().index;
    let entries_max = core.options.limits.message_entries_max;
    let entries = core.log.read(follower.next(), last, entries_max, PROBE_BYTES_MAX, false);
    follower.probed(now);
    send_append(core, follower, prev, entries);
}

/// Sends everything that the follower's window has room for. True if anything was sent.
fn pipeline(core: &mut Core, follower: &mut Progress) -> bool {
    let limits = core.options.limits;
    let last = core.log.last().index;
    let mut sent = false;
    while follower.next() <= last {
        let Some(window) = follower.window(limits.inflight_messages_max, limits.inflight_bytes_max)
        else {
            break;
        };
        let prev = position_before(core, follower.next());
        // With something in flight, an entry that does not fit waits for the window to open.
        let oversize = follower.inflight_messages() == 0 || window >= limits.message_bytes_max;
        let bytes_max = limits.message_bytes_max.min(window);
        let entries =
            core.log.read(follower.next(), last, limits.message_entries_max, bytes_max, oversize);
        let Some(newest) = entries.last() else { break };
        let bytes = entries.iter().map(Entry::bytes).sum();
        follower.sent(newest.index, bytes);
        send_append(core, follower, prev, entries);
        sent = true;
    }
    sent
}

fn send_append(core: &mut Core, follower: &mut Progress, prev: Position, entries: Vec<Entry>) {
    let known = Index(prev.index.0 + entries.len() as u64);
    follower.commit_told = follower.commit_told.max(core.commit().min(known));
    let (term, commit) = (core.term(), core.commit());
    core.send_now(follower.id, Message::Append { term, prev, commit, entries });
}

/// Tells a follower that gets no append in this turn that more is committed. Asks for no answer.
fn tell_commit(core: &mut Core, follower: &mut Progress) {
    let useful = core.commit().min(follower.matched());
    if useful > follower.commit_told {
        follower.commit_told = useful;
        let (term, commit) = (core.term(), core.commit());
        let (round, answered) = (Round(0), follower.round);
        core.send_now(follower.id, Message::Heartbeat { term, commit, round, answered });
    }
}

/// Position of the entry before `next`.
fn position_before(core: &Core, next: Index) -> Position {
    let index = next.previous();
    let term = core.log.term_at(index).expect("followers below the base were moved up to it");
    Position { index, term }
}
