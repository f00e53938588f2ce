//! `CONFIG`: settings under the names that Redis has for them.
//!
//! Clients and tools ask for some to learn what they are talking to. What is told is true of this
//! server; what has no meaning here is not told at all.

use super::{Context, Subcommand, help, subcommand};
use crate::server::resp::codec::{Arguments, DecoderLimits, Replies};
use crate::server::resp::error::CommandError;
use crate::server::resp::glob::Glob;
use std::borrow::Cow;

#[derive(Clone, Copy)]
enum Which {
    Get,
    Help,
    Set,
}

const SUBCOMMANDS: [Subcommand<Which>; 3] =
    [("get", -3, Which::Get), ("help", 2, Which::Help), ("set", -4, Which::Set)];

const HELP: [&str; 2] =
    ["GET <pattern>", "    Return parameters matching the glob-like <pattern> and their values."];

pub(super) fn config<B>(
    context: &Context<B>,
    arguments: &Arguments,
    replies: &mut Replies<'_>,
) -> Result<(), CommandError> {
    match subcommand("config", &SUBCOMMANDS, arguments)? {
        Which::Get => get(context, arguments, replies),
        Which::Help => help("CONFIG", &HELP, replies),
        Which::Set => {
            return Err(CommandError::fixed(
                "ERR CONFIG SET is not supported: settings are read when the node starts",
            ));
        }
    }
    Ok(())
}

fn get<B>(context: &Context<B>, arguments: &Arguments, replies: &mut Replies<'_>) {
    let parameters = parameters(context);
    let mut told = vec![false; parameters.len()];
    let mut found: Vec<(&[u8], &str)> = Vec::new();
    for asked in arguments.iter_from(2) {
        let exact = !asked.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['));
        let glob = Glob::new(&asked.to_ascii_lowercase());
        for ((name, value), told) in parameters.iter().zip(&mut told) {
            let name = name.as_bytes();
            let matches = if exact { name.eq_ignore_ascii_case(asked) } else { glob.matches(name) };
            if matches && !*told {
                *told = true;
                // What was asked for by its full name is told under the name as it was asked.
                found.push((if exact { asked } else { name }, value));
            }
        }
    }
    replies.map(found.len());
    for (name, value) in found {
        replies.bulk(name);
        replies.bulk(value.as_bytes());
    }
}

/// Every parameter and its value, in the order of the names.
fn parameters<B>(context: &Context<B>) -> Vec<(&'static str, Cow<'static, str>)> {
    let address = context.local_address;
    vec![
        // Every acknowledged write is in a synced journal on a majority of the replicas.
        ("appendfsync", "always".into()),
        ("appendonly", "yes".into()),
        ("bind", address.ip().to_string().into()),
        ("cluster-enabled", "no".into()),
        ("databases", "1".into()),
        ("maxclients", context.options.connections_max.to_string().into()),
        ("maxmemory", "0".into()),
        ("maxmemory-policy", "noeviction".into()),
        ("port", address.port().to_string().into()),
        ("proto-max-bulk-len", DecoderLimits::default().bulk_bytes_max.to_string().into()),
        ("requirepass", "".into()),
        ("save", "".into()),
        ("timeout", "0".into()),
    ]
}
