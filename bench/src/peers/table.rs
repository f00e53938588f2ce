//! The table of a comparison: for each workload every store, with what its acknowledgement means.

use std::collections::BTreeMap;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use crate::result::{Document, RunResult};

/// What the others are compared with.
const YARDSTICK: &str = "etcd";

/// Width where there is no terminal to ask.
const WIDTH: u16 = 170;

/// A store in one measurement: medians over its rounds.
#[derive(Debug, Default, PartialEq)]
struct Row {
    store: String,
    copies: String,
    synced: String,
    reads: String,
    per_second: f64,
    /// Of the kinds of operations, in their order.
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    server_cpu_us: Option<f64>,
    client_cpu_us: Option<f64>,
    total_cpu_us: Option<f64>,
    written: Option<f64>,
    resident_bytes: Option<f64>,
    /// Of all rounds together.
    failures: u64,
}

/// The tables of a document, one for each measurement, and what was skipped.
pub fn render(document: &Document) -> String {
    let mut text = String::new();
    for (title, rows) in measurements(&document.results) {
        text += &format!("{title}\n{}\n\n", table(&rows));
    }
    for skipped in &document.skipped {
        text += &format!("skipped: {}: {}\n", skipped.name, skipped.reason);
    }
    text += &legend(document);
    text
}

/// What all numbers have in common, and how columns are to be read.
fn legend(document: &Document) -> String {
    let Some(first) = document.results.first() else { return "nothing was measured\n".to_owned() };
    let rounds = document.results.iter().map(|result| result.round).max().unwrap_or(1);
    let disk = first.machine.disk.map_or_else(String::new, |disk| {
        format!(
            "; 4 KiB written and synced there: p50 {:.3} ms, p99 {:.3}",
            disk.p50_ms, disk.p99_ms
        )
    });
    format!(
        "{} keys, values of {} B, {:.0} s each, {rounds} round(s), medians; {} cores, {}{disk}\n\
         CPU is in microseconds for each operation. Servers and load share the machine. In-process \
         stores have one sum for both.\n\
         written: bytes written to disks by all servers for each byte of key and value. Two \
         latencies are those of gets / puts.\n",
        first.settings.keys,
        first.settings.value_bytes,
        first.settings.duration_s,
        first.machine.cores,
        first.machine.file_system,
    )
}

/// By measurement, in the order in which they were first made, the stores in theirs.
fn measurements(results: &[RunResult]) -> Vec<(String, Vec<Row>)> {
    let mut titles: Vec<String> = Vec::new();
    let mut stores: Vec<&str> = Vec::new();
    let mut rounds: BTreeMap<(String, &str), Vec<&RunResult>> = BTreeMap::new();
    for result in results {
        let store = result.target.name.as_str();
        let title = result.name.strip_prefix(store).unwrap_or(&result.name).trim().to_owned();
        if !titles.contains(&title) {
            titles.push(title.clone());
        }
        if !stores.contains(&store) {
            stores.push(store);
        }
        rounds.entry((title, store)).or_default().push(result);
    }
    let rows = |title: &String| {
        let found = stores.iter().filter_map(|store| rounds.get(&(title.clone(), *store)));
        found.map(|rounds| row(rounds)).collect()
    };
    titles.iter().map(|title| (heading(title, results), rows(title))).collect()
}

/// The title with the connections behind it.
fn heading(title: &str, results: &[RunResult]) -> String {
    let of_this = |result: &&RunResult| result.name.ends_with(title);
    match results.iter().find(of_this) {
        Some(RunResult { settings, .. }) => format!(
            "{title}: {}, {}, {} connections with {} in flight each",
            settings.workload, settings.distribution, settings.clients, settings.pipeline
        ),
        None => title.to_owned(),
    }
}

fn row(rounds: &[&RunResult]) -> Row {
    let first = rounds[0];
    let over = |figure: &dyn Fn(&RunResult) -> Option<f64>| {
        median(rounds.iter().filter_map(|result| figure(result)).collect())
    };
    let latency = |quantile: &dyn Fn(&crate::result::OperationResult) -> f64| -> Vec<f64> {
        let kinds = first.operations.keys();
        kinds.filter_map(|kind| over(&|result| result.operations.get(kind).map(quantile))).collect()
    };
    let version = &first.target.version;
    Row {
        store: format!("{} {version}", first.target.name).trim().to_owned(),
        copies: first.target.replication.clone(),
        synced: first.target.durability.clone(),
        reads: first.target.reads.clone(),
        per_second: over(&|result| Some(result.per_second_total)).unwrap_or(0.0),
        p50_ms: latency(&|operation| operation.p50_ms),
        p99_ms: latency(&|operation| operation.p99_ms),
        server_cpu_us: over(&|result| result.cost.server_cpu_us_per_op),
        client_cpu_us: over(&|result| result.cost.client_cpu_us_per_op),
        total_cpu_us: over(&|result| result.cost.total_cpu_us_per_op),
        written: over(&|result| result.cost.written_bytes_per_logical_byte),
        resident_bytes: over(&|result| result.cost.resident_bytes_max.map(|bytes| bytes as f64)),
        failures: rounds.iter().map(|result| result.errors_total() + result.unknown_total()).sum(),
    }
}

