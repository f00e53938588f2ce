//! What clients were told, each time, for what is asked afterwards: how long nobody was answered,
//! and how it went second by second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::latency::Latencies;
use crate::result::Second;

/// What an operation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// A read was answered.
    Read,
    /// A write was acknowledged.
    Written,
    /// It certainly had no effect.
    NoEffect,
    /// Nobody knows.
    Unknown,
}

/// One answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// When it came.
    pub at: Instant,
    /// After how long.
    pub took: Duration,
    /// What it was.
    pub came: Came,
}

impl Answer {
    /// An answer that comes now to what was asked at `asked`.
    pub fn now(asked: Instant, came: Came) -> Answer {
        let at = Instant::now();
        Answer { at, took: at - asked, came }
    }
}

/// The moments of answers of one kind.
pub fn moments<'a>(
    answers: impl IntoIterator<Item = &'a Answer>,
    came: Came,
) -> impl Iterator<Item = Instant> {
    answers.into_iter().filter(move |answer| answer.came == came).map(|answer| answer.at)
}

/// The latencies of answers of one kind.
pub fn latencies<'a>(answers: impl IntoIterator<Item = &'a Answer>, came: Came) -> Latencies {
    let mut latencies = Latencies::new();
    for answer in answers.into_iter().filter(|answer| answer.came == came) {
        latencies.record(answer.took);
    }
    latencies
}

/// What happened in each second from `begin` to `end`, the last one cut short.
pub fn series<'a>(
    answers: impl IntoIterator<Item = &'a Answer>,
    begin: Instant,
    end: Instant,
) -> Vec<Second> {
    let mut seconds: BTreeMap<u64, (Second, Latencies)> = BTreeMap::new();
    let last = end.saturating_duration_since(begin).as_secs();
    for at in 0..=last {
        seconds.insert(at, Default::default());
    }
    for answer in answers {
        let at = answer.at.saturating_duration_since(begin).as_secs();
        let Some((second, latencies)) = seconds.get_mut(&at) else { continue };
        match answer.came {
            Came::Read | Came::Written => {
                second.operations += 1;
                latencies.record(answer.took);
            }
            Came::NoEffect => second.errors += 1,
            Came::Unknown => second.unknown += 1,
        }
    }
    let told = seconds
        .into_values()
        .map(|(second, latencies)| Second { p99_ms: latencies.summary().p99_ms, ..second });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_is_told_also_those_without_answers() {
        let begin = Instant::now();
        let answer = |ms: u64, took_ms: u64, came| Answer {
            at: begin + Duration::from_millis(ms),
            took: Duration::from_millis(took_ms),
            came,
        };
        let answers = [
            answer(100, 5, Came::Written),
            answer(900, 50, Came::Read),
            answer(2_100, 7, Came::Unknown),
            answer(2_200, 7, Came::NoEffect),
            answer(2_300, 9, Came::Read),
        ];
        let told = series(&answers, begin, begin + Duration::from_millis(2_500));
        let counts: Vec<(u64, u64, u64)> =
            told.iter().map(|second| (second.operations, second.errors, second.unknown)).collect();
        assert_eq!(counts, [(2, 0, 0), (0, 0, 0), (1, 1, 1)]);
        assert!((told[0].p99_ms - 50.0).abs() < 1.0 && (told[2].p99_ms - 9.0).abs() < 0.1);
        assert_eq!(moments(&answers, Came::Read).count(), 2);
        assert_eq!(latencies(&answers, Came::Written).count(), 1);
    }
}
