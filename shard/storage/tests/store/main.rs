//! The store from outside: against a model, under concurrent readers, over a failing disk.

mod concurrent;
mod crash;
mod disk;
mod extents;
mod failures;
mod files;
mod model;
mod support;
