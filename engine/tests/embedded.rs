//! The engine as a program embeds it: one node, in a temporary directory.

use bytes::Bytes;
use flotilla::{
    BlockingEngine, Cas, Engine, Error, Expect, GroupId, PutOptions, ReadOptions, Scan, WriteBatch,
};
use futures_util::TryStreamExt;
use std::future::Future;
use std::ops::Bound;
use std::task::Poll;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

async fn sharded(directory: &TempDir) -> Engine {
    Engine::builder(directory.path()).split_at(["h", "p"]).start().await.unwrap()
}

async fn keys(scan: Scan) -> String {
    let rows: Vec<_> = scan.try_collect().await.unwrap();
    let keys: Vec<_> = rows.iter().map(|row| String::from_utf8_lossy(&row.key)).collect();
    keys.join(" ")
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let directory = directory();
    let db = Engine::open(directory.path()).await.unwrap();
    assert_eq!(db.get("a").await, Ok(None));
    db.put("a", "1").await.unwrap();
    db.put_bytes(Bytes::from("b"), Bytes::new()).await.unwrap();
    db.put("c", "3").await.unwrap();
    assert_eq!(db.delete("c").await, Ok(true));
    assert_eq!(db.delete("c").await, Ok(false));
    db.shutdown().await.unwrap();

    let db = Engine::open(directory.path()).await.unwrap();
    assert_eq!(db.get("a").await, Ok(Some(Bytes::from("1"))));
    assert_eq!(db.get("b").await, Ok(Some(Bytes::new())), "an empty value is a value");
    assert_eq!(db.get("c").await, Ok(None));
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn versions_tell_writes_apart() {
    let directory = directory();
    let db = Engine::open(directory.path()).await.unwrap();
    let first = db.put("a", "same").await.unwrap();
    let second = db.put("a", "same").await.unwrap();
    assert_ne!(first, second);
    let entry = db.get_with("a", &ReadOptions::new()).await.unwrap().unwrap();
    assert_eq!((entry.value, entry.version), (Bytes::from("same"), second));
    let row = db.scan(..).next().await.unwrap().unwrap();
    assert_eq!((row.key, row.version), (Bytes::from("a"), second));
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_swap_happens_only_as_expected() {
    let directory = directory();
    let db = Engine::open(directory.path()).await.unwrap();
    let swap = async |expect: Expect<'_>, new: Option<&'static str>| {
        db.compare_and_swap("a", expect, new.map(Bytes::from)).await.unwrap()
    };
    assert_eq!(swap(Expect::Value(b"1"), Some("2")).await, Cas::Mismatch { current: None });
    let Cas::Swapped { version } = swap(Expect::Absent, Some("1")).await else {
        panic!("the key was absent");
    };
    assert!(!swap(Expect::Absent, Some("2")).await.is_swapped());
    let Cas::Mismatch { current: Some(current) } = swap(Expect::Value(b"0"), Some("2")).await
    else {
        panic!("the value was 1");
    };
    assert_eq!((&current.value[..], current.version), (&b"1"[..], version));
    assert!(swap(Expect::Version(version), Some("2")).await.is_swapped());
    assert!(!swap(Expect::Version(version), Some("3")).await.is_swapped());
    assert!(swap(Expect::Value(b"2"), None).await.is_swapped());
    assert_eq!(db.get("a").await, Ok(None));
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_conditional_put_says_whether_it_wrote() {
    let directory = directory();
    let db = Engine::open(directory.path()).await.unwrap();
    let (absent, present) = (PutOptions::new().if_absent(), PutOptions::new().if_present());
    assert_eq!(db.put_with("a", "1", &present).await, Ok(None));
    assert!(db.put_with("a", "1", &absent).await.unwrap().is_some());
    assert_eq!(db.put_with("a", "2", &absent).await, Ok(None));
    assert!(db.put_with("a", "3", &present).await.unwrap().is_some());
    assert_eq!(db.get("a").await, Ok(Some(Bytes::from("3"))));
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_batch_is_of_one_shard_and_all_or_nothing() {
    let directory = directory();
    let db = sharded(&directory).await;
    db.put("c", "0").await.unwrap();
    let mut batch = WriteBatch::new();
    batch.put("a", "1").put("b", "2").delete("c").put("a", "3");
    assert_eq!((batch.len(), batch.is_empty()), (4, false));
    let version = db.write(batch).await.unwrap();
    assert_eq!(keys(db.scan(..)).await, "a b");
    let a = db.get_with("a", &ReadOptions::new()).await.unwrap().unwrap();
    assert_eq!((a.value, a.version), (Bytes::from("3"), version));

    let mut across = WriteBatch::new();
    across.put("a", "4").put("z", "5");
    let error = db.write(across).await.unwrap_err();
    assert_eq!(error, Error::CrossShard);
    assert!(!error.is_retryable() && !error.maybe_committed());
    assert_eq!(db.write(WriteBatch::new()).await, Err(Error::EmptyBatch));
    let mut invalid = WriteBatch::new();
    invalid.put("a", "6").delete("");
    assert!(matches!(db.write(invalid).await, Err(Error::InvalidKey { bytes: 0, .. })));
    assert_eq!(db.get("a").await, Ok(Some(Bytes::from("3"))));
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn limits_are_held_at_the_door() {
    let directory = directory();
    let builder = Engine::builder(directory.path());
    let db = builder.key_bytes_max(10).value_bytes_max(20).start().await.unwrap();
    assert_eq!((db.limits().key_bytes_max, db.limits().value_bytes_max), (10, 20));
    db.put([1; 10], [2; 20]).await.unwrap();
    let long_key = Err(Error::InvalidKey { bytes: 11, bytes_max: 10 });
    assert_eq!(db.get([1; 11]).await.map(drop), long_key);
    assert_eq!(db.put([1; 11], "").await.map(drop), long_key);
    assert_eq!(db.delete([1; 11]).await.map(drop), long_key);
    let swap = db.compare_and_swap([1; 11], Expect::Absent, None).await;
    assert_eq!(swap.map(drop), long_key);
    let no_key = Err(Error::InvalidKey { bytes: 0, bytes_max: 10 });
    assert_eq!(db.put_bytes(Bytes::new(), Bytes::new()).await.map(drop), no_key);
    let large = Err(Error::TooLarge { bytes: 21, bytes_max: 20 });
    assert_eq!(db.put("a", [2; 21]).await.map(drop), large);
    let swap = db.compare_and_swap("a", Expect::Absent, Some(vec![2; 21].into())).await;
    assert_eq!(swap.map(drop), large);
    assert_eq!(db.get("a").await, Ok(None));
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_default_limits_are_the_documented_ones() {
    let directory = directory();
    let db = Engine::open(directory.path()).await.unwrap();
    db.put(vec![b'k'; 4 << 10], vec![b'v'; 8 << 20]).await.unwrap();
    let value = db.get(vec![b'k'; 4 << 10]).await.unwrap().unwrap();
    assert_eq!(value.len(), 8 << 20);
    assert!(db.put(vec![b'k'; (4 << 10) + 1], "").await.is_err());
    assert!(db.put("k", vec![b'v'; (8 << 20) + 1]).await.is_err());
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn scans_cross_shards_both_ways() {
    let directory = directory();
    let db = sharded(&directory).await;
    for key in ["a", "g", "h", "ha", "o", "p", "z"] {
        db.put(key, key).await.unwrap();
    }
    assert_eq!(keys(db.scan(..)).await, "a g h ha o p z");
    assert_eq!(keys(db.scan(..).reverse()).await, "z p o ha h g a");
    assert_eq!(keys(db.scan(..).reverse().limit(4)).await, "z p o ha");
    assert_eq!(keys(db.scan(..).limit(0)).await, "");
    assert_eq!(keys(db.scan(b"g".to_vec()..b"p".to_vec())).await, "g h ha o");
    assert_eq!(keys(db.scan(b"g".to_vec()..=b"p".to_vec()).reverse()).await, "p o ha h g");
    let open = (Bound::Excluded(b"g".to_vec()), Bound::Excluded(b"o".to_vec()));
    assert_eq!(keys(db.scan(open)).await, "h ha");
    assert_eq!(keys(db.scan(b"p".to_vec()..b"g".to_vec())).await, "");
    assert_eq!(keys(db.scan_prefix("h")).await, "h ha");
    assert_eq!(keys(db.scan_prefix("")).await, "a g h ha o p z");
    let mut scan = db.scan_prefix("z").timeout(Duration::from_secs(9));
    assert_eq!(scan.next().await.unwrap().unwrap().value, "z");
    assert_eq!(scan.next().await, None);
    assert_eq!(scan.next().await, None);
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_long_scan_comes_in_pages() {
    let directory = directory();
    let db = Engine::open(directory.path()).await.unwrap();
    const ROWS: usize = 3000;
    for chunk in (0..ROWS).collect::<Vec<_>>().chunks(500) {
        let mut batch = WriteBatch::new();
        for n in chunk {
            batch.put(format!("{n:05}"), n.to_string());
        }
        db.write(batch).await.unwrap();
    }
    let rows: Vec<_> = db.scan(..).try_collect().await.unwrap();
    assert_eq!(rows.len(), ROWS);
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(row.key, format!("{n:05}"));
    }
    let backwards: Vec<_> = db.scan(..).reverse().limit(2500).try_collect().await.unwrap();
    assert!(backwards.iter().eq(rows.iter().rev().take(2500)));
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn concurrent_swaps_lose_no_count() {
    let directory = directory();
    let db = Engine::open(directory.path()).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    increment(&db).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(db.get("n").await, Ok(Some(Bytes::from("160"))));
    db.shutdown().await.unwrap();
}

async fn increment(db: &Engine) {
    loop {
        let entry = db.get_with("n", &ReadOptions::new()).await.unwrap();
        let text = entry.as_ref().map(|entry| std::str::from_utf8(&entry.value).unwrap());
        let next = text.map_or(0, |text| text.parse::<u64>().unwrap()) + 1;
        let expect = entry.as_ref().map_or(Expect::Absent, |entry| Expect::Version(entry.version));
        let swapped = db.compare_and_swap("n", expect, Some(next.to_string().into())).await;
        if swapped.unwrap().is_swapped() {
            return;
        }
    }
}

#[tokio::test]
async fn engines_share_a_process_but_not_a_directory() {
    let (one, two) = (directory(), directory());
    let first = Engine::open(one.path()).await.unwrap();
    let second = Engine::open(two.path()).await.unwrap();
    first.put("a", "first").await.unwrap();
    second.put("a", "second").await.unwrap();
    assert_eq!(first.get("a").await, Ok(Some(Bytes::from("first"))));
    let error = Engine::open(one.path()).await.unwrap_err();
    assert_eq!(error, Error::DirectoryInUse { directory: one.path().to_owned() });
    first.shutdown().await.unwrap();
    assert_eq!(second.get("a").await, Ok(Some(Bytes::from("second"))));
    Engine::open(one.path()).await.unwrap().shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[test]
fn no_runtime_is_needed() {
    let directory = directory();
    let db = BlockingEngine::open(directory.path()).unwrap();
    db.put("a", "1").unwrap();
    db.put("b", "2").unwrap();
    let rows: Result<Vec<_>, Error> = db.scan(..).reverse().collect();
    assert_eq!(rows.unwrap()[0].key, "b");
    assert_eq!(db.scan_prefix("a").count(), 1);
    assert!(db.status().is_ready());
    db.shutdown().unwrap();
    assert_eq!(db.get("a"), Err(Error::Shutdown));
}

#[test]
fn any_runtime_will_do() {
    let directory = directory();
    let single = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let db = single.block_on(Engine::open(directory.path())).unwrap();
    single.block_on(db.put("a", "1")).unwrap();
    // The runtime that opened the engine may go.
    drop(single);
    let value = multi.block_on(db.get("a")).unwrap();
    assert_eq!(value, Some(Bytes::from("1")));
    let threads = (0..4).map(|n| {
        let db = db.blocking();
        std::thread::spawn(move || db.put(format!("t{n}"), "x").map(drop))
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    assert_eq!(db.blocking().scan_prefix("t").count(), 4);
    multi.block_on(db.shutdown()).unwrap();
}

#[tokio::test]
async fn a_timeout_may_be_tiny_or_endless() {
    let directory = directory();
    let db = Engine::open(directory.path()).await.unwrap();
    let endless = Duration::MAX;
    assert!(db.put_with("a", "1", &PutOptions::new().timeout(endless)).await.is_ok());
    assert!(db.get_with("a", &ReadOptions::new().timeout(endless)).await.unwrap().is_some());
    assert!(db.scan(..).timeout(endless).next().await.unwrap().is_ok());
    let error = db.get_with("a", &ReadOptions::new().timeout(Duration::ZERO)).await.unwrap_err();
    assert_eq!(error, Error::Timeout { maybe_committed: false });
    let none = PutOptions::new().timeout(Duration::ZERO);
    let error = db.put_with("a", "2", &none).await.unwrap_err();
    assert!(error.is_retryable(), "it was never sent: {error}");
    assert_eq!(db.get("a").await, Ok(Some(Bytes::from("1"))));
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_dropped_future_does_not_undo_its_write() {
    let directory = directory();
    let db = Engine::open(directory.path()).await.unwrap();
    // From now on there is a leader, and the first poll sends.
    db.put("b", "1").await.unwrap();
    {
        let mut put = std::pin::pin!(db.put("a", "1"));
        std::future::poll_fn(|context| {
            let _ = put.as_mut().poll(context);
            Poll::Ready(())
        })
        .await;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while db.get("a").await.unwrap().is_none() {
        assert!(Instant::now() < deadline, "the write was sent");
    }
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn shutdown_may_be_called_again_and_by_many() {
    let directory = directory();
    let db = Engine::open(directory.path()).await.unwrap();
    db.put("a", "1").await.unwrap();
    let ends: Vec<_> = (0..4)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move { db.shutdown().await })
        })
        .collect();
    for end in ends {
        assert_eq!(end.await.unwrap(), Ok(()));
    }
    assert_eq!(db.shutdown().await, Ok(()));
    let error = db.put("a", "2").await.unwrap_err();
    assert_eq!(error, Error::Shutdown);
    assert!(!error.maybe_committed());
    assert_eq!(db.get("a").await, Err(Error::Shutdown));
    assert_eq!(db.scan(..).next().await, Some(Err(Error::Shutdown)));
}

#[tokio::test]
async fn a_dropped_engine_gives_its_directory_free() {
    let directory = directory();
    let db = Engine::open(directory.path()).await.unwrap();
    db.put("a", "1").await.unwrap();
    drop(db);
    let deadline = Instant::now() + Duration::from_secs(20);
    let db = loop {
        match Engine::open(directory.path()).await {
            Ok(db) => break db,
            Err(error) => {
                assert!(matches!(error, Error::DirectoryInUse { .. }), "{error}");
                assert!(Instant::now() < deadline, "the engine ends in the background");
            }
        }
    };
    assert_eq!(db.get("a").await, Ok(Some(Bytes::from("1"))));
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn shards_are_chosen_at_birth() {
    let directory = directory();
    let db = sharded(&directory).await;
    let status = db.status();
    let starts: Vec<_> = status.shards.iter().map(|shard| shard.range.start.clone()).collect();
    assert_eq!(starts, ["", "h", "p"]);
    assert!(status.shards.iter().all(|shard| shard.group != GroupId(0)));
    assert_eq!((status.node_id.0, &status.cluster_name[..]), (1, "flotilla"));
    db.put("z", "1").await.unwrap();
    db.shutdown().await.unwrap();

    let again = sharded(&directory).await;
    again.shutdown().await.unwrap();
    let silent = Engine::open(directory.path()).await.unwrap();
    assert_eq!(silent.status().shards.len(), 3, "as at birth");
    assert_eq!(silent.get("z").await, Ok(Some(Bytes::from("1"))));
    silent.shutdown().await.unwrap();
    let other = Engine::builder(directory.path()).shards(8).start().await.unwrap_err();
    assert!(matches!(&other, Error::Directory { .. }), "{other}");
    let other = Engine::builder(directory.path()).cluster_name("x").start().await.unwrap_err();
    assert!(matches!(&other, Error::Directory { .. }), "{other}");
    let other = Engine::builder(directory.path()).node_id(2).start().await.unwrap_err();
    assert!(matches!(&other, Error::Directory { .. }), "{other}");
}

#[tokio::test]
async fn the_registry_counts_what_was_done() {
    let directory = directory();
    let db = Engine::open(directory.path()).await.unwrap();
    db.put("a", "1").await.unwrap();
    db.get("a").await.unwrap();
    let families = db.registry().gather();
    let requests =
        families.iter().find(|family| family.name() == "flotilla_router_requests_total").unwrap();
    let counted = requests.get_metric().iter().map(|metric| metric.get_counter().get_value());
    assert_eq!(counted.sum::<f64>(), 2.0);
    assert_eq!(db.failure(), None);
    db.shutdown().await.unwrap();
}

/// Writes, as often as the node refuses because its memtables are full.
async fn put_patiently(db: &Engine, key: &str, value: Vec<u8>) {
    let begin = Instant::now();
    while let Err(error) = db.put(key.to_owned(), value.clone()).await {
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(20), "never let in again");
        tokio::task::yield_now().await;
    }
}

/// What a program keeps of what it has read is its own memory: the node goes on reading from its store
/// for it, however much that is.
#[tokio::test]
async fn a_program_may_keep_more_than_the_nodes_budget() {
    const BUDGET_BYTES: usize = 16 << 20;
    const VALUE_BYTES: usize = 64 << 10;
    let directory = directory();
    let start = || {
        Engine::builder(directory.path())
            .value_bytes_max(1 << 20)
            .budget_bytes(BUDGET_BYTES as u64)
            .memtable_bytes(1 << 20)
            .merged_memtable_bytes(0)
            .start()
    };
    let db = start().await.unwrap();
    for n in 0..64 {
        put_patiently(&db, &format!("key{n}"), vec![n; VALUE_BYTES]).await;
    }
    // Let in again: a checkpoint has made room, and the rows are read from the file from now on.
    put_patiently(&db, "last", vec![0]).await;
    let mut kept = Vec::new();
    while kept.len() * VALUE_BYTES < 3 * BUDGET_BYTES {
        for n in 0..64 {
            let begin = Instant::now();
            kept.push(db.get(format!("key{n}")).await.unwrap().unwrap());
            assert!(begin.elapsed() < Duration::from_secs(1), "a read was put off");
        }
    }
    put_patiently(&db, "last", vec![1]).await;
    assert!(kept.iter().enumerate().all(|(n, value)| value == &vec![n as u8 % 64; VALUE_BYTES]));
    db.shutdown().await.unwrap();
}
