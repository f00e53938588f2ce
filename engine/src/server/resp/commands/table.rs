//! The commands that the server knows, and what it tells clients about them.
//!
//! Facts such as arity, flags and key positions are those of Redis 7.0, because clients route and
//! retry by them.
//!
//! Invariant: every name has at most eight bytes, so that finding a command compares one integer.

/// A command, as an index into [`COMMANDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is the command of the same name")]
#[allow(clippy::enum_variant_names, reason = "there is a command called COMMAND")]
pub enum Command {
    Append,
    Auth,
    Client,
    Command,
    Config,
    Dbsize,
    Decr,
    Decrby,
    Del,
    Echo,
    Exists,
    Flushall,
    Flushdb,
    Get,
    Hello,
    Incr,
    Incrby,
    Info,
    Mget,
    Ping,
    Quit,
    Scan,
    Select,
    Set,
    Setnx,
    Strlen,
    Unlink,
}

/// What is known of one command.
#[derive(Debug)]
pub struct CommandSpec {
    /// Which it is.
    pub command: Command,
    /// Its name in lower case.
    pub name: &'static str,
    /// How many arguments it takes, its name included; negative: at least so many.
    pub arity: i32,
    /// Flags in Redis's words.
    pub flags: &'static [&'static str],
    /// Positions of the first and the last key and the step between keys; all 0 without keys, and
    /// the last is -1 when all arguments are keys.
    pub keys: (i32, i32, i32),
    /// Access categories in Redis's words.
    pub categories: &'static [&'static str],
    /// The group that Redis documents it in.
    pub group: &'static str,
    /// The version of Redis that it first appeared in.
    pub since: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// What it costs.
    pub complexity: &'static str,
}

impl CommandSpec {
    /// True if a request of `arguments` arguments, the name included, is well formed.
    pub fn accepts(&self, arguments: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { arguments >= arity } else { arguments == arity }
    }
}

impl Command {
    /// The command called `name`, in any mixture of cases.
    pub fn find(name: &[u8]) -> Option<Command> {
        let packed = pack(name)?;
        let index = NAMES.binary_search_by_key(&packed, |(name, _)| *name).ok()?;
        Some(NAMES[index].1)
    }

    /// What is known of it.
    pub fn spec(self) -> &'static CommandSpec {
        &COMMANDS[self as usize]
    }
}

/// Up to eight bytes in one integer, letters in lower case.
const fn pack(name: &[u8]) -> Option<u64> {
    if name.len() > 8 {
        return None;
    }
    let mut packed = 0;
    let mut index = 0;
    while index < name.len() {
        if name[index] == 0 {
            return None;
        }
        packed = packed << 8 | name[index].to_ascii_lowercase() as u64;
        index += 1;
    }
    Some(packed)
}

/// Every packed name, in ascending order.
static NAMES: [(u64, Command); COMMANDS.len()] = sorted_names();

const fn sorted_names() -> [(u64, Command); COMMANDS.len()] {
    let mut names = [(0, Command::Append); COMMANDS.len()];
    let mut count = 0;
    while count < COMMANDS.len() {
        let spec = &COMMANDS[count];
        assert!(spec.command as usize == count, "the table is in the order of the enum");
        let Some(packed) = pack(spec.name.as_bytes()) else {
            panic!("a command's name has at most eight bytes")
        };
        let mut place = count;
        while place > 0 && names[place - 1].0 > packed {
            names[place] = names[place - 1];
            place -= 1;
        }
        names[place] = (packed, spec.command);
        count += 1;
    }
    names
}

const CONNECTION: &[&str] = &["loading", "stale", "fast"];
const BEFORE_AUTH: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const READ: &[&str] = &["readonly", "fast"];
const UPDATE: &[&str] = &["write", "denyoom", "fast"];

const NO_KEYS: (i32, i32, i32) = (0, 0, 0);
const ONE_KEY: (i32, i32, i32) = (1, 1, 1);
const ALL_KEYS: (i32, i32, i32) = (1, -1, 1);

const ONE_WRITE: &str = "O(1): one round of the key's group";
const ONE_READ: &str = "O(1): one read of the key's group";

/// Shortens the table below.
macro_rules! spec {
    ($command:ident, $name:literal, $arity:literal, $flags:expr, $keys:expr, $categories:expr,
     $group:literal, $since:literal, $complexity:expr, $summary:literal) => {
        CommandSpec {
            command: Command::$command,
            name: $name,
            arity: $arity,
            flags: $flags,
            keys: $keys,
            categories: $categories,
            group: $group,
            since: $since,
            summary: $summary,
            complexity: $complexity,
        }
    };
}

