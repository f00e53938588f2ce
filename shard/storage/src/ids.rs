//! Identifiers that journal and store share.

use std::fmt;

/// Names a Raft group, and the shard that it holds, for the whole life of a cluster.
///
/// `GroupId(0)` is kept for the meta shard. Ids are never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl fmt::Display for GroupId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "g{}", self.0)
    }
}
