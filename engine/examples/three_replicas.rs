//! A replicated, sharded cluster within one program: three nodes that talk over channels, each with
//! a journal of its own, and eight shards.
//!
//! `cargo run --release --example three_replicas -- ./data`. Without an argument it works in a
//! temporary directory.

use flotilla::{Engine, Error};
use std::time::Instant;

const TASKS: usize = 64;
const WRITES_PER_TASK: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let directory = std::env::args_os().nth(1);
    let directory = directory.as_deref().map_or(temporary.path(), std::path::Path::new);

    let db = Engine::builder(directory).replicas(3).shards(8).start().await?;

    // Each write is on the disks of at least two nodes when it returns.
    let started = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let db = db.clone();
            tokio::spawn(async move {
                for n in 0..WRITES_PER_TASK {
                    // The first byte chooses the shard.
                    let mut key = vec![u8::try_from(task * 4).unwrap_or(u8::MAX)];
                    key.extend_from_slice(format!("/{task}/{n}").as_bytes());
                    db.put(key, "value").await?;
                }
                Ok::<(), Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("the task ran to its end")?;
    }
    let writes = TASKS * WRITES_PER_TASK;
    println!("{writes} replicated writes in {:.2?}", started.elapsed());

    let mut rows = 0;
    let mut scan = db.scan(..);
    while let Some(row) = scan.next().await {
        row?;
        rows += 1;
    }
    println!("{rows} rows, read back through all shards");

    for status in db.statuses() {
        let led = status.shards_led();
        println!("node {}: {} shards, leads {led}", status.node_id, status.shards.len());
    }
    db.shutdown().await
}
