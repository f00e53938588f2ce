//! Tables for people.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use flotilla::server::admin::view::{NodeView, ShardView};
use flotilla::splits::escape_key;

/// How many rows a table shows before it only counts the rest.
const ROWS_MAX: usize = 64;

/// A table with these columns; those whose title begins with `#` hold numbers.
pub fn table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(titles.iter().map(|title| title.trim_start_matches('#')));
    for (column, title) in table.column_iter_mut().zip(titles) {
        if title.starts_with('#') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The shards of a cluster, from the views of one or more of its nodes: each as its leader sees
/// it, or as the first node that answered sees it.
pub fn shards(views: &[NodeView]) -> Table {
    let mut table =
        table(&["#shard", "first key", "leader", "#term", "#committed", "#to apply", "#keys"]);
    let rows = merged(views);
    for shard in rows.iter().take(ROWS_MAX) {
        table.add_row([
            shard.group.to_string(),
            key_text(&shard.start),
            shard.leader.map_or_else(|| "none".to_owned(), |node| format!("node {node}")),
            shard.term.to_string(),
            shard.commit_index.to_string(),
            shard.commit_index.saturating_sub(shard.applied_index).to_string(),
            shard.keys_estimate.to_string(),
        ]);
    }
    if rows.len() > ROWS_MAX {
        let more = format!("and {} more shards: -o json lists all", rows.len() - ROWS_MAX);
        table.add_row(["", &more]);
    }
    table
}

/// One entry per group, by first key.
fn merged(views: &[NodeView]) -> Vec<&ShardView> {
    let mut groups: Vec<u64> =
        views.iter().flat_map(|view| &view.shards).map(|shard| shard.group).collect();
    groups.sort_unstable();
    groups.dedup();
    let mut shards: Vec<&ShardView> = groups
        .into_iter()
        .filter_map(|group| {
            let seen =
                || views.iter().flat_map(|view| &view.shards).filter(move |s| s.group == group);
            let newest = seen().map(|shard| shard.term).max()?;
            // Of an old leader and a new one the higher term is right.
            seen()
                .find(|shard| shard.role == "leader" && shard.term == newest)
                .or_else(|| seen().find(|shard| shard.leader.is_some()))
                .or_else(|| seen().next())
        })
        .collect();
    // Hex in lower case sorts as the bytes it stands for.
    shards.sort_by(|left, right| left.start.cmp(&right.start));
    shards
}

/// A key in hex, as people write it; the empty key by name.
fn key_text(hex: &str) -> String {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
    let bytes: Vec<u8> =
        hex.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
    if bytes.is_empty() { "(lowest)".to_owned() } else { escape_key(&bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_shown_as_people_write_them() {
        assert_eq!(key_text(""), "(lowest)");
        assert_eq!(key_text("6b65793a00ff"), "key:\\x00\\xff");
    }
}
