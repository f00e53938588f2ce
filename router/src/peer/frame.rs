//! Frames: batches of messages under one length and one checksum.
//!
//! A frame is `length u32 | checksum u32 | count u32 | messages`. The length counts what follows
//! the checksum, and the checksum (CRC32C) covers that. A frame without messages is a sign of
//! life.
//!
//! Invariants:
//!
//! * A frame longer than `frame_bytes_max` is neither written nor read; a claimed length or count
//!   never reserves memory that has not arrived.
//! * A frame is at most [`Cut::target_bytes`] long, estimated before encoding, unless its only
//!   message is longer.

use super::message::{MESSAGE_BYTES_MIN, PeerMessage};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_shard::DecodeError;
use std::collections::VecDeque;

/// Length and checksum.
const PREFIX_BYTES: usize = 8;
/// All that a frame has beside messages.
const HEADER_BYTES: usize = PREFIX_BYTES + 4;
/// Bounds what decoding one frame can reserve for message headers.
const MESSAGES_MAX: usize = 16_384;

/// Why bytes on a connection are not frames.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is beyond the limit, or too short for a frame.
    #[error("a frame claims {length} bytes (allowed: 4 to {length_max})")]
    Length {
        /// As claimed.
        length: usize,
        /// What is allowed.
        length_max: usize,
    },
    /// The bytes are not those that were sent.
    #[error("a frame fails its checksum")]
    Checksum,
    /// More messages than a frame may have, or than fit its bytes.
    #[error("a frame claims {0} messages, more than its bytes can hold")]
    Count(usize),
    /// A message makes no sense.
    #[error(transparent)]
    Message(#[from] DecodeError),
}

/// Where frames end.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// A frame gets no further message when it would outgrow this.
    pub target_bytes: usize,
    /// No frame is longer.
    pub frame_bytes_max: usize,
}

/// What [`encode_frame`] did.
#[derive(Debug, Default)]
pub struct Encoded {
    /// Messages in the frame; 0: nothing was written.
    pub messages: usize,
    /// What they cost in the outbox's account, the oversized one included.
    pub cost_bytes: usize,
    /// A message that no frame can hold. It came after the others and is not in the frame.
    pub oversized: Option<PeerMessage>,
}

/// Moves messages from the front of `queue` into one frame at the end of `buffer`. `on_message`
/// sees each that went in.
pub fn encode_frame(
    queue: &mut VecDeque<PeerMessage>,
    cut: Cut,
    buffer: &mut BytesMut,
    mut on_message: impl FnMut(&PeerMessage),
) -> Encoded {
    let frame = buffer.len();
    let mut encoded = Encoded::default();
    buffer.put_bytes(0, HEADER_BYTES);
    while let Some(message) = queue.front() {
        let cost = message.cost_bytes();
        let length = buffer.len() - frame;
        let is_full = length.saturating_add(cost) > cut.target_bytes;
        if encoded.messages > 0 && (is_full || encoded.messages == MESSAGES_MAX) {
            break;
        }
        let start = buffer.len();
        message.encode(buffer);
        if buffer.len() - frame > cut.frame_bytes_max {
            buffer.truncate(start);
            if encoded.messages > 0 {
                break;
            }
            encoded.cost_bytes += cost;
            encoded.oversized = queue.pop_front();
            break;
        }
        on_message(message);
        encoded.messages += 1;
        encoded.cost_bytes += cost;
        queue.pop_front();
    }
    if encoded.messages == 0 {
        buffer.truncate(frame);
    } else {
        seal(buffer, frame, encoded.messages);
    }
    encoded
}

/// Appends a frame without messages.
pub fn encode_sign_of_life(buffer: &mut BytesMut) {
    let frame = buffer.len();
    buffer.put_bytes(0, HEADER_BYTES);
    seal(buffer, frame, 0);
}

fn seal(buffer: &mut BytesMut, frame: usize, count: usize) {
    let frame = &mut buffer[frame..];
    let length = u32::try_from(frame.len() - PREFIX_BYTES).expect("frames stay below 4 GiB");
    frame[8..12].copy_from_slice(&(count as u32).to_le_bytes());
    let checksum = crc32c::crc32c(&frame[PREFIX_BYTES..]);
    frame[0..4].copy_from_slice(&length.to_le_bytes());
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// What the front of a read buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole frame: what follows its checksum, which held.
    Frame(Bytes),
    /// The beginning of one; this many bytes are missing, at least.
    Missing(usize),
}

/// Takes one frame from the front of `buffer`, without copying it.
///
/// # Errors
///
/// [`FrameError`] as soon as the length or the checksum is wrong: the rest of the stream is then
/// meaningless.
pub fn parse(buffer: &mut BytesMut, frame_bytes_max: usize) -> Result<Parsed, FrameError> {
    if buffer.len() < PREFIX_BYTES {
        // A wild length shows in the first four bytes.
        if buffer.len() >= 4 {
            check_length(buffer, frame_bytes_max)?;
        }
        return Ok(Parsed::Missing(PREFIX_BYTES - buffer.len()));
    }
    let length = check_length(buffer, frame_bytes_max)?;
    let frame_bytes = PREFIX_BYTES + length;
    if buffer.len() < frame_bytes {
        return Ok(Parsed::Missing(frame_bytes - buffer.len()));
    }
    let mut frame = buffer.split_to(frame_bytes).freeze();
    frame.advance(4);
    let checksum = frame.get_u32_le();
    if crc32c::crc32c(&frame) != checksum {
        return Err(FrameError::Checksum);
    }
    Ok(Parsed::Frame(frame))
}

fn check_length(buffer: &[u8], frame_bytes_max: usize) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
    let length_max = frame_bytes_max.saturating_sub(PREFIX_BYTES);
    if length < 4 || length > length_max {
        return Err(FrameError::Length { length, length_max });
    }
    Ok(length)
}

/// Appends the messages of a frame that [`parse`] returned to `out`, and returns how many.
///
/// # Errors
///
/// [`FrameError`] if they make no sense; `out` may then hold some of them.
pub fn decode_messages(mut frame: Bytes, out: &mut Vec<PeerMessage>) -> Result<usize, FrameError> {
    if frame.len() < 4 {
        return Err(FrameError::Message(DecodeError("a frame ends early")));
    }
    let count = frame.get_u32_le() as usize;
    if count > MESSAGES_MAX || count.saturating_mul(MESSAGE_BYTES_MIN) > frame.len() {
        return Err(FrameError::Count(count));
    }
    out.reserve(count);
    for _ in 0..count {
        out.push(PeerMessage::decode(&mut frame)?);
    }
    if !frame.is_empty() {
        return Err(FrameError::Message(DecodeError("bytes follow the last message of a frame")));
    }
    Ok(count)
}
