//! The engine inside this process, through its public API.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Context as _;
use bytes::Bytes;
use flotilla::{Cas, Engine, Error, Expect, WriteBatch};
use futures_util::stream::{FuturesUnordered, Stream};
use tempfile::TempDir;

use super::{BoxFuture, Completion, Description, Operation, Outcome, Reason, Session, Target};

/// An engine in this process, with its data in a directory that vanishes with it.
pub struct EmbeddedTarget {
    engine: Engine,
    replicas: u64,
    _directory: TempDir,
}

impl EmbeddedTarget {
    /// Opens a new engine with `replicas` replicas and, if they are named, so many shards, in a fresh
    /// directory within `parent`.
    ///
    /// # Errors
    ///
    /// If the engine does not open.
    pub async fn open(
        replicas: u64,
        shards: Option<u32>,
        parent: Option<&Path>,
    ) -> anyhow::Result<EmbeddedTarget> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("flotilla-bench-");
        let directory = match parent {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        };
        let directory = directory.context("cannot make a data directory")?;
        let mut builder = Engine::builder(directory.path()).replicas(replicas);
        if let Some(shards) = shards {
            builder = builder.shards(shards);
        }
        let engine = builder.start().await.context("the engine does not open")?;
        Ok(EmbeddedTarget { engine, replicas, _directory: directory })
    }

    /// Its engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Target for EmbeddedTarget {
    fn describe(&self) -> Description {
        let replication = match self.replicas {
            1 => "1 replica in this process".to_owned(),
            replicas => format!("{replicas} replicas in this process, majority"),
        };
        Description {
            name: "flotilla embedded".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            replication,
            durability: "journal synced before each acknowledgement".to_owned(),
            reads: "linearizable".to_owned(),
        }
    }

    fn processes(&self) -> Vec<u32> {
        vec![std::process::id()]
    }

    fn takes_batches(&self) -> bool {
        true
    }

    fn connect<'a>(&'a self, _client: usize) -> BoxFuture<'a, anyhow::Result<Box<dyn Session>>> {
        Box::pin(async move {
            let engine = self.engine.clone();
            Ok(Box::new(EmbeddedSession { engine, calls: FuturesUnordered::new() })
                as Box<dyn Session>)
        })
    }

    fn shutdown<'a>(&'a self) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async { self.engine.shutdown().await.context("the engine does not close") })
    }
}

struct EmbeddedSession {
    engine: Engine,
    calls: FuturesUnordered<BoxFuture<'static, Completion>>,
}

impl Session for EmbeddedSession {
    fn submit(&mut self, tag: u64, operation: Operation) {
        let engine = self.engine.clone();
        self.calls.push(Box::pin(async move {
            let is_write = operation.is_write();
            let outcome = match call(&engine, operation).await {
                Ok(outcome) => outcome,
                Err(error) => refused(&error, is_write),
            };
            Completion { tag, outcome }
        }));
    }

    fn poll(&mut self, context: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        let had = done.len();
        while let Poll::Ready(Some(completion)) = Pin::new(&mut self.calls).poll_next(context) {
            done.push(completion);
        }
        match done.len() > had {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

async fn call(engine: &Engine, operation: Operation) -> Result<Outcome, Error> {
    // Keys and values are cut from large chunks, which the engine would keep whole.
    let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    Ok(match operation {
        Operation::Get { key } => Outcome::read(engine.get(&key).await?),
        Operation::Put { key, value } => {
            engine.put_bytes(own(&key), own(&value)).await?;
            Outcome::WRITTEN
        }
        Operation::PutMany { pairs } => {
            let mut batch = WriteBatch::new();
            for (key, value) in &pairs {
                batch.put(key, value);
            }
            engine.write(batch).await?;
            Outcome::WRITTEN
        }
        Operation::Delete { key } => {
            engine.delete(&key).await?;
            Outcome::WRITTEN
        }
        Operation::Scan { start, limit } => {
            let mut scan = engine.scan(start.to_vec()..).limit(u64::from(limit));
            let mut rows = 0;
            while let Some(row) = scan.next().await {
                row?;
                rows += 1;
            }
            Outcome::scanned(rows)
        }
        Operation::ReadModifyWrite { key, value } => {
            let read = match engine.get(&key).await {
                Ok(read) => read,
                Err(error) => return Ok(refused(&error, false)),
            };
            engine.put_bytes(own(&key), own(&value)).await?;
            Outcome::read(read)
        }
        Operation::CompareAndSwap { key, old, new } => {
            let expect = old.as_deref().map_or(Expect::Absent, Expect::Value);
            match engine.compare_and_swap(&key, expect, Some(own(&new))).await? {
                Cas::Swapped { .. } => Outcome::read(Some(new)),
                Cas::Mismatch { .. } => Outcome::read(None),
            }
        }
    })
}

/// What an error says about the effect of a call.
fn refused(error: &Error, is_write: bool) -> Outcome {
    let reason: Reason = match error {
        Error::Timeout { .. } => "timed out".into(),
        Error::NoLeader { .. } => "no leader".into(),
        Error::Busy { .. } => "busy".into(),
        Error::DiskFull => "disk full".into(),
        Error::Shutdown => "shut down".into(),
        other => other.to_string().into(),
    };
    Outcome::lost(is_write && error.maybe_committed(), reason)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::target::OperationKind;

    #[tokio::test]
    async fn the_engine_does_all_kinds_of_operations() {
        let target = EmbeddedTarget::open(1, Some(2), None).await.unwrap();
        assert!(OperationKind::ALL.iter().all(|kind| target.refuses(*kind).is_none()));
        let mut session = target.connect(0).await.unwrap();
        let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
        let (other, new) = (Bytes::from_static(b"l"), Bytes::from_static(b"w"));
        let put = Operation::Put { key: key.clone(), value: value.clone() };
        let read = Outcome::read(Some(value.clone()));
        let swap = |old| Operation::CompareAndSwap { key: other.clone(), old, new: new.clone() };
        let pairs = vec![(key.clone(), new.clone()), (other.clone(), value.clone())];
        let cases = [
            (Operation::Get { key: key.clone() }, Outcome::read(None)),
            (put, Outcome::WRITTEN),
            (Operation::Get { key: key.clone() }, read.clone()),
            (Operation::ReadModifyWrite { key: key.clone(), value: new.clone() }, read),
            (swap(None), Outcome::read(Some(new.clone()))),
            (swap(Some(value.clone())), Outcome::read(None)),
            (Operation::PutMany { pairs }, Outcome::WRITTEN),
            (Operation::Scan { start: key.clone(), limit: 5 }, Outcome::scanned(2)),
            (Operation::Delete { key: key.clone() }, Outcome::WRITTEN),
            (Operation::Scan { start: key, limit: 5 }, Outcome::scanned(1)),
        ];
        for (operation, want) in cases {
            let mut done = Vec::new();
            session.submit(7, operation.clone());
            poll_fn(|context| session.poll(context, &mut done)).await;
            assert_eq!(done, [Completion { tag: 7, outcome: want }], "{operation:?}");
        }
        target.shutdown().await.unwrap();
        session.submit(8, Operation::Get { key: other });
        let mut done = Vec::new();
        poll_fn(|context| session.poll(context, &mut done)).await;
        assert_eq!(done[0].outcome, Outcome::NoEffect("shut down".into()));
    }
}
