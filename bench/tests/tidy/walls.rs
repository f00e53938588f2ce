//! Which crate may depend on which, and what the code behind each wall may touch.

use std::collections::BTreeSet;

use crate::report::Report;
use crate::source::{Source, has_word};
use crate::tree::{Package, Tree};

/// For each package: the packages of the workspace that it may depend on.
const ARROWS: [(&str, &[&str]); 7] = [
    ("flotilla-mutation", &[]),
    ("flotilla-raft", &["flotilla-mutation"]),
    ("flotilla-storage", &["flotilla-mutation"]),
    ("flotilla-shard", &["flotilla-mutation", "flotilla-raft", "flotilla-storage"]),
    ("flotilla-router", &["flotilla-mutation", "flotilla-shard"]),
    ("flotilla", &["flotilla-router", "flotilla-shard", "flotilla-storage"]),
    (
        "flotilla-bench",
        &["flotilla", "flotilla-mutation", "flotilla-router", "flotilla-shard", "flotilla-storage"],
    ),
];

/// Crates from outside that only these packages may depend on, and why.
const CONFINED: [(&str, &[&str], &str); 8] = [
    ("actix", &["flotilla-shard", "flotilla"], "actors are a detail of the lanes"),
    ("redb", &["flotilla-storage", "flotilla-bench"], "the store's file is storage's own"),
    (
        "tokio",
        &["flotilla-shard", "flotilla-router", "flotilla", "flotilla-bench"],
        "consensus and storage are synchronous, so that a simulation can drive them",
    ),
    ("config", &["flotilla"], "only the door reads configuration"),
    ("axum", &["flotilla"], "only the door serves"),
    ("clap", &["flotilla", "flotilla-bench"], "only binaries have a command line"),
    ("anyhow", &["flotilla", "flotilla-bench"], "libraries have typed errors"),
    ("tracing-subscriber", &["flotilla"], "a library never decides where logs go"),
];

/// All that consensus may use: it gets time, randomness and storage handed in.
const RAFT_DEPENDENCIES: [&str; 3] = ["bytes", "flotilla-mutation", "thiserror"];

/// Files that must stay free of IO, clocks, threads and random order, besides all of
/// `shard/raft/src`: they are what a simulation replays byte for byte.
const IO_FREE: [&str; 23] = [
    "shard/src/effects.rs",
    "shard/src/replica.rs",
    "shard/src/replica/apply.rs",
    "shard/src/replica/expiring.rs",
    "shard/src/replica/install.rs",
    "shard/src/replica/lead.rs",
    "shard/src/replica/log_size.rs",
    "shard/src/replica/propose.rs",
    "shard/src/replica/read.rs",
    "shard/src/replica/retire.rs",
    "shard/src/machine.rs",
    "shard/src/command.rs",
    "shard/src/pending.rs",
    "shard/src/reads.rs",
    "shard/src/applying.rs",
    "shard/src/codec.rs",
    "shard/src/snapshot/message.rs",
    "shard/src/snapshot/sender.rs",
    "shard/src/snapshot/receiver.rs",
    "shard/src/snapshot/rate.rs",
    "shard/src/snapshot/outgoing.rs",
    "shard/src/snapshot/incoming.rs",
    "shard/src/snapshot/exchange.rs",
];

/// What must not occur in IO-free code. Paths of `std` are found inside `use std::{…}` too.
const NOT_IO_FREE: [&str; 15] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "std::io",
    "Instant::now",
    "SystemTime",
    "HashMap",
    "HashSet",
    "RandomState",
    "actix",
    "tokio",
    "rand",
    "println",
];

/// What must not occur in the router: it touches no disk and reads no configuration.
const NOT_IN_ROUTER: [&str; 6] =
    ["std::fs", "std::env", "std::path", "tokio::fs", "File", "OpenOptions"];

/// Runs the checks of this file.
pub fn check(tree: &Tree, report: &mut Report) {
    for package in &tree.packages {
        check_arrows(package, report);
        check_confined(package, report);
        check_manifest(package, report);
        check_unsafe(package, report);
    }
    for package in &tree.packages {
        for source in &package.sources {
            if source.path.starts_with("shard/raft/src/") || IO_FREE.contains(&source.path.as_str())
            {
                forbid(
                    source,
                    &NOT_IO_FREE,
                    "this file is free of IO, clocks, threads and random \
                    order: take time, randomness and effects as arguments and results",
                    report,
                );
            }
            if source.path.starts_with("router/src/") {
                forbid(
                    source,
                    &NOT_IN_ROUTER,
                    "the router touches no disk and reads no \
                    configuration: take what it needs as an argument or through a trait",
                    report,
                );
            }
        }
    }
    check_names(tree, report);
}

fn check_arrows(package: &Package, report: &mut Report) {
    let manifest = format!("{}/Cargo.toml", package.folder);
    let Some(allowed) = arrows_from(&package.name) else {
        let text = "is not in the table of arrows: decide what it may depend on";
        return report.problem(&manifest, 0, "arrows", format!("{} {text}", package.name));
    };
    // Tests may also make values of what lies further below.
    let mut below: BTreeSet<&str> = allowed.iter().copied().collect();
    for name in allowed {
        below.extend(arrows_from(name).unwrap_or_default());
    }
    for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for dependency in package.dependencies(table) {
            let fine = match table {
                "dev-dependencies" => below.contains(dependency.as_str()),
                _ => allowed.contains(&dependency.as_str()),
            };
            if dependency.starts_with("flotilla") && !fine {
                let text = "requests travel bench, engine, router, shard, then raft and storage; \
                    define a trait below and implement it above";
                let name = &package.name;
                report.problem(
                    &manifest,
                    0,
                    "arrows",
                    format!("{name} must not depend on {dependency}: {text}"),
                );
            }
        }
    }
}

