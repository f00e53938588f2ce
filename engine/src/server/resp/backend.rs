//! What the server needs of whoever holds the data.
//!
//! In a node that is the router; tests put a map in its place, with answers as late and as
//! disorderly as they like.

use bytes::Bytes;
use flotilla_router::{Page, PageOptions, Pending, RouteError, Router};
use flotilla_shard::{Answer, Entry, KeyRange, Operation, Origin};
use std::future::Future;
use std::time::Instant;

/// Answers operations on keys, each in a future of its own.
///
/// Calls start their work before they return; dropping a future does not undo it.
pub trait Backend: Clone + Send + Sync + 'static {
    /// The answer to one operation.
    type Pending: Future<Output = Result<Answer, RouteError>> + Send + Unpin + 'static;

    /// Starts one operation on keys of one shard.
    fn start(&self, operation: Operation, deadline: Instant) -> Self::Pending;

    /// Starts one write under the name that its client gave it: however often a write of this name
    /// is started, it is done at most once.
    fn start_as(&self, origin: Origin, operation: Operation, deadline: Instant) -> Self::Pending;

    /// Starts several, side by side; answers stand in the order of the operations.
    fn start_all(&self, operations: Vec<Operation>, deadline: Instant) -> Vec<Self::Pending>;

    /// The next rows of `range`, which may be none although there is a rest.
    fn page(
        &self,
        range: KeyRange,
        options: PageOptions,
        deadline: Instant,
    ) -> impl Future<Output = Result<Page, RouteError>> + Send + 'static;

    /// How many keys there are.
    fn count(
        &self,
        range: KeyRange,
        deadline: Instant,
    ) -> impl Future<Output = Result<u64, RouteError>> + Send + 'static;

    /// Removes every key of `range`.
    fn delete_range(
        &self,
        range: KeyRange,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), RouteError>> + Send + 'static;

    /// The values of `keys`, in their order.
    fn get_many(
        &self,
        keys: Vec<Bytes>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<Option<Entry>>, RouteError>> + Send + 'static;

    /// Removes `keys` and counts those that existed, each once.
    fn delete_many(
        &self,
        keys: Vec<Bytes>,
        deadline: Instant,
    ) -> impl Future<Output = Result<u64, RouteError>> + Send + 'static;
}

impl Backend for Router {
    type Pending = Pending;

    fn start(&self, operation: Operation, deadline: Instant) -> Pending {
        Router::start(self, operation, deadline)
    }

    fn start_as(&self, origin: Origin, operation: Operation, deadline: Instant) -> Pending {
        Router::start_as(self, origin, operation, deadline)
    }

    fn start_all(&self, operations: Vec<Operation>, deadline: Instant) -> Vec<Pending> {
        Router::start_all(self, operations, deadline)
    }

    fn page(
        &self,
        range: KeyRange,
        options: PageOptions,
        deadline: Instant,
    ) -> impl Future<Output = Result<Page, RouteError>> + Send + 'static {
        Router::page(self, range, options, deadline)
    }

    fn count(
        &self,
        range: KeyRange,
        deadline: Instant,
    ) -> impl Future<Output = Result<u64, RouteError>> + Send + 'static {
        Router::count(self, range, deadline)
    }

    fn delete_range(
        &self,
        range: KeyRange,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), RouteError>> + Send + 'static {
        Router::delete_range(self, range, deadline)
    }

    fn get_many(
        &self,
        keys: Vec<Bytes>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<Option<Entry>>, RouteError>> + Send + 'static {
        Router::get_many(self, keys, deadline)
    }

    fn delete_many(
        &self,
        keys: Vec<Bytes>,
        deadline: Instant,
    ) -> impl Future<Output = Result<u64, RouteError>> + Send + 'static {
        Router::delete_many(self, keys, deadline)
    }
}
