//! What the operator says, checked on its own and against a genesis. No network, no other node.

use super::error::GenesisError;
use super::{FORMAT_VERSION, Genesis, GenesisOptions};
use bytes::Bytes;
use flotilla_shard::NodeId;
use std::collections::BTreeMap;

/// Longest split key: as long as a key may be.
const SPLIT_KEY_BYTES_MAX: usize = 4096;
/// All split keys together.
const SPLIT_BYTES_MAX: usize = 1 << 20;
const CLUSTER_NAME_BYTES_MAX: usize = 255;

/// Checks what needs no network.
///
/// # Errors
///
/// [`GenesisError::BadOptions`], in words for the operator.
pub fn check_options(options: &GenesisOptions) -> Result<(), GenesisError> {
    let bad = |text: String| Err(GenesisError::BadOptions(text));
    if options.cluster_name.is_empty() || options.cluster_name.len() > CLUSTER_NAME_BYTES_MAX {
        return bad(format!("a cluster name has 1 to {CLUSTER_NAME_BYTES_MAX} bytes"));
    }
    if !options.peers.contains_key(&options.me) {
        let (me, listed) = (options.me, list(options.peers.keys()));
        return bad(format!(
            "node {me} is not among the peers (nodes {listed}): --peers lists every node of the \
             cluster, this one included"
        ));
    }
    if options.peers.contains_key(&NodeId(0)) {
        return bad("node ids begin with 1".to_owned());
    }
    let mut owners: BTreeMap<&str, NodeId> = BTreeMap::new();
    for (node, address) in &options.peers {
        if address.is_empty() && options.peers.len() > 1 {
            return bad(format!("node {node} is listed without an address"));
        }
        if let Some(other) = owners.insert(address, *node) {
            return bad(format!(
                "the address {address} is listed for node {other} and for node {node}: give each \
                 its own"
            ));
        }
    }
    let keys = options.split_keys.as_deref().unwrap_or_default();
    let mut last: &[u8] = &[];
    for key in keys {
        if key.is_empty() {
            return bad("a split key is empty: shards begin after the first key".to_owned());
        }
        if key.len() > SPLIT_KEY_BYTES_MAX {
            return bad(format!("a split key is longer than {SPLIT_KEY_BYTES_MAX} bytes"));
        }
        if last >= &key[..] {
            return bad(format!(
                "split keys must ascend and differ: \"{}\" does not come after \"{}\"",
                key.escape_ascii(),
                last.escape_ascii()
            ));
        }
        last = key;
    }
    if keys.iter().map(|key| key.len() + 4).sum::<usize>() > SPLIT_BYTES_MAX {
        return bad(format!("all split keys together have more than {SPLIT_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// The genesis that `who` holds against what the operator of this node says now.
pub(super) fn check_genesis(
    options: &GenesisOptions,
    genesis: &Genesis,
    who: String,
) -> Result<(), GenesisError> {
    if genesis.format_version != FORMAT_VERSION {
        let theirs = genesis.format_version;
        return Err(GenesisError::OtherFormat { mine: FORMAT_VERSION, theirs, who });
    }
    if genesis.cluster_name != options.cluster_name {
        let mine = options.cluster_name.clone();
        let theirs = genesis.cluster_name.clone();
        return Err(GenesisError::OtherCluster { mine, theirs, who });
    }
    let Some(known) = genesis.nodes.get(&options.me) else {
        let members = list(genesis.nodes.keys());
        return Err(GenesisError::NotAMember { me: options.me, who, members });
    };
    if known.incarnation != options.incarnation {
        let (me, mine, known) = (options.me, options.incarnation, known.incarnation);
        return Err(GenesisError::OtherIncarnation { me, mine, known, who });
    }
    if !genesis.nodes.keys().eq(options.peers.keys()) {
        let mine = list(options.peers.keys());
        let theirs = list(genesis.nodes.keys());
        return Err(GenesisError::OtherPeers { mine, theirs, who });
    }
    if let Some(keys) = &options.split_keys
        && *keys != genesis.split_keys
    {
        let mine = describe_shards(keys);
        let theirs = describe_shards(&genesis.split_keys);
        return Err(GenesisError::OtherShards { mine, theirs, who });
    }
    Ok(())
}

/// Nodes for which two lists of the same nodes have different addresses: the node, its address in
/// the first, and in the second. It need not be wrong: a node may have several addresses.
pub(super) fn other_addresses<'a>(
    mine: &'a BTreeMap<NodeId, String>,
    theirs: &'a BTreeMap<NodeId, String>,
) -> Vec<(NodeId, &'a str, &'a str)> {
    let pairs = mine.iter().filter_map(|(node, address)| Some((*node, address, theirs.get(node)?)));
    let differing = pairs.filter(|(_, mine, theirs)| mine != theirs);
    differing.map(|(node, mine, theirs)| (node, &mine[..], &theirs[..])).collect()
}

/// Node ids in words.
pub(super) fn list<'n>(nodes: impl Iterator<Item = &'n NodeId>) -> String {
    nodes.map(|node| node.to_string()).collect::<Vec<_>>().join(", ")
}

/// Shards in words: how many, and the first few boundaries.
pub(super) fn describe_shards(split_keys: &[Bytes]) -> String {
    let key = |key: &Bytes| format!("\"{}\"", key[..key.len().min(24)].escape_ascii());
    let shown: Vec<String> = split_keys.iter().take(3).map(key).collect();
    match split_keys.len() {
        0 => "1 shard".to_owned(),
        count => {
            let more = if count > shown.len() { ", …" } else { "" };
            format!("{} shards (split at {}{more})", count + 1, shown.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_compared_address_by_address() {
        let list = |addresses: &[(u64, &str)]| -> BTreeMap<NodeId, String> {
            addresses.iter().map(|(node, address)| (NodeId(*node), (*address).to_owned())).collect()
        };
        let mine = list(&[(1, "a:1"), (2, "b:1"), (3, "c:1")]);
        assert!(other_addresses(&mine, &mine).is_empty());
        let theirs = list(&[(1, "a:1"), (2, "b:2"), (4, "d:1")]);
        assert_eq!(other_addresses(&mine, &theirs), [(NodeId(2), "b:1", "b:2")]);
    }
}
