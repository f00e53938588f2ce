//! What the checks found, and the exceptions that stand for now.

use std::collections::BTreeMap;
use std::fmt::Write;

/// An exception: where, which rule, and how much of it there is. It may only shrink: when the
/// number falls by a twentieth, the table must follow, and when it is gone, so must the row.
pub type Exception = (&'static str, &'static str, usize);

/// What the checks found.
#[derive(Default)]
pub struct Report {
    /// What no exception excuses: place and text.
    pub problems: Vec<String>,
    /// What an exception may excuse: (place, rule) to how much and a text.
    pub counts: BTreeMap<(String, String), (usize, String)>,
}

impl Report {
    /// Notes something that must not be. Line 0: the file as a whole.
    pub fn problem(&mut self, path: &str, line: usize, rule: &str, text: String) {
        let place = if line == 0 { path.to_owned() } else { format!("{path}:{line}") };
        self.problems.push(format!("{place}: [{rule}] {text}"));
    }

    /// Notes `amount` of something that an exception may allow.
    pub fn count(&mut self, place: &str, rule: &str, amount: usize, text: String) {
        self.counts.insert((place.to_owned(), rule.to_owned()), (amount, text));
    }

    /// All that is wrong, one a line; empty if nothing is.
    pub fn verdict(self, exceptions: &[Exception]) -> String {
        let mut verdict = String::new();
        for problem in &self.problems {
            let _ = writeln!(verdict, "{problem}");
        }
        for ((place, rule), (amount, text)) in &self.counts {
            let known = exceptions.iter().find(|(at, of, _)| at == place && of == rule);
            match known.map(|(_, _, allowed)| *allowed) {
                Some(allowed) if *amount <= allowed && *amount + allowed / 20 >= allowed => {}
                Some(allowed) if *amount < allowed => {
                    let _ = writeln!(
                        verdict,
                        "{place}: [{rule}] better than its exception: lower \
                        {allowed} to {amount} in bench/tests/tidy/main.rs"
                    );
                }
                Some(allowed) => {
                    let _ = writeln!(
                        verdict,
                        "{place}: [{rule}] worse than its exception of \
                        {allowed}: {text}"
                    );
                }
                None => {
                    let _ = writeln!(verdict, "{place}: [{rule}] {text}");
                }
            }
        }
        for (place, rule, _) in exceptions {
            if !self.counts.contains_key(&((*place).to_owned(), (*rule).to_owned())) {
                let _ = writeln!(
                    verdict,
                    "{place}: [{rule}] is fine now: remove its exception from \
                    bench/tests/tidy/main.rs"
                );
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(amount: usize, exceptions: &[Exception]) -> String {
        let mut report = Report::default();
        if amount > 0 {
            report.count("a.rs", "rule", amount, "advice".to_owned());
        }
        report.verdict(exceptions)
    }

    #[test]
    fn exceptions_only_shrink() {
        assert!(verdict(3, &[]).contains("advice"));
        assert!(verdict(3, &[("a.rs", "rule", 2)]).contains("worse"));
        assert!(verdict(1, &[("a.rs", "rule", 2)]).contains("lower 2 to 1"));
        assert!(verdict(0, &[("a.rs", "rule", 2)]).contains("remove"));
        assert_eq!(verdict(2, &[("a.rs", "rule", 2)]), "");
        assert_eq!(verdict(590, &[("a.rs", "rule", 600)]), "", "not every line is worth a change");
        assert!(verdict(569, &[("a.rs", "rule", 600)]).contains("lower 600 to 569"));
    }
}
