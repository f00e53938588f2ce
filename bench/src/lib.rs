//! Loads, breaks and judges Flotilla.
//!
//! Everything here treats the store as its users do: through the Redis protocol and the admin port
//! of real processes, or through the public API of the embedded engine. What the harness believes
//! it saw itself: its clients remember what was acknowledged to them, and read it back.
//!
//! * [`load`] measures throughput, latency and CPU time over the Redis protocol, [`embedded`]
//!   through the engine in this process, [`disk`] what the disk below gives.
//! * [`cluster`] starts, kills and restarts server processes.
//! * [`failover`] kills a leader under load and [`crash`] kills every node; both prove with
//!   [`register`]s that nothing acknowledged was lost.
//! * [`increments`] asks whether everything counts once while leaders die and [`proxy`]s harm the
//!   network; [`absence`] repairs a node that was away; [`endurance`], [`overload`] and [`edges`]
//!   look for what grows, starves or stalls, with a [`probe`] and [`sampling`].
//!
//! What is absent: any knowledge of Raft, journal or store. A harness that shared code with what it
//! judges would share its mistakes.
#![forbid(unsafe_code)]

pub mod absence;
pub mod answers;
pub mod check;
pub mod cluster;
pub mod connection;
pub mod cpu;
pub mod crash;
pub mod disk;
pub mod drive;
pub mod edges;
pub mod embedded;
pub mod endurance;
pub mod failover;
pub mod gaps;
pub mod history;
pub mod increments;
pub mod keys;
pub mod latency;
pub mod linearizable;
pub mod load;
pub mod measure;
pub mod overload;
pub mod peers;
pub mod probe;
pub mod proxy;
pub mod readers;
pub mod register;
pub mod report;
pub mod resp;
pub mod result;
pub mod run;
pub mod sampling;
pub mod scale;
pub mod target;
pub mod verify;
pub mod workload;
pub mod writers;
