//! A server program of somebody else, started for one run.
//!
//! Invariants:
//!
//! * Only processes that this started are signalled, by their ids, and none of them is left when a
//!   [`Daemon`] is dropped.
//! * What a program says goes into a file beside its data; the end of it is in every error.

use std::fs::{self, File};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long a program may take until it answers.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two questions whether it does.
const PAUSE: Duration = Duration::from_millis(50);

/// How much of a log is shown when its program failed.
const LOG_LINES_SHOWN: usize = 15;

/// Where programs are looked for besides the `PATH`: Debian puts servers there.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// The file of `program`, if it is installed.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path);
    let directories = directories.chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from));
    directories.map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// A running server program.
pub(super) struct Daemon {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Daemon {
    /// Starts `program` with `arguments`, in `directory`, which is made. `name` is that of its log
    /// beside it.
    pub(super) fn spawn(
        program: &Path,
        arguments: &[String],
        directory: &Path,
        name: &str,
    ) -> anyhow::Result<Daemon> {
        fs::create_dir_all(directory)?;
        let log = directory.with_file_name(format!("{name}.log"));
        let output =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        // These programs take settings from variables too. A run must not depend on them.
        let foreign = |name: &str| ["ETCD_", "GO", "NATS_"].iter().any(|own| name.starts_with(own));
        for (variable, _) in std::env::vars_os() {
            if variable.to_str().is_none_or(foreign) {
                command.env_remove(variable);
            }
        }
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Daemon { name: name.to_owned(), log, child })
    }

    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// An error, with the end of its log, if it has ended.
    pub(super) fn assert_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}\n{}", self.name, self.log_end()),
        }
    }

    fn log_end(&self) -> String {
        let log = match fs::read(&self.log) {
            Ok(log) => String::from_utf8_lossy(&log).into_owned(),
            Err(error) => return format!("{}: {error}", self.log.display()),
        };
        let lines: Vec<&str> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("the end of {}:\n{}", self.log.display(), shown.join("\n"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An error means that it is gone already, which is what is wanted. Its directory is fresh
        // and vanishes, so that nothing is lost without an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks `open` again and again until it succeeds, while all of `daemons` live.
pub(super) async fn wait_open<T, F>(
    daemons: &mut [Daemon],
    mut open: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        for daemon in daemons.iter_mut() {
            daemon.assert_alive()?;
        }
        let error = match open().await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            let ends: Vec<String> = daemons.iter().map(Daemon::log_end).collect();
            return Err(
                error.context(format!("not ready within {READY_TIMEOUT:?}\n{}", ends.join("\n")))
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(directory: &Path, script: &str) -> Daemon {
        let arguments = ["-c".to_owned(), script.to_owned()];
        Daemon::spawn(&find("sh").unwrap(), &arguments, &directory.join("data"), "shell").unwrap()
    }

    #[tokio::test]
    async fn a_program_that_ends_is_told_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let mut daemons = [shell(directory.path(), "echo no port; exit 3")];
        let opened: anyhow::Result<()> =
            wait_open(&mut daemons, || async { anyhow::bail!("refused") }).await;
        let error = format!("{:#}", opened.unwrap_err());
        assert!(error.contains("no port") && error.contains("exit status: 3"), "{error}");
    }

    #[tokio::test]
    async fn a_dropped_program_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let mut daemon = [shell(directory.path(), "sleep 600")];
        let process = wait_open(&mut daemon, || async { Ok(1) }).await.map(|_| daemon[0].process());
        let status = format!("/proc/{}/status", process.unwrap());
        assert!(Path::new(&status).exists());
        drop(daemon);
        assert!(!Path::new(&status).exists());
    }

    #[test]
    fn what_is_not_installed_is_not_found() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-anywhere"), None);
    }
}
