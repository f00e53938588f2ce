//! The bytes of a write, in the log and between nodes.
//!
//! Invariants:
//!
//! * Kinds 1 to 7 are those of the first format and keep its bytes: a log that an older release
//!   wrote decodes to the same writes. Fields that came later have kinds of their own, which are
//!   written only when they say something that the older kind cannot.
//! * Steps of an atomic write do not nest.

use super::{BatchChange, Condition, Expect, ExpireCondition, Expiry, Guard, Step, Write};
use crate::codec::{DecodeError, Reader, Writer};
use bytes::Bytes;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const COMPARE_AND_SWAP: u8 = 3;
const ADD: u8 = 4;
const APPEND: u8 = 5;
const BATCH: u8 = 6;
const DELETE_RANGE: u8 = 7;
const PUT_EXPIRING: u8 = 8;
const COMPARE_AND_SWAP_EXPIRING: u8 = 9;
const BATCH_IF_ALL_ABSENT: u8 = 10;
const ADD_FLOAT: u8 = 11;
const SET_RANGE: u8 = 12;
const EXPIRE: u8 = 13;
const TAKE: u8 = 14;
const RENAME: u8 = 15;
const COPY: u8 = 16;
const ATOMIC: u8 = 17;
const REAP: u8 = 18;

impl Write {
    /// Appends the write's bytes to `out`.
    pub fn encode(&self, out: &mut Writer<'_>) {
        match self {
            Write::Put { key, value, condition, return_previous, expiry } => {
                out.u8(if *expiry == Expiry::Never { PUT } else { PUT_EXPIRING });
                out.u8(match condition {
                    Condition::Always => 0,
                    Condition::IfAbsent => 1,
                    Condition::IfPresent => 2,
                });
                out.bool(*return_previous);
                if *expiry != Expiry::Never {
                    encode_expiry(expiry, out);
                }
                out.bytes(key);
                out.bytes(value);
            }
            Write::Delete { keys } => {
                out.u8(DELETE);
                encode_keys(keys, out);
            }
            Write::CompareAndSwap { key, expect, new, expiry } => {
                let plain = *expiry == Expiry::Never;
                out.u8(if plain { COMPARE_AND_SWAP } else { COMPARE_AND_SWAP_EXPIRING });
                if !plain {
                    encode_expiry(expiry, out);
                }
                encode_swap(key, expect, new.as_ref(), out);
            }
            Write::Add { key, delta } => {
                out.u8(ADD);
                out.bytes(key);
                out.i64(*delta);
            }
            Write::Append { key, value } => {
                out.u8(APPEND);
                out.bytes(key);
                out.bytes(value);
            }
            Write::Batch { changes, if_all_absent } => {
                out.u8(if *if_all_absent { BATCH_IF_ALL_ABSENT } else { BATCH });
                encode_changes(changes, out);
            }
            Write::DeleteRange { range } => {
                out.u8(DELETE_RANGE);
                out.range(range);
            }
            other => other.encode_later_kind(out),
        }
    }

