//! One server process.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::wait;

/// How much of a log is shown when its process failed.
const LOG_LINES_SHOWN: usize = 20;

/// Where a server listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For its peers.
    pub peer: SocketAddr,
    /// For Redis clients.
    pub resp: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
}

/// A server that runs, ran, or will run.
pub struct Server {
    pub(super) id: u64,
    binary: PathBuf,
    arguments: Vec<String>,
    pub(super) addresses: Addresses,
    /// A program and arguments that become the server; empty: it is started itself.
    wrapper: Vec<String>,
    pub(super) data_directory: PathBuf,
    pub(super) log: PathBuf,
    child: Option<Child>,
}

impl Server {
    pub(super) fn new(
        id: u64,
        binary: PathBuf,
        arguments: Vec<String>,
        addresses: Addresses,
        data_directory: PathBuf,
        log: PathBuf,
    ) -> Server {
        let wrapper = Vec::new();
        Server { id, binary, arguments, addresses, wrapper, data_directory, log, child: None }
    }

    pub(super) fn wrapped(mut self, wrapper: Vec<String>) -> Server {
        self.wrapper = wrapper;
        self
    }

    /// True between [`Server::spawn`] and the end that this harness gave it.
    pub(super) fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// The id of its process while it is started.
    pub(super) fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(super) fn spawn(&mut self) -> anyhow::Result<()> {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = match self.wrapper.split_first() {
            None => Command::new(&self.binary),
            Some((wrapper, arguments)) => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(&self.binary);
                command
            }
        };
        let child = command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Sends SIGKILL and does not wait.
    pub(super) fn send_kill(&mut self) {
        if let Some(child) = &mut self.child {
            // An error means that it is gone already, which is what is wanted.
            let _ = child.kill();
        }
    }

    /// Kills it, and waits until the kernel has taken it away.
    pub(super) fn kill(&mut self) {
        self.send_kill();
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Sends SIGTERM and waits for its end.
    pub(super) async fn terminate(&mut self, timeout: Duration) -> anyhow::Result<()> {
        if !self.is_started() {
            return Ok(());
        }
        self.send(Signal::TERM)?;
        let Some(child) = &mut self.child else { return Ok(()) };
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return match status.success() {
                    true => Ok(()),
                    false => bail!("node {} stopped with {status}\n{}", self.id, self.log_end()),
                };
            }
            if Instant::now() >= deadline {
                bail!("node {} does not stop within {timeout:?}\n{}", self.id, self.log_end());
            }
            wait::pause().await;
        }
    }

    /// Sends a signal to its process, which runs.
    pub(super) fn send(&self, signal: Signal) -> anyhow::Result<()> {
        let process = self.process().with_context(|| format!("node {} does not run", self.id))?;
        let process = i32::try_from(process).ok().and_then(Pid::from_raw);
        kill_process(process.context("a process id is a positive number")?, signal)?;
        Ok(())
    }

    /// How it ended, if it has ended by itself since it was started.
    pub(super) fn take_end(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    pub(super) async fn is_ready(&self) -> bool {
        matches!(wait::get(self.addresses.admin, "/readyz").await, Ok((200, _)))
    }

    pub(super) async fn wait_ready(&mut self, deadline: Instant) -> anyhow::Result<()> {
        loop {
            self.assert_alive()?;
            let answer = wait::get(self.addresses.admin, "/readyz").await;
            if matches!(answer, Ok((200, _))) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let last = match answer {
                    Ok((code, body)) => format!("{code} {}", String::from_utf8_lossy(&body)),
                    Err(error) => format!("{error:#}"),
                };
                bail!("node {} is not ready in time: {last}\n{}", self.id, self.log_end());
            }
            wait::pause().await;
        }
    }

    pub(super) fn assert_alive(&mut self) -> anyhow::Result<()> {
        if !self.is_started() {
            bail!("node {} does not run", self.id);
        }
        match self.take_end()? {
            None => Ok(()),
            Some(status) => bail!("node {} ended with {status}\n{}", self.id, self.log_end()),
        }
    }

    pub(super) fn log_end(&self) -> String {
        let log = match fs::read(&self.log) {
            Ok(log) => String::from_utf8_lossy(&log).into_owned(),
            Err(error) => return format!("{}: {error}", self.log.display()),
        };
        let lines: Vec<&str> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("the end of its log:\n{}", shown.join("\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
