//! The signals that end a process, as futures.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;

/// Listens for SIGINT and SIGTERM from its creation on, so that none is missed between waits.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Starts listening. From now on neither signal ends the process by itself.
    ///
    /// # Errors
    ///
    /// If the system does not let it.
    pub fn listen() -> Result<Signals, Failure> {
        let listen = |kind, name: &str| {
            signal(kind)
                .map_err(|error| Failure::runtime(format!("cannot listen for {name}: {error}")))
        };
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
        })
    }

    /// Waits for the next of them; gives its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
