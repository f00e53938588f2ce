//! The engine for programs without async: the same calls, which wait.
//!
//! Waiting is parking the calling thread; the engine's own threads do the work. Inside an async
//! runtime this would stop whatever else runs on the thread: use [`Engine`] there.

use crate::batch::WriteBatch;
use crate::entry::{Cas, Entry, Expect, KeyValue, Version};
use crate::error::Error;
use crate::options::{PutOptions, ReadOptions};
use crate::scan::Scan;
use crate::session::{Session, SessionName, WriteName};
use crate::status::Status;
use crate::{Builder, Consistency, Engine};
use bytes::Bytes;
use std::future::Future;
use std::ops::RangeBounds;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// An [`Engine`] whose calls wait for their answers. Each method does, and fails as, the one of the
/// same name there.
///
/// ```
/// # let directory = tempfile::tempdir().unwrap();
/// let db = flotilla::BlockingEngine::open(directory.path())?;
/// db.put("key", "value")?;
/// assert!(db.delete("key")?);
/// assert_eq!(db.get("key")?, None);
/// db.shutdown()?;
/// # Ok::<(), flotilla::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BlockingEngine {
    engine: Engine,
}

impl BlockingEngine {
    pub(crate) fn new(engine: Engine) -> BlockingEngine {
        BlockingEngine { engine }
    }

    /// As [`Engine::open`].
    pub fn open(directory: impl AsRef<Path>) -> Result<BlockingEngine, Error> {
        Engine::builder(directory).start_blocking()
    }

    /// The same engine for async code.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// As [`Engine::get`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        wait(self.engine.get(key))
    }

    /// As [`Engine::get_with`].
    pub fn get_with(
        &self,
        key: impl AsRef<[u8]>,
        options: &ReadOptions,
    ) -> Result<Option<Entry>, Error> {
        wait(self.engine.get_with(key, options))
    }

    /// As [`Engine::get_many`].
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        wait(self.engine.get_many(keys))
    }

    /// As [`Engine::get_many_with`].
    pub fn get_many_with<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        options: &ReadOptions,
    ) -> Result<Vec<Option<Entry>>, Error> {
        wait(self.engine.get_many_with(keys, options))
    }

    /// As [`Engine::put`].
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Version, Error> {
        wait(self.engine.put(key, value))
    }

    /// As [`Engine::put_bytes`].
    pub fn put_bytes(&self, key: Bytes, value: Bytes) -> Result<Version, Error> {
        wait(self.engine.put_bytes(key, value))
    }

    /// As [`Engine::put_with`].
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &PutOptions,
    ) -> Result<Option<Version>, Error> {
        wait(self.engine.put_with(key, value, options))
    }

    /// As [`Engine::delete`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        wait(self.engine.delete(key))
    }

    /// As [`Engine::delete_range`].
    pub fn delete_range(&self, range: impl RangeBounds<Vec<u8>>) -> Result<(), Error> {
        wait(self.engine.delete_range(range))
    }

    /// As [`Engine::expire`].
    pub fn expire(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<bool, Error> {
        wait(self.engine.expire(key, ttl))
    }

    /// As [`Engine::expire_at`].
    pub fn expire_at(&self, key: impl AsRef<[u8]>, time: SystemTime) -> Result<bool, Error> {
        wait(self.engine.expire_at(key, time))
    }

    /// As [`Engine::persist`].
    pub fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        wait(self.engine.persist(key))
    }

    /// As [`Engine::read_modify_write`].
    pub fn read_modify_write(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnMut(Option<&Entry>) -> Option<Bytes>,
    ) -> Result<Option<Version>, Error> {
        wait(self.engine.read_modify_write(key, change))
    }

    /// As [`Engine::session`].
    pub fn session(&self, name: SessionName) -> BlockingSession {
        BlockingSession { session: self.engine.session(name) }
    }

    /// As [`Engine::compare_and_swap`].
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expect: Expect<'_>,
        new: Option<Bytes>,
    ) -> Result<Cas, Error> {
        wait(self.engine.compare_and_swap(key, expect, new))
    }

    /// As [`Engine::write`].
    pub fn write(&self, batch: WriteBatch) -> Result<Version, Error> {
        wait(self.engine.write(batch))
    }

    /// As [`Engine::scan`], as an iterator.
    pub fn scan(&self, range: impl RangeBounds<Vec<u8>>) -> BlockingScan {
        BlockingScan { scan: self.engine.scan(range) }
    }

    /// As [`Engine::scan_prefix`], as an iterator.
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> BlockingScan {
        BlockingScan { scan: self.engine.scan_prefix(prefix) }
    }

    /// As [`Engine::status`].
    pub fn status(&self) -> Status {
        self.engine.status()
    }

    /// As [`Engine::subscribe`]. The receiver shows the latest status whenever it is asked.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.engine.subscribe()
    }

    /// As [`Engine::shutdown`].
    pub fn shutdown(&self) -> Result<(), Error> {
        wait(self.engine.shutdown())
    }
}

/// A [`Session`] whose calls wait for their answers.
#[derive(Clone, Debug)]
pub struct BlockingSession {
    session: Session,
}

impl BlockingSession {
    /// As [`Session::put`].
    pub fn put(
        &self,
        name: WriteName,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<Version, Error> {
        wait(self.session.put(name, key, value))
    }

    /// As [`Session::put_with`].
    pub fn put_with(
        &self,
        name: WriteName,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &PutOptions,
    ) -> Result<Option<Version>, Error> {
        wait(self.session.put_with(name, key, value, options))
    }

    /// As [`Session::delete`].
    pub fn delete(&self, name: WriteName, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        wait(self.session.delete(name, key))
    }

    /// As [`Session::compare_and_swap`].
    pub fn compare_and_swap(
        &self,
        name: WriteName,
        key: impl AsRef<[u8]>,
        expect: Expect<'_>,
        new: Option<Bytes>,
    ) -> Result<Cas, Error> {
        wait(self.session.compare_and_swap(name, key, expect, new))
    }
}

impl Builder {
    /// As [`Builder::start`], waiting.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`].
    pub fn start_blocking(self) -> Result<BlockingEngine, Error> {
        wait(self.start()).map(BlockingEngine::new)
    }
}

/// An iterator of rows; see [`Scan`].
#[must_use = "a scan reads nothing until it is iterated"]
#[derive(Debug)]
pub struct BlockingScan {
    scan: Scan,
}

impl BlockingScan {
    /// As [`Scan::limit`].
    pub fn limit(self, rows: u64) -> BlockingScan {
        BlockingScan { scan: self.scan.limit(rows) }
    }

    /// As [`Scan::reverse`].
    pub fn reverse(self) -> BlockingScan {
        BlockingScan { scan: self.scan.reverse() }
    }

    /// As [`Scan::timeout`].
    pub fn timeout(self, timeout: Duration) -> BlockingScan {
        BlockingScan { scan: self.scan.timeout(timeout) }
    }

    /// As [`Scan::consistency`].
    pub fn consistency(self, consistency: Consistency) -> BlockingScan {
        BlockingScan { scan: self.scan.consistency(consistency) }
    }
}

impl Iterator for BlockingScan {
    type Item = Result<KeyValue, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        wait(self.scan.next())
    }
}

/// Parks the thread until `future` is done.
fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
