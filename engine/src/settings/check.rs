//! What settings must not say together.
//!
//! All problems are found before any is reported: who fixes a file wants the whole list.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::peers::split_address;
use super::{Settings, Size};
use crate::leases::ClockDrift;
use crate::options::segment_bytes_min;

/// All that is wrong with some settings. Its text has one line per problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Each problem in words that say what to do; never empty.
    pub problems: Vec<String>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for Invalid {}

/// The smallest and largest limits on keys and values that the formats and buffers are made for.
const KEY_BYTES_MAX: Size = Size::kib(64);
/// An entry with the largest value must fit into one frame between peers, which has 64 MiB.
const VALUE_BYTES_MAX: Size = Size::mib(60);
const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(50);
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(60);
const NAME_BYTES_MAX: usize = 64;
const LANES_MAX: usize = 256;

impl Settings {
    /// Finds contradictions and values out of range, without touching files or sockets.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with every problem that was found.
    pub fn check(&self) -> Result<(), Invalid> {
        let mut problems = Vec::new();
        self.check_identity(&mut problems);
        self.check_addresses(&mut problems);
        self.check_shards(&mut problems);
        self.check_raft(&mut problems);
        self.check_sizes(&mut problems);
        self.check_disk(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(Invalid { problems }) }
    }

    /// The addresses other than loopback on which this node would listen, as `(key, address)`.
    pub fn exposed_addresses(&self) -> Vec<(&'static str, &str)> {
        [
            ("peer_addr", self.peer_listen_addr()),
            ("resp_addr", &self.resp_addr),
            ("admin_addr", &self.admin_addr),
        ]
        .into_iter()
        .filter(|(_, address)| !is_loopback(address))
        .collect()
    }

