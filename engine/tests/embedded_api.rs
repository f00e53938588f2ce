//! What the engine offers beyond plain reads and writes: expiry, updates, ranges, sessions, weaker
//! reads, watching, and a clean end.

use flotilla::{
    Bytes, Cas, Consistency, Engine, Entry, Error, Expect, PutOptions, ReadOptions, SessionName,
    WriteName,
};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

async fn open(directory: &TempDir) -> Engine {
    Engine::builder(directory.path()).split_at(["h", "p"]).start().await.unwrap()
}

async fn entry(db: &Engine, key: &str) -> Option<Entry> {
    db.get_with(key, &ReadOptions::new()).await.unwrap()
}

#[tokio::test]
async fn values_expire_stay_and_keep_their_time() {
    let directory = directory();
    let db = open(&directory).await;
    let before = SystemTime::now();
    db.put_with("a", "1", &PutOptions::new().expires_in(HOUR)).await.unwrap();
    let expires_at = entry(&db, "a").await.unwrap().expires_at.unwrap();
    // Stamps count in milliseconds.
    assert!(expires_at + Duration::from_millis(1) >= before + HOUR);
    assert!(expires_at <= SystemTime::now() + HOUR);

    db.put_with("a", "2", &PutOptions::new().keep_expiry()).await.unwrap();
    assert_eq!(entry(&db, "a").await.unwrap().expires_at, Some(expires_at));
    let row = db.scan_prefix("a").next().await.unwrap().unwrap();
    assert_eq!(row.expires_at, Some(expires_at));
    db.put("a", "3").await.unwrap();
    assert_eq!(entry(&db, "a").await.unwrap().expires_at, None, "a plain put is for ever");

    assert!(db.expire("a", HOUR).await.unwrap());
    assert!(db.persist("a").await.unwrap());
    assert!(!db.persist("a").await.unwrap());
    assert!(!db.expire("nothing", HOUR).await.unwrap());

    let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    assert!(db.expire_at("a", whole).await.unwrap());
    assert_eq!(entry(&db, "a").await.unwrap().expires_at, Some(whole));
    assert!(db.expire_at("a", SystemTime::UNIX_EPOCH).await.unwrap());
    assert_eq!(db.get("a").await.unwrap(), None, "a time that has passed");

    let brief = PutOptions::new().expires_in(Duration::from_millis(50));
    db.put_with("b", "1", &brief).await.unwrap();
    // It goes by itself, and never comes back.
    while db.get("b").await.unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(db.get_many(["b"]).await.unwrap(), [None]);
    assert!(db.scan_prefix("b").next().await.is_none());
    assert!(db.put_with("b", "2", &PutOptions::new().if_absent()).await.unwrap().is_some());
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn many_keys_and_whole_ranges() {
    let directory = directory();
    let db = open(&directory).await;
    for key in ["a", "g", "h", "m", "p", "z"] {
        db.put(key, key.to_uppercase()).await.unwrap();
    }
    let found = db.get_many(["z", "nothing", "a", "m", "a"]).await.unwrap();
    let found: Vec<Option<&[u8]>> = found.iter().map(Option::as_deref).collect();
    assert_eq!(found, [Some(&b"Z"[..]), None, Some(b"A"), Some(b"M"), Some(b"A")]);
    assert_eq!(db.get_many(Vec::<&str>::new()).await.unwrap(), []);
    assert!(matches!(db.get_many(["a", ""]).await, Err(Error::InvalidKey { .. })));

    db.delete_range(b"g".to_vec()..b"p".to_vec()).await.unwrap();
    let left = db.get_many(["a", "g", "h", "m", "p", "z"]).await.unwrap();
    let left: Vec<bool> = left.iter().map(Option::is_some).collect();
    assert_eq!(left, [true, false, false, false, true, true]);
    db.delete_range(b"z".to_vec()..b"a".to_vec()).await.unwrap();
    db.delete_range(..).await.unwrap();
    assert!(db.scan(..).next().await.is_none());
    db.shutdown().await.unwrap();
}

/// One more than what is there.
fn add(entry: Option<&Entry>) -> Option<Bytes> {
    let text = entry.map_or("0".into(), |entry| String::from_utf8_lossy(&entry.value));
    Some(Bytes::from((text.parse::<u64>().unwrap() + 1).to_string()))
}

#[tokio::test]
async fn updates_from_many_lose_nothing() {
    let directory = directory();
    let db = open(&directory).await;
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    db.read_modify_write("count", add).await.unwrap().unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(db.get("count").await.unwrap().as_deref(), Some(&b"100"[..]));

    db.expire("count", HOUR).await.unwrap();
    db.read_modify_write("count", add).await.unwrap();
    assert!(entry(&db, "count").await.unwrap().expires_at.is_some(), "an expiry stays");
    assert_eq!(db.read_modify_write("count", |_| None).await.unwrap(), None);
    assert_eq!(db.get("count").await.unwrap(), None);
    assert_eq!(db.read_modify_write("count", |_| None).await.unwrap(), None);

    // Somebody writes in between every time.
    let blocking = db.blocking();
    let mut calls = 0;
    let fought_over = db.read_modify_write("count", |_| {
        calls += 1;
        blocking.put("count", calls.to_string()).unwrap();
        Some("mine".into())
    });
    let error = fought_over.await.unwrap_err();
    assert_eq!(error, Error::Conflict { attempts: 64 });
    assert!(error.is_retryable() && !error.maybe_committed());
    assert_eq!(db.get("count").await.unwrap().as_deref(), Some(&b"64"[..]));
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_named_write_has_one_effect_over_a_restart() {
    let directory = directory();
    let db = open(&directory).await;
    let session = SessionName::new();
    let name = |sequence| WriteName { sequence, lowest_unacknowledged: 1 };
    let version = db.session(session).put(name(1), "a", "first").await.unwrap();
    assert!(db.session(session).delete(name(2), "a").await.unwrap());
    let named = db.session(session);
    let swap = named.compare_and_swap(name(3), "a", Expect::Absent, Some("swapped".into()));
    let Cas::Swapped { version: swapped } = swap.await.unwrap() else { panic!("it was absent") };
    db.shutdown().await.unwrap();

    let db = open(&directory).await;
    db.put("a", "later").await.unwrap();
    let again = db.session(session);
    assert_eq!(again.put(name(1), "a", "first").await.unwrap(), version);
    assert!(again.delete(name(2), "a").await.unwrap(), "the first answer");
    let swap = again.compare_and_swap(name(3), "a", Expect::Absent, Some("swapped".into()));
    assert_eq!(swap.await.unwrap(), Cas::Swapped { version: swapped });
    assert_eq!(db.get("a").await.unwrap().as_deref(), Some(&b"later"[..]), "no further effect");

    let beyond = WriteName { sequence: 4, lowest_unacknowledged: 4 };
    again.put(beyond, "a", "newest").await.unwrap();
    let forgotten = again.put(name(1), "a", "first").await.unwrap_err();
    assert!(matches!(forgotten, Error::Forgotten { .. }), "{forgotten}");
    assert!(forgotten.maybe_committed() && !forgotten.is_retryable());
    assert_eq!(db.get("a").await.unwrap().as_deref(), Some(&b"newest"[..]));
    for bad in [name(0), WriteName { sequence: 5, lowest_unacknowledged: 6 }] {
        let error = again.put(bad, "a", "never").await.unwrap_err();
        assert!(matches!(error, Error::BadSequence { .. }), "{error}");
    }
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn any_replica_serves_reads_that_need_not_be_current() {
    let directory = directory();
    let builder = Engine::builder(directory.path()).replicas(3).lanes(1);
    let db = builder.split_at(["h", "p"]).start().await.unwrap();
    for key in ["a", "m", "z"] {
        db.put(key, "1").await.unwrap();
    }
    let stale = Consistency::Stale { max_lag: Duration::from_secs(5) };
    for consistency in [Consistency::Linearizable, stale, Consistency::Local] {
        let options = ReadOptions::new().consistency(consistency);
        for key in ["a", "m", "z"] {
            // Local says what has arrived, however old; it arrives.
            while db.get_with(key, &options).await.unwrap().is_none() {
                assert_eq!(consistency, Consistency::Local, "{key}");
                tokio::task::yield_now().await;
            }
        }
        assert!(
            db.get_many_with(["a", "m", "z"], &options).await.unwrap().iter().all(Option::is_some)
        );
        let mut scan = db.scan(..).consistency(consistency);
        let mut rows = 0;
        while let Some(row) = scan.next().await {
            row.unwrap();
            rows += 1;
        }
        assert_eq!(rows, 3);
    }
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn subscribers_hear_of_leaders_and_of_the_end() {
    let directory = directory();
    let db = Engine::builder(directory.path()).replicas(3).lanes(1).start().await.unwrap();
    let mut status = db.subscribe();
    let ready = status.wait_for(|status| status.is_ready()).await.unwrap().clone();
    assert_eq!(ready.shards.len(), 1);
    assert_eq!(ready.connected.len(), 2);
    let other = db.subscribe();
    assert!(other.borrow().is_ready(), "whoever comes later sees the present at once");
    db.shutdown().await.unwrap();
    drop(db);
    while status.changed().await.is_ok() {}
}

#[tokio::test]
async fn a_clean_end_answers_everybody_and_lies_to_nobody() {
    let directory = directory();
    let db = Engine::builder(directory.path()).replicas(3).lanes(1).start().await.unwrap();
    db.put("warm", "up").await.unwrap();
    let writes: Vec<_> = (0..300)
        .map(|n| {
            let db = db.clone();
            tokio::spawn(async move { db.put(format!("key/{n}"), "x").await })
        })
        .collect();
    tokio::task::yield_now().await;
    db.shutdown().await.unwrap();
    let mut results = Vec::new();
    for write in writes {
        results.push(write.await.unwrap());
    }
    drop(db);
    let db = Engine::builder(directory.path()).replicas(3).lanes(1).start().await.unwrap();
    let mut refused = 0;
    for (n, result) in results.into_iter().enumerate() {
        let stored = db.get(format!("key/{n}")).await.unwrap().is_some();
        match result {
            Ok(_) => assert!(stored, "{n} was acknowledged"),
            Err(Error::Shutdown) => {
                assert!(!stored, "{n} was refused");
                refused += 1;
            }
            Err(error) => panic!("{n} ended otherwise: {error}"),
        }
    }
    assert!(refused < 300, "those that had begun were answered");
    db.shutdown().await.unwrap();
}
