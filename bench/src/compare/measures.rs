//! What is compared: which figures of a result, which way is worse, and how far apart two runs of
//! the same program lie anyway.

use crate::report::{duration, number};
use crate::result::{Measurement, RunResult};

/// Between two runs at different times a machine is not the same: processors heat up, neighbours
/// come and go. Smaller differences than this are never called, however many rounds there were,
/// unless the rounds took turns.
const DRIFT: f64 = 0.08;

/// How a figure is found in a result.
type Figure = Box<dyn Fn(&RunResult) -> Option<f64>>;

/// One figure of a measurement.
pub struct Measure {
    /// What it is: `throughput`, `put p99`.
    pub name: String,
    figure: Figure,
    /// True for throughput, false for latencies and costs.
    more_is_better: bool,
    /// By how much two single runs of the same program on a shared machine differ at most, nearly
    /// always; from experience with such machines.
    single_noise: f64,
    /// How many times what was asked for is let pass. Latencies scatter more than throughput, and
    /// tails more than medians.
    pub tolerance: f64,
    /// True for what a comparison is about: if it is not known well enough, nothing is.
    pub is_headline: bool,
    /// Writes a value with its unit.
    pub text: fn(f64) -> String,
    /// What it was in each second, where that is known.
    each_second: Option<fn(&RunResult) -> Vec<f64>>,
}

impl Measure {
    /// The figures that are compared of a measurement with these kinds of operations.
    pub fn all(kinds: &[String]) -> Vec<Measure> {
        let mut measures = vec![Measure {
            more_is_better: true,
            is_headline: true,
            each_second: Some(|result| {
                result.series.iter().map(|second| second.operations as f64).collect()
            }),
            ..Measure::new("throughput", |result| Some(result.per_second_total), 0.15, per_second)
        }];
        for kind in kinds {
            for (name, figure, noise, tolerance) in [
                ("p50", quantile(kind, |operation| operation.p50_ms), 0.2, 1.5),
                ("p99", quantile(kind, |operation| operation.p99_ms), 0.4, 2.5),
            ] {
                let measure = Measure::new(&format!("{kind} {name}"), figure, noise, duration);
                measures.push(Measure { tolerance, ..measure });
            }
        }
        let server = |result: &RunResult| result.cost.server_cpu_us_per_op;
        let both = |result: &RunResult| match result.cost.server_cpu_us_per_op {
            None => result.cost.total_cpu_us_per_op,
            Some(_) => None,
        };
        let written = |result: &RunResult| result.cost.written_bytes_per_logical_byte;
        measures.push(Measure::new("server CPU per operation", server, 0.12, micros));
        measures.push(Measure::new("CPU per operation, load included", both, 0.12, micros));
        measures.push(Measure::new("bytes written per byte", written, 0.2, number));
        measures
    }

    fn new(
        name: &str,
        figure: impl Fn(&RunResult) -> Option<f64> + 'static,
        single_noise: f64,
        text: fn(f64) -> String,
    ) -> Measure {
        Measure {
            name: name.to_owned(),
            figure: Box::new(figure),
            more_is_better: false,
            single_noise,
            tolerance: 1.0,
            is_headline: false,
            text,
            each_second: None,
        }
    }

    /// The figure in each round that has it.
    pub fn values(&self, measurement: &Measurement<'_>) -> Vec<f64> {
        measurement.values(&self.figure)
    }

    /// How much worse it is when logarithms grew by `difference`, as a share of what it was:
    /// positive for worse.
    pub fn worse_by(&self, difference: f64) -> f64 {
        match self.more_is_better {
            true => 1.0 - difference.exp(),
            false => difference.exp() - 1.0,
        }
    }

    /// Smaller differences of logarithms than this are noise, whatever the rounds look like.
    pub fn margin(
        &self,
        before: &Measurement<'_>,
        after: &Measurement<'_>,
        took_turns: bool,
    ) -> f64 {
        let rounds = before.rounds.len().min(after.rounds.len());
        let from_rounds = self.single_noise / (rounds as f64).sqrt();
        let from_seconds = match rounds {
            1 => self.unsteadiness(before.first()) + self.unsteadiness(after.first()),
            _ => 0.0,
        };
        let drift = if took_turns { 0.0 } else { DRIFT };
        from_rounds.max(from_seconds).max(drift)
    }

    /// Twice the deviation of the mean of a run's seconds, which follow each other too closely to
    /// count each.
    fn unsteadiness(&self, result: &RunResult) -> f64 {
        let seconds = self.each_second.map(|seconds| seconds(result)).unwrap_or_default();
        if seconds.len() < 4 {
            return 0.0;
        }
        let count = seconds.len() as f64;
        let mean = seconds.iter().sum::<f64>() / count;
        let variance =
            seconds.iter().map(|second| (second - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let independent = (count / 4.0).max(1.0);
        if mean > 0.0 { 2.0 * variance.sqrt() / mean / independent.sqrt() } else { 0.0 }
    }
}

fn quantile(
    kind: &str,
    figure: fn(&crate::result::OperationResult) -> f64,
) -> impl Fn(&RunResult) -> Option<f64> + 'static {
    let kind = kind.to_owned();
    move |result| result.operations.get(&kind).map(figure)
}

fn per_second(value: f64) -> String {
    format!("{}/s", number(value))
}

fn micros(value: f64) -> String {
    format!("{} µs", number(value))
}
