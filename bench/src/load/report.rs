//! What is told of a load.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{Phase, Tally};
use crate::latency::{Summary, head, micros_per_operation, row};

/// What is told of a load.
#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// Connections.
    pub clients: usize,
    /// Requests in flight on each.
    pub pipeline: usize,
    /// How many keys there were.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// From the first request to the last reply.
    pub elapsed_seconds: f64,
    /// Acknowledged puts.
    pub puts: Summary,
    /// Answered gets.
    pub gets: Summary,
    /// Gets that found nothing.
    pub misses: u64,
    /// Operations per second, of both kinds.
    pub operations_per_second: f64,
    /// Errors without effect, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Puts of which nobody knows, by kind.
    pub unknown: BTreeMap<String, u64>,
    /// CPU time of all servers for each operation; absent when their processes are not known.
    pub server_cpu_micros: Option<f64>,
    /// CPU time of the load itself for each operation.
    pub client_cpu_micros: f64,
}

impl LoadReport {
    pub(super) fn new(
        phase: &Phase,
        tally: &Tally,
        elapsed: Duration,
        servers: Option<Duration>,
        own: Duration,
    ) -> LoadReport {
        let (puts, gets) = (tally.puts.summary(), tally.gets.summary());
        let operations = puts.operations + gets.operations;
        LoadReport {
            clients: phase.clients,
            pipeline: phase.pipeline,
            keys: phase.keys,
            value_bytes: phase.value_size,
            elapsed_seconds: elapsed.as_secs_f64(),
            puts,
            gets,
            misses: tally.misses,
            operations_per_second: crate::latency::per_second(operations, elapsed),
            errors: tally.errors.clone(),
            unknown: tally.unknown.clone(),
            server_cpu_micros: servers.map(|cpu| micros_per_operation(cpu, operations)),
            client_cpu_micros: micros_per_operation(own, operations),
        }
    }

    /// True if everything was answered as it should be.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.unknown.is_empty()
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elapsed = Duration::from_secs_f64(self.elapsed_seconds);
        writeln!(
            f,
            "{} clients with {} in flight, {} keys, values of {} B, {:.1} s",
            self.clients, self.pipeline, self.keys, self.value_bytes, self.elapsed_seconds
        )?;
        writeln!(f, "{}", head())?;
        for (name, summary) in [("put", &self.puts), ("get", &self.gets)] {
            if summary.operations > 0 {
                writeln!(f, "{}", row(name, summary, elapsed))?;
            }
        }
        if self.misses > 0 {
            writeln!(f, "{} gets found nothing", self.misses)?;
        }
        writeln!(f, "errors without effect: {}", counts(&self.errors))?;
        writeln!(f, "unknown outcomes: {}", counts(&self.unknown))?;
        let servers = match self.server_cpu_micros {
            Some(micros) => format!("{micros:.1} µs of all servers"),
            None => "servers not measured".to_owned(),
        };
        write!(f, "CPU per operation: {servers}, {:.1} µs of the clients", self.client_cpu_micros)
    }
}

fn counts(kinds: &BTreeMap<String, u64>) -> String {
    match kinds.is_empty() {
        true => "none".to_owned(),
        false => {
            let parts: Vec<String> =
                kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            parts.join(", ")
        }
    }
}
