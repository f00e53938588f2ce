//! `flotilla serve`: one node, until it is told to stop or stops itself.

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::memory::use_small_pages;
use super::{Failure, Listeners, RunningNode, SettingsArgs, Signals};
use crate::settings::{Loaded, Settings};

/// How long a node that stopped itself may take to close what still can be closed.
const FAILED_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `flotilla serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs a node until it is told to stop, or stops itself. Logs go to standard error; when the node
/// serves, a line about it goes to standard output.
///
/// # Errors
///
/// If the settings are wrong, the node cannot start, or it stopped itself.
pub fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let loaded = args.settings.load()?;
    super::start_logging(&loaded.settings.log)?;
    warn(&loaded);
    use_small_pages();

    // The doors and their connections; the engine has threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("flotilla-doors")
        .enable_all()
        .build()
        .map_err(|error| Failure::runtime(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(run(&loaded.settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run(settings: &Settings) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let listeners = Listeners::bind(settings)?;
    let node = tokio::select! {
        started = RunningNode::start(settings, listeners) => started?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the node was ready");
            return Ok(());
        }
    };
    // A reader that went away is no reason to fail, let alone to panic.
    let _ = writeln!(
        std::io::stdout().lock(),
        "node {} of cluster {} serves: redis {} admin http://{}",
        settings.node_id,
        settings.cluster_name,
        node.resp_address(),
        node.admin_address()
    );

    tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping; once more to stop at once");
            tokio::select! {
                stopped = node.stop() => stopped,
                signal = signals.next() => {
                    Err(Failure::runtime(format!("{signal} while stopping: stopped at once")))
                }
            }
        }
        reason = node.failed() => {
            tracing::error!(reason, "the node stopped itself");
            // Best effort: the reason is what matters, and the journal was already given up.
            let _ = tokio::time::timeout(FAILED_STOP_TIMEOUT, node.stop()).await;
            Err(Failure::runtime(format!(
                "THE NODE STOPPED ITSELF: {reason}. Nothing that was acknowledged is lost while a \
                 majority of the cluster's nodes keep their disks. Find the cause (a failing disk?) \
                 before starting it again"
            )))
        }
    }
}

fn warn(loaded: &Loaded) {
    for variable in &loaded.ignored_variables {
        tracing::warn!(variable, "this environment variable sets nothing and is ignored");
    }
    let exposed = loaded.settings.exposed_addresses();
    if exposed.is_empty() {
        return;
    }
    let listed: Vec<String> =
        exposed.iter().map(|(key, address)| format!("{key} {address}")).collect();
    let line = "!".repeat(80);
    eprintln!(
        "{line}\n!!  INSECURE: {} can be reached from other machines.\n\
         !!  There is no encryption and no authentication: whoever reaches these ports can read\n\
         !!  and change everything. Keep them inside a network that you trust.\n{line}",
        listed.join(", ")
    );
    tracing::warn!(addresses = listed.join(", "), "listening beyond loopback without protection");
}
