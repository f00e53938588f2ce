//! Judges of a simulated cluster: they are told what is seen from outside, and say what must not be.
//!
//! What they are told is plain data: what logs take and lose, what lies on disks, what is said to
//! others, what is applied, what clients get. They share no code with what they judge, never look
//! into it, and decide nothing: the same observations give the same verdict. The first violation
//! stays; after it nothing that they say means anything.
//!
//! **What must be told, and in which order.** Of each replica, in one step of it: its `term`, the
//! entries that its log takes and loses, its `wrote` ticket, what it `committed`, `applied` or
//! `compacted`, whether it `leads`. What a sync covers (`synced`, `hard_state`) comes when the disk
//! has it, and before the messages that waited for it (`voted`, `acknowledged`). After a restart
//! comes `reopened`, then `restored`.
//!
//! What is told less often than it happens, or not at all, makes the judges weaker and never unjust,
//! except that `entry`, `committed`, `applied`, `reopened` and `restored` of a group are told wholly or
//! not at all.
//!
//! * [`violation`] names the rules. `case`, `book` and `chain` keep what is known of a group, of a
//!   replica and of what is committed; `commits` judges leaders, commitment and application,
//!   `disks` what is promised and kept, `ownership`, `contents`, `counters` and `endings` the rest.
//!
//! What is absent: linearizability, which [`crate::linearizable`] judges, and the time by which
//! something must have happened.

mod book;
mod case;
mod chain;
mod commits;
mod contents;
mod counters;
mod disks;
mod endings;
mod ids;
mod ownership;
mod violation;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use disks::Reopened;
pub use ids::{Group, Position, Replica};
pub use ownership::Keys;
pub use violation::{Rule, Violation};

use case::Case;
use contents::Contents;
use counters::Counters;
use endings::Endings;
use ownership::Ownership;

/// All judges of one simulated cluster.
#[derive(Debug, Default)]
pub struct Judges {
    cases: BTreeMap<Group, Case>,
    ownership: Ownership,
    contents: Contents,
    counters: Counters,
    endings: Endings,
    violation: Option<Violation>,
    observations: u64,
}

impl Judges {
    /// Judges who know nothing yet.
    pub fn new() -> Judges {
        Judges::default()
    }

    /// What was broken first, if anything was.
    ///
    /// # Errors
    ///
    /// The first violation.
    pub fn verdict(&self) -> Result<(), Violation> {
        self.violation.clone().map_or(Ok(()), Err)
    }

    /// How much they were told.
    pub fn observations(&self) -> u64 {
        self.observations
    }

    /// Who votes in `group`. Without it nothing is judged that needs to know what a quorum is.
    pub fn members(&mut self, group: Group, members: &[Replica]) {
        self.note(group, |case| {
            case.members = members.to_vec();
            Ok(())
        });
    }

    /// `replica` is in `term`, and a step of it follows. Told before its log changes, it tells a
    /// rightful cut from a wrong one.
    pub fn term(&mut self, group: Group, replica: Replica, term: u64) {
        self.note(group, |case| {
            let book = case.book(replica);
            book.term = term;
            book.commits = None;
            Ok(())
        });
    }

    /// `replica` leads in `term`. Told as often as wished.
    pub fn leads(&mut self, group: Group, replica: Replica, term: u64) {
        self.note(group, |case| case.leads(replica, term));
    }

    /// Term and vote of `replica` lie on its disk.
    pub fn hard_state(&mut self, group: Group, replica: Replica, term: u64, vote: Option<u64>) {
        self.note(group, |case| case.hard_state(replica, term, vote));
    }

    /// The log of `replica` takes an entry, in place of everything that it had from `index` on.
    pub fn entry(&mut self, group: Group, replica: Replica, index: u64, term: u64, hash: u64) {
        self.note(group, |case| case.entry(replica, Position { index, term }, hash));
    }

    /// The log of `replica` loses everything from `from` on. An entry in its place says as much.
    pub fn truncated(&mut self, group: Group, replica: Replica, from: u64) {
        self.note(group, |case| case.truncated(replica, from));
    }

    /// The log of `replica` begins behind entry `through` of `term`.
    pub fn compacted(&mut self, group: Group, replica: Replica, through: u64, term: u64) {
        self.note(group, |case| case.compacted(replica, Position::new(through, term)));
    }

    /// `replica` handed its log, as it is now, to its disk under `ticket`; tickets count up from a
    /// restart on. Without it nothing is judged that needs to know what disks hold.
    pub fn wrote(&mut self, group: Group, replica: Replica, ticket: u64) {
        self.note(group, |case| {
            case.book(replica).wrote(ticket);
            Ok(())
        });
    }

    /// The disk of `replica` holds the write `ticket` and all before it, by its own word.
    pub fn synced(&mut self, group: Group, replica: Replica, ticket: u64) {
        self.note(group, |case| {
            case.book(replica).synced(ticket);
            Ok(())
        });
    }

