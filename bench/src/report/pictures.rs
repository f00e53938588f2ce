//! Which pictures a document makes.
//!
//! Latency curves and throughput over time are drawn of everything, the rest by the document's
//! kind: rates against latency, bars against other stores, figures over shards or clients.

use std::collections::BTreeSet;

use super::chart::{Axis, Bar, BarChart, LineChart, Scale, Series, Size, plain};
use super::format::{count, duration, number, percentile, short, short_duration};
use super::grid::{is_in_process, kinds};
use crate::result::{Document, Kind, Measurement, RunResult};

/// A picture with its words.
pub struct Picture {
    /// What it shows, with the unit.
    pub title: String,
    /// How to read it.
    pub text: String,
    /// The picture itself.
    pub chart: Chart,
}

/// What can be drawn.
pub enum Chart {
    /// Lines.
    Lines(LineChart),
    /// Bars.
    Bars(BarChart),
}

impl Chart {
    /// As SVG.
    pub fn render(&self, size: Size) -> String {
        match self {
            Chart::Lines(chart) => chart.render(size),
            Chart::Bars(chart) => chart.render(size),
        }
    }
}

/// All pictures of a document.
pub fn pictures(document: &Document) -> Vec<Picture> {
    let all = document.measurements();
    let mut pictures = Vec::new();
    let by_workload = || {
        groups(&all, |one| {
            let settings = &one.first().settings;
            let mut keys = vec![settings.workload.clone()];
            // Elsewhere these are what is varied.
            if document.kind == Kind::Peers {
                let (clients, pipeline) = (settings.clients, settings.pipeline);
                keys.push(format!("{clients} clients with {pipeline} in flight"));
                keys.push(format!("{} keys", count(settings.keys)));
            }
            keys
        })
    };
    match document.kind {
        Kind::Peers => {
            for (workload, group) in by_workload() {
                pictures.push(throughput_bars(&workload, &group));
                pictures.extend(cpu_bars(&workload, &group));
            }
        }
        Kind::Sweep => {
            let keys = |one: &Measurement<'_>| {
                vec![one.first().target.name.clone(), one.first().settings.workload.clone()]
            };
            for (what, group) in groups(&all, keys) {
                pictures.push(rate_against_latency(&what, &group));
            }
        }
        Kind::Scale => {
            for (workload, group) in by_workload() {
                pictures.extend(over_dimension(&workload, &group, "shards", |one| {
                    one.first().settings.shards
                }));
                pictures.extend(over_dimension(&workload, &group, "clients", |one| {
                    Some(one.first().settings.clients)
                }));
            }
            return pictures;
        }
        Kind::Run | Kind::Failover => {}
    }
    for (workload, group) in by_workload() {
        pictures.extend(latency_curves(&workload, &group));
        if document.kind != Kind::Sweep {
            pictures.extend(over_time(&workload, &group));
        }
    }
    pictures
}

/// Measurements that belong into one picture, with what tells the groups apart; empty if there is
/// one.
fn groups<'m, 'd>(
    measurements: &'m [Measurement<'d>],
    keys: impl Fn(&Measurement<'_>) -> Vec<String>,
) -> Vec<(String, Vec<&'m Measurement<'d>>)> {
    let mut groups: Vec<(Vec<String>, Vec<&'m Measurement<'d>>)> = Vec::new();
    for measurement in measurements {
        let keys = keys(measurement);
        match groups.iter_mut().find(|(known, _)| *known == keys) {
            Some((_, group)) => group.push(measurement),
            None => groups.push((keys, vec![measurement])),
        }
    }
    let first = groups.first().map(|(keys, _)| keys.clone()).unwrap_or_default();
    let differs: Vec<bool> = first
        .iter()
        .enumerate()
        .map(|(at, key)| groups.iter().any(|(keys, _)| keys.get(at) != Some(key)))
        .collect();
    let name = |keys: &[String]| {
        let telling = keys.iter().zip(&differs).filter(|(_, differs)| **differs);
        telling.map(|(key, _)| key.as_str()).collect::<Vec<_>>().join(", ")
    };
    groups.iter().map(|(keys, group)| (name(keys), group.clone())).collect()
}

