//! What lies between the nodes, whichever way it is made.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use crate::proxy::Weather;

use super::fault::Kind;
use super::namespaces::Namespaces;

/// What lies between the nodes.
pub enum Network {
    /// Proxies of this program, which the cluster holds.
    Proxies,
    /// Network namespaces and a router.
    Namespaces(Namespaces),
}

impl Network {
    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Network::Proxies => "proxies",
            Network::Namespaces(_) => "network namespaces",
        }
    }

    /// What it cannot do, and why.
    pub fn lacks(&self) -> &'static [(Kind, &'static str)] {
        match self {
            Network::Proxies => &[],
            Network::Namespaces(_) => &[
                (Kind::Delay, "delaying packets needs netem; --network proxies delays frames"),
                (Kind::Cut, "only proxies see connections; --network proxies closes them"),
            ],
        }
    }

    /// Makes the weather what `weather` says, for each pair of nodes and direction.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn set_weather(
        &self,
        cluster: &Cluster,
        weather: &BTreeMap<(u64, u64), Weather>,
    ) -> anyhow::Result<()> {
        match self {
            Network::Proxies => {
                let proxies = cluster.proxies().expect("it was started through proxies");
                weather.iter().for_each(|(way, weather)| proxies.set_weather(*way, *weather));
                Ok(())
            }
            Network::Namespaces(namespaces) => namespaces.set_weather(weather),
        }
    }

    /// Closes all connections between `victims` and the others, if it can.
    pub fn cut(&self, cluster: &Cluster, victims: &BTreeSet<u64>) {
        match self {
            Network::Proxies => {
                let proxies = cluster.proxies().expect("it was started through proxies");
                let links = proxies.links().into_iter();
                links
                    .filter(|(from, to)| victims.contains(from) || victims.contains(to))
                    .for_each(|link| proxies.cut(link));
            }
            Network::Namespaces(_) => {}
        }
    }
}
