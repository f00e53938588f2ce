//! Which writes go into the next round: small ones together, large ones by themselves behind them.
//!
//! A round is durable as a whole, so a small write in a round with a large one waits for all of its
//! bytes. Here it waits for one large write at most: the one that is under way when it comes. Large
//! writes wait for one round of small ones each, so neither starves the other.
//!
//! Invariants:
//!
//! * Writes of one group go into rounds in the order in which they were submitted.
//! * What one submission brings of one group goes into one round: a crash keeps all of it or none.
//!
//! What is absent: where submissions come from, and what becomes of rounds.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::{Change, Write};
use crate::GroupId;

/// A group's part of a submission is large from so many payload bytes on.
pub(super) const LARGE_BYTES: u64 = 256 << 10;
/// A round takes no more submissions, and no second large part, beyond so many payload bytes.
pub(super) const ROUND_BYTES: u64 = 4 << 20;

/// What a lane handed in at once.
pub(super) struct Submission {
    pub lane: usize,
    pub writes: Vec<Write>,
    pub submitted: Instant,
}

/// Writes that become durable together.
#[derive(Default)]
pub(super) struct Round {
    pub writes: Vec<Write>,
    /// Payload bytes of the writes.
    pub bytes: u64,
    /// Lane, group and ticket of each write, in order.
    pub tickets: Vec<(usize, GroupId, u64)>,
    /// When what is in it was submitted, oldest first.
    pub submitted: Vec<Instant>,
}

impl Round {
    fn add(&mut self, lane: usize, write: Write) {
        self.bytes += payload_bytes(&write);
        self.tickets.push((lane, write.group, write.ticket));
        self.writes.push(write);
    }

    /// Makes room for the next round.
    pub(super) fn clear(&mut self) {
        self.writes.clear();
        self.bytes = 0;
        self.tickets.clear();
        self.submitted.clear();
    }
}

/// A group's part of a submission that waits for a round of its own.
struct Large {
    lane: usize,
    group: GroupId,
    writes: Vec<Write>,
    bytes: u64,
    submitted: Instant,
}

/// Large writes that wait, and what came behind them in their groups.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Large>,
    /// How many wait of each group.
    groups: BTreeMap<GroupId, usize>,
}

impl Queue {
    /// True if nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the oldest of those that wait was submitted.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|large| large.submitted)
    }

    /// Adds what is small in `submission` to `round`; the rest waits.
    pub(super) fn take(&mut self, submission: Submission, round: &mut Round) {
        let Submission { lane, writes, submitted } = submission;
        let bytes: u64 = writes.iter().map(payload_bytes).sum();
        if bytes < LARGE_BYTES && self.is_empty() {
            writes.into_iter().for_each(|write| round.add(lane, write));
            round.submitted.push(submitted);
            return;
        }
        let mut parts: BTreeMap<GroupId, (u64, Vec<Write>)> = BTreeMap::new();
        for write in &writes {
            parts.entry(write.group).or_default().0 += payload_bytes(write);
        }
        parts.retain(|group, (bytes, _)| *bytes >= LARGE_BYTES || self.groups.contains_key(group));
        let before = round.writes.len();
        for write in writes {
            match parts.get_mut(&write.group) {
                Some((_, part)) => part.push(write),
                None => round.add(lane, write),
            }
        }
        if round.writes.len() > before {
            round.submitted.push(submitted);
        }
        for (group, (bytes, writes)) in parts {
            *self.groups.entry(group).or_default() += 1;
            self.waiting.push_back(Large { lane, group, writes, bytes, submitted });
        }
    }

    /// Moves the first of those that wait into `round`, which is empty, and as many behind it as
    /// are not too much together.
    pub(super) fn next(&mut self, round: &mut Round) {
        while let Some(Large { bytes, .. }) = self.waiting.front()
            && (round.writes.is_empty() || round.bytes + bytes <= ROUND_BYTES)
            && let Some(large) = self.waiting.pop_front()
        {
            let Large { lane, group, writes, submitted, .. } = large;
            writes.into_iter().for_each(|write| round.add(lane, write));
            round.submitted.push(submitted);
            let count = self.groups.get_mut(&group).expect("counted when it came");
            *count -= 1;
            if *count == 0 {
                self.groups.remove(&group);
            }
        }
    }
}

fn payload_bytes(write: &Write) -> u64 {
    match &write.change {
        Change::Append { entries, .. } => {
            entries.iter().map(|entry| entry.payload.len() as u64).sum()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::LogEntry;
    use bytes::Bytes;

    fn append(group: u64, ticket: u64, bytes: u64) -> Write {
        let payload = Bytes::from(vec![0; bytes as usize]);
        let entries = vec![LogEntry { index: ticket, term: 1, payload }];
        Write { group: GroupId(group), ticket, change: Change::Append { state: None, entries } }
    }

    fn submission(lane: usize, writes: Vec<Write>) -> Submission {
        Submission { lane, writes, submitted: Instant::now() }
    }

    fn tickets(round: &mut Round) -> Vec<(usize, u64, u64)> {
        let tickets = round.tickets.iter().map(|(lane, group, ticket)| (*lane, group.0, *ticket));
        let tickets = tickets.collect();
        assert_eq!(round.writes.len(), round.tickets.len());
        round.clear();
        tickets
    }

    #[test]
    fn small_writes_go_before_large_ones_of_other_groups() {
        let (mut queue, mut round) = (Queue::default(), Round::default());
        queue.take(submission(0, vec![append(1, 1, 8 << 20), append(2, 1, 10)]), &mut round);
        queue.take(submission(1, vec![append(3, 1, 8 << 20), append(4, 1, 10)]), &mut round);
        assert_eq!(tickets(&mut round), [(0, 2, 1), (1, 4, 1)]);
        // What is behind a large write of its own group stays behind it.
        queue.take(submission(0, vec![append(1, 2, 10), append(2, 2, 10)]), &mut round);
        assert_eq!(tickets(&mut round), [(0, 2, 2)]);
        queue.next(&mut round);
        assert_eq!(tickets(&mut round), [(0, 1, 1)]);
        queue.take(submission(1, vec![append(3, 2, 10), append(1, 3, 10)]), &mut round);
        assert_eq!(tickets(&mut round), []);
        queue.next(&mut round);
        assert_eq!(tickets(&mut round), [(1, 3, 1)], "one large write is a round");
        queue.next(&mut round);
        assert_eq!(tickets(&mut round), [(0, 1, 2), (1, 1, 3), (1, 3, 2)]);
        assert!(queue.is_empty() && queue.groups.is_empty());
        queue.take(submission(0, vec![append(1, 4, 10)]), &mut round);
        assert_eq!(tickets(&mut round), [(0, 1, 4)]);
    }

    #[test]
    fn what_a_submission_brings_of_a_group_stays_together() {
        let (mut queue, mut round) = (Queue::default(), Round::default());
        let compact = Change::Compact { index: 1, term: 1 };
        let compact = Write { group: GroupId(1), ticket: 0, change: compact };
        let writes = vec![compact, append(1, 2, 1 << 20), append(2, 1, LARGE_BYTES - 1)];
        queue.take(submission(0, writes), &mut round);
        assert_eq!(tickets(&mut round), [(0, 2, 1)]);
        queue.next(&mut round);
        assert_eq!(tickets(&mut round), [(0, 1, 0), (0, 1, 2)]);
    }
}
