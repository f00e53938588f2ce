//! What Redis clients may send, in any cuts of the network.
//!
//! Promises: the same requests wherever the stream is cut; what is accepted is accepted again when
//! written anew; no more is kept of an unfinished request than the limits allow, and what is
//! announced reserves nothing; whatever is refused is refused by name.

use bytes::{BufMut, BytesMut};

use crate::choices::{Choices, pieces};
use crate::memory::bounded;
use codec::{Arguments, Decoded, Decoder, DecoderLimits, TooLarge};

// The codec is private to the engine; it needs nothing of it.
#[allow(dead_code, unused_imports, clippy::all)]
#[path = "../../engine/src/server/resp/codec/mod.rs"]
mod codec;

/// The longest line, as the decoder has it.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What a stream was decoded to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    requests: Vec<Result<Vec<Vec<u8>>, TooLarge>>,
    refused: Option<String>,
    /// Bytes of an unfinished request.
    left: usize,
}

/// The first byte chooses limits, the second how many lengths of pieces follow; then the stream.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let limits = match choices.byte() % 3 {
        0 => DecoderLimits::default(),
        1 => DecoderLimits {
            bulk_bytes_max: 4096,
            argument_bytes_max: 32,
            request_bytes_max: 128,
            arguments_max: 8,
        },
        _ => DecoderLimits { argument_bytes_max: 5, ..DecoderLimits::default() },
    };
    let count = usize::from(choices.byte() % 16);
    let lengths = choices.bytes(count);
    let stream = choices.rest();
    let whole = decode(stream, limits, &[]);
    assert_eq!(decode(stream, limits, lengths), whole, "in pieces of {lengths:?}");
    assert_eq!(decode(stream, limits, &[1]), whole, "byte by byte");
    for request in whole.requests.iter().flatten() {
        assert!(!request.is_empty(), "a request without a word");
        let anew = decode(&encode(request), DecoderLimits::default(), &[7, 1]);
        let same = Found { requests: vec![Ok(request.clone())], ..Found::default() };
        assert_eq!(anew, same, "written anew");
    }
}

fn decode(stream: &[u8], limits: DecoderLimits, lengths: &[u8]) -> Found {
    let mut found = Found::default();
    let mut decoder = Decoder::new(limits);
    let (mut buffer, mut arguments) = (BytesMut::new(), Arguments::default());
    'stream: for piece in pieces(stream, lengths) {
        buffer.extend_from_slice(piece);
        loop {
            // Spans, and words of a line, which are copied.
            let bytes_max = 32 * buffer.len() + 1024;
            let decoded = bounded(bytes_max, || decoder.decode(&mut buffer, &mut arguments));
            match decoded {
                Ok(Decoded::Incomplete) => break,
                Ok(Decoded::Request) => found.requests.push(Ok(taken(&arguments))),
                Ok(Decoded::TooLarge(how)) => {
                    assert!(!how.to_string().is_empty());
                    found.requests.push(Err(how));
                }
                Err(refused) => {
                    found.refused = Some(refused.to_string());
                    break 'stream;
                }
            }
        }
        assert!(decoder.missing_bytes(&buffer) > 0);
        let held_max = limits.request_bytes_max + LINE_BYTES_MAX + 64;
        assert!(buffer.len() <= held_max, "{} bytes are held", buffer.len());
    }
    // How much of a stream is left behind its end depends on how much had come.
    found.left = if found.refused.is_none() { buffer.len() } else { 0 };
    found
}

/// The words of a request, by all the ways that lead to them.
fn taken(arguments: &Arguments) -> Vec<Vec<u8>> {
    let words: Vec<Vec<u8>> = arguments.iter_from(0).map(<[u8]>::to_vec).collect();
    assert_eq!(words.len(), arguments.len());
    let tail = arguments.tail(words.len() / 2);
    let detached = arguments.detached(16);
    for (index, word) in words.iter().enumerate() {
        assert_eq!(arguments.get(index), word);
        assert_eq!(arguments.share(index), word);
        assert_eq!(detached.get(index), word);
        if let Some(index) = index.checked_sub(words.len() / 2) {
            assert_eq!(tail.get(index), word);
        }
    }
    words
}

fn encode(words: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.put_slice(format!("${}\r\n", word.len()).as_bytes());
        out.put_slice(word);
        out.put_slice(b"\r\n");
    }
    out
}
