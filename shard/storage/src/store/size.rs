//! How much a shard holds in redb, counted while rows come and go.

use super::extent::ShardState;

/// How much a shard holds in redb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

impl Size {
    pub(crate) fn of(state: &ShardState) -> Size {
        Size { rows: state.rows, bytes: state.bytes }
    }

    pub(crate) fn add(&mut self, key: &[u8], stored: &[u8]) {
        self.rows += 1;
        self.bytes += (key.len() + stored.len()) as u64;
    }

    pub(crate) fn remove(&mut self, key: &[u8], stored: &[u8]) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub((key.len() + stored.len()) as u64);
    }
}
