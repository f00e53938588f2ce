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
mod expiry;
mod hello;
mod info;
mod keys;
mod lcs;
mod listing;
mod object;
mod once;
mod range;
mod run;
mod specs;
mod strings;
mod table;
mod transaction;

pub use answer::{Shape, WideAnswer, reply, reply_wide};
pub use keys::Wide;
pub use run::{WideFuture, run_wide};
pub use table::{COMMANDS, Command};
pub use transaction::WatchedKey;

use super::backend::Backend;
use super::clients::{Client, Clients};
use super::codec::{Arguments, Protocol, Replies, parse_integer};
use super::cursor::Cursors;
use super::error::CommandError;
use super::info::{Birth, ServerInfo};
use super::metrics::RespMetrics;
use super::options::RespOptions;
use super::throttle::Refused;
use bytes::{Bytes, BytesMut};
use expiry::Unit;
use flotilla_shard::{Budget, Operation, Origin};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::Semaphore;
use transaction::{Transaction, Watched};

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
    /// The node's memory; replies that clients have not taken count in it.
    pub(super) budget: Budget,
    /// Held by what takes long and much memory: one request does so at a time.
    pub(super) slow_turn: Semaphore,
    /// Connections whose requests are refused.
    pub(super) refused: Arc<Refused>,
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
    /// Which replies are sent.
    pub(super) replies: ReplyMode,
    /// The request at hand turned replies on, its own included.
    pub(super) unmuted: bool,
    /// What came since `MULTI`.
    pub(super) transaction: Option<Transaction>,
    /// What `WATCH` watches.
    pub(super) watched: Watched,
}

/// Which replies a connection gets, by `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// All.
    #[default]
    On,
    /// None.
    Off,
    /// None to the next request, then all.
    SkipNext,
}

impl Session {
    /// The session of a connection that has just been entered in the list as `client`.
    pub fn new(client: Arc<Client>) -> Session {
        Session {
            client,
            protocol: Protocol::default(),
            quit: false,
            replies: ReplyMode::default(),
            unmuted: false,
            transaction: None,
            watched: Watched::default(),
        }
    }

    /// True if the last request was to end the silence; asked once.
    pub fn take_unmuted(&mut self) -> bool {
        std::mem::take(&mut self.unmuted)
    }

    /// Notes that a request was refused: a transaction that it belongs to is not executed.
    pub fn note_refused(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.spoil();
        }
    }

    /// Notes what became of a `WATCH`; `None`: it failed.
    pub fn note_watched(&mut self, keys: Option<Vec<WatchedKey>>) {
        match keys {
            Some(keys) => self.watched.add(keys),
            None => self.watched.lose_sight(),
        }
    }

    /// `RESET`: everything that the client has agreed on is forgotten.
    fn reset(&mut self) {
        transaction::end(self);
        self.replies = ReplyMode::default();
        self.unmuted = true;
        self.protocol = Protocol::default();
        self.client.note_protocol(self.protocol);
        self.client.change_labels(|labels| labels.name = Bytes::new());
    }
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
    /// Something that is more than one operation on one key.
    Wide(Wide),
    /// One write that the client named, so that it can be sent again.
    Once {
        /// Its name.
        origin: Origin,
        /// What to do.
        operation: Operation,
        /// What the reply is made of.
        shape: Shape,
    },
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
        if command == Command::Exec {
            return Err(transaction::refuse_exec(session));
        }
        session.note_refused();
        return Err(CommandError::arity(spec.name));
    }
    let mut replies = Replies::new(out, session.protocol);
    if transaction::queue(context, session, command, arguments, &mut replies)? {
        return Ok(Plan::Replied);
    }
    match command {
        Command::Exec => return transaction::exec(context, session),
        Command::Multi => transaction::multi(session, &mut replies)?,
        Command::Discard => transaction::discard(session, &mut replies)?,
        Command::Watch => return transaction::watch(context, session, arguments),
        Command::Quit => {
            session.quit = true;
            replies.ok();
        }
        Command::Reset => {
            session.reset();
            Replies::new(out, session.protocol).status("RESET");
        }
        Command::FlotillaOnce => return once::once(context, session, arguments),
        _ => return plan_command(context, session, command, arguments, out),
    }
    Ok(Plan::Replied)
}

