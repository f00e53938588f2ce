//! One measurement: a drive, and what it cost.

use std::time::{Duration, Instant};

use std::sync::Arc;

use crate::drive::{DriveOptions, Driven, Driver, End, Progress, Spacing};
use crate::measure::{Device, Meter, now};
use crate::report::Live;
use crate::result::{Event, Machine, OperationResult, RunResult, RunSettings, SCHEMA};
use crate::target::Target;
use crate::workload::{Distribution, Workload};

/// How often the live line is drawn.
const LIVE_INTERVAL: Duration = Duration::from_millis(250);

/// What a result tells beside what was measured.
#[derive(Clone, Debug)]
pub struct Context {
    /// The name of the result.
    pub name: String,
    /// Which repetition, from 1.
    pub round: u32,
    /// Where.
    pub machine: Machine,
    /// On which device the target keeps its data, where that can be told.
    pub device: Option<Device>,
    /// What the harness was built from.
    pub revision: String,
    /// Into how many shards the keys are cut, where that can be told.
    pub shards: Option<u32>,
}

/// Drives `target` and counts what that costs. Warming up is not counted.
///
/// # Errors
///
/// If the drive fails, or a process whose cost is counted ends.
pub async fn measure(
    target: &Arc<dyn Target>,
    workload: &Workload,
    options: &DriveOptions,
    context: &Context,
) -> anyhow::Result<(RunResult, Driven)> {
    let options = DriveOptions { progress: Arc::default(), ..options.clone() };
    let driver = Driver::start(target, workload, &options).await?;
    let line = tokio::spawn(live(context.name.clone(), &options, driver.measure_from()));
    driver.warmed_up().await;
    let started_at = now();
    let meter = Meter::start(&target.processes(), context.device.as_ref())?;
    let driven = driver.finish().await;
    let usage = meter.stop();
    line.abort();
    // The line is removed when its task is: before anything else is printed.
    let _ = line.await;
    let (driven, usage) = (driven?, usage?);
    let settings = settings(workload, &options, context.shards);
    let mut result = result(target.as_ref(), settings, &driven, context, started_at, &options);
    result.cost = usage.cost(driven.operations(), driven.user_bytes_written);
    result.notes.extend(usage.notes);
    Ok((result, driven))
}

fn result(
    target: &dyn Target,
    settings: RunSettings,
    driven: &Driven,
    context: &Context,
    started_at: String,
    options: &DriveOptions,
) -> RunResult {
    let mut notes = Vec::new();
    if options.slowdown > 0.0 {
        notes.push(format!(
            "Planted: the clients stood still for {:.0} % of each second.",
            options.slowdown * 100.0
        ));
    }
    let kinds = || driven.per_operation.iter();
    RunResult {
        schema: SCHEMA,
        name: context.name.clone(),
        round: context.round,
        started_at,
        revision: context.revision.clone(),
        machine: context.machine.clone(),
        target: target.describe(),
        settings,
        elapsed_s: driven.elapsed.as_secs_f64(),
        operations: kinds()
            .map(|(kind, latencies)| {
                (kind.name().to_owned(), OperationResult::new(latencies, driven.elapsed))
            })
            .collect(),
        per_second_total: driven.per_second(),
        errors: driven.errors.clone(),
        unknown: driven.unknown.clone(),
        misses: driven.misses,
        scanned_rows: driven.scanned_rows,
        series: driven.series.clone(),
        events: Vec::<Event>::new(),
        cost: Default::default(),
        percentiles: kinds()
            .map(|(kind, latencies)| (kind.name().to_owned(), OperationResult::curve(latencies)))
            .collect(),
        figures: Vec::new(),
        notes,
    }
}

/// `options` and `workload` as a result tells them.
pub fn settings(workload: &Workload, options: &DriveOptions, shards: Option<u32>) -> RunSettings {
    let mix: Vec<String> = workload
        .mix
        .iter()
        .map(|(kind, share)| format!("{:.0} % {}", share * 100.0, kind.name().replace('_', " ")))
        .collect();
    let number = |count: usize| u32::try_from(count).expect("arguments are bounded far below");
    let arrivals = match (options.rate, options.spacing) {
        (None, _) => "",
        (Some(_), Spacing::Poisson) => "poisson",
        (Some(_), Spacing::Even) => "even",
    };
    let distribution = match workload.distribution {
        Distribution::Zipfian => "zipfian 0.99",
        other => other.name(),
    };
    RunSettings {
        workload: format!("{} ({})", workload.title(), mix.join(", ")),
        clients: number(options.clients),
        pipeline: number(options.pipeline),
        batch: number(options.batch),
        rate: options.rate,
        arrivals: arrivals.to_owned(),
        duration_s: match options.end {
            End::After(duration) => duration.as_secs_f64(),
            End::Operations(_) | End::EachKeyOnce => 0.0,
        },
        warmup_s: options.warmup.as_secs_f64(),
        keys: workload.keys,
        value_bytes: workload.value_bytes as u64,
        distribution: distribution.to_owned(),
        seed: options.seed,
        shards,
    }
}

/// Draws the line on the terminal until it is aborted.
fn live(
    name: String,
    options: &DriveOptions,
    measure_from: Instant,
) -> impl Future<Output = ()> + use<> {
    let (warmup, progress) = (options.warmup, Arc::clone(&options.progress));
    let total = match options.end {
        End::After(duration) => duration,
        End::Operations(_) | End::EachKeyOnce => Duration::ZERO,
    };
    async move {
        if !warmup.is_zero() {
            let line = Live::new(&format!("{name}, warming up"), warmup);
            draw(&line, measure_from - warmup, Some(measure_from), &progress).await;
        }
        let line = Live::new(&name, total);
        draw(&line, measure_from, None, &progress).await;
    }
}

async fn draw(line: &Live, from: Instant, until: Option<Instant>, progress: &Progress) {
    while until.is_none_or(|until| Instant::now() < until) {
        line.update(from.elapsed(), &progress.seconds());
        tokio::time::sleep(LIVE_INTERVAL).await;
    }
}