fn arrows_from(name: &str) -> Option<&'static [&'static str]> {
    ARROWS.iter().find(|(from, _)| *from == name).map(|(_, to)| *to)
}

fn check_confined(package: &Package, report: &mut Report) {
    let manifest = format!("{}/Cargo.toml", package.folder);
    let dependencies = package.dependencies("dependencies");
    for (dependency, allowed, why) in CONFINED {
        if dependencies.contains(dependency) && !allowed.contains(&package.name.as_str()) {
            report.problem(
                &manifest,
                0,
                "confined",
                format!("{} must not depend on {dependency}: {why}", package.name),
            );
        }
    }
    if package.name == "flotilla-raft" {
        for dependency in &dependencies {
            if !RAFT_DEPENDENCIES.contains(&dependency.as_str()) {
                report.problem(
                    &manifest,
                    0,
                    "confined",
                    format!(
                        "consensus may depend on {RAFT_DEPENDENCIES:?} only, not on {dependency}"
                    ),
                );
            }
        }
    }
    check_unused(package, &dependencies, report);
}

/// A dependency that nothing mentions is a hole in a wall that nobody needs.
fn check_unused(package: &Package, dependencies: &BTreeSet<String>, report: &mut Report) {
    // Not in the blanked code: #[serde(with = "…")] names a crate inside a literal.
    let lines = package.sources.iter().flat_map(|source| &source.raw);
    let code: Vec<&String> = lines.filter(|line| !line.trim_start().starts_with("//")).collect();
    let unused: Vec<&String> = dependencies
        .iter()
        .filter(|name| !code.iter().any(|line| has_word(line, &name.replace('-', "_"))))
        .collect();
    if !unused.is_empty() {
        report.count(
            &format!("{}/Cargo.toml", package.folder),
            "unused",
            unused.len(),
            format!("nothing in src uses {unused:?}: remove them"),
        );
    }
}

fn check_manifest(package: &Package, report: &mut Report) {
    let manifest = format!("{}/Cargo.toml", package.folder);
    let lints = package.manifest.get("lints").and_then(|lints| lints.get("workspace"));
    if lints.and_then(toml::Value::as_bool) != Some(true) {
        report.problem(&manifest, 0, "manifest", "add `[lints] workspace = true`".to_owned());
    }
    for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(entries) = package.manifest.get(table).and_then(toml::Value::as_table) else {
            continue;
        };
        for (dependency, entry) in entries {
            if entry.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                report.problem(&manifest, 0, "manifest", format!(
                    "pin {dependency} in the workspace's Cargo.toml and say `workspace = true` here"));
            }
        }
    }
}

fn check_unsafe(package: &Package, report: &mut Report) {
    for source in &package.sources {
        let root = source.path.ends_with("src/lib.rs") || source.path.ends_with("/main.rs");
        if root && !source.code.iter().any(|line| line.contains("#![forbid(unsafe_code)]")) {
            report.problem(&source.path, 1, "unsafe", "add `#![forbid(unsafe_code)]`".to_owned());
        }
    }
}

/// Names that must not be mentioned outside their walls, whatever the manifests say.
fn check_names(tree: &Tree, report: &mut Report) {
    let engine_and_above: BTreeSet<&str> = ["flotilla", "flotilla-bench"].into();
    for package in &tree.packages {
        for source in &package.sources {
            if package.name != "flotilla-bench" {
                forbid(source, &["flotilla_bench"], "nobody needs the bench", report);
            }
            if engine_and_above.contains(package.name.as_str()) {
                forbid(
                    source,
                    &["flotilla_raft"],
                    "above the shard nobody knows Raft's internals: \
                    use what flotilla_shard exports",
                    report,
                );
            }
            if !matches!(package.name.as_str(), "flotilla" | "flotilla-shard") {
                forbid(source, &["actix"], "actors are a detail of the lanes", report);
            }
        }
    }
}

/// Reports each of `words` that production code of `source` mentions.
fn forbid(source: &Source, words: &[&str], advice: &str, report: &mut Report) {
    for (number, line) in source.production() {
        for word in words {
            if has_word(line, word) || in_use_group(line, word) {
                report.problem(&source.path, number, "wall", format!("`{word}`: {advice}"));
            }
        }
    }
}

/// True if `line` is `use std::{…}` with the module that `word`, such as `std::fs`, names.
fn in_use_group(line: &str, word: &str) -> bool {
    let Some((root, module)) = word.split_once("::") else { return false };
    let group = line.trim_start().strip_prefix("use ").and_then(|rest| rest.strip_prefix(root));
    let group = group.and_then(|rest| rest.strip_prefix("::{"));
    group.is_some_and(|group| has_word(group, module))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> usize {
        let mut report = Report::default();
        forbid(&Source::new("a.rs", text), &NOT_IO_FREE, "advice", &mut report);
        report.problems.len()
    }

    #[test]
    fn planted_breaches_are_found() {
        assert_eq!(problems("use std::fs;\n"), 1);
        assert_eq!(problems("use std::{fs, sync::Arc};\n"), 1);
        assert_eq!(problems("let now = Instant::now();\n"), 1);
        assert_eq!(problems("use std::collections::{BTreeMap, HashMap};\n"), 1);
    }

    #[test]
    fn comments_strings_and_tests_are_free() {
        assert_eq!(problems("// std::fs\nlet a = \"HashMap\";\n"), 0);
        assert_eq!(problems("#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n"), 0);
    }
}
