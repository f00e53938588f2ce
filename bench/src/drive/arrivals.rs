//! The moments at which operations of an open loop are due.
//!
//! A thread of its own sleeps from moment to moment: timers of the clients' runtime are no finer than
//! a millisecond, and that would be seen in the latencies. It wakes at most every [`TICK`], so that
//! it costs little; how late an operation is begun for that is part of its latency.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;

use super::Spacing;

/// The shortest time between two awakenings of the clients.
const TICK: Duration = Duration::from_micros(200);

/// What is due on one thread of clients.
#[derive(Default)]
pub(super) struct Due {
    moments: Mutex<VecDeque<Instant>>,
    /// Something became due, or all has.
    pub(super) changed: Notify,
    ended: AtomicBool,
}

impl Due {
    /// Adds what became due since the latest call to `backlog`; false when nothing more will come.
    pub(super) fn take(&self, backlog: &mut VecDeque<Instant>) -> bool {
        // Read before the queue: whoever sets it has filled the queue before.
        let ended = self.ended.load(Ordering::Acquire);
        backlog.append(&mut self.moments.lock().expect("no holder panics"));
        !ended
    }
}

/// Distances between the moments.
pub(super) struct Schedule {
    mean: f64,
    spacing: Spacing,
    random: SmallRng,
}

impl Schedule {
    pub(super) fn new(per_second: f64, spacing: Spacing, seed: u64) -> Schedule {
        assert!(per_second > 0.0, "a rate is positive");
        Schedule { mean: 1.0 / per_second, spacing, random: SmallRng::seed_from_u64(seed) }
    }

    /// Seconds to the next moment.
    pub(super) fn step(&mut self) -> f64 {
        match self.spacing {
            Spacing::Even => self.mean,
            // 1 - u is never 0.
            Spacing::Poisson => -self.mean * (1.0 - self.random.random::<f64>()).ln(),
        }
    }
}

/// Tells `threads` in turn what is due from `begin` until `until`.
///
/// # Errors
///
/// If no thread can be started.
pub(super) fn start(
    mut schedule: Schedule,
    begin: Instant,
    until: Instant,
    threads: Vec<Arc<Due>>,
) -> std::io::Result<()> {
    let run = move || {
        // Counted in seconds from the beginning: adding up durations would round each step.
        let mut at = schedule.step();
        let mut turn = 0;
        let mut touched = vec![false; threads.len()];
        loop {
            let next = begin + Duration::from_secs_f64(at);
            if next >= until {
                break;
            }
            let now = Instant::now();
            let wake = next.max(now + TICK);
            thread::sleep(wake.saturating_duration_since(now));
            let now = Instant::now();
            loop {
                let moment = begin + Duration::from_secs_f64(at);
                if moment > now || moment >= until {
                    break;
                }
                threads[turn].moments.lock().expect("no holder panics").push_back(moment);
                touched[turn] = true;
                turn = (turn + 1) % threads.len();
                at += schedule.step();
            }
            for (due, touched) in threads.iter().zip(&mut touched) {
                if std::mem::take(touched) {
                    due.changed.notify_one();
                }
            }
            // Everybody has gone home: the drive was given up.
            if threads.iter().all(|due| Arc::strong_count(due) == 1) {
                break;
            }
        }
        for due in &threads {
            due.ended.store(true, Ordering::Release);
            due.changed.notify_one();
        }
    };
    thread::Builder::new().name("arrivals".to_owned()).spawn(run)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn independent_users_come_at_the_mean_rate_and_not_evenly() {
        let mut schedule = Schedule::new(1_000.0, Spacing::Poisson, 3);
        let steps: Vec<f64> = (0..100_000).map(|_| schedule.step()).collect();
        let mean = steps.iter().sum::<f64>() / steps.len() as f64;
        assert!((mean * 1e3 - 1.0).abs() < 0.02, "{mean}");
        // Of exponential distances 1 - 1/e are shorter than the mean.
        let shorter = steps.iter().filter(|step| **step < 1e-3).count() as f64 / 1e5;
        assert!((shorter - 0.632).abs() < 0.01, "{shorter}");
        assert_eq!(Schedule::new(10.0, Spacing::Even, 1).step(), 0.1);
    }

    #[test]
    fn everything_becomes_due_at_its_moment_and_in_turn() {
        let begin = Instant::now();
        let until = begin + Duration::from_millis(100);
        let threads = vec![Arc::new(Due::default()), Arc::new(Due::default())];
        start(Schedule::new(1_000.0, Spacing::Even, 1), begin, until, threads.clone()).unwrap();
        let mut all = Vec::new();
        for due in &threads {
            let mut backlog = VecDeque::new();
            while due.take(&mut backlog) {
                assert!(backlog.iter().all(|moment| *moment <= Instant::now()));
                thread::yield_now();
            }
            due.take(&mut backlog);
            assert!((48..=50).contains(&backlog.len()), "{}", backlog.len());
            all.extend(backlog);
        }
        assert!(all.iter().all(|moment| *moment < until));
    }
}
