//! Tables of results, for the terminal and for the page alike.

use crate::report::format::{bytes, count, number, optional};
use crate::result::{Document, Measurement, OperationResult, RunResult};

/// A table: texts at the left, figures at the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Titles of the columns, with units.
    pub head: Vec<String>,
    /// The rows, as long as the head.
    pub rows: Vec<Vec<String>>,
    /// How many columns, from the first, are texts.
    pub words: usize,
}

/// Latencies: a row for each kind of operation of each measurement, medians of the rounds.
pub fn latencies(document: &Document) -> Grid {
    let measurements = document.measurements();
    let named = measurements.len() > 1;
    let mut grid = Grid::new(
        if named { &["", "operation"] } else { &["operation"] },
        &["operations/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "longest ms"],
    );
    let figures: [fn(&OperationResult) -> f64; 6] = [
        |operation| operation.per_second,
        |operation| operation.p50_ms,
        |operation| operation.p90_ms,
        |operation| operation.p99_ms,
        |operation| operation.p999_ms,
        |operation| operation.max_ms,
    ];
    for measurement in &measurements {
        for kind in kinds(measurement) {
            let mut row = if named { vec![name(measurement)] } else { Vec::new() };
            row.push(kind.clone());
            row.extend(figures.iter().map(|figure| {
                optional(measurement.median(|round| round.operations.get(&kind).map(figure)))
            }));
            grid.rows.push(row);
        }
    }
    grid
}

/// What each measurement cost, medians of the rounds.
pub fn costs(document: &Document) -> Grid {
    let mut grid = Grid::new(
        &[""],
        &["all operations/s", "server CPU µs/op", "client CPU µs/op", "bytes written per byte"],
    );
    grid.head.extend(["memory", "errors", "unknown"].map(str::to_owned));
    let measurements = document.measurements();
    // Only where it is all that is known: a column of sums tells nothing new.
    let in_process = measurements.iter().any(is_in_process);
    if in_process {
        grid.head.insert(4, "CPU of both µs/op".to_owned());
    }
    for measurement in &measurements {
        let median = |figure: fn(&RunResult) -> Option<f64>| optional(measurement.median(figure));
        let memory = measurement.median(|round| Some(round.cost.resident_bytes_max? as f64));
        let sum = |figure: fn(&RunResult) -> u64| {
            count(measurement.rounds.iter().map(|round| figure(round)).sum())
        };
        let mut row = vec![
            name(measurement),
            median(|round| Some(round.per_second_total)),
            median(|round| round.cost.server_cpu_us_per_op),
            median(|round| round.cost.client_cpu_us_per_op),
            median(|round| round.cost.written_bytes_per_logical_byte),
            memory.map_or_else(|| optional(None), |size| bytes(size as u64)),
            sum(RunResult::errors_total),
            sum(RunResult::unknown_total),
        ];
        if in_process {
            row.insert(4, median(|round| round.cost.total_cpu_us_per_op));
        }
        grid.rows.push(row);
    }
    grid
}

/// What stands behind each store's figures.
pub fn promises(document: &Document) -> Grid {
    let mut grid = Grid::new(&["store", "copies", "a write is acknowledged after", "reads"], &[]);
    for result in &document.results {
        let target = &result.target;
        let name = format!("{} {}", target.name, target.version).trim().to_owned();
        let fields = [&target.replication, &target.durability, &target.reads];
        let row: Vec<String> = [name].into_iter().chain(fields.map(String::clone)).collect();
        if !grid.rows.contains(&row) {
            grid.rows.push(row);
        }
    }
    grid
}

/// Errors and unknown outcomes by reason; empty if there were none.
pub fn failures(document: &Document) -> Vec<String> {
    let mut lines = Vec::new();
    for measurement in document.measurements() {
        let mut reasons: Vec<(String, u64)> = Vec::new();
        for round in &measurement.rounds {
            let errors = round.errors.iter().map(|(reason, number)| (reason.clone(), number));
            let unknown = round.unknown.iter();
            let unknown =
                unknown.map(|(reason, number)| (format!("{reason} (outcome unknown)"), number));
            for (reason, number) in errors.chain(unknown) {
                match reasons.iter_mut().find(|(known, _)| *known == reason) {
                    Some((_, sum)) => *sum += number,
                    None => reasons.push((reason, *number)),
                }
            }
        }
        reasons.retain(|(_, number)| *number > 0);
        if !reasons.is_empty() {
            let texts: Vec<String> = reasons
                .iter()
                .map(|(reason, number)| format!("{reason} {}", count(*number)))
                .collect();
            lines.push(format!("{}: {}", name(&measurement), texts.join(", ")));
        }
    }
    lines
}

/// What all results have to add, each once.
pub fn notes(document: &Document) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for result in &document.results {
        for note in &result.notes {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
    }
    notes
}

/// `figure` of all results that have one: `longest write gap: 431 ms`.
pub fn figures(document: &Document) -> Vec<(String, Vec<String>)> {
    let mut lines = Vec::new();
    for measurement in document.measurements() {
        for (at, first) in measurement.first().figures.iter().enumerate() {
            let values = measurement.rounds.iter().filter_map(|round| {
                let figure = round.figures.get(at)?;
                Some(format!("{} {}", number(figure.value), figure.unit).trim().to_owned())
            });
            lines.push((first.label.clone(), values.collect()));
        }
    }
    lines
}

/// True if the store ran in the harness, so that only both together were measured.
pub fn is_in_process(measurement: &Measurement<'_>) -> bool {
    let cost = measurement.first().cost;
    cost.server_cpu_us_per_op.is_none() && cost.total_cpu_us_per_op.is_some()
}

/// Its name, with the number of rounds if there are several.
pub fn name(measurement: &Measurement<'_>) -> String {
    let name = &measurement.first().name;
    match measurement.rounds.len() {
        1 => name.clone(),
        rounds => format!("{name} ({rounds} rounds)"),
    }
}

/// All kinds of operations that it has.
pub fn kinds(measurement: &Measurement<'_>) -> Vec<String> {
    let mut kinds: Vec<String> =
        measurement.rounds.iter().flat_map(|round| round.operations.keys().cloned()).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

impl Grid {
    fn new(words: &[&str], figures: &[&str]) -> Grid {
        let head = words.iter().chain(figures).map(|text| (*text).to_owned()).collect();
        Grid { head, rows: Vec::new(), words: words.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::sample;

    #[test]
    fn rows_tell_medians_of_rounds() {
        let mut document = sample::document();
        for (round, factor) in [(2, 2.0), (3, 3.0)] {
            let mut result = RunResult { round, ..sample::result() };
            result.operations.get_mut("get").unwrap().p99_ms *= factor;
            document.results.push(result);
        }
        let grid = latencies(&document);
        assert_eq!((grid.words, grid.rows.len()), (1, 2));
        assert_eq!(grid.rows[0], ["get", "20,500", "1.60", "2.88", "12.8", "14.4", "32.0"]);
        let grid = costs(&document);
        assert_eq!(
            grid.rows,
            [["ycsb-a (3 rounds)", "40,900", "17.9", "6.20", "7.40", "412 MiB", "36", "9"]]
        );
        assert_eq!(
            failures(&document)[0],
            "ycsb-a (3 rounds): BUSY 36, connection lost (outcome unknown) 9"
        );
        assert_eq!(promises(&document).rows.len(), 1);
        assert_eq!(notes(&document).len(), 1);
        assert_eq!(figures(&document)[0].1, ["431 ms", "431 ms", "431 ms"]);
    }

    #[test]
    fn a_store_in_process_has_the_sum_of_both() {
        let mut document = sample::document();
        let cost = &mut document.results[0].cost;
        (cost.server_cpu_us_per_op, cost.client_cpu_us_per_op) = (None, None);
        let grid = costs(&document);
        assert_eq!(grid.head[4], "CPU of both µs/op");
        assert_eq!(grid.rows[0][2..5], ["–", "–", "24.1"]);
        assert!(grid.rows.iter().all(|row| row.len() == grid.head.len()));
    }
}
