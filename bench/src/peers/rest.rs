//! Waits until stores have come to rest: what one still does in the background would be counted
//! against the next.

use std::time::{Duration, Instant};

use crate::cpu::total_cpu_time;

/// How long stores are watched each time.
const WATCH: Duration = Duration::from_millis(300);

/// Below this share of one core all of them together are at rest. Idle clusters that send
/// heartbeats take some hundredths.
const SHARE_MAX: f64 = 0.2;

/// How long rest is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// Waits for the rest of `processes` and of this one. Returns a note if it did not come.
pub(super) async fn wait(mut processes: Vec<u32>) -> anyhow::Result<Option<String>> {
    processes.push(std::process::id());
    processes.sort_unstable();
    processes.dedup();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (begin, before) = (Instant::now(), total_cpu_time(&processes)?);
        tokio::time::sleep(WATCH).await;
        let used = total_cpu_time(&processes)?.saturating_sub(before);
        let share = used.as_secs_f64() / begin.elapsed().as_secs_f64();
        if share < SHARE_MAX {
            return Ok(None);
        }
        if Instant::now() >= deadline {
            return Ok(Some(format!(
                "The stores had not come to rest within {} s: together they took {share:.2} of a \
                 core before this began.",
                PATIENCE.as_secs()
            )));
        }
    }
}
