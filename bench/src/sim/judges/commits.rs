//! Commitment: who may lead, what is committed and where it must lie, what may be applied.
//!
//! **Committed is never lost.** What can be checked from outside: when an entry is first committed, a
//! quorum has it on disk; and at any time those replicas that may vote and lack it are fewer than
//! a quorum. Less than that is not promised: a minority may lose its disks. A suspect replica does not
//! vote, so that what it lost harms nobody.

use super::case::Case;
use super::chain::Link;
use super::{Position, Replica, Rule, Violation};

impl Case {
    /// `replica` leads in `term`.
    pub(super) fn leads(&mut self, replica: Replica, term: u64) -> Result<(), Violation> {
        if let Some(at) = self.book(replica).commits.take()
            && at.term < term
        {
            let text = format!("leads in term {term} and commits {at} first of all");
            return Err(self.broken(Rule::OwnTerm, replica, &text));
        }
        match self.leaders.get(&term) {
            Some(other) if *other == replica => return Ok(()),
            Some(other) => {
                let text = format!("leads in term {term}, in which {other} leads");
                return Err(self.broken(Rule::OneLeader, replica, &text));
            }
            None => {}
        }
        self.leaders.insert(term, replica);
        while self.leaders.len() > LEADERS_MAX {
            self.leaders.pop_first();
        }
        if self.book(replica).suspect {
            let text = format!("leads in term {term} although it may have lost its log");
            return Err(self.broken(Rule::Promises, replica, &text));
        }
        self.must_be_complete(replica, term)
    }

    /// A leader of `term` has everything that was committed in earlier terms.
    fn must_be_complete(&mut self, replica: Replica, term: u64) -> Result<(), Violation> {
        let Some((index, link)) = self.chain.last_before(term) else { return Ok(()) };
        let book = self.book(replica);
        if book.has(index, link.term) {
            return Ok(());
        }
        let last = book.last();
        let text = format!(
            "leads in term {term} without the entry {index} of term {}, committed in term {} by \
             {}; its log ends at {last}",
            link.term, link.committed_in, link.by
        );
        Err(self.broken(Rule::LeaderCompleteness, replica, &text))
    }

    /// `replica` knows that everything up to `at` is committed.
    pub(super) fn committed(&mut self, replica: Replica, at: Position) -> Result<(), Violation> {
        let end = self.chain.end();
        let book = self.book(replica);
        if at.index <= book.committed {
            return Ok(());
        }
        let from = book.committed.max(book.base.index) + 1;
        book.committed = at.index;
        if at.index > book.last() {
            let text = format!("commits {at}, but its log ends at {}", book.last());
            return Err(self.broken(Rule::StateMachineSafety, replica, &text));
        }
        // Each entry that it now takes for committed is what the others took for it.
        for index in from..=at.index.min(end) {
            self.must_agree(replica, index)?;
        }
        if at.index <= end {
            return Ok(());
        }
        for index in (end + 1).max(from)..=at.index {
            let Some(noted) = self.book(replica).at(index) else { continue };
            let (term, hash) = (noted.term, noted.hash);
            self.chain.add(index, Link { term, hash, committed_in: at.term, by: replica });
        }
        self.book(replica).commits = Some(at);
        self.must_be_durable(replica, at)?;
        self.later_leaders_have(at)
    }

    fn must_agree(&mut self, replica: Replica, index: u64) -> Result<(), Violation> {
        let Some(link) = self.chain.at(index) else { return Ok(()) };
        match self.book(replica).at(index) {
            Some(noted) if (noted.term, noted.hash) != (link.term, link.hash) => {
                let text = format!(
                    "takes entry {index} of term {} for committed, but {} committed one of term {} \
                     there",
                    noted.term, link.by, link.term
                );
                Err(self.broken(Rule::StateMachineSafety, replica, &text))
            }
            _ => Ok(()),
        }
    }

