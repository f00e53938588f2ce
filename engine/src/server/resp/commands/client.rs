//! `CLIENT`: what connections are called and which there are.

use super::hello::BAD_NAME;
use super::{Context, ReplyMode, Session, Subcommand, help, subcommand};
use crate::server::resp::clients::{Client, is_label};
use crate::server::resp::codec::{Arguments, Replies, parse_integer};
use crate::server::resp::error::CommandError;
use bytes::Bytes;
use std::net::SocketAddr;

#[derive(Clone, Copy)]
enum Which {
    Caching,
    GetName,
    GetRedir,
    Help,
    Id,
    Info,
    Kill,
    List,
    NoEvict,
    NoTouch,
    Reply,
    SetInfo,
    SetName,
    TrackingInfo,
    Unblock,
}

const SUBCOMMANDS: [Subcommand<Which>; 15] = [
    ("caching", 3, Which::Caching),
    ("getname", 2, Which::GetName),
    ("getredir", 2, Which::GetRedir),
    ("help", 2, Which::Help),
    ("id", 2, Which::Id),
    ("info", 2, Which::Info),
    ("kill", -3, Which::Kill),
    ("list", -2, Which::List),
    ("no-evict", 3, Which::NoEvict),
    ("no-touch", 3, Which::NoTouch),
    ("reply", 3, Which::Reply),
    ("setinfo", 4, Which::SetInfo),
    ("setname", 3, Which::SetName),
    ("trackinginfo", 2, Which::TrackingInfo),
    ("unblock", -3, Which::Unblock),
];

const HELP: [&str; 29] = [
    "CACHING (YES|NO)",
    "    Is refused: keys are not tracked.",
    "GETNAME",
    "    Return the name of this connection.",
    "GETREDIR",
    "    Return -1: keys are not tracked.",
    "ID",
    "    Return the id of this connection.",
    "INFO",
    "    Return what LIST tells of this connection.",
    "KILL <ip:port>",
    "KILL (ID <id>|ADDR <ip:port>|LADDR <ip:port>|TYPE <type>|USER <name>|SKIPME (YES|NO)) ...",
    "    Close connections.",
    "LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB) | ID <id> [<id> ...]]",
    "    Return information about connections.",
    "NO-EVICT (ON|OFF)",
    "    Is accepted: connections are never evicted.",
    "NO-TOUCH (ON|OFF)",
    "    Is accepted: reads never change a key's age.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to this connection.",
    "SETINFO (LIB-NAME|LIB-VER) <value>",
    "    Tell which library this connection uses.",
    "SETNAME <name>",
    "    Give this connection a name.",
    "TRACKINGINFO",
    "    Tell that keys are not tracked.",
    "UNBLOCK <id> [TIMEOUT|ERROR]",
    "    Return 0: no command blocks.",
];

pub(super) fn client<B>(
    context: &Context<B>,
    session: &mut Session,
    arguments: &Arguments,
    replies: &mut Replies<'_>,
) -> Result<(), CommandError> {
    let client = &session.client;
    match subcommand("client", &SUBCOMMANDS, arguments)? {
        Which::GetName => {
            let name = client.labels().name;
            if name.is_empty() { replies.null() } else { replies.bulk(&name) }
        }
        Which::GetRedir => replies.integer(-1),
        Which::Help => help("CLIENT", &HELP, replies),
        Which::Id => replies.integer(client.id as i64),
        Which::Info => replies.text(&context.clients.describe(|other| other.id == client.id)),
        Which::Caching => {
            return Err(CommandError::fixed(
                "ERR CLIENT CACHING can be called only when the client is in tracking mode with \
                 OPTIN or OPTOUT mode enabled",
            ));
        }
        Which::Kill => return kill(context, session, arguments, replies),
        Which::Reply => match mode(arguments.get(2), ["on", "off", "skip"])? {
            0 => {
                session.replies = ReplyMode::On;
                session.unmuted = true;
                replies.ok();
            }
            1 => session.replies = ReplyMode::Off,
            _ if session.replies == ReplyMode::Off => {}
            _ => session.replies = ReplyMode::SkipNext,
        },
        Which::TrackingInfo => {
            replies.map(3);
            replies.bulk(b"flags");
            replies.set(1);
            replies.bulk(b"off");
            replies.bulk(b"redirect");
            replies.integer(-1);
            replies.bulk(b"prefixes");
            replies.array(0);
        }
        Which::Unblock => unblock(arguments, replies)?,
        Which::List => replies.text(&list(context, arguments)?),
        Which::NoEvict | Which::NoTouch => {
            mode(arguments.get(2), ["on", "off"])?;
            replies.ok();
        }
        Which::SetInfo => {
            set_info(session, arguments)?;
            replies.ok();
        }
        Which::SetName => {
            let name = arguments.get(2);
            if !is_label(name) {
                return Err(BAD_NAME);
            }
            let name = Bytes::copy_from_slice(name);
            client.change_labels(|labels| labels.name = name);
            replies.ok();
        }
    }
    Ok(())
}

/// Which of `modes` is asked for.
fn mode<const N: usize>(asked: &[u8], modes: [&str; N]) -> Result<usize, CommandError> {
    let found = modes.iter().position(|mode| asked.eq_ignore_ascii_case(mode.as_bytes()));
    found.ok_or(CommandError::SYNTAX)
}

