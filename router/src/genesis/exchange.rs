//! The birth over the network: every node asks every other, and answers, until all agree.

use super::birth::{Birth, How, Learned};
use super::error::GenesisError;
use super::view::{View, ViewError};
use super::{FORMAT_VERSION, GENESIS_BYTES_MAX, Genesis, GenesisOptions, GenesisStore};
use crate::peer::{
    HandshakeError, HandshakeRefusal, Kind, RefusalReason, node_name, read_greeting, refusal_for,
    refuse, write_greeting,
};
use bytes::Bytes;
use flotilla_shard::NodeId;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

/// For one question and its answer.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two questions to one node: the first wait, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Between two words about who is missing.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(3);
/// Questions answered at a time.
const CALLERS_MAX: usize = 64;

/// Takes part in the birth of the cluster, or finds it in the directory.
///
/// Returns at once if the directory holds a committed genesis that fits the options, or if this is
/// the only node. Otherwise asks the other nodes and answers them on `listener` until the genesis
/// is decided: for as long as it takes all of them to appear, saying through `tracing` who is
/// missing. Afterwards `listener` is the transport's. Needs a tokio runtime with IO and time.
///
/// Cancelling is safe at any point; so is a crash.
///
/// # Errors
///
/// [`GenesisError`]: the options, the directory and the other nodes contradict each other, or the
/// store failed.
pub async fn agree(
    listener: &std::net::TcpListener,
    options: GenesisOptions,
    store: &mut dyn GenesisStore,
) -> Result<Genesis, GenesisError> {
    let birth = Birth::new(options, store)?;
    if let Some(genesis) = birth.committed() {
        return Ok(genesis.clone());
    }
    let listener = listener.try_clone().map_err(GenesisError::Listener)?;
    listener.set_nonblocking(true).map_err(GenesisError::Listener)?;
    let listener = TcpListener::from_std(listener).map_err(GenesisError::Listener)?;

    let others = birth.others();
    let exchange = Exchange {
        birth: Mutex::new(birth),
        advanced: watch::Sender::new(()),
        poke: others.iter().map(|(node, _)| (*node, Notify::new())).collect(),
    };
    let asking =
        try_join_all(others.iter().map(|(node, address)| exchange.keep_asking(*node, address)));
    tokio::select! {
        asked = asking => { asked?; }
        error = exchange.keep_answering(listener) => return Err(error),
        () = exchange.keep_reporting() => {}
    }
    let birth = exchange.birth.lock();
    Ok(birth.committed().expect("asking ends once the genesis is committed").clone())
}

struct Exchange<'a> {
    birth: Mutex<Birth<'a>>,
    /// This node took a step: everybody should hear of it now.
    advanced: watch::Sender<()>,
    /// That node runs: ask it now.
    poke: BTreeMap<NodeId, Notify>,
}

