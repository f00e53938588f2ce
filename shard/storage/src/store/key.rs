//! The key of a memtable's map: short keys inside the map's nodes, long ones behind a pointer.
//!
//! A look-up compares about seventeen keys in a map of 100,000. With each key behind a pointer that
//! is as many cache misses; with short keys inside the nodes it is a few. Keys compare, hash and
//! borrow as the bytes that they are, whichever way they are held.

use std::borrow::Borrow;
use std::cmp::Ordering;

use bytes::Bytes;

/// The longest key held inside a node: what fits beside the tag in the room that [`Bytes`] takes.
const INLINE_BYTES_MAX: usize = 38;
/// Longer keys and values than this are not copied on insert: they fill most of the network frame
/// that they are slices of, so that keeping the frame alive costs little.
pub(crate) const COPY_BYTES_MAX: usize = 16 << 10;

/// A key as a memtable holds it.
#[derive(Clone, Debug)]
pub(crate) enum Key {
    Inline { len: u8, bytes: [u8; INLINE_BYTES_MAX] },
    Shared(Bytes),
}

impl Key {
    /// The key, copied unless it is longer than [`COPY_BYTES_MAX`].
    pub(crate) fn new(key: &Bytes) -> Key {
        if key.len() <= INLINE_BYTES_MAX {
            let mut bytes = [0; INLINE_BYTES_MAX];
            bytes[..key.len()].copy_from_slice(key);
            Key::Inline { len: key.len() as u8, bytes }
        } else {
            Key::Shared(unpinned(key))
        }
    }

    /// The key as shareable bytes.
    pub(crate) fn to_bytes(&self) -> Bytes {
        match self {
            Key::Inline { .. } => Bytes::copy_from_slice(self.as_slice()),
            Key::Shared(bytes) => bytes.clone(),
        }
    }

    /// The bytes of the key.
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Key::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Key::Shared(bytes) => bytes,
        }
    }
}

/// `bytes` without the larger buffer that it may be a slice of.
///
/// What arrives from the network is a slice of a frame: kept as it is, a value of 100 bytes would
/// hold 64 KiB in memory for as long as it lives in a memtable.
pub(crate) fn unpinned(bytes: &Bytes) -> Bytes {
    if bytes.len() <= COPY_BYTES_MAX { Bytes::copy_from_slice(bytes) } else { bytes.clone() }
}

/// Like [`unpinned`], in the memory of `old` if that is as long and nobody else reads it: what is
/// overwritten again and again then neither frees nor allocates.
pub(crate) fn unpinned_over(old: Bytes, new: &Bytes) -> Bytes {
    if new.len() > COPY_BYTES_MAX || new.len() != old.len() {
        return unpinned(new);
    }
    match old.try_into_mut() {
        Ok(mut room) => {
            room.copy_from_slice(new);
            room.freeze()
        }
        Err(_) => unpinned(new),
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_bytes_at_every_length() {
        for len in [0, 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 4096] {
            let bytes = Bytes::from(vec![7; len]);
            assert_eq!(Key::new(&bytes).to_bytes(), bytes);
            assert_eq!(Key::new(&bytes).as_slice(), &bytes[..]);
        }
        assert_eq!(size_of::<Key>(), size_of::<Bytes>() + size_of::<usize>());
    }

    #[test]
    fn order_is_that_of_the_bytes_across_forms() {
        let long = Key::new(&Bytes::from(vec![b'b'; 100]));
        assert!(Key::new(&Bytes::from_static(b"a")) < long);
        assert!(long < Key::new(&Bytes::from_static(b"c")));
        assert!(Key::new(&Bytes::from_static(b"a")) < Key::new(&Bytes::from_static(b"a\0")));
    }

    #[test]
    fn small_slices_do_not_hold_their_frame() {
        let frame = Bytes::from(vec![1; 1 << 20]);
        let inside = |bytes: &Bytes| frame.as_ptr_range().contains(&bytes.as_ptr());
        assert!(!inside(&unpinned(&frame.slice(10..20))));
        assert!(inside(&unpinned(&frame.slice(10..10 + COPY_BYTES_MAX + 1))));
    }

    #[test]
    fn memory_is_used_again_only_if_nobody_reads_it() {
        let old = unpinned(&Bytes::from(vec![1; 256]));
        let at = old.as_ptr();
        let again = unpinned_over(old, &Bytes::from(vec![2; 256]));
        assert_eq!((again.as_ptr(), &again[..]), (at, &[2; 256][..]));

        let reader = again.clone();
        let other = unpinned_over(again, &Bytes::from(vec![3; 256]));
        assert_ne!(other.as_ptr(), at);
        assert_eq!((&reader[..], &other[..]), (&[2; 256][..], &[3; 256][..]));

        // Once the reader is gone its memory has no owner but this one.
        let again = unpinned_over(reader, &Bytes::from(vec![4; 256]));
        assert_eq!((again.as_ptr(), &again[..]), (at, &[4; 256][..]));

        let longer = unpinned_over(again, &Bytes::from(vec![5; 257]));
        assert_eq!(&longer[..], &[5; 257][..]);
    }
}
