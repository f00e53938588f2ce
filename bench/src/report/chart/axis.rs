//! Axes: which values they show, where, and with which ticks.
//!
//! Ticks are at 1, 2 and 5 times powers of ten (powers of two on axes of counts that double), and
//! there are as many as fit.

use crate::report::format;

/// How values are spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from zero.
    Linear,
    /// Evenly by their logarithm.
    Log,
    /// Evenly by doublings, for numbers of shards and clients.
    Doubling,
    /// Quantiles by their nines: 90 %, 99 % and 99.9 % are equally far apart.
    Quantile,
}

/// One axis.
#[derive(Clone, Debug)]
pub struct Axis {
    scale: Scale,
    /// In terms of `Scale::place`.
    from: f64,
    to: f64,
    /// What it shows, with its unit.
    pub title: String,
    label: fn(f64) -> String,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.max(1e-9).log10(),
            Scale::Doubling => value.max(1e-9).log2(),
            Scale::Quantile => -(1.0 - value.min(1.0 - 1e-12)).log10(),
        }
    }
}

impl Axis {
    /// An axis for `values`, titled with what they are and their unit; `label` writes a tick.
    pub fn new(
        scale: Scale,
        values: impl Iterator<Item = f64>,
        title: &str,
        label: fn(f64) -> String,
    ) -> Axis {
        let usable = values.filter(|value| match scale {
            Scale::Linear => value.is_finite(),
            Scale::Log | Scale::Doubling => value.is_finite() && *value > 0.0,
            Scale::Quantile => (0.0..1.0).contains(value),
        });
        let (low, high) = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = if low > high { (1.0, 1.0) } else { (low, high) };
        let (from, to) = match scale {
            Scale::Linear => {
                let low = low.min(0.0);
                let step = round_step((high - low).max(1e-9) / 5.0);
                ((low / step).floor() * step, (high * 1.04 / step).ceil().max(1.0) * step)
            }
            Scale::Log => {
                let low = below(low).log10();
                (low, above(high).log10().max(low + 1.0))
            }
            Scale::Doubling => {
                let low = low.log2().floor();
                (low, high.log2().ceil().max(low + 1.0))
            }
            // Room for what is beyond the last nine: the longest of all.
            Scale::Quantile => (0.0, scale.place(high).max(2.0) * 1.12),
        };
        Axis { scale, from, to, title: title.to_owned(), label }
    }

    /// An axis from exactly `from` to `to`, for time.
    pub fn exact(from: f64, to: f64, title: &str, label: fn(f64) -> String) -> Axis {
        let to = if to > from { to } else { from + 1.0 };
        Axis { scale: Scale::Linear, from, to, title: title.to_owned(), label }
    }

    /// How far along the axis a value is, 0 to 1; values outside are at its ends.
    pub fn position(&self, value: f64) -> f64 {
        let place = self.scale.place(value);
        ((place - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    /// True if its ticks are equally far apart.
    pub fn is_even(&self) -> bool {
        self.scale != Scale::Quantile
    }

    /// A value as ticks are written, for tooltips.
    pub fn text(&self, value: f64) -> String {
        (self.label)(value)
    }

    /// Values to mark with their texts, at most about `most` of them.
    pub fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        let values = match self.scale {
            Scale::Linear => self.linear_ticks(most),
            Scale::Log => self.log_ticks(most),
            Scale::Doubling => {
                let step = ((self.to - self.from) / most as f64).ceil().max(1.0) as usize;
                let powers = (self.from as i32..=self.to as i32).step_by(step);
                powers.map(|power| 2_f64.powi(power)).collect()
            }
            Scale::Quantile => self.quantile_ticks(most),
        };
        values.into_iter().map(|value| (value, (self.label)(value))).collect()
    }

    fn linear_ticks(&self, most: usize) -> Vec<f64> {
        let step = round_step((self.to - self.from) / most.max(1) as f64);
        let (first, last) =
            ((self.from / step).ceil() as i64, (self.to / step + 1e-9).floor() as i64);
        (first..=last).map(|number| number as f64 * step).collect()
    }

    fn log_ticks(&self, most: usize) -> Vec<f64> {
        let decades = self.from.floor() as i32..=self.to.ceil() as i32;
        for steps in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]] {
            let values = decades
                .clone()
                .flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
            let shown = |value: &f64| {
                let place = value.log10();
                (self.from - 1e-9..=self.to + 1e-9).contains(&place)
            };
            let values: Vec<f64> = values.filter(shown).collect();
            if values.len() <= most {
                return values;
            }
        }
        let every = ((self.to - self.from) / most.max(1) as f64).ceil().max(1.0) as usize;
        decades.step_by(every).map(|decade| 10_f64.powi(decade)).collect()
    }

