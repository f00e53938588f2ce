//! How large the logs of many groups are, and the line to which they are cut when all together are
//! too large: the largest first.
//!
//! Sizes are counted in classes of powers of two, so that a thousand groups cost no more to report
//! than one. Groups below the line keep everything: a shard that hardly changes does not lose the
//! log that its absent follower needs because others are written to all day.
//!
//! What is absent: who cuts (`replica::retire`), and how much is too much (`shared`).

/// Sizes below this share the first class.
const FIRST_CLASS_BYTES: u64 = 64 << 10;
/// The last class begins at 32 TiB.
const CLASSES: usize = 30;

/// Sizes of logs, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogSizes {
    counts: [u64; CLASSES],
    bytes: [u64; CLASSES],
}

impl LogSizes {
    /// Counts one log.
    pub(crate) fn count(&mut self, bytes: u64) {
        let class = (bytes / FIRST_CLASS_BYTES).checked_ilog2().map_or(0, |power| power + 1);
        let class = (class as usize).min(CLASSES - 1);
        self.counts[class] += 1;
        self.bytes[class] += bytes;
    }

    /// Of all logs together.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.bytes.iter().sum()
    }

    /// How many logs there are.
    pub(crate) fn groups(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The size to which each log must be cut, at most, so that all together hold no more than
    /// `bytes_max`. Logs of one class give way together: the line is never too high, and too low by
    /// at most what the smallest of its class leave unused.
    pub(crate) fn water_line(&self, bytes_max: u64) -> u64 {
        if self.total_bytes() <= bytes_max {
            return u64::MAX;
        }
        let (mut groups, mut below) = (self.groups(), 0);
        for class in 0..CLASSES {
            if groups == 0 {
                break;
            }
            // Each log of this class and above is cut to this.
            let line = bytes_max.saturating_sub(below) / groups;
            let end = FIRST_CLASS_BYTES << class;
            if line < end {
                return line;
            }
            groups -= self.counts[class];
            below += self.bytes[class];
        }
        u64::MAX
    }
}

impl std::ops::Add for LogSizes {
    type Output = LogSizes;

    fn add(mut self, other: LogSizes) -> LogSizes {
        for class in 0..CLASSES {
            self.counts[class] += other.counts[class];
            self.bytes[class] += other.bytes[class];
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sizes(logs: &[u64]) -> LogSizes {
        logs.iter().fold(LogSizes::default(), |mut sizes, bytes| {
            sizes.count(*bytes);
            sizes
        })
    }

    fn cut(logs: &[u64], line: u64) -> u64 {
        logs.iter().map(|bytes| line.min(*bytes)).sum()
    }

    #[test]
    fn the_largest_give_way_and_the_small_keep_all() {
        let mut logs = vec![100 << 10; 50];
        logs.push(1 << 30);
        let line = sizes(&logs).water_line(64 << 20);
        assert!(line > 50 << 20, "{line}");
        assert!(cut(&logs, line) <= 64 << 20);
        assert_eq!(sizes(&logs).water_line(2 << 30), u64::MAX, "all fit");
        assert_eq!(sizes(&[]).water_line(0), u64::MAX);
        assert_eq!(sizes(&[1, 1 << 40]).water_line(0), 0);
    }

    proptest! {
        #[test]
        fn what_is_cut_at_the_line_fits(
            logs in proptest::collection::vec(0u64..1 << 36, 0..100),
            bytes_max in 0u64..1 << 40,
        ) {
            let line = sizes(&logs).water_line(bytes_max);
            prop_assert!(cut(&logs, line) <= bytes_max);
            prop_assert_eq!(sizes(&logs).total_bytes(), logs.iter().sum::<u64>());
        }
    }
}