    /// A quorum has what is committed on its disks.
    fn must_be_durable(&self, replica: Replica, at: Position) -> Result<(), Violation> {
        let is_watched = self.books.values().any(|book| book.is_disk_watched);
        if self.members.is_empty() || !is_watched {
            return Ok(());
        }
        let holders = self
            .members
            .iter()
            .filter_map(|member| self.books.get(member))
            // What a suspect had before it was damaged was rightly counted on.
            .filter(|book| book.held >= at.index && (book.suspect || book.has(at.index, at.term)))
            .count();
        if holders >= self.quorum() {
            return Ok(());
        }
        let text = format!(
            "commits {at}, which {holders} of {} disks hold: {} are needed",
            self.members.len(),
            self.quorum()
        );
        Err(self.broken(Rule::CommittedIsKept, replica, &text))
    }

    /// Whoever leads in a later term than that of a commitment has it, also if it was elected before.
    fn later_leaders_have(&mut self, at: Position) -> Result<(), Violation> {
        let later = self.leaders.range(at.term + 1..).next_back();
        match later.map(|(term, replica)| (*term, *replica)) {
            // Its log may have been cut since by a leader that is later still.
            Some((term, replica)) if self.book(replica).term <= term => {
                self.must_be_complete(replica, term)
            }
            _ => Ok(()),
        }
    }

    /// Those who may vote and lack what is committed are fewer than a quorum.
    pub(super) fn must_not_be_lost(&self) -> Result<(), Violation> {
        let end = self.chain.end();
        let Some(link) = self.chain.at(end) else { return Ok(()) };
        if self.members.is_empty() {
            return Ok(());
        }
        let lacking: Vec<Replica> = self
            .members
            .iter()
            .filter(|member| {
                self.books.get(member).is_none_or(|book| !book.suspect && !book.has(end, link.term))
            })
            .copied()
            .collect();
        if lacking.len() < self.quorum() {
            return Ok(());
        }
        let names: Vec<String> = lacking.iter().map(Replica::to_string).collect();
        let text = format!(
            "entry {end} of term {} is committed, but {} can elect a leader without it",
            link.term,
            names.join(", ")
        );
        Err(self.broken(Rule::CommittedIsKept, link.by, &text))
    }

    /// `replica` applies an entry.
    pub(super) fn applied(
        &mut self,
        replica: Replica,
        at: Position,
        hash: u64,
    ) -> Result<(), Violation> {
        let Position { index, term } = at;
        let link = self.chain.at(index);
        let book = self.book(replica);
        let (before, committed) = (book.applied, book.committed);
        book.applied = index;
        if index != before + 1 {
            let text = format!("applies {index} after {before}");
            return Err(self.broken(Rule::StateMachineSafety, replica, &text));
        }
        if index > committed {
            let text = format!("applies {index}, knowing only that {committed} is committed");
            return Err(self.broken(Rule::StateMachineSafety, replica, &text));
        }
        match link {
            Some(link) if (link.term, link.hash) != (term, hash) => {
                let text = format!(
                    "applies entry {at}, but {} committed another one of term {} there",
                    link.by, link.term
                );
                Err(self.broken(Rule::StateMachineSafety, replica, &text))
            }
            _ => Ok(()),
        }
    }

    /// The rows of `replica` are those after `at`, by a snapshot or a restart.
    pub(super) fn restored(&mut self, replica: Replica, at: Position) -> Result<(), Violation> {
        let (end, link) = (self.chain.end(), self.chain.at(at.index));
        let book = self.book(replica);
        book.applied = at.index;
        match book.has(at.index, at.term) {
            true => book.rows_are_durable(at.index),
            // A replica that may have lost its log keeps what it has: it is no longer counted.
            false if book.suspect => {}
            false => book.reset_to(at),
        }
        if at.index > end {
            let text = format!("has rows up to {at}, but only {end} is committed anywhere");
            return Err(self.broken(Rule::StateMachineSafety, replica, &text));
        }
        match link {
            Some(link) if link.term != at.term => {
                let text = format!(
                    "has rows up to {at}, but {} committed one of term {} there",
                    link.by, link.term
                );
                Err(self.broken(Rule::StateMachineSafety, replica, &text))
            }
            _ => Ok(()),
        }
    }
}

/// How many terms of a group are remembered at most.
const LEADERS_MAX: usize = 4_096;
