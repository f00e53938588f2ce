//! The line that tells how a run is going: only on a terminal, and gone when the run is over.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::format::{count, duration, number};
use crate::drive::Second;

/// A progress bar with the latest figures beside it, on the terminal of standard error. Where that
/// is not a terminal nothing is written.
pub struct Live {
    bar: ProgressBar,
    total: Duration,
}

impl Live {
    /// A line for `what` (`ycsb-a`, `warming up`), which takes `total`.
    pub fn new(what: &str, total: Duration) -> Live {
        Live::on(what, total, ProgressDrawTarget::stderr_with_hz(4))
    }

    fn on(what: &str, total: Duration, target: ProgressDrawTarget) -> Live {
        let bar = ProgressBar::with_draw_target(Some(millis(total).max(1)), target);
        let style = ProgressStyle::with_template("{prefix} {bar:20} {wide_msg}");
        bar.set_style(style.expect("the template is constant").progress_chars("━╸─"));
        bar.set_prefix(what.to_owned());
        Live { bar, total }
    }

    /// Tells what happened until `elapsed`: all seconds so far.
    pub fn update(&self, elapsed: Duration, seconds: &[Second]) {
        self.bar.set_position(millis(elapsed.min(self.total)));
        self.bar.set_message(words(self.total.saturating_sub(elapsed), seconds));
    }

    /// Removes the line.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.finish();
    }
}

fn words(left: Duration, seconds: &[Second]) -> String {
    let left = format!("{} s left", left.as_secs_f64().ceil());
    let Some(latest) = seconds.last() else { return left };
    let sum = |figure: fn(&Second) -> u64| seconds.iter().map(figure).sum::<u64>();
    let (errors, unknown) = (sum(|second| second.errors), sum(|second| second.unknown));
    let failed = match (errors, unknown) {
        (0, 0) => "no errors".to_owned(),
        (errors, 0) => format!("{} errors", count(errors)),
        (errors, unknown) => format!("{} errors, {} unknown", count(errors), count(unknown)),
    };
    let (rate, p99) = (number(latest.operations as f64), duration(latest.p99_ms));
    format!("{rate} ops/s, p99 {p99}, {failed}, {left}")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// A terminal that remembers all that was ever written.
    #[derive(Clone, Debug, Default)]
    struct Written(Arc<Mutex<String>>);

    impl TermLike for Written {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.write_str("<cleared>")
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_line_tells_rate_latency_errors_and_time_left() {
        let terminal = Written::default();
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let live = Live::on("ycsb-a", Duration::from_secs(10), target);
        let second = Second { operations: 41_234, errors: 2, unknown: 0, p99_ms: 8.25 };
        live.update(Duration::from_secs(4), &[second, second]);
        live.bar.force_draw();
        let line = terminal.0.lock().unwrap().clone();
        for part in ["ycsb-a", "41,234 ops/s", "p99 8.25 ms", "4 errors", "6 s left", "━"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        live.finish();
        let text = terminal.0.lock().unwrap().clone();
        assert!(text[text.rfind("left").unwrap()..].contains("<cleared>"), "{text}");
    }

    #[test]
    fn before_the_first_second_only_the_time_is_told() {
        assert_eq!(words(Duration::from_millis(2_500), &[]), "3 s left");
        let quiet = Second { operations: 10, ..Second::default() };
        assert!(words(Duration::ZERO, &[quiet]).contains("no errors"));
        let unknown = Second { unknown: 3, ..Second::default() };
        assert!(words(Duration::ZERO, &[unknown]).contains("0 errors, 3 unknown"));
    }
}
