//! Raft consensus for one group, as an IO-free state machine: events in, effects out.
//!
//! A [`Raft`] is one replica. It owns no thread, socket, file or clock: the shell hands in what
//! happened, together with the time, and [`Raft::ready`] says what is to be done. The same events at
//! the same times give the same effects, so whole groups run in tests, replayable to the byte, and
//! thousands of groups share a few threads.
//!
//! ```text
//!             propose, read, step(Tick | Receive | Persisted | Fetched | ...)
//!   shell ─────────────────────────────────────────────────────────────────────> Raft
//!         <───────────────────────────────────────────────────────────────────── ready()
//!             persist (with a ticket), messages, apply, reads, fetch, snapshots, install, ...
//! ```
//!
//! A turn is: feed everything that has happened, call `ready` once, do what it says. What is fed
//! together leaves together: a hundred proposals of one turn are one write and one append to each
//! follower.
//!
//! # What it promises
//!
//! The five properties of the Raft paper (Ongaro and Ousterhout 2014, figure 3): at most one leader
//! in a term; a leader only appends; logs that share an entry share everything before it; a leader
//! has everything committed before its term; no two replicas apply different entries at an index.
//! They hold whatever the network and the disks do, as long as what a disk reported durable stays
//! so (a replica that may have lost something is opened as *suspect*, and takes no part). Beyond
//! the paper:
//!
//! * Messages that promise something wait inside the core until the write that holds the promise
//!   is durable. Writes and all other messages go out side by side. A leader's own disk is one vote
//!   among others.
//! * Writes are named by tickets. A position in the log can be written twice with other content;
//!   only what is still there counts as durable (see `persistence`).
//! * A read is confirmed by a round of heartbeats that began after it was asked; read ids and
//!   rounds are never reused, and a read that cannot be confirmed is refused, not forgotten.
//! * A leader whose voters have promised to help nobody else reads without a round, as long as clocks
//!   run within a stated bound of each other's speed (see `lease`).
//! * Logs are compacted whatever followers have: one that needs more gets a snapshot. A snapshot is
//!   swapped in only after the intent to do so is durable, so that a crash at any point is harmless.
//! * A replica whose rows are lost keeps its promises: it votes and acknowledges until a snapshot
//!   has given it new ones, and never leads.
//! * Everything that can grow is bounded by [`Limits`].
//! * Messages are judged, not trusted: nonsense is counted in [`Status::violations`] and dropped.
//!   Broken invariants of the core itself, and of the shell's side of the contract, are asserted.
//!
//! # Where to read
//!
//! `raft` is the door, `receive` sorts messages by term, `elections` has time and votes, `node` the
//! roles and the transitions between them, `transfer` how a leader leaves, `install` snapshots; `candidate`, `follower`, `leader`, `replicate`, `progress`, `reads` and `lease` do
//! what the roles do, `core` keeps what survives them. `log` and `persistence` are the two halves of the
//! log: what it is, and how much of it is durable. `docs/raft.md` has the algorithm in one piece,
//! `docs/pitfalls.md` the mistakes that others made and the tests that guard against them.
//!
//! # What is absent
//!
//! Membership changes and learners. What a snapshot contains, how it travels, and when
//! to compact are the shell's matters. Proposals and reads are not forwarded: the refusal names the
//! leader. Nothing here knows group ids, nodes, addresses or what a payload means; nothing retries
//! on behalf of a client.
#![forbid(unsafe_code)]

mod candidate;
mod core;
mod elections;
mod error;
mod event;
mod fetching;
mod follower;
mod install;
mod leader;
mod lease;
mod log;
mod membership;
mod message;
mod node;
mod options;
mod persistence;
mod progress;
mod raft;
mod random;
mod reads;
mod ready;
mod receive;
mod replicate;
mod rounds;
mod status;
mod transfer;
mod types;

pub use error::{DecodeError, ProposeError, ReadError, RestoreError};
pub use event::Event;
pub use message::{AppendOutcome, Message};
pub use options::{Leases, Limits, Options, Restored};
pub use raft::Raft;
pub use ready::{Envelope, Fetch, Persist, ReadOutcome, Ready, RoleChange};
pub use status::{FollowerState, FollowerStatus, Status};
pub use types::{
    Entry, HardState, Index, Position, ReadId, ReplicaId, Role, Round, Term, Ticket, Time,
};