    /// A granted vote (no pre-vote) of `replica` leaves for `candidate`.
    pub fn voted(&mut self, group: Group, replica: Replica, term: u64, candidate: Replica) {
        self.note(group, |case| case.voted(replica, term, candidate));
    }

    /// `replica` tells the leader of `term` that it has its log durably up to `matched`.
    pub fn acknowledged(&mut self, group: Group, replica: Replica, term: u64, matched: u64) {
        self.note(group, |case| case.acknowledged(replica, term, matched));
    }

    /// `replica` tells the leader of its term that its log does not agree with the leader's at `prev`,
    /// and that it has entry `hint` at or before it.
    pub fn refused(&mut self, group: Group, replica: Replica, prev: u64, hint: u64) {
        self.note(group, |case| case.refused(replica, prev, hint));
    }

    /// `replica` knows that everything up to entry `index`, of `term`, is committed.
    pub fn committed(&mut self, group: Group, replica: Replica, index: u64, term: u64) {
        self.note(group, |case| case.committed(replica, Position { index, term }));
    }

    /// `replica` applies an entry.
    pub fn applied(&mut self, group: Group, replica: Replica, index: u64, term: u64, hash: u64) {
        self.note(group, |case| case.applied(replica, Position { index, term }, hash));
    }

    /// The rows of `replica` are those after entry `index` of `term`: by a snapshot, or after a
    /// restart, where `(0, 0)` are no rows.
    pub fn restored(&mut self, group: Group, replica: Replica, index: u64, term: u64) {
        self.note(group, |case| case.restored(replica, Position { index, term }));
    }

    /// `replica` runs again, with this from its disk, after all repair and before it takes part.
    pub fn reopened(&mut self, group: Group, replica: Replica, found: &Reopened<'_>) {
        self.note(group, |case| case.reopened(replica, found));
    }

    /// `replica` found out while it ran that it may have lost something.
    pub fn suspects(&mut self, group: Group, replica: Replica) {
        self.note(group, |case| {
            case.book(replica).suspect = true;
            Ok(())
        });
    }

    /// On `node`, `group` owns `keys` at `version`.
    pub fn owns(&mut self, node: u64, group: Group, version: u64, keys: &Keys) {
        let outcome = self.ownership.owns(node, group, version, keys);
        self.keep(outcome);
    }

    /// The rows of `replica`, which has applied up to `applied`, have this checksum.
    pub fn contents(&mut self, group: Group, replica: Replica, applied: u64, checksum: u64) {
        let outcome = self.contents.contents(group, replica, applied, checksum);
        self.keep(outcome);
    }

    /// A client asks to increase the counter `key` by one.
    pub fn increment_asked(&mut self, key: &[u8]) {
        self.counters.asked(key);
        self.keep(Ok(()));
    }

    /// It was told that it certainly had no effect.
    pub fn increment_refused(&mut self, key: &[u8]) {
        let outcome = self.counters.refused(key);
        self.keep(outcome);
    }

    /// It was told the counter's new value.
    pub fn increment_answered(&mut self, key: &[u8], value: u64) {
        let outcome = self.counters.answered(key, value);
        self.keep(outcome);
    }

    /// What the counter is when nothing is under way any more.
    pub fn counter_ended_at(&mut self, key: &[u8], value: u64) {
        let outcome = self.counters.ended_at(key, value);
        self.keep(outcome);
    }

    /// A client asks something, under a number of its own.
    pub fn request_began(&mut self, request: u64, now_ms: u64) {
        self.endings.began(request, now_ms);
        self.keep(Ok(()));
    }

    /// It was told something, be it that nobody knows.
    pub fn request_ended(&mut self, request: u64) {
        let outcome = self.endings.ended(request);
        self.keep(outcome);
    }

    /// The faults have healed and enough time has passed: no request is under way any more.
    pub fn must_have_ended(&mut self) {
        let outcome = self.endings.must_be_none();
        self.keep(outcome);
    }

    /// The faults have healed and enough time has passed: `present`, who are neither suspect nor
    /// gone, have applied everything.
    pub fn must_be_caught_up(&mut self, group: Group, present: &[Replica]) {
        self.note(group, |case| case.must_be_caught_up(present));
    }

    /// Something that another judge found, such as that a history has no order.
    pub fn found(&mut self, violation: Violation) {
        self.keep(Err(violation));
    }

    fn note(&mut self, group: Group, tell: impl FnOnce(&mut Case) -> Result<(), Violation>) {
        let case = self.cases.entry(group).or_insert_with(|| Case::new(group));
        let outcome = tell(case);
        self.keep(outcome);
    }

    fn keep(&mut self, outcome: Result<(), Violation>) {
        self.observations += 1;
        if let (Err(violation), None) = (outcome, &self.violation) {
            self.violation = Some(violation);
        }
    }
}
