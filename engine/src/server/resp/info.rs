//! What the server tells about the node it runs on, and settings under Redis's names.

use std::time::Instant;

/// Tells the state of the node, when asked.
pub trait ServerInfo: Send + Sync + 'static {
    /// The state now. Called by `INFO`, so it may cost a little and must not wait.
    fn facts(&self) -> ServerFacts;
}

/// The state of a node at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// The node's id.
    pub node_id: u64,
    /// The cluster's name.
    pub cluster_name: String,
    /// Shards that have a replica on this node.
    pub shards: u64,
    /// Of these: led by this node.
    pub shards_led: u64,
    /// Of these: without a leader that this node knows of.
    pub shards_leaderless: u64,
    /// Other nodes that this one is connected to.
    pub nodes_connected: u64,
    /// Replicas besides the first that certainly have whatever was acknowledged.
    pub replicas_certain: u64,
    /// Keys in the shards that have a replica here, estimated.
    pub keys_estimate: u64,
}

/// What the sections of `INFO` are made of, besides the counters.
#[derive(Debug)]
pub(super) struct Birth {
    /// When the server was started.
    pub(super) started: Instant,
    /// Random, in hex: a new one with each start.
    pub(super) run_id: String,
}

/// Memory of this process that is in RAM, in bytes; `None` where the system does not tell.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// `bytes` as Redis writes sizes for people: `1.50M`.
pub(super) fn human_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.2}{name}", bytes as f64 / *unit as f64),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        let table =
            [(0, "0B"), (1023, "1023B"), (1024, "1.00K"), (1_572_864, "1.50M"), (5 << 30, "5.00G")];
        for (bytes, shown) in table {
            assert_eq!(human_bytes(bytes), shown);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_tells_the_memory() {
        assert!(resident_bytes().expect("procfs is mounted") > 100_000);
    }
}
