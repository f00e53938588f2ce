//! When keys expire: how clients say it, and how they are told.
//!
//! Times that count from now are left to the shard's leader, whose stamp on the command is the
//! "now" of every replica. The clock of this node only judges whether a time can be represented.

use super::{Plan, RespOptions, Shape, key};
use crate::server::resp::codec::{Arguments, parse_integer};
use crate::server::resp::error::CommandError;
use bytes::Bytes;
use flotilla_shard::{Condition, ExpireCondition, Expiry, Operation, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a number of a client counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

/// How a client says a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// What the number counts.
    pub unit: Unit,
    /// Since the Unix epoch; else from now.
    pub absolute: bool,
}

/// From now, in seconds.
pub(super) const IN_SECONDS: Form = Form { unit: Unit::Seconds, absolute: false };
/// From now, in milliseconds.
pub(super) const IN_MILLISECONDS: Form = Form { unit: Unit::Milliseconds, absolute: false };
/// Since the Unix epoch, in seconds.
pub(super) const AT_SECOND: Form = Form { unit: Unit::Seconds, absolute: true };
/// Since the Unix epoch, in milliseconds.
pub(super) const AT_MILLISECOND: Form = Form { unit: Unit::Milliseconds, absolute: true };

/// The node's wall clock, milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn invalid(command: &str) -> CommandError {
    CommandError::request(format!("ERR invalid expire time in '{command}' command"))
}

/// `number` of a form in milliseconds; an error if that cannot be represented.
fn milliseconds(number: i64, form: Form, command: &str) -> Result<i64, CommandError> {
    let ms = match form.unit {
        Unit::Milliseconds => Some(number),
        Unit::Seconds => number.checked_mul(1000),
    };
    let ms = ms.ok_or_else(|| invalid(command))?;
    let now = if form.absolute { 0 } else { now_ms() };
    if ms.checked_add_unsigned(now).is_none() {
        return Err(invalid(command));
    }
    Ok(ms)
}

/// The time in `text`; one that is past lets the key expire at once.
fn any_time(text: &[u8], form: Form, command: &str) -> Result<Expiry, CommandError> {
    let number = parse_integer(text).ok_or(CommandError::NOT_AN_INTEGER)?;
    let ms = u64::try_from(milliseconds(number, form, command)?).unwrap_or(0);
    Ok(if form.absolute { Expiry::At(ms) } else { Expiry::After(ms) })
}

/// The time in `text`, which must be positive.
pub(super) fn positive_time(
    text: &[u8],
    form: Form,
    command: &str,
) -> Result<Expiry, CommandError> {
    if parse_integer(text).is_some_and(|number| number <= 0) {
        return Err(invalid(command));
    }
    any_time(text, form, command)
}

/// What the options of `SET` and `GETEX` say.
#[derive(Debug)]
pub(super) struct ValueOptions<'a> {
    pub condition: Condition,
    pub return_previous: bool,
    pub time: Time<'a>,
}

/// What they say of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time<'a> {
    /// Nothing.
    Unsaid,
    /// `KEEPTTL`.
    Keep,
    /// `PERSIST`.
    Never,
    /// `EX` and the like; the number is not parsed yet.
    Given(&'a [u8], Form),
}

impl<'a> ValueOptions<'a> {
    /// Reads the arguments from `index` on, those of `SET` or else those of `GETEX`.
    pub(super) fn read(
        arguments: &'a Arguments,
        mut index: usize,
        of_set: bool,
    ) -> Result<ValueOptions<'a>, CommandError> {
        let mut found = ValueOptions {
            condition: Condition::Always,
            return_previous: false,
            time: Time::Unsaid,
        };
        while index < arguments.len() {
            let option = arguments.get(index);
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            if of_set && is("nx") && found.condition != Condition::IfPresent {
                found.condition = Condition::IfAbsent;
            } else if of_set && is("xx") && found.condition != Condition::IfAbsent {
                found.condition = Condition::IfPresent;
            } else if of_set && is("get") {
                found.return_previous = true;
            } else if of_set && is("keepttl") && matches!(found.time, Time::Unsaid | Time::Keep) {
                found.time = Time::Keep;
            } else if !of_set && is("persist") && matches!(found.time, Time::Unsaid | Time::Never) {
                found.time = Time::Never;
            } else {
                let form = form_named(option).ok_or(CommandError::SYNTAX)?;
                let other = match found.time {
                    Time::Unsaid => false,
                    Time::Given(_, before) => before != form,
                    Time::Keep | Time::Never => true,
                };
                index += 1;
                if other || index >= arguments.len() {
                    return Err(CommandError::SYNTAX);
                }
                found.time = Time::Given(arguments.get(index), form);
            }
            index += 1;
        }
        Ok(found)
    }
}

fn form_named(option: &[u8]) -> Option<Form> {
    [("ex", IN_SECONDS), ("px", IN_MILLISECONDS), ("exat", AT_SECOND), ("pxat", AT_MILLISECOND)]
        .into_iter()
        .find(|(name, _)| option.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, form)| form)
}

