//! Damaged directories: what a node serves, how it gets its rows back, and what it names when
//! nobody has them.

use bytes::Bytes;
use flotilla::server::resp::RespServer;
use flotilla::{Builder, Engine, Error};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

/// Between three shards; long enough to be found in a file, where it stands in the records of the
/// two that meet there.
const LOW: &str = "k-the-lower-boundary";
const HIGH: &str = "t-the-upper-boundary";

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn builder(directory: &TempDir) -> Builder {
    Engine::builder(directory.path())
        .split_at([LOW, HIGH])
        .segment_bytes(12 << 20)
        .disk_reserve_bytes(1 << 20)
        .request_timeout(Duration::from_secs(10))
}

/// Keys in all three shards.
fn keys() -> impl Iterator<Item = String> {
    ["a", "m", "z"].into_iter().flat_map(|start| (0..50).map(move |n| format!("{start}{n}")))
}

fn value(key: &str) -> String {
    format!("the value of <{key}>")
}

async fn fill(db: &Engine) {
    for key in keys() {
        db.put(&key, value(&key)).await.unwrap();
    }
}

async fn assert_served(db: &Engine) {
    for key in keys() {
        assert_eq!(db.get(&key).await, Ok(Some(Bytes::from(value(&key)))), "{key}");
    }
}

