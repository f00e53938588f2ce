//! A small steady load that feels what a larger one, or a repair, does to everybody else.
//!
//! An open loop: operations are due at fixed times, and a latency counts from the time at which its
//! operation was due, so that a stall is felt by all that were due meanwhile. Half of them are
//! writes, half reads, spread over all shards and servers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use std::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::connection::{Connection, ReadResult, WriteResult};
use crate::keys::shard_prefix;
use crate::latency::{Latencies, Summary};

/// Connections of a probe; each has one operation in flight.
const CONNECTIONS: u32 = 32;
/// A reply that takes longer counts as failed.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
const VALUE: [u8; 256] = [b'p'; 256];

/// What was felt in one phase.
#[derive(Clone, Debug, Default)]
pub struct Felt {
    /// Operations that were answered.
    pub summary: Summary,
    /// Operations that were refused with certainly no effect, and otherwise failed.
    pub failed: u64,
    /// How they failed, and how many.
    pub failures: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Phase {
    latencies: Latencies,
    failures: BTreeMap<String, u64>,
}

/// A probe at work.
pub struct Probe {
    phase: Arc<Mutex<Phase>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Probe {
    /// Begins to ask `servers`, `per_second` times altogether, keys of `shards` of all shards.
    pub fn start(servers: &[SocketAddr], per_second: u32, shards: &[u32], of: u32) -> Probe {
        let phase = Arc::new(Mutex::new(Phase::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let period = Duration::from_secs(1) * CONNECTIONS / per_second.max(1);
        let begin = Instant::now();
        let tasks = (0..CONNECTIONS).map(|number| {
            let shard = shards[number as usize % shards.len()];
            let asker = Asker {
                number,
                prefix: shard_prefix(shard, of),
                servers: servers.to_vec(),
                phase: Arc::clone(&phase),
                stop: Arc::clone(&stop),
            };
            tokio::spawn(asker.run(begin + period * number / CONNECTIONS, period))
        });
        let tasks = tasks.collect();
        Probe { phase, stop, tasks }
    }

    /// Ends a phase: what was felt since the last call. The next one begins.
    pub fn next_phase(&self) -> Felt {
        let phase = std::mem::take(&mut *self.phase.lock().expect("nobody panics with it"));
        let failed = phase.failures.values().sum();
        Felt { summary: phase.latencies.summary(), failed, failures: phase.failures }
    }

    /// Ends the probe.
    ///
    /// # Errors
    ///
    /// If one of its clients panicked.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.context("a client of the probe failed")?;
        }
        Ok(())
    }
}

struct Asker {
    number: u32,
    prefix: [u8; 2],
    servers: Vec<SocketAddr>,
    phase: Arc<Mutex<Phase>>,
    stop: Arc<AtomicBool>,
}

impl Asker {
    async fn run(self, begin: Instant, period: Duration) {
        let mut due = interval_at(begin, period);
        // What was due while this client waited is late, and must count so.
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut server = self.number as usize;
        let mut connection: Option<Connection> = None;
        let mut operations = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            let due_at = due.tick().await;
            operations += 1;
            if connection.is_none() {
                let address = self.servers[server % self.servers.len()];
                connection = Connection::open(address, REPLY_TIMEOUT).await.ok();
            }
            let result = match &mut connection {
                Some(connection) => self.ask(operations, connection).await,
                None => Err("not connected".to_owned()),
            };
            if connection.as_ref().is_none_or(Connection::is_broken) {
                connection = None;
                server += 1;
            }
            let mut phase = self.phase.lock().expect("nobody panics with it");
            match result {
                Ok(()) => phase.latencies.record(due_at.elapsed()),
                Err(failure) => *phase.failures.entry(failure).or_default() += 1,
            }
        }
    }

    async fn ask(&self, operations: u64, connection: &mut Connection) -> Result<(), String> {
        let mut key = self.prefix.to_vec();
        key.extend_from_slice(
            format!("probe{:02}{:03}", self.number, operations / 2 % 100).as_bytes(),
        );
        match operations % 2 {
            0 => match connection.set(&key, &VALUE).await {
                WriteResult::Acknowledged => Ok(()),
                WriteResult::Refused(why) => Err(format!("write refused: {why}")),
                WriteResult::InDoubt(why) => Err(format!("write in doubt: {why}")),
            },
            _ => match connection.get(&key).await {
                ReadResult::Value(_) => Ok(()),
                ReadResult::Refused(why) => Err(format!("read refused: {why}")),
                ReadResult::Lost(why) => Err(format!("read lost: {why}")),
            },
        }
    }
}
