//! A network namespace for each node, and a router between them that loses what it is told to.
//!
//! ```text
//!   this program ── link 0 ──┐
//!   node 1 ──────── link 1 ──┤ router
//!   node 2 ──────── link 2 ──┘
//! ```
//!
//! Every end has an address of its own in 10.S.N.0/30. What nodes send each other, and what clients
//! send them, passes the router, where packets are dropped by the addresses of their ends: so TCP
//! itself has to cope, with retransmission, backed-off timers and half-open connections.
//!
//! Invariants:
//!
//! * Everything made here is gone when it is dropped, but for what a SIGKILL leaves behind:
//!   namespaces called `flotilla-PROCESS-…`, which `ip netns delete` removes.
//! * Clients are never cut off from nodes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, bail};

use crate::cluster::{Addresses, Site};
use crate::proxy::Weather;

/// Where nodes listen: nobody else is in their namespaces.
const PEER_PORT: u16 = 7101;
const RESP_PORT: u16 = 7001;
const ADMIN_PORT: u16 = 7201;
/// Second parts of addresses that are tried.
const SUBNETS: std::ops::Range<u8> = 101..250;

/// Namespaces, links and a router.
pub struct Namespaces {
    /// How all names here begin.
    prefix: String,
    subnet: u8,
    nodes: u64,
    made: Vec<String>,
    /// Which nodes have narrow links, in bytes per second.
    rates: Mutex<BTreeMap<u64, u64>>,
}

impl Namespaces {
    /// Makes them for `nodes` nodes, and tries each tool once.
    ///
    /// # Errors
    ///
    /// Why that is not possible here.
    pub fn make(nodes: u64) -> anyhow::Result<Namespaces> {
        if !rustix::process::geteuid().is_root() {
            bail!("network namespaces need root");
        }
        let mut made = Namespaces {
            prefix: format!("flotilla-{}", std::process::id()),
            subnet: free_subnet()?,
            nodes,
            made: Vec::new(),
            rates: Mutex::default(),
        };
        made.build()?;
        // A system that cannot lose packets at random shall say so now.
        let (lossy, narrow) = (500, Some(1 << 20));
        let bad = Weather { lost_per_mille: lossy, bytes_per_second: narrow, ..Weather::FAIR };
        for weather in [bad, Weather::FAIR] {
            let ways = (2..=nodes).map(|from| ((from, 1), weather)).collect();
            made.set_weather(&ways)?;
        }
        Ok(made)
    }

    fn build(&mut self) -> anyhow::Result<()> {
        let router = self.name("router");
        self.add(&router)?;
        self.in_router(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])?;
        for node in 0..=self.nodes {
            let (ours, theirs) = (self.address(node, 1), self.address(node, 2));
            // Interface names have at most 15 characters.
            let (near, far) =
                (format!("fl{}r{node}", self.subnet), format!("fl{}n{node}", self.subnet));
            ip(&["link", "add", &near, "netns", &router, "type", "veth", "peer", "name", &far])?;
            self.in_router(&["ip", "address", "add", &format!("{ours}/30"), "dev", &near])?;
            self.in_router(&["ip", "link", "set", &near, "up"])?;
            let gateway = ours.to_string();
            if node == 0 {
                ip(&["address", "add", &format!("{theirs}/30"), "dev", &far])?;
                ip(&["link", "set", &far, "up"])?;
                ip(&["route", "add", &format!("10.{}.0.0/16", self.subnet), "via", &gateway])?;
                continue;
            }
            let name = self.name(&node.to_string());
            self.add(&name)?;
            ip(&["link", "set", &far, "netns", &name])?;
            let inside = |arguments: &[&str]| ip(&[&["-n", &name], arguments].concat());
            inside(&["address", "add", &format!("{theirs}/30"), "dev", &far])?;
            inside(&["link", "set", "lo", "up"])?;
            inside(&["link", "set", &far, "up"])?;
            inside(&["route", "add", "default", "via", &gateway])?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str) -> anyhow::Result<()> {
        ip(&["netns", "add", name])?;
        self.made.push(name.to_owned());
        Ok(())
    }

    fn name(&self, of: &str) -> String {
        format!("{}-{of}", self.prefix)
    }