    fn quantile_ticks(&self, most: usize) -> Vec<f64> {
        let nines = self.to.floor() as i32;
        let mut values = vec![0.0];
        if nines as usize + 2 <= most {
            values.push(0.5);
        }
        values.extend((1..=nines).map(|nines| 1.0 - 10_f64.powi(-nines)));
        values.push(1.0);
        values
    }
}

/// The smallest of 1, 2 and 5 times powers of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * 0.999_999);
    factor.unwrap_or(10.0) * power
}

fn above(value: f64) -> f64 {
    round_step(value)
}

fn below(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let factor = [5.0, 2.0].into_iter().find(|factor| factor * power <= value * 1.000_001);
    factor.unwrap_or(1.0) * power
}

/// A plain number for a tick.
pub fn plain(value: f64) -> String {
    format::plain(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis, most: usize) -> Vec<String> {
        axis.ticks(most).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn linear_axes_begin_at_zero_and_have_round_ticks() {
        let axis = Axis::new(Scale::Linear, [31_000.0, 40_900.0].into_iter(), "", format::short);
        assert_eq!(texts(&axis, 6), ["0", "10k", "20k", "30k", "40k", "50k"]);
        assert_eq!((axis.position(0.0), axis.position(25_000.0)), (0.0, 0.5));
        assert_eq!((axis.position(-5.0), axis.position(1e9)), (0.0, 1.0));
    }

    #[test]
    fn logarithmic_axes_have_as_many_ticks_as_fit() {
        let axis = Axis::new(Scale::Log, [0.7, 62.0].into_iter(), "", format::short_duration);
        let all = ["500 µs", "1 ms", "2 ms", "5 ms", "10 ms", "20 ms", "50 ms", "100 ms"];
        assert_eq!(texts(&axis, 8), all);
        assert_eq!(texts(&axis, 6), ["1 ms", "3 ms", "10 ms", "30 ms", "100 ms"]);
        assert_eq!(axis.position(0.5), 0.0);
        let wide = Axis::new(Scale::Log, [1e-3, 1e5].into_iter(), "", plain);
        assert!(texts(&wide, 5).len() <= 6, "{:?}", texts(&wide, 5));
    }

    #[test]
    fn nines_are_equally_far_apart() {
        let axis =
            Axis::new(Scale::Quantile, [0.0, 0.5, 0.9999, 1.0].into_iter(), "", format::percentile);
        assert_eq!(texts(&axis, 8), ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "all"]);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(axis.position(0.99), 2.0 * axis.position(0.9)));
        assert_eq!(axis.position(1.0), 1.0);
    }

    #[test]
    fn doublings_are_equally_far_apart() {
        let axis = Axis::new(Scale::Doubling, [1.0, 1_024.0].into_iter(), "", plain);
        assert_eq!(texts(&axis, 11).len(), 11);
        assert_eq!(texts(&axis, 6), ["1", "4", "16", "64", "256", "1024"]);
        assert_eq!(axis.position(32.0), 0.5);
    }

    #[test]
    fn axes_of_nothing_and_of_one_value_are_drawn() {
        for scale in [Scale::Linear, Scale::Log, Scale::Doubling, Scale::Quantile] {
            for values in [vec![], vec![0.0], vec![f64::NAN], vec![7.0]] {
                let axis = Axis::new(scale, values.clone().into_iter(), "", plain);
                assert!(axis.ticks(6).len() >= 2, "{scale:?} {values:?}");
                assert!(axis.position(7.0).is_finite(), "{scale:?} {values:?}");
            }
        }
    }
}
