//! CPU time of processes, from `/proc`.
//!
//! The kernel counts in ticks, usually of 10 ms: over ten seconds that is precise enough, over one
//! it is not.

use std::fs;
use std::time::Duration;

use anyhow::{Context, bail};

/// User and system time of all threads of `process` since it began, exited threads included.
///
/// # Errors
///
/// If there is no such process, or no `/proc`.
pub fn cpu_time(process: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = parse(&text).with_context(|| format!("{path} is not as expected: {text}"))?;
    let per_second = rustix::param::clock_ticks_per_second();
    if per_second == 0 {
        bail!("the system does not say how long its ticks are");
    }
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// The same for this process.
///
/// # Errors
///
/// If there is no `/proc`.
pub fn own_cpu_time() -> anyhow::Result<Duration> {
    cpu_time(std::process::id())
}

/// The sum of [`cpu_time`] over several processes.
///
/// # Errors
///
/// If one of them is gone.
pub fn total_cpu_time(processes: &[u32]) -> anyhow::Result<Duration> {
    processes.iter().map(|process| cpu_time(*process)).sum()
}

/// `utime` and `stime`, fields 14 and 15. The second field is a name in parentheses and may hold
/// anything, parentheses and spaces too.
fn parse(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = "17 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 100 23 0 0 20 0 4 0";
        assert_eq!(parse(stat), Some(123));
        assert_eq!(parse("17 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_used_some() {
        let before = own_cpu_time().unwrap();
        let mut sum = 0_u64;
        while own_cpu_time().unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time(u32::MAX).is_err());
    }
}