/// As [`plan`], for a command with the right number of arguments that may be part of a transaction.
fn plan_command<B: Backend>(
    context: &Context<B>,
    session: &mut Session,
    command: Command,
    arguments: &Arguments,
    out: &mut BytesMut,
) -> Result<Plan, CommandError> {
    if let Some(planned) = plan_data(context, command, arguments) {
        return planned;
    }
    let options = &context.options;
    let mut replies = Replies::new(out, session.protocol);
    match command {
        Command::Scan => return keys::scan(context, arguments, &mut replies),
        Command::Object => return object::object(options, arguments, &mut replies),
        Command::Ping => match arguments.len() {
            1 => replies.status("PONG"),
            2 => replies.bulk(arguments.get(1)),
            _ => return Err(CommandError::arity("ping")),
        },
        Command::Echo => replies.bulk(arguments.get(1)),
        Command::Time => hello::time(&mut replies),
        Command::Select => hello::select(arguments, &mut replies)?,
        Command::Auth => return Err(hello::auth(arguments)),
        Command::Hello => hello::hello(session, arguments, out)?,
        Command::Client => client::client(context, session, arguments, &mut replies)?,
        Command::Config => config::config(context, arguments, &mut replies)?,
        Command::Info => info::info(context, arguments, &mut replies),
        Command::Command => listing::command(arguments, &mut replies)?,
        Command::Unwatch => transaction::unwatch(session, &mut replies),
        _ => unreachable!("the command {} is planned elsewhere", command.spec().name),
    }
    Ok(Plan::Replied)
}

/// Plans commands that ask the data and nothing of the connection; `None` for all others.
fn plan_data<B: Backend>(
    context: &Context<B>,
    command: Command,
    arguments: &Arguments,
) -> Option<Result<Plan, CommandError>> {
    use expiry::{AT_MILLISECOND, AT_SECOND, IN_MILLISECONDS, IN_SECONDS};
    let options = &context.options;
    let ask = |shape| strings::ask(options, arguments, shape);
    let expire = |form, name| expiry::expire(options, arguments, form, name);
    Some(match command {
        Command::Get => ask(Shape::Value),
        Command::Set => strings::set(options, arguments),
        Command::Setnx => strings::setnx(options, arguments),
        Command::Setex => strings::set_expiring(options, arguments, IN_SECONDS, "setex"),
        Command::Psetex => strings::set_expiring(options, arguments, IN_MILLISECONDS, "psetex"),
        Command::Getset => strings::getset(options, arguments),
        Command::Getdel => strings::getdel(options, arguments),
        Command::Getex => expiry::getex(options, arguments),
        Command::Mset => strings::mset(options, arguments, false),
        Command::Msetnx => strings::mset(options, arguments, true),
        Command::Incr => strings::add(options, arguments, 1),
        Command::Decr => strings::add(options, arguments, -1),
        Command::Incrby => strings::add_by(options, arguments),
        Command::Decrby => strings::subtract_by(options, arguments),
        Command::Incrbyfloat => strings::add_float(options, arguments),
        Command::Append => strings::append(options, arguments),
        Command::Strlen => ask(Shape::Length),
        Command::Getrange | Command::Substr => strings::get_range(options, arguments),
        Command::Setrange => strings::set_range(options, arguments),
        Command::Lcs => lcs::lcs(options, arguments),
        Command::Mget => keys::mget(options, arguments),
        Command::Del | Command::Unlink => keys::delete(options, arguments),
        Command::Exists | Command::Touch => keys::exists(options, arguments),
        Command::Type => ask(Shape::Type),
        Command::Ttl => ask(Shape::TimeLeft(Unit::Seconds)),
        Command::Pttl => ask(Shape::TimeLeft(Unit::Milliseconds)),
        Command::Expiretime => ask(Shape::ExpiresAt(Unit::Seconds)),
        Command::Pexpiretime => ask(Shape::ExpiresAt(Unit::Milliseconds)),
        Command::Expire => expire(IN_SECONDS, "expire"),
        Command::Pexpire => expire(IN_MILLISECONDS, "pexpire"),
        Command::Expireat => expire(AT_SECOND, "expireat"),
        Command::Pexpireat => expire(AT_MILLISECOND, "pexpireat"),
        Command::Persist => expiry::persist(options, arguments),
        Command::Rename => keys::rename(options, arguments, false),
        Command::Renamenx => keys::rename(options, arguments, true),
        Command::Copy => keys::copy(options, arguments),
        Command::FlotillaRange => range::range(options, arguments),
        Command::Keys => Ok(keys::keys(arguments)),
        Command::Randomkey => Ok(Plan::Wide(Wide::RandomKey)),
        Command::Dbsize => Ok(Plan::Wide(Wide::CountAll)),
        Command::Flushall | Command::Flushdb => keys::flush(arguments),
        Command::Wait => keys::wait(context, arguments),
        _ => return None,
    })
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

/// The argument at `index` as the number of a database, which may not exist.
fn database(arguments: &Arguments, index: usize) -> Result<i64, CommandError> {
    let number = integer(arguments, index)?;
    if i32::try_from(number).is_err() {
        return Err(CommandError::fixed(
            "ERR value is out of range, value must between -2147483648 and 2147483647",
        ));
    }
    Ok(number)
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
