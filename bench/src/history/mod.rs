//! Histories: what each client asked for and was told, and when.
//!
//! A history is a file of one JSON object a line, one line for each operation on a key:
//!
//! ```text
//! {"f":"put","k":"a","v":"c0003s00000017","c":3,"call":1200,"ret":2900,"unk":0}
//! {"f":"get","k":"a","r":"c0003s00000017","c":7,"call":3000,"ret":3400,"unk":0}
//! {"f":"cas","k":"a","old":"1","v":"2","r":true,"c":7,"call":3000,"ret":3400,"unk":0}
//! ```
//!
//! * `f`: `get`, `put`, `del`, `cas`, `rmw` (reads and replaces at once), `incr` (adds `v`, answers
//!   the sum), or `scan` and `batch`, which are no operations on one key and are not judged.
//! * `k`: the key; `v`: what was written; `old`: what a `cas` expected, null for an absent key.
//! * `r`: a `get` and an `rmw`: what was read, null for nothing; a `cas`: whether it swapped; a
//!   `del`: whether there was something, if the store says so; an `incr`: the sum.
//! * `c`: the client; `call` and `ret`: nanoseconds of one monotonic clock, before the request was
//!   handed over and after the answer was taken.
//! * `unk` 1: nobody knows whether it had an effect; it may have one at any later time, and `ret`
//!   is when the client stopped waiting.
//!
//! Operations that certainly had no effect are not in the file: a value of theirs that is read
//! afterwards is one that nobody wrote. Nor are reads without an answer.
//!
//! Keys are sampled whole ([`sample`]): of a key in the file every operation is there, from the
//! fill on. Bytes are written as text ([`text`]): long values by their beginning and a hash.
//!
//! What is absent: any judgement, which is [`linearizable`](crate::linearizable)'s.

pub mod driver;
pub mod line;
pub mod read;
pub mod record;
pub mod sample;
pub mod text;

pub use driver::DriverRecorder;
pub use line::{Deed, Line, LineError};
pub use read::{HistoryError, read};
pub use record::{Called, RecordError, Recorded, Recorder, Returned, Token};
pub use sample::Sample;
