//! What a node shows of itself while its cluster is born: who it is, what it was told, and how far
//! it has come. Question and answer are the same thing.

use super::{FORMAT_VERSION, Genesis, GenesisState};
use crate::peer::TransportOptions;
use bytes::{Bytes, BytesMut};
use flotilla_shard::{DecodeError, NodeId, Reader, Writer};
use std::collections::BTreeMap;

/// No view is longer. [`check_options`](super::check_options) keeps split keys far below.
pub(crate) const GENESIS_BYTES_MAX: usize = 8 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub cluster_name: String,
    pub from: NodeId,
    pub incarnation: u64,
    pub members: BTreeMap<NodeId, String>,
    pub split_keys: Option<Vec<Bytes>>,
    pub state: GenesisState,
}

/// Why bytes are not a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ViewError {
    Format { theirs: u32 },
    Malformed(&'static str),
}

impl From<DecodeError> for ViewError {
    fn from(error: DecodeError) -> Self {
        ViewError::Malformed(error.0)
    }
}

impl View {
    /// What a running node of the cluster shows.
    pub(crate) fn of_member(options: &TransportOptions, genesis: &Genesis) -> View {
        let address = |node, at_birth: &String| {
            options.peers.get(node).map_or_else(|| at_birth.clone(), |peer| peer.address.clone())
        };
        let members = genesis.nodes.iter();
        View {
            cluster_name: genesis.cluster_name.clone(),
            from: options.me,
            incarnation: options.incarnation,
            members: members.map(|(node, birth)| (*node, address(node, &birth.address))).collect(),
            split_keys: Some(genesis.split_keys.clone()),
            state: GenesisState::Committed(genesis.clone()),
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::new();
        let mut out = Writer::new(&mut buffer);
        out.u32(FORMAT_VERSION);
        out.bytes(self.cluster_name.as_bytes());
        out.u64(self.from.0);
        out.u64(self.incarnation);
        out.u32(self.members.len() as u32);
        for (node, address) in &self.members {
            out.u64(node.0);
            out.bytes(address.as_bytes());
        }
        out.bool(self.split_keys.is_some());
        if let Some(keys) = &self.split_keys {
            out.u32(keys.len() as u32);
            keys.iter().for_each(|key| out.bytes(key));
        }
        out.u8(self.state.rank());
        if let Some(genesis) = self.state.genesis() {
            out.bytes(&genesis.encode());
        }
        buffer.freeze()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<View, ViewError> {
        let mut input = Reader::new(bytes);
        let format_version = input.u32()?;
        if format_version != FORMAT_VERSION {
            return Err(ViewError::Format { theirs: format_version });
        }
        let cluster_name = text(&mut input)?;
        let (from, incarnation) = (NodeId(input.u64()?), input.u64()?);
        let mut members = BTreeMap::new();
        for _ in 0..input.count(12)? {
            members.insert(NodeId(input.u64()?), text(&mut input)?);
        }
        let split_keys = if input.bool()? { Some(split_keys(&mut input)?) } else { None };
        let state = match input.u8()? {
            0 => GenesisState::Blank,
            1 => GenesisState::Prepared(Genesis::decode(input.bytes()?)?),
            2 => GenesisState::Committed(Genesis::decode(input.bytes()?)?),
            _ => return Err(ViewError::Malformed("an unknown stage of a cluster's birth")),
        };
        input.finish()?;
        Ok(View { cluster_name, from, incarnation, members, split_keys, state })
    }
}

impl GenesisState {
    /// Later stages outrank earlier ones.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            GenesisState::Blank => 0,
            GenesisState::Prepared(_) => 1,
            GenesisState::Committed(_) => 2,
        }
    }
}

/// Takes a string.
pub(super) fn text(input: &mut Reader) -> Result<String, DecodeError> {
    String::from_utf8(input.bytes()?.to_vec()).map_err(|_| DecodeError("a name is not UTF-8"))
}

/// Takes split keys: strictly ascending, none empty. Copied, so that they do not hold on to the
/// buffer.
pub(super) fn split_keys(input: &mut Reader) -> Result<Vec<Bytes>, DecodeError> {
    let count = input.count(5)?;
    let mut keys: Vec<Bytes> = Vec::with_capacity(count);
    for _ in 0..count {
        let key = Bytes::copy_from_slice(&input.bytes()?);
        if keys.last().map_or(&[][..], |last| last) >= &key[..] {
            return Err(DecodeError("split keys do not ascend"));
        }
        keys.push(key);
    }
    Ok(keys)
}
