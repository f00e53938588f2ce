//! Traces for the specification: every line has what the validation reads, and together they make
//! sense. While a trace is made each turn is compared with the specification's actions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use flotilla_bench::spec_trace::{Line, trace_script, trace_seed};
use serde_json::Value;

/// Checks a trace as text, knowing nothing of how it came about. Returns how often each event
/// happened.
fn check(lines: &[Line], what: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut sent: BTreeMap<String, usize> = BTreeMap::new();
    let mut terms: BTreeMap<String, u64> = BTreeMap::new();
    let mut leaders: BTreeMap<u64, String> = BTreeMap::new();
    let mut begun = BTreeSet::new();
    let mut number = 0;
    for line in lines {
        let text = serde_json::to_string(line).unwrap();
        // The scripts of the validation sort by what stands behind the second colon.
        assert!(text.starts_with(r#"{"level":"debug","ts":"#), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["tag"], "trace", "{what}");
        let ts = value["ts"].as_u64().unwrap();
        assert!(ts > number && ts.to_string().len() == 10, "{what}: global order");
        number = ts;
        let event = &value["event"];
        let name = event["name"].as_str().unwrap().to_owned();
        let nid = event["nid"].as_str().unwrap().to_owned();
        let term = event["state"]["term"].as_u64().unwrap();
        assert!(event["state"]["vote"].is_string() && event["state"]["commit"].is_u64());
        let commit = event["state"]["commit"].as_u64().unwrap();
        assert!(commit <= event["log"].as_u64().unwrap(), "{what}: {text}");
        let role = event["role"].as_str().unwrap();
        assert!(["StateFollower", "StateCandidate", "StateLeader"].contains(&role), "{text}");
        let voters = event["conf"][0].as_array().unwrap();
        assert!(
            voters.iter().any(|voter| *voter == nid) && event["conf"][1] == Value::Array(vec![])
        );
        assert!(begun.contains(&nid) || name == "InitState", "{what}: {nid} begins with {name}");
        begun.insert(nid.clone());
        let before = terms.insert(nid.clone(), term).unwrap_or(0);
        assert!(term >= before, "{what}: the term of {nid} goes back: {text}");
        if role == "StateLeader" {
            let leader = leaders.entry(term).or_insert_with(|| nid.clone());
            assert_eq!(*leader, nid, "{what}: two leaders in a term");
        }
        let is_send = name.starts_with("Send");
        let is_receive = name.starts_with("Receive");
        assert_eq!(event["msg"].is_object(), is_send || is_receive, "{text}");
        if let Some(message) = event["msg"].as_object() {
            let fields: Vec<&str> = message.keys().map(String::as_str).collect();
            let mut wanted = [
                "type",
                "term",
                "from",
                "to",
                "entries",
                "logTerm",
                "index",
                "commit",
                "vote",
                "reject",
                "rejectHint",
            ];
            wanted.sort_unstable();
            assert_eq!(fields, wanted);
            assert_eq!(message[if is_send { "from" } else { "to" }], nid, "{text}");
            let kind = name.trim_start_matches("Send").trim_start_matches("Receive");
            let types = match kind {
                "AppendEntriesRequest" => "MsgApp",
                "AppendEntriesResponse" => "MsgAppResp",
                "RequestVoteRequest" => "MsgVote",
                "RequestVoteResponse" => "MsgVoteResp",
                other => panic!("{what}: {other}"),
            };
            assert_eq!(message["type"], types);
            let count = sent.entry(event["msg"].to_string()).or_default();
            if is_send {
                *count += 1;
            } else {
                assert!(*count > 0, "{what}: received what nobody sent: {text}");
                *count -= 1;
            }
        }
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[test]
fn random_lives_are_lives_of_the_specification() {
    let mut total: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..60 {
        let voters = [3, 5, 1, 2][seed as usize % 4];
        let lines = trace_seed(seed, voters, 400).unwrap_or_else(|problem| panic!("{problem}"));
        for (name, count) in check(&lines, &format!("seed {seed}")) {
            *total.entry(name).or_default() += count;
        }
    }
    println!("{total:?}");
    let names = [
        "InitState",
        "BecomeFollower",
        "BecomeCandidate",
        "BecomeLeader",
        "Commit",
        "Replicate",
        "Ready",
        "SendAppendEntriesRequest",
        "ReceiveAppendEntriesRequest",
        "SendAppendEntriesResponse",
        "ReceiveAppendEntriesResponse",
        "SendRequestVoteRequest",
        "ReceiveRequestVoteRequest",
        "SendRequestVoteResponse",
        "ReceiveRequestVoteResponse",
    ];
    for name in names {
        assert!(total.get(name).is_some_and(|count| *count > 50), "{name}: {total:?}");
    }
    let again = |seed| serde_json::to_string(&trace_seed(seed, 3, 200).unwrap()).unwrap();
    assert_eq!(again(7), again(7), "the same every time");
}

#[test]
fn golden_scripts_that_the_specification_can_follow_are_traced() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shard/raft/testscripts");
    let (mut whole, mut total) = (Vec::new(), 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let (lines, ended_by) = trace_script(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|problem| panic!("{name}: {problem}"));
        check(&lines, &name);
        total += lines.len();
        if ended_by.is_none() {
            whole.push(name);
        }
    }
    whole.sort();
    println!("{total} events; to their ends: {whole:?}");
    assert!(whole.len() >= 2 && total > 500, "{total}, {whole:?}");
}
