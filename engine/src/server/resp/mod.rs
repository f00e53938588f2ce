//! The door for Redis clients: any of them, in any language, can use a cluster through any node.
//!
//! A request's way: `codec` finds it in the received bytes, `commands` judges it, `pipeline`
//! keeps its place among the requests of its connection, `backend` asks the data, and the answer
//! goes back the same way. `connection` drives all of it, one task per client; `server` accepts
//! clients and spreads them over the lanes. `docs/redis-commands.md` tells users what differs from
//! Redis.
//!
//! What is absent: types other than strings, scripts, transactions over several shards, publishing;
//! users and encryption.

mod backend;
mod clients;
mod codec;
mod commands;
mod connection;
mod cursor;
mod error;
mod facade;
mod glob;
mod info;
mod metrics;
mod options;
mod pipeline;
mod server;
mod throttle;
mod upkeep;

pub use backend::Backend;
pub use facade::StartError;
pub use info::{ServerFacts, ServerInfo};
pub use metrics::RespMetrics;
pub use options::RespOptions;
pub use server::{RespServer, Wiring};

#[cfg(test)]
mod tests;
