//! One page that tells a whole document: `report.html`.
//!
//! It needs nothing but itself: no network, no scripts, no fonts. It follows the reader's choice of
//! light and dark, and shows the narrow drawing of each chart on narrow screens.

use std::fmt::Write as _;

use super::chart::{Size, escape};
use super::format::{bytes, duration, number, optional, plain};
use super::grid::{self, Grid};
use super::pictures::{pictures, worst};
use crate::result::{Document, Kind, Measurement, RunResult};

const STYLE: &str = include_str!("style.css");

/// One figure of the head.
struct Tile {
    what: String,
    much: String,
    more: String,
    class: &'static str,
}

/// The page.
pub fn html(document: &Document) -> String {
    let title = title(document);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escape(&title)
    );
    let _ = writeln!(out, "<h1>{}</h1>", escape(&title));
    head(&mut out, document);
    tiles(&mut out, &verdict(document));
    settings(&mut out, document);
    for picture in pictures(document) {
        let (title, text) = (escape(&picture.title), escape(&picture.text));
        let _ = write!(
            out,
            "<figure>\n<figcaption><h2>{title}</h2><p>{text}</p></figcaption>\n\
             <div class=\"wide\">\n{}</div>\n<div class=\"narrow\">\n{}</div>\n</figure>\n",
            picture.chart.render(Size::Wide),
            picture.chart.render(Size::Narrow)
        );
    }
    tables(&mut out, document);
    words(&mut out, document);
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn title(document: &Document) -> String {
    let mut stores: Vec<&str> = Vec::new();
    for result in &document.results {
        if !stores.contains(&result.target.name.as_str()) {
            stores.push(&result.target.name);
        }
    }
    let stores = stores.join(", ");
    let workload = document.results.first().map_or("nothing", |one| &one.settings.workload);
    match document.kind {
        Kind::Run => format!("{stores}: {workload}"),
        Kind::Sweep => format!("{stores}: {workload}, rates rising"),
        Kind::Scale => format!("{stores}: {workload}, over shards and clients"),
        Kind::Peers => format!("Side by side: {stores}"),
        Kind::Failover => format!("{stores}: {workload}, while nodes die"),
    }
}

fn head(out: &mut String, document: &Document) {
    let Some(first) = document.results.first() else {
        let _ = writeln!(out, "<p>Nothing was measured.</p>");
        return;
    };
    let revision = format!("{}, revision {}", first.started_at, first.revision);
    let _ = writeln!(out, "<p class=\"soft\">{}</p>", escape(&revision));
}

/// The figures that answer the question of the document's kind.
fn verdict(document: &Document) -> Vec<Tile> {
    let measurements = document.measurements();
    let tile = |what: &str, much: String, more: &str| Tile {
        what: what.to_owned(),
        much,
        more: more.to_owned(),
        class: "",
    };
    let fastest = measurements.iter().max_by(|a, b| {
        let per_second = |one: &Measurement<'_>| one.median(|round| Some(round.per_second_total));
        per_second(a).unwrap_or(0.0).total_cmp(&per_second(b).unwrap_or(0.0))
    });
    let mut tiles = Vec::new();
    match (document.kind, &measurements[..], fastest) {
        (Kind::Run | Kind::Failover, [one], _) => tiles.extend(of_one(one)),
        (Kind::Peers, all, _) => tiles.extend(all.iter().take(8).map(|one| {
            let per_second = one.median(|round| Some(round.per_second_total));
            let cpu = match grid::is_in_process(one) {
                true => one.median(|round| round.cost.total_cpu_us_per_op),
                false => one.median(|round| round.cost.server_cpu_us_per_op),
            };
            let more = cpu.map(|cpu| format!("{} µs CPU each", number(cpu))).unwrap_or_default();
            tile(&one.first().name, format!("{}/s", optional(per_second)), &more)
        })),
        (_, all, Some(best)) => {
            let per_second = best.median(|round| Some(round.per_second_total));
            tiles.push(tile(
                "best throughput",
                format!("{}/s", optional(per_second)),
                &best.first().name,
            ));
            if let Some(p99) = best.median(|round| worst(round, |operation| operation.p99_ms)) {
                tiles.push(tile("p99 there", duration(p99), "of the slowest kind of operation"));
            }
            if let (Kind::Scale, Some(share)) = (document.kind, lowest_over_shards(all)) {
                let share = format!("{} %", plain((share * 100.0).round()));
                tiles.push(tile("lowest against best", share, "over numbers of shards"));
            }
        }
        _ => {}
    }
    if matches!(document.kind, Kind::Run | Kind::Failover) {
        for (label, values) in grid::figures(document) {
            tiles.push(tile(&label, values.join(", "), ""));
        }
    }
    let sum = |figure: fn(&RunResult) -> u64| document.results.iter().map(figure).sum::<u64>();
    for (what, much, more) in [
        ("errors", sum(RunResult::errors_total), "certainly without effect"),
        ("unknown outcomes", sum(RunResult::unknown_total), "may have taken effect"),
    ] {
        let class = if much == 0 { "good" } else { "bad" };
        tiles.push(Tile { class, ..tile(what, super::format::count(much), more) });
    }
    tiles
}

