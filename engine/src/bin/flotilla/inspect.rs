//! `flotilla inspect`: what is in the directory of a node that does not run, and what is wrong with
//! it. Reads only: nothing is cut, repaired or created.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use flotilla::splits::escape_key;
use flotilla_shard::machine::ShardMeta;
use flotilla_storage::fs::{DirectoryLock, FileSystem, LOCK_FILE, LockError, RealFs, read_only};
use flotilla_storage::journal::{Inspection, PlaceKind, inspect};
use flotilla_storage::store::{PageOptions, ShardState, Store, StoreMetrics, StoreOptions};
use serde_json::{Value, json};

use crate::tables;
use flotilla::server::process::Failure;

/// Arguments of `flotilla inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The write-ahead log: segments, groups, torn and corrupt places.
    Journal(PartArgs),
    /// The rows: shards, and what fails its checksum.
    Store(PartArgs),
}

#[derive(Debug, Args)]
struct PartArgs {
    /// The data directory of a node, or the part's own folder in it.
    dir: PathBuf,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `flotilla inspect`. Fails if there is damage.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    match &args.part {
        Part::Journal(args) => {
            let (dir, _lock) = find(&args.dir, "journal")?;
            let found = inspect(&dir)
                .map_err(|error| Failure::runtime(format!("{}: {error}", dir.display())))?;
            if args.json {
                print_json(&journal_json(&found))?
            } else {
                print_journal(&found)
            }
            verdict(found.is_damaged(), "the journal is damaged")
        }
        Part::Store(args) => {
            let (dir, _lock) = find(&args.dir, "store")?;
            let found = StoreReport::read(&dir)?;
            if args.json {
                print_json(&found.json())?
            } else {
                found.print()
            }
            verdict(found.is_damaged(), "the store is damaged")
        }
    }
}

fn verdict(is_damaged: bool, words: &str) -> Result<(), Failure> {
    if is_damaged { Err(Failure::runtime(words)) } else { Ok(()) }
}

/// The folder of a part, and the lock that keeps its node from starting meanwhile.
fn find(dir: &Path, part: &str) -> Result<(PathBuf, Option<DirectoryLock>), Failure> {
    let (node, folder) = if dir.join(part).is_dir() {
        (dir.to_owned(), dir.join(part))
    } else if dir.is_dir() && dir.file_name().is_some_and(|name| name == part) {
        (dir.parent().unwrap_or(Path::new(".")).to_owned(), dir.to_owned())
    } else {
        return Err(Failure::usage(format!(
            "{} is no data directory: it has no folder `{part}`",
            dir.display()
        )));
    };
    // Who has no lock file never had a node, and gets none from us.
    if !node.join(LOCK_FILE).exists() {
        return Ok((folder, None));
    }
    match RealFs.try_lock(&node) {
        Ok(lock) => Ok((folder, Some(lock))),
        Err(LockError::Held { .. }) => {
            let holder = match holder(&node.join(LOCK_FILE)) {
                Some(process) => format!("process {process} holds its lock"),
                None => "another process holds its lock".to_owned(),
            };
            Err(Failure::usage(format!(
                "{} is in use: {holder}. A running node changes its files all the time, so that \
                 nothing certain can be said about them: stop the node first, or ask it with \
                 `flotilla status`",
                node.display()
            )))
        }
        // A read-only file system cannot have a running node either.
        Err(LockError::Io { .. }) => Ok((folder, None)),
    }
}

/// The process that holds a lock on `file`, where the operating system tells.
fn holder(file: &Path) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let inode = fs::metadata(file).ok()?.ino().to_string();
    // `1: FLOCK  ADVISORY  WRITE 4711 fe:00:131090 0 EOF`
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, _, process, place, ..] = words[..] else { return None };
        (place.rsplit(':').next() == Some(&inode)).then(|| process.parse().ok()).flatten()
    })
}

fn print_json(value: &Value) -> Result<(), Failure> {
    say!("{}", serde_json::to_string_pretty(value).map_err(Failure::runtime)?);
    Ok(())
}

