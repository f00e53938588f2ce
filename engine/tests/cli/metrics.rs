//! How metrics are named, and that the list of them for people is the list of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Name and type of every metric in a Prometheus text, in order.
pub fn types(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// Fails for a name that no Prometheus user would expect.
pub fn check_names(text: &str) {
    let helped: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '))
        .filter(|(_, help)| !help.trim().is_empty())
        .map(|(name, _)| name)
        .collect();
    for (name, kind) in types(text) {
        assert!(helped.contains(name.as_str()), "{name} has no help");
        assert!(name.starts_with("flotilla_") || name.starts_with("process_"), "{name}: prefix");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(plain), "{name}: characters");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        let words: Vec<&str> = name.split('_').collect();
        for word in
            ["ms", "us", "ns", "s", "sec", "secs", "millis", "micros", "kb", "mb", "kib", "mib"]
        {
            assert!(!words.contains(&word), "{name}: {word} is not a base unit in full");
        }
        if words.contains(&"duration") || words.contains(&"time") {
            assert!(words.contains(&"seconds"), "{name}: a time without its unit");
        }
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        for label in ["shard=", "group=", "key=", "region="] {
            for before in ["{", ","] {
                assert!(!line.contains(&format!("{before}{label}")), "a label per shard: {line}");
            }
        }
    }
}

/// Fails unless `docs/metrics.md` lists exactly the metrics of `text`, with their types.
pub fn check_list(text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let listed: BTreeMap<String, String> = page
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some((name.to_owned(), rest.split_once(" |")?.0.to_owned()))
        })
        .collect();
    assert_eq!(listed, types(text), "docs/metrics.md against /metrics");
}

#[test]
fn bad_names_are_noticed() {
    let metric =
        |name: &str, kind: &str| format!("# HELP {name} Help.\n# TYPE {name} {kind}\n{name} 1\n");
    check_names(&metric("flotilla_store_read_bytes_total", "counter"));
    for (name, kind) in [
        ("store_reads_total", "counter"),
        ("flotilla_reads", "counter"),
        ("flotilla_reads_total", "gauge"),
        ("flotilla_sync_duration_secs", "histogram"),
        ("flotilla_sync_duration", "histogram"),
        ("flotilla_sync_ms", "gauge"),
        ("flotilla_Sync", "gauge"),
    ] {
        let text = metric(name, kind);
        assert!(std::panic::catch_unwind(|| check_names(&text)).is_err(), "{name} passed");
    }
    let labelled = metric("flotilla_keys", "gauge") + "flotilla_keys{a=\"b\",shard=\"1\"} 1\n";
    assert!(std::panic::catch_unwind(|| check_names(&labelled)).is_err());
}