    /// The kinds that the first format did not have.
    fn encode_later_kind(&self, out: &mut Writer<'_>) {
        match self {
            Write::AddFloat { key, delta } => {
                out.u8(ADD_FLOAT);
                out.bytes(key);
                out.bytes(delta);
            }
            Write::SetRange { key, offset, value } => {
                out.u8(SET_RANGE);
                out.bytes(key);
                out.u64(*offset);
                out.bytes(value);
            }
            Write::Expire { key, expiry, condition, return_value } => {
                out.u8(EXPIRE);
                out.bytes(key);
                encode_expiry(expiry, out);
                out.u8(match condition {
                    ExpireCondition::Always => 0,
                    ExpireCondition::IfNone => 1,
                    ExpireCondition::IfSome => 2,
                    ExpireCondition::IfGreater => 3,
                    ExpireCondition::IfLess => 4,
                    ExpireCondition::IfSomeAndLess => 5,
                });
                out.bool(*return_value);
            }
            Write::Take { key } => {
                out.u8(TAKE);
                out.bytes(key);
            }
            Write::Rename { from, to, only_if_absent: flag } => {
                out.u8(RENAME);
                out.bytes(from);
                out.bytes(to);
                out.bool(*flag);
            }
            Write::Copy { from, to, replace: flag } => {
                out.u8(COPY);
                out.bytes(from);
                out.bytes(to);
                out.bool(*flag);
            }
            Write::Atomic { guards, steps } => {
                out.u8(ATOMIC);
                out.u32(guards.len() as u32);
                for guard in guards {
                    out.bytes(&guard.key);
                    out.u64(guard.version);
                }
                out.u32(steps.len() as u32);
                for step in steps {
                    match step {
                        Step::Write(write) => {
                            out.u8(1);
                            write.encode(out);
                        }
                        Step::Get { key } => {
                            out.u8(2);
                            out.bytes(key);
                        }
                    }
                }
            }
            Write::Reap { keys } => {
                out.u8(REAP);
                encode_keys(keys, out);
            }
            Write::Put { .. }
            | Write::Delete { .. }
            | Write::CompareAndSwap { .. }
            | Write::Add { .. }
            | Write::Append { .. }
            | Write::Batch { .. }
            | Write::DeleteRange { .. } => unreachable!("kinds of the first format"),
        }
    }

    /// Reads what [`Write::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when bytes are missing or make no sense.
    pub fn decode(input: &mut Reader) -> Result<Write, DecodeError> {
        Ok(match input.u8()? {
            kind @ (PUT | PUT_EXPIRING) => {
                let condition = match input.u8()? {
                    0 => Condition::Always,
                    1 => Condition::IfAbsent,
                    2 => Condition::IfPresent,
                    _ => return Err(DecodeError("unknown condition of a put")),
                };
                let return_previous = input.bool()?;
                let expiry = if kind == PUT { Expiry::Never } else { decode_expiry(input)? };
                let (key, value) = (input.bytes()?, input.bytes()?);
                Write::Put { key, value, condition, return_previous, expiry }
            }
            DELETE => Write::Delete { keys: decode_keys(input)? },
            COMPARE_AND_SWAP => decode_swap(Expiry::Never, input)?,
            COMPARE_AND_SWAP_EXPIRING => {
                let expiry = decode_expiry(input)?;
                decode_swap(expiry, input)?
            }
            ADD => Write::Add { key: input.bytes()?, delta: input.i64()? },
            APPEND => Write::Append { key: input.bytes()?, value: input.bytes()? },
            kind @ (BATCH | BATCH_IF_ALL_ABSENT) => Write::Batch {
                changes: decode_changes(input)?,
                if_all_absent: kind == BATCH_IF_ALL_ABSENT,
            },
            DELETE_RANGE => Write::DeleteRange { range: input.range()? },
            ADD_FLOAT => Write::AddFloat { key: input.bytes()?, delta: input.bytes()? },
            SET_RANGE => {
                Write::SetRange { key: input.bytes()?, offset: input.u64()?, value: input.bytes()? }
            }
            EXPIRE => Write::Expire {
                key: input.bytes()?,
                expiry: decode_expiry(input)?,
                condition: match input.u8()? {
                    0 => ExpireCondition::Always,
                    1 => ExpireCondition::IfNone,
                    2 => ExpireCondition::IfSome,
                    3 => ExpireCondition::IfGreater,
                    4 => ExpireCondition::IfLess,
                    5 => ExpireCondition::IfSomeAndLess,
                    _ => return Err(DecodeError("unknown condition of an expiry")),
                },
                return_value: input.bool()?,
            },
            TAKE => Write::Take { key: input.bytes()? },
            RENAME => Write::Rename {
                from: input.bytes()?,
                to: input.bytes()?,
                only_if_absent: input.bool()?,
            },
            COPY => {
                Write::Copy { from: input.bytes()?, to: input.bytes()?, replace: input.bool()? }
            }
            ATOMIC => decode_atomic(input)?,
            REAP => Write::Reap { keys: decode_keys(input)? },
            _ => return Err(DecodeError("unknown kind of write")),
        })
    }
}

