//! The `flotilla` binary from outside: what it says, how it ends, what it refuses.
#![cfg(feature = "server")]

mod data;
mod metrics;
mod process;

use std::net::TcpListener;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use process::{Node, Process, flotilla, free_addresses, run, run_with, serve};

#[test]
fn usage_errors_end_with_2() {
    for arguments in [
        &[][..],
        &["sail"],
        &["serve", "--nonsense"],
        &["serve", "--node-id", "one"],
        &["serve", "--node-id", "0"],
        &["serve", "--shards", "0"],
        &["serve", "--shards", "4", "--split-at", "a"],
        &["serve", "--split-at", "b,a"],
        &["serve", "--split-at", "\\xzz"],
        &["serve", "--peers", "1=127.0.0.1:7101,1=127.0.0.1:7102"],
        &["serve", "--peers", "1=127.0.0.1:7101,2=127.0.0.1:7101"],
        &["serve", "--peers", "2=127.0.0.1:7102,3=127.0.0.1:7103"],
        &["serve", "--peers", "1=127.0.0.1:7101", "--peer-addr", "127.0.0.1:7102"],
        &["serve", "--resp-addr", "nowhere"],
        &["serve", "--log", "a=b=c"],
        &["serve", "--config", "/nowhere/flotilla.toml"],
        &["demo", "--nodes", "0"],
        &["demo", "--shards", "0"],
        &["demo", "--for", "soon"],
        &["status", "-o", "poem"],
        &["config"],
    ] {
        let ended = run_with(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(!ended.stderr.is_empty(), "{arguments:?} said nothing");
        assert!(!ended.stderr.contains("panicked"), "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn help_and_version_end_with_0() {
    let version = run_with(&["--version"]);
    assert_eq!(version.code, Some(0));
    assert_eq!(version.stdout.trim(), format!("flotilla {}", env!("CARGO_PKG_VERSION")));
    let help = run_with(&["serve", "--help"]);
    assert_eq!(help.code, Some(0));
    for flag in [
        "--config",
        "--cluster-name",
        "--node-id",
        "--data-dir",
        "--peer-addr",
        "--resp-addr",
        "--admin-addr",
        "--peers",
        "--shards",
        "--split-at",
        "--log",
        "--insecure",
    ] {
        assert!(help.stdout.contains(flag), "{flag} is not in the help");
    }
}

#[test]
fn an_unknown_key_in_a_file_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flotilla.toml");
    std::fs::write(&file, "[storage]\nmemtable_byte = '1MiB'\n").unwrap();
    let file = file.to_str().unwrap();
    for arguments in [&["config", "check", "--config", file][..], &["serve", "--config", file]] {
        let ended = run_with(arguments);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains("unknown key `storage.memtable_byte`"), "{}", ended.stderr);
        assert!(ended.stderr.contains("memtable_bytes"), "{}", ended.stderr);
    }
    let by_variable = run(flotilla(&["config", "check"]).env("FLOTILLA_CONFIG", file));
    assert_eq!(by_variable.code, Some(2), "{by_variable:?}");
}

#[test]
fn an_unknown_variable_only_warns_and_a_bad_value_names_its_variable() {
    let ended = run(flotilla(&["config", "check"]).env("FLOTILLA_SERVICE_HOST", "10.0.0.1"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("FLOTILLA_SERVICE_HOST"), "{}", ended.stderr);

    let bad = run(flotilla(&["config", "check"]).env("FLOTILLA_STORAGE__CACHE_BYTES", "lots"));
    assert_eq!(bad.code, Some(2), "{bad:?}");
    assert!(bad.stderr.contains("FLOTILLA_STORAGE__CACHE_BYTES=lots"), "{}", bad.stderr);
}

#[test]
fn config_print_says_where_each_value_came_from() {
    let ended = run(flotilla(&["config", "print", "--cluster-name", "sea"])
        .env("FLOTILLA_RAFT__ELECTION_TIMEOUT", "2s"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let line = |key: &str| ended.stdout.lines().find(|line| line.starts_with(key)).unwrap();
    assert!(line("cluster_name").contains("\"sea\"") && line("cluster_name").contains("flag"));
    assert!(line("election_timeout").contains("environment FLOTILLA_RAFT__ELECTION_TIMEOUT"));
    assert!(line("node_id").ends_with("# default"));
}

#[test]
fn beyond_loopback_only_with_consent_and_never_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let refused = run(&mut serve(&data, &["--resp-addr", "0.0.0.0:0"]));
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--insecure"), "{}", refused.stderr);
    assert!(!data.exists(), "nothing is touched before the settings are right");

    let node = Node::serve(&data, &["--resp-addr", "0.0.0.0:0", "--insecure"]);
    let metrics = String::from_utf8(node.get("/metrics").body).unwrap();
    assert!(metrics.lines().any(|line| line == "flotilla_insecure 1"), "{metrics}");
    let ended = node.process.end_by(Signal::TERM);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("INSECURE"), "{}", ended.stderr);
}

#[test]
fn a_port_in_use_is_told_before_anything_is_touched() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for (flag, key) in [("--resp-addr", "resp_addr"), ("--admin-addr", "admin_addr")] {
        let ended = run(&mut serve(&data, &[flag, &address]));
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let words = format!("cannot listen on {key} {address}");
        assert!(ended.stderr.contains(&words), "{}", ended.stderr);
        assert!(!data.exists());
    }
    let [free] = free_addresses();
    let peers = format!("1={address},2={free}");
    let ended = run(&mut serve(&data, &["--peers", &peers]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("peer_addr"), "{}", ended.stderr);
    let port = address.rsplit_once(':').unwrap().1;
    let ended = run_with(&["demo", "--resp-port", port, "--nodes", "1"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
}

#[test]
fn one_node_serves_and_ends_cleanly_by_either_signal() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, first) in [(Signal::TERM, true), (Signal::INT, false)] {
        let node = Node::serve(dir.path(), &["--shards", "4"]);
        node.await_ready();
        assert_eq!(node.get("/healthz").code, 200);
        if first {
            assert_eq!(node.redis("SET greeting hello"), "+OK\r\n");
        }
        assert_eq!(node.redis("GET greeting"), "$5\r\nhello\r\n");
        let status: Value = serde_json::from_slice(&node.get("/status").body).unwrap();
        assert_eq!(status["node_id"], 1);
        assert_eq!(status["shards"].as_array().unwrap().len(), 4);
        let ended = node.process.end_by(signal);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
}

/// A fault on a huge page keeps everybody waiting whom the thread serves.
#[cfg(target_os = "linux")]
#[test]
fn a_server_does_without_huge_pages() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::serve(dir.path(), &[]);
    let status = node.process.system_status();
    assert!(status.contains("THP_enabled:\t0\n"), "{status}");
}

#[test]
fn a_directory_is_refused_to_anybody_else() {
    let dir = tempfile::tempdir().unwrap();
    let born = Node::serve(dir.path(), &["--shards", "2", "--cluster-name", "sea"]);

    let second = run(&mut serve(dir.path(), &["--cluster-name", "sea"]));
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("in use"), "{}", second.stderr);
    assert_eq!(born.redis("PING"), "+PONG\r\n", "the first is unharmed");
    assert_eq!(born.process.end_by(Signal::TERM).code, Some(0));

    for (arguments, words) in [
        (&["--cluster-name", "sea", "--node-id", "2"][..], "node"),
        (&["--cluster-name", "lake"], "sea"),
        (&["--cluster-name", "sea", "--shards", "3"], "shard"),
        (&["--cluster-name", "sea", "--split-at", "k"], "shard"),
    ] {
        let ended = run(&mut serve(dir.path(), arguments));
        assert_eq!(ended.code, Some(1), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(words), "{arguments:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }

    // Nothing of that harmed it, and without --shards it is what it was.
    let again = Node::serve(dir.path(), &["--cluster-name", "sea"]);
    again.await_ready();
    assert_eq!(again.process.end_by(Signal::TERM).code, Some(0));
}

/// Starts three nodes in `dir`; each waits for the others, so they start side by side.
fn three_nodes(dir: &Path, peers: &str) -> Vec<Node> {
    std::thread::scope(|scope| {
        let starting: Vec<_> = ["1", "2", "3"]
            .map(|id| {
                scope.spawn(move || {
                    let data = dir.join(format!("node{id}"));
                    Node::serve(&data, &["--node-id", id, "--peers", peers, "--shards", "4"])
                })
            })
            .into_iter()
            .collect();
        starting.into_iter().map(|node| node.join().unwrap()).collect()
    })
}

#[test]
fn three_nodes_are_one_store_and_status_judges_them() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = free_addresses();
    let peers = format!("1={a},2={b},3={c}");
    let nodes = three_nodes(dir.path(), &peers);
    nodes.iter().for_each(Node::await_ready);
    for key in ["\"\\x01low\"", "alpha", "\"\\xf0high\""] {
        assert_eq!(nodes[0].redis(&format!("SET {key} {key}")), "+OK\r\n");
        assert_eq!(nodes[1].redis(&format!("EXISTS {key}")), ":1\r\n");
        assert_eq!(
            nodes[2].redis(&format!("STRLEN {key}")),
            nodes[0].redis(&format!("STRLEN {key}"))
        );
    }

    let admins: Vec<&str> = nodes.iter().map(|node| node.admin.as_str()).collect();
    let healthy = run_with(&["status", "--admin-addr", &admins.join(",")]);
    assert_eq!(healthy.code, Some(0), "{healthy:?}");
    let verdict = healthy.stdout.lines().next().unwrap();
    assert_eq!(verdict, "Healthy: survives the loss of 1 node");

    let report = run_with(&["status", "--admin-addr", admins[0], "-o", "json"]);
    assert_eq!(report.code, Some(0), "{report:?}");
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["available"], true);
    assert_eq!(report["nodes"][0]["shards"].as_array().unwrap().len(), 4);

    let text = String::from_utf8(nodes[1].get("/metrics").body).unwrap();
    metrics::check_names(&text);
    metrics::check_list(&text);

    for node in nodes {
        assert_eq!(node.process.end_by(Signal::TERM).code, Some(0));
    }
}

#[test]
fn a_blank_directory_of_a_known_node_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = free_addresses();
    let peers = format!("1={a},2={b},3={c}");
    let mut nodes = three_nodes(dir.path(), &peers);
    nodes.iter().for_each(Node::await_ready);
    let lost = nodes.pop().unwrap();
    assert_eq!(lost.process.end_by(Signal::TERM).code, Some(0));
    std::fs::remove_dir_all(dir.path().join("node3")).unwrap();

    let data = dir.path().join("node3");
    let blank = run(&mut serve(&data, &["--node-id", "3", "--peers", &peers, "--shards", "4"]));
    assert_eq!(blank.code, Some(1), "{blank:?}");
    assert!(blank.stderr.contains("node 3"), "{}", blank.stderr);
    assert_eq!(nodes[0].redis("SET still here"), "+OK\r\n");
    for node in nodes {
        assert_eq!(node.process.end_by(Signal::TERM).code, Some(0));
    }
}

