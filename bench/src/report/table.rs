//! The table at the end of a run, for terminals of any width.

use std::fmt::Write as _;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use super::format::{bytes, duration};
use super::grid::{self, Grid};
use crate::result::{Document, Machine};

/// The width where nobody tells one: a pipe, a file.
const WIDTH_DEFAULT: u16 = 120;

/// The document as text, as wide as the terminal.
pub fn table(document: &Document) -> String {
    table_of_width(document, terminal_width())
}

/// The same for `width` columns.
pub fn table_of_width(document: &Document, width: u16) -> String {
    let mut out = String::new();
    let Some(first) = document.results.first() else {
        return "nothing was measured\n".to_owned() + &words(document);
    };
    let _ = writeln!(out, "{}", grid_text(&grid::latencies(document), width));
    let _ = writeln!(out, "{}", grid_text(&grid::costs(document), width));
    let _ = writeln!(out, "{}", grid_text(&grid::promises(document), width));
    for (label, values) in grid::figures(document) {
        let _ = writeln!(out, "{label}: {}", values.join(", "));
    }
    out.push_str(&words(document));
    let _ = writeln!(out, "{}; revision {}", machine(&first.machine), first.revision);
    out
}

fn words(document: &Document) -> String {
    let mut out = String::new();
    for line in grid::failures(document) {
        let _ = writeln!(out, "failed: {line}");
    }
    for one in &document.skipped {
        let _ = writeln!(out, "skipped {}: {}", one.name, one.reason);
    }
    for note in grid::notes(document) {
        let _ = writeln!(out, "{note}");
    }
    out
}

/// One line about the machine.
pub fn machine(machine: &Machine) -> String {
    let disk = machine.disk.map_or_else(String::new, |disk| {
        let (p50, p99) = (duration(disk.p50_ms), duration(disk.p99_ms));
        format!(", {}: 4 KiB write and sync p50 {p50}, p99 {p99}", machine.file_system)
    });
    let virtualized = if machine.virtualized { " (virtual)" } else { "" };
    format!(
        "{}{virtualized}, {} cores, {}, {}{disk}",
        machine.cpu,
        machine.cores,
        bytes(machine.memory_bytes),
        machine.kernel
    )
}

/// A table as text; where the terminal is too narrow for its columns, they become lines.
pub fn grid_text(grid: &Grid, width: u16) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(width).set_header(&grid.head).add_rows(&grid.rows);
    for (column, settings) in table.column_iter_mut().enumerate() {
        if column >= grid.words {
            settings.set_cell_alignment(CellAlignment::Right);
        }
    }
    // Each figure whole, its title in two lines if need be.
    let figures: usize = grid.head.len() - grid.words;
    if usize::from(width) >= grid.words * 14 + figures * 12 {
        return table.to_string();
    }
    let mut out = String::new();
    for row in &grid.rows {
        let _ = writeln!(out, "{}", row[..grid.words].join(" "));
        for (head, text) in grid.head.iter().zip(row).skip(grid.words) {
            let _ = writeln!(out, "  {head}: {text}");
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// How many columns the terminal has; many where nobody tells.
pub fn terminal_width() -> u16 {
    let (_, columns) = console_size().unwrap_or((0, WIDTH_DEFAULT));
    columns.max(20)
}

fn console_size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::sample;

    #[test]
    fn a_table_tells_everything_at_any_width() {
        for width in [40, 60, 80, 100, 120, 200] {
            let text = table_of_width(&sample::document(), width);
            for part in [
                "20,500",
                "1.60",
                "17.9",
                "412 MiB",
                "lease",
                "longest write gap: 431 ms",
                "failed: ycsb-a: BUSY 12",
                "skipped nats",
                "p99 147 µs",
                "0123abc",
            ] {
                assert!(text.contains(part), "{width}: {part} is missing in\n{text}");
            }
            let grids = text.lines().filter(|line| line.contains(['│', '┌', '└', '╞']));
            for line in grids {
                assert!(line.chars().count() <= usize::from(width), "{width}: {line}");
            }
        }
        let empty = crate::result::Document { results: Vec::new(), ..sample::document() };
        assert!(table_of_width(&empty, 80).contains("skipped nats"));
    }
}
