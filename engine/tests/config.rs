//! Settings from files, environment and flags: what is taken, what is refused, and in which words.
#![cfg(feature = "server")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla::settings::{Layers, Loaded, Origin, Settings, SettingsError, Size, load};

/// A file with this text, in a directory that vanishes with the test.
struct File {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flotilla.toml");
    std::fs::write(&path, text).unwrap();
    File { _dir: dir, path }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn from_file(text: &str) -> Result<Loaded, SettingsError> {
    let file = file(text);
    load(&Layers { file: Some(file.path.clone()), ..Layers::default() })
}

fn from_environment(pairs: &[(&str, &str)]) -> Result<Loaded, SettingsError> {
    load(&Layers { environment: variables(pairs), ..Layers::default() })
}

/// The words of the refusal.
fn refusal(result: Result<Loaded, SettingsError>) -> String {
    result.expect_err("should be refused").to_string()
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn the_commented_sample_is_exactly_the_defaults_and_complete() {
    let path = repository("configs/flotilla.toml");
    let loaded = load(&Layers { file: Some(path.clone()), ..Layers::default() }).unwrap();
    assert_eq!(loaded.settings, Settings::default());

    // Every key stands in the file; `shards` alone cannot, because its default is to be absent.
    let absent: BTreeSet<_> = loaded
        .origins
        .iter()
        .filter(|(_, origin)| **origin == Origin::Default)
        .map(|(key, _)| *key)
        .collect();
    assert_eq!(absent, BTreeSet::from(["shards"]));
    assert!(std::fs::read_to_string(path).unwrap().contains("\n# shards = "));
}

#[test]
fn the_reference_lists_every_key_with_its_default() {
    let page = std::fs::read_to_string(repository("docs/configuration.md")).unwrap();
    let printed = load(&Layers::default()).unwrap().to_toml();
    let mut section = String::new();
    for line in printed.lines().filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned() + ".";
            continue;
        }
        let row = match line.split_once(" = ") {
            Some((key, rest)) => {
                let value = rest.split_once(" #").unwrap().0.trim();
                format!("| `{section}{key}` | `{value}` |")
            }
            None => {
                let key = line.split_whitespace().nth(1).unwrap();
                format!("| `{section}{key}` | not set |")
            }
        };
        assert!(page.contains(&row), "docs/configuration.md lacks {row}");
    }
}

#[test]
fn the_sample_cluster_is_three_views_of_one_cluster() {
    let nodes: Vec<Settings> = (1..=3)
        .map(|node| {
            let path = repository(&format!("configs/three-nodes/node{node}.toml"));
            load(&Layers { file: Some(path), ..Layers::default() }).unwrap().settings
        })
        .collect();
    for (node, id) in nodes.iter().zip(1..) {
        assert_eq!(node.node_id, id);
        assert_eq!(node.peers, nodes[0].peers);
        assert_eq!(node.cluster_name, nodes[0].cluster_name);
        assert_eq!(node.shards, nodes[0].shards);
        assert_eq!(node.raft, nodes[0].raft);
    }
    let dirs: BTreeSet<_> = nodes.iter().map(|node| &node.data_dir).collect();
    assert_eq!(dirs.len(), 3);
}

