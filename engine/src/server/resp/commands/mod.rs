//! From the words of a request to what is to be done, and from answers to replies.
//!
//! A command is judged in two steps. [`plan`] checks its arguments, and either writes the reply at
//! once, when no key is needed, or says what must be asked of the data. When the answer is there,
//! [`reply`] writes it. In between the connection may do other things.
//!
//! Invariants:
//!
//! * Arguments are checked completely before anything is asked: a request that ends in an error of
//!   syntax had no effect.
//! * Keys and values that exceed the limits never leave this module.
//!
//! What is absent: the order of requests on a connection, and sockets.

mod answer;
mod client;
mod config;
mod hello;
mod info;
mod keys;
mod listing;
mod strings;
mod table;

pub use answer::{Shape, WideAnswer, reply, reply_wide};
pub use keys::{Wide, WideFuture, run_wide};
pub use table::{COMMANDS, Command};

use super::backend::Backend;
use super::clients::{Client, Clients};
use super::codec::{Arguments, Protocol, Replies, parse_integer};
use super::cursor::Cursors;
use super::error::CommandError;
use super::info::{Birth, ServerInfo};
use super::metrics::RespMetrics;
use super::options::RespOptions;
use bytes::{Bytes, BytesMut};
use flotilla_shard::Operation;
use std::net::SocketAddr;
use std::sync::Arc;

/// The version of Redis whose replies are followed; clients choose features by it.
pub const REDIS_VERSION: &str = "7.0.15";

/// What all connections of a server share.
pub struct Context<B> {
    /// Who holds the data.
    pub(super) backend: B,
    pub(super) options: RespOptions,
    pub(super) metrics: RespMetrics,
    pub(super) clients: Clients,
    pub(super) cursors: Cursors,
    pub(super) info: Arc<dyn ServerInfo>,
    pub(super) birth: Birth,
    pub(super) local_address: SocketAddr,
}

/// What one connection has agreed on.
#[derive(Debug)]
pub struct Session {
    /// Its entry in the list of all.
    pub(super) client: Arc<Client>,
    /// The version of the protocol that replies are written in.
    pub(super) protocol: Protocol,
    /// Set by `QUIT`: no further request is taken.
    pub(super) quit: bool,
}

/// What must happen before a command can be answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: the reply has been written.
    Replied,
    /// One operation on one key.
    Single {
        /// What to ask.
        operation: Operation,
        /// What the reply is made of.
        shape: Shape,
    },
    /// Something that may ask several shards.
    Wide(Wide),
}

/// Checks the arguments of `command`; replies that need no data are written to `out`.
///
/// # Errors
///
/// [`CommandError`] when the arguments are refused. Nothing was written then.
pub fn plan<B: Backend>(
    context: &Context<B>,
    session: &mut Session,
    command: Command,
    arguments: &Arguments,
    out: &mut BytesMut,
) -> Result<Plan, CommandError> {
    let spec = command.spec();
    if !spec.accepts(arguments.len()) {
        return Err(CommandError::arity(spec.name));
    }
    let options = &context.options;
    let mut replies = Replies::new(out, session.protocol);
    match command {
        Command::Get => return strings::get(options, arguments),
        Command::Set => return strings::set(options, arguments),
        Command::Setnx => return strings::setnx(options, arguments),
        Command::Incr => return strings::add(options, arguments, 1),
        Command::Decr => return strings::add(options, arguments, -1),
        Command::Incrby => return strings::add_by(options, arguments),
        Command::Decrby => return strings::subtract_by(options, arguments),
        Command::Append => return strings::append(options, arguments),
        Command::Strlen => return strings::strlen(options, arguments),
        Command::Mget => return keys::mget(options, arguments),
        Command::Del | Command::Unlink => return keys::delete(options, arguments),
        Command::Exists => return keys::exists(options, arguments),
        Command::Scan => return keys::scan(context, arguments, &mut replies),
        Command::Dbsize => return Ok(Plan::Wide(Wide::CountAll)),
        Command::Flushall | Command::Flushdb => return keys::flush(arguments),
        Command::Ping => match arguments.len() {
            1 => replies.status("PONG"),
            2 => replies.bulk(arguments.get(1)),
            _ => return Err(CommandError::arity(spec.name)),
        },
        Command::Echo => replies.bulk(arguments.get(1)),
        Command::Select => hello::select(arguments, &mut replies)?,
        Command::Auth => return Err(hello::auth(arguments)),
        Command::Quit => {
            session.quit = true;
            replies.ok();
        }
        Command::Hello => hello::hello(session, arguments, out)?,
        Command::Client => client::client(context, session, arguments, &mut replies)?,
        Command::Config => config::config(context, arguments, &mut replies)?,
        Command::Info => info::info(context, arguments, &mut replies),
        Command::Command => listing::command(arguments, &mut replies)?,
    }
    Ok(Plan::Replied)
}

