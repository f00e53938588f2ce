//! Values that tell who wrote them.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes at the beginning of a value that name its writer.
pub const VALUE_HEAD_BYTES: usize = 12;

/// Bytes after the head are taken from a pool of this size, at changing places.
const POOL_BYTES: usize = 64 << 10;

/// Which write a value comes from. No two writes of a run have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueName {
    /// The client's number.
    pub client: u32,
    /// Which of its writes.
    pub sequence: u64,
}

impl ValueName {
    /// The writer of `value`; `None` if it is too short to tell.
    pub fn of(value: &[u8]) -> Option<ValueName> {
        let head = value.first_chunk::<VALUE_HEAD_BYTES>()?;
        let (client, sequence) = head.split_at(4);
        Some(ValueName {
            client: u32::from_be_bytes(client.try_into().expect("four bytes")),
            sequence: u64::from_be_bytes(sequence.try_into().expect("eight bytes")),
        })
    }
}

/// Makes the values of one client.
pub struct Values {
    name: ValueName,
    bytes: usize,
    pool: Bytes,
}

impl Values {
    /// Bytes that do not compress, for values of up to `bytes` bytes. All clients share them.
    pub fn pool(bytes: usize) -> Bytes {
        let mut pool = BytesMut::with_capacity(bytes + POOL_BYTES);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        while pool.len() < bytes + POOL_BYTES {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            pool.put_u64(state);
        }
        pool.freeze()
    }

    /// Values of `bytes` bytes by client number `client`, whose first write is called
    /// `first_sequence`.
    ///
    /// # Panics
    ///
    /// If they are too short to name their writers, or `pool` was made for shorter ones.
    pub fn new(client: u32, first_sequence: u64, bytes: usize, pool: Bytes) -> Values {
        assert!(bytes >= VALUE_HEAD_BYTES, "a value has {VALUE_HEAD_BYTES} bytes at least");
        assert!(pool.len() >= bytes + POOL_BYTES, "the pool is for shorter values");
        let name = ValueName { client, sequence: first_sequence };
        Values { name, bytes, pool }
    }

    /// How long each is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends the next value to `out`.
    pub fn write(&mut self, out: &mut BytesMut) {
        let at = (self.name.sequence as usize).wrapping_mul(97) % POOL_BYTES;
        out.put_u32(self.name.client);
        out.put_u64(self.name.sequence);
        out.put_slice(&self.pool[at..at + self.bytes - VALUE_HEAD_BYTES]);
        self.name.sequence += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn values_name_their_writes_and_no_two_are_equal() {
        let mut seen = BTreeSet::new();
        for client in 0..3 {
            let mut values = Values::new(client, 7, 100, Values::pool(100));
            for sequence in 7..1_007 {
                let mut value = BytesMut::new();
                values.write(&mut value);
                assert_eq!(value.len(), 100);
                assert_eq!(ValueName::of(&value), Some(ValueName { client, sequence }));
                assert!(seen.insert(value.freeze()));
            }
        }
        assert_eq!(ValueName::of(&[0; 11]), None);
    }
}