#[test]
fn each_layer_overrides_the_one_below_and_is_named_as_origin() {
    let file = file(
        "cluster_name = 'from-file'\nnode_id = 2\nlog = 'warn'\n\
         [raft]\nelection_timeout = '2s'\nheartbeat_interval = '100ms'\n\
         [peers]\n1 = '127.0.0.1:7101'\n2 = '127.0.0.1:7102'\n",
    );
    let loaded = load(&Layers {
        file: Some(file.path.clone()),
        environment: variables(&[
            ("FLOTILLA_LOG", "debug"),
            ("FLOTILLA_RAFT__ELECTION_TIMEOUT", "3s"),
            ("FLOTILLA_LIMITS__VALUE_BYTES_MAX", "1MiB"),
            ("FLOTILLA_NODE_ID", "3"),
            ("PATH", "/bin"),
        ]),
        flags: vec![("node_id", "1".to_owned()), ("split_at", "b,c\\x00".to_owned())],
    })
    .unwrap();
    let settings = &loaded.settings;
    assert_eq!(settings.cluster_name, "from-file");
    assert_eq!(settings.node_id, 1);
    assert_eq!(settings.log, "debug");
    assert_eq!(settings.raft.election_timeout, Duration::from_secs(3));
    assert_eq!(settings.raft.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(settings.limits.value_bytes_max, Size::mib(1));
    assert_eq!(settings.peers.to_string(), "1=127.0.0.1:7101,2=127.0.0.1:7102");
    assert_eq!(settings.peer_listen_addr(), "127.0.0.1:7101");
    assert_eq!(settings.split_keys().unwrap().unwrap(), [&b"b"[..], &b"c\x00"[..]]);

    let origin = |key: &str| loaded.origins[key].to_string();
    assert_eq!(origin("cluster_name"), format!("file {}", file.path.display()));
    assert_eq!(origin("raft.election_timeout"), "environment FLOTILLA_RAFT__ELECTION_TIMEOUT");
    assert_eq!(origin("node_id"), "flag --node-id");
    assert_eq!(origin("data_dir"), "default");
}

#[test]
fn what_is_printed_reads_back_as_the_same_settings() {
    let loaded = load(&Layers {
        flags: vec![
            ("peers", "1=127.0.0.1:7101,2=b:7102".to_owned()),
            ("split_at", "a\\\\b,k\\xff".to_owned()),
            ("limits.value_bytes_max", "1000001".to_owned()),
        ],
        ..Layers::default()
    })
    .unwrap();
    let printed = loaded.to_toml();
    assert_eq!(from_file(&printed).unwrap().settings, loaded.settings, "{printed}");
    assert!(printed.contains("# flag --peers"), "{printed}");
    assert!(printed.contains("# default"), "{printed}");
}

#[test]
fn the_file_may_be_named_by_a_variable_and_must_exist() {
    let file = file("node_id = 7\n");
    let path = file.path.display().to_string();
    let loaded = from_environment(&[("FLOTILLA_CONFIG", &path)]).unwrap();
    assert_eq!(loaded.settings.node_id, 7);
    assert_eq!(loaded.ignored_variables, Vec::<String>::new());

    let words = refusal(from_environment(&[("FLOTILLA_CONFIG", "/nowhere/flotilla.toml")]));
    assert!(words.contains("/nowhere/flotilla.toml"), "{words}");
}

#[test]
fn unknown_keys_in_a_file_are_errors_that_name_them_and_the_known_ones() {
    let words = refusal(from_file("node_ids = 1\n"));
    assert!(words.contains("unknown key `node_ids`") && words.contains("node_id,"), "{words}");
    assert!(words.contains("[raft]"), "{words}");

    let words = refusal(from_file("[raft]\nelection_timout = '1s'\n"));
    assert!(words.contains("unknown key `raft.election_timout`"), "{words}");
    assert!(words.contains("election_timeout, heartbeat_interval"), "{words}");

    let words = refusal(from_file("[rafts]\nelection_timeout = '1s'\n"));
    assert!(words.contains("unknown key `rafts`"), "{words}");

    let words = refusal(from_file("raft = 3\n"));
    assert!(words.contains("raft"), "{words}");

    let words = refusal(from_file("node_id = 1\nnode_id = 2\n"));
    assert!(words.contains("node_id") || words.contains("duplicate"), "{words}");

    let words = refusal(from_file("node_id = \n"));
    assert!(words.contains("line 1"), "{words}");
}

#[test]
fn unknown_variables_only_warn() {
    let loaded = from_environment(&[
        ("FLOTILLA_SERVICE_HOST", "10.0.0.1"),
        ("FLOTILLA_PORT_7001_TCP", "tcp://10.0.0.1:7001"),
        ("FLOTILLA_RAFT__ELECTION_TIMOUT", "1s"),
        ("FLOTILLA_RAFT", "1s"),
    ])
    .unwrap();
    assert_eq!(loaded.settings, Settings::default());
    assert_eq!(
        loaded.ignored_variables,
        [
            "FLOTILLA_PORT_7001_TCP",
            "FLOTILLA_RAFT",
            "FLOTILLA_RAFT__ELECTION_TIMOUT",
            "FLOTILLA_SERVICE_HOST"
        ]
    );
}

#[test]
fn bad_values_are_refused_with_the_name_of_their_place() {
    for (variable, value) in [
        ("FLOTILLA_NODE_ID", "one"),
        ("FLOTILLA_NODE_ID", "-1"),
        ("FLOTILLA_RAFT__ELECTION_TIMEOUT", "300"),
        ("FLOTILLA_STORAGE__CACHE_BYTES", "lots"),
        ("FLOTILLA_PEERS", "1=a:7101,1=b:7101"),
        ("FLOTILLA_INSECURE", "perhaps"),
    ] {
        let words = refusal(from_environment(&[(variable, value)]));
        assert!(words.contains(variable) && words.contains(value), "{words}");
    }
    for (text, place) in [
        ("node_id = 'one'\n", "node_id"),
        ("[raft]\nelection_timeout = '300'\n", "raft.election_timeout"),
        ("[storage]\ncache_bytes = 'lots'\n", "storage.cache_bytes"),
        ("[peers]\n1 = 'a:7101'\nx = 'b:7101'\n", "`x` is not a node id"),
        ("[peers]\n1 = 'a:7101'\n2 = 'a:7101'\n", "nodes 1 and 2 have the same address"),
    ] {
        let words = refusal(from_file(text));
        assert!(words.contains(place), "{words}");
    }
    let words =
        refusal(load(&Layers { flags: vec![("node_id", "one".to_owned())], ..Layers::default() }));
    assert!(words.contains("--node-id one"), "{words}");
}

#[test]
fn contradictions_are_refused_in_words_that_say_what_to_do() {
    for (text, words_wanted) in [
        ("node_id = 0\n", "node ids begin at 1"),
        ("cluster_name = 'a b'\n", "is not a name"),
        ("[raft]\nelection_timeout = '200ms'\n", "at most a fifth"),
        ("[raft]\nheartbeat_interval = '0s'\n", "must be above 0"),
        ("node_id = 4\n[peers]\n1 = '127.0.0.1:7101'\n", "does not list node_id 4"),
        ("shards = 4\nsplit_at = ['a']\n", "give one of them"),
        ("shards = 0\n", "0 shards are out of range"),
        ("shards = 100000\n", "out of range"),
        ("split_at = ['b', 'a']\n", "must ascend"),
        ("split_at = ['\\xg0']\n", "bad escape"),
        ("resp_addr = '127.0.0.1:7201'\n", "both 127.0.0.1:7201"),
        ("resp_addr = 'nonsense'\n", "is not an address"),
        ("peer_addr = '127.0.0.1:1'\n[peers]\n1 = '127.0.0.1:2'\n", "wrong door"),
        ("peer_addr = '127.0.0.1:1'\n[peers]\n1 = '127.0.0.2:1'\n", "wrong door"),
        ("[limits]\nbudget_bytes = '4MiB'\n", "shut everybody else out"),
        ("[limits]\nvalue_bytes_max = '15EiB'\n", "shut everybody else out"),
        ("[limits]\nconnections_max = 0\n", "no client could connect"),
        ("[limits]\nkey_bytes_max = 0\n", "out of range"),
        ("[storage]\nsegment_bytes = '8MiB'\n", "too small for limits.value_bytes_max"),
    ] {
        let words = refusal(from_file(text));
        assert!(words.contains(words_wanted), "{text:?} gave {words:?}");
    }

    let words = refusal(from_file("node_id = 0\nshards = 0\n"));
    assert_eq!(words.lines().count(), 2, "all contradictions are told at once: {words}");
}

#[test]
fn addresses_beyond_loopback_need_consent() {
    for (key, address) in
        [("resp_addr", "0.0.0.0:7001"), ("admin_addr", "10.1.2.3:7201"), ("peer_addr", "[::]:7101")]
    {
        let words = refusal(from_file(&format!("{key} = '{address}'\n")));
        assert!(words.contains(key) && words.contains("--insecure"), "{words}");
        let consenting = from_file(&format!("insecure = true\n{key} = '{address}'\n")).unwrap();
        assert_eq!(consenting.settings.exposed_addresses(), [(key, address)]);
    }
    for address in ["127.0.0.1:7001", "127.8.8.8:7001", "[::1]:7001", "localhost:7001"] {
        from_file(&format!("resp_addr = '{address}'\n")).unwrap();
    }
    // In a container: listens everywhere, is known by name.
    let container = "insecure = true\npeer_addr = '0.0.0.0:7101'\n[peers]\n1 = 'flotilla-0:7101'\n";
    from_file(container).unwrap();
    // A peer listed by a name that is not loopback is listened on under that name.
    let words = refusal(from_file("[peers]\n1 = 'flotilla-0:7101'\n"));
    assert!(words.contains("peer_addr flotilla-0:7101"), "{words}");
}