impl Exchange<'_> {
    /// Asks `node` until there is nothing more to say to it.
    async fn keep_asking(&self, node: NodeId, address: &str) -> Result<(), GenesisError> {
        let mut advanced = self.advanced.subscribe();
        let mut wait = RETRY_MIN;
        loop {
            advanced.mark_unchanged();
            let question = {
                let birth = self.birth.lock();
                if birth.is_done_with(node) {
                    return Ok(());
                }
                birth.view().encode()
            };
            let asked = timeout(EXCHANGE_TIMEOUT, ask(address, &question)).await;
            match asked.unwrap_or(Err(HandshakeError::TimedOut)) {
                Ok(answer) => self.hear(node, answer)?,
                Err(error) => {
                    if let HandshakeError::Refused(refusal) = &error {
                        self.refused(node, refusal)?;
                    }
                    self.birth.lock().failed(node, error.to_string());
                }
            }
            tokio::select! {
                () = sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
                _ = advanced.changed() => wait = RETRY_MIN,
                () = self.poke[&node].notified() => wait = RETRY_MIN,
            }
        }
    }

    /// Takes in the answer that was found at the address of `node`.
    fn hear(&self, node: NodeId, answer: Bytes) -> Result<(), GenesisError> {
        match View::decode(answer) {
            Ok(view) => {
                let learned = self.birth.lock().learn(&view, How::Dialed(node))?;
                if learned == Learned::Advanced {
                    self.advanced.send_replace(());
                }
                Ok(())
            }
            Err(ViewError::Format { theirs }) => {
                let (mine, who) = (FORMAT_VERSION, node_name(node));
                Err(GenesisError::OtherFormat { mine, theirs, who })
            }
            Err(ViewError::Malformed(what)) => {
                self.birth.lock().failed(node, format!("its answer makes no sense: {what}"));
                Ok(())
            }
        }
    }

    /// Some refusals mean that this node cannot take part.
    fn refused(&self, node: NodeId, refusal: &HandshakeRefusal) -> Result<(), GenesisError> {
        let (who, reason) = (node_name(node), refusal.text.clone());
        match refusal.reason {
            RefusalReason::DuplicateNode => {
                let me = self.birth.lock().view().from;
                Err(GenesisError::DuplicateNode { me, who })
            }
            RefusalReason::OtherFormat | RefusalReason::ProtocolVersion => {
                Err(GenesisError::Refused { who, reason })
            }
            _ => Ok(()),
        }
    }

    /// Answers everybody who calls. Returns only if this node's own store fails.
    async fn keep_answering(&self, listener: TcpListener) -> GenesisError {
        let mut callers = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if callers.len() < CALLERS_MAX => match accepted {
                    Ok((stream, _)) => callers.push(timeout(EXCHANGE_TIMEOUT, self.answer(stream))),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a peer connection");
                        sleep(RETRY_MIN).await;
                    }
                },
                Some(answered) = callers.next() => match answered {
                    Ok(Err(Answering::Store(error))) => return error,
                    Ok(Err(Answering::Caller(error))) => {
                        tracing::debug!(%error, "a caller of the cluster's birth went wrong");
                    }
                    Ok(Ok(())) | Err(_) => {}
                },
            }
        }
    }

    async fn answer(&self, mut stream: TcpStream) -> Result<(), Answering> {
        stream.set_nodelay(true)?;
        let greeting = match read_greeting(&mut stream, GENESIS_BYTES_MAX).await {
            Ok(greeting) => greeting,
            Err(error) => {
                if let Some(refusal) = refusal_for(&error) {
                    refuse(&mut stream, &refusal).await?;
                }
                return Err(error.into());
            }
        };
        if greeting.kind != Kind::GenesisView {
            // A transport that already runs: whoever it is knows the outcome.
            self.poke.values().for_each(Notify::notify_one);
            let text = "this node still waits for its cluster's birth to be complete".to_owned();
            let refusal = HandshakeRefusal { reason: RefusalReason::NotReady, text };
            return Ok(refuse(&mut stream, &refusal).await?);
        }
        let question = match View::decode(greeting.payload) {
            Ok(question) => question,
            Err(error) => return Ok(refuse(&mut stream, &unreadable(&error)).await?),
        };
        let (learned, answer, is_due) = {
            let mut birth = self.birth.lock();
            let learned = birth.learn(&question, How::Called).map_err(Answering::Store)?;
            (learned, birth.view(), birth.is_due(question.from))
        };
        if learned == Learned::Duplicate {
            let refusal = HandshakeRefusal {
                reason: RefusalReason::DuplicateNode,
                text: format!("another {} runs already", node_name(question.from)),
            };
            return Ok(refuse(&mut stream, &refusal).await?);
        }
        // First the answer, then whatever follows from the question: this may be our last word.
        let written = write_greeting(&mut stream, Kind::GenesisView, &answer.encode()).await;
        if learned == Learned::Advanced {
            self.advanced.send_replace(());
        }
        if is_due && let Some(poke) = self.poke.get(&question.from) {
            poke.notify_one();
        }
        Ok(written?)
    }

    /// Says every few seconds who is missing. Never returns.
    async fn keep_reporting(&self) {
        loop {
            sleep(PROGRESS_INTERVAL).await;
            let waiting_for = self.birth.lock().waiting_for();
            if !waiting_for.is_empty() {
                let waiting_for = waiting_for.join("; ");
                tracing::info!(waiting_for, "the cluster's birth waits for other nodes");
            }
        }
    }
}

enum Answering {
    /// This node cannot go on.
    Store(GenesisError),
    /// The conversation went wrong, which is the caller's business.
    Caller(HandshakeError),
}

impl<E: Into<HandshakeError>> From<E> for Answering {
    fn from(error: E) -> Self {
        Answering::Caller(error.into())
    }
}

fn unreadable(error: &ViewError) -> HandshakeRefusal {
    match error {
        ViewError::Format { theirs } => HandshakeRefusal {
            reason: RefusalReason::OtherFormat,
            text: format!(
                "this node uses format version {FORMAT_VERSION}, the caller {theirs}: run \
                 releases of the same format on all nodes"
            ),
        },
        ViewError::Malformed(what) => HandshakeRefusal {
            reason: RefusalReason::Malformed,
            text: format!("malformed view of a cluster's birth: {what}"),
        },
    }
}

async fn ask(address: &str, question: &[u8]) -> Result<Bytes, HandshakeError> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    write_greeting(&mut stream, Kind::GenesisView, question).await?;
    let greeting = read_greeting(&mut stream, GENESIS_BYTES_MAX).await?;
    if greeting.kind != Kind::GenesisView {
        return Err(HandshakeError::Malformed("an answer of another kind"));
    }
    Ok(greeting.payload)
}
