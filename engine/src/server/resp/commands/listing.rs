//! `COMMAND`: which commands there are.

use super::table::{COMMANDS, Command, CommandSpec};
use super::{Subcommand, help, subcommand};
use crate::server::resp::codec::{Arguments, Replies};
use crate::server::resp::error::CommandError;
use crate::server::resp::glob::Glob;

#[derive(Clone, Copy)]
enum Which {
    Count,
    Docs,
    GetKeys,
    Help,
    Info,
    List,
}

const SUBCOMMANDS: [Subcommand<Which>; 6] = [
    ("count", 2, Which::Count),
    ("docs", -2, Which::Docs),
    ("getkeys", -4, Which::GetKeys),
    ("help", 2, Which::Help),
    ("info", -2, Which::Info),
    ("list", -2, Which::List),
];

const HELP: [&str; 12] = [
    "(no subcommand)",
    "    Return details about all commands.",
    "COUNT",
    "    Return the number of commands.",
    "DOCS [<command-name> ...]",
    "    Return what commands do.",
    "GETKEYS <full-command>",
    "    Return the keys of a full command.",
    "INFO [<command-name> ...]",
    "    Return details about commands.",
    "LIST [FILTERBY (MODULE|ACLCAT|PATTERN) <value>]",
    "    Return the names of commands.",
];

pub(super) fn command(
    arguments: &Arguments,
    replies: &mut Replies<'_>,
) -> Result<(), CommandError> {
    if arguments.len() == 1 {
        info(COMMANDS.iter().map(Some), COMMANDS.len(), replies);
        return Ok(());
    }
    match subcommand("command", &SUBCOMMANDS, arguments)? {
        Which::Count => replies.integer(COMMANDS.len() as i64),
        Which::Docs => docs(arguments, replies),
        Which::GetKeys => get_keys(arguments, replies)?,
        Which::Help => help("COMMAND", &HELP, replies),
        Which::Info if arguments.len() == 2 => {
            info(COMMANDS.iter().map(Some), COMMANDS.len(), replies);
        }
        Which::Info => {
            let asked = arguments.iter_from(2);
            info(
                asked.map(|name| Command::find(name).map(Command::spec)),
                arguments.len() - 2,
                replies,
            );
        }
        Which::List => list(arguments, replies)?,
    }
    Ok(())
}

/// Details; null for what does not exist.
fn info(
    specs: impl Iterator<Item = Option<&'static CommandSpec>>,
    count: usize,
    replies: &mut Replies<'_>,
) {
    replies.array(count);
    for spec in specs {
        let Some(spec) = spec else {
            replies.null();
            continue;
        };
        let (first, last, step) = spec.keys;
        replies.array(10);
        replies.bulk(spec.name.as_bytes());
        replies.integer(i64::from(spec.arity));
        words(spec.flags, replies);
        replies.integer(i64::from(first));
        replies.integer(i64::from(last));
        replies.integer(i64::from(step));
        words(spec.categories, replies);
        // Tips, key specifications and subcommands: none are told.
        replies.set(0);
        replies.set(0);
        replies.set(0);
    }
}

fn words(words: &[&str], replies: &mut Replies<'_>) {
    replies.set(words.len());
    for word in words {
        replies.status(word);
    }
}

fn docs(arguments: &Arguments, replies: &mut Replies<'_>) {
    let asked: Vec<&CommandSpec> = if arguments.len() == 2 {
        COMMANDS.iter().collect()
    } else {
        arguments.iter_from(2).filter_map(Command::find).map(Command::spec).collect()
    };
    replies.map(asked.len());
    for spec in asked {
        replies.bulk(spec.name.as_bytes());
        replies.map(4);
        for (name, value) in [
            ("summary", spec.summary),
            ("since", spec.since),
            ("group", spec.group),
            ("complexity", spec.complexity),
        ] {
            replies.bulk(name.as_bytes());
            replies.bulk(value.as_bytes());
        }
    }
}

fn list(arguments: &Arguments, replies: &mut Replies<'_>) -> Result<(), CommandError> {
    let names: Vec<&str> = if arguments.len() == 2 {
        COMMANDS.iter().map(|spec| spec.name).collect()
    } else {
        if arguments.len() != 5 || !arguments.get(2).eq_ignore_ascii_case(b"filterby") {
            return Err(CommandError::SYNTAX);
        }
        let (filter, value) = (arguments.get(3), arguments.get(4));
        let wanted: Box<dyn Fn(&&CommandSpec) -> bool> = if filter.eq_ignore_ascii_case(b"module") {
            Box::new(|_| false)
        } else if filter.eq_ignore_ascii_case(b"aclcat") {
            Box::new(|spec| {
                let named = |category: &&str| category.as_bytes()[1..].eq_ignore_ascii_case(value);
                spec.categories.iter().any(named)
            })
        } else if filter.eq_ignore_ascii_case(b"pattern") {
            let glob = Glob::new(&value.to_ascii_lowercase());
            Box::new(move |spec| glob.matches(spec.name.as_bytes()))
        } else {
            return Err(CommandError::SYNTAX);
        };
        COMMANDS.iter().filter(wanted).map(|spec| spec.name).collect()
    };
    replies.array(names.len());
    for name in names {
        replies.bulk(name.as_bytes());
    }
    Ok(())
}

fn get_keys(arguments: &Arguments, replies: &mut Replies<'_>) -> Result<(), CommandError> {
    let Some(command) = Command::find(arguments.get(2)) else {
        return Err(CommandError::fixed("ERR Invalid command specified"));
    };
    let spec = command.spec();
    let (first, last, step) = spec.keys;
    if first == 0 {
        return Err(CommandError::fixed("ERR The command has no key arguments"));
    }
    if !spec.accepts(arguments.len() - 2) {
        return Err(CommandError::fixed("ERR Invalid number of arguments specified for command"));
    }
    let start = 2 + first as usize;
    let end = if last < 0 { arguments.len() } else { 3 + last as usize };
    let keys: Vec<&[u8]> =
        arguments.iter_from(start).take(end - start).step_by(step.max(1) as usize).collect();
    replies.array(keys.len());
    for key in keys {
        replies.bulk(key);
    }
    Ok(())
}
