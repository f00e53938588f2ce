//! What may arrive of a snapshot: messages, chunks of rows, and whole transfers into a store.
//!
//! Promises: a message or chunk that is accepted has one form, and is written anew as it came; of a
//! transfer everything is put in place or nothing, and nothing but rows in order, in the shard's
//! range, with their checksums, as many and with the digest that the sender says.

use bytes::{Bytes, BytesMut};
use flotilla_shard::{Reader, SnapshotMessage};

use crate::choices::Choices;
use crate::memory::bounded;
use crate::rows::{chunk, row};
use crate::snapshot_import;

/// The first byte chooses what the rest is: a message, a chunk, or the steps of a transfer.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    match choices.byte() % 3 {
        0 => message(choices.rest()),
        1 => chunk(choices.rest()),
        _ => snapshot_import::run(choices),
    }
}

fn message(bytes: &[u8]) {
    let input = Bytes::copy_from_slice(bytes);
    let decode = || SnapshotMessage::decode(Reader::new(input.clone()));
    let message = match bounded(1024, decode) {
        Ok(message) => message,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(message.payload_bytes() <= bytes.len());
    let mut anew = BytesMut::new();
    message.encode(&mut anew);
    // Only one field may come back smaller: a time that is cut to an hour.
    if !matches!(message, SnapshotMessage::Decline { .. }) {
        assert_eq!(anew, bytes, "one form: {message:?}");
    }
    let again = SnapshotMessage::decode(Reader::new(anew.freeze()));
    assert_eq!(again, Ok(message));
}

fn chunk(bytes: &[u8]) {
    let input = Bytes::copy_from_slice(bytes);
    let rows = match bounded(16 * bytes.len() + 1024, || chunk::decode(&input)) {
        Ok(rows) => rows,
        Err(words) => return assert!(!words.is_empty()),
    };
    let mut anew = Vec::new();
    for (key, stored) in &rows {
        chunk::put_row(&mut anew, key, stored);
        let read = row::decode(key, stored).expect("checked");
        let mut again = Vec::new();
        row::encode(key, &read.to_row(), &mut again);
        assert_eq!(again[..], stored[..], "a row has one form");
    }
    assert_eq!(anew, bytes, "a chunk has one form");
}
