//! Ports that nobody listens on.
//!
//! They lie below the range from which the kernel takes ports for outgoing connections. A killed
//! node's port would otherwise be given to some client before the node is back, and a client that
//! dials a port nobody listens on may even meet itself.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::bail;
use rand::Rng;

/// Linux gives outgoing connections ports from 32768 on.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// `count` different free loopback ports.
///
/// Another process may take one before it is used; the server that wants it then says so.
pub(crate) fn free_ports(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let begin = rand::rng().random_range(PORTS);
    let rotated = (begin..PORTS.end).chain(PORTS.start..begin);
    // All are held until all are found, so that they differ.
    let held: Vec<TcpListener> = rotated
        .filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
        .take(count)
        .collect();
    if held.len() < count {
        bail!("there are no {count} free ports in {PORTS:?}");
    }
    Ok(held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ports_differ_and_are_free() {
        let ports = free_ports(9).unwrap();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 9);
        assert!(ports.iter().all(|address| PORTS.contains(&address.port())));
        assert!(TcpListener::bind(ports[0]).is_ok());
    }
}
