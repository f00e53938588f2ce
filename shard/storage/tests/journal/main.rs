//! The journal from outside: a model under random crashes, and one test for each rule of
//! `docs/journal-format.md`.

mod damage;
mod flips;
mod full;
mod model;
mod rules;
mod space;
mod support;
mod thread;
