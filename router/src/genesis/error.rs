//! Why a node cannot take part in the birth of its cluster, in words that say what to do.

use super::StoreError;
use flotilla_shard::NodeId;

/// Why [`agree`](super::agree) gave up. None of these heals by waiting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenesisError {
    /// The options make no sense on their own.
    #[error("{0}")]
    BadOptions(String),
    /// The operator's cluster name is not the one that the others, or the directory, have.
    #[error(
        "this node is configured for the cluster {mine:?}, but {who} belongs to {theirs:?}: \
         correct --cluster-name, or the address of that peer"
    )]
    OtherCluster {
        /// As configured here.
        mine: String,
        /// As found there.
        theirs: String,
        /// Where it was found.
        who: String,
    },
    /// Same name, but two births.
    #[error(
        "{who} belongs to another cluster of the same name (id {theirs:032x}, not {mine:032x}): \
         two clusters cannot be joined; correct --peers, or start this node on its own directory"
    )]
    OtherBirth {
        /// This node's cluster id.
        mine: u128,
        /// The other's.
        theirs: u128,
        /// Who has it.
        who: String,
    },
    /// Two lists of peers name different nodes.
    #[error(
        "contradictory peer lists: this node lists the nodes {mine}, but {who} lists {theirs}: \
         give all nodes the same --peers"
    )]
    OtherPeers {
        /// As configured here.
        mine: String,
        /// As found there.
        theirs: String,
        /// Where it was found.
        who: String,
    },
    /// Other shard boundaries than elsewhere.
    #[error(
        "this node was started with {mine}, but {who} has {theirs}: start all nodes with the \
         same --shards or --split-at as at the cluster's birth (shards are chosen once)"
    )]
    OtherShards {
        /// As configured here.
        mine: String,
        /// As found there.
        theirs: String,
        /// Where it was found.
        who: String,
    },
    /// The cluster knew this node with another directory.
    #[error(
        "{who} knows node {me} with another data directory (incarnation {known:016x}, this one is \
         {mine:016x}): having forgotten its votes it would vote twice. Restore the original \
         directory of node {me}; replacing a node for good comes with membership changes. Only if \
         the cluster never came up: empty the data directories of all nodes and start again"
    )]
    OtherIncarnation {
        /// This node.
        me: NodeId,
        /// Of this directory.
        mine: u64,
        /// As the cluster was born with it.
        known: u64,
        /// Who says so.
        who: String,
    },
    /// The directory is the right one, but lost the record of the birth that it had stored.
    #[error(
        "{who} holds a birth record that this directory of node {me} had stored and no longer \
         has: the directory lost durable data (restored from an early copy?). Restore a complete \
         one"
    )]
    BirthForgotten {
        /// This node.
        me: NodeId,
        /// Who holds the record.
        who: String,
    },
    /// The cluster was born without this node.
    #[error(
        "node {me} is not a member of the cluster that {who} belongs to (members: {members}): \
         correct --node-id or --peers; adding nodes comes with membership changes"
    )]
    NotAMember {
        /// This node.
        me: NodeId,
        /// Who says so.
        who: String,
        /// Whom the cluster was born with.
        members: String,
    },
    /// Somebody else claims this node's id.
    #[error(
        "two nodes claim the id {me}: {who} knows another one that is running. Give each node \
         its own --node-id"
    )]
    DuplicateNode {
        /// The id.
        me: NodeId,
        /// Who noticed.
        who: String,
    },
    /// A peer's address leads elsewhere.
    #[error(
        "the address {address} is listed for node {listed}, but {found} answers there: correct \
         --peers"
    )]
    WrongAddress {
        /// As configured here.
        address: String,
        /// Whom it was listed for.
        listed: NodeId,
        /// Who answered.
        found: String,
    },
    /// Software or data of another format.
    #[error(
        "{who} uses format version {theirs}, this node {mine}: run releases of the same format \
         on all nodes"
    )]
    OtherFormat {
        /// Of this release.
        mine: u32,
        /// Of the other.
        theirs: u32,
        /// Who.
        who: String,
    },
    /// A peer refused, in its own words.
    #[error("{who} refused: {reason}")]
    Refused {
        /// Who.
        who: String,
        /// Its words.
        reason: String,
    },
    /// The directory could not be read or written.
    #[error("the record of the cluster's birth cannot be {action}: {source}")]
    Store {
        /// "read" or "written".
        action: &'static str,
        /// Why.
        source: StoreError,
    },
    /// The peer port failed.
    #[error("the peer port cannot be used: {0}")]
    Listener(#[source] std::io::Error),
}
