//! Answers and refusals in bytes, for the way back between nodes.
//!
//! The first byte names the kind: below 20 what a write did, below 64
//! another answer, from 64 on a refusal. What is absent:
//! checksums and versions; the frame around it has those.

use super::{Answer, Refusal};
use crate::codec::{DecodeError, Reader, Writer};
use crate::command::{Entry, WriteOutcome};
use crate::descriptor::{Descriptor, NodeId};
use std::time::Duration;

/// Bytes of `Result<Answer, Refusal>`, for the way back between nodes.
pub fn encode_result(result: &Result<Answer, Refusal>, out: &mut Writer<'_>) {
    match result {
        Ok(answer) => encode_answer(answer, out),
        Err(refusal) => encode_refusal(refusal, out),
    }
}

/// Reads what [`encode_result`] wrote.
///
/// # Errors
///
/// [`DecodeError`] when bytes are missing or make no sense.
pub fn decode_result(input: &mut Reader) -> Result<Result<Answer, Refusal>, DecodeError> {
    match input.peek() {
        Some(kind) if kind < 20 => Ok(Ok(Answer::Written(WriteOutcome::decode(input)?))),
        Some(kind) if kind < 64 => decode_answer(input).map(Ok),
        _ => decode_refusal(input).map(Err),
    }
}

fn encode_answer(answer: &Answer, out: &mut Writer<'_>) {
    match answer {
        Answer::Written(outcome) => outcome.encode(out),
        Answer::Value(entry) => {
            out.u8(20);
            Entry::encode(entry.as_ref(), out);
        }
        Answer::Values(entries) => {
            out.u8(21);
            out.u32(entries.len() as u32);
            entries.iter().for_each(|entry| Entry::encode(entry.as_ref(), out));
        }
        Answer::Page { rows, rest } => {
            out.u8(22);
            out.u32(rows.len() as u32);
            for (key, entry) in rows {
                out.bytes(key);
                Entry::encode(Some(entry), out);
            }
            out.bool(rest.is_some());
            if let Some(rest) = rest {
                out.range(rest);
            }
        }
        Answer::Count(count) => {
            out.u8(23);
            out.u64(*count);
        }
    }
}

fn decode_answer(input: &mut Reader) -> Result<Answer, DecodeError> {
    Ok(match input.u8()? {
        20 => Answer::Value(Entry::decode(input)?),
        21 => {
            let count = input.count(1)?;
            let mut entries = Vec::with_capacity(count);
            for _ in 0..count {
                entries.push(Entry::decode(input)?);
            }
            Answer::Values(entries)
        }
        22 => {
            let count = input.count(16)?;
            let mut rows = Vec::with_capacity(count);
            for _ in 0..count {
                let key = input.bytes()?;
                let entry = Entry::decode(input)?.ok_or(DecodeError("a row without an entry"))?;
                rows.push((key, entry));
            }
            let rest = if input.bool()? { Some(input.range()?) } else { None };
            Answer::Page { rows, rest }
        }
        23 => Answer::Count(input.u64()?),
        _ => return Err(DecodeError("unknown answer")),
    })
}

fn encode_refusal(refusal: &Refusal, out: &mut Writer<'_>) {
    match refusal {
        Refusal::NotLeader { leader } => {
            out.u8(64);
            out.bool(leader.is_some());
            if let Some(leader) = leader {
                out.u64(leader.0);
            }
        }
        Refusal::EpochMismatch { descriptors } => {
            out.u8(65);
            out.u32(descriptors.len() as u32);
            descriptors.iter().for_each(|descriptor| descriptor.encode(out));
        }
        Refusal::GroupNotFound => out.u8(66),
        Refusal::OutOfRange { descriptor } => {
            out.u8(67);
            descriptor.encode(out);
        }
        Refusal::Busy { retry_after } => {
            out.u8(68);
            out.u64(retry_after.as_nanos().min(u128::from(u64::MAX)) as u64);
        }
        Refusal::Timeout { maybe_committed } => {
            out.u8(69);
            out.bool(*maybe_committed);
        }
        Refusal::TooLarge { bytes, bytes_max } => {
            out.u8(70);
            out.u64(*bytes);
            out.u64(*bytes_max);
        }
        Refusal::Storage(text) => {
            out.u8(71);
            out.bytes(text.as_bytes());
        }
        Refusal::Corrupt(text) => {
            out.u8(72);
            out.bytes(text.as_bytes());
        }
        Refusal::Suspect => out.u8(73),
        Refusal::Shutdown => out.u8(74),
        Refusal::DiskFull => out.u8(75),
        Refusal::Damaged => out.u8(76),
    }
}

fn decode_refusal(input: &mut Reader) -> Result<Refusal, DecodeError> {
    Ok(match input.u8()? {
        64 => Refusal::NotLeader {
            leader: if input.bool()? { Some(NodeId(input.u64()?)) } else { None },
        },
        65 => {
            let count = input.count(Descriptor::ENCODED_BYTES_MIN)?;
            let mut descriptors = Vec::with_capacity(count);
            for _ in 0..count {
                descriptors.push(Descriptor::decode(input)?);
            }
            Refusal::EpochMismatch { descriptors }
        }
        66 => Refusal::GroupNotFound,
        67 => Refusal::OutOfRange { descriptor: Descriptor::decode(input)? },
        68 => Refusal::Busy { retry_after: Duration::from_nanos(input.u64()?) },
        69 => Refusal::Timeout { maybe_committed: input.bool()? },
        70 => Refusal::TooLarge { bytes: input.u64()?, bytes_max: input.u64()? },
        71 => Refusal::Storage(String::from_utf8_lossy(&input.bytes()?).into_owned()),
        72 => Refusal::Corrupt(String::from_utf8_lossy(&input.bytes()?).into_owned()),
        73 => Refusal::Suspect,
        74 => Refusal::Shutdown,
        75 => Refusal::DiskFull,
        76 => Refusal::Damaged,
        _ => return Err(DecodeError("unknown refusal")),
    })
}