#[test]
fn status_fails_where_nobody_answers() {
    let [silent] = free_addresses();
    let ended = run_with(&["status", "--admin-addr", &silent]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains(&format!("no answer from {silent}")), "{}", ended.stdout);
}

#[test]
fn the_demo_ends_by_itself_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let ended =
        run(flotilla(&["demo", "--for", "2s", "--keys", "2000"]).env("TMPDIR", temporary.path()));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for words in
        ["survives the loss of 1 node", "redis-cli -p", "/metrics", "status --admin-addr", "Done: "]
    {
        assert!(ended.stdout.contains(words), "no {words:?} in\n{}", ended.stdout);
    }
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn the_demo_ends_by_a_signal_and_finds_its_data_again() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("kept");
    let kept = kept.to_str().unwrap();
    for _ in 0..2 {
        let arguments = ["demo", "--dir", kept, "--keys", "500", "--shards", "4"];
        let mut demo = Process::start(&mut flotilla(&arguments));
        demo.await_line(|line| line.starts_with("Keeping a light load").then_some(()));
        let ended = demo.end_by(Signal::INT);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(Path::new(kept).join("node1").exists());
    }
    let other = run_with(&["demo", "--dir", kept, "--shards", "5", "--for", "1s"]);
    assert_eq!(other.code, Some(1), "{other:?}");
}
