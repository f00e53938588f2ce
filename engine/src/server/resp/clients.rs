//! The connections of the server, as `CLIENT LIST` tells of them.
//!
//! A connection writes its own entry; everybody reads all. What changes with each batch of requests
//! is kept in atomics, so that writing it costs nothing to speak of.

use super::codec::Protocol;
use super::commands::{COMMANDS, Command};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::Notify;

/// All connections of a server, by id.
#[derive(Debug, Default)]
pub struct Clients {
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
    last_id: AtomicU64,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// Counts connections since the server's start, from 1.
    pub id: u64,
    /// The far end.
    pub address: SocketAddr,
    /// The near end.
    pub local_address: SocketAddr,
    connected: Instant,
    /// Milliseconds after `connected`.
    active_ms: AtomicU64,
    /// An index into the table of commands; beyond it before the first.
    last_command: AtomicU8,
    protocol: AtomicU8,
    /// Commands of an open transaction; -1 without one.
    queued: AtomicI64,
    /// Told when the connection is to be closed.
    killed: Notify,
    labels: Mutex<Labels>,
}

/// What a client says of itself.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// By `CLIENT SETNAME`.
    pub name: Bytes,
    /// By `CLIENT SETINFO`.
    pub library_name: Bytes,
    /// By `CLIENT SETINFO`.
    pub library_version: Bytes,
}

impl Clients {
    /// Enters a new connection.
    pub fn enter(&self, address: SocketAddr, local_address: SocketAddr) -> Arc<Client> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client {
            id,
            address,
            local_address,
            connected: Instant::now(),
            active_ms: AtomicU64::new(0),
            last_command: AtomicU8::new(u8::MAX),
            protocol: AtomicU8::new(2),
            queued: AtomicI64::new(-1),
            killed: Notify::new(),
            labels: Mutex::default(),
        });
        self.by_id.lock().insert(id, client.clone());
        client
    }

    /// Forgets a connection.
    pub fn leave(&self, id: u64) {
        self.by_id.lock().remove(&id);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.lock().len()
    }

    /// Closes each connection that `doomed` accepts, and counts them.
    pub fn kill(&self, doomed: impl Fn(&Client) -> bool) -> usize {
        let clients = self.by_id.lock();
        let doomed = clients.values().filter(|client| doomed(client));
        doomed.map(|client| client.killed.notify_one()).count()
    }

    /// One line for each connection that `wanted` accepts, in the order they came.
    pub fn describe(&self, wanted: impl Fn(&Client) -> bool) -> String {
        let clients: Vec<Arc<Client>> = self.by_id.lock().values().cloned().collect();
        let mut out = String::new();
        for client in clients.iter().filter(|client| wanted(client)) {
            client.describe(&mut out);
            out.push('\n');
        }
        out
    }
}

impl Client {
    /// Notes that `command` was taken just now.
    pub fn note_command(&self, command: Command) {
        self.last_command.store(command as u8, Ordering::Relaxed);
    }

    /// Notes that the client was heard at `now`.
    pub fn note_active(&self, now: Instant) {
        let after_ms = now.saturating_duration_since(self.connected).as_millis() as u64;
        self.active_ms.store(after_ms, Ordering::Relaxed);
    }

    /// Notes what was agreed on.
    pub fn note_protocol(&self, protocol: Protocol) {
        let version = match protocol {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        };
        self.protocol.store(version, Ordering::Relaxed);
    }

    /// Notes how many commands an open transaction has; `None`: there is none.
    pub fn note_queued(&self, commands: Option<usize>) {
        self.queued.store(commands.map_or(-1, |count| count as i64), Ordering::Relaxed);
    }

    /// Waits until somebody wants the connection to be closed.
    pub async fn killed(&self) {
        self.killed.notified().await;
    }

    /// What the client has said of itself.
    pub fn labels(&self) -> Labels {
        self.labels.lock().clone()
    }

    /// Changes what the client says of itself.
    pub fn change_labels(&self, change: impl FnOnce(&mut Labels)) {
        change(&mut self.labels.lock());
    }

    /// Writes the client's line, without its end. Only fields that mean something here are given;
    /// their names are Redis's.
    pub fn describe(&self, out: &mut String) {
        let age_ms = self.connected.elapsed().as_millis() as u64;
        let idle_ms = age_ms.saturating_sub(self.active_ms.load(Ordering::Relaxed));
        let command = COMMANDS
            .get(usize::from(self.last_command.load(Ordering::Relaxed)))
            .map_or("NULL", |spec| spec.name);
        let labels = self.labels();
        let queued = self.queued.load(Ordering::Relaxed);
        let flags = if queued < 0 { 'N' } else { 'x' };
        write!(
            out,
            "id={} addr={} laddr={} name={} age={} idle={} flags={flags} db=0 sub=0 psub=0 \
             ssub=0 multi={queued} cmd={command} user=default redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.address,
            self.local_address,
            String::from_utf8_lossy(&labels.name),
            age_ms / 1000,
            idle_ms / 1000,
            self.protocol.load(Ordering::Relaxed),
            String::from_utf8_lossy(&labels.library_name),
            String::from_utf8_lossy(&labels.library_version),
        )
        .expect("a string takes everything");
    }
}

/// True if `text` may name a client: printable ASCII without spaces, or nothing.
pub fn is_label(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_graphic)
}
