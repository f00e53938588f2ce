//! Logs of a process that is a server.

use std::io::IsTerminal;

use super::Failure;

/// Starts logging to standard error. `filter` is what the `log` setting says.
///
/// # Errors
///
/// If it is not a filter, or something logs already.
pub fn start_logging(filter: &str) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(log_filter(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| Failure::runtime(format!("cannot start logging: {error}")))
}

/// What a `log` setting means.
///
/// # Errors
///
/// If it means nothing, with examples of what would.
pub fn log_filter(filter: &str) -> Result<tracing_subscriber::EnvFilter, Failure> {
    tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format!(
            "log `{filter}` is not a filter: {error}; write a level (error, warn, info, debug, \
             trace), or warn,flotilla_router=debug"
        ))
    })
}