fn encode_expiry(expiry: &Expiry, out: &mut Writer<'_>) {
    match expiry {
        Expiry::Keep => out.u8(0),
        Expiry::Never => out.u8(1),
        Expiry::At(at_ms) => {
            out.u8(2);
            out.u64(*at_ms);
        }
        Expiry::After(after_ms) => {
            out.u8(3);
            out.u64(*after_ms);
        }
    }
}

fn decode_expiry(input: &mut Reader) -> Result<Expiry, DecodeError> {
    Ok(match input.u8()? {
        0 => Expiry::Keep,
        1 => Expiry::Never,
        2 => Expiry::At(input.u64()?),
        3 => Expiry::After(input.u64()?),
        _ => return Err(DecodeError("unknown kind of expiry")),
    })
}

fn encode_keys(keys: &[Bytes], out: &mut Writer<'_>) {
    out.u32(keys.len() as u32);
    keys.iter().for_each(|key| out.bytes(key));
}

fn decode_keys(input: &mut Reader) -> Result<Vec<Bytes>, DecodeError> {
    let count = input.count(4)?;
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        keys.push(input.bytes()?);
    }
    Ok(keys)
}

fn encode_swap(key: &Bytes, expect: &Expect, new: Option<&Bytes>, out: &mut Writer<'_>) {
    out.bytes(key);
    match expect {
        Expect::Absent => out.u8(0),
        Expect::Value(value) => {
            out.u8(1);
            out.bytes(value);
        }
        Expect::Version(version) => {
            out.u8(2);
            out.u64(*version);
        }
    }
    out.bool(new.is_some());
    if let Some(new) = new {
        out.bytes(new);
    }
}

fn decode_swap(expiry: Expiry, input: &mut Reader) -> Result<Write, DecodeError> {
    let key = input.bytes()?;
    let expect = match input.u8()? {
        0 => Expect::Absent,
        1 => Expect::Value(input.bytes()?),
        2 => Expect::Version(input.u64()?),
        _ => return Err(DecodeError("unknown expectation of a compare-and-swap")),
    };
    let new = if input.bool()? { Some(input.bytes()?) } else { None };
    Ok(Write::CompareAndSwap { key, expect, new, expiry })
}

fn encode_changes(changes: &[BatchChange], out: &mut Writer<'_>) {
    out.u32(changes.len() as u32);
    for change in changes {
        match change {
            BatchChange::Put { key, value } => {
                out.u8(1);
                out.bytes(key);
                out.bytes(value);
            }
            BatchChange::Delete { key } => {
                out.u8(2);
                out.bytes(key);
            }
        }
    }
}

fn decode_changes(input: &mut Reader) -> Result<Vec<BatchChange>, DecodeError> {
    let count = input.count(5)?;
    let mut changes = Vec::with_capacity(count);
    for _ in 0..count {
        changes.push(match input.u8()? {
            1 => BatchChange::Put { key: input.bytes()?, value: input.bytes()? },
            2 => BatchChange::Delete { key: input.bytes()? },
            _ => return Err(DecodeError("unknown change in a batch")),
        });
    }
    Ok(changes)
}

fn decode_atomic(input: &mut Reader) -> Result<Write, DecodeError> {
    let count = input.count(12)?;
    let mut guards = Vec::with_capacity(count);
    for _ in 0..count {
        guards.push(Guard { key: input.bytes()?, version: input.u64()? });
    }
    let count = input.count(5)?;
    let mut steps = Vec::with_capacity(count);
    for _ in 0..count {
        steps.push(match input.u8()? {
            1 if matches!(input.peek(), Some(ATOMIC | DELETE_RANGE)) => {
                return Err(DecodeError("a step of an atomic write that cannot be one"));
            }
            1 => Step::Write(Write::decode(input)?),
            2 => Step::Get { key: input.bytes()? },
            _ => return Err(DecodeError("unknown step of an atomic write")),
        });
    }
    Ok(Write::Atomic { guards, steps })
}
