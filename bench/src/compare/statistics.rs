//! By how much two sets of rounds differ, and how sure that is.
//!
//! Rounds on a machine that others use too have outliers in one direction: a neighbour takes the
//! processors for a while. So nothing here trusts means or normal distributions: the difference is
//! the median of all differences between a round of one side and a round of the other
//! (Hodges-Lehmann), and its interval is the one of the rank sum test, exact for few rounds.
//!
//! Rounds that took turns are compared each with the one beside it, which met the same neighbours: the
//! difference is the median of the averages of all two of these (Hodges-Lehmann for one sample), and
//! its interval the one of the signed rank test.
//!
//! Everything is in logarithms, so that twice and half are equally far away.

/// How probable it is at most, for each end of the interval, that the truth lies beyond.
const MISS: f64 = 0.025;

/// More pairs than this are judged by the normal approximation of the rank sum.
const EXACT_PAIRS_MAX: usize = 400;

/// More turns than this are judged by the normal approximation of the signed rank sum.
const EXACT_TURNS_MAX: usize = 30;

/// A difference of logarithms, with the interval that it is believed to lie in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The best guess.
    pub estimate: f64,
    /// It is probably not below this.
    pub low: f64,
    /// It is probably not above this.
    pub high: f64,
}

impl Difference {
    /// How far the logarithms of `after` are above those of `before`; `None` if one is empty or
    /// has a figure that is not above zero.
    pub fn between(before: &[f64], after: &[f64]) -> Option<Difference> {
        let usable = |values: &[f64]| values.iter().all(|value| value.is_finite() && *value > 0.0);
        if before.is_empty() || after.is_empty() || !usable(before) || !usable(after) {
            return None;
        }
        let pairs = after.iter().flat_map(|b| before.iter().map(move |a| (b / a).ln()));
        let mut differences: Vec<f64> = pairs.collect();
        differences.sort_by(f64::total_cmp);
        let skipped = skipped(before.len(), after.len());
        Some(Difference {
            estimate: crate::result::median(&differences)?,
            low: differences[skipped],
            high: differences[differences.len() - 1 - skipped],
        })
    }

    /// The same for rounds that took turns: the n-th of one side ran beside the n-th of the other.
    /// `None` also if they are not equally many.
    pub fn between_turns(before: &[f64], after: &[f64]) -> Option<Difference> {
        Difference::between(before, after)?;
        if before.len() != after.len() {
            return None;
        }
        let turns: Vec<f64> = before.iter().zip(after).map(|(a, b)| (b / a).ln()).collect();
        let each = |at: usize| turns[at..].iter().map(move |other| (at, other));
        let pairs = (0..turns.len()).flat_map(each);
        let mut averages: Vec<f64> = pairs.map(|(at, other)| (turns[at] + other) / 2.0).collect();
        averages.sort_by(f64::total_cmp);
        let skipped = skipped_of_turns(turns.len());
        Some(Difference {
            estimate: crate::result::median(&averages)?,
            low: averages[skipped],
            high: averages[averages.len() - 1 - skipped],
        })
    }

    /// The same, with an interval that reaches at least `margin` to both sides.
    pub fn at_least(self, margin: f64) -> Difference {
        Difference {
            estimate: self.estimate,
            low: self.low.min(self.estimate - margin),
            high: self.high.max(self.estimate + margin),
        }
    }

