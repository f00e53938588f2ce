//! What a checkpoint keeps about a shard beside its rows, and its bytes.
//!
//! Invariants: the first byte is the format version; the first format (without time and sessions)
//! still decodes. What is absent: checksums; the store's record has one.

use crate::codec::{DecodeError, Reader, Writer};
use crate::descriptor::Descriptor;
use crate::sessions::SessionTable;
use bytes::{Bytes, BytesMut};

/// What a checkpoint keeps about a shard beside its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMeta {
    /// The shard as it described itself.
    pub descriptor: Descriptor,
    /// The stamp of the last applied command.
    pub stamp_ms: u64,
    /// The log may be forgotten through this index. Kept for records of older releases.
    pub released: u64,
    /// Reads may have gone by a leader's clock up to this moment.
    pub ceiling_ms: u64,
    /// No row expires after this; 0: none expires.
    pub expiring_until_ms: u64,
    /// What sessions have written.
    pub sessions: SessionTable,
}

const META_VERSION: u8 = 2;
const META_VERSION_WITHOUT_SESSIONS: u8 = 1;

impl ShardMeta {
    /// Of a shard to which nothing has been applied.
    pub fn new(descriptor: Descriptor) -> ShardMeta {
        ShardMeta {
            descriptor,
            stamp_ms: 0,
            released: 0,
            ceiling_ms: 0,
            expiring_until_ms: 0,
            sessions: SessionTable::default(),
        }
    }

    /// The bytes that a checkpoint keeps.
    pub fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::new();
        let mut out = Writer::new(&mut buffer);
        out.u8(META_VERSION);
        out.u64(self.stamp_ms);
        out.u64(self.released);
        self.descriptor.encode(&mut out);
        out.u64(self.ceiling_ms);
        out.u64(self.expiring_until_ms);
        self.sessions.encode(&mut out);
        buffer.freeze()
    }

    /// What [`ShardMeta::encode`] wrote, without what sessions have written: a planted bug.
    pub(crate) fn without_sessions(bytes: &Bytes) -> Bytes {
        match ShardMeta::decode(bytes.clone()) {
            Ok(meta) => ShardMeta { sessions: SessionTable::default(), ..meta }.encode(),
            Err(_) => bytes.clone(),
        }
    }

    /// Reads what [`ShardMeta::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when bytes are missing, left over, or of an unknown version.
    pub fn decode(bytes: Bytes) -> Result<ShardMeta, DecodeError> {
        let mut input = Reader::new(bytes);
        let version = input.u8()?;
        if version != META_VERSION && version != META_VERSION_WITHOUT_SESSIONS {
            return Err(DecodeError("a shard record of an unknown version"));
        }
        let (stamp_ms, released) = (input.u64()?, input.u64()?);
        let mut meta = ShardMeta::new(Descriptor::decode(&mut input)?);
        (meta.stamp_ms, meta.released) = (stamp_ms, released);
        if version == META_VERSION {
            meta.ceiling_ms = input.u64()?;
            meta.expiring_until_ms = input.u64()?;
            meta.sessions = SessionTable::decode(&mut input)?;
        }
        input.finish()?;
        Ok(meta)
    }
}
