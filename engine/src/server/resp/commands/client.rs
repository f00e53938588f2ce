//! `CLIENT`: what connections are called and which there are.

use super::hello::BAD_NAME;
use super::{Context, Session, Subcommand, help, subcommand};
use crate::server::resp::clients::is_label;
use crate::server::resp::codec::{Arguments, Replies, parse_integer};
use crate::server::resp::error::CommandError;
use bytes::Bytes;

#[derive(Clone, Copy)]
enum Which {
    GetName,
    GetRedir,
    Help,
    Id,
    Info,
    List,
    NoEvict,
    NoTouch,
    SetInfo,
    SetName,
}

const SUBCOMMANDS: [Subcommand<Which>; 10] = [
    ("getname", 2, Which::GetName),
    ("getredir", 2, Which::GetRedir),
    ("help", 2, Which::Help),
    ("id", 2, Which::Id),
    ("info", 2, Which::Info),
    ("list", -2, Which::List),
    ("no-evict", 3, Which::NoEvict),
    ("no-touch", 3, Which::NoTouch),
    ("setinfo", 4, Which::SetInfo),
    ("setname", 3, Which::SetName),
];

const HELP: [&str; 18] = [
    "GETNAME",
    "    Return the name of this connection.",
    "GETREDIR",
    "    Return -1: keys are not tracked.",
    "ID",
    "    Return the id of this connection.",
    "INFO",
    "    Return what LIST tells of this connection.",
    "LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB) | ID <id> [<id> ...]]",
    "    Return information about connections.",
    "NO-EVICT (ON|OFF)",
    "    Is accepted: connections are never evicted.",
    "NO-TOUCH (ON|OFF)",
    "    Is accepted: reads never change a key's age.",
    "SETINFO (LIB-NAME|LIB-VER) <value>",
    "    Tell which library this connection uses.",
    "SETNAME <name>",
    "    Give this connection a name.",
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
        Which::List => replies.text(&list(context, arguments)?),
        Which::NoEvict | Which::NoTouch => {
            let mode = arguments.get(2);
            if !mode.eq_ignore_ascii_case(b"on") && !mode.eq_ignore_ascii_case(b"off") {
                return Err(CommandError::SYNTAX);
            }
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
        let kind = arguments.get(3);
        let is = |name: &str| kind.eq_ignore_ascii_case(name.as_bytes());
        return if is("normal") {
            Ok(context.clients.describe(|_| true))
        } else if ["master", "slave", "replica", "pubsub"].into_iter().any(is) {
            Ok(String::new())
        } else {
            let text = [b"ERR Unknown client type '", kind, b"'"].concat();
            Err(CommandError::request(text))
        };
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
