//! Rising rates, to find the highest that a target keeps up with.
//!
//! A closed loop tells first what the clients can get at most. Then an open loop is measured at rising
//! shares of that, until the target does not keep up any more:
//!
//! * fewer than [`KEPT_UP_SHARE`] of the operations that were due were done in their time, or one was
//!   not begun in time, or
//! * the 99th percentile is [`P99_GROWTH_MAX`] times that of the first, lowest rate.
//!
//! Halfway between the last rate that was kept up with and the first that was not, one more is tried.
//! The knee is the highest rate that was kept up with.

use std::sync::Arc;
use std::time::Duration;

use super::{Context, measure};
use crate::drive::{DriveOptions, Driven, End};
use crate::result::{Figure, RunResult};
use crate::target::Target;
use crate::workload::Workload;

/// Shares of the closed loop's rate that are tried, until one is not kept up with.
const SHARES: [f64; 9] = [0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.15];

/// Of what was due, so much must be done in its time.
const KEPT_UP_SHARE: f64 = 0.97;

/// How much longer than at the lowest rate the 99th percentile may be.
const P99_GROWTH_MAX: f64 = 20.0;

/// The shortest 99th percentile that counts as a breakdown, in milliseconds: below, noise of the
/// machine multiplies quickly.
const P99_FLOOR_MS: f64 = 5.0;

/// How long the closed loop may take.
const PROBE_MAX: Duration = Duration::from_secs(10);

/// A measurement, and the latencies behind it.
type Measured = (RunResult, Driven);

/// Measures at rising rates. The results say in a figure whether they were kept up with.
pub(super) async fn sweep(
    target: &Arc<dyn Target>,
    workload: &Workload,
    options: &DriveOptions,
    context: &Context,
) -> anyhow::Result<Vec<Measured>> {
    let End::After(duration) = options.end else { unreachable!("a run ends by time") };
    let probe =
        DriveOptions { rate: None, end: End::After(duration.min(PROBE_MAX)), ..options.clone() };
    let (probed, _) = measure(target, workload, &probe, context).await?;
    let most = probed.per_second_total;
    anyhow::ensure!(most > 0.0, "nothing was answered in a closed loop: {:?}", probed.errors);
    eprintln!("closed loop: {most:.0} operations/s; rates rise from {:.0}", most * SHARES[0]);

    let mut measured: Vec<Measured> = Vec::new();
    let mut first_p99_ms = None;
    let (mut kept_up, mut broke) = (None, None);
    for share in SHARES {
        let (rate, phase) = (most * share, options.phase + 1 + measured.len() as u16);
        let step = Step { target, workload, options, context, first_p99_ms };
        let (one, keeps_up) = step.measure(rate, phase).await?;
        first_p99_ms = first_p99_ms.or(Some(p99_ms(&one.1)));
        measured.push(one);
        match keeps_up {
            true => kept_up = Some(rate),
            false => {
                broke = Some(rate);
                break;
            }
        }
    }
    if let (Some(good), Some(bad)) = (kept_up, broke) {
        let (rate, phase) = ((good + bad) / 2.0, options.phase + 1 + measured.len() as u16);
        let step = Step { target, workload, options, context, first_p99_ms };
        let (one, keeps_up) = step.measure(rate, phase).await?;
        // In the order of rates: before the one that was too much.
        measured.insert(measured.len() - 1, one);
        kept_up = if keeps_up { Some(rate) } else { kept_up };
    }
    match kept_up {
        Some(rate) => eprintln!("knee: {rate:.0} operations/s are kept up with"),
        None => eprintln!("knee: not even the lowest rate was kept up with"),
    }
    if let Some((result, _)) = measured.last_mut() {
        let value = kept_up.unwrap_or(0.0);
        let (label, unit) = ("knee".to_owned(), "operations/s".to_owned());
        result.figures.push(Figure { label, value, unit });
    }
    Ok(measured)
}

/// What one rate is measured with.
struct Step<'a> {
    target: &'a Arc<dyn Target>,
    workload: &'a Workload,
    options: &'a DriveOptions,
    context: &'a Context,
    first_p99_ms: Option<f64>,
}

impl Step<'_> {
    async fn measure(&self, rate: f64, phase: u16) -> anyhow::Result<(Measured, bool)> {
        // Whole rates are easier to read and to repeat.
        let rate = rate.round().max(1.0);
        let options = DriveOptions { rate: Some(rate), phase, ..self.options.clone() };
        let name = format!("{} at {rate}/s", self.context.name);
        let context = Context { name, ..self.context.clone() };
        let (mut result, driven) = measure(self.target, self.workload, &options, &context).await?;
        let keeps_up = keeps_up(rate, &result, &driven, self.first_p99_ms);
        let value = f64::from(u8::from(keeps_up));
        let label = "kept up with".to_owned();
        result.figures.push(Figure { label, value, unit: String::new() });
        let words = if keeps_up { "kept up" } else { "not kept up" };
        let done = result.per_second_total;
        eprintln!("{rate:.0}/s: {done:.0} done, p99 {:.2} ms, {words}", p99_ms(&driven));
        Ok(((result, driven), keeps_up))
    }
}

fn keeps_up(rate: f64, result: &RunResult, driven: &Driven, first_p99_ms: Option<f64>) -> bool {
    let all_begun = !driven.errors.contains_key("not begun in time");
    let slowest =
        first_p99_ms.map_or(f64::INFINITY, |p99| (p99 * P99_GROWTH_MAX).max(P99_FLOOR_MS));
    let due = rate * result.settings.duration_s;
    let done = driven.operations() as f64;
    // Independent users come not quite as often as the rate says: a few in a hundred for short runs.
    let noise = 3.0 * due.sqrt();
    let in_time = driven.elapsed.as_secs_f64() <= result.settings.duration_s / KEPT_UP_SHARE + 0.1;
    all_begun && in_time && done >= due * KEPT_UP_SHARE - noise && p99_ms(driven) <= slowest
}

/// Of all kinds together.
fn p99_ms(driven: &Driven) -> f64 {
    driven.latencies().quantile_ms(0.99)
}
