//! Reading a history.

use std::io::{self, BufRead};

use super::line::{Line, LineError};

/// Why a file is no history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A line is none of a history.
    #[error("line {number}: {error}")]
    Line {
        /// Counted from 1.
        number: usize,
        /// What is wrong with it.
        error: LineError,
    },
    /// A key of counters holds what is no number.
    #[error("line {number}: key {key:?} is incremented elsewhere, but holds {value:?} here")]
    Counter {
        /// Counted from 1.
        number: usize,
        /// The key.
        key: String,
        /// What is no number.
        value: String,
    },
    /// No key has the operations for the promise that was to be broken.
    #[error("no key has operations in which the promise could be broken; it was not judged")]
    NothingToPlant,
    /// Nothing in it.
    #[error("it holds no operation: nothing is proven")]
    Empty,
    /// It cannot be read.
    #[error("line {number}: {error}")]
    Read {
        /// Counted from 1.
        number: usize,
        /// What the system says.
        error: io::Error,
    },
}

/// Reads all lines; those without anything in them are skipped.
///
/// # Errors
///
/// [`HistoryError`] with the number of the first line that is wrong.
pub fn read(from: impl BufRead) -> Result<Vec<(usize, Line)>, HistoryError> {
    let mut lines = Vec::new();
    for (number, text) in (1..).zip(from.lines()) {
        let text = text.map_err(|error| HistoryError::Read { number, error })?;
        if text.trim().is_empty() {
            continue;
        }
        let line = Line::parse(&text).map_err(|error| HistoryError::Line { number, error })?;
        lines.push((number, line));
    }
    match lines.is_empty() {
        true => Err(HistoryError::Empty),
        false => Ok(lines),
    }
}
