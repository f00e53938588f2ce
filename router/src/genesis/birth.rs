//! The birth of a cluster as one node lives it: views in, durable steps out. No network here.
//!
//! When two nodes contradict each other, the one that has come less far gives up, and among equals
//! the one with the higher id: so the node that proposes has the last word, an operator sees the
//! error where the mistake most likely is, and the others go on waiting for the correction.

use super::check::{check_genesis, check_options, describe_shards, list, other_addresses};
use super::error::GenesisError;
use super::view::View;
use super::{FORMAT_VERSION, Genesis, GenesisOptions, GenesisState, GenesisStore, NodeBirth};
use crate::peer::node_name;
use bytes::Bytes;
use flotilla_shard::NodeId;
use std::collections::BTreeMap;

/// How a view came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// As the answer at the address that is listed for this node: it certainly runs there.
    Dialed(NodeId),
    /// As the question of somebody who dialed us.
    Called,
}

/// Whether a view moved us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learned {
    Nothing,
    /// Our own state changed: others should hear of it.
    Advanced,
    /// Somebody else at that node's address has its id.
    Duplicate,
}

/// What a caller's word is worth.
enum Trust {
    Full,
    /// It may be the node that we know, on a new directory, or somebody else: dial and see.
    None,
    Impostor,
}

pub(super) struct Birth<'a> {
    options: GenesisOptions,
    store: &'a mut dyn GenesisStore,
    state: GenesisState,
    others: BTreeMap<NodeId, Other>,
}

/// What we know of another node.
#[derive(Default)]
struct Other {
    /// The incarnation that answers at its address.
    incarnation: Option<u64>,
    /// Somebody called with its id and this incarnation, which is not the one above.
    doubt: Option<u64>,
    /// A doubt that outlived dialing again: two nodes run with one id.
    impostor: Option<u64>,
    rank: u8,
    split_keys: Option<Vec<Bytes>>,
    /// It was told, or could not be told, that the birth is over.
    farewell: bool,
    trouble: Option<String>,
    /// Its list of addresses was compared with ours.
    is_compared: bool,
}

