//! How results are told: a line while they are gathered, a table, and a page with pictures.
//!
//! Everything is made from a [`Document`], so that a stored one tells the same as a fresh one.
//!
//! * [`Live`] is the line on the terminal during a run, [`table`] the table after it.
//! * [`html`] is one page that needs nothing but itself; [`hgrm`] a histogram for HdrHistogram's
//!   plotters.
//! * [`write()`] puts all of it into a directory.
//!
//! What is absent: measuring, and judging whether a figure is good.

mod chart;
mod format;
mod grid;
mod hgrm;
mod live;
mod page;
mod pictures;
mod table;

#[cfg(test)]
mod tests;

pub use format::{bytes, count, duration, number};
pub use grid::Grid;
pub use hgrm::hgrm;
pub use live::Live;
pub use page::html;
pub use table::{grid_text, table, table_of_width, terminal_width};

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::latency::Latencies;
use crate::result::Document;

/// Writes `result.json`, `report.html` and one `.hgrm` for each of `histograms` (by name) into a
/// directory, which is made if there is none. Returns the files.
///
/// # Errors
///
/// If the file system refuses.
pub fn write(
    directory: &Path,
    document: &Document,
    histograms: &[(String, &Latencies)],
) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = vec![document.write(directory)?];
    let mut put = |name: String, text: String| -> anyhow::Result<()> {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        files.push(path);
        Ok(())
    };
    put("report.html".to_owned(), html(document))?;
    for (name, latencies) in histograms {
        put(format!("{}.hgrm", file_name(name)), hgrm(latencies))?;
    }
    Ok(files)
}

/// A name without anything that a file's name cannot or should not have.
fn file_name(name: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
    name.chars().map(safe).collect()
}
