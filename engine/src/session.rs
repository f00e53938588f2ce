//! Sessions that a program names itself, so that a write can be repeated from another process.
//!
//! The engine names its writes by itself and repeats them while it waits. What it cannot repeat is a
//! call whose process died. A program that remembers (session, sequence) before it calls can: the
//! repeat has the effect and the answer of the first call, or says that it can no longer tell.
//!
//! Invariants:
//!
//! * A write of a named session is sent under the caller's name only.
//!
//! What is absent: choosing names, and remembering them.

use crate::engine::{Engine, outcome_of, unexpected};
use crate::entry::{Cas, Expect, Version, ms_of};
use crate::error::Error;
use crate::options::{PutCondition, PutOptions};
use bytes::Bytes;
use flotilla_shard::{Condition, Expiry, Operation, Origin, Write, WriteOutcome};
use std::num::NonZeroU64;
use std::time::SystemTime;

/// Names a session: a number that nobody else uses, drawn at random, and when it was born. Both
/// must be remembered to repeat a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionName {
    /// The number.
    pub id: NonZeroU64,
    /// When the session began. A shard that has forgotten sessions of that time admits none of them
    /// any more; it forgets those unused for an hour, earlier when thousands are in use.
    pub born: SystemTime,
}

impl SessionName {
    /// A new name: drawn at random, born now.
    pub fn new() -> SessionName {
        SessionName { id: rand::random(), born: SystemTime::now() }
    }
}

impl Default for SessionName {
    fn default() -> SessionName {
        SessionName::new()
    }
}

/// Names one write of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteName {
    /// From 1; each used for one write only, on whatever key, and again only to repeat that write.
    pub sequence: u64,
    /// All writes below are answered, or given up: they will not be repeated, and their answers
    /// need not be kept. At most `sequence`. Grows as answers arrive; 1 while none has.
    pub lowest_unacknowledged: u64,
}

impl Engine {
    /// A session under a name that the program chose; see [`Session`].
    pub fn session(&self, name: SessionName) -> Session {
        Session { engine: self.clone(), name }
    }
}

/// Writes that may be repeated from anywhere, by any process that knows their names.
///
/// A call with a name that was used before has no further effect and gives the first call's answer.
/// [`Error::Forgotten`] says that this cannot be told any more. Writes of one session may be under
/// way side by side, in any order.
///
/// # Examples
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let directory = tempfile::tempdir().unwrap();
/// # let db = flotilla::Engine::open(directory.path()).await?;
/// use flotilla::{SessionName, WriteName};
///
/// let session = SessionName::new();
/// let name = WriteName { sequence: 1, lowest_unacknowledged: 1 };
/// // ... remember `session` and `name`, then:
/// let version = db.session(session).put(name, "order/17", "shipped").await?;
/// db.put("order/17", "returned").await?;
/// // Somebody who does not know whether that call was made:
/// assert_eq!(db.session(session).put(name, "order/17", "shipped").await?, version);
/// assert_eq!(db.get("order/17").await?.as_deref(), Some(&b"returned"[..]));
/// # db.shutdown().await
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Session {
    engine: Engine,
    name: SessionName,
}

impl Session {
    /// The name that was given.
    pub fn name(&self) -> SessionName {
        self.name
    }

    /// As [`Engine::put`]. Dropping the future does not undo it; repeat it under the same name.
    ///
    /// # Errors
    ///
    /// As [`Engine::put`], [`Error::Forgotten`], [`Error::BadSequence`].
    pub async fn put(
        &self,
        name: WriteName,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<Version, Error> {
        let version = self.put_with(name, key, value, &PutOptions::default()).await?;
        Ok(version.expect("an unconditional put writes"))
    }

    /// As [`Engine::put_with`]. Dropping the future does not undo it; repeat it under the same name.
    ///
    /// # Errors
    ///
    /// As [`Session::put`].
    pub async fn put_with(
        &self,
        name: WriteName,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &PutOptions,
    ) -> Result<Option<Version>, Error> {
        let key = self.engine.copy_key(key.as_ref())?;
        self.engine.check_value(value.as_ref())?;
        let value = Bytes::copy_from_slice(value.as_ref());
        let condition = match options.condition {
            PutCondition::Always => Condition::Always,
            PutCondition::IfAbsent => Condition::IfAbsent,
            PutCondition::IfPresent => Condition::IfPresent,
        };
        let expiry = options.expiry.to_shard();
        let write = Write::Put { key, value, condition, return_previous: false, expiry };
        match self.change(name, write, options).await? {
            WriteOutcome::Put { version, written, .. } => Ok(written.then_some(Version(version))),
            other => unexpected(&other),
        }
    }

    /// As [`Engine::delete`]. Dropping the future does not undo it; repeat it under the same name.
    ///
    /// # Errors
    ///
    /// As [`Engine::delete`], [`Error::Forgotten`], [`Error::BadSequence`].
    pub async fn delete(&self, name: WriteName, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let key = self.engine.copy_key(key.as_ref())?;
        let write = Write::Delete { keys: vec![key] };
        match self.change(name, write, &PutOptions::default()).await? {
            WriteOutcome::Deleted { count, .. } => Ok(count > 0),
            other => unexpected(&other),
        }
    }

    /// As [`Engine::compare_and_swap`]. Dropping the future does not undo it; repeat it under the
    /// same name.
    ///
    /// # Errors
    ///
    /// As [`Engine::compare_and_swap`], [`Error::Forgotten`], [`Error::BadSequence`].
    pub async fn compare_and_swap(
        &self,
        name: WriteName,
        key: impl AsRef<[u8]>,
        expect: Expect<'_>,
        new: Option<Bytes>,
    ) -> Result<Cas, Error> {
        let key = self.engine.copy_key(key.as_ref())?;
        if let Expect::Value(value) = expect {
            self.engine.check_value(value)?;
        }
        if let Some(value) = &new {
            self.engine.check_value(value)?;
        }
        let expect = expect.to_shard();
        let write = Write::CompareAndSwap { key, expect, new, expiry: Expiry::Never };
        Cas::of(self.change(name, write, &PutOptions::default()).await?)
    }

    async fn change(
        &self,
        name: WriteName,
        write: Write,
        options: &PutOptions,
    ) -> Result<WriteOutcome, Error> {
        let WriteName { sequence, lowest_unacknowledged } = name;
        if sequence == 0 || lowest_unacknowledged > sequence {
            return Err(Error::BadSequence { sequence, lowest_unacknowledged });
        }
        let origin = Origin {
            session: self.name.id.get(),
            session_born_ms: ms_of(self.name.born),
            sequence,
            lowest_unacknowledged,
        };
        let deadline = self.engine.deadline(options.timeout);
        let operation = Operation::Write(write);
        outcome_of(self.engine.router().start_as(origin, operation, deadline).await?)
    }
}
