//! Finds out what can be broken here, and starts a cluster that can be.

use std::collections::BTreeMap;

use anyhow::Context;

use crate::cluster::{Cluster, Site};

use super::disk::SmallDisk;
use super::fault::Kind;
use super::namespaces::Namespaces;
use super::network::Network;
use super::schedule::Schedule;
use super::tools::Tools;
use super::tracer::Tracer;
use super::{Between, ChaosArgs};

/// What every server is told, so that what takes hours with the defaults happens within minutes:
/// checkpoints, new journal files, logs that are cut, snapshots, and a disk that is nearly full.
const SETTINGS: [&str; 6] = [
    "FLOTILLA_STORAGE__MEMTABLE_BYTES=4MiB",
    "FLOTILLA_STORAGE__MERGED_MEMTABLE_BYTES=1MiB",
    "FLOTILLA_STORAGE__CHECKPOINT_AGE=5s",
    "FLOTILLA_STORAGE__SEGMENT_BYTES=12MiB",
    "FLOTILLA_STORAGE__LOG_RETAIN=16MiB",
    "FLOTILLA_STORAGE__DISK_RESERVE=64MiB",
];

/// A running cluster and what breaks it. The cluster ends first.
pub struct Stage {
    /// The nodes.
    pub cluster: Cluster,
    /// What lies between them.
    pub network: Network,
    /// What else there is.
    pub tools: Tools,
}

/// Prepares everything that `schedule` needs, as far as it is to be had.
///
/// # Errors
///
/// If the cluster does not start, or the network that was asked for cannot be made.
pub async fn prepare(args: &ChaosArgs, schedule: &Schedule) -> anyhow::Result<Stage> {
    let mut tools = Tools::default();
    let needs = |kind| schedule.count(kind) > 0;
    if (needs(Kind::SyncError) || needs(Kind::SyncDelay))
        && let Err(error) = Tracer::probe().await
    {
        tools.lack(Kind::SyncError, &format!("{error:#}"));
        tools.lack(Kind::SyncDelay, &format!("{error:#}"));
    }
    let (network, mut site) = network(args, &mut tools).await?;
    for node in 1..=args.cluster.nodes {
        let wrapper = site.wrappers.entry(node).or_default();
        wrapper.push("env".to_owned());
        wrapper.extend(SETTINGS.iter().map(|setting| (*setting).to_owned()));
    }
    if needs(Kind::FullDisk) {
        match SmallDisk::mount(args.cluster.dir.as_deref()) {
            Ok(disk) => {
                site.data_directories =
                    BTreeMap::from([(args.cluster.nodes, disk.data_directory())]);
                tools.set_small_disk(disk);
            }
            Err(error) => tools.lack(Kind::FullDisk, &format!("{error:#}")),
        }
    }
    let mut cluster = args.cluster.clone();
    if matches!(network, Network::Namespaces(_)) {
        // Their addresses are no loopback addresses, but nobody else is there.
        cluster.server_args.push("--insecure".to_owned());
    }
    let cluster = Cluster::start_at(&cluster, site).await.context("starting the cluster")?;
    Ok(Stage { cluster, network, tools })
}

async fn network(args: &ChaosArgs, tools: &mut Tools) -> anyhow::Result<(Network, Site)> {
    let nodes = args.cluster.nodes;
    let namespaces = match args.network {
        Between::Proxies => None,
        Between::Namespaces => Some(Namespaces::make(nodes)?),
        Between::Auto => match Namespaces::make(nodes) {
            Ok(namespaces) => Some(namespaces),
            Err(error) => {
                println!("proxies between the nodes, because network namespaces fail: {error:#}");
                None
            }
        },
    };
    let (network, site) = match namespaces {
        Some(namespaces) => {
            let site = namespaces.site();
            (Network::Namespaces(namespaces), site)
        }
        None => (Network::Proxies, Site::loopback(nodes)?.through_proxies().await?),
    };
    network.lacks().iter().for_each(|(kind, reason)| tools.lack(*kind, reason));
    Ok((network, site))
}
