//! CPU time of processes, from `/proc`.
//!
//! The kernel counts in ticks, usually of 10 ms: over ten seconds that is precise enough, over one
//! it is not.

use std::fs;
use std::time::Duration;

use anyhow::{Context, bail};

/// What the kernel counts for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessTimes {
    /// User and system time of all its threads since it began, exited threads included.
    pub cpu: Duration,
    /// When it began, in ticks since the system did. With the number of the process it tells
    /// whether a later look sees the same one.
    pub started_ticks: u64,
    /// True if it has ended and only waits for its parent to notice.
    pub has_ended: bool,
}

/// What the kernel counts for `process`.
///
/// # Errors
///
/// If there is no such process, or no `/proc`.
pub fn process_times(process: u32) -> anyhow::Result<ProcessTimes> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let stat = parse(&text).with_context(|| format!("{path} is not as expected: {text}"))?;
    let per_second = rustix::param::clock_ticks_per_second();
    if per_second == 0 {
        bail!("the system does not say how long its ticks are");
    }
    Ok(ProcessTimes {
        cpu: Duration::from_secs_f64(stat.cpu_ticks as f64 / per_second as f64),
        started_ticks: stat.started_ticks,
        has_ended: matches!(stat.state, 'Z' | 'X'),
    })
}

/// User and system time of all threads of `process` since it began, exited threads included.
///
/// # Errors
///
/// If there is no such process, or no `/proc`.
pub fn cpu_time(process: u32) -> anyhow::Result<Duration> {
    Ok(process_times(process)?.cpu)
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

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    cpu_ticks: u64,
    started_ticks: u64,
}

/// Fields 3 (state), 14 and 15 (user and system time) and 22 (start). The second field is a name in
/// parentheses and may hold anything, parentheses and spaces too.
fn parse(stat: &str) -> Option<Stat> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        cpu_ticks: number(14)? + number(15)?,
        started_ticks: number(22)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = "17 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 100 23 0 0 20 0 4 0 77 5";
        let expected = Stat { state: 'S', cpu_ticks: 123, started_ticks: 77 };
        assert_eq!(parse(stat), Some(expected));
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