/// The smallest throughput over numbers of shards as a share of the best with as many clients.
fn lowest_over_shards(all: &[Measurement<'_>]) -> Option<f64> {
    let mut shares = Vec::new();
    for one in all {
        let alike = all.iter().filter(|other| {
            other.first().settings.clients == one.first().settings.clients
                && other.first().settings.workload == one.first().settings.workload
        });
        let per_second = |one: &Measurement<'_>| one.median(|round| Some(round.per_second_total));
        let best = alike.filter_map(per_second).max_by(f64::total_cmp)?;
        shares.push(per_second(one)? / best);
    }
    shares.into_iter().filter(|share| share.is_finite()).min_by(f64::total_cmp)
}

fn of_one(one: &Measurement<'_>) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let mut push = |what: &str, much: String, more: String| {
        tiles.push(Tile { what: what.to_owned(), much, more, class: "" });
    };
    let per_second = one.values(|round| Some(round.per_second_total));
    let more = match per_second.len() {
        1 => "operations that succeeded".to_owned(),
        rounds => {
            let (low, high) = bounds(&per_second);
            format!("median of {rounds} rounds, {} to {}", number(low), number(high))
        }
    };
    let median = crate::result::median(&per_second);
    push("throughput", format!("{}/s", optional(median)), more);
    for kind in grid::kinds(one) {
        let of = |figure: fn(&crate::result::OperationResult) -> f64| {
            one.median(|round| round.operations.get(&kind).map(figure)).unwrap_or(0.0)
        };
        let more = format!("median {}", duration(of(|operation| operation.p50_ms)));
        push(&format!("{kind} p99"), duration(of(|operation| operation.p99_ms)), more);
    }
    let cost = |figure: fn(&RunResult) -> Option<f64>| one.median(figure);
    if let Some(cpu) = cost(|round| round.cost.server_cpu_us_per_op) {
        let client = optional(cost(|round| round.cost.client_cpu_us_per_op));
        push(
            "server CPU per operation",
            format!("{} µs", number(cpu)),
            format!("load: {client} µs"),
        );
    } else if let Some(cpu) = cost(|round| round.cost.total_cpu_us_per_op) {
        push(
            "CPU per operation",
            format!("{} µs", number(cpu)),
            "store and load together".to_owned(),
        );
    }
    if let Some(written) = cost(|round| round.cost.written_bytes_per_logical_byte) {
        push("bytes written per byte", number(written), "on all disks".to_owned());
    }
    if let Some(resident) = cost(|round| Some(round.cost.resident_bytes_max? as f64)) {
        push("memory, at most", bytes(resident as u64), "all servers together".to_owned());
    }
    tiles
}

fn bounds(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (low, high)
}

fn tiles(out: &mut String, tiles: &[Tile]) {
    out.push_str("<div class=\"tiles\">\n");
    for tile in tiles {
        let (what, much, more) = (escape(&tile.what), escape(&tile.much), escape(&tile.more));
        let _ = writeln!(
            out,
            "<div class=\"tile {}\"><div class=\"what\">{what}</div><div class=\"much\">{much}</div>\
             <div class=\"more\">{more}</div></div>",
            tile.class
        );
    }
    out.push_str("</div>\n");
}