fn kind_name(kind: PlaceKind) -> &'static str {
    match kind {
        PlaceKind::Torn => "torn",
        PlaceKind::Corrupt => "corrupt",
    }
}

fn journal_json(found: &Inspection) -> Value {
    let segments: Vec<Value> = found
        .segments
        .iter()
        .map(|segment| {
            let batches: Vec<Value> = segment
                .batches
                .iter()
                .map(|batch| {
                    json!({
                        "sequence": batch.sequence, "offset": batch.offset, "bytes": batch.bytes,
                        "records": batch.records, "whole": batch.is_whole,
                    })
                })
                .collect();
            json!({
                "number": segment.number, "bytes": segment.bytes, "batches": batches,
                "other_version": segment.other_version,
            })
        })
        .collect();
    let groups: Vec<Value> = found
        .groups
        .iter()
        .map(|(id, group)| {
            let log = &group.recovered;
            let starts: Vec<Value> =
                log.term_starts.iter().map(|(i, t)| json!({ "index": i, "term": t })).collect();
            json!({
                "group": id.0, "base_index": log.base.0, "base_term": log.base.1,
                "last_index": log.last_index, "term_starts": starts,
                "state": log.state.as_ref().map(|state| hex(state)),
                "birth_bytes": log.birth.len(), "live_bytes": group.live_bytes,
                "suspect": log.suspect,
            })
        })
        .collect();
    let places: Vec<Value> = found
        .places
        .iter()
        .map(|place| {
            json!({
                "kind": kind_name(place.kind), "batch": place.batch,
                "segment": place.at.map(|at| at.0), "offset": place.at.map(|at| at.1),
                "group": place.group.map(|group| group.0), "harmful": place.is_harmful,
            })
        })
        .collect();
    json!({
        "damaged": found.is_damaged(), "synced_through": found.synced_through,
        "last_batch": found.last_batch, "segments": segments, "groups": groups, "places": places,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn print_journal(found: &Inspection) {
    let mut segments =
        tables::table(&["segment", "#bytes", "#batches", "#first", "#last", "#records"]);
    for segment in &found.segments {
        let sequence = |batch: Option<&flotilla_storage::journal::InspectedBatch>| {
            batch.map_or_else(|| "-".to_owned(), |batch| batch.sequence.to_string())
        };
        let records: u64 = segment.batches.iter().map(|batch| batch.records).sum();
        segments.add_row([
            format!("{:016x}", segment.number),
            segment.bytes.to_string(),
            segment.batches.len().to_string(),
            sequence(segment.batches.first()),
            sequence(segment.batches.last()),
            records.to_string(),
        ]);
    }
    say!("{segments}");
    let mut groups =
        tables::table(&["group", "#base", "#last", "#last term", "#live bytes", "condition"]);
    for (id, group) in &found.groups {
        let log = &group.recovered;
        let term = log.term_starts.last().map_or(log.base.1, |(_, term)| *term);
        groups.add_row([
            id.0.to_string(),
            log.base.0.to_string(),
            log.last_index.to_string(),
            term.to_string(),
            group.live_bytes.to_string(),
            if log.suspect { "suspect: lost content" } else { "sound" }.to_owned(),
        ]);
    }
    say!("{groups}");
    say!("synced through batch {}, last batch {}", found.synced_through, found.last_batch);
    for place in &found.places {
        let at = match place.at {
            Some((segment, offset)) => format!("segment {segment:016x} offset {offset}"),
            None => "nowhere to be found".to_owned(),
        };
        let group = place.group.map_or_else(String::new, |group| format!(", group {group}"));
        let harm = match (place.kind, place.is_harmful) {
            (PlaceKind::Torn, _) => "never acknowledged",
            (_, true) => "content is lost",
            (_, false) => "nothing that is needed is lost",
        };
        say!("{}: batch {}, {at}{group}: {harm}", kind_name(place.kind), place.batch);
    }
}

/// What the store holds.
struct StoreReport {
    shards: Vec<ShardReport>,
    damage: Vec<String>,
}

struct ShardReport {
    state: ShardState,
    range: String,
    rows_read: u64,
    damage: Option<String>,
}

impl StoreReport {
    fn read(dir: &Path) -> Result<StoreReport, Failure> {
        let path = dir.join("store.redb");
        if !path.is_file() {
            return Err(Failure::usage(format!("{} is not there", path.display())));
        }
        // Looked at as it is: moving its pages together would take memory and time, and be lost.
        let options = StoreOptions { compact_file_bytes_min: u64::MAX, ..StoreOptions::default() };
        let opened = Store::open_with_backend(read_only(path), options, StoreMetrics::new());
        let (store, states) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                return Ok(StoreReport { shards: Vec::new(), damage: vec![error.to_string()] });
            }
        };
        let damage = store
            .damaged()
            .iter()
            .map(|shard| format!("the record of shard {}: {}", shard.group, shard.error))
            .collect();
        let shards = states.into_iter().map(|state| ShardReport::read(&store, state)).collect();
        Ok(StoreReport { shards, damage })
    }

    fn is_damaged(&self) -> bool {
        !self.damage.is_empty() || self.shards.iter().any(|shard| shard.damage.is_some())
    }

    fn json(&self) -> Value {
        let shards: Vec<Value> = self
            .shards
            .iter()
            .map(|shard| {
                let tables: Vec<String> =
                    shard.state.extents.iter().map(|extent| extent.table.name()).collect();
                json!({
                    "group": shard.state.group.0, "range": shard.range,
                    "applied_index": shard.state.applied.0, "applied_term": shard.state.applied.1,
                    "version": shard.state.version, "rows": shard.state.rows,
                    "rows_read": shard.rows_read, "tables": tables, "damage": shard.damage,
                })
            })
            .collect();
        json!({ "damaged": self.is_damaged(), "shards": shards, "damage": self.damage })
    }

    fn print(&self) {
        let mut shards = tables::table(&[
            "shard",
            "keys",
            "#applied",
            "#term",
            "#rows",
            "#extents",
            "condition",
        ]);
        for shard in &self.shards {
            shards.add_row([
                shard.state.group.0.to_string(),
                shard.range.clone(),
                shard.state.applied.0.to_string(),
                shard.state.applied.1.to_string(),
                shard.state.rows.to_string(),
                shard.state.extents.len().to_string(),
                if shard.damage.is_some() { "damaged" } else { "sound" }.to_owned(),
            ]);
        }
        say!("{shards}");
        for shard in &self.shards {
            if let Some(damage) = &shard.damage {
                let (group, rows) = (shard.state.group, shard.rows_read);
                say!("shard {group}: after {rows} sound rows: {damage}");
            }
        }
        for damage in &self.damage {
            say!("{damage}");
        }
    }
}

impl ShardReport {
    /// Reads every row of the shard: each is checked against its checksum on the way.
    fn read(store: &Store, state: ShardState) -> ShardReport {
        let meta = match ShardMeta::decode(state.meta.clone()) {
            Ok(meta) => meta,
            Err(error) => {
                let damage = Some(format!("its descriptor: {error}"));
                return ShardReport { state, range: "?".to_owned(), rows_read: 0, damage };
            }
        };
        let mut range = meta.descriptor.range;
        let from = escape_key(&range.start);
        let to = range.end.as_ref().map_or_else(String::new, |end| escape_key(end));
        let view = store.open_shard(&state, range.clone()).view();
        let (mut rows_read, mut damage) = (0, None);
        loop {
            match view.page(&range, PageOptions::default()) {
                Ok(page) => {
                    rows_read += page.rows.len() as u64;
                    let Some(more) = page.more else { break };
                    range = more;
                }
                Err(error) => {
                    damage = Some(error.to_string());
                    break;
                }
            }
        }
        ShardReport { state, range: format!("[{from}, {to})"), rows_read, damage }
    }
}
