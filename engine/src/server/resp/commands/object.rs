//! `OBJECT`: how Redis would keep a value.

use super::{Plan, RespOptions, Shape, Subcommand, help, key, subcommand};
use crate::server::resp::codec::{Arguments, Replies, parse_integer};
use crate::server::resp::error::CommandError;
use flotilla_shard::Operation;

/// The longest text that Redis keeps together with its header.
const EMBEDDED_BYTES_MAX: usize = 44;

const SUBCOMMANDS: [Subcommand<Option<Shape>>; 5] = [
    ("encoding", 3, Some(Shape::Encoding)),
    ("freq", 3, Some(Shape::Frequency)),
    ("help", 2, None),
    ("idletime", 3, Some(Shape::IdleTime)),
    ("refcount", 3, Some(Shape::References)),
];

const HELP: [&str; 8] = [
    "ENCODING <key>",
    "    Return how Redis would encode the value.",
    "FREQ <key>",
    "    Is refused: accesses are not counted.",
    "IDLETIME <key>",
    "    Is refused: accesses are not timed.",
    "REFCOUNT <key>",
    "    Return 1: values are not shared.",
];

pub(super) fn object(
    options: &RespOptions,
    arguments: &Arguments,
    replies: &mut Replies<'_>,
) -> Result<Plan, CommandError> {
    let Some(shape) = subcommand("object", &SUBCOMMANDS, arguments)? else {
        help("OBJECT", &HELP, replies);
        return Ok(Plan::Replied);
    };
    let operation = Operation::Get { key: key(options, arguments, 2)? };
    Ok(Plan::Single { operation, shape })
}

/// What Redis would call the encoding of a fresh `value`.
pub(super) fn encoding(value: &[u8]) -> &'static str {
    if parse_integer(value).is_some() {
        "int"
    } else if value.len() <= EMBEDDED_BYTES_MAX {
        "embstr"
    } else {
        "raw"
    }
}