    fn address(&self, node: u64, end: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.subnet, u8::try_from(node).expect("a handful of nodes"), end)
    }

    fn in_router(&self, command: &[&str]) -> anyhow::Result<()> {
        ip(&[&["netns", "exec", &self.name("router")], command].concat())
    }

    /// Where the nodes live.
    pub fn site(&self) -> Site {
        let mut addresses = BTreeMap::new();
        let mut wrappers = BTreeMap::new();
        for node in 1..=self.nodes {
            let at = |port| SocketAddr::from((self.address(node, 2), port));
            let listens =
                Addresses { peer: at(PEER_PORT), resp: at(RESP_PORT), admin: at(ADMIN_PORT) };
            addresses.insert(node, listens);
            let enter = ["ip", "netns", "exec", &self.name(&node.to_string())].map(str::to_owned);
            wrappers.insert(node, enter.to_vec());
        }
        Site { wrappers, ..Site::of(addresses) }
    }

    /// Makes the weather between the nodes what `weather` says.
    ///
    /// # Errors
    ///
    /// If a tool refuses.
    pub fn set_weather(&self, weather: &BTreeMap<(u64, u64), Weather>) -> anyhow::Result<()> {
        // All rules at once: there is no moment with some of them.
        let mut table = "*filter\n-F FORWARD\n".to_owned();
        for ((from, to), weather) in weather {
            let (from, to) = (self.address(*from, 2), self.address(*to, 2));
            for rule in rules(*weather) {
                writeln!(table, "-A FORWARD -s {from} -d {to} {rule}-j DROP")?;
            }
        }
        table.push_str("COMMIT\n");
        let router = self.name("router");
        run_with(&["netns", "exec", &router, "iptables-restore", "-w", "--noflush"], &table)?;
        self.set_rates(weather)
    }

    /// A narrow link is narrow towards the node, whoever sends: also for clients.
    fn set_rates(&self, weather: &BTreeMap<(u64, u64), Weather>) -> anyhow::Result<()> {
        let mut rates = self.rates.lock().expect("nobody panics while holding it");
        for node in 1..=self.nodes {
            // The one that is narrow has narrow ways to all others.
            let mut ways = weather.iter().filter(|((_, to), _)| *to == node);
            let all_narrow = ways.clone().all(|(_, weather)| weather.bytes_per_second.is_some());
            let rate =
                ways.find_map(|(_, weather)| weather.bytes_per_second).filter(|_| all_narrow);
            if rate == rates.get(&node).copied() {
                continue;
            }
            let device = format!("fl{}r{node}", self.subnet);
            match rate {
                Some(rate) => {
                    let rate_bits = format!("{}bit", rate * 8);
                    let shape = ["rate", &rate_bits, "burst", "16kb", "latency", "200ms"];
                    let add = ["tc", "qdisc", "replace", "dev", &device, "root", "tbf"];
                    self.in_router(&[&add[..], &shape].concat())?;
                    rates.insert(node, rate);
                }
                None => {
                    self.in_router(&["tc", "qdisc", "delete", "dev", &device, "root"])?;
                    rates.remove(&node);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // With the router the link of this program goes, and with that its route.
        for name in self.made.drain(..) {
            if let Err(error) = ip(&["netns", "delete", &name]) {
                eprintln!("warning: {error:#}");
            }
        }
    }
}

/// What must match for a packet to be dropped besides its ends; one rule each.
fn rules(weather: Weather) -> Vec<String> {
    let mut rules = Vec::new();
    if weather.held {
        rules.push(String::new());
    }
    if weather.lost_per_mille > 0 {
        let probability = f64::from(weather.lost_per_mille) / 1000.0;
        rules.push(format!("-m statistic --mode random --probability {probability:.3} "));
    }
    rules
}

/// A part of 10.0.0.0/8 to which this machine has no route of its own.
fn free_subnet() -> anyhow::Result<u8> {
    let output = Command::new("ip").args(["-4", "route", "show"]).output();
    let output = output.context("cannot run ip")?;
    let routes = String::from_utf8_lossy(&output.stdout).into_owned();
    let begin = u8::try_from(std::process::id() % u32::from(SUBNETS.end - SUBNETS.start))
        .expect("less than the number of subnets")
        + SUBNETS.start;
    let mut candidates = (begin..SUBNETS.end).chain(SUBNETS.start..begin);
    let free = candidates.find(|subnet| !routes.contains(&format!("10.{subnet}.")));
    free.context("no part of 10.0.0.0/8 is free")
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    run_with(arguments, "")
}

/// Runs `ip` with something to read.
fn run_with(arguments: &[&str], input: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip")?;
    // Taken, so that the end of the input is seen. Who does not read it says what is wrong.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`ip {}` ended with {}: {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weather_is_rules() {
        assert_eq!(rules(Weather::FAIR), Vec::<String>::new());
        assert_eq!(rules(Weather { held: true, ..Weather::FAIR }), [""]);
        let lossy = rules(Weather { lost_per_mille: 20, ..Weather::FAIR });
        assert_eq!(lossy, ["-m statistic --mode random --probability 0.020 "]);
    }
}
