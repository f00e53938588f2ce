//! `INFO`: how the node is doing, under the names that Redis has, as far as they have a meaning
//! here; what is Flotilla's own begins with `flotilla_`.

use super::{Context, REDIS_VERSION};
use crate::server::resp::codec::{Arguments, Replies};
use crate::server::resp::info::{human_bytes, resident_bytes};
use std::fmt::{self, Write};

/// Writes one section's lines.
type Section<B> = fn(&Context<B>, &mut String) -> fmt::Result;

pub(super) fn info<B>(context: &Context<B>, arguments: &Arguments, replies: &mut Replies<'_>) {
    let sections: [(&str, Section<B>); 6] = [
        ("Server", server),
        ("Clients", clients),
        ("Memory", memory),
        ("Stats", stats),
        ("Replication", replication),
        ("Keyspace", keyspace),
    ];
    let is_asked = |title: &str| {
        arguments.len() == 1
            || arguments.iter_from(1).any(|asked| {
                let is = |name: &str| asked.eq_ignore_ascii_case(name.as_bytes());
                is(title) || is("default") || is("all") || is("everything")
            })
    };
    let mut text = String::new();
    for (title, write) in sections.into_iter().filter(|(title, _)| is_asked(title)) {
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        write!(text, "# {title}\r\n").expect("a string takes everything");
        write(context, &mut text).expect("a string takes everything");
    }
    replies.text(&text);
}

fn server<B>(context: &Context<B>, out: &mut String) -> fmt::Result {
    let facts = context.info.facts();
    let uptime = context.birth.started.elapsed().as_secs();
    write!(out, "redis_version:{REDIS_VERSION}\r\n")?;
    write!(out, "redis_mode:standalone\r\n")?;
    write!(out, "flotilla_version:{}\r\n", env!("CARGO_PKG_VERSION"))?;
    write!(out, "flotilla_cluster:{}\r\n", facts.cluster_name)?;
    write!(out, "flotilla_node_id:{}\r\n", facts.node_id)?;
    write!(out, "os:{} {}\r\n", std::env::consts::OS, std::env::consts::ARCH)?;
    write!(out, "arch_bits:{}\r\n", usize::BITS)?;
    write!(out, "process_id:{}\r\n", std::process::id())?;
    write!(out, "run_id:{}\r\n", context.birth.run_id)?;
    write!(out, "tcp_port:{}\r\n", context.local_address.port())?;
    write!(out, "uptime_in_seconds:{uptime}\r\n")?;
    write!(out, "uptime_in_days:{}\r\n", uptime / 86_400)
}

fn clients<B>(context: &Context<B>, out: &mut String) -> fmt::Result {
    write!(out, "connected_clients:{}\r\n", context.clients.len())?;
    write!(out, "cluster_connections:0\r\n")?;
    write!(out, "maxclients:{}\r\n", context.options.connections_max)?;
    write!(out, "blocked_clients:0\r\n")
}

/// The memory of the whole process: an embedded engine shares it with its host.
fn memory<B>(_: &Context<B>, out: &mut String) -> fmt::Result {
    if let Some(bytes) = resident_bytes() {
        let human = human_bytes(bytes);
        write!(out, "used_memory:{bytes}\r\nused_memory_human:{human}\r\n")?;
        write!(out, "used_memory_rss:{bytes}\r\nused_memory_rss_human:{human}\r\n")?;
    }
    write!(out, "maxmemory:0\r\nmaxmemory_human:0B\r\nmaxmemory_policy:noeviction\r\n")
}

fn stats<B>(context: &Context<B>, out: &mut String) -> fmt::Result {
    let metrics = &context.metrics;
    write!(out, "total_connections_received:{}\r\n", metrics.connections_accepted.get())?;
    write!(out, "total_commands_processed:{}\r\n", metrics.commands_total())?;
    write!(out, "total_net_input_bytes:{}\r\n", metrics.received_bytes.get())?;
    write!(out, "total_net_output_bytes:{}\r\n", metrics.sent_bytes.get())?;
    write!(out, "rejected_connections:{}\r\n", metrics.connections_refused.get())?;
    write!(out, "total_error_replies:{}\r\n", metrics.errors_total())?;
    write!(out, "expired_keys:0\r\nevicted_keys:0\r\n")
}

/// To a client every node is a master: any takes any command. How shards are replicated is told
/// beside it.
fn replication<B>(context: &Context<B>, out: &mut String) -> fmt::Result {
    let facts = context.info.facts();
    write!(out, "role:master\r\nconnected_slaves:0\r\n")?;
    write!(out, "flotilla_nodes_connected:{}\r\n", facts.nodes_connected)?;
    write!(out, "flotilla_shards:{}\r\n", facts.shards)?;
    write!(out, "flotilla_shards_led:{}\r\n", facts.shards_led)?;
    write!(out, "flotilla_shards_leaderless:{}\r\n", facts.shards_leaderless)
}

/// An estimate, where `DBSIZE` counts; without a line for the database when it seems empty.
fn keyspace<B>(context: &Context<B>, out: &mut String) -> fmt::Result {
    match context.info.facts().keys_estimate {
        0 => Ok(()),
        keys => write!(out, "db0:keys={keys}\r\n"),
    }
}