impl<'a> Birth<'a> {
    pub(super) fn new(
        options: GenesisOptions,
        store: &'a mut dyn GenesisStore,
    ) -> Result<Birth<'a>, GenesisError> {
        check_options(&options)?;
        let state =
            store.load().map_err(|source| GenesisError::Store { action: "read", source })?;
        if let Some(genesis) = state.genesis() {
            check_genesis(&options, genesis, "this node's data directory".to_owned())?;
        }
        let others = options.peers.keys().filter(|node| **node != options.me);
        let others = others.map(|node| (*node, Other::default())).collect();
        let mut birth = Birth { options, store, state, others };
        birth.advance()?;
        Ok(birth)
    }

    pub(super) fn others(&self) -> Vec<(NodeId, String)> {
        self.others.keys().map(|node| (*node, self.options.peers[node].clone())).collect()
    }

    /// The decided genesis.
    pub(super) fn committed(&self) -> Option<&Genesis> {
        match &self.state {
            GenesisState::Committed(genesis) => Some(genesis),
            _ => None,
        }
    }

    fn coordinator(&self) -> NodeId {
        *self.options.peers.keys().next().expect("this node at least is listed")
    }

    fn is_coordinator(&self) -> bool {
        self.coordinator() == self.options.me
    }

    /// What this node shows.
    pub(super) fn view(&self) -> View {
        View {
            cluster_name: self.options.cluster_name.clone(),
            from: self.options.me,
            incarnation: self.options.incarnation,
            members: self.options.peers.clone(),
            split_keys: self.options.split_keys.clone(),
            state: self.state.clone(),
        }
    }

    /// Takes in what another node shows of itself.
    ///
    /// # Errors
    ///
    /// When this node has to give up: the view was an answer and outranks this node's own, or the
    /// store failed.
    pub(super) fn learn(&mut self, view: &View, how: How) -> Result<Learned, GenesisError> {
        let who = match how {
            How::Dialed(listed) if listed != view.from => {
                format!("{} (at the address of node {listed})", node_name(view.from))
            }
            _ => node_name(view.from),
        };
        let contradiction = match self.contradiction(view, &who) {
            Some(contradiction) => Some(contradiction),
            None => self.misplaced(view, how),
        };
        if let Some(error) = contradiction {
            if let How::Dialed(_) = how
                && (self.yields_to(view) || matches!(error, GenesisError::WrongAddress { .. }))
            {
                return Err(error);
            }
            let listed = if let How::Dialed(listed) = how { listed } else { view.from };
            self.contradicted(listed, contradiction_from_here(&error, view));
            return Ok(Learned::Nothing);
        }
        if view.from == self.options.me {
            // Somebody calls with our own id: either we reached ourselves, which the dialing end
            // notices, or there are two of us.
            let oneself = view.incarnation == self.options.incarnation;
            return Ok(if oneself { Learned::Nothing } else { Learned::Duplicate });
        }
        match self.remember(view, how) {
            Trust::Full => {
                self.compare_addresses(view);
                self.follow(view)
            }
            Trust::None => Ok(Learned::Nothing),
            Trust::Impostor => Ok(Learned::Duplicate),
        }
    }

    /// Says once for each node what it lists otherwise than this one. Not an error: a node may have
    /// several addresses, and they may change.
    fn compare_addresses(&mut self, view: &View) {
        let Some(other) = self.others.get_mut(&view.from) else { return };
        if std::mem::replace(&mut other.is_compared, true) {
            return;
        }
        for (node, mine, theirs) in other_addresses(&self.options.peers, &view.members) {
            tracing::warn!(
                node = node.0,
                here = mine,
                there = theirs,
                "{} lists another address for node {node} than this node: make sure that both lead \
                 to it",
                node_name(view.from)
            );
        }
    }

    /// What is wrong between this node and the one that shows `view`, in this node's words.
    fn contradiction(&self, view: &View, who: &str) -> Option<GenesisError> {
        let who = who.to_owned();
        let options = &self.options;
        if view.cluster_name != options.cluster_name {
            return Some(GenesisError::OtherCluster {
                mine: options.cluster_name.clone(),
                theirs: view.cluster_name.clone(),
                who,
            });
        }
        if let (Some(mine), Some(theirs)) = (self.state.genesis(), view.state.genesis())
            && mine != theirs
        {
            let (mine, theirs) = (mine.cluster_id, theirs.cluster_id);
            return Some(GenesisError::OtherBirth { mine, theirs, who });
        }
        if let Some(theirs) = view.state.genesis()
            && let Err(error) = check_genesis(options, theirs, who.clone())
        {
            return Some(error);
        }
        let same_peers = view.members.keys().eq(options.peers.keys());
        if !same_peers || !options.peers.contains_key(&view.from) {
            return Some(GenesisError::OtherPeers {
                mine: list(options.peers.keys()),
                theirs: list(view.members.keys()),
                who,
            });
        }
        if let Some(mine) = self.state.genesis()
            && let Some(known) = mine.nodes.get(&view.from)
            && known.incarnation != view.incarnation
        {
            return Some(GenesisError::OtherIncarnation {
                me: view.from,
                mine: view.incarnation,
                known: known.incarnation,
                who: node_name(options.me),
            });
        }
        let is_forgotten = self.state == GenesisState::Blank
            && match &view.state {
                GenesisState::Blank => false,
                GenesisState::Prepared(_) => self.is_coordinator(),
                GenesisState::Committed(_) => true,
            };
        if is_forgotten {
            return Some(GenesisError::BirthForgotten { me: options.me, who });
        }
        self.other_shards(view, who)
    }

    /// Two nodes contradict each other about shards only if one of them decides about them, or
    /// already has.
    fn other_shards(&self, view: &View, who: String) -> Option<GenesisError> {
        let decided = |state: &'_ GenesisState, keys: &Option<Vec<Bytes>>| match state.genesis() {
            Some(genesis) => Some(genesis.split_keys.clone()),
            None => keys.clone(),
        };
        let one_decides = self.is_coordinator()
            || view.from == self.coordinator()
            || self.state.genesis().is_some()
            || view.state.genesis().is_some();
        let mine = decided(&self.state, &self.options.split_keys)?;
        let theirs = decided(&view.state, &view.split_keys)?;
        (one_decides && mine != theirs).then(|| GenesisError::OtherShards {
            mine: describe_shards(&mine),
            theirs: describe_shards(&theirs),
            who,
        })
    }

    /// True if this node gives up when it and the one that shows `view` contradict each other.
    fn yields_to(&self, view: &View) -> bool {
        let (mine, theirs) = (self.state.rank(), view.state.rank());
        mine < theirs || (mine == theirs && self.options.me >= view.from)
    }

    /// An answer from a node that should not live at that address.
    fn misplaced(&self, view: &View, how: How) -> Option<GenesisError> {
        match how {
            How::Dialed(listed) if listed != view.from => {
                let oneself =
                    view.from == self.options.me && view.incarnation == self.options.incarnation;
                Some(GenesisError::WrongAddress {
                    address: self.options.peers[&listed].clone(),
                    listed,
                    found: if oneself { "this node itself".into() } else { node_name(view.from) },
                })
            }
            _ => None,
        }
    }

    /// Notes what a view that fits says about its node.
    fn remember(&mut self, view: &View, how: How) -> Trust {
        let other = self.others.get_mut(&view.from).expect("both lists name the same nodes");
        match how {
            How::Dialed(_) => {
                // Whoever lives at the listed address is the node; another caller is not.
                let doubt = other.doubt.take().or(other.impostor);
                other.impostor = doubt.filter(|doubt| *doubt != view.incarnation);
                other.incarnation = Some(view.incarnation);
            }
            How::Called if other.impostor == Some(view.incarnation) => return Trust::Impostor,
            How::Called => {
                if other.incarnation.is_some_and(|known| known != view.incarnation) {
                    other.doubt = Some(view.incarnation);
                    return Trust::None;
                }
            }
        }
        other.rank = view.state.rank();
        other.split_keys = view.split_keys.clone();
        other.trouble = None;
        Trust::Full
    }

    /// Takes the step that a view that fits allows.
    fn follow(&mut self, view: &View) -> Result<Learned, GenesisError> {
        let before = self.state.rank();
        match (&self.state, &view.state) {
            (GenesisState::Blank, GenesisState::Prepared(genesis))
                if view.from == self.coordinator() && genesis.coordinator() == view.from =>
            {
                self.prepare(genesis.clone())?;
            }
            (GenesisState::Prepared(mine), GenesisState::Committed(_)) => {
                let genesis = mine.clone();
                self.commit(genesis)?;
            }
            _ => {}
        }
        self.advance()?;
        Ok(if self.state.rank() > before { Learned::Advanced } else { Learned::Nothing })
    }

    /// The coordinator's own steps.
    fn advance(&mut self) -> Result<(), GenesisError> {
        if !self.is_coordinator() {
            return Ok(());
        }
        if self.state == GenesisState::Blank {
            let known = |other: &Other| other.incarnation.is_some() && other.doubt.is_none();
            if !self.others.values().all(known) {
                return Ok(());
            }
            let genesis = self.propose();
            self.prepare(genesis)?;
        }
        if let GenesisState::Prepared(genesis) = &self.state
            && self.others.values().all(|other| other.rank >= 1)
        {
            let genesis = genesis.clone();
            self.commit(genesis)?;
        }
        Ok(())
    }

    fn propose(&self) -> Genesis {
        let options = &self.options;
        let births = options.peers.iter().map(|(node, address)| {
            let incarnation = match self.others.get(node) {
                Some(other) => other.incarnation.expect("proposed when all are known"),
                None => options.incarnation,
            };
            (*node, NodeBirth { incarnation, address: address.clone() })
        });
        let said = self.others.values().find_map(|other| other.split_keys.clone());
        Genesis {
            format_version: FORMAT_VERSION,
            cluster_name: options.cluster_name.clone(),
            cluster_id: rand::random(),
            nodes: births.collect(),
            split_keys: options.split_keys.clone().or(said).unwrap_or_default(),
        }
    }

    fn prepare(&mut self, genesis: Genesis) -> Result<(), GenesisError> {
        assert_eq!(self.state, GenesisState::Blank, "a birth was prepared twice");
        self.store
            .save_prepared(&genesis)
            .map_err(|source| GenesisError::Store { action: "written", source })?;
        self.state = GenesisState::Prepared(genesis);
        Ok(())
    }

    fn commit(&mut self, genesis: Genesis) -> Result<(), GenesisError> {
        assert_eq!(self.state.genesis(), Some(&genesis), "committed what was not prepared");
        self.store
            .save_committed(&genesis)
            .map_err(|source| GenesisError::Store { action: "written", source })?;
        self.state = GenesisState::Committed(genesis);
        Ok(())
    }

    /// True once there is nothing more to ask `node`, or to tell it.
    pub(super) fn is_done_with(&self, node: NodeId) -> bool {
        let other = &self.others[&node];
        self.committed().is_some() && (!self.is_coordinator() || other.rank == 2 || other.farewell)
    }

    /// True if we have not heard from `node` at its own address, or no longer trust what we heard.
    pub(super) fn is_due(&self, node: NodeId) -> bool {
        let other = self.others.get(&node);
        other.is_some_and(|other| other.incarnation.is_none() || other.doubt.is_some())
    }

    /// `node` could not be asked; nobody waits for it once the birth is over.
    pub(super) fn failed(&mut self, node: NodeId, error: String) {
        let is_over = self.committed().is_some();
        if let Some(other) = self.others.get_mut(&node) {
            other.farewell |= is_over;
            // It may come back on another directory: what is proposed must be fresh.
            other.incarnation = None;
            other.trouble = Some(error);
        }
    }

    fn contradicted(&mut self, node: NodeId, text: String) {
        if let Some(other) = self.others.get_mut(&node)
            && other.trouble.as_ref() != Some(&text)
        {
            tracing::warn!(peer = %node, text, "the cluster's birth cannot go on");
            other.trouble = Some(text);
        }
    }

    /// Whom this node waits for, and why.
    pub(super) fn waiting_for(&self) -> Vec<String> {
        let rank = self.state.rank();
        let is_missing = |other: &Other| {
            other.trouble.is_some() || other.incarnation.is_none() || (rank == 1 && other.rank == 0)
        };
        let mut missing: Vec<String> = self
            .others
            .iter()
            .filter(|(_, other)| is_missing(other))
            .map(|(node, other)| {
                let address = &self.options.peers[node];
                let why = other.trouble.as_deref().unwrap_or("not heard from yet");
                format!("node {node} at {address} ({why})")
            })
            .collect();
        if missing.is_empty() && !self.is_coordinator() {
            missing.push(format!("node {}, which proposes", self.coordinator()));
        }
        missing
    }
}

/// A contradiction that the other node has to resolve.
fn contradiction_from_here(error: &GenesisError, view: &View) -> String {
    match error {
        GenesisError::OtherIncarnation { me, .. } if *me == view.from => {
            format!("it comes with another data directory than the cluster knows: {error}")
        }
        _ => format!("it contradicts this node: {error}"),
    }
}
