//! The journal of one simulated node, step by step: what the journal's thread does, without it.
//!
//! A round of writes is handed to the disk in one step and synced in a later one; what happens in
//! between happens while the round lies in the page cache. Between rounds comes housekeeping, and when
//! nothing comes for a while the last batch is proven.
//!
//! What is absent: the journal itself (`flotilla_storage::journal`).

use std::collections::VecDeque;
use std::time::Duration;

use flotilla_shard::GroupId;
use flotilla_shard::raft::HardState;
use flotilla_storage::journal::{Change, Journal, JournalError, Write};

use super::random::Random;

/// How often a round that waits for space tries again.
const FULL_RETRY: Duration = Duration::from_millis(100);
/// How long the journal is idle before the last batch is proven.
const PROVE_AFTER: Duration = Duration::from_millis(50);
/// A round takes no more submissions than this.
const ROUND_MAX: usize = 256;

/// What the journal waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Something to write.
    Idle,
    /// The disk, with a round.
    Syncing,
    /// Space, with a round.
    Held,
}

/// When a journal goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoOn {
    /// At once.
    Now,
    /// When the disk has synced.
    Synced,
    /// After so long.
    After(Duration),
    /// When something is submitted.
    Submitted,
}

/// A write whose round is on its way, as far as judges want to know.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Whose.
    pub group: GroupId,
    /// Under which ticket.
    pub ticket: u64,
    /// The state in it, if there is one.
    pub state: Option<HardState>,
}

/// A journal and what waits for it.
pub struct Journaling {
    journal: Journal,
    /// What was submitted together becomes durable together.
    queue: VecDeque<Vec<Write>>,
    phase: Phase,
    round: Vec<Told>,
    has_more_to_maintain: bool,
    /// A step is scheduled.
    pub is_due: bool,
}

impl Journaling {
    /// A journal that has nothing to do.
    pub fn new(journal: Journal) -> Journaling {
        Journaling {
            journal,
            queue: VecDeque::new(),
            phase: Phase::Idle,
            round: Vec::new(),
            has_more_to_maintain: true,
            is_due: false,
        }
    }

    /// Takes writes.
    pub fn submit(&mut self, writes: Vec<Write>) {
        self.queue.push_back(writes);
    }

    /// True if it must be woken for what was submitted.
    pub fn wants_step(&self) -> bool {
        !self.is_due && self.phase == Phase::Idle && !self.queue.is_empty()
    }

    /// True while the disk has no space for it.
    pub fn is_full(&self) -> bool {
        self.journal.stats().full
    }

    /// What the journal says of itself.
    pub fn stats(&self) -> flotilla_storage::journal::JournalStats {
        self.journal.stats()
    }

    /// Goes on: writes the next round, or syncs the one that was written. What became durable is
    /// appended to `durable`, which groups were found damaged to `suspected`.
    ///
    /// # Errors
    ///
    /// What stops the journal for good.
    pub fn step(
        &mut self,
        random: &mut Random,
        durable: &mut Vec<Told>,
        suspected: &mut Vec<GroupId>,
    ) -> Result<GoOn, JournalError> {
        match self.phase {
            Phase::Idle if !self.queue.is_empty() => self.begin(random),
            Phase::Idle => self.keep_house(suspected),
            Phase::Syncing | Phase::Held => match self.journal.sync() {
                Ok(()) => {
                    durable.append(&mut self.round);
                    self.phase = Phase::Idle;
                    self.has_more_to_maintain = self.journal.maintain()?;
                    suspected.extend(self.journal.take_suspected());
                    self.next()
                }
                Err(JournalError::Full { .. }) => {
                    self.phase = Phase::Held;
                    Ok(GoOn::After(FULL_RETRY))
                }
                Err(error) => Err(error),
            },
        }
    }

    fn begin(&mut self, random: &mut Random) -> Result<GoOn, JournalError> {
        // Now and then not all that waits goes into one round.
        let most = if random.permille(100) { random.between(1, 4) as usize } else { ROUND_MAX };
        let submissions = self.queue.drain(..self.queue.len().min(most));
        let writes: Vec<Write> = submissions.flatten().collect();
        self.round = writes.iter().map(told).collect();
        self.phase = match self.journal.write(&writes) {
            Ok(()) => Phase::Syncing,
            Err(JournalError::Full { .. }) => Phase::Held,
            Err(error) => return Err(error),
        };
        Ok(if self.phase == Phase::Held { GoOn::After(FULL_RETRY) } else { GoOn::Synced })
    }

    fn keep_house(&mut self, suspected: &mut Vec<GroupId>) -> Result<GoOn, JournalError> {
        if self.has_more_to_maintain {
            self.has_more_to_maintain = self.journal.maintain()?;
            suspected.extend(self.journal.take_suspected());
            // Copies that found no space are held like any round.
            match self.journal.sync() {
                Err(JournalError::Full { .. }) => {}
                result => result?,
            }
        } else {
            if self.journal.is_reserve_amiss() {
                self.journal.tend_reserve()?;
            }
            self.journal.prove()?;
            self.has_more_to_maintain = self.is_full() && self.journal.maintain()?;
        }
        self.next()
    }

    fn next(&self) -> Result<GoOn, JournalError> {
        Ok(if !self.queue.is_empty() {
            GoOn::Now
        } else if self.has_more_to_maintain {
            GoOn::After(Duration::from_millis(1))
        } else if self.journal.is_unproven() {
            GoOn::After(PROVE_AFTER)
        } else if self.is_full() || self.journal.is_reserve_amiss() {
            GoOn::After(Duration::from_secs(1))
        } else {
            GoOn::Submitted
        })
    }
}

fn told(write: &Write) -> Told {
    let state = match &write.change {
        Change::Append { state: Some(state), .. } => {
            Some(HardState::decode(state).expect("a replica wrote it"))
        }
        _ => None,
    };
    Told { group: write.group, ticket: write.ticket, state }
}
