//! The store from outside: against a model, under concurrent readers, over a failing disk.

mod concurrent;
mod crash;
mod damage;
mod disk;
mod extents;
mod failures;
mod files;
mod flips;
mod import;
mod import_faults;
mod model;
mod size;
mod support;
mod unwritable;
