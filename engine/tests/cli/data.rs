//! `flotilla get|put|delete|scan` against a running node.

use std::io::Write;
use std::process::Stdio;

use crate::process::{Node, flotilla, run, run_with};
use rustix::process::Signal;

#[test]
fn keys_and_values_of_a_running_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::serve(dir.path(), &["--shards", "4"]);
    node.await_ready();
    let call = |words: &[&str]| {
        let mut words = words.to_vec();
        words.extend(["--addr", &node.resp]);
        run_with(&words)
    };
    for (key, value) in [("fruit/apple", "red"), ("fruit/plum", "blue"), ("a\\x00b", "\\xff\\\\")] {
        let ended = call(&["put", key, value]);
        assert_eq!((ended.code, &ended.stdout[..]), (Some(0), ""), "{ended:?}");
    }
    let apple = call(&["get", "fruit/apple"]);
    assert_eq!((apple.code, apple.stdout.trim_end()), (Some(0), "red"));
    let none = call(&["get", "fruit/pear"]);
    assert_eq!((none.code, &none.stdout[..]), (Some(1), ""));
    assert!(none.stderr.contains("holds nothing"), "{}", none.stderr);

    let all = call(&["scan"]);
    assert_eq!(all.stdout, "a\\x00b\t\\xff\\\\\nfruit/apple\tred\nfruit/plum\tblue\n", "{all:?}");
    let some = call(&["scan", "--prefix", "fruit/", "--limit", "1"]);
    assert_eq!(some.stdout, "fruit/apple\tred\n");
    let literal = call(&["scan", "--prefix", "fruit*"]);
    assert_eq!((literal.code, &literal.stdout[..]), (Some(0), ""), "a prefix is no pattern");

    let ended = call(&["put", "fruit/kiwi", "green", "--ttl", "1h"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ttl = node.redis("PTTL fruit/kiwi");
    let left: u64 = ttl.trim().trim_start_matches(':').parse().unwrap_or_else(|_| panic!("{ttl}"));
    assert!((3_000_000..=3_600_000).contains(&left), "{left}");

    let gone = call(&["delete", "fruit/apple", "fruit/pear", "a\\x00b"]);
    assert_eq!((gone.code, gone.stdout.trim()), (Some(0), "2"));
    assert_eq!(node.process.end_by(Signal::TERM).code, Some(0));
}

#[test]
fn a_value_passes_through_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::serve(dir.path(), &[]);
    node.await_ready();
    let value: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let mut put = flotilla(&["put", "blob", "--addr", &node.resp]);
    let mut child = put.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&value).unwrap();
    assert!(child.wait().unwrap().success());
    let got = flotilla(&["get", "blob", "--addr", &node.resp]).output().unwrap();
    assert!(got.status.success());
    assert!(got.stdout == value, "{} bytes came back", got.stdout.len());
}

#[test]
fn nobody_there_is_1_and_a_bad_command_line_is_2() {
    let [address] = crate::process::free_addresses();
    let ended = run(&mut flotilla(&["get", "key", "--addr", &address]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(&address), "{}", ended.stderr);
    for arguments in [
        &["get"][..],
        &["get", "\\xzz"],
        &["put", "key", "value", "--ttl", "soon"],
        &["put", "key", "value", "--ttl", "0s"],
        &["put", "key", "bad\\escape"],
        &["delete"],
        &["scan", "--prefix", "\\q"],
        &["scan", "--limit", "many"],
        &["get", "key", "--timeout", "0s"],
    ] {
        let ended = run_with(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
    }
}
