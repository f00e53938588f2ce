//! The command `check`, as a user runs it: exit codes and words.

use std::fmt::Write;
use std::process::Command;

use flotilla_bench::history::Line;

use super::simulated::{self, Load};
use super::too_concurrent;

/// Runs `check` on a file with this text; its exit code and all that it said.
fn check(text: &str, arguments: &[&str]) -> (i32, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("history");
    std::fs::write(&file, text).unwrap();
    let program = env!("CARGO_BIN_EXE_flotilla-bench");
    let output = Command::new(program).arg("check").arg(&file).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

fn text(lines: &[(usize, Line)]) -> String {
    let mut text = String::new();
    for (_, line) in lines {
        writeln!(text, "{}", serde_json::to_string(line).unwrap()).unwrap();
    }
    text
}

fn right() -> String {
    text(&simulated::history(Load { operations: 5_000, keys: 50, clients: 10, ..Load::usual() }))
}

#[test]
fn a_right_history_passes_and_a_planted_violation_does_not() {
    let right = right();
    let (code, said) = check(&right, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("PASS: linearizable, key by key"), "{said}");
    for planted in ["stale-read", "lost-update", "double-apply"] {
        let (code, said) = check(&right, &["--plant", planted]);
        assert_eq!(code, 1, "{planted}: {said}");
        assert!(said.contains("◀ cannot be explained"), "{said}");
    }
}

#[test]
fn what_is_no_history_is_refused_with_its_line() {
    let broken =
        right().replacen("\"unk\":0", "\"unk\":7", 3).replacen("\"unk\":7", "\"unk\":0", 2);
    let (code, said) = check(&broken, &[]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("line 3: unk is 7"), "{said}");
    let (code, said) = check("", &[]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("nothing is proven"), "{said}");
    let (code, said) = check(
        "{\"f\":\"put\",\"k\":\"a\",\"v\":\"x\",\"c\":1,\"call\":1,\"ret\":2,\"unk\":0}\n\
         {\"f\":\"incr\",\"k\":\"a\",\"v\":1,\"r\":1,\"c\":1,\"call\":3,\"ret\":4,\"unk\":0}\n",
        &[],
    );
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("line 1: key \"a\" is incremented elsewhere, but holds \"x\""), "{said}");
}

#[test]
fn giving_up_has_a_code_of_its_own() {
    let (code, said) = check(&text(&too_concurrent()), &["--memory-mib", "1"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("GAVE UP") && said.contains("UNDECIDED"), "{said}");
}

#[test]
fn scans_and_batches_are_told() {
    let line =
        |f: &str| format!("{{\"f\":\"{f}\",\"k\":\"a\",\"c\":1,\"call\":1,\"ret\":2,\"unk\":0}}\n");
    let (code, said) = check(&[right(), line("scan"), line("batch")].concat(), &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("1 scans are not judged"), "{said}");
    assert!(said.contains("1 writes of several keys are judged key by key"), "{said}");
}

#[test]
fn what_was_there_before_is_a_violation_unless_it_is_allowed() {
    let read = "{\"f\":\"get\",\"k\":\"a\",\"r\":\"old\",\"c\":1,\"call\":1,\"ret\":2,\"unk\":0}\n";
    let (code, said) = check(read, &[]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no operation that may have had an effect leaves \"old\""), "{said}");
    assert_eq!(check(read, &["--initial", "any"]).0, 0);
}