/// `EXPIRE` and its relatives; `command` is the name in lower case.
pub(super) fn expire(
    options: &RespOptions,
    arguments: &Arguments,
    form: Form,
    command: &str,
) -> Result<Plan, CommandError> {
    let condition = expire_condition(arguments)?;
    let expiry = any_time(arguments.get(2), form, command)?;
    let key = key(options, arguments, 1)?;
    Ok(change(key, expiry, condition, false, Shape::ExpiryChanged))
}

pub(super) fn persist(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let key = key(options, arguments, 1)?;
    Ok(change(key, Expiry::Never, ExpireCondition::Always, false, Shape::ExpiryChanged))
}

pub(super) fn getex(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let asked = ValueOptions::read(arguments, 2, false)?;
    let key = key(options, arguments, 1)?;
    let expiry = match asked.time {
        Time::Unsaid | Time::Keep => {
            return Ok(Plan::Single { operation: Operation::Get { key }, shape: Shape::Value });
        }
        Time::Never => Expiry::Never,
        Time::Given(text, form) => positive_time(text, form, "getex")?,
    };
    Ok(change(key, expiry, ExpireCondition::Always, true, Shape::Returned))
}

fn change(
    key: Bytes,
    expiry: Expiry,
    condition: ExpireCondition,
    return_value: bool,
    shape: Shape,
) -> Plan {
    let write = Write::Expire { key, expiry, condition, return_value };
    Plan::Single { operation: Operation::Write(write), shape }
}

fn expire_condition(arguments: &Arguments) -> Result<ExpireCondition, CommandError> {
    let (mut none, mut some, mut greater, mut less) = (false, false, false, false);
    for option in arguments.iter_from(3) {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("nx") {
            none = true;
        } else if is("xx") {
            some = true;
        } else if is("gt") {
            greater = true;
        } else if is("lt") {
            less = true;
        } else {
            return Err(CommandError::request([b"ERR Unsupported option ", option].concat()));
        }
    }
    if none && (some || greater || less) {
        return Err(CommandError::fixed(
            "ERR NX and XX, GT or LT options at the same time are not compatible",
        ));
    }
    if greater && less {
        return Err(CommandError::fixed(
            "ERR GT and LT options at the same time are not compatible",
        ));
    }
    Ok(match (none, some, greater, less) {
        (true, ..) => ExpireCondition::IfNone,
        // A key without an expiry lives for ever, and nothing is greater than that.
        (_, _, true, _) => ExpireCondition::IfGreater,
        (_, true, _, true) => ExpireCondition::IfSomeAndLess,
        (_, _, _, true) => ExpireCondition::IfLess,
        (_, true, ..) => ExpireCondition::IfSome,
        _ => ExpireCondition::Always,
    })
}

/// How long from `now_ms` until `expires_at_ms`, as Redis rounds it.
pub(super) fn time_left(expires_at_ms: u64, now_ms: u64, unit: Unit) -> i64 {
    let left = expires_at_ms.saturating_sub(now_ms);
    counted(left, unit)
}

/// A time as Redis tells it: seconds are rounded to the nearest.
pub(super) fn counted(ms: u64, unit: Unit) -> i64 {
    let counted = match unit {
        Unit::Milliseconds => ms,
        Unit::Seconds => ms.saturating_add(500) / 1000,
    };
    i64::try_from(counted).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_be_are_refused() {
        let refused = |text: &str, form| {
            let error = positive_time(text.as_bytes(), form, "set").unwrap_err();
            String::from_utf8(error.text.to_vec()).unwrap()
        };
        let invalid = "ERR invalid expire time in 'set' command";
        for text in ["0", "-1", "9223372036854775807", "9223372036854776", "9223372036854775"] {
            assert_eq!(refused(text, IN_SECONDS), invalid, "{text}");
        }
        assert_eq!(refused("9223372036854775807", IN_MILLISECONDS), invalid);
        assert_eq!(refused("1.5", AT_SECOND), "ERR value is not an integer or out of range");
        assert_eq!(
            positive_time(b"9223372036854775", AT_SECOND, "set").unwrap(),
            Expiry::At(9_223_372_036_854_775_000)
        );
        assert_eq!(positive_time(b"1", IN_SECONDS, "set").unwrap(), Expiry::After(1000));
    }

    #[test]
    fn what_is_past_expires_at_once() {
        assert_eq!(any_time(b"-5", IN_SECONDS, "expire").unwrap(), Expiry::After(0));
        assert_eq!(any_time(b"-5", AT_MILLISECOND, "expire").unwrap(), Expiry::At(0));
    }

    #[test]
    fn times_are_rounded_as_redis_rounds_them() {
        assert_eq!(time_left(10_499, 0, Unit::Seconds), 10);
        assert_eq!(time_left(10_500, 0, Unit::Seconds), 11);
        assert_eq!(time_left(10_499, 400, Unit::Milliseconds), 10_099);
        assert_eq!(time_left(5, 10, Unit::Milliseconds), 0);
    }
}
