//! How linearizable reads prove that they are current, and how well clocks must run for it.
//!
//! What is absent: the proof itself, which is the consensus core's.

use crate::builder::Builder;
use std::fmt;
use std::str::FromStr;

/// How the leader of a shard knows that a linearizable read sees everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadMode {
    /// By a lease: a majority has promised to elect nobody else for a while, so that a read costs no
    /// message. Trusts that clocks run at nearly the same speed; see [`ClockDrift`]. Without a lease
    /// it asks, as below.
    #[default]
    Lease,
    /// It asks a majority before each read, or each bundle of reads. Trusts no clock.
    ReadIndex,
}

impl ReadMode {
    /// `lease` or `read_index`.
    pub fn as_str(self) -> &'static str {
        match self {
            ReadMode::Lease => "lease",
            ReadMode::ReadIndex => "read_index",
        }
    }
}

impl fmt::Display for ReadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ReadMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "lease" => Ok(ReadMode::Lease),
            "read_index" => Ok(ReadMode::ReadIndex),
            _ => Err(format!("`{text}` is no way to read: write lease or read_index")),
        }
    }
}

/// How much faster or slower than true time a clock may run, in millionths. Written `1%` or `0.01`.
///
/// Computers' clocks keep within 0.05 % of it; 1 %, the default, leaves room for clocks that are being
/// slewed. What clocks show does not matter, nor does setting them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClockDrift(u32);

impl ClockDrift {
    /// Half of a clock's speed: no machine is so bad, and leases would last a third of what they could.
    pub const MAX: ClockDrift = ClockDrift(500_000);

    /// So many millionths.
    pub const fn from_ppm(ppm: u32) -> ClockDrift {
        ClockDrift(ppm)
    }

    /// Millionths.
    pub const fn ppm(self) -> u32 {
        self.0
    }
}

impl Default for ClockDrift {
    /// One per cent.
    fn default() -> Self {
        ClockDrift(10_000)
    }
}

impl fmt::Display for ClockDrift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 1e4)
    }
}

impl FromStr for ClockDrift {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, ppm) = match text.strip_suffix('%') {
            Some(number) => (number.trim_end(), 1e4),
            None => (text, 1e6),
        };
        let ppm = number.parse::<f64>().ok().map(|number| (number * ppm).round());
        match ppm.filter(|ppm| (0.0..=1e6).contains(ppm)) {
            // In range, so nothing is cut off.
            Some(ppm) => Ok(ClockDrift(ppm as u32)),
            None => Err(format!("`{text}` is no ratio: write 1% or 0.01")),
        }
    }
}

impl Builder {
    /// How linearizable reads prove that they are current. Default: [`ReadMode::Lease`].
    pub fn reads(mut self, mode: ReadMode) -> Builder {
        self.reads = Some(mode);
        self
    }

    /// How much faster or slower than true time clocks may run: leases rest on it. Default: 1 %.
    pub fn clock_drift_max(mut self, drift: ClockDrift) -> Builder {
        self.clock_drift_max = Some(drift);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drifts_are_read_as_they_are_written() {
        for (text, ppm, written) in [
            ("1%", 10_000, "1%"),
            ("0.01", 10_000, "1%"),
            ("0.05 %", 500, "0.05%"),
            ("0", 0, "0%"),
            ("0.0001%", 1, "0.0001%"),
            ("50%", 500_000, "50%"),
        ] {
            let drift: ClockDrift = text.parse().unwrap();
            assert_eq!((drift.ppm(), drift.to_string().as_str()), (ppm, written));
            assert_eq!(drift.to_string().parse(), Ok(drift));
        }
        for text in ["", "%", "-1%", "101%", "1ms", "NaN", "1.5"] {
            assert!(text.parse::<ClockDrift>().is_err(), "{text}");
        }
        assert!("leases".parse::<ReadMode>().unwrap_err().contains("read_index"));
        for mode in [ReadMode::Lease, ReadMode::ReadIndex] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
    }
}
