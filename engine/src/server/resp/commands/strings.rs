//! Commands on the value of one key, and those that store several values of one shard.

use super::expiry::{Form, Time, ValueOptions, positive_time};
use super::{Plan, RespOptions, Shape, integer, key, value};
use crate::server::resp::codec::Arguments;
use crate::server::resp::error::CommandError;
use flotilla_shard::{BatchChange, Condition, Expiry, Operation, Write};

/// Longer texts are no numbers.
const NUMBER_BYTES_MAX: usize = 5 * 1024;

fn read(options: &RespOptions, arguments: &Arguments, shape: Shape) -> Result<Plan, CommandError> {
    let operation = Operation::Get { key: key(options, arguments, 1)? };
    Ok(Plan::Single { operation, shape })
}

fn written(write: Write, shape: Shape) -> Plan {
    Plan::Single { operation: Operation::Write(write), shape }
}

/// Commands that read a value, or tell something about it: `GET`, `STRLEN`, `TTL`, `TYPE`.
pub(super) fn ask(
    options: &RespOptions,
    arguments: &Arguments,
    shape: Shape,
) -> Result<Plan, CommandError> {
    read(options, arguments, shape)
}

pub(super) fn get_range(
    options: &RespOptions,
    arguments: &Arguments,
) -> Result<Plan, CommandError> {
    let (start, end) = (integer(arguments, 2)?, integer(arguments, 3)?);
    read(options, arguments, Shape::Range { start, end })
}

pub(super) fn set(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let asked = ValueOptions::read(arguments, 3, true)?;
    let expiry = match asked.time {
        Time::Unsaid | Time::Never => Expiry::Never,
        Time::Keep => Expiry::Keep,
        Time::Given(text, form) => positive_time(text, form, "set")?,
    };
    let ValueOptions { condition, return_previous, .. } = asked;
    let shape = if return_previous { Shape::Previous } else { Shape::Stored };
    let (key, value) = (key(options, arguments, 1)?, value(options, arguments, 2)?);
    Ok(written(Write::Put { key, value, condition, return_previous, expiry }, shape))
}

/// `SETEX` and `PSETEX`; `command` is the name in lower case.
pub(super) fn set_expiring(
    options: &RespOptions,
    arguments: &Arguments,
    form: Form,
    command: &str,
) -> Result<Plan, CommandError> {
    let expiry = positive_time(arguments.get(2), form, command)?;
    let (key, value) = (key(options, arguments, 1)?, value(options, arguments, 3)?);
    let condition = Condition::Always;
    let write = Write::Put { key, value, condition, return_previous: false, expiry };
    Ok(written(write, Shape::Stored))
}

pub(super) fn setnx(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let (key, value) = (key(options, arguments, 1)?, value(options, arguments, 2)?);
    let (condition, expiry) = (Condition::IfAbsent, Expiry::Never);
    let write = Write::Put { key, value, condition, return_previous: false, expiry };
    Ok(written(write, Shape::StoredFlag))
}

pub(super) fn getset(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let (key, value) = (key(options, arguments, 1)?, value(options, arguments, 2)?);
    let (condition, expiry) = (Condition::Always, Expiry::Never);
    let write = Write::Put { key, value, condition, return_previous: true, expiry };
    Ok(written(write, Shape::Previous))
}

pub(super) fn getdel(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    Ok(written(Write::Take { key: key(options, arguments, 1)? }, Shape::Returned))
}

/// `MSET` and, with `if_all_absent`, `MSETNX`.
pub(super) fn mset(
    options: &RespOptions,
    arguments: &Arguments,
    if_all_absent: bool,
) -> Result<Plan, CommandError> {
    if arguments.len().is_multiple_of(2) {
        return Err(CommandError::arity(if if_all_absent { "msetnx" } else { "mset" }));
    }
    let mut changes = Vec::with_capacity(arguments.len() / 2);
    for index in (1..arguments.len()).step_by(2) {
        let (key, value) = (key(options, arguments, index)?, value(options, arguments, index + 1)?);
        changes.push(BatchChange::Put { key, value });
    }
    let shape = if if_all_absent { Shape::StoredFlag } else { Shape::Done };
    Ok(written(Write::Batch { changes, if_all_absent }, shape))
}

pub(super) fn add(
    options: &RespOptions,
    arguments: &Arguments,
    delta: i64,
) -> Result<Plan, CommandError> {
    let write = Write::Add { key: key(options, arguments, 1)?, delta };
    Ok(written(write, Shape::Outcome))
}

pub(super) fn add_by(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    add(options, arguments, integer(arguments, 2)?)
}

pub(super) fn subtract_by(
    options: &RespOptions,
    arguments: &Arguments,
) -> Result<Plan, CommandError> {
    let delta = integer(arguments, 2)?
        .checked_neg()
        .ok_or(CommandError::fixed("ERR decrement would overflow"))?;
    add(options, arguments, delta)
}

/// What is no number is found out where the other is: by the shard.
pub(super) fn add_float(
    options: &RespOptions,
    arguments: &Arguments,
) -> Result<Plan, CommandError> {
    let (key, delta) = (key(options, arguments, 1)?, value(options, arguments, 2)?);
    if delta.len() > NUMBER_BYTES_MAX {
        return Err(CommandError::NOT_A_FLOAT);
    }
    Ok(written(Write::AddFloat { key, delta }, Shape::Outcome))
}

pub(super) fn append(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let (key, value) = (key(options, arguments, 1)?, value(options, arguments, 2)?);
    Ok(written(Write::Append { key, value }, Shape::Outcome))
}

pub(super) fn set_range(
    options: &RespOptions,
    arguments: &Arguments,
) -> Result<Plan, CommandError> {
    let offset = u64::try_from(integer(arguments, 2)?)
        .map_err(|_| CommandError::fixed("ERR offset is out of range"))?;
    let (key, value) = (key(options, arguments, 1)?, value(options, arguments, 3)?);
    if value.is_empty() {
        // Changes nothing, not even the length.
        return Ok(Plan::Single { operation: Operation::Get { key }, shape: Shape::Length });
    }
    if offset.saturating_add(value.len() as u64) > options.value_bytes_max as u64 {
        return Err(CommandError::VALUE_TOO_LARGE);
    }
    Ok(written(Write::SetRange { key, offset, value }, Shape::Outcome))
}
