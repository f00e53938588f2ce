//! What Raft says is carried out: its effects are sorted to whom they concern, and committed
//! entries go into the state machine.
//!
//! What is absent: what commands mean (`machine`), and who performs effects (`perform`).

use super::Replica;
use super::retire::compaction;
use crate::applying::Step;
use crate::effects::{Effects, LogRead, Now, Observed, RowRead, answer, refuse};
use crate::outbox::{GroupMessage, Parcel};
use crate::request::{Answer, Refusal};
use flotilla_raft::{self as raft, HardState};
use flotilla_storage::journal::{Change, LogEntry, Write as JournalWrite};

impl Replica {
    pub(super) fn perform(&mut self, now: &Now, ready: raft::Ready, effects: &mut Effects) {
        if let Some(change) = ready.role_changed {
            self.role_changed(&change, effects);
        }
        if let Some(persist) = ready.persist {
            self.persist(persist, effects);
        }
        for envelope in ready.messages {
            if let Some(node) = self.machine.descriptor().node_of(envelope.to) {
                let message = GroupMessage {
                    group: self.group,
                    from: self.id,
                    to: envelope.to,
                    message: envelope.message,
                };
                effects.parcels.push((node, Parcel::Raft(message)));
            }
        }
        self.applying.extend(ready.apply, &self.machine);
        if let Some(fetch) = ready.fetch {
            effects.log_reads.push(LogRead {
                group: self.group,
                from: fetch.from.0,
                to: fetch.to.0,
                bytes_max: fetch.bytes_max as u64,
            });
        }
        for outcome in ready.reads {
            match outcome.result {
                Ok(index) => effects.reads_by_round += self.reads.confirm(outcome.id, index),
                Err(error) => {
                    for read in self.reads.refuse(outcome.id) {
                        let refusal = self.read_refusal(&error);
                        refuse(read.reply, read.permit, refusal, effects);
                    }
                }
            }
        }
        for follower in ready.snapshots {
            self.send_snapshot(follower, effects);
        }
        if let Some(position) = ready.install {
            self.install(now, position, effects);
        }
    }

    fn persist(&mut self, persist: raft::Persist, effects: &mut Effects) {
        if let Some(base) = persist.reset {
            self.log.compact(base.index.0);
            effects.journal.push(compaction(self.group, base));
        }
        let entries: Vec<LogEntry> = persist.entries.into_iter().map(to_journal).collect();
        for entry in &entries {
            self.log.append(entry.index, entry.payload.len());
        }
        effects.journal.push(JournalWrite {
            group: self.group,
            ticket: persist.ticket.0,
            change: Change::Append {
                state: persist.hard_state.as_ref().map(HardState::encode),
                entries,
            },
        });
    }

    pub(super) fn apply(&mut self, now: &Now, effects: &mut Effects) {
        if self.is_replacing_rows() {
            return;
        }
        loop {
            match self.applying.step(&mut self.machine) {
                Step::Applied { position, outcome } => {
                    let (index, term) = (position.index.0, position.term.0);
                    let leader = self.status.leader_node();
                    let waiting = self.pending.take(index, term, |lost| {
                        effects.observed.push(Observed::LostProposal);
                        let refusal = Refusal::NotLeader { leader };
                        refuse(lost.reply, lost.permit, refusal, effects);
                    });
                    if let Some(waiting) = waiting {
                        let outcome = outcome.expect("only writes of clients are waited for");
                        effects.observed.push(Observed::Write {
                            queued: waiting.proposed - waiting.entered.min(waiting.proposed),
                            committed: now.instant - waiting.proposed.min(now.instant),
                        });
                        answer(waiting.reply, Ok(Answer::Written(outcome)), effects);
                    }
                }
                // Logs of earlier releases say so; now each replica decides for itself.
                Step::Released => {}
                Step::Read { serial, keys } => {
                    let view = self.machine.shard().view();
                    effects.row_reads.push(RowRead { group: self.group, serial, view, keys });
                    break;
                }
                Step::Idle => break,
            }
        }
    }
}

fn to_journal(entry: raft::Entry) -> LogEntry {
    LogEntry { index: entry.index.0, term: entry.term.0, payload: entry.payload }
}
