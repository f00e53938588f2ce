//! A target whose gets are looked at: one that finds nothing, or a value of another size, is an
//! error. A store that answers nothing quickly must not look quick.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;

use crate::target::{
    BoxFuture, Completion, Description, Operation, OperationKind, Outcome, Session, Target,
};

/// How long one operation of the check before a run may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// A target whose gets must find values of one size.
pub(super) struct Verified {
    inner: Arc<dyn Target>,
    value_bytes: usize,
}

impl Verified {
    pub(super) fn new(inner: Arc<dyn Target>, value_bytes: usize) -> Verified {
        Verified { inner, value_bytes }
    }
}

impl Target for Verified {
    fn describe(&self) -> Description {
        self.inner.describe()
    }

    fn processes(&self) -> Vec<u32> {
        self.inner.processes()
    }

    fn refuses(&self, kind: OperationKind) -> Option<String> {
        self.inner.refuses(kind)
    }

    fn takes_batches(&self) -> bool {
        self.inner.takes_batches()
    }

    fn connect<'a>(&'a self, client: usize) -> BoxFuture<'a, anyhow::Result<Box<dyn Session>>> {
        Box::pin(async move {
            let inner = self.inner.connect(client).await?;
            let session =
                VerifiedSession { inner, value_bytes: self.value_bytes, reads: Vec::new() };
            Ok(Box::new(session) as Box<dyn Session>)
        })
    }
}

struct VerifiedSession {
    inner: Box<dyn Session>,
    value_bytes: usize,
    /// By tag, whether it is a read of one key that is under way. The driver's tags are small.
    reads: Vec<bool>,
}

impl Session for VerifiedSession {
    fn submit(&mut self, tag: u64, operation: Operation) {
        let is_read =
            matches!(operation, Operation::Get { .. } | Operation::ReadModifyWrite { .. });
        let at = tag as usize;
        if self.reads.len() <= at {
            self.reads.resize(at + 1, false);
        }
        self.reads[at] = is_read;
        self.inner.submit(tag, operation);
    }

    fn poll(&mut self, context: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        let before = done.len();
        let polled = self.inner.poll(context, done);
        for completion in &mut done[before..] {
            let Outcome::Done { value, .. } = &completion.outcome else { continue };
            if self.reads[completion.tag as usize] {
                match value {
                    None => completion.outcome = Outcome::NoEffect("found nothing".into()),
                    Some(value) if value.len() != self.value_bytes => {
                        completion.outcome = Outcome::NoEffect("a value of another size".into());
                    }
                    Some(_) => {}
                }
            }
        }
        polled
    }
}

/// Writes a key through one client of `target`, reads it through the next, and removes it, for as
/// many clients as there are nodes: each node was written to and read from then.
///
/// # Errors
///
/// If anything but what was written is read.
pub(super) async fn check(
    target: &dyn Target,
    nodes: usize,
    value_bytes: usize,
) -> anyhow::Result<()> {
    let mut sessions = Vec::with_capacity(nodes);
    for client in 0..nodes {
        sessions.push(target.connect(client).await?);
    }
    for node in 0..nodes {
        // As long as the keys of the load, and none of them: those begin with a hash.
        let key = Bytes::from(format!("self-check-{node:05}"));
        let value = Bytes::from(vec![b'a' + (node % 26) as u8; value_bytes]);
        let get = Operation::Get { key: key.clone() };
        let put = Operation::Put { key: key.clone(), value: value.clone() };
        let steps = [
            (node, get.clone(), Outcome::read(None)),
            (node, put, Outcome::WRITTEN),
            ((node + 1) % nodes, get.clone(), Outcome::read(Some(value))),
            (node, Operation::Delete { key }, Outcome::WRITTEN),
            ((node + 1) % nodes, get, Outcome::read(None)),
        ];
        for (client, operation, want) in steps {
            let what = format!("{} by client {client}", word(&operation));
            let found = ask(&mut *sessions[client], operation).await;
            let found = found.with_context(|| what.clone())?;
            if found != want {
                bail!("{what}: {}, not {}", describe(&found), describe(&want));
            }
        }
    }
    Ok(())
}