/// Waits until every replica has its rows.
async fn rebuilt(db: &Engine) {
    let is_whole = || {
        db.statuses().iter().all(|node| {
            node.shards.iter().all(|shard| !shard.needs_snapshot && shard.leader.is_some())
        })
    };
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let wait = async {
        while !is_whole() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the rows come back");
}

/// Damages every copy of `needle` in a file. Returns how many there were.
fn damage(file: &Path, needle: &[u8]) -> usize {
    let mut content = fs::read(file).unwrap();
    let mut count = 0;
    for at in 0..content.len().saturating_sub(needle.len()) {
        if content[at..].starts_with(needle) {
            content[at + needle.len() / 2] ^= 0x20;
            count += 1;
        }
    }
    fs::write(file, content).unwrap();
    count
}

fn store_file(directory: &Path) -> PathBuf {
    directory.join("store/store.redb")
}

/// A cluster, or one node, that was stopped after its logs were cut: what was written is in the
/// rows alone. Returns the nodes' directories.
async fn written(directory: &TempDir, replicas: u64) -> Vec<PathBuf> {
    let nodes: Vec<PathBuf> = match replicas {
        1 => vec![directory.path().to_owned()],
        _ => (1..=replicas).map(|n| directory.path().join(format!("node-{n}"))).collect(),
    };
    let is_cut = |node: &PathBuf| {
        let found: serde_json::Value =
            serde_json::from_slice(&inspect("journal", node).stdout).unwrap();
        let groups = found["groups"].as_array().unwrap();
        groups.iter().all(|group| group["base_index"].as_u64() > Some(0))
    };
    for _ in 0..20 {
        let build = builder(directory).replicas(replicas).log_retain_bytes(1);
        let db = build.checkpoint_age(Duration::from_millis(10)).start().await.unwrap();
        fill(&db).await;
        db.shutdown().await.unwrap();
        if nodes.iter().all(is_cut) {
            return nodes;
        }
    }
    panic!("the logs are never cut");
}

fn inspect(part: &str, directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flotilla"))
        .args(["inspect", part, "--json"])
        .arg(directory)
        .output()
        .expect("the binary runs")
}

#[tokio::test]
async fn a_store_file_that_cannot_be_read_is_rebuilt_from_the_others() {
    let directory = directory();
    let node = written(&directory, 3).await.swap_remove(0);
    let mut content = fs::read(store_file(&node)).unwrap();
    content[..64].fill(0xaa);
    fs::write(store_file(&node), content).unwrap();
    assert_eq!(inspect("store", &node).status.code(), Some(1));

    let db = builder(&directory).replicas(3).start().await.unwrap();
    assert_served(&db).await;
    rebuilt(&db).await;
    db.put("a0", "new").await.unwrap();
    assert_eq!(db.get("a0").await, Ok(Some(Bytes::from("new"))));
    db.shutdown().await.unwrap();
    assert!(node.join("store/store.redb.damaged-1").exists(), "the old file is kept");
    assert_eq!(inspect("store", &node).status.code(), Some(0));
    let rebuilt: serde_json::Value =
        serde_json::from_slice(&inspect("store", &node).stdout).unwrap();
    let rows = rebuilt["shards"].as_array().unwrap().iter();
    assert_eq!(rows.map(|shard| shard["rows_read"].as_u64().unwrap()).sum::<u64>(), 150);
}

#[tokio::test]
async fn records_that_cannot_be_read_are_rebuilt_from_the_others() {
    let directory = directory();
    let node = written(&directory, 3).await.swap_remove(1);
    assert!(damage(&store_file(&node), LOW.as_bytes()) > 0);
    assert_eq!(inspect("store", &node).status.code(), Some(1));

    let db = builder(&directory).replicas(3).start().await.unwrap();
    assert_served(&db).await;
    rebuilt(&db).await;
    db.shutdown().await.unwrap();
    assert_eq!(inspect("store", &node).status.code(), Some(0));
}

#[tokio::test]
async fn a_damaged_row_is_never_served() {
    let directory = directory();
    let node = written(&directory, 3).await.swap_remove(2);
    assert!(damage(&store_file(&node), value("m7").as_bytes()) > 0);
    let found = inspect("store", &node);
    assert_eq!(found.status.code(), Some(1));

    let db = builder(&directory).replicas(3).start().await.unwrap();
    assert_served(&db).await;
    rebuilt(&db).await;
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_damaged_journal_silences_whom_it_hits_and_nobody_else() {
    let directory = directory();
    let db = builder(&directory).replicas(3).start().await.unwrap();
    fill(&db).await;
    db.shutdown().await.unwrap();
    let node = directory.path().join("node-1");
    assert_eq!(inspect("journal", &node).status.code(), Some(0));
    let segment = fs::read_dir(node.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "segment"))
        .min()
        .unwrap();
    let mut content = fs::read(&segment).unwrap();
    content[4096..32 << 10].fill(0xaa);
    fs::write(&segment, content).unwrap();
    assert_eq!(inspect("journal", &node).status.code(), Some(1));

    let db = builder(&directory).replicas(3).start().await.unwrap();
    assert_served(&db).await;
    let statuses = db.statuses();
    assert!(statuses[0].shards.iter().any(|shard| shard.suspect), "{statuses:?}");
    assert!(statuses[1..].iter().all(|node| node.shards.iter().all(|shard| !shard.suspect)));
    fill(&db).await;
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_single_replica_names_what_it_lost_and_serves_the_rest_when_told_to() {
    let directory = directory();
    written(&directory, 1).await;
    assert!(damage(&store_file(directory.path()), LOW.as_bytes()) > 0);

    for _ in 0..2 {
        let Err(Error::DataLost { losses }) = builder(&directory).start().await else {
            panic!("it starts without two of its shards");
        };
        assert_eq!(losses.len(), 2, "{losses:?}");
        assert!(losses[0].contains(&format!("below `{LOW}`")), "{losses:?}");
        assert!(losses[1].contains(&format!("from `{LOW}` to below `{HIGH}`")), "{losses:?}");
    }
    for accept in [true, false] {
        let build = builder(&directory).accept_data_loss(accept);
        let db = build.request_timeout(Duration::from_millis(500)).start().await.unwrap();
        assert_eq!(db.get("z7").await, Ok(Some(Bytes::from(value("z7")))));
        db.put("z7", value("z7")).await.unwrap();
        for key in ["a7", "m7"] {
            let refused = db.get(key).await.unwrap_err();
            assert!(!refused.maybe_committed(), "{refused}");
            let refused = db.put(key, "new").await.unwrap_err();
            assert!(!refused.maybe_committed(), "{refused}");
        }
        db.shutdown().await.unwrap();
    }
    // Another loss is not covered.
    assert!(damage(&store_file(directory.path()), HIGH.as_bytes()) > 0);
    let Err(Error::DataLost { losses }) = builder(&directory).start().await else {
        panic!("it starts without its last shard");
    };
    assert_eq!(losses.len(), 1, "{losses:?}");
    assert!(losses[0].contains(&format!("from `{HIGH}`")), "{losses:?}");
}

/// A Redis client's question and the line that answers it.
fn asked(address: SocketAddr, command: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

fn served(db: &Engine) -> RespServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    RespServer::start(db.clone(), listener, 100).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_rows_of_a_single_replica_are_told_and_healed_by_writing_them() {
    let directory = directory();
    written(&directory, 1).await;
    for key in ["a7", "m7"] {
        assert!(damage(&store_file(directory.path()), value(key).as_bytes()) > 0);
    }
    assert_eq!(inspect("store", directory.path()).status.code(), Some(1));

    // A damaged row is no reason to refuse to start, and none to stop serving the others.
    let db = builder(&directory).start().await.unwrap();
    let server = served(&db);
    let ask = |command: &str| asked(server.address(), command);
    for key in ["a7", "m7"] {
        assert!(matches!(db.get(key).await, Err(Error::Corrupt(_))));
        for command in [format!("GET {key}"), format!("INCR {key}"), format!("DEL {key}")] {
            let answer = ask(&command);
            let told = answer.contains("damaged") || answer.contains("corrupt");
            assert!(answer.starts_with("-ERR ") && told, "{answer}");
        }
        assert!(matches!(db.get(key).await, Err(Error::Corrupt(_))), "refused, not applied");
    }
    assert_eq!(ask("EXISTS a8"), ":1");
    // A plain SET needs no old row.
    assert_eq!(ask("SET a7 whole"), "+OK");
    assert_eq!(ask("STRLEN a7"), ":5");
    db.put("m7", value("m7")).await.unwrap();
    db.put("a7", value("a7")).await.unwrap();
    assert_served(&db).await;
    server.shutdown().await;
    db.shutdown().await.unwrap();

    let db = builder(&directory).start().await.unwrap();
    assert_served(&db).await;
    db.shutdown().await.unwrap();
    assert_eq!(inspect("store", directory.path()).status.code(), Some(0), "healed on the disk");
}

/// An empty file looks like that of a new node, which this is not: nothing is written to it.
#[tokio::test]
async fn an_empty_store_of_a_node_that_had_one_is_a_damaged_one() {
    let directory = directory();
    written(&directory, 1).await;
    let file = store_file(directory.path());
    let rows = fs::read(&file).unwrap();
    fs::write(&file, []).unwrap();
    for _ in 0..2 {
        let Err(refused) = builder(&directory).start().await.map(drop) else {
            panic!("it starts without its rows");
        };
        let words = refused.to_string();
        assert!(words.contains("no tables") && words.contains(LOW), "{words}");
    }
    fs::write(&file, rows).unwrap();
    let db = builder(&directory).start().await.unwrap();
    assert_served(&db).await;
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn rows_that_the_log_still_holds_are_made_again() {
    let directory = directory();
    // Nothing is checkpointed before the copy is taken, so nothing of the log is gone.
    let db = builder(&directory).checkpoint_age(Duration::from_secs(3600)).start().await.unwrap();
    fill(&db).await;
    let copy = self::directory();
    for part in ["", "journal", "store"] {
        fs::create_dir_all(copy.path().join(part)).unwrap();
        for entry in fs::read_dir(directory.path().join(part)).unwrap() {
            let from = entry.unwrap().path();
            if from.is_file() {
                let to = copy.path().join(part).join(from.file_name().unwrap());
                fs::copy(from, to).unwrap();
            }
        }
    }
    db.shutdown().await.unwrap();
    fs::write(store_file(copy.path()), [0xaa; 8192]).unwrap();
    let db = builder(&copy).start().await.unwrap();
    assert_served(&db).await;
    db.shutdown().await.unwrap();
}

#[test]
fn an_inspection_of_nothing_is_a_wrong_command_line() {
    let directory = directory();
    for part in ["journal", "store"] {
        assert_eq!(inspect(part, directory.path()).status.code(), Some(2));
        assert_eq!(inspect(part, &directory.path().join("missing")).status.code(), Some(2));
    }
}

#[tokio::test]
async fn a_running_node_is_not_looked_into() {
    let directory = directory();
    let db = builder(&directory).start().await.unwrap();
    for part in ["journal", "store"] {
        let refused = inspect(part, directory.path());
        assert_eq!(refused.status.code(), Some(2), "it did not look, so it found no damage");
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        let process = format!("process {} holds its lock", std::process::id());
        assert!(words.contains("is in use") && words.contains(&process), "{words}");
        assert!(words.contains("stop the node first"), "{words}");
    }
    db.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_loss_is_answered_as_corrupt_and_the_rest_served() {
    let directory = directory();
    written(&directory, 1).await;
    assert!(damage(&store_file(directory.path()), LOW.as_bytes()) > 0);
    let Err(refused) = builder(&directory).start().await.map(drop) else {
        panic!("it starts without two of its shards");
    };
    let words = refused.to_string();
    assert!(words.contains(LOW) && words.contains("accept_data_loss"), "{words}");
    for accept in [true, false] {
        let build = builder(&directory).accept_data_loss(accept);
        let db = build.request_timeout(Duration::from_secs(5)).start().await.unwrap();
        let server = served(&db);
        for command in ["GET a7", "SET a7 new", "DEL m7", "INCR m7"] {
            let answer = asked(server.address(), command);
            assert!(answer.starts_with("-ERR corrupt data"), "{command}: {answer}");
        }
        assert_eq!(asked(server.address(), "SET z7 new"), "+OK");
        assert_eq!(asked(server.address(), "STRLEN z7"), ":3");
        server.shutdown().await;
        db.shutdown().await.unwrap();
    }
}
