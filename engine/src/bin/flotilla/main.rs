//! The `flotilla` binary: one file per subcommand, and what they share.
//!
//! Exit codes: 0 all went well, 1 something failed while running, 2 the command line or the
//! configuration is wrong. What a command is asked for goes to standard output, everything else to
//! standard error.
#![forbid(unsafe_code)]

/// Writes a line to standard output. A reader that went away, as in `flotilla status | head -1`,
/// is no reason to fail, let alone to panic as `println!` would.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout().lock(), $($words)*);
    }};
}

mod client;
mod config;
mod data;
mod demo;
mod inspect;
mod status;
mod tables;
mod verdict;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use flotilla::server::process::{ServeArgs, serve};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A sharded, replicated, durable key-value store that speaks the Redis protocol.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start three nodes in this process, load them, and show what they do.
    Demo(demo::DemoArgs),
    /// Run one node.
    Serve(ServeArgs),
    /// Ask running nodes what they host and how many losses they can bear.
    Status(status::StatusArgs),
    /// Print the value of a key of a running node, as it is.
    Get(data::GetArgs),
    /// Store a value under a key of a running node.
    Put(data::PutArgs),
    /// Remove keys of a running node; prints how many existed.
    Delete(data::DeleteArgs),
    /// Print keys and values of a running node, a row a line.
    Scan(data::ScanArgs),
    /// Say what is in the directory of a node that does not run, and what is wrong with it.
    Inspect(inspect::InspectArgs),
    /// Check or print the configuration without starting anything.
    Config(config::ConfigArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve(&args),
        Command::Status(args) => status::run(&args),
        Command::Get(args) => data::get(&args),
        Command::Put(args) => data::put(&args),
        Command::Delete(args) => data::delete(&args),
        Command::Scan(args) => data::scan(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Config(args) => config::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("flotilla: {failure}");
            failure.exit_code()
        }
    }
}
