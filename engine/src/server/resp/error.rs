//! What clients are told when something fails, in words and codes that they can act on.
//!
//! The codes: `TRYAGAIN` certifies that nothing happened and asking again may help; `BUSY` the
//! same, because of load; `INDOUBT` says that a write may or may not have taken effect, now or
//! later; `DISKFULL` that nothing happened and nothing will until there is room; everything else is `ERR`, or what Redis says in the same case.

use super::codec::TooLarge;
use flotilla_router::RouteError;
use flotilla_shard::CommandFailure;
use std::borrow::Cow;

/// Why a request is answered by an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// For the counters.
    pub kind: ErrorKind,
    /// The reply, code first.
    pub text: Cow<'static, [u8]>,
}

/// Kinds of errors, as counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ErrorKind {
    /// The client asked for something that cannot be.
    Request,
    /// Certainly no effect; may be retried.
    TryAgain,
    /// Certainly no effect, because of load; may be retried later.
    Busy,
    /// A write whose outcome nobody knows.
    InDoubt,
    /// The node could not do what it should.
    Internal,
    /// Certainly no effect: there is no room on the disk.
    DiskFull,
}

impl ErrorKind {
    /// The labels of the kinds, in their order.
    pub const LABELS: [&'static str; 6] =
        ["request", "try_again", "busy", "in_doubt", "internal", "disk_full"];
}

impl CommandError {
    /// Redis's answer to arguments that make no sense together.
    pub const SYNTAX: CommandError = CommandError::fixed("ERR syntax error");
    /// Redis's answer to a number that is none.
    pub const NOT_AN_INTEGER: CommandError =
        CommandError::fixed("ERR value is not an integer or out of range");

    /// Redis's answer to a key that must hold something.
    pub const NO_SUCH_KEY: CommandError = CommandError::fixed("ERR no such key");
    /// Redis's answer to the number of a database that does not exist.
    pub const NO_SUCH_DATABASE: CommandError = CommandError::fixed("ERR DB index is out of range");
    /// Redis's answer to a number that is none, where it may have a fraction.
    pub const NOT_A_FLOAT: CommandError = CommandError::fixed("ERR value is not a valid float");
    /// Redis's answer to a value that would become too large.
    pub const VALUE_TOO_LARGE: CommandError =
        CommandError::fixed("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
    /// Redis's answer when it does not count accesses.
    pub const NO_FREQUENCIES: CommandError = CommandError::fixed(
        "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note \
         that when switching between policies at runtime LRU and LFU data will take some time to \
         adjust.",
    );

    /// A mistake of the client, always told in the same words.
    pub const fn fixed(text: &'static str) -> CommandError {
        CommandError { kind: ErrorKind::Request, text: Cow::Borrowed(text.as_bytes()) }
    }

    /// A mistake of the client.
    pub fn request(text: impl Into<Vec<u8>>) -> CommandError {
        CommandError { kind: ErrorKind::Request, text: Cow::Owned(text.into()) }
    }

    /// `name` was called with too few or too many arguments. Subcommands are named `client|id`.
    pub fn arity(name: &str) -> CommandError {
        CommandError::request(format!("ERR wrong number of arguments for '{name}' command"))
    }

    /// There is no command `name`; `rest` are its arguments. Both are shown in part.
    pub fn unknown_command<'a>(name: &[u8], rest: impl Iterator<Item = &'a [u8]>) -> CommandError {
        const SHOWN_BYTES_MAX: usize = 128;
        let mut shown = Vec::new();
        for argument in rest {
            if shown.len() >= SHOWN_BYTES_MAX {
                break;
            }
            let room = SHOWN_BYTES_MAX - shown.len();
            shown.push(b'\'');
            shown.extend_from_slice(&printed(argument)[..printed(argument).len().min(room)]);
            shown.extend_from_slice(b"' ");
        }
        let name = printed(name);
        let name = &name[..name.len().min(SHOWN_BYTES_MAX)];
        let between = b"', with args beginning with: ".as_slice();
        CommandError::request([b"ERR unknown command '", name, between, &shown].concat())
    }

    /// The command `container` has no subcommand `name`.
    pub fn unknown_subcommand(container: &str, name: &[u8]) -> CommandError {
        let name = printed(name);
        let name = &name[..name.len().min(128)];
        let tail = format!("'. Try {} HELP.", container.to_uppercase());
        CommandError::request([b"ERR unknown subcommand '", name, tail.as_bytes()].concat())
    }

