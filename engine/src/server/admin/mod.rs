//! Admin HTTP: is the node alive, is it ready, what does it count, what does it host.
//!
//! | path | answers |
//! | --- | --- |
//! | `/healthz` | 200 while the process serves; 500 once the node stopped itself |
//! | `/readyz` | 200 when every local shard knows a leader and has applied what is committed; else 503 and which do not |
//! | `/metrics` | Prometheus text format 0.0.4 |
//! | `/status` | what the node hosts, as JSON ([`view`]) |
//!
//! Anything else is 404; methods other than GET and HEAD are 405.
//!
//! Invariants:
//!
//! * Nothing here changes anything: whoever reaches this port can look, not touch.
//! * Gathering metrics runs on a blocking thread and never holds up the lanes.
//! * Connections are few and none is held for idlers, so that probes always find room.
//!
//! What is absent: authentication and TLS. The port belongs on loopback or a trusted network.

mod client;
mod listener;
pub mod view;

pub use client::{Response, get};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::get as route_get;
use axum::{Json, Router};
use prometheus::{Encoder, Registry, TextEncoder};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::listener::LimitedListener;
use self::view::{NodeView, Readiness};

/// How long a stopping server waits for answers under way.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// What this door asks of the node behind it.
pub trait AdminNode: Send + Sync + 'static {
    /// What the node hosts, now.
    fn view(&self) -> NodeView;

    /// Why the node stopped itself; `None` while it works.
    fn failure(&self) -> Option<String>;

    /// The node's metrics.
    fn registry(&self) -> Registry;
}

/// A serving admin port.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl AdminServer {
    /// Serves `node` on `listener` from tasks of the current tokio runtime, until
    /// [`AdminServer::shutdown`].
    ///
    /// # Errors
    ///
    /// If the socket cannot be made non-blocking or its address cannot be read.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(
        listener: std::net::TcpListener,
        node: Arc<dyn AdminNode>,
    ) -> std::io::Result<AdminServer> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = LimitedListener::new(tokio::net::TcpListener::from_std(listener)?);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let serve = axum::serve(listener, routes(node)).with_graceful_shutdown(async move {
                // A dropped sender means the same as a sent word.
                let _ = stopped.await;
            });
            if let Err(error) = serve.await {
                tracing::error!(%error, "the admin server ended");
            }
        });
        Ok(AdminServer { address, stop: Some(stop), task })
    }

    /// Where it listens: with the port that was chosen if port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, answers those under way, and ends; after two seconds regardless.
    pub async fn shutdown(mut self) {
        drop(self.stop.take());
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

fn routes(node: Arc<dyn AdminNode>) -> Router {
    Router::new()
        .route("/healthz", route_get(healthz))
        .route("/readyz", route_get(readyz))
        .route("/metrics", route_get(metrics))
        .route("/status", route_get(status))
        .fallback(not_found)
        .with_state(node)
}

async fn healthz(State(node): State<Arc<dyn AdminNode>>) -> HttpResponse {
    match node.failure() {
        None => (StatusCode::OK, Json(json!({ "healthy": true }))).into_response(),
        Some(reason) => {
            let body = json!({ "healthy": false, "reason": reason });
            (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
        }
    }
}

async fn readyz(State(node): State<Arc<dyn AdminNode>>) -> HttpResponse {
    let readiness = Readiness::of(&node.view(), node.failure());
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(readiness)).into_response()
}

async fn status(State(node): State<Arc<dyn AdminNode>>) -> Json<NodeView> {
    Json(node.view())
}

async fn metrics(State(node): State<Arc<dyn AdminNode>>) -> HttpResponse {
    let registry = node.registry();
    let gathered = tokio::task::spawn_blocking(move || {
        let mut text = Vec::with_capacity(64 << 10);
        TextEncoder::new().encode(&registry.gather(), &mut text).map(|()| text)
    });
    match gathered.await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Ok(Err(error)) => failed(&error.to_string()),
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(reason: &str) -> HttpResponse {
    tracing::error!(reason, "cannot gather metrics");
    (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot gather metrics: {reason}\n"))
        .into_response()
}

async fn not_found() -> HttpResponse {
    let body = json!({
        "error": "not found",
        "paths": ["/healthz", "/readyz", "/metrics", "/status"],
    });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}
