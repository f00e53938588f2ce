//! Commands on the value of one key.

use super::{Plan, RespOptions, Shape, integer, key, value};
use crate::server::resp::codec::Arguments;
use crate::server::resp::error::CommandError;
use flotilla_shard::{Condition, Expiry, Operation, Write};

pub(super) fn get(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let operation = Operation::Get { key: key(options, arguments, 1)? };
    Ok(Plan::Single { operation, shape: Shape::Value })
}

pub(super) fn strlen(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let operation = Operation::Get { key: key(options, arguments, 1)? };
    Ok(Plan::Single { operation, shape: Shape::Length })
}

pub(super) fn set(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let mut condition = Condition::Always;
    let mut return_previous = false;
    let mut expiry = false;
    let mut keep_expiry = false;
    let mut index = 3;
    while index < arguments.len() {
        let option = arguments.get(index);
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("nx") && condition != Condition::IfPresent {
            condition = Condition::IfAbsent;
        } else if is("xx") && condition != Condition::IfAbsent {
            condition = Condition::IfPresent;
        } else if is("get") {
            return_previous = true;
        } else if is("keepttl") && !expiry {
            keep_expiry = true;
        } else if ["ex", "px", "exat", "pxat"].into_iter().any(is)
            && !expiry
            && !keep_expiry
            && index + 1 < arguments.len()
        {
            expiry = true;
            index += 1;
        } else {
            return Err(CommandError::SYNTAX);
        }
        index += 1;
    }
    if expiry {
        return Err(CommandError::fixed("ERR expiry is not supported yet"));
    }
    let shape = if return_previous { Shape::Previous } else { Shape::Stored };
    let (key, value) = (key(options, arguments, 1)?, value(options, arguments, 2)?);
    let write = Write::Put { key, value, condition, return_previous, expiry: Expiry::Never };
    Ok(Plan::Single { operation: Operation::Write(write), shape })
}

pub(super) fn setnx(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let (key, value) = (key(options, arguments, 1)?, value(options, arguments, 2)?);
    let write = Write::Put { key, value, condition: Condition::IfAbsent, return_previous: false, expiry: Expiry::Never };
    Ok(Plan::Single { operation: Operation::Write(write), shape: Shape::StoredFlag })
}

pub(super) fn add(
    options: &RespOptions,
    arguments: &Arguments,
    delta: i64,
) -> Result<Plan, CommandError> {
    let write = Write::Add { key: key(options, arguments, 1)?, delta };
    Ok(Plan::Single { operation: Operation::Write(write), shape: Shape::Outcome })
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

pub(super) fn append(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let (key, value) = (key(options, arguments, 1)?, value(options, arguments, 2)?);
    let write = Write::Append { key, value };
    Ok(Plan::Single { operation: Operation::Write(write), shape: Shape::Outcome })
}
