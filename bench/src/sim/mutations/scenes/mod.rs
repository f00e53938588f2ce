//! Scenes: parts of the product, driven step by step to where a bug shows that a life is unlikely to
//! meet. Without the bug each of them is well.
//!
//! * `trio` is three replicas of a group whose messages go where the scene says; `reads` asks them.
//! * `overwritten` and `installing` are one replica with a slow disk, `damage` breaks a journal, `publishing`
//!   fails a checkpoint, `sessions` lets sessions be forgotten.

pub mod damage;
pub mod installing;
pub mod overwritten;
pub mod publishing;
pub mod reads;
pub mod sessions;
mod trio;