/// All commands, in the order of [`Command`].
#[rustfmt::skip]
pub static COMMANDS: [CommandSpec; 27] = [
    spec!(Append, "append", 3, UPDATE, ONE_KEY, &["@write", "@string", "@fast"],
        "string", "2.0.0", ONE_WRITE, "Appends to a value, which begins empty."),
    spec!(Auth, "auth", -2, BEFORE_AUTH, NO_KEYS, &["@fast", "@connection"],
        "connection", "1.0.0", "O(1)", "Is refused: there are no users and no passwords."),
    spec!(Client, "client", -2, &[], NO_KEYS, &["@slow"],
        "connection", "2.4.0", "O(N) for LIST, else O(1)", "Asks and tells about connections."),
    spec!(Command, "command", -1, &["loading", "stale"], NO_KEYS, &["@slow", "@connection"],
        "server", "2.8.13", "O(N) with N commands", "Tells which commands there are."),
    spec!(Config, "config", -2, &[], NO_KEYS, &["@slow"],
        "server", "2.0.0", "O(N) with N parameters", "Tells settings under the names Redis has."),
    spec!(Dbsize, "dbsize", 1, READ, NO_KEYS, &["@keyspace", "@read", "@fast"],
        "server", "1.0.0", "O(N) with N keys: they are counted", "Counts the keys."),
    spec!(Decr, "decr", 2, UPDATE, ONE_KEY, &["@write", "@string", "@fast"],
        "string", "1.0.0", ONE_WRITE, "Subtracts one from an integer, which begins at 0."),
    spec!(Decrby, "decrby", 3, UPDATE, ONE_KEY, &["@write", "@string", "@fast"],
        "string", "1.0.0", ONE_WRITE, "Subtracts from an integer, which begins at 0."),
    spec!(Del, "del", -2, &["write"], ALL_KEYS, &["@keyspace", "@write", "@slow"],
        "generic", "1.0.0", "O(N) with N keys", "Removes keys and counts those that existed."),
    spec!(Echo, "echo", 2, CONNECTION, NO_KEYS, &["@fast", "@connection"],
        "connection", "1.0.0", "O(1)", "Says what it was told."),
    spec!(Exists, "exists", -2, READ, ALL_KEYS, &["@keyspace", "@read", "@fast"],
        "generic", "1.0.0", "O(N) with N keys", "Counts which of the keys exist."),
    spec!(Flushall, "flushall", -1, &["write"], NO_KEYS,
        &["@keyspace", "@write", "@slow", "@dangerous"],
        "server", "1.0.0", "O(N) with N shards", "Removes all keys."),
    spec!(Flushdb, "flushdb", -1, &["write"], NO_KEYS,
        &["@keyspace", "@write", "@slow", "@dangerous"],
        "server", "1.0.0", "O(N) with N shards", "Removes all keys."),
    spec!(Get, "get", 2, READ, ONE_KEY, &["@read", "@string", "@fast"],
        "string", "1.0.0", ONE_READ, "Reads a value."),
    spec!(Hello, "hello", -1, BEFORE_AUTH, NO_KEYS, &["@fast", "@connection"],
        "connection", "6.0.0", "O(1)", "Agrees on the version of the protocol."),
    spec!(Incr, "incr", 2, UPDATE, ONE_KEY, &["@write", "@string", "@fast"],
        "string", "1.0.0", ONE_WRITE, "Adds one to an integer, which begins at 0."),
    spec!(Incrby, "incrby", 3, UPDATE, ONE_KEY, &["@write", "@string", "@fast"],
        "string", "1.0.0", ONE_WRITE, "Adds to an integer, which begins at 0."),
    spec!(Info, "info", -1, &["loading", "stale"], NO_KEYS, &["@slow", "@dangerous"],
        "server", "1.0.0", "O(N) with N shards on this node", "Tells how this node is doing."),
    spec!(Mget, "mget", -2, READ, ALL_KEYS, &["@read", "@string", "@fast"],
        "string", "1.0.0", "O(N) with N keys", "Reads several values."),
    spec!(Ping, "ping", -1, &["fast"], NO_KEYS, &["@fast", "@connection"],
        "connection", "1.0.0", "O(1)", "Says PONG, or what it was told."),
    spec!(Quit, "quit", -1, BEFORE_AUTH, NO_KEYS, &["@fast", "@connection"],
        "connection", "1.0.0", "O(1)", "Ends the connection."),
    spec!(Scan, "scan", -2, &["readonly"], NO_KEYS, &["@keyspace", "@read", "@slow"],
        "generic", "2.8.0", "O(COUNT) for each call", "Lists keys, some at a time."),
    spec!(Select, "select", 2, CONNECTION, NO_KEYS, &["@fast", "@connection"],
        "connection", "1.0.0", "O(1)", "Chooses the database; there is only 0."),
    spec!(Set, "set", -3, &["write", "denyoom"], ONE_KEY, &["@write", "@string", "@slow"],
        "string", "1.0.0", ONE_WRITE, "Stores a value."),
    spec!(Setnx, "setnx", 3, UPDATE, ONE_KEY, &["@write", "@string", "@fast"],
        "string", "1.0.0", ONE_WRITE, "Stores a value if the key holds none."),
    spec!(Strlen, "strlen", 2, READ, ONE_KEY, &["@read", "@string", "@fast"],
        "string", "2.2.0", ONE_READ, "Tells the length of a value in bytes."),
    spec!(Unlink, "unlink", -2, &["write", "fast"], ALL_KEYS, &["@keyspace", "@write", "@fast"],
        "generic", "4.0.0", "O(N) with N keys", "Removes keys and counts those that existed."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case() {
        for spec in &COMMANDS {
            assert_eq!(Command::find(spec.name.as_bytes()), Some(spec.command));
            assert_eq!(Command::find(spec.name.to_uppercase().as_bytes()), Some(spec.command));
        }
        assert_eq!(Command::find(b"gEt"), Some(Command::Get));
    }

    #[test]
    fn nothing_else_is_found() {
        for name in [b"".as_slice(), b"ge", b"gett", b"g\0t", b"\0get", b"flushallx", b"GET\0"] {
            assert_eq!(Command::find(name), None, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn arity() {
        let get = Command::Get.spec();
        assert!(get.accepts(2) && !get.accepts(1) && !get.accepts(3));
        let del = Command::Del.spec();
        assert!(!del.accepts(1) && del.accepts(2) && del.accepts(100));
    }
}
