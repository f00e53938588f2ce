//! The commands that the server knows, and what it tells clients about them.
//!
//! Facts such as arity, flags and key positions are those of Redis 7.0, because clients route and
//! retry by them.
//!
//! Invariant: every name has at most sixteen bytes, so that finding a command compares integers.

pub use super::specs::COMMANDS;

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
    Copy,
    Dbsize,
    Decr,
    Decrby,
    Del,
    Discard,
    Echo,
    Exec,
    Exists,
    Expire,
    Expireat,
    Expiretime,
    FlotillaOnce,
    FlotillaRange,
    Flushall,
    Flushdb,
    Get,
    Getdel,
    Getex,
    Getrange,
    Getset,
    Hello,
    Incr,
    Incrby,
    Incrbyfloat,
    Info,
    Keys,
    Lcs,
    Mget,
    Mset,
    Msetnx,
    Multi,
    Object,
    Persist,
    Pexpire,
    Pexpireat,
    Pexpiretime,
    Ping,
    Psetex,
    Pttl,
    Quit,
    Randomkey,
    Rename,
    Renamenx,
    Reset,
    Scan,
    Select,
    Set,
    Setex,
    Setnx,
    Setrange,
    Strlen,
    Substr,
    Time,
    Touch,
    Ttl,
    Type,
    Unlink,
    Unwatch,
    Wait,
    Watch,
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

/// Up to sixteen bytes in one integer, letters in lower case.
const fn pack(name: &[u8]) -> Option<u128> {
    if name.len() > 16 {
        return None;
    }
    let mut packed = 0;
    let mut index = 0;
    while index < name.len() {
        if name[index] == 0 {
            return None;
        }
        packed = packed << 8 | name[index].to_ascii_lowercase() as u128;
        index += 1;
    }
    Some(packed)
}

/// Every packed name, in ascending order.
static NAMES: [(u128, Command); COMMANDS.len()] = sorted_names();

const fn sorted_names() -> [(u128, Command); COMMANDS.len()] {
    let mut names = [(0, Command::Append); COMMANDS.len()];
    let mut count = 0;
    while count < COMMANDS.len() {
        let spec = &COMMANDS[count];
        assert!(spec.command as usize == count, "the table is in the order of the enum");
        let Some(packed) = pack(spec.name.as_bytes()) else {
            panic!("a command's name has at most sixteen bytes")
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
