//! Payloads of the batch that is being put together: short ones copied, long ones shared.
//!
//! A long entry is written from where it is: copying it would cost the thread that everybody waits
//! for as much as writing it.

use bytes::Bytes;

/// Bytes handed in that are at least this long are shared, shorter ones copied.
const SHARED_BYTES_MIN: usize = 16 << 10;
/// Room for copies beyond this is given back after a batch that needed more.
const COPIED_BYTES_KEPT: usize = 4 << 20;

/// Payload bytes, in order.
#[derive(Default)]
pub(super) struct Body {
    copied: Vec<u8>,
    /// What is shared, each with how many of the copied bytes come before it.
    shared: Vec<(usize, Bytes)>,
    shared_bytes: usize,
}

/// An end of a body that may have grown since.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    copied: usize,
    shared: usize,
}

impl Body {
    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.copied.len() + self.shared_bytes
    }

    /// Appends a copy.
    pub(super) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
    }

    /// Appends bytes without copying them, if they are many.
    pub(super) fn share(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            return self.extend_from_slice(bytes);
        }
        self.shared.push((self.copied.len(), bytes.clone()));
        self.shared_bytes += bytes.len();
    }

    /// Where it ends now.
    pub(super) fn mark(&self) -> Mark {
        Mark { copied: self.copied.len(), shared: self.shared.len() }
    }

    /// The bytes behind `mark`, in order. True stands beside those that are shared.
    pub(super) fn pieces_from(&self, mark: Mark) -> impl Iterator<Item = (&[u8], bool)> {
        let mut from = mark.copied;
        let shared = self.shared[mark.shared..].iter().flat_map(move |(to, bytes)| {
            let copied = &self.copied[from..*to];
            from = *to;
            [(copied, false), (&bytes[..], true)]
        });
        let last = self.shared[mark.shared..].last().map_or(mark.copied, |(to, _)| *to);
        shared.chain([(&self.copied[last..], false)]).filter(|(bytes, _)| !bytes.is_empty())
    }

    /// All bytes, as [`Body::pieces_from`].
    pub(super) fn pieces(&self) -> impl Iterator<Item = (&[u8], bool)> {
        self.pieces_from(Mark { copied: 0, shared: 0 })
    }

    /// CRC of the bytes behind `mark`.
    pub(super) fn crc_from(&self, mark: Mark) -> u32 {
        self.pieces_from(mark).fold(0, |crc, (bytes, _)| crc32c::crc32c_append(crc, bytes))
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.copied.clear();
        self.copied.shrink_to(COPIED_BYTES_KEPT);
        self.shared = Vec::new();
        self.shared_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_what_was_put_in() {
        let long = Bytes::from(vec![7; SHARED_BYTES_MIN]);
        let mut body = Body::default();
        body.share(&long);
        body.extend_from_slice(b"one");
        let mark = body.mark();
        body.share(&Bytes::from_static(b"two"));
        body.share(&long);
        body.share(&long.slice(1..));
        body.share(&long);
        let mut expected = b"two".to_vec();
        expected.extend_from_slice(&long);
        expected.extend_from_slice(&long[1..]);
        expected.extend_from_slice(&long);
        let behind: Vec<u8> =
            body.pieces_from(mark).flat_map(|(piece, _)| piece.to_vec()).collect();
        assert_eq!(behind, expected);
        assert_eq!(body.crc_from(mark), crc32c::crc32c(&expected));
        let all: Vec<u8> = body.pieces().flat_map(|(piece, _)| piece.to_vec()).collect();
        assert_eq!(all, [&long[..], b"one", &expected[..]].concat());
        assert_eq!(body.len(), all.len());
        // One byte less than what is shared is copied.
        assert_eq!(body.pieces().filter(|(_, is_shared)| *is_shared).count(), 3);
        body.clear();
        assert_eq!((body.len(), body.pieces().count()), (0, 0));
    }
}
