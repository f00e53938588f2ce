//! The nodes of a cluster and where their peers reach them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Node ids with addresses: a table `1 = "host:port"` in a file, or the text `1=host:port,2=…`.
///
/// Ids are 1 or more; each id and each address occurs once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    addresses: BTreeMap<u64, String>,
}

/// Why a list of peers was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeersError {
    /// An item is not `id=host:port`.
    #[error("`{item}` is not a peer: write id=host:port, and commas between peers")]
    Item {
        /// The item as written.
        item: String,
    },
    /// An id is not a number of 1 or more.
    #[error("`{id}` is not a node id: node ids are numbers from 1")]
    Id {
        /// The id as written.
        id: String,
    },
    /// An address is not `host:port`.
    #[error(
        "node {id}: `{address}` is not an address: write host:port, with a port from 1 to 65535"
    )]
    Address {
        /// The node.
        id: u64,
        /// The address as written.
        address: String,
    },
    /// A node is listed twice, with the same or different addresses.
    #[error("node {id} is listed twice: as {first} and as {second}")]
    Repeated {
        /// The node.
        id: u64,
        /// Its first address.
        first: String,
        /// Its second address.
        second: String,
    },
    /// Two nodes have the same address.
    #[error("nodes {first} and {second} have the same address {address}")]
    SharedAddress {
        /// The lower id.
        first: u64,
        /// The higher id.
        second: u64,
        /// The address of both.
        address: String,
    },
}

impl Peers {
    /// Adds a node.
    ///
    /// # Errors
    ///
    /// [`PeersError`] if the id or the address is malformed, or already there.
    pub fn insert(&mut self, id: u64, address: &str) -> Result<(), PeersError> {
        if id == 0 {
            return Err(PeersError::Id { id: id.to_string() });
        }
        if split_address(address).is_none_or(|(_, port)| port == 0) {
            return Err(PeersError::Address { id, address: address.to_owned() });
        }
        if let Some(first) = self.addresses.get(&id) {
            let (first, second) = (first.clone(), address.to_owned());
            return Err(PeersError::Repeated { id, first, second });
        }
        if let Some((&other, _)) = self.addresses.iter().find(|(_, known)| *known == address) {
            let (first, second) = (other.min(id), other.max(id));
            return Err(PeersError::SharedAddress { first, second, address: address.to_owned() });
        }
        self.addresses.insert(id, address.to_owned());
        Ok(())
    }

    /// The address of node `id`, or `None` if it is not listed.
    pub fn get(&self, id: u64) -> Option<&str> {
        self.addresses.get(&id).map(String::as_str)
    }

    /// All nodes with their addresses, in order of their ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, &str)> {
        self.addresses.iter().map(|(&id, address)| (id, address.as_str()))
    }

    /// How many nodes are listed.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// True if no node is listed: a cluster of one.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }
}

/// Cuts `host:port` apart; `None` if it is neither that nor `[v6]:port`.
pub(super) fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let wanted = |c: char| !c.is_whitespace() && c != '=' && c != ',';
    (!bare.is_empty() && bare.chars().all(wanted)).then_some((bare, port))
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (id, address)) in self.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{id}={address}")?;
        }
        Ok(())
    }
}

impl FromStr for Peers {
    type Err = PeersError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut peers = Peers::default();
        if text.trim().is_empty() {
            return Ok(peers);
        }
        for item in text.split(',') {
            let item = item.trim();
            let Some((id, address)) = item.split_once('=') else {
                return Err(PeersError::Item { item: item.to_owned() });
            };
            let id = id.trim();
            let id = id.parse().map_err(|_| PeersError::Id { id: id.to_owned() })?;
            peers.insert(id, address.trim())?;
        }
        Ok(peers)
    }
}

impl Serialize for Peers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(id, address)| (id.to_string(), address)))
    }
}

impl<'de> Deserialize<'de> for Peers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Peers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of node ids and addresses, or \"1=host:port,2=host:port\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Peers, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Peers, A::Error> {
                let mut listed = BTreeMap::new();
                while let Some((id, address)) = map.next_entry::<String, String>()? {
                    let number: u64 = id
                        .parse()
                        .map_err(|_| de::Error::custom(PeersError::Id { id: id.clone() }))?;
                    if let Some(first) = listed.insert(number, address.clone()) {
                        let repeated = PeersError::Repeated { id: number, first, second: address };
                        return Err(de::Error::custom(repeated));
                    }
                }
                // A table has no order of its own: by id, so that the same file gives the same error.
                let mut peers = Peers::default();
                for (id, address) in listed {
                    peers.insert(id, &address).map_err(de::Error::custom)?;
                }
                Ok(peers)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives_being_written_and_read() {
        let peers: Peers = "2=b:7102, 1=127.0.0.1:7101,3=[::1]:7103".parse().unwrap();
        assert_eq!(peers.to_string(), "1=127.0.0.1:7101,2=b:7102,3=[::1]:7103");
        assert_eq!(peers.to_string().parse(), Ok(peers.clone()));
        assert_eq!(peers.get(2), Some("b:7102"));
        assert_eq!(peers.get(4), None);
        assert_eq!("".parse(), Ok(Peers::default()));
    }

    #[test]
    fn contradictions_are_refused() {
        let refusal = |text: &str| text.parse::<Peers>().unwrap_err().to_string();
        assert_eq!(refusal("1=a:1,1=b:2"), "node 1 is listed twice: as a:1 and as b:2");
        assert_eq!(refusal("1=a:1,2=a:1"), "nodes 1 and 2 have the same address a:1");
        for text in ["0=a:1", "x=a:1", "-1=a:1", "=a:1"] {
            assert!(refusal(text).contains("is not a node id"), "{text}");
        }
        for text in
            ["1=a", "1=a:0", "1=:1", "1=a:70000", "1=a:b:1", "1=[::1:1", "1=a b:1", "1=2=a:1"]
        {
            assert!(refusal(text).contains("is not an address"), "{text}");
        }
        for text in ["a:1", "1=a:1,", ","] {
            assert!(refusal(text).contains("is not a peer"), "{text}");
        }
    }
}
