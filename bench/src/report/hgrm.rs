//! The text form of latency histograms that HdrHistogram's plotters read (`.hgrm`).

use std::fmt::Write as _;

use crate::latency::Latencies;

/// How many lines there are each time that the distance to 100 % halves; what plotters expect.
const LINES_PER_HALF: u32 = 5;

/// The percentile distribution of `latencies`, in milliseconds.
pub fn hgrm(latencies: &Latencies) -> String {
    let histogram = latencies.histogram();
    let ms = |nanos: f64| nanos / 1e6;
    let mut out = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    for value in histogram.iter_quantiles(LINES_PER_HALF) {
        total += value.count_since_last_iteration();
        let quantile = value.quantile_iterated_to();
        let latency = ms(value.value_iterated_to() as f64);
        let _ = match quantile < 1.0 {
            true => {
                let odds = 1.0 / (1.0 - quantile);
                writeln!(out, "{latency:12.6} {quantile:2.12} {total:10} {odds:14.2}")
            }
            false => writeln!(out, "{latency:12.6} {quantile:2.12} {total:10}"),
        };
    }
    let (mean, deviation) = match latencies.count() {
        0 => (0.0, 0.0),
        _ => (ms(histogram.mean()), ms(histogram.stdev())),
    };
    let _ = writeln!(out, "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]");
    let max = ms(histogram.max() as f64);
    let _ = writeln!(out, "#[Max     = {max:12.6}, Total count    = {:12}]", latencies.count());
    let (buckets, length) = (histogram.buckets(), histogram.distinct_values());
    // All buckets but the first share half of their values with the one before.
    let sub_buckets = 2 * length / (usize::from(buckets) + 1);
    let _ = writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]");
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_text_is_what_plotters_read() {
        let mut latencies = Latencies::new();
        for ms in 1..=1_000 {
            latencies.record(Duration::from_millis(ms));
        }
        let text = hgrm(&latencies);
        let mut lines = text.lines();
        let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(head, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        assert_eq!(lines.next(), Some(""));
        let rows: Vec<Vec<f64>> = lines
            .clone()
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|part| part.parse().unwrap()).collect())
            .collect();
        assert!(rows.len() > 20 && rows.is_sorted());
        assert!(rows[..rows.len() - 1].iter().all(|row| row.len() == 4));
        let median = rows.iter().find(|row| row[1] == 0.5).unwrap();
        assert!((median[0] - 500.0).abs() < 1.0 && median[3] == 2.0, "{median:?}");
        let last = rows.last().unwrap();
        assert!((last[0] - 1_000.0).abs() < 1.0 && last[1..] == [1.0, 1_000.0], "{last:?}");
        let tail: Vec<&str> = lines.skip_while(|line| !line.starts_with('#')).collect();
        assert!(tail[0].starts_with("#[Mean    =") && tail[0].contains("StdDeviation   ="));
        assert!(tail[1].contains("Total count    =         1000]"), "{}", tail[1]);
        assert!(tail[2].ends_with("SubBuckets     =         2048]"), "{}", tail[2]);
        assert_eq!(hgrm(&Latencies::new()).lines().filter(|line| line.starts_with('#')).count(), 3);
    }
}
