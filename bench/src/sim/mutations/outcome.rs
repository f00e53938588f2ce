//! What came of looking for a mutation, and the table of all of them.

use std::fmt;

use flotilla_mutation::Mutation;

/// How a mutation was caught.
#[derive(Clone, Debug)]
pub struct Caught {
    /// The rule that was broken, or that the product stopped itself.
    by: String,
    /// What was said, in short.
    said: String,
    /// Lives until then.
    lives: u64,
    /// No life of these had caught it, a scene did.
    is_scene: bool,
}

/// What came of looking for a mutation.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was caught.
    Caught(Caught),
    /// Nobody noticed.
    Missed {
        /// In so many lives.
        lives: u64,
        /// How often its place was reached in them.
        reached: u64,
    },
    /// The same life, or scene, breaks without it too: that proves nothing about the mutation.
    BreaksWithout {
        /// What was found without it.
        found: String,
    },
}

/// Characters of what was said that a table shows.
const SAID_MAX: usize = 110;

impl Caught {
    /// In the life of a seed, after those of all seeds before it.
    pub fn in_life(found: &str, lives: u64) -> Caught {
        Caught { lives, is_scene: false, ..Caught::of(found) }
    }

    /// In a scene, after so many lives in which it was not noticed.
    pub fn in_scene(found: &str, lives: u64) -> Caught {
        Caught { lives, is_scene: true, ..Caught::of(found) }
    }

    fn of(found: &str) -> Caught {
        let first = found.lines().next().unwrap_or_default();
        let (by, said) = first.split_once(": ").unwrap_or((first, ""));
        let stopped_itself = by == "panic" || said.starts_with("a thread ended");
        let by = if stopped_itself { "the product's own assertion" } else { by };
        let mut said: String = said.chars().take(SAID_MAX).collect();
        // A table's cell.
        said = said.replace('|', "/");
        Caught { by: by.to_owned(), said, lives: 0, is_scene: false }
    }
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Caught { by, said, lives, is_scene, .. } = self;
        let means = match (*is_scene, *lives) {
            (false, lives) => format!("{lives}"),
            (true, 0) => "scene".to_owned(),
            (true, lives) => format!("scene, not in {lives}"),
        };
        write!(f, "{means} | {by} | {said}")
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Caught(caught) => caught.fmt(f),
            Outcome::Missed { lives, reached } => {
                write!(f, "NOT in {lives} | nobody | its place was reached {reached} times")
            }
            Outcome::BreaksWithout { found } => {
                let first = found.lines().next().unwrap_or_default();
                write!(f, "- | nobody | BREAKS WITHOUT IT TOO: {first}")
            }
        }
    }
}

/// The table of mutations.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<(Mutation, Outcome)>,
}

impl Table {
    /// One more row.
    pub fn add(&mut self, mutation: Mutation, outcome: Outcome) {
        self.rows.push((mutation, outcome));
    }

    /// True if every mutation was caught.
    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|(_, outcome)| matches!(outcome, Outcome::Caught(_)))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| mutation | seeds | caught by | what was said |")?;
        writeln!(f, "| --- | --- | --- | --- |")?;
        for (mutation, outcome) in &self.rows {
            writeln!(f, "| {} | {outcome} |", mutation.name())?;
        }
        let caught = self.rows.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Caught(_)));
        write!(f, "{} of {} mutations were caught", caught.count(), self.rows.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_complete_only_if_all_are_caught() {
        let mut table = Table::default();
        table.add(Mutation::SuspectVotes, Outcome::Caught(Caught::in_life("promises: x", 3)));
        assert!(table.is_complete());
        let text = table.to_string();
        assert!(text.contains("| let a suspect replica vote | 3 | promises | x |"), "{text}");
        table.add(Mutation::ReuseReadId, Outcome::Missed { lives: 5, reached: 7 });
        assert!(!table.is_complete());
        assert!(table.to_string().ends_with("1 of 2 mutations were caught"));
    }

    #[test]
    fn what_the_product_stops_itself_is_told_apart() {
        for found in ["panic: terms go back", "liveness: a thread ended: no"] {
            let caught = Caught::in_life(found, 1);
            assert_eq!(caught.by, "the product's own assertion");
        }
        assert_eq!(Caught::in_scene("one leader: two", 0).to_string(), "scene | one leader | two");
    }
}
