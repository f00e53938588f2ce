//! Agreeing with a client: protocol, database, the time, and that there are no passwords.

use super::{REDIS_VERSION, Session, database};
use crate::server::resp::clients::is_label;
use crate::server::resp::codec::{Arguments, Protocol, Replies, parse_integer};
use crate::server::resp::error::CommandError;
use bytes::{Bytes, BytesMut};
use std::time::{SystemTime, UNIX_EPOCH};

/// Redis's answer to a name that would break the list of clients.
pub(super) const BAD_NAME: CommandError =
    CommandError::fixed("ERR Client names cannot contain spaces, newlines or special characters.");

const WRONG_PASSWORD: CommandError =
    CommandError::fixed("WRONGPASS invalid username-password pair or user is disabled.");

const NO_PASSWORDS: CommandError = CommandError::fixed(
    "ERR AUTH <password> called without any password configured for the default user. Are you \
     sure your configuration is correct?",
);

/// Chooses the protocol; what else the client says takes effect only if all of it is right.
pub(super) fn hello(
    session: &mut Session,
    arguments: &Arguments,
    out: &mut BytesMut,
) -> Result<(), CommandError> {
    let mut protocol = session.protocol;
    if arguments.len() > 1 {
        let version = parse_integer(arguments.get(1))
            .ok_or(CommandError::fixed("ERR Protocol version is not an integer or out of range"))?;
        protocol = match version {
            2 => Protocol::Resp2,
            3 => Protocol::Resp3,
            _ => return Err(CommandError::fixed("NOPROTO unsupported protocol version")),
        };
    }
    let mut name: Option<&[u8]> = None;
    let mut index = 2;
    while index < arguments.len() {
        let option = arguments.get(index);
        let left = arguments.len() - index - 1;
        if option.eq_ignore_ascii_case(b"auth") && left >= 2 {
            return Err(refuse_user(arguments.get(index + 1)));
        } else if option.eq_ignore_ascii_case(b"setname") && left >= 1 {
            let label = arguments.get(index + 1);
            if !is_label(label) {
                return Err(BAD_NAME);
            }
            name = Some(label);
            index += 2;
        } else {
            let text = [b"ERR Syntax error in HELLO option '", option, b"'"].concat();
            return Err(CommandError::request(text));
        }
    }
    if let Some(name) = name {
        let name = Bytes::copy_from_slice(name);
        session.client.change_labels(|labels| labels.name = name);
    }
    session.protocol = protocol;
    session.client.note_protocol(protocol);
    let version = match protocol {
        Protocol::Resp2 => 2,
        Protocol::Resp3 => 3,
    };
    let mut replies = Replies::new(out, protocol);
    replies.map(7);
    for (name, value) in [("server", "flotilla"), ("version", REDIS_VERSION)] {
        replies.bulk(name.as_bytes());
        replies.bulk(value.as_bytes());
    }
    replies.bulk(b"proto");
    replies.integer(version);
    replies.bulk(b"id");
    replies.integer(session.client.id as i64);
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        replies.bulk(name.as_bytes());
        replies.bulk(value.as_bytes());
    }
    replies.bulk(b"modules");
    replies.array(0);
    Ok(())
}

/// Refuses a password. Redis lets the default user in with any as long as none is set; here that
/// would feign a protection that does not exist.
pub(super) fn auth(arguments: &Arguments) -> CommandError {
    match arguments.len() {
        2 => NO_PASSWORDS,
        3 => refuse_user(arguments.get(1)),
        _ => CommandError::SYNTAX,
    }
}

fn refuse_user(user: &[u8]) -> CommandError {
    if user == b"default" { NO_PASSWORDS } else { WRONG_PASSWORD }
}

/// Chooses a database, of which there is one.
pub(super) fn select(arguments: &Arguments, replies: &mut Replies<'_>) -> Result<(), CommandError> {
    if database(arguments, 1)? != 0 {
        return Err(CommandError::NO_SUCH_DATABASE);
    }
    replies.ok();
    Ok(())
}

/// The node's wall clock: seconds since the Unix epoch, and microseconds of the present one.
pub(super) fn time(replies: &mut Replies<'_>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    replies.array(2);
    replies.bulk(now.as_secs().to_string().as_bytes());
    replies.bulk(now.subsec_micros().to_string().as_bytes());
}
