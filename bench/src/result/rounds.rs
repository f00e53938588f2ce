//! Rounds: the same measurement, several times.
//!
//! One run on a machine that others use too says little; the median of several says more, and how
//! far they lie apart says how much more.

use super::{Document, RunResult};

/// One measurement with all its rounds.
#[derive(Clone, Debug)]
pub struct Measurement<'a> {
    /// In the order in which they were made; at least one.
    pub rounds: Vec<&'a RunResult>,
}

impl Document {
    /// The results, with rounds of the same measurement put together, in the order of their first
    /// rounds. What has the same name, settings and target is the same measurement.
    pub fn measurements(&self) -> Vec<Measurement<'_>> {
        let mut measurements: Vec<Measurement<'_>> = Vec::new();
        for result in &self.results {
            match measurements.iter_mut().find(|known| known.is_also(result)) {
                Some(known) => known.rounds.push(result),
                None => measurements.push(Measurement { rounds: vec![result] }),
            }
        }
        measurements
    }
}

impl<'a> Measurement<'a> {
    /// Its first round, for what all rounds share.
    pub fn first(&self) -> &'a RunResult {
        self.rounds[0]
    }

    /// The round of median throughput, for pictures: a real run instead of an average of several.
    pub fn typical(&self) -> &'a RunResult {
        let mut rounds = self.rounds.clone();
        rounds.sort_by(|a, b| a.per_second_total.total_cmp(&b.per_second_total));
        rounds[(rounds.len() - 1) / 2]
    }

    /// What `figure` is in each round that has it.
    pub fn values(&self, figure: impl Fn(&RunResult) -> Option<f64>) -> Vec<f64> {
        self.rounds.iter().filter_map(|round| figure(round)).collect()
    }

    /// The median of `figure` over the rounds that have it.
    pub fn median(&self, figure: impl Fn(&RunResult) -> Option<f64>) -> Option<f64> {
        median(&self.values(figure))
    }

    fn is_also(&self, result: &RunResult) -> bool {
        let first = self.first();
        first.name == result.name
            && first.settings == result.settings
            && first.target.name == result.target.name
    }
}

/// The middle of `values`, of an even number the mean of both middle ones; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::sample;

    #[test]
    fn rounds_are_put_together_by_name_settings_and_target() {
        let mut document = sample::document();
        document.results.clear();
        for (name, round, per_second) in
            [("a", 1, 5.0), ("b", 1, 7.0), ("a", 2, 1.0), ("a", 3, 3.0), ("b", 2, 8.0)]
        {
            let result = RunResult {
                name: name.to_owned(),
                round,
                per_second_total: per_second,
                ..sample::result()
            };
            document.results.push(result);
        }
        document.results[4].settings.clients += 1;
        let measurements = document.measurements();
        let sizes: Vec<usize> = measurements.iter().map(|one| one.rounds.len()).collect();
        assert_eq!(sizes, [3, 1, 1]);
        assert_eq!(measurements[0].median(|round| Some(round.per_second_total)), Some(3.0));
        assert_eq!(measurements[0].typical().round, 3);
        assert_eq!(measurements[0].median(|_| None), None);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