/// The middle; of two middles their mean. `None` without figures.
fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(figures[middle]),
        _ => Some((figures[middle - 1] + figures[middle]) / 2.0),
    }
}

fn table(rows: &[Row]) -> Table {
    let yardstick = rows.iter().find(|row| row.store.split(' ').next() == Some(YARDSTICK));
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(WIDTH);
    table.set_header(vec![
        "store",
        "copies",
        "acknowledged when",
        "reads",
        "per second",
        "x etcd",
        "p50 ms",
        "p99 ms",
        "CPU servers",
        "CPU client",
        "written",
        "resident MB",
        "failed",
    ]);
    for row in rows {
        let ratio = yardstick
            .filter(|yardstick| yardstick.per_second > 0.0)
            .map(|yardstick| row.per_second / yardstick.per_second);
        let optional = |figure: Option<f64>, digits| {
            figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
        };
        // What cannot be told apart stands in the first of the two columns.
        let (servers, client) = match (row.server_cpu_us, row.total_cpu_us) {
            (None, Some(total)) => (format!("{total:.1} (both)"), "-".to_owned()),
            (servers, _) => (optional(servers, 1), optional(row.client_cpu_us, 1)),
        };
        table.add_row(vec![
            row.store.clone(),
            row.copies.clone(),
            row.synced.clone(),
            row.reads.clone(),
            thousands(row.per_second),
            optional(ratio, 2),
            slashed(&row.p50_ms),
            slashed(&row.p99_ms),
            servers,
            client,
            optional(row.written, 1),
            optional(row.resident_bytes.map(|bytes| bytes / 1e6), 0),
            row.failures.to_string(),
        ]);
    }
    for column in 4..13 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn slashed(figures: &[f64]) -> String {
    let digits = |figure: &f64| match *figure {
        small if small < 1.0 => format!("{small:.3}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    };
    figures.iter().map(digits).collect::<Vec<_>>().join(" / ")
}

fn thousands(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::sample::result;
    use crate::result::{Kind, Skipped};

    fn one(store: &str, round: u32, per_second: f64, errors: u64) -> RunResult {
        let mut one = result();
        one.name = format!("{store} put multiplexed");
        one.target.name = store.to_owned();
        one.target.durability = format!("{store} syncs");
        (one.round, one.per_second_total) = (round, per_second);
        one.errors.clear();
        one.unknown.clear();
        if errors > 0 {
            one.errors.insert("found nothing".to_owned(), errors);
        }
        one
    }

    #[test]
    fn rounds_become_medians_and_failures_add_up() {
        let results = [
            one("etcd", 1, 1_000.0, 0),
            one("nats", 1, 9_000.0, 1),
            one("etcd", 2, 3_000.0, 0),
            one("nats", 2, 7_000.0, 2),
            one("etcd", 3, 2_000.0, 0),
            one("nats", 3, 8_000.0, 0),
        ];
        let measurements = measurements(&results);
        assert_eq!(measurements.len(), 1);
        let (title, rows) = &measurements[0];
        assert!(title.starts_with("put multiplexed: "), "{title}");
        let figures: Vec<(f64, u64)> =
            rows.iter().map(|row| (row.per_second, row.failures)).collect();
        assert_eq!(figures, [(2_000.0, 0), (8_000.0, 3)]);
    }

    #[test]
    fn every_number_has_its_store_its_meaning_and_its_ratio_beside_it() {
        let results = vec![one("etcd", 1, 2_000.0, 0), one("nats", 1, 8_500.0, 0)];
        let skipped =
            vec![Skipped { name: "redis".to_owned(), reason: "not installed".to_owned() }];
        let text = render(&Document::new(Kind::Peers, results, skipped));
        for words in ["etcd syncs", "nats syncs", "4.25", "8,500", "skipped: redis: not installed"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn numbers_are_grouped_and_short() {
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(12.0), "12");
        assert_eq!(slashed(&[0.1234, 12.34, 123.4]), "0.123 / 12.3 / 123");
    }
}
