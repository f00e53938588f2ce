//! A program with a durable store inside: no server, no sockets.
//!
//! Run it twice and it remembers: `cargo run --example embedded -- ./data`. Without an argument it
//! works in a temporary directory.

use flotilla::{Cas, Engine, Error, Expect, PutOptions, WriteBatch};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let directory = std::env::args_os().nth(1);
    let directory = directory.as_deref().map_or(temporary.path(), std::path::Path::new);

    let db = Engine::open(directory).await?;

    // A put is on disk when it returns.
    db.put("city/lisbon", "545000").await?;
    db.put("city/porto", "232000").await?;

    // Several changes at once, all or none.
    let mut batch = WriteBatch::new();
    batch.put("city/braga", "193000").put("city/faro", "68000").delete("city/porto");
    db.write(batch).await?;

    // Only if nobody was first.
    let first = db.put_with("owner", "this run", &PutOptions::new().if_absent()).await?;
    println!("the directory was {}", if first.is_some() { "new" } else { "used before" });

    // A counter that two writers cannot confuse.
    let runs = loop {
        let stored = db.get("runs").await?;
        let seen = stored.as_deref().and_then(|text| std::str::from_utf8(text).ok());
        let runs: u64 = seen.and_then(|text| text.parse().ok()).unwrap_or(0) + 1;
        let expect = stored.as_deref().map_or(Expect::Absent, Expect::Value);
        match db.compare_and_swap("runs", expect, Some(runs.to_string().into())).await? {
            Cas::Swapped { .. } => break runs,
            Cas::Mismatch { .. } => continue,
        }
    };
    println!("run number {runs}");

    let mut cities = db.scan_prefix("city/");
    while let Some(row) = cities.next().await {
        let row = row?;
        println!("{} {}", String::from_utf8_lossy(&row.key), String::from_utf8_lossy(&row.value));
    }

    db.shutdown().await
}