fn settings(out: &mut String, document: &Document) {
    let Some(first) = document.results.first() else { return };
    let same = |text: &dyn Fn(&RunResult) -> String| {
        let mut all: Vec<String> = Vec::new();
        for result in &document.results {
            let text = text(result);
            if !all.contains(&text) {
                all.push(text);
            }
        }
        match all.len() {
            0..=6 => all.join(", "),
            more => format!("{}, … {} ({more} values)", all[0], all[more - 1]),
        }
    };
    let machine = &first.machine;
    let disk = machine.disk.map_or_else(
        || "not used".to_owned(),
        |disk| {
            let (p50, p99) = (duration(disk.p50_ms), duration(disk.p99_ms));
            format!(
                "{}; 4 KiB write and sync: p50 {p50}, p99 {p99} ({} samples)",
                machine.file_system, disk.samples
            )
        },
    );
    let virtualized = if machine.virtualized { ", virtual" } else { "" };
    let rows = [
        ("workload", same(&|one| one.settings.workload.clone())),
        ("clients", same(&|one| super::format::count(one.settings.clients.into()))),
        ("in flight on each", same(&|one| in_flight(one))),
        ("loop", same(&|one| loop_words(one))),
        ("keys and values", same(&|one| keys(one))),
        (
            "shards",
            same(&|one| one.settings.shards.map_or("not told".to_owned(), |n| n.to_string())),
        ),
        (
            "measured for",
            same(&|one| {
                let (duration, warmup) =
                    (plain(one.settings.duration_s), plain(one.settings.warmup_s));
                format!("{duration} s after {warmup} s of warming up")
            }),
        ),
        (
            "machine",
            format!(
                "{}{virtualized}, {} cores, {}, {}",
                machine.cpu,
                machine.cores,
                bytes(machine.memory_bytes),
                machine.kernel
            ),
        ),
        ("disk", disk),
    ];
    out.push_str("<dl>\n");
    for (term, text) in rows {
        let _ = writeln!(out, "<dt>{term}</dt><dd>{}</dd>", escape(&text));
    }
    if !document.command.is_empty() {
        let _ =
            writeln!(out, "<dt>command</dt><dd><code>{}</code></dd>", escape(&document.command));
    }
    out.push_str("</dl>\n");
}

fn in_flight(result: &RunResult) -> String {
    let settings = &result.settings;
    match settings.batch {
        0 | 1 => settings.pipeline.to_string(),
        batch => format!("{} of {batch} keys", settings.pipeline),
    }
}

fn loop_words(result: &RunResult) -> String {
    match result.settings.rate {
        None => "closed: a client asks again when it was answered".to_owned(),
        Some(rate) => format!("open: {}/s offered ({})", number(rate), result.settings.arrivals),
    }
}

fn keys(result: &RunResult) -> String {
    let settings = &result.settings;
    let keys = super::format::count(settings.keys);
    format!("{keys} keys, {}; values of {}", settings.distribution, bytes(settings.value_bytes))
}

fn tables(out: &mut String, document: &Document) {
    if document.results.is_empty() {
        return;
    }
    let rounds = document.measurements().iter().map(|one| one.rounds.len()).max().unwrap_or(1);
    let medians = if rounds > 1 { "Medians of the rounds." } else { "" };
    for (title, text, grid) in [
        ("Latencies", medians, grid::latencies(document)),
        ("Cost", medians, grid::costs(document)),
        ("What is promised", "Figures compare only where promises do.", grid::promises(document)),
    ] {
        let _ = write!(
            out,
            "<section>\n<h2>{title}</h2>\n<p class=\"soft\">{text}</p>\n<div class=\"scroll\">{}</div>\n</section>\n",
            table(&grid)
        );
    }
}

fn table(grid: &Grid) -> String {
    let class = |column: usize| if column < grid.words { " class=\"words\"" } else { "" };
    let mut out = "<table>\n<thead><tr>".to_owned();
    for (column, text) in grid.head.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", class(column), escape(text));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &grid.rows {
        out.push_str("<tr>");
        for (column, text) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{}</td>", class(column), escape(text));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n");
    out
}

fn words(out: &mut String, document: &Document) {
    let skipped = document.skipped.iter().map(|one| format!("{}: {}", one.name, one.reason));
    for (title, lines) in [
        ("Errors and unknown outcomes", grid::failures(document)),
        ("Not measured", skipped.collect()),
        ("To know", grid::notes(document)),
    ] {
        if lines.is_empty() {
            continue;
        }
        let _ = write!(out, "<section>\n<h2>{title}</h2>\n<ul>\n");
        for line in &lines {
            let _ = writeln!(out, "<li>{}</li>", escape(line));
        }
        out.push_str("</ul>\n</section>\n");
    }
}
