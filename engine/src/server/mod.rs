//! The doors for other processes: Redis clients and operators.
//!
//! Each server is a module of its own, starts on a listener that is handed in, and knows the engine
//! only through what it is given.

pub mod admin;
pub mod process;
pub mod resp;
