//! Flotilla's disk: one journal and one redb file for all groups of a node.
//!
//! * [`journal`]: the shared write-ahead log. What it reported durable survives a crash.
//! * [`store`]: memtables above redb. What a checkpoint holds, the journal may forget.
//! * [`fs`]: the seam to the operating system; [`sim`] is the same seam over a simulated disk.
//!
//! Everything here is synchronous. Threads are thin shells around values that a simulation can
//! drive step by step. What is absent: consensus (terms are uninterpreted labels here), the
//! network, actors, async runtimes.
#![forbid(unsafe_code)]

pub mod fs;
pub mod ids;
pub mod journal;
pub mod range;
pub mod sim;
pub mod store;

pub use ids::GroupId;
pub use range::KeyRange;
