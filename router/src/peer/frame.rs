//! Frames: batches of messages under one length and one checksum.
//!
//! A frame is `length u32 | checksum u32 | count u32 | messages`. The length counts what follows
//! the checksum, and the checksum (CRC32C) covers that. A frame without messages is a sign of
//! life and shows a clock. A message that is longer than a frame should be travels in pieces, each
//! in a frame of its own, so that others can go in between.
//!
//! Invariants:
//!
//! * A frame longer than `frame_bytes_max` is neither written nor read; a claimed length or count
//!   never reserves memory that has not arrived.
//! * A frame is at most [`Cut::target_bytes`] long, estimated before encoding, unless its only
//!   message is longer.

use super::message::{FRAGMENT, MESSAGE_BYTES_MIN, PeerMessage};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_shard::DecodeError;
use std::collections::VecDeque;

/// Length and checksum.
const PREFIX_BYTES: usize = 8;
/// All that a frame has beside messages.
const HEADER_BYTES: usize = PREFIX_BYTES + 4;
/// What a piece of a message has before its bytes: length, kind, and whether it is the last.
const FRAGMENT_HEADER_BYTES: usize = 4 + 1 + 1;
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
        let is_full = length.saturating_add(message.wire_bytes()) > cut.target_bytes;
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

/// What a frame without messages says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignOfLife {
    /// Not 0 from a dialer: the acceptor answers with the same number. 0 from an acceptor: it
    /// answers nothing.
    pub token: u64,
    /// The sender's wall clock, in microseconds since the Unix epoch.
    pub wall_us: u64,
}

/// Appends a frame without messages.
pub fn encode_sign_of_life(buffer: &mut BytesMut, sign: SignOfLife) {
    let frame = buffer.len();
    buffer.put_bytes(0, HEADER_BYTES);
    buffer.put_u64_le(sign.token);
    buffer.put_u64_le(sign.wall_us);
    seal(buffer, frame, 0);
}

/// Appends a frame with one piece of a message that was encoded on its own.
pub fn encode_fragment(buffer: &mut BytesMut, piece: &[u8], is_last: bool) {
    let frame = buffer.len();
    buffer.put_bytes(0, HEADER_BYTES);
    let length = u32::try_from(piece.len() + 2).expect("pieces stay below 4 GiB");
    buffer.put_u32_le(length);
    buffer.put_u8(FRAGMENT);
    buffer.put_u8(u8::from(is_last));
    buffer.put_slice(piece);
    seal(buffer, frame, 1);
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

/// What a connection has of a message that comes in pieces. The message says first how long it is:
/// its room is taken at once, so that each piece is copied once, as it comes, and what was read can
/// be reused. Putting all together at the end would take as much memory again, and keep everybody
/// else on the thread waiting meanwhile.
#[derive(Debug)]
pub struct Assembly {
    whole: BytesMut,
    bytes_max: usize,
}

impl Assembly {
    /// Nothing yet; a message may have `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Assembly {
        Assembly { whole: BytesMut::new(), bytes_max }
    }

    fn add(&mut self, mut piece: Bytes) -> Result<Option<PeerMessage>, FrameError> {
        let is_last = match piece.get_u8() {
            0 => false,
            1 => true,
            _ => return Err(FrameError::Message(DecodeError("a flag is neither 0 nor 1"))),
        };
        let length = self.whole.len() + piece.len();
        if length > self.bytes_max {
            return Err(FrameError::Length { length, length_max: self.bytes_max });
        }
        if self.whole.is_empty() {
            // Memory that is not written to costs nothing; who announces wrongly gains nothing.
            let announced = piece.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
            let announced = (announced as usize).saturating_add(size_of::<u32>());
            self.whole.reserve(announced.min(self.bytes_max).max(piece.len()));
        }
        self.whole.put_slice(&piece);
        if !is_last {
            return Ok(None);
        }
        let mut whole = std::mem::take(&mut self.whole).freeze();
        let message = PeerMessage::decode(&mut whole)?;
        if !whole.is_empty() {
            return Err(FrameError::Message(DecodeError("bytes follow a message of pieces")));
        }
        Ok(Some(message))
    }
}

