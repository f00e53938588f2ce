//! Names of servers become addresses.

use std::net::SocketAddr;

use anyhow::{Context, bail};

/// The first address of each of `hosts` (`HOST:PORT`), at least one.
///
/// # Errors
///
/// If there are no hosts, or one has no address.
pub(super) async fn resolve(hosts: &[String]) -> anyhow::Result<Vec<SocketAddr>> {
    let mut addresses = Vec::with_capacity(hosts.len());
    for host in hosts {
        let mut found =
            tokio::net::lookup_host(host).await.with_context(|| format!("cannot find {host}"))?;
        addresses.push(found.next().with_context(|| format!("{host} has no address"))?);
    }
    if addresses.is_empty() {
        bail!("no servers are named");
    }
    Ok(addresses)
}
