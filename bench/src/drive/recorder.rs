//! A witness of what clients did.

use crate::target::{Operation, Outcome};

/// What a recorder calls an operation that it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Sees operations begin and end. Called on the threads of the clients, just before an operation is
/// handed to its session and just after its outcome is known, so it must be quick.
pub trait Recorder: Send + Sync {
    /// `client` begins `operation`; `None` if this one is not recorded.
    fn begin(&self, client: usize, operation: &Operation) -> Option<Token>;

    /// What became of it. Not called for operations that were under way when a drive was given up.
    fn end(&self, client: usize, token: Token, outcome: &Outcome);
}