/// What a frame held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// So many messages, or parts of them.
    Messages(usize),
    /// None: a sign of life.
    Sign(SignOfLife),
}

/// Appends the messages of a frame that [`parse`] returned to `out`. Pieces go to `assembly`, and
/// their message to `out` when it is whole.
///
/// # Errors
///
/// [`FrameError`] if they make no sense; `out` may then hold some of them.
pub fn decode_frame(
    mut frame: Bytes,
    assembly: &mut Assembly,
    out: &mut Vec<PeerMessage>,
) -> Result<Decoded, FrameError> {
    if frame.len() < 4 {
        return Err(FrameError::Message(DecodeError("a frame ends early")));
    }
    let count = frame.get_u32_le() as usize;
    if count > MESSAGES_MAX || count.saturating_mul(MESSAGE_BYTES_MIN) > frame.len() {
        return Err(FrameError::Count(count));
    }
    if count == 0 {
        if frame.len() != 16 {
            return Err(FrameError::Message(DecodeError("a sign of life shows no clock")));
        }
        let sign = SignOfLife { token: frame.get_u64_le(), wall_us: frame.get_u64_le() };
        return Ok(Decoded::Sign(sign));
    }
    out.reserve(count);
    for _ in 0..count {
        if let Some(piece) = take_fragment(&mut frame)? {
            out.extend(assembly.add(piece)?);
        } else {
            out.push(PeerMessage::decode(&mut frame)?);
        }
    }
    if !frame.is_empty() {
        return Err(FrameError::Message(DecodeError("bytes follow the last message of a frame")));
    }
    Ok(Decoded::Messages(count))
}

/// Takes a piece, from its flag on, off the front of `frame`, if a piece is there.
fn take_fragment(frame: &mut Bytes) -> Result<Option<Bytes>, FrameError> {
    if frame.len() < FRAGMENT_HEADER_BYTES || frame[4] != FRAGMENT {
        return Ok(None);
    }
    let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if length < 2 || length > frame.len() - 4 {
        return Err(FrameError::Message(DecodeError("a message reaches beyond its frame")));
    }
    frame.advance(5);
    Ok(Some(frame.split_to(length - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_shard::{Answer, Entry};

    /// Once the first piece is there nothing of a message is moved any more.
    #[test]
    fn a_message_of_pieces_is_copied_once() {
        let value = Bytes::from(vec![7; 1 << 20]);
        let entry = Some(Entry { value, version: 1, expires_at_ms: None });
        let reply = PeerMessage::Reply { id: 1, result: Ok(Answer::Value(entry)) };
        let mut encoded = BytesMut::new();
        reply.encode(&mut encoded);
        let mut assembly = Assembly::new(8 << 20);
        let mut place = None;
        let last = encoded.len().div_ceil(64 << 10) - 1;
        for (at, part) in encoded.chunks(64 << 10).enumerate() {
            let mut piece = BytesMut::new();
            piece.put_u8(u8::from(at == last));
            piece.put_slice(part);
            let message = assembly.add(piece.freeze()).unwrap();
            assert_eq!(message.is_some(), at == last);
            if at == last {
                assert_eq!(message, Some(reply.clone()));
                continue;
            }
            let now = (assembly.whole.as_ptr(), assembly.whole.capacity());
            assert_eq!(now, *place.get_or_insert(now), "piece {at}");
            assert!(now.1 >= encoded.len());
        }
    }

    /// A length alone takes no more than a message may have.
    #[test]
    fn what_is_announced_is_bounded() {
        let mut assembly = Assembly::new(1 << 20);
        let piece = [&[0][..], &[255; 4][..], &[1; 100][..]].concat();
        assert_eq!(assembly.add(piece.into()), Ok(None));
        assert!(assembly.whole.capacity() <= 2 << 20, "{}", assembly.whole.capacity());
    }
}