async fn ask(session: &mut dyn Session, operation: Operation) -> anyhow::Result<Outcome> {
    session.submit(0, operation);
    let mut done = Vec::new();
    let answered = async {
        while done.is_empty() {
            std::future::poll_fn(|context| session.poll(context, &mut done)).await;
        }
    };
    wait(answered).await?;
    Ok(done.remove(0).outcome)
}

async fn wait(answered: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::time::timeout(CHECK_TIMEOUT, answered).await.context("no answer in time")
}

fn word(operation: &Operation) -> &'static str {
    match operation {
        Operation::Get { .. } => "get",
        Operation::Put { .. } => "put",
        _ => "delete",
    }
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { value: Some(value), .. } => format!("a value of {} bytes", value.len()),
        Outcome::Done { value: None, .. } => "done without a value".to_owned(),
        Outcome::NoEffect(reason) => format!("refused ({reason})"),
        Outcome::Unknown(reason) => format!("in doubt ({reason})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// A map that can be told to lie.
    #[derive(Clone, Default)]
    struct Map {
        rows: Arc<Mutex<BTreeMap<Bytes, Bytes>>>,
        forgets: bool,
        cuts: bool,
        done: Vec<Completion>,
    }

    impl Target for Map {
        fn describe(&self) -> Description {
            Description::default()
        }

        fn processes(&self) -> Vec<u32> {
            Vec::new()
        }

        fn connect<'a>(&'a self, _: usize) -> BoxFuture<'a, anyhow::Result<Box<dyn Session>>> {
            Box::pin(async { Ok(Box::new(self.clone()) as Box<dyn Session>) })
        }
    }

    impl Session for Map {
        fn submit(&mut self, tag: u64, operation: Operation) {
            let mut rows = self.rows.lock().unwrap();
            let outcome = match operation {
                Operation::Put { key, value } => {
                    if !self.forgets {
                        rows.insert(key, value);
                    }
                    Outcome::WRITTEN
                }
                Operation::Get { key } => {
                    let value = rows.get(&key).cloned();
                    Outcome::read(
                        value.map(|value| if self.cuts { value.slice(1..) } else { value }),
                    )
                }
                Operation::Delete { key } => {
                    rows.remove(&key);
                    Outcome::WRITTEN
                }
                _ => unreachable!("not asked here"),
            };
            self.done.push(Completion { tag, outcome });
        }

        fn poll(&mut self, _: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
            done.append(&mut self.done);
            Poll::Ready(())
        }
    }

    #[tokio::test]
    async fn the_check_passes_honest_stores_only() {
        check(&Map::default(), 3, 256).await.unwrap();
        let forgets = check(&Map { forgets: true, ..Map::default() }, 3, 256).await.unwrap_err();
        assert_eq!(
            forgets.to_string(),
            "get by client 1: done without a value, not a value of 256 bytes"
        );
        let cuts = check(&Map { cuts: true, ..Map::default() }, 1, 256).await.unwrap_err();
        assert!(cuts.to_string().contains("a value of 255 bytes"), "{cuts}");
    }

    #[tokio::test]
    async fn gets_that_find_nothing_or_too_little_are_errors() {
        let map = Map::default();
        let (short, whole) = (Bytes::from_static(b"short"), Bytes::from_static(b"whole"));
        map.rows.lock().unwrap().insert(short.clone(), Bytes::from_static(b"123"));
        map.rows.lock().unwrap().insert(whole.clone(), Bytes::from_static(b"1234"));
        let target = Verified::new(Arc::new(map), 4);
        let mut session = target.connect(0).await.unwrap();
        let mut outcomes = Vec::new();
        for key in [whole, short, Bytes::from_static(b"missing")] {
            outcomes.push(ask(&mut *session, Operation::Get { key }).await.unwrap());
        }
        assert_eq!(outcomes[0], Outcome::read(Some(Bytes::from_static(b"1234"))));
        assert_eq!(outcomes[1], Outcome::NoEffect("a value of another size".into()));
        assert_eq!(outcomes[2], Outcome::NoEffect("found nothing".into()));
    }
}
