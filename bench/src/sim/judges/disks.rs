//! Disks and promises: what a replica says to others must lie on its disk when it says it, and must
//! be there when the disk is opened again.

use super::case::Case;
use super::{Position, Replica, Rule, Violation};

/// What a disk holds of a replica when it is opened after a restart.
#[derive(Clone, Copy, Debug)]
pub struct Reopened<'a> {
    /// Term and vote.
    pub term: u64,
    /// Whom it voted for in that term.
    pub vote: Option<u64>,
    /// The log begins behind this.
    pub base: Position,
    /// Term and hash of each entry behind `base`.
    pub entries: &'a [(u64, u64)],
    /// The replica says itself that it may have lost something, and takes no part.
    pub suspect: bool,
    /// What was synced of this disk was damaged, or lost, by the world.
    pub damaged: bool,
}

impl Case {
    /// Term and vote lie on the disk of `replica`.
    pub(super) fn hard_state(
        &mut self,
        replica: Replica,
        term: u64,
        vote: Option<u64>,
    ) -> Result<(), Violation> {
        let book = self.book(replica);
        let (term_before, vote_before) = book.hard_state;
        book.hard_state = (term, vote);
        if term < term_before {
            let text = format!("its disk went back from term {term_before} to {term}");
            return Err(self.broken(Rule::HardState, replica, &text));
        }
        match vote_before {
            Some(before) if term == term_before && vote != vote_before => {
                let now = vote.map_or("nobody".to_owned(), |vote| Replica(vote).to_string());
                let text =
                    format!("its vote in term {term} changed from {} to {now}", Replica(before));
                Err(self.broken(Rule::HardState, replica, &text))
            }
            _ => Ok(()),
        }
    }

    /// A granted vote leaves.
    pub(super) fn voted(
        &mut self,
        replica: Replica,
        term: u64,
        candidate: Replica,
    ) -> Result<(), Violation> {
        let book = self.book(replica);
        let (on_disk, vote) = book.hard_state;
        if book.suspect {
            let text = format!("votes in term {term} although it may have lost its log");
            return Err(self.broken(Rule::Promises, replica, &text));
        }
        // A vote of a term that has passed since is no promise any more.
        if on_disk > term || (on_disk, vote) == (term, Some(candidate.0)) {
            return Ok(());
        }
        let text = format!(
            "votes for {candidate} in term {term}; its disk says term {on_disk}, vote {vote:?}"
        );
        Err(self.broken(Rule::Promises, replica, &text))
    }

    /// An acknowledgement of everything up to `matched` leaves.
    pub(super) fn acknowledged(
        &mut self,
        replica: Replica,
        term: u64,
        matched: u64,
    ) -> Result<(), Violation> {
        let book = self.book(replica);
        let (last, durable, is_watched) = (book.last(), book.durable, book.is_disk_watched);
        if book.suspect {
            let text = format!("acknowledges {matched} although it may have lost its log");
            return Err(self.broken(Rule::Promises, replica, &text));
        }
        // One that was said in an earlier term binds nobody any more.
        if term < book.term || term < book.acknowledged_in {
            return Ok(());
        }
        if term > book.acknowledged_in {
            book.acknowledged = 0;
        }
        book.acknowledged = book.acknowledged.max(matched);
        book.acknowledged_in = term;
        if matched > last || (is_watched && matched > durable) {
            let text = format!(
                "acknowledges {matched} in term {term}; its log ends at {last} and is durable up \
                 to {durable}"
            );
            return Err(self.broken(Rule::Promises, replica, &text));
        }
        Ok(())
    }

    /// A refusal of an append behind `prev` leaves, whatever was committed since it was written.
    pub(super) fn refused(
        &mut self,
        replica: Replica,
        prev: u64,
        hint: u64,
    ) -> Result<(), Violation> {
        if hint <= prev {
            return Ok(());
        }
        let text = format!(
            "refuses an append behind {prev} because of its entry {hint}: what lies before its base \
             is committed, and in every leader's log"
        );
        Err(self.broken(Rule::LogMatching, replica, &text))
    }

    /// The disk of `replica` was opened again.
    pub(super) fn reopened(
        &mut self,
        replica: Replica,
        found: &Reopened<'_>,
    ) -> Result<(), Violation> {
        let book = self.book(replica);
        let (durable, was_suspect) = (book.durable.max(book.acknowledged), book.suspect);
        let is_watched = book.is_disk_watched || book.acknowledged > 0;
        let kept: Vec<(u64, u64)> = (found.base.index + 1..=durable)
            .filter_map(|index| book.at(index).map(|noted| (index, noted.term)))
            .collect();
        let hard_state = book.hard_state;
        book.reopen(found.base, found.entries);
        book.suspect = found.suspect;
        let excused = found.damaged || found.suspect || was_suspect;
        if found.suspect && !found.damaged && !was_suspect {
            let text = "is suspect although nobody damaged its disk";
            return Err(self.broken(Rule::DurableLog, replica, text));
        }
        if !excused {
            self.hard_state(replica, found.term, found.vote)?;
        }
        self.book(replica).hard_state = match excused {
            true => hard_state.max((found.term, found.vote)),
            false => (found.term, found.vote),
        };
        if is_watched && !excused {
            self.must_be_found(replica, durable, &kept)?;
        }
        // What the disk returns is compared with all other logs, like what is written to it.
        let (base, mut index) = (found.base, found.base.index);
        self.book(replica).reopen(base, &[]);
        for &(term, hash) in found.entries {
            index += 1;
            self.entry(replica, Position { index, term }, hash)?;
        }
        self.book(replica).reopen(base, found.entries);
        self.must_not_be_lost()
    }

    fn must_be_found(
        &mut self,
        replica: Replica,
        durable: u64,
        kept: &[(u64, u64)],
    ) -> Result<(), Violation> {
        let book = self.book(replica);
        let last = book.last();
        if last < durable {
            let text = format!("its disk had synced up to {durable} and returns up to {last}");
            return Err(self.broken(Rule::DurableLog, replica, &text));
        }
        let other = kept.iter().find(|(index, term)| !book.has(*index, *term));
        match other.copied() {
            Some((index, term)) => {
                let text = format!(
                    "its disk had synced entry {index} of term {term} and returns \
                                    another one"
                );
                Err(self.broken(Rule::DurableLog, replica, &text))
            }
            None => Ok(()),
        }
    }
}
