//! How files look: short, headed, and without what must not stay in them.

use crate::report::Report;
use crate::source::Source;
use crate::tree::Tree;

/// The most lines that a file may have besides its tests.
const FILE_LINES_MAX: usize = 520;

/// The most lines that a function may have.
const FUNCTION_LINES_MAX: usize = 100;

/// What production code must not contain, and what to write instead.
const NOT_IN_PRODUCTION: [(&str, &str); 5] = [
    (".unwrap()", "return an error, or say with expect() why it cannot fail"),
    ("todo!", "write it, or leave it out"),
    ("unimplemented!", "write it, or leave it out"),
    ("dbg!", "remove it, or use tracing"),
    ("#[allow(dead_code", "remove what nothing uses"),
];

/// Folders of the machines that this was written on; spelt apart so that this file passes.
const PRIVATE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/tm", "p/")];

/// Runs the checks of this file.
pub fn check(tree: &Tree, report: &mut Report) {
    let slow_checks = std::fs::read_to_string(tree.root.join(".ci/run")).unwrap_or_default();
    for source in tree.sources() {
        check_header(source, report);
        check_leftovers(source, report);
        check_tests(source, report);
        check_ignored(source, &slow_checks, report);
    }
    for source in tree.packages.iter().flat_map(|package| &package.sources) {
        check_length(source, report);
    }
    for (path, text) in tree.text_files() {
        check_paths(&path, &text, report);
    }
}

fn check_header(source: &Source, report: &mut Report) {
    if !source.raw.first().is_some_and(|line| line.starts_with("//!")) {
        let text = "open the file with `//!`: what it is, its invariants, and what it deliberately \
            does not know";
        report.count(&source.path, "header", 1, text.to_owned());
    }
}

fn check_length(source: &Source, report: &mut Report) {
    let lines = source.production().count();
    if lines > FILE_LINES_MAX {
        report.count(&source.path, "file length", lines, format!(
            "{lines} lines without its tests, more than {FILE_LINES_MAX}: cut it by ideas, one a file"));
    }
    for function in source.functions() {
        if function.lines > FUNCTION_LINES_MAX {
            let (name, lines) = (&function.name, function.lines);
            report.count(&format!("{}::{name}", source.path), "function length", lines, format!(
                "{lines} lines from line {}, more than {FUNCTION_LINES_MAX}: name its parts and \
                 cut it", function.line));
        }
    }
}

fn check_leftovers(source: &Source, report: &mut Report) {
    for (word, advice) in NOT_IN_PRODUCTION {
        let lines: Vec<usize> = source
            .production()
            .filter(|(_, line)| line.contains(word))
            .map(|(number, _)| number)
            .collect();
        if !lines.is_empty() {
            report.count(&source.path, word, lines.len(), format!("on lines {lines:?}: {advice}"));
        }
    }
}

/// A test may be left out of the quick run only if the slow checks run its file.
fn check_ignored(source: &Source, slow_checks: &str, report: &mut Report) {
    let name = source.path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs"));
    let run = format!("--test {}", name.unwrap_or_default());
    let is_run = slow_checks
        .split("cargo test")
        .any(|command| command.contains(&run) && command.contains("-- --ignored"));
    for (number, line) in source.code.iter().enumerate() {
        if line.contains("#[ignore") && !is_run {
            report.problem(
                &source.path,
                number + 1,
                "ignore",
                "run the test, here or in .ci/run, or remove it: one that nobody runs proves nothing"
                    .to_owned(),
            );
        }
    }
}

fn check_tests(source: &Source, report: &mut Report) {
    let sleeps: Vec<usize> = source
        .tests()
        .filter(|(_, line)| line.contains("sleep("))
        .map(|(number, _)| number)
        .collect();
    if !sleeps.is_empty() {
        report.count(
            &source.path,
            "sleep in tests",
            sleeps.len(),
            format!(
                "on lines {sleeps:?}: wait for what you wait for: a channel, a notification, a \
             condition with a deadline"
            ),
        );
    }
}

fn check_paths(path: &str, text: &str, report: &mut Report) {
    for (number, line) in text.lines().enumerate() {
        for private in PRIVATE_PATHS {
            // Part of a longer path, such as /var/tmp/, is somebody else's business.
            let found = line.match_indices(private).any(|(at, _)| {
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '}' | '.' | '_'))
            });
            if found {
                report.problem(
                    path,
                    number + 1,
                    "path",
                    format!(
                        "`{private}` is a folder of one machine: take a path from the caller, or a \
                     temporary directory"
                    ),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report_of(text: &str, check: fn(&Source, &mut Report)) -> Report {
        let mut report = Report::default();
        check(&Source::new("a.rs", text), &mut report);
        report
    }

    #[test]
    fn planted_leftovers_are_found() {
        assert_eq!(report_of("let a = b.unwrap();\n", check_leftovers).counts.len(), 1);
        assert_eq!(report_of("fn a() { todo!() }\n", check_leftovers).counts.len(), 1);
        let test = "#[cfg(test)]\nmod tests {\n    fn a() { b.unwrap(); }\n}\n";
        assert_eq!(report_of(test, check_leftovers).counts.len(), 0);
    }

    #[test]
    fn planted_habits_are_found() {
        assert_eq!(report_of("fn a() {}\n", check_header).counts.len(), 1);
        let mut ignored = Report::default();
        let source = Source::new("b/a.rs", "#[test]\n#[ignore]\nfn a() {}\n");
        check_ignored(&source, "cargo test --test b -- --ignored", &mut ignored);
        assert_eq!(ignored.problems.len(), 1);
        check_ignored(&source, "cargo test --test a -- --ignored", &mut ignored);
        assert_eq!(ignored.problems.len(), 1);
        assert_eq!(report_of("#[test]\nfn a() { sleep(b); }\n", check_tests).counts.len(), 1);
        let long = format!("fn a() {{\n{}}}\n", "    b();\n".repeat(FUNCTION_LINES_MAX));
        assert_eq!(report_of(&long, check_length).counts.len(), 1);
        let long = "//\n".repeat(FILE_LINES_MAX + 1);
        assert_eq!(report_of(&long, check_length).counts.len(), 1);
    }

    #[test]
    fn planted_paths_are_found() {
        let mut report = Report::default();
        check_paths("a.md", concat!("see /tm", "p/x and /wo", "rk/y"), &mut report);
        check_paths("a.md", concat!("see /var/tm", "p/x"), &mut report);
        assert_eq!(report.problems.len(), 2);
    }
}
