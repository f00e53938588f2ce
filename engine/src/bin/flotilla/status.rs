//! `flotilla status`: asks admin ports and judges what they say.

use std::time::Duration;

use clap::{Args, ValueEnum};
use flotilla::server::admin::get;
use flotilla::server::admin::view::NodeView;
use serde_json::json;

use crate::tables;
use crate::verdict::Verdict;
use flotilla::server::process::Failure;

/// Arguments of `flotilla status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Admin addresses of one or more nodes, with commas between them. More nodes see more.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', default_value = "127.0.0.1:7201")]
    admin_addr: Vec<String>,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,

    /// How long to wait for each node.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Runs `flotilla status`. Fails if no node answers, or if some shard cannot serve.
pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    let mut views = Vec::new();
    let mut silent = Vec::new();
    for address in &args.admin_addr {
        match ask(address, args.timeout) {
            Ok(view) => views.push(view),
            Err(reason) => silent.push((address, reason)),
        }
    }
    if let Some(other) = views.iter().find(|view| view.cluster != views[0].cluster) {
        return Err(Failure::usage(format!(
            "the nodes belong to different clusters: {} and {}",
            views[0].cluster, other.cluster
        )));
    }

    let verdict = Verdict::of(&views);
    match args.output {
        Output::Json => print_json(&views, &silent, &verdict)?,
        Output::Table => print_tables(&views, &silent, &verdict),
    }
    if views.is_empty() {
        return Err(Failure::runtime("no node answered"));
    }
    if !verdict.is_available() {
        return Err(Failure::runtime("not every shard can serve"));
    }
    Ok(())
}

fn ask(address: &str, timeout: Duration) -> Result<NodeView, String> {
    let response = get(address, "/status", timeout).map_err(|error| error.to_string())?;
    if response.code != 200 {
        return Err(format!("answered with HTTP {}", response.code));
    }
    serde_json::from_slice(&response.body)
        .map_err(|error| format!("answered something that is not a status: {error}"))
}

fn print_tables(views: &[NodeView], silent: &[(&String, String)], verdict: &Verdict) {
    if !views.is_empty() {
        say!("{verdict}");
        let mut nodes = tables::table(&["node", "cluster", "version", "#replicas", "#leads"]);
        for view in views {
            let leads = view.shards.iter().filter(|shard| shard.role == "leader").count();
            nodes.add_row([
                format!("node {}", view.node_id),
                view.cluster.clone(),
                view.version.clone(),
                view.shards.len().to_string(),
                leads.to_string(),
            ]);
        }
        say!("{nodes}");
        say!("{}", tables::shards(views));
    }
    for (address, reason) in silent {
        say!("no answer from {address}: {reason}");
    }
}

fn print_json(
    views: &[NodeView],
    silent: &[(&String, String)],
    verdict: &Verdict,
) -> Result<(), Failure> {
    let unreachable: Vec<_> = silent
        .iter()
        .map(|(address, reason)| json!({ "admin_addr": address, "reason": reason }))
        .collect();
    let report = json!({
        "verdict": verdict.to_string(),
        "available": verdict.is_available(),
        "survives_losses": verdict.survives_losses,
        "unavailable": verdict.unavailable,
        "degraded": verdict.degraded,
        "missing_nodes": verdict.missing_nodes,
        "nodes": views,
        "unreachable": unreachable,
    });
    let text = serde_json::to_string_pretty(&report).map_err(Failure::runtime)?;
    say!("{text}");
    Ok(())
}
