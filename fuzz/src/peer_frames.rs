//! What may arrive from another node: frames in any cuts, with checksums that hold.
//!
//! Promises: the same messages wherever the stream is cut; what is accepted is accepted again when
//! written anew, and then stays as it is, byte for byte; claimed lengths and counts reserve nothing
//! that the bytes do not back; errors are typed.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use flotilla_router::peer::PeerMessage;
use flotilla_router::peer::frame::{
    Assembly, Cut, Decoded, FrameError, Parsed, decode_frame, encode_fragment, encode_frame,
    encode_sign_of_life, parse,
};

use crate::choices::{Choices, pieces};
use crate::memory::bounded;

const FRAME_BYTES_MAX: usize = 16 << 10;
/// Of what came in pieces, and has the head of a frame now.
const ANEW_BYTES_MAX: usize = FRAME_BYTES_MAX + 64;
/// Longer than a year no request waits; what says so is cut to it when it is sent on.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a stream was decoded to.
#[derive(Debug, Default, PartialEq)]
struct Found {
    messages: Vec<PeerMessage>,
    refused: Option<FrameError>,
}

/// The first byte chooses what the rest is (a stream as it comes, or the contents of frames, each
/// with its length before it), the second how many lengths of pieces follow.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let is_raw = choices.byte() % 4 == 0;
    let count = usize::from(choices.byte() % 16);
    let lengths = choices.bytes(count);
    let stream = if is_raw { choices.rest().to_vec() } else { framed(choices) };
    let whole = decode(&stream, &[], FRAME_BYTES_MAX);
    assert_eq!(decode(&stream, lengths, FRAME_BYTES_MAX), whole, "in pieces of {lengths:?}");
    if let Some(refused) = &whole.refused {
        assert!(!refused.to_string().is_empty());
    }
    for message in &whole.messages {
        check(message);
    }
}

/// Frames with the given contents.
fn framed(mut choices: Choices<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !choices.is_over() {
        let length = usize::from(choices.short());
        let body = choices.bytes(length);
        stream.put_u32_le(body.len() as u32);
        stream.put_u32_le(crc32c::crc32c(body));
        stream.put_slice(body);
    }
    stream
}

fn decode(stream: &[u8], lengths: &[u8], frame_bytes_max: usize) -> Found {
    let mut found = Found::default();
    let mut assembly = Assembly::new(frame_bytes_max);
    let mut buffer = BytesMut::new();
    for piece in pieces(stream, lengths) {
        buffer.extend_from_slice(piece);
        loop {
            let frame = match bounded(1024, || parse(&mut buffer, frame_bytes_max)) {
                Ok(Parsed::Frame(frame)) => frame,
                Ok(Parsed::Missing(bytes)) => {
                    assert!(bytes > 0 && buffer.len() + bytes <= frame_bytes_max);
                    break;
                }
                Err(refused) => return Found { refused: Some(refused), ..found },
            };
            if let Err(refused) = decode_one(frame, &mut assembly, &mut found.messages) {
                return Found { refused: Some(refused), ..found };
            }
        }
    }
    found
}

fn decode_one(
    frame: Bytes,
    assembly: &mut Assembly,
    messages: &mut Vec<PeerMessage>,
) -> Result<(), FrameError> {
    let before = messages.len();
    // A message takes five bytes at least, an element of a list in it four.
    let bytes_max = frame.len().div_ceil(4) * size_of::<PeerMessage>().max(128)
        + messages.len() * 2 * size_of::<PeerMessage>()
        + 4 * FRAME_BYTES_MAX;
    match bounded(bytes_max, || decode_frame(frame.clone(), assembly, messages))? {
        Decoded::Messages(count) => assert!(messages.len() - before <= count && count > 0),
        Decoded::Sign(sign) => {
            let mut anew = BytesMut::new();
            encode_sign_of_life(&mut anew, sign);
            assert_eq!(anew[8..], frame, "a sign of life has one form");
        }
    }
    Ok(())
}

/// What was accepted must survive being sent on.
fn check(message: &PeerMessage) {
    assert!(message.cost_bytes() > 0);
    let _ = message.class();
    let mut expected = message.clone();
    if let PeerMessage::Request { body, .. } = &mut expected {
        body.timeout = body.timeout.min(TIMEOUT_MAX);
    }
    let bytes = encode(message);
    let anew = decode(&bytes, &[], ANEW_BYTES_MAX);
    assert_eq!(anew, Found { messages: vec![expected], refused: None }, "written anew");
    assert_eq!(encode(&anew.messages[0]), bytes, "one form");

    // In pieces it is the same message, and only with the last one.
    let body = &bytes[12..];
    let mut stream = BytesMut::new();
    let (head, tail) = body.split_at(body.len() / 2);
    encode_fragment(&mut stream, head, false);
    assert_eq!(decode(&stream, &[], ANEW_BYTES_MAX), Found::default());
    encode_fragment(&mut stream, tail, true);
    assert_eq!(decode(&stream, &[], ANEW_BYTES_MAX), anew);
}

fn encode(message: &PeerMessage) -> BytesMut {
    let mut queue = VecDeque::from([message.clone()]);
    let mut buffer = BytesMut::new();
    let cut = Cut { target_bytes: 1, frame_bytes_max: ANEW_BYTES_MAX };
    let encoded = encode_frame(&mut queue, cut, &mut buffer, |_| {});
    assert_eq!(encoded.messages, 1, "it came in a frame, and fits one");
    buffer
}
