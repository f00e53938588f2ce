//! System calls of a process that fail or take long: strace, attached for a while.
//!
//! Invariants:
//!
//! * A tracer is attached when [`Tracer::attach`] returns, and gone when it is dropped; the process
//!   goes on as if it had never been traced.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long attaching to all threads of a process may take.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// An strace at work.
pub struct Tracer {
    child: Child,
}

impl Tracer {
    /// Lets the system calls of `process` go as `inject` says, in strace's words:
    /// `fdatasync:error=EIO`.
    ///
    /// # Errors
    ///
    /// If there is no strace, or it may not or cannot attach.
    pub async fn attach(process: u32, inject: &str) -> anyhow::Result<Tracer> {
        let call = inject.split(':').next().unwrap_or_default();
        let child = Command::new("strace")
            .args(["-qq", "-f", "-o", "/dev/null", "-p", &process.to_string()])
            .args(["-e", &format!("trace={call}"), "-e", &format!("inject={inject}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start strace")?;
        let mut tracer = Tracer { child };
        let deadline = Instant::now() + ATTACH_TIMEOUT;
        while !is_traced_by(process, tracer.child.id()) {
            if let Some(status) = tracer.child.try_wait()? {
                let mut said = String::new();
                if let Some(stderr) = &mut tracer.child.stderr {
                    std::io::Read::read_to_string(stderr, &mut said)?;
                }
                bail!("strace ended with {status}: {}", said.trim());
            }
            if Instant::now() >= deadline {
                bail!("strace does not attach to process {process}");
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(tracer)
    }

    /// Says why system calls cannot be made to fail here.
    ///
    /// # Errors
    ///
    /// The reason.
    pub async fn probe() -> anyhow::Result<()> {
        let subject = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn();
        let mut subject = subject.context("cannot start a process to trace")?;
        let attached = Tracer::attach(subject.id(), "fdatasync:error=EIO").await;
        // An error means that it is gone already, which is what is wanted.
        let _ = (subject.kill(), subject.wait());
        attached.map(drop)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SIGTERM lets it detach; after SIGKILL it could leave threads stopped.
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(process) = process
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = kill_process(process, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// True if every thread of `process` is traced by `tracer`.
fn is_traced_by(process: u32, tracer: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return false };
    let expected = format!("TracerPid:\t{tracer}");
    let mut traced = threads.flatten().map(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line == expected)
    });
    traced.all(|traced| traced)
}
