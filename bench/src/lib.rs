//! Loads, breaks and judges Flotilla.
//!
//! Everything here treats the store as its users do: through the Redis protocol and the admin port
//! of real processes, or through the public API of the embedded engine. What the harness believes
//! it saw itself: its clients remember what was acknowledged to them, and read it back.
//!
//! * A [`workload`] says what clients ask for, a [`target`] is a store that they ask, and [`drive`]
//!   measures what they see. [`run`] measures one workload, [`scale`] one over numbers of shards and
//!   of clients, [`peers`] the same ones against other stores; [`measure`] tells what it cost and
//!   where, [`result`](mod@result) keeps it, and [`report`] tells it. [`disk`] measures the disk below.
//! * [`history`] records what clients saw, and [`check`] judges it with [`linearizable`].
//! * [`cluster`] starts, kills and restarts server processes.
//! * [`failover`] kills a leader under load and [`crash`] kills every node; both prove with
//!   [`register`]s that nothing acknowledged was lost.
//! * [`sim`] replays simulated lives of clusters; [`spec_trace`] writes what the Raft core does in the
//!   words of a specification.
//! * [`increments`] asks whether everything counts once while leaders die and [`proxy`]s harm the
//!   network; [`chaos`] does everything at once that can fail, by a schedule from a seed;
//!   [`absence`] repairs a node that was away; [`endurance`], [`overload`] and [`edges`]
//!   look for what grows, starves or stalls, with a [`probe`] and [`sampling`].
//!
//! What is absent: any knowledge of Raft, journal or store, but in [`sim`], which plays the machine
//! around them. A harness that shared code with what it judges would share its mistakes: the judges
//! there share none.
#![forbid(unsafe_code)]

pub mod absence;
pub mod answers;
pub mod chaos;
pub mod check;
pub mod cluster;
pub mod compare;
pub mod connection;
pub mod cpu;
pub mod crash;
pub mod disk;
pub mod drive;
pub mod edges;
pub mod endurance;
pub mod failover;
pub mod gaps;
pub mod history;
pub mod increments;
pub mod keys;
pub mod latency;
pub mod linearizable;
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
pub mod sim;
pub mod spec_trace;
pub mod target;
pub mod verify;
pub mod workload;
pub mod writers;
