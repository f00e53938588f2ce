//! Single bytes of a stopped node's journal damaged, one at a time: an engine without other replicas
//! either serves everything as it was, or names the shards that lost something and serves all others.
//! A sample, as each takes a start of an engine or three; `FLIPS=all` takes each byte that says
//! something.

use bytes::Bytes;
use flotilla::{Builder, Engine, Error};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Where the second and the third shard begin.
const BOUNDARIES: [&str; 2] = ["k-the-lower-boundary", "t-the-upper-boundary"];

/// Bytes that are damaged in the normal run, about.
const SAMPLE: usize = 24;

type Rows = BTreeMap<&'static str, Option<&'static str>>;

fn builder(directory: &Path) -> Builder {
    Engine::builder(directory)
        .split_at(BOUNDARIES)
        .segment_bytes(12 << 20)
        .disk_reserve_bytes(1 << 20)
        .checkpoint_age(Duration::from_secs(3600))
        .request_timeout(Duration::from_secs(20))
}

/// What every key may ever have held, the last one last.
const HISTORY: [(&str, &[Option<&str>]); 7] = [
    ("a-counter", &[None, Some("first of a"), Some("second of a")]),
    ("b-removed", &[None, Some("soon removed"), None]),
    ("m-row", &[None, Some("a row of the middle")]),
    ("m-second", &[None, Some("another row of the middle")]),
    ("z-counter", &[None, Some("first of z"), Some("second of z"), Some("third of z")]),
    ("z-long", &[None, Some("a value that is a little longer than all others are")]),
    ("z-absent", &[None]),
];

fn last() -> Rows {
    HISTORY.into_iter().map(|(key, values)| (key, *values.last().unwrap())).collect()
}

/// Which shard a key is in, by its number.
fn shard_of(key: &str) -> usize {
    BOUNDARIES.iter().filter(|boundary| key >= **boundary).count()
}

/// Copies a data directory; of files that are long only what is not zero at their end.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
            continue;
        }
        let content = fs::read(entry.path()).unwrap();
        let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        fs::write(&target, &content[..used]).unwrap();
        File::options().write(true).open(&target).unwrap().set_len(content.len() as u64).unwrap();
    }
}

/// A node that did all of the history and was killed: nothing was checkpointed, all is in the journal.
///
/// The last batch of a killed node may be torn, and is cut off without a word if it is damaged: only a
/// later one proves it. So one comes after the history, of which nothing is expected.
async fn written() -> TempDir {
    let (live, dead) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let db = builder(live.path()).start().await.unwrap();
    let rounds = HISTORY.iter().map(|(_, values)| values.len()).max().unwrap();
    for round in 1..rounds {
        for (key, values) in HISTORY {
            match values.get(round) {
                Some(Some(value)) => drop(db.put(key, *value).await.unwrap()),
                Some(None) => drop(db.delete(key).await.unwrap()),
                None => {}
            }
        }
    }
    db.put("z-not-proven", "proves what came before").await.unwrap();
    copy(live.path(), dead.path());
    db.shutdown().await.unwrap();
    dead
}

/// The one file that has been written to.
fn segment(directory: &Path) -> PathBuf {
    fs::read_dir(directory.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "segment"))
        .min()
        .unwrap()
}

/// Starts an engine without other replicas and looks at all keys. `lost`: shards of which something
/// is lost; they may answer with what was true once, or not at all.
async fn look(build: Builder, lost: &[usize], place: &str) {
    let db = build.request_timeout(Duration::from_millis(300)).start().await.unwrap();
    for (key, values) in HISTORY {
        let is_lost = lost.contains(&shard_of(key));
        match db.get(key).await {
            Ok(found) => {
                let is = |value: &Option<&str>| found.as_deref() == value.map(str::as_bytes);
                let is_right = values.last().is_some_and(is);
                assert!(
                    is_right || is_lost && values.iter().any(is),
                    "{place}: {key} is {found:?}"
                );
            }
            Err(error) => assert!(is_lost, "{place}: {key}: {error}"),
        }
    }
    for key in ["a-new", "m-new", "z-new"].into_iter().filter(|key| !lost.contains(&shard_of(key)))
    {
        db.put(key, "new").await.unwrap();
        assert_eq!(db.get(key).await, Ok(Some(Bytes::from("new"))), "{place}: {key}");
    }
    db.shutdown().await.unwrap();
}

/// The shards that an error names, by their numbers.
fn named(losses: &[String], place: &str) -> Vec<usize> {
    let number = |loss: &String| match (loss.contains(BOUNDARIES[0]), loss.contains(BOUNDARIES[1]))
    {
        (true, false) => 0,
        (true, true) => 1,
        (false, true) => 2,
        (false, false) => panic!("{place}: which shard is that? {loss}"),
    };
    losses.iter().map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_byte_harms_only_shards_that_are_named() {
    let pristine = written().await;
    let path = segment(pristine.path());
    let content = fs::read(&path).unwrap();
    let places: Vec<usize> = (0..content.len()).filter(|at| content[*at] != 0).collect();
    let is_complete = std::env::var_os("FLIPS").is_some_and(|flips| flips == "all");
    let step = if is_complete { 1 } else { places.len() / SAMPLE };
    let (mut whole, mut harmed) = (0, 0);
    for at in places.iter().step_by(step) {
        let place = format!("byte {at}");
        let damaged = tempfile::tempdir().unwrap();
        copy(pristine.path(), damaged.path());
        let path = segment(damaged.path());
        let mut content = fs::read(&path).unwrap();
        content[*at] ^= 0x10;
        fs::write(&path, content).unwrap();
        let lost = match builder(damaged.path()).start().await {
            Ok(db) => {
                for (key, value) in last() {
                    let found = db.get(key).await;
                    assert_eq!(found, Ok(value.map(Bytes::from)), "{place}: {key}");
                }
                db.shutdown().await.unwrap();
                look(builder(damaged.path()), &[], &place).await;
                whole += 1;
                continue;
            }
            Err(Error::DataLost { losses }) => named(&losses, &place),
            Err(error) => panic!("{place}: {error}"),
        };
        harmed += 1;
        for accept in [true, false] {
            look(builder(damaged.path()).accept_data_loss(accept), &lost, &place).await;
        }
    }
    println!("{whole} starts with everything, {harmed} with losses that were named");
    assert!(whole > 0 && harmed > 0, "{whole} whole, {harmed} harmed");
}