    /// Half of the interval's length.
    pub fn noise(self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

/// How many of the sorted differences at each end lie outside of the interval.
fn skipped(before: usize, after: usize) -> usize {
    let pairs = before * after;
    if pairs > EXACT_PAIRS_MAX {
        let deviation = ((pairs * (before + after + 1)) as f64 / 12.0).sqrt();
        return (pairs as f64 / 2.0 - 1.96 * deviation).floor().max(0.0) as usize;
    }
    let ways = rank_sums(before, after);
    let all: f64 = ways.iter().sum();
    let mut sum = 0.0;
    for (rank_sum, ways) in ways.iter().enumerate() {
        sum += ways;
        if sum / all > MISS {
            return rank_sum;
        }
    }
    unreachable!("all ways together are certain")
}

/// How many of the sorted averages at each end lie outside of the interval.
fn skipped_of_turns(turns: usize) -> usize {
    let largest = turns * (turns + 1) / 2;
    if turns > EXACT_TURNS_MAX {
        let deviation = ((largest * (2 * turns + 1)) as f64 / 12.0).sqrt();
        return (largest as f64 / 2.0 - 1.96 * deviation).floor().max(0.0) as usize;
    }
    // ways[sum]: how many sets of ranks have that sum.
    let mut ways = vec![0.0; largest + 1];
    ways[0] = 1.0;
    for rank in 1..=turns {
        for sum in (rank..=largest).rev() {
            ways[sum] += ways[sum - rank];
        }
    }
    let all = 2f64.powi(turns as i32);
    let mut sum = 0.0;
    for (rank_sum, ways) in ways.iter().enumerate() {
        sum += ways;
        if sum / all > MISS {
            return rank_sum;
        }
    }
    unreachable!("all sets together are certain")
}

/// In how many orders of `before` and `after` rounds each number of pairs is the wrong way round.
fn rank_sums(before: usize, after: usize) -> Vec<f64> {
    // ways[b][u]: with all of `before` up to now and b of `after`.
    let mut ways = vec![vec![0.0; before * after + 1]; after + 1];
    for row in &mut ways {
        row[0] = 1.0;
    }
    for count in 1..=before {
        let mut next = vec![vec![0.0; before * after + 1]; after + 1];
        for b in 0..=after {
            for u in 0..=count * b {
                // The last of all is one of `before`, above b of `after`, or one of `after`.
                let above = if u >= b { ways[b][u - b] } else { 0.0 };
                let below = if b > 0 { next[b - 1][u] } else { 0.0 };
                next[b][u] = above + below;
            }
        }
        ways = next;
    }
    ways.swap_remove(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_sums_are_those_of_the_tables() {
        assert_eq!(rank_sums(1, 1), [1.0, 1.0]);
        assert_eq!(rank_sums(2, 2), [1.0, 1.0, 2.0, 1.0, 1.0]);
        assert_eq!(rank_sums(5, 5).iter().sum::<f64>(), 252.0);
        // Critical values of the two-sided test at 5 %: below 3 x 4 there are none.
        for (before, after, critical) in [(4, 4, 0), (5, 5, 2), (7, 7, 8), (10, 10, 23), (5, 8, 6)]
        {
            assert_eq!(skipped(before, after), critical + 1, "{before} and {after}");
        }
        assert_eq!((skipped(1, 1), skipped(3, 3)), (0, 0));
    }

    #[test]
    fn the_approximation_meets_the_exact_count() {
        let exact = skipped(20, 20);
        let approximate = skipped(20, 21);
        assert!(
            (128..=134).contains(&approximate) && approximate >= exact,
            "{exact} {approximate}"
        );
    }

    #[test]
    fn differences_ignore_outliers() {
        let before = [100.0, 102.0, 98.0, 101.0, 20.0];
        let after = [50.0, 51.0, 49.0, 50.5, 300.0];
        let difference = Difference::between(&before, &after).unwrap();
        assert!((difference.estimate - 0.5_f64.ln()).abs() < 0.05, "{difference:?}");
        assert!(difference.low <= difference.estimate && difference.estimate <= difference.high);
        let same = Difference::between(&before, &before).unwrap();
        assert!(same.estimate == 0.0 && same.low < 0.0 && same.high > 0.0, "{same:?}");
    }

    #[test]
    fn signed_ranks_are_those_of_the_tables() {
        // Critical values of the two-sided test at 5 %: below 6 turns there are none.
        for (turns, critical) in [(6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (15, 25), (20, 52)] {
            assert_eq!(skipped_of_turns(turns), critical + 1, "{turns}");
        }
        assert_eq!((skipped_of_turns(1), skipped_of_turns(5)), (0, 0));
        let (exact, approximate) = (skipped_of_turns(30), skipped_of_turns(31));
        assert!((138..=148).contains(&exact) && approximate > exact, "{exact} {approximate}");
    }

    #[test]
    fn turns_take_out_what_both_sides_met() {
        // The machine is now twice as fast, now half: the second build is always 10 % slower.
        let before = [100.0, 200.0, 50.0, 120.0, 180.0, 70.0];
        let after = before.map(|value| value * 0.9);
        let turns = Difference::between_turns(&before, &after).unwrap();
        assert!((turns.estimate - 0.9_f64.ln()).abs() < 1e-9 && turns.noise() < 1e-9, "{turns:?}");
        assert!(Difference::between(&before, &after).unwrap().noise() > 0.5);
        // One round that a neighbour spoiled changes little.
        let mut spoiled = after;
        spoiled[2] = 20.0;
        let turns = Difference::between_turns(&before, &spoiled).unwrap();
        assert!((turns.estimate - 0.9_f64.ln()).abs() < 0.05, "{turns:?}");
        assert_eq!(Difference::between_turns(&before, &after[1..]), None);
        assert_eq!(Difference::between_turns(&[], &[]), None);
    }

    #[test]
    fn figures_without_a_logarithm_are_not_compared() {
        assert_eq!(Difference::between(&[], &[1.0]), None);
        assert_eq!(Difference::between(&[0.0], &[1.0]), None);
        assert_eq!(Difference::between(&[1.0], &[f64::NAN]), None);
        let one = Difference::between(&[1.0], &[2.0]).unwrap().at_least(0.1);
        assert!((one.noise() - 0.1).abs() < 1e-12 && one.low < one.estimate, "{one:?}");
    }
}