    fn check_identity(&self, problems: &mut Vec<String>) {
        let name = &self.cluster_name;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
            problems.push(format!(
                "cluster_name `{name}` is not a name: 1 to {NAME_BYTES_MAX} of a-z A-Z 0-9 - _ ."
            ));
        }
        if self.node_id == 0 {
            problems.push("node_id is 0: node ids begin at 1".to_owned());
        }
        if self.data_dir.as_os_str().is_empty() {
            problems.push("data_dir is empty: name a directory".to_owned());
        }
        if self.lanes > LANES_MAX {
            problems.push(format!(
                "lanes is {}: at most {LANES_MAX}, or 0 for half of the cores",
                self.lanes
            ));
        }
        if !self.peers.is_empty() && self.peers.get(self.node_id).is_none() {
            problems.push(format!(
                "peers does not list node_id {}: it must list all nodes, this one included ({})",
                self.node_id, self.peers
            ));
        }
    }

    fn check_addresses(&self, problems: &mut Vec<String>) {
        let listening = [
            ("peer_addr", self.peer_listen_addr()),
            ("resp_addr", &self.resp_addr),
            ("admin_addr", &self.admin_addr),
        ];
        for (key, address) in listening {
            match split_address(address) {
                None => {
                    problems.push(format!("{key} `{address}` is not an address: write host:port"))
                }
                Some((_, 0)) if key == "peer_addr" && self.peers.len() > 1 => {
                    problems.push(format!(
                        "peer_addr `{address}` has port 0, but the other nodes must know the port"
                    ))
                }
                Some(_) => {}
            }
        }
        for (position, (key, address)) in listening.into_iter().enumerate() {
            let port = split_address(address).map_or(0, |(_, port)| port);
            for (other, taken) in &listening[..position] {
                if port != 0 && address == *taken {
                    problems.push(format!("{other} and {key} are both {address}: take two ports"));
                }
            }
        }
        self.check_advertised(problems);

        if !self.insecure {
            for (key, address) in self.exposed_addresses() {
                problems.push(format!(
                    "{key} {address} is not a loopback address, and there is no encryption and no \
                     authentication yet: whoever reaches it can read and change everything. Listen \
                     on loopback, or accept that with --insecure (insecure = true)"
                ));
            }
        }
    }

    /// What this node listens on and what its peers were told must be one place.
    fn check_advertised(&self, problems: &mut Vec<String>) {
        let (own, listed) = (self.peer_listen_addr(), self.peers.get(self.node_id));
        let (Some(listed), Some(own_parts)) = (listed, split_address(own)) else { return };
        let Some(listed_parts) = split_address(listed) else { return };
        let contradicts = match (own_parts.0.parse::<IpAddr>(), listed_parts.0.parse::<IpAddr>()) {
            (Ok(own_ip), Ok(listed_ip)) => own_ip != listed_ip && !own_ip.is_unspecified(),
            // A name may stand for any address of this machine.
            _ => false,
        };
        if contradicts || own_parts.1 != listed_parts.1 {
            problems.push(format!(
                "peer_addr {own} contradicts peers, where node {} is at {listed}: the other nodes \
                 would knock at the wrong door",
                self.node_id
            ));
        }
    }

    fn check_shards(&self, problems: &mut Vec<String>) {
        if let (Some(shards), false) = (self.shards, self.split_at.is_empty()) {
            problems.push(format!(
                "shards = {shards} and split_at ({} keys, so {} shards) both say where shards \
                 begin: give one of them",
                self.split_at.len(),
                self.split_at.len() + 1
            ));
            return;
        }
        let key = if self.split_at.is_empty() { "shards" } else { "split_at" };
        if let Err(error) = self.split_keys() {
            problems.push(format!("{key}: {error}"));
        }
    }

    fn check_raft(&self, problems: &mut Vec<String>) {
        let (election, heartbeat) = (self.raft.election_timeout, self.raft.heartbeat_interval);
        let written = humantime::format_duration;
        if election < ELECTION_TIMEOUT_MIN || election > ELECTION_TIMEOUT_MAX {
            problems.push(format!(
                "raft.election_timeout {} is out of range: {} to {}",
                written(election),
                written(ELECTION_TIMEOUT_MIN),
                written(ELECTION_TIMEOUT_MAX)
            ));
        }
        if heartbeat.is_zero() || heartbeat > election / 5 {
            problems.push(format!(
                "raft.heartbeat_interval {} must be above 0 and at most a fifth of \
                 raft.election_timeout {}: else one late heartbeat starts an election",
                written(heartbeat),
                written(election)
            ));
        }
    }

    fn check_sizes(&self, problems: &mut Vec<String>) {
        let limits = &self.limits;
        let mut within = |key: &str, size: Size, min: Size, max: Size| {
            if size < min || size > max {
                problems.push(format!("{key} {size} is out of range: {min} to {max}"));
            }
        };
        let terabyte = Size::mib(1 << 20);
        within("limits.key_bytes_max", limits.key_bytes_max, Size::bytes(1), KEY_BYTES_MAX);
        within("limits.value_bytes_max", limits.value_bytes_max, Size::bytes(1), VALUE_BYTES_MAX);
        within("limits.budget_bytes", limits.budget_bytes, Size::mib(1), terabyte);
        within("storage.memtable_bytes", self.storage.memtable_bytes, Size::mib(1), terabyte);
        within("storage.cache_bytes", self.storage.cache_bytes, Size::mib(1), terabyte);
        within("storage.segment_bytes", self.storage.segment_bytes, Size::mib(1), Size::mib(1024));
        let segment_bytes_min = segment_bytes_min(limits.value_bytes_max.get());
        if self.storage.segment_bytes.get() < segment_bytes_min {
            problems.push(format!(
                "storage.segment_bytes {} is too small for limits.value_bytes_max {}: at least {}",
                self.storage.segment_bytes,
                limits.value_bytes_max,
                Size::bytes(segment_bytes_min)
            ));
        }
        if limits.budget_bytes.get() < limits.value_bytes_max.get().saturating_mul(2) {
            problems.push(format!(
                "limits.budget_bytes {} is less than twice limits.value_bytes_max {}: one big \
                 value would shut everybody else out",
                limits.budget_bytes, limits.value_bytes_max
            ));
        }
        if limits.connections_max == 0 {
            problems.push("limits.connections_max is 0: no client could connect".to_owned());
        }
        if self.storage.checkpoint_age < Duration::from_secs(1) {
            problems.push(format!(
                "storage.checkpoint_age {} is too short: at least 1s",
                humantime::format_duration(self.storage.checkpoint_age)
            ));
        }
    }

    fn check_disk(&self, problems: &mut Vec<String>) {
        let storage = &self.storage;
        let mut within = |key: &str, size: Size, min: Size, max: Size| {
            if size < min || size > max {
                problems.push(format!("{key} {size} is out of range: {min} to {max}"));
            }
        };
        let terabyte = Size::mib(1 << 20);
        within("storage.disk_reserve", storage.disk_reserve, Size::mib(16), terabyte);
        let merged = storage.merged_memtable_bytes;
        within("storage.merged_memtable_bytes", merged, Size::bytes(0), terabyte);
        within("storage.log_retain", storage.log_retain, Size::mib(16), terabyte);
        within("storage.snapshot_rate", storage.snapshot_rate, Size::mib(1), terabyte);
        let mut at_least = |key: &str, duration: Duration, min: Duration| {
            if duration < min {
                problems.push(format!(
                    "{key} {} is too short: at least {}",
                    humantime::format_duration(duration),
                    humantime::format_duration(min)
                ));
            }
        };
        at_least("storage.disk_stall_max", storage.disk_stall_max, Duration::from_millis(100));
        at_least("raft.clock_skew_max", self.raft.clock_skew_max, Duration::from_millis(100));
        let drift = self.raft.clock_drift_max;
        if drift > ClockDrift::MAX {
            let most = ClockDrift::MAX;
            problems.push(format!("raft.clock_drift_max {drift} is too much: at most {most}"));
        }
    }
}

/// True if only this machine can reach `address`: its host is a loopback address or `localhost`.
///
/// Other names are not resolved: what a name means today it need not mean tomorrow.
pub fn is_loopback(address: &str) -> bool {
    match split_address(address) {
        Some((host, _)) => match host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        },
        None => false,
    }
}
