//! Work that needs a tokio runtime, for callers who may have none.
//!
//! Starting and stopping a node waits for sockets, timers and threads. It happens on a thread of
//! its own with a small runtime, so that the caller's executor, whichever it is, only waits for the
//! result.

use crate::error::Error;
use std::future::Future;
use tokio::sync::oneshot;

/// Runs the future that `make` gives on a thread named `name`. The thread is started by this call,
/// and goes on when the returned future is dropped.
///
/// # Errors
///
/// [`Error::Storage`] when the thread cannot be had, or panicked.
pub(crate) fn on_own_thread<F, T>(
    name: &str,
    make: impl FnOnce() -> F + Send + 'static,
) -> impl Future<Output = Result<T, Error>> + Send + 'static
where
    F: Future<Output = T>,
    T: Send + 'static,
{
    let (done, result) = oneshot::channel();
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let output = match runtime {
            Ok(runtime) => Ok(runtime.block_on(make())),
            Err(error) => Err(Error::Storage(format!("no runtime could be made: {error}"))),
        };
        // Nobody waits for it any more: fine.
        let _ = done.send(output);
    });
    async move {
        started.map_err(|error| Error::Storage(format!("no thread could be started: {error}")))?;
        let panicked =
            |_| Error::Storage("a thread of the engine panicked; see the log".to_owned());
        result.await.map_err(panicked)?
    }
}
