//! Where the nodes of a cluster live: addresses, what lies between them, directories.
//!
//! What is absent: processes, which are started from it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::proxy::Proxies;

use super::ports;
use super::process::Addresses;

/// Where each node of a cluster lives.
pub struct Site {
    /// Where each node listens; these are the nodes.
    pub addresses: BTreeMap<u64, Addresses>,
    /// What the nodes dial instead of each other's addresses.
    pub proxies: Option<Proxies>,
    /// Where nodes keep their data; others do in the cluster's directory.
    pub data_directories: BTreeMap<u64, PathBuf>,
    /// For nodes that are started by another program, which becomes the server: it and its arguments.
    pub wrappers: BTreeMap<u64, Vec<String>>,
}

impl Site {
    /// `nodes` nodes at free loopback addresses.
    ///
    /// # Errors
    ///
    /// If there are too few ports.
    pub fn loopback(nodes: u64) -> anyhow::Result<Site> {
        let ports = ports::free_ports(nodes as usize * 3)?;
        let addresses = (1..=nodes)
            .zip(ports.chunks_exact(3))
            .map(|(id, ports)| (id, Addresses { peer: ports[0], resp: ports[1], admin: ports[2] }))
            .collect();
        Ok(Site::of(addresses))
    }

    /// Nodes at these addresses, with nothing between them.
    pub fn of(addresses: BTreeMap<u64, Addresses>) -> Site {
        let (data_directories, wrappers) = (BTreeMap::new(), BTreeMap::new());
        Site { addresses, proxies: None, data_directories, wrappers }
    }

    /// With [`Proxies`] between them.
    ///
    /// # Errors
    ///
    /// If there are no ports for the proxies.
    pub async fn through_proxies(mut self) -> anyhow::Result<Site> {
        let listens: BTreeMap<u64, SocketAddr> =
            self.addresses.iter().map(|(id, node)| (*id, node.peer)).collect();
        self.proxies = Some(Proxies::between(&listens).await?);
        Ok(self)
    }
}
