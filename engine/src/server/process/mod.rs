//! A node as a process of its own: settings, listeners, doors, signals.
//!
//! What `flotilla serve` does, for every program that wants to be such a server: [`serve()`] runs until
//! it is told to stop or the node stops itself. [`RunningNode`] is a node with its doors, for
//! programs that run several.
//!
//! What is absent: the command line around it, and the choice of an allocator, which is the
//! program's.

mod failure;
mod logging;
mod memory;
mod node;
mod serve;
mod settings_args;
mod signals;

pub use failure::Failure;
pub use logging::{log_filter, start_logging};
pub use node::{Listeners, RunningNode, bind};
pub use serve::{ServeArgs, serve};
pub use settings_args::SettingsArgs;
pub use signals::Signals;
