//! What an engine says about itself, and how it ends.

use super::{Engine, Member, Shared};
use crate::background::on_own_thread;
use crate::error::Error;
use crate::status::Status;
use prometheus::Registry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// How often the status is looked at for subscribers.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

impl Engine {
    /// The node and its shards as they are now. With several nodes in one process: the first.
    pub fn status(&self) -> Status {
        self.status_of(&self.shared.nodes[0])
    }

    /// All nodes of this engine; more than one only with
    /// [`Builder::replicas`](crate::Builder::replicas).
    pub fn statuses(&self) -> Vec<Status> {
        self.shared.nodes.iter().map(|member| self.status_of(member)).collect()
    }

    fn status_of(&self, member: &Member) -> Status {
        self.shared.status_of(member)
    }

    /// The status of [`Engine::status`], now and whenever it changes: a leader, a role, a connection,
    /// a replica's health. Figures such as log positions are as they were at the latest such change.
    /// The engine looks every 50 ms while somebody is subscribed.
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// let mut status = db.subscribe();
    /// status.wait_for(|status| status.is_ready()).await.expect("the engine runs");
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        let sender = self.shared.watched.get_or_init(|| {
            let (sender, _) = watch::channel(self.status());
            let handle = &self.shared.nodes[0].node.handles()[0];
            handle.spawn(watch_status(Arc::downgrade(&self.shared), sender.clone()));
            sender
        });
        let receiver = sender.subscribe();
        self.shared.publish(sender);
        receiver
    }

    /// The engine's metrics. With several nodes in one process: those of the first.
    pub fn registry(&self) -> &Registry {
        &self.shared.nodes[0].registry
    }

    /// The metrics of all nodes of this engine, in the order of [`Engine::statuses`].
    pub fn registries(&self) -> Vec<&Registry> {
        self.shared.nodes.iter().map(|member| &member.registry).collect()
    }

    /// Why a node of this engine stopped itself, if one did: a failed sync, a broken invariant. Its
    /// data is as its last acknowledged write left it; open it again when the cause is gone.
    pub fn failure(&self) -> Option<String> {
        self.shared.nodes.iter().find_map(|member| member.node.fatal().borrow().clone())
    }

    /// Waits until a node of this engine stops itself, and says why. Never returns while all is
    /// well, nor after a [`Engine::shutdown`].
    pub async fn failed(&self) -> String {
        let waits = self.shared.nodes.iter().map(|member| {
            let mut fatal = member.node.fatal();
            Box::pin(async move {
                match fatal.wait_for(Option::is_some).await {
                    Ok(reason) => reason.clone().expect("waited for it"),
                    // The node has ended in peace.
                    Err(_) => std::future::pending().await,
                }
            })
        });
        futures_util::future::select_all(waits).await.0
    }

    /// Ends the engine: new calls are refused, leaderships are handed to other nodes, calls that wait
    /// are answered (for at most three seconds), threads end, the directory is given free. Returns
    /// when all of that is done. May be called again, and from several handles at once;
    /// calls after it end in [`Error::Shutdown`].
    ///
    /// Acknowledged writes are safe with or without it. Dropping the last handle without it ends the
    /// engine too, but nobody knows when.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] when the last sync failed. The engine has ended all the same.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let _one_at_a_time = self.shared.stopping.lock().await;
        if self.shared.stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        let nodes = self.shared.nodes.clone();
        let result = on_own_thread("flotilla-stop", move || stop(nodes)).await;
        self.shared.stopped.store(true, Ordering::Release);
        result?
    }
}

impl Shared {
    fn status_of(&self, member: &Member) -> Status {
        let node = &member.node;
        let peers = node.peers().into_iter();
        let reached = peers.filter(|peer| peer.is_connected()).map(|peer| peer.node);
        // Nodes of one process reach each other always.
        let beside = self.nodes.iter().map(|other| other.node.id());
        let connected = reached.chain(beside.filter(|id| *id != node.id())).collect();
        Status::new(node.id(), node.cluster_name(), node.statuses(), connected)
    }

    /// Tells subscribers what has changed, if anything has.
    fn publish(&self, sender: &watch::Sender<Status>) {
        let now = self.status_of(&self.nodes[0]);
        sender.send_if_modified(|known| {
            let is_news = !known.is_alike(&now);
            if is_news {
                *known = now;
            }
            is_news
        });
    }
}

/// Looks for changes until the engine is gone. Whoever still holds a receiver then hears the end.
async fn watch_status(shared: Weak<Shared>, sender: watch::Sender<Status>) {
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        if sender.receiver_count() > 0 {
            shared.publish(&sender);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if *self.stopped.get_mut() {
            return;
        }
        tracing::warn!(
            "an engine was dropped without shutdown(); it ends in the background, and its directory \
             stays locked until then"
        );
        let nodes = self.nodes.clone();
        // Not awaited: whoever drops may be one of the engine's own threads.
        drop(on_own_thread("flotilla-stop", move || stop(nodes)));
    }
}

/// Ends all nodes side by side; reports the first failure.
async fn stop(nodes: Arc<Vec<Member>>) -> Result<(), Error> {
    // A write that one node has begun may need the others for its end.
    futures_util::future::join_all(nodes.iter().map(|member| member.node.say_farewell())).await;
    let ends = nodes.iter().map(|member| member.node.shutdown());
    futures_util::future::join_all(ends).await.into_iter().collect()
}