/// The argument at `index` as a key.
fn key(options: &RespOptions, arguments: &Arguments, index: usize) -> Result<Bytes, CommandError> {
    check_key(options, arguments.get(index))?;
    Ok(arguments.share(index))
}

/// The arguments from `index` on as keys.
fn keys_from(
    options: &RespOptions,
    arguments: &Arguments,
    index: usize,
) -> Result<Vec<Bytes>, CommandError> {
    (index..arguments.len()).map(|index| key(options, arguments, index)).collect()
}

fn check_key(options: &RespOptions, key: &[u8]) -> Result<(), CommandError> {
    if key.is_empty() {
        return Err(CommandError::fixed("ERR the key is empty; keys have at least one byte"));
    }
    if key.len() > options.key_bytes_max {
        return Err(CommandError::request(format!(
            "ERR the key of {} bytes exceeds the limit of {}",
            key.len(),
            options.key_bytes_max
        )));
    }
    Ok(())
}

/// The argument at `index` as a value.
fn value(
    options: &RespOptions,
    arguments: &Arguments,
    index: usize,
) -> Result<Bytes, CommandError> {
    let bytes = arguments.get(index).len();
    if bytes > options.value_bytes_max {
        return Err(CommandError::request(format!(
            "ERR the value of {bytes} bytes exceeds the limit of {}",
            options.value_bytes_max
        )));
    }
    Ok(arguments.share(index))
}

/// The argument at `index` as a number.
fn integer(arguments: &Arguments, index: usize) -> Result<i64, CommandError> {
    parse_integer(arguments.get(index)).ok_or(CommandError::NOT_AN_INTEGER)
}

/// A subcommand: its name, how many arguments it takes (as [`CommandSpec::arity`]), and what it is.
type Subcommand<T> = (&'static str, i32, T);

/// Finds the subcommand that the second argument names.
fn subcommand<T: Copy>(
    container: &'static str,
    table: &[Subcommand<T>],
    arguments: &Arguments,
) -> Result<T, CommandError> {
    let asked = arguments.get(1);
    let found = table.iter().find(|(name, ..)| name.as_bytes().eq_ignore_ascii_case(asked));
    let Some((name, arity, which)) = found else {
        return Err(CommandError::unknown_subcommand(container, asked));
    };
    let wanted = arity.unsigned_abs() as usize;
    let accepted = if *arity < 0 { arguments.len() >= wanted } else { arguments.len() == wanted };
    if !accepted {
        return Err(CommandError::arity(&format!("{container}|{name}")));
    }
    Ok(*which)
}

/// Answers `HELP`: what a container's subcommands are.
fn help(container: &str, lines: &[&str], replies: &mut Replies<'_>) {
    replies.array(lines.len() + 3);
    replies
        .status(&format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for line in lines {
        replies.status(line);
    }
    replies.status("HELP");
    replies.status("    Prints this help.");
}
