//! Golden scripts: protocol transcripts that a reader can hold against the paper.
//!
//! A script is a list of blocks: comments and commands, a line `---`, and what the cluster did
//! in answer. `UPDATE=1 cargo test -p flotilla-raft --test scripts` rewrites the answers; read the
//! difference before keeping it. Commands are described in `testscripts/README.md`.

mod cluster;
mod show;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use cluster::Cluster;

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("the scripts are part of the repository")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    paths
}

/// Runs the commands of a script and returns it with the answers they get.
fn replay(name: &str, script: &str) -> String {
    let mut cluster = Cluster::default();
    let mut result = String::new();
    let mut lines = script.lines().enumerate().peekable();
    let mut pending = false;
    while let Some((number, line)) = lines.next() {
        if line == "---" {
            result += "---\n";
            result += &cluster.take_transcript();
            while lines.next_if(|(_, line)| !line.is_empty()).is_some() {}
            pending = false;
            continue;
        }
        result += line;
        result.push('\n');
        let command = line.split('#').next().unwrap_or_default().trim();
        if !command.is_empty() {
            pending = true;
            if let Err(problem) = cluster.command(command) {
                panic!("{name}:{}: {problem}", number + 1);
            }
        }
    }
    assert!(!pending, "{name}: the last commands have no answer; add a line ---");
    result
}

#[test]
fn scripts_replay() {
    let mut stale = Vec::new();
    let paths = scripts();
    assert!(!paths.is_empty(), "no scripts found");
    for path in &paths {
        let name = path.file_name().expect("a file").to_string_lossy();
        let expected = fs::read_to_string(path).expect("a readable script");
        let actual = replay(&name, &expected);
        if actual == expected {
            continue;
        }
        if env::var_os("UPDATE").is_some() {
            fs::write(path, actual).expect("a writable script");
        } else {
            let at = actual.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count();
            eprintln!(
                "{name}:{}: expected {:?}, got {:?}",
                at + 1,
                expected.lines().nth(at).unwrap_or_default(),
                actual.lines().nth(at).unwrap_or_default()
            );
            stale.push(name);
        }
    }
    assert!(stale.is_empty(), "{stale:?} changed: rerun with UPDATE=1, then read the difference");
    println!("{} scripts replayed", paths.len());
}
