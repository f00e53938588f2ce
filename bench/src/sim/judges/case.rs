//! All that is known of one group, and what was heard of its logs: matching, truncation, compaction.
//!
//! That two logs which share a position share everything before it is judged entry by entry: the
//! same position always has the same command, and the same position before it. By induction that is
//! the whole prefix.

use std::collections::BTreeMap;

use super::book::{Book, Noted};
use super::chain::Chain;
use super::{Group, Position, Replica, Rule, Violation};

/// What was first seen of an entry: its command, and the term of the entry before it if known.
#[derive(Clone, Copy, Debug)]
struct Fact {
    hash: u64,
    before: Option<u64>,
    by: Replica,
}

/// How many indexes of a group are remembered although nobody says that they were compacted.
const FACTS_MAX: usize = 65_536;

/// All that is known of one group.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) group: Group,
    /// Who votes. Empty: nobody said, and nothing is judged that needs to know.
    pub(super) members: Vec<Replica>,
    pub(super) books: BTreeMap<Replica, Book>,
    pub(super) chain: Chain,
    /// Who led in which term.
    pub(super) leaders: BTreeMap<u64, Replica>,
    facts: BTreeMap<(u64, u64), Fact>,
}

impl Case {
    pub(super) fn new(group: Group) -> Case {
        Case {
            group,
            members: Vec::new(),
            books: BTreeMap::new(),
            chain: Chain::default(),
            leaders: BTreeMap::new(),
            facts: BTreeMap::new(),
        }
    }

    pub(super) fn book(&mut self, replica: Replica) -> &mut Book {
        self.books.entry(replica).or_default()
    }

    pub(super) fn quorum(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// A violation of `rule` by `replica` of this group.
    pub(super) fn broken(&self, rule: Rule, replica: Replica, text: &str) -> Violation {
        Violation::new(rule, format!("{}, {replica}: {text}", self.group))
    }

    /// The log of `replica` takes an entry: after its last, or in place of all from `index` on.
    pub(super) fn entry(
        &mut self,
        replica: Replica,
        at: Position,
        hash: u64,
    ) -> Result<(), Violation> {
        let Position { index, term } = at;
        let (base, last) = {
            let book = self.book(replica);
            (book.base.index, book.last())
        };
        if index <= base {
            return self.compacted_entry(replica, at, hash);
        }
        if index > last + 1 {
            let text = format!("takes entry {index} although its log ends at {last}");
            return Err(self.broken(Rule::LogMatching, replica, &text));
        }
        if index <= last {
            self.truncated(replica, index)?;
        }
        let book = self.book(replica);
        let before = book.term_at(index - 1);
        book.push(Noted { term, hash });
        if let Some(before) = before
            && before > term
        {
            let text = format!("takes entry {at} behind one of the later term {before}");
            return Err(self.broken(Rule::LogMatching, replica, &text));
        }
        self.remember(replica, at, hash, before)
    }

    /// An entry that lies in what was compacted away is harmless if it is the committed one.
    fn compacted_entry(&self, replica: Replica, at: Position, hash: u64) -> Result<(), Violation> {
        match self.chain.at(at.index) {
            Some(link) if (link.term, link.hash) != (at.term, hash) => {
                let text =
                    format!("writes {at} where the committed entry is of term {}", link.term);
                Err(self.broken(Rule::StateMachineSafety, replica, &text))
            }
            _ => Ok(()),
        }
    }

    fn remember(
        &mut self,
        replica: Replica,
        at: Position,
        hash: u64,
        before: Option<u64>,
    ) -> Result<(), Violation> {
        let key = (at.index, at.term);
        let Some(fact) = self.facts.get_mut(&key) else {
            self.facts.insert(key, Fact { hash, before, by: replica });
            while self.facts.len() > FACTS_MAX {
                self.facts.pop_first();
            }
            return Ok(());
        };
        let seen = *fact;
        fact.before = seen.before.or(before);
        if seen.hash != hash {
            let text = format!("entry {at} holds another command than that of {}", seen.by);
            return Err(self.broken(Rule::LogMatching, replica, &text));
        }
        match (seen.before, before) {
            (Some(there), Some(here)) if there != here => {
                let text = format!(
                    "entry {at} follows one of term {here}, but one of term {there} at {}",
                    seen.by
                );
                Err(self.broken(Rule::LogMatching, replica, &text))
            }
            _ => Ok(()),
        }
    }

    /// The log of `replica` loses everything from `from` on.
    pub(super) fn truncated(&mut self, replica: Replica, from: u64) -> Result<(), Violation> {
        let book = self.book(replica);
        let (committed, acknowledged) = (book.committed, book.acknowledged);
        let is_promised = book.term != 0 && book.term == book.acknowledged_in;
        book.truncate(from);
        if from <= committed {
            let text = format!("cuts its log at {from}, knowing that {committed} is committed");
            return Err(self.broken(Rule::CommittedIsKept, replica, &text));
        }
        if from <= acknowledged && is_promised {
            let text = format!(
                "cuts its log at {from} in the term in which it acknowledged {acknowledged}: the \
                 leader counts on what is gone"
            );
            return Err(self.broken(Rule::Promises, replica, &text));
        }
        Ok(())
    }

    /// The log of `replica` begins behind `through`.
    pub(super) fn compacted(
        &mut self,
        replica: Replica,
        through: Position,
    ) -> Result<(), Violation> {
        let book = self.book(replica);
        let (applied, last) = (book.applied, book.last());
        let found = book.term_at(through.index);
        book.compact(through);
        if through.index > applied {
            let text =
                format!("drops its log through {}, having applied only {applied}", through.index);
            return Err(self.broken(Rule::CommittedIsKept, replica, &text));
        }
        if let Some(found) = found
            && found != through.term
        {
            let text = format!("drops its log through {through}, which is of term {found} there");
            return Err(self.broken(Rule::LogMatching, replica, &text));
        }
        if through.index > last {
            let text = format!("drops its log through {through}, but it ends at {last}");
            return Err(self.broken(Rule::LogMatching, replica, &text));
        }
        self.prune();
        Ok(())
    }

    /// Forgets what every replica has compacted away.
    pub(super) fn prune(&mut self) {
        let floor = self.books.values().map(|book| book.base.index).min().unwrap_or(0);
        while let Some((&(index, term), _)) = self.facts.first_key_value()
            && index <= floor
        {
            self.facts.remove(&(index, term));
        }
        self.chain.prune(floor);
    }

    /// How much is kept of this group: facts, links and entries.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        let logs: u64 = self.books.values().map(|book| book.last() - book.base.index).sum();
        self.facts.len() + self.chain.len() + logs as usize
    }
}