    /// A routed request failed; `write` tells whether it could have had an effect.
    pub fn of_route(error: &RouteError, write: bool) -> CommandError {
        let (kind, code) = match error {
            RouteError::Timeout { maybe_committed: true } if write => {
                (ErrorKind::InDoubt, "INDOUBT")
            }
            RouteError::Partial { .. } if write => (ErrorKind::InDoubt, "INDOUBT"),
            RouteError::Busy { .. } => (ErrorKind::Busy, "BUSY"),
            RouteError::Timeout { .. } => {
                let text = b"TRYAGAIN timed out without any effect; it may be retried";
                return CommandError {
                    kind: ErrorKind::TryAgain,
                    text: Cow::Borrowed(text.as_slice()),
                };
            }
            RouteError::NoLeader { .. } | RouteError::Shutdown => (ErrorKind::TryAgain, "TRYAGAIN"),
            RouteError::TooLarge { .. } => (ErrorKind::Request, "ERR"),
            RouteError::CrossShard => {
                return CommandError::fixed(
                    "CROSSSLOT Keys in request don't hash to the same slot",
                );
            }
            RouteError::DiskFull => (ErrorKind::DiskFull, "DISKFULL"),
            _ => (ErrorKind::Internal, "ERR"),
        };
        let text = format!("{code} {error}").into_bytes();
        CommandError { kind, text: Cow::Owned(text) }
    }

    /// A committed command changed nothing.
    pub fn of_failure(failure: CommandFailure) -> CommandError {
        match failure {
            CommandFailure::NotAnInteger => CommandError::NOT_AN_INTEGER,
            CommandFailure::Overflow => {
                CommandError::fixed("ERR increment or decrement would overflow")
            }
            CommandFailure::TooLarge => CommandError::VALUE_TOO_LARGE,
            CommandFailure::NotAFloat => CommandError::NOT_A_FLOAT,
            CommandFailure::NotFinite => {
                CommandError::fixed("ERR increment would produce NaN or Infinity")
            }
            CommandFailure::NoSuchKey => CommandError::NO_SUCH_KEY,
            CommandFailure::RowDamaged => CommandError::request(format!("ERR {failure}")),
            CommandFailure::Acknowledged | CommandFailure::SessionExpired { .. } => CommandError {
                kind: ErrorKind::InDoubt,
                text: Cow::Owned(format!("INDOUBT {failure}").into_bytes()),
            },
            CommandFailure::OutOfRange => CommandError {
                kind: ErrorKind::TryAgain,
                text: Cow::Borrowed(b"TRYAGAIN the key's shard has changed; it may be retried"),
            },
        }
    }

    /// The request's bytes were dropped.
    pub fn of_too_large(too_large: &TooLarge) -> CommandError {
        CommandError::request(format!("ERR {too_large}"))
    }

    /// The thread that should have made the answer ended before it did.
    pub fn interrupted() -> CommandError {
        CommandError {
            kind: ErrorKind::Internal,
            text: Cow::Borrowed(b"ERR the node stopped making the answer"),
        }
    }

    /// An answer that does not fit its question. It may come from another node, of another build.
    pub fn unexpected_answer() -> CommandError {
        CommandError {
            kind: ErrorKind::Internal,
            text: Cow::Borrowed(b"ERR the shard gave an answer of the wrong kind"),
        }
    }
}

/// A client's own words as Redis repeats them: up to the first zero byte.
fn printed(word: &[u8]) -> &[u8] {
    word.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn text(error: &CommandError) -> String {
        String::from_utf8(error.text.to_vec()).unwrap()
    }

    #[test]
    fn unknown_commands_are_shown_in_part() {
        let long = ["a".repeat(100), "b".repeat(100), "c".to_owned()];
        let arguments = long.iter().map(|argument| argument.as_bytes());
        let error = CommandError::unknown_command("f".repeat(200).as_bytes(), arguments);
        let expected = format!(
            "ERR unknown command '{}', with args beginning with: '{}' '{}' ",
            "f".repeat(128),
            "a".repeat(100),
            "b".repeat(25),
        );
        assert_eq!(text(&error), expected);
    }

    #[test]
    fn doubt_is_only_about_writes() {
        let lost = RouteError::Timeout { maybe_committed: true };
        let partial = RouteError::Partial { cause: Box::new(RouteError::NoLeader { group: None }) };
        let busy = RouteError::Busy { retry_after: Duration::from_millis(10) };
        let table = [
            (&lost, true, ErrorKind::InDoubt, "INDOUBT timed out; the write may or may not"),
            (&lost, false, ErrorKind::TryAgain, "TRYAGAIN timed out without any effect"),
            (&partial, true, ErrorKind::InDoubt, "INDOUBT done in part of the shards only"),
            (&busy, true, ErrorKind::Busy, "BUSY busy: retry after 10ms"),
            (
                &RouteError::NoLeader { group: None },
                true,
                ErrorKind::TryAgain,
                "TRYAGAIN no leader",
            ),
            (&RouteError::Shutdown, false, ErrorKind::TryAgain, "TRYAGAIN the node is shutting"),
            (&RouteError::Storage("x".into()), true, ErrorKind::Internal, "ERR storage: x"),
        ];
        for (error, write, kind, start) in table {
            let told = CommandError::of_route(error, write);
            assert_eq!(told.kind, kind, "{error:?}");
            assert!(text(&told).starts_with(start), "{}", text(&told));
        }
    }
}
