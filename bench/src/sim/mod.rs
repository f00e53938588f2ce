//! Simulated lives of whole clusters, replayed from a seed.
//!
//! One thread, one queue of happenings, virtual time: the product's replicas, journals, stores,
//! snapshots and routers run under simulated clocks, networks and disks, and die in every way that a
//! process can. What is made here is the shell around them: what threads and sockets are in a
//! running node.
//!
//! * `options` draws from the seed what a life is like, `random` is where all chance comes from.
//! * `world` lets one thing happen after the other, from the queue of `scene`; `phases` says when
//!   faults end and what must be well then, `lifecycle` how nodes die and start again.
//! * `node` puts a life of a node together, `lane`, `perform`, `journaling` and `mailbox` stand for its
//!   threads; `clock`, `network` and `disk` for the world around it, `faults` for its accidents.
//! * `checkpointing` sees to it that every node can still write its store at the end.
//! * `client` and `asking` are the clients; `watch` and `overheard` tell the [`judges`] what is
//!   seen from outside.
//! * `mutations` plants bugs to see that the judges notice.
//! * `trace` is what two runs are compared by, `report` what is told, `command` the command.
//!
//! What is absent: knowledge of what is right. [`judges`] and [`crate::linearizable`] have it.

mod asking;
mod checkpointing;
mod client;
mod clock;
mod command;
mod disk;
mod faults;
mod journaling;
pub mod judges;
mod lane;
mod lifecycle;
mod mailbox;
mod mutations;
mod network;
mod node;
mod options;
mod overheard;
mod perform;
mod phases;
mod random;
mod report;
mod scene;
mod trace;
mod watch;
mod world;

pub use command::{SimArgs, run};
pub use options::Options;
pub use phases::live;
pub use report::{Report, Sum};
pub use trace::Trace;
