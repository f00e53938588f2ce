//! Where a shard's rows lie in redb: its extents, and the record that names them.
//!
//! An extent is a table and a clip: those keys of the table that belong to the shard. Tables are
//! numbered by a durable counter and numbers are never used again, so that a row can only be
//! reached through an extent that some record names. The record of a shard is written by the same
//! commit as its rows; its bytes are fixed in `docs/store-format.md`.

use bytes::{Buf, BufMut, Bytes};

use crate::GroupId;
use crate::range::KeyRange;

/// Version of the record's layout: its first byte. The first one did not say how many bytes there
/// are, the second not what the rows add up to.
const RECORD_VERSION: u8 = 3;
const RECORD_VERSION_WITHOUT_SUM: u8 = 2;
const RECORD_VERSION_MIN: u8 = 1;
/// Bit of a clip's kind byte: the clip has an end.
const CLIP_HAS_END: u8 = 1;

/// Names a table of rows in the redb file. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u64);

/// How the names of tables of rows begin.
const TABLE_PREFIX: &str = "rows.";

impl TableId {
    /// The table's name in the redb file.
    pub fn name(self) -> String {
        format!("{TABLE_PREFIX}{:016x}", self.0)
    }

    /// The table that `name` names; `None` if it is not the name of a table of rows.
    pub(crate) fn from_name(name: &str) -> Option<TableId> {
        let digits = name.strip_prefix(TABLE_PREFIX)?;
        let id = TableId(u64::from_str_radix(digits, 16).ok()?);
        (id.name() == name).then_some(id)
    }
}

/// A part of a table that belongs to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The table.
    pub table: TableId,
    /// The keys of the table that the shard owns. Rows outside are not the shard's.
    pub clip: KeyRange,
}

/// What the last checkpoint of a shard recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardState {
    /// The shard.
    pub group: GroupId,
    /// Index and term of the last command whose effects are in the rows. (0, 0) if none.
    pub applied: (u64, u64),
    /// The shard's version counter after that command.
    pub version: u64,
    /// Rows in the extents. Exact as long as the shard owns its tables alone.
    pub rows: u64,
    /// Bytes of their keys and stored values. Too low after a record of an older layout, until the
    /// rows are rewritten.
    pub bytes: u64,
    /// What the rows add up to, for whoever walks over all of them. `None` after a record of an
    /// older layout, until the rows are rewritten.
    pub sum: Option<u64>,
    /// Where the rows lie: disjoint clips in key order.
    pub extents: Vec<Extent>,
    /// What the layer above handed to [`freeze`](super::Shard::freeze): not looked into.
    pub meta: Bytes,
}

impl ShardState {
    /// The record's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let layout = match self.sum {
            Some(_) => RECORD_VERSION,
            None => RECORD_VERSION_WITHOUT_SUM,
        };
        let mut out = vec![layout];
        let (index, term) = self.applied;
        for number in [index, term, self.version, self.rows, self.bytes] {
            out.put_u64_le(number);
        }
        if let Some(sum) = self.sum {
            out.put_u64_le(sum);
        }
        out.put_u32_le(self.extents.len() as u32);
        for Extent { table, clip } in &self.extents {
            out.put_u64_le(table.0);
            put_bytes(&mut out, &clip.start);
            out.put_u8(if clip.end.is_some() { CLIP_HAS_END } else { 0 });
            if let Some(end) = &clip.end {
                put_bytes(&mut out, end);
            }
        }
        put_bytes(&mut out, &self.meta);
        let crc = checksum(self.group, &out);
        out.put_u32_le(crc);
        out
    }

    /// Reads the record of `group`.
    ///
    /// # Errors
    ///
    /// What does not match, in words, for [`StoreError::Corrupt`](super::StoreError::Corrupt).
    pub(crate) fn decode(group: GroupId, stored: &[u8]) -> Result<ShardState, String> {
        let Some((body, crc)) = stored.split_last_chunk::<4>() else {
            return Err(format!("a record of {} bytes has no room for a checksum", stored.len()));
        };
        let (want, got) = (u32::from_le_bytes(*crc), checksum(group, body));
        if want != got {
            return Err(format!("record checksum is {got:08x}, stored was {want:08x}"));
        }
        let mut body = Bytes::copy_from_slice(body);
        let state = take_record(group, &mut body)
            .ok_or_else(|| "record ends early, or is of an unknown version".to_owned())?;
        if !body.is_empty() {
            return Err(format!("record has {} bytes too many", body.len()));
        }
        let ordered = state
            .extents
            .windows(2)
            .all(|pair| pair[0].clip.end.as_ref().is_some_and(|end| *end <= pair[1].clip.start));
        if !ordered {
            return Err("clips of the extents overlap or are out of order".to_owned());
        }
        Ok(state)
    }
}

