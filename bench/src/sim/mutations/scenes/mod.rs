//! Scenes: parts of the product, driven step by step to where a bug shows that a life is unlikely to
//! meet. Without the bug each of them is well.
//!
//! * `trio` is three replicas of a group whose messages go where the scene says; `reads` asks them.
//! * `damage` breaks a journal, `sessions` lets sessions be forgotten.

pub mod damage;
pub mod reads;
pub mod sessions;
mod trio;