/// Adds what tells pictures of the same kind apart, if anything does.
fn titled(title: &str, workload: &str) -> String {
    if workload.is_empty() { title.to_owned() } else { format!("{title}: {workload}") }
}

/// A named latency curve: quantiles and milliseconds.
type Curve<'a> = (String, &'a [(f64, f64)]);

/// One chart for each kind of operation with a line for each measurement; of a single measurement
/// one chart with a line for each kind.
fn latency_curves(workload: &str, group: &[&Measurement<'_>]) -> Vec<Picture> {
    let mut charts: Vec<(String, Vec<Curve<'_>>)> = Vec::new();
    for measurement in group {
        for kind in kinds(measurement) {
            let Some(curve) = measurement.typical().percentiles.get(&kind) else { continue };
            let (chart, line) = match group.len() {
                1 => ("operations".to_owned(), kind),
                _ => (kind, measurement.first().name.clone()),
            };
            match charts.iter_mut().find(|(known, _)| *known == chart) {
                Some((_, lines)) => lines.push((line, curve)),
                None => charts.push((chart, vec![(line, curve)])),
            }
        }
    }
    charts.retain(|(_, lines)| lines.iter().any(|(_, curve)| curve.len() > 1));
    charts
        .into_iter()
        .map(|(what, lines)| Picture {
            title: titled(&format!("Latency of {what} by percentile, ms"), workload),
            text: "Each point: so many of all operations took at most so long. Towards the right \
                   each step is ten times rarer; a flat line is a steady store."
                .to_owned(),
            chart: Chart::Lines(curves(&what, &lines)),
        })
        .collect()
}

fn curves(what: &str, lines: &[Curve<'_>]) -> LineChart {
    let points = || lines.iter().flat_map(|(_, curve)| curve.iter());
    let series = lines.iter().enumerate().map(|(colour, (label, curve))| Series {
        // A lone kind of operation is named by the label too.
        label: label.clone(),
        points: curve.to_vec(),
        colour,
        dots: false,
    });
    LineChart {
        summary: format!("Latency of {what} by percentile"),
        x: Axis::new(
            Scale::Quantile,
            points().map(|(quantile, _)| *quantile),
            "share of operations",
            percentile,
        ),
        y: Axis::new(Scale::Log, points().map(|(_, ms)| *ms), "latency at most", short_duration),
        series: series.collect(),
        events: Vec::new(),
    }
}

/// Throughput and 99th percentile each second, with what was done meanwhile.
fn over_time(workload: &str, group: &[&Measurement<'_>]) -> Vec<Picture> {
    let lines: Vec<(String, &RunResult)> = match group {
        [one] if one.rounds.len() > 1 => {
            let rounds = one.rounds.iter().take(8);
            rounds.map(|round| (format!("round {}", round.round), *round)).collect()
        }
        _ => group.iter().map(|one| (one.first().name.clone(), one.typical())).collect(),
    };
    let longest = lines.iter().map(|(_, result)| result.series.len()).max().unwrap_or(0);
    if longest < 2 {
        return Vec::new();
    }
    let events: Vec<(f64, String)> = match &lines[..] {
        [(_, result)] => {
            result.events.iter().map(|event| (event.at_s, event.label.clone())).collect()
        }
        _ => Vec::new(),
    };
    let chart = |scale, title: &str, value: fn(&RunResult, usize) -> f64, label| {
        let series: Vec<Series> = lines
            .iter()
            .enumerate()
            .map(|(colour, (name, result))| Series {
                label: name.clone(),
                points: (0..result.series.len())
                    .flat_map(|second| {
                        let (from, y) = (second as f64, value(result, second));
                        [(from, y), (from + 1.0, y)]
                    })
                    .collect(),
                colour,
                dots: false,
            })
            .collect();
        let values = series.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
        Chart::Lines(LineChart {
            summary: format!("{title} over time"),
            x: Axis::exact(0.0, longest as f64, "seconds since the measurement began", plain),
            y: Axis::new(scale, values.collect::<Vec<_>>().into_iter(), title, label),
            series,
            events: events.clone(),
        })
    };
    let throughput = |result: &RunResult, second: usize| result.series[second].operations as f64;
    let p99 = |result: &RunResult, second: usize| result.series[second].p99_ms;
    vec![
        Picture {
            title: titled("Throughput over time, operations/s", workload),
            text: "Operations that succeeded in each second, of all clients.".to_owned(),
            chart: chart(Scale::Linear, "operations/s", throughput, short),
        },
        Picture {
            title: titled("99th percentile over time, ms", workload),
            text: "Of each second's successes, 99 of 100 took at most this.".to_owned(),
            chart: chart(Scale::Log, "p99", p99, short_duration),
        },
    ]
}

/// What latency is paid for what throughput.
fn rate_against_latency(what: &str, group: &[&Measurement<'_>]) -> Picture {
    let line = |label: &str, colour, figure: fn(&RunResult) -> Option<f64>| {
        let points = group.iter().filter_map(|one| {
            let per_second = one.median(|round| Some(round.per_second_total))?;
            Some((per_second, one.median(figure)?))
        });
        Series { label: label.to_owned(), points: points.collect(), colour, dots: true }
    };
    let series = vec![
        line("p50", 2, |round| worst(round, |operation| operation.p50_ms)),
        line("p99", 0, |round| worst(round, |operation| operation.p99_ms)),
        line("p99.9", 1, |round| worst(round, |operation| operation.p999_ms)),
    ];
    let points = || series.iter().flat_map(|line| line.points.iter());
    let open = group.iter().any(|one| one.first().settings.rate.is_some());
    Picture {
        title: titled("Latency against throughput, ms and operations/s", what),
        text: match open {
            true => "Each dot is one offered rate; latencies count from the moment when an \
                     operation was due. Where the lines turn upwards the store is at its limit; where \
                     they turn back it no longer keeps up."
                .to_owned(),
            false => "Each dot is one measurement.".to_owned(),
        },
        chart: Chart::Lines(LineChart {
            summary: "Latency against throughput".to_owned(),
            x: Axis::new(Scale::Linear, points().map(|(x, _)| *x), "operations/s that succeeded", short),
            y: Axis::new(Scale::Log, points().map(|(_, y)| *y), "latency", short_duration),
            series: series.clone(),
            events: Vec::new(),
        }),
    }
}

/// The largest of `figure` over the kinds of operations.
pub fn worst(
    result: &RunResult,
    figure: fn(&crate::result::OperationResult) -> f64,
) -> Option<f64> {
    result.operations.values().map(figure).max_by(f64::total_cmp)
}

/// The number of a store's colour: the same in all charts of a document.
fn store_colour(group: &[&Measurement<'_>], at: usize) -> usize {
    let mut names: Vec<&str> = Vec::new();
    for one in group {
        let name = one.first().target.name.as_str();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let name = group[at].first().target.name.as_str();
    names.iter().position(|known| *known == name).unwrap_or(0)
}

fn promise(result: &RunResult) -> String {
    let target = &result.target;
    let parts = [&target.replication, &target.durability, &target.reads];
    let parts: Vec<&str> =
        parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    parts.join(" · ")
}

fn throughput_bars(workload: &str, group: &[&Measurement<'_>]) -> Picture {
    let bars = group.iter().enumerate().map(|(at, one)| {
        let value = one.median(|round| Some(round.per_second_total)).unwrap_or(0.0);
        let p99 = one.median(|round| worst(round, |operation| operation.p99_ms));
        let p99 = p99.map(|ms| format!(", p99 {}", duration(ms))).unwrap_or_default();
        let failed: u64 =
            one.rounds.iter().map(|round| round.errors_total() + round.unknown_total()).sum();
        let failed = if failed > 0 { format!(", {} failed", count(failed)) } else { String::new() };
        Bar {
            label: one.first().name.clone(),
            detail: promise(one.first()),
            value,
            text: format!("{}/s{p99}{failed}", number(value)),
            colour: store_colour(group, at),
        }
    });
    Picture {
        title: titled("Throughput, operations/s (longer is better)", workload),
        text:
            "Only stores with the same number of copies and the same sync policy promise the same."
                .to_owned(),
        chart: Chart::Bars(BarChart {
            summary: "Throughput of each store".to_owned(),
            bars: bars.collect(),
        }),
    }
}

/// `None` where nobody's CPU time is known.
fn cpu_bars(workload: &str, group: &[&Measurement<'_>]) -> Option<Picture> {
    let bars: Vec<Bar> = group
        .iter()
        .enumerate()
        .filter_map(|(at, one)| {
            let (value, whose) = match is_in_process(one) {
                true => (one.median(|round| round.cost.total_cpu_us_per_op)?, ", load included"),
                false => (one.median(|round| round.cost.server_cpu_us_per_op)?, ""),
            };
            Some(Bar {
                label: one.first().name.clone(),
                detail: promise(one.first()),
                value,
                text: format!("{} µs{whose}", number(value)),
                colour: store_colour(group, at),
            })
        })
        .collect();
    (!bars.is_empty()).then(|| Picture {
        title: titled("CPU time of all servers, µs per operation (shorter is better)", workload),
        text: "User and system time of all processes of the store together, divided by the \
               operations that succeeded. Steadier than throughput on a machine that others use too."
            .to_owned(),
        chart: Chart::Bars(BarChart {
            summary: "CPU time per operation of each store".to_owned(),
            bars,
        }),
    })
}

/// Throughput and CPU time over a number that was varied while the other was not.
fn over_dimension(
    workload: &str,
    group: &[&Measurement<'_>],
    what: &str,
    value: fn(&Measurement<'_>) -> Option<u32>,
) -> Vec<Picture> {
    let settings =
        |one: &Measurement<'_>| (one.first().settings.clients, one.first().settings.shards);
    let others = |one: &Measurement<'_>| match (what, settings(one)) {
        ("shards", (clients, _)) => format!("{clients} clients"),
        (_, (_, Some(shards))) => format!("{shards} shards"),
        (_, (_, None)) => one.first().target.name.clone(),
    };
    let mut series: Vec<(String, Vec<&Measurement<'_>>)> = Vec::new();
    for measurement in group {
        let label = others(measurement);
        match series.iter_mut().find(|(known, _)| *known == label) {
            Some((_, line)) => line.push(measurement),
            None => series.push((label, vec![measurement])),
        }
    }
    series.retain(|(_, line)| {
        let values: BTreeSet<u32> = line.iter().filter_map(|one| value(one)).collect();
        values.len() > 1
    });
    if series.is_empty() {
        return Vec::new();
    }
    let chart = |title: &str, figure: fn(&RunResult) -> Option<f64>, label| {
        let lines: Vec<Series> = series
            .iter()
            .enumerate()
            .map(|(colour, (name, line))| {
                let mut points: Vec<(f64, f64)> = line
                    .iter()
                    .filter_map(|one| Some((f64::from(value(one)?), one.median(figure)?)))
                    .collect();
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                Series { label: name.clone(), points, colour, dots: true }
            })
            .collect();
        let x = lines.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x));
        let y = lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
        LineChart {
            summary: format!("{title} over {what}"),
            x: Axis::new(Scale::Doubling, x.collect::<Vec<_>>().into_iter(), what, plain),
            y: Axis::new(Scale::Linear, y.collect::<Vec<_>>().into_iter(), title, label),
            series: lines,
            events: Vec::new(),
        }
    };
    let cpu =
        |round: &RunResult| round.cost.server_cpu_us_per_op.or(round.cost.total_cpu_us_per_op);
    let picture = |title: String, text: &str, chart| Picture {
        title: titled(&title, workload),
        text: text.to_owned(),
        chart: Chart::Lines(chart),
    };
    let mut pictures = vec![picture(
        format!("Throughput over {what}, operations/s"),
        "The axis below doubles; a level line means that the number costs nothing.",
        chart("operations/s", |round| Some(round.per_second_total), short),
    )];
    if group.iter().any(|one| one.median(cpu).is_some()) {
        pictures.push(picture(
            format!("CPU time over {what}, µs per operation"),
            "Of all servers together; of servers and load where both are one process.",
            chart("µs per operation", cpu, plain),
        ));
    }
    pictures
}