fn take_record(group: GroupId, body: &mut Bytes) -> Option<ShardState> {
    let layout = body.try_get_u8().ok()?;
    if !(RECORD_VERSION_MIN..=RECORD_VERSION).contains(&layout) {
        return None;
    }
    let applied = (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?);
    let version = body.try_get_u64_le().ok()?;
    let rows = body.try_get_u64_le().ok()?;
    let bytes = if layout > RECORD_VERSION_MIN { body.try_get_u64_le().ok()? } else { 0 };
    let sum = match layout {
        RECORD_VERSION => Some(body.try_get_u64_le().ok()?),
        _ => None,
    };
    let mut extents = Vec::new();
    for _ in 0..body.try_get_u32_le().ok()? {
        let table = TableId(body.try_get_u64_le().ok()?);
        let start = take_bytes(body)?;
        let end = match body.try_get_u8().ok()? {
            0 => None,
            CLIP_HAS_END => Some(take_bytes(body)?),
            _ => return None,
        };
        extents.push(Extent { table, clip: KeyRange { start, end } });
    }
    let meta = take_bytes(body)?;
    Some(ShardState { group, applied, version, rows, bytes, sum, extents, meta })
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("keys and shard meta stay far below 4 GiB");
    out.put_u32_le(len);
    out.put_slice(bytes);
}

fn take_bytes(body: &mut Bytes) -> Option<Bytes> {
    let len = body.try_get_u32_le().ok()? as usize;
    (len <= body.len()).then(|| body.split_to(len))
}

/// The group is part of the checksum: a record under another group's key is as wrong as a flipped
/// bit.
fn checksum(group: GroupId, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&group.0.to_le_bytes()), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ShardState {
        let extent = |table, start: &'static str, end: Option<&'static str>| Extent {
            table: TableId(table),
            clip: KeyRange::new(start, end.map(Bytes::from)),
        };
        ShardState {
            group: GroupId(3),
            applied: (70, 2),
            version: 90,
            rows: 1000,
            bytes: 70_000,
            sum: Some(0x1234_5678_9abc_def0),
            extents: vec![extent(4, "", Some("m")), extent(9, "m", None)],
            meta: Bytes::from_static(b"descriptor"),
        }
    }

    #[test]
    fn a_record_survives_the_round_trip() {
        let empty = ShardState { extents: Vec::new(), meta: Bytes::new(), ..state() };
        let of_layout_2 = ShardState { sum: None, ..state() };
        assert_eq!(of_layout_2.encode()[0], RECORD_VERSION_WITHOUT_SUM);
        for state in [state(), empty, of_layout_2] {
            assert_eq!(ShardState::decode(state.group, &state.encode()), Ok(state));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let stored = state().encode();
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(ShardState::decode(GroupId(3), &damaged).is_err(), "bit {bit}");
        }
        for len in 0..stored.len() {
            assert!(ShardState::decode(GroupId(3), &stored[..len]).is_err(), "cut to {len}");
        }
        assert!(ShardState::decode(GroupId(4), &stored).is_err(), "another group's record");
    }

    #[test]
    fn a_record_of_the_first_layout_is_read() {
        let mut stored = state().encode();
        stored[0] = RECORD_VERSION_MIN;
        // Neither bytes nor sum.
        stored.drain(33..49);
        stored.truncate(stored.len() - 4);
        stored.put_u32_le(checksum(GroupId(3), &stored));
        assert_eq!(
            ShardState::decode(GroupId(3), &stored),
            Ok(ShardState { bytes: 0, sum: None, ..state() })
        );
    }

    #[test]
    fn overlapping_clips_are_refused() {
        let mut state = state();
        state.extents[1].clip.start = Bytes::from_static(b"l");
        assert!(ShardState::decode(state.group, &state.encode()).is_err());
    }

    #[test]
    fn table_names_round_trip_and_others_are_refused() {
        assert_eq!(TableId(255).name(), "rows.00000000000000ff");
        assert_eq!(TableId::from_name("rows.00000000000000ff"), Some(TableId(255)));
        for other in ["store", "rows.", "rows.ff", "rows.00000000000000FF"] {
            assert_eq!(TableId::from_name(other), None, "{other}");
        }
    }
}