/// No command blocks, so there is nobody to be freed.
fn unblock(arguments: &Arguments, replies: &mut Replies<'_>) -> Result<(), CommandError> {
    if arguments.len() > 4 {
        return Err(CommandError::fixed(
            "ERR unknown subcommand or wrong number of arguments for 'UNBLOCK'. Try CLIENT HELP.",
        ));
    }
    if arguments.len() == 4 && mode(arguments.get(3), ["timeout", "error"]).is_err() {
        return Err(CommandError::fixed("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"));
    }
    parse_integer(arguments.get(2)).ok_or(CommandError::NOT_AN_INTEGER)?;
    replies.integer(0);
    Ok(())
}

/// Which connections are to be closed: those for which all that is said holds.
#[derive(Default)]
struct Doomed {
    id: Option<u64>,
    address: Option<Bytes>,
    local_address: Option<Bytes>,
    /// A type or a user of which there are no connections.
    nobody: bool,
}

impl Doomed {
    fn contains(&self, client: &Client) -> bool {
        let is = |wanted: &Option<Bytes>, address: SocketAddr| {
            wanted.as_ref().is_none_or(|wanted| **wanted == *address.to_string().as_bytes())
        };
        !self.nobody
            && self.id.is_none_or(|id| id == client.id)
            && is(&self.address, client.address)
            && is(&self.local_address, client.local_address)
    }
}

/// Closes connections. This one gets its reply before.
fn kill<B>(
    context: &Context<B>,
    session: &mut Session,
    arguments: &Arguments,
    replies: &mut Replies<'_>,
) -> Result<(), CommandError> {
    let mut doomed = Doomed::default();
    let mut skip_me = arguments.len() > 3;
    if arguments.len() == 3 {
        doomed.address = Some(Bytes::copy_from_slice(arguments.get(2)));
    }
    let options = if arguments.len() == 3 { 3..3 } else { 2..arguments.len() };
    for index in options.step_by(2) {
        if index + 1 == arguments.len() {
            return Err(CommandError::SYNTAX);
        }
        let (option, value) = (arguments.get(index), arguments.get(index + 1));
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("id") {
            let id = parse_integer(value).and_then(|id| u64::try_from(id).ok());
            let id = id.filter(|id| *id > 0);
            doomed.id =
                Some(id.ok_or(CommandError::fixed("ERR client-id should be greater than 0"))?);
        } else if is("addr") {
            doomed.address = Some(Bytes::copy_from_slice(value));
        } else if is("laddr") {
            doomed.local_address = Some(Bytes::copy_from_slice(value));
        } else if is("type") {
            doomed.nobody |= !is_normal(value)?;
        } else if is("user") {
            if value != b"default" {
                let text = [b"ERR No such user '", value, b"'"].concat();
                return Err(CommandError::request(text));
            }
        } else if is("skipme") {
            skip_me = mode(value, ["yes", "no"])? == 0;
        } else {
            return Err(CommandError::SYNTAX);
        }
    }
    let me = session.client.id;
    let others = context.clients.kill(|client| client.id != me && doomed.contains(client));
    let with_me = !skip_me && doomed.contains(&session.client);
    session.quit |= with_me;
    let count = others + usize::from(with_me);
    match (arguments.len(), count) {
        (3, 0) => return Err(CommandError::fixed("ERR No such client")),
        (3, _) => replies.ok(),
        _ => replies.integer(count as i64),
    }
    Ok(())
}

/// True for the type of all connections here; false for types that Redis knows besides.
fn is_normal(kind: &[u8]) -> Result<bool, CommandError> {
    match mode(kind, ["normal", "master", "slave", "replica", "pubsub"]) {
        Ok(index) => Ok(index == 0),
        Err(_) => {
            let text = [b"ERR Unknown client type '", kind, b"'"].concat();
            Err(CommandError::request(text))
        }
    }
}

fn set_info(session: &Session, arguments: &Arguments) -> Result<(), CommandError> {
    let (option, value) = (arguments.get(2), arguments.get(3));
    let is_name = option.eq_ignore_ascii_case(b"lib-name");
    if !is_name && !option.eq_ignore_ascii_case(b"lib-ver") {
        return Err(CommandError::request([b"ERR Unrecognized option '", option, b"'"].concat()));
    }
    if !is_label(value) {
        let name = if is_name { "lib-name" } else { "lib-ver" };
        return Err(CommandError::request(format!(
            "ERR {name} cannot contain spaces, newlines or special characters."
        )));
    }
    let value = Bytes::copy_from_slice(value);
    session.client.change_labels(|labels| {
        let label = if is_name { &mut labels.library_name } else { &mut labels.library_version };
        *label = value;
    });
    Ok(())
}

fn list<B>(context: &Context<B>, arguments: &Arguments) -> Result<String, CommandError> {
    if arguments.len() == 2 {
        return Ok(context.clients.describe(|_| true));
    }
    let filter = arguments.get(2);
    if arguments.len() == 4 && filter.eq_ignore_ascii_case(b"type") {
        let all = is_normal(arguments.get(3))?;
        return Ok(context.clients.describe(|_| all));
    }
    if arguments.len() > 3 && filter.eq_ignore_ascii_case(b"id") {
        let ids: Option<Vec<u64>> = arguments
            .iter_from(3)
            .map(|id| parse_integer(id).and_then(|id| u64::try_from(id).ok()))
            .collect();
        let ids = ids.ok_or(CommandError::fixed("ERR Invalid client ID"))?;
        return Ok(context.clients.describe(|client| ids.contains(&client.id)));
    }
    Err(CommandError::SYNTAX)
}
