//! Linearizable reads: by leases, and without.

use flotilla::{Engine, ReadMode, Registry};
use std::time::{Duration, Instant};

const READERS: usize = 64;
const DURATION: Duration = Duration::from_secs(2);

/// Linearizable reads so far on all nodes: by lease, by round.
fn reads(registries: &[&Registry]) -> (u64, u64) {
    let mut sums = (0, 0);
    for family in registries.iter().flat_map(|registry| registry.gather()) {
        if family.name() != "flotilla_shard_reads_total" {
            continue;
        }
        for metric in family.get_metric() {
            let count = metric.get_counter().get_value() as u64;
            match metric.get_label()[0].value() {
                "lease" => sums.0 += count,
                "round" => sums.1 += count,
                other => panic!("reads by {other}"),
            }
        }
    }
    sums
}

/// Nothing but reads, for many heartbeats: the leases of all shards are kept up.
async fn read_for_a_while(mode: ReadMode) -> (u64, u64) {
    let directory = tempfile::tempdir().unwrap();
    let db = Engine::builder(directory.path()).replicas(3).shards(4).reads(mode);
    let db = db.start().await.unwrap();
    let keys: Vec<[u8; 2]> = (0..16).map(|n| [n * 16, 1]).collect();
    for key in &keys {
        db.put(key, key).await.unwrap();
    }
    let before = reads(&db.registries());
    let start = Instant::now();
    let readers = (0..READERS).map(|reader| {
        let (db, keys) = (db.clone(), keys.clone());
        async move {
            let mut asked = 0;
            while start.elapsed() < DURATION {
                let key = &keys[(reader + asked) % keys.len()];
                assert_eq!(db.get(key).await.unwrap().as_deref(), Some(&key[..]));
                asked += 1;
            }
            asked as u64
        }
    });
    let asked: u64 = futures_util::future::join_all(readers).await.into_iter().sum();
    println!("{mode}: {asked} gets in {} ms", start.elapsed().as_millis());
    // They are counted when the lane comes to rest, which may be after the answer.
    let counted = loop {
        let now = reads(&db.registries());
        let counted = (now.0 - before.0, now.1 - before.1);
        if counted.0 + counted.1 >= asked {
            break counted;
        }
        tokio::task::yield_now().await;
    };
    db.shutdown().await.unwrap();
    counted
}

#[tokio::test]
async fn reads_cost_no_round_while_leases_hold() {
    let (by_lease, by_round) = read_for_a_while(ReadMode::Lease).await;
    println!("{by_lease} by lease, {by_round} by round");
    // A busy machine may be late with heartbeats now and then.
    assert!(by_lease >= 9 * by_round, "{by_round} of {} reads asked others", by_lease + by_round);
}

#[tokio::test]
async fn without_leases_every_read_asks() {
    let (by_lease, by_round) = read_for_a_while(ReadMode::ReadIndex).await;
    assert_eq!(by_lease, 0);
    assert!(by_round > 0);
}
