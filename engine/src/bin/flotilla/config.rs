//! `flotilla config`: what would be in force, without starting anything.

use clap::{Args, Subcommand};
use flotilla::settings::Loaded;

use flotilla::server::process::{Failure, SettingsArgs};

/// Arguments of `flotilla config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check file, environment and flags; exit code 2 if they are wrong.
    Check(SettingsArgs),
    /// Print every setting in force as TOML, with where its value came from.
    Print(SettingsArgs),
}

/// Runs `flotilla config`.
pub fn run(args: &ConfigArgs) -> Result<(), Failure> {
    match &args.command {
        ConfigCommand::Check(settings) => {
            let loaded = settings.load()?;
            warn_ignored(&loaded);
            let settings = &loaded.settings;
            let nodes = settings.peers.len().max(1);
            say!("ok: node {} of {nodes} in cluster {}", settings.node_id, settings.cluster_name);
        }
        ConfigCommand::Print(settings) => {
            let loaded = settings.load()?;
            warn_ignored(&loaded);
            say!("{}", loaded.to_toml().trim_end());
        }
    }
    Ok(())
}

fn warn_ignored(loaded: &Loaded) {
    for variable in &loaded.ignored_variables {
        eprintln!("flotilla: warning: environment variable {variable} sets nothing and is ignored");
    }
}
