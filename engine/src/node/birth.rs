//! What the cluster is: agreed with the other nodes, or found in the directory.
//!
//! Invariants:
//!
//! * No node starts under a genesis that its directory or its settings contradict.
//!
//! What is absent: the agreement's protocol (the router's `genesis`), and what follows.

use crate::directory::Directory;
use crate::error::Error;
use crate::options::NodeOptions;
use flotilla_router::genesis::{
    self, FORMAT_VERSION, Genesis, GenesisOptions, GenesisState, GenesisStore, NodeBirth,
};
use flotilla_shard::{Lanes, NodeId};
use std::collections::BTreeMap;
use std::net::TcpListener;

/// Agrees with all listed nodes on what the cluster is. Runs on a lane: the caller's executor may
/// not drive sockets.
pub(super) async fn agree(
    options: &NodeOptions,
    directory: &mut Directory,
    lanes: &Lanes,
    listener: &TcpListener,
    peers: &BTreeMap<NodeId, String>,
) -> Result<Genesis, Error> {
    let genesis_options = GenesisOptions {
        me: options.node_id,
        incarnation: directory.incarnation(),
        cluster_name: options.cluster_name.clone(),
        peers: peers.clone(),
        split_keys: options.split_keys.clone(),
    };
    let agreeing = genesis::agree(listener, genesis_options, directory);
    let agreed = run_on(lanes, agreeing).await;
    agreed.map_err(|error| Error::Cluster(error.to_string()))
}

/// Polls `future` under the first lane's runtime, so that its timers and sockets are driven there
/// while it borrows from the caller.
async fn run_on<F: Future>(lanes: &Lanes, future: F) -> F::Output {
    let handle = lanes.handles()[0].clone();
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(move |context| {
        let _entered = handle.enter();
        future.as_mut().poll(context)
    })
    .await
}

/// The birth of a cluster whose directories are all at hand: one node alone, or all in one process.
pub(super) fn be_born_together(
    options: &[&NodeOptions],
    directories: &mut [&mut Directory],
) -> Result<Genesis, Error> {
    let wanted = options[0];
    let held = directories.iter().find_map(|directory| match directory.genesis() {
        GenesisState::Committed(genesis) => Some(genesis.clone()),
        GenesisState::Blank | GenesisState::Prepared(_) => None,
    });
    let genesis = match held {
        Some(genesis) => genesis,
        None => Genesis {
            format_version: FORMAT_VERSION,
            cluster_name: wanted.cluster_name.clone(),
            cluster_id: rand::random(),
            nodes: directories
                .iter()
                .zip(options)
                .map(|(directory, options)| {
                    let incarnation = directory.incarnation();
                    (options.node_id, NodeBirth { incarnation, address: String::new() })
                })
                .collect(),
            split_keys: wanted.split_keys.clone().unwrap_or_default(),
        },
    };
    for (directory, options) in directories.iter().zip(options) {
        check_birth(&genesis, directory, options)?;
    }
    let failed = |error: genesis::StoreError| Error::Storage(error.to_string());
    for directory in directories.iter_mut() {
        if matches!(directory.genesis(), GenesisState::Blank) {
            directory.save_prepared(&genesis).map_err(failed)?;
        }
    }
    for directory in directories.iter_mut() {
        if !matches!(directory.genesis(), GenesisState::Committed(_)) {
            directory.save_committed(&genesis).map_err(failed)?;
        }
    }
    Ok(genesis)
}

fn check_birth(
    genesis: &Genesis,
    directory: &Directory,
    options: &NodeOptions,
) -> Result<(), Error> {
    let problem =
        |problem: String| Err(Error::Directory { directory: directory.path().to_owned(), problem });
    if genesis.format_version != FORMAT_VERSION {
        return problem(format!(
            "it was born with format version {}, this release writes {FORMAT_VERSION}; use the \
             release that it belongs to",
            genesis.format_version
        ));
    }
    if genesis.cluster_name != options.cluster_name {
        return problem(format!(
            "it belongs to cluster `{}`, not to `{}`",
            genesis.cluster_name, options.cluster_name
        ));
    }
    if let Some(split_keys) = &options.split_keys
        && *split_keys != genesis.split_keys
    {
        return problem(format!(
            "its cluster was born with {} shards at other keys; shards are chosen once, at birth: \
             leave the setting out, or use an empty directory",
            genesis.split_keys.len() + 1
        ));
    }
    if let GenesisState::Committed(own) | GenesisState::Prepared(own) = directory.genesis()
        && own.cluster_id != genesis.cluster_id
        && matches!(directory.genesis(), GenesisState::Committed(_))
    {
        return problem("it belongs to another cluster than the other directories".into());
    }
    match genesis.nodes.get(&options.node_id) {
        None => problem(format!(
            "its cluster was born with nodes {:?}, without node {}; a cluster keeps the nodes that \
             it was born with",
            genesis.nodes.keys().map(|node| node.0).collect::<Vec<_>>(),
            options.node_id
        )),
        Some(birth) if birth.incarnation != directory.incarnation() => problem(format!(
            "it is blank, but the cluster knew node {} with another one: it would vote twice; \
             restore the old directory",
            options.node_id
        )),
        Some(_) => Ok(()),
    }
}
