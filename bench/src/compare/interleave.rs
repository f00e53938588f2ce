//! Two builds in turns: A, B, B, A, A, B, … so that what changes slowly changes for both.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::result::Document;

/// How often a running build is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Two builds of this program that measure in turns.
pub struct Interleaved {
    /// The programs, before and after.
    pub builds: [PathBuf; 2],
    /// How often each runs.
    pub rounds: u32,
    /// Arguments of their `run`.
    pub arguments: Vec<String>,
}

impl Interleaved {
    /// Measures with both and returns their documents, each with all its rounds; keeps them below
    /// `out` as well.
    ///
    /// # Errors
    ///
    /// If a build cannot be started, fails otherwise than by errors of single operations, or writes
    /// no document that this program can read.
    pub async fn measure(&self, out: Option<&Path>) -> anyhow::Result<(Document, Document)> {
        let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
        let mut documents: [Option<Document>; 2] = [None, None];
        for round in 1..=self.rounds {
            // Whoever always goes second would always find the disk's caches warm.
            let order = if round % 2 == 1 { [0, 1] } else { [1, 0] };
            for side in order {
                let name = ["a", "b"][side];
                println!("round {round} of {}: {name}", self.rounds);
                let directory = scratch.path().join(format!("{name}-{round}"));
                let mut document = self.measure_once(side, &directory).await?;
                for result in &mut document.results {
                    result.round = round;
                }
                match &mut documents[side] {
                    Some(all) => all.results.append(&mut document.results),
                    none => *none = Some(document),
                }
            }
        }
        let [Some(before), Some(after)] = documents else {
            bail!("there must be a round at least")
        };
        if let Some(out) = out {
            before.write(&out.join("a"))?;
            after.write(&out.join("b"))?;
        }
        Ok((before, after))
    }

    async fn measure_once(&self, side: usize, directory: &Path) -> anyhow::Result<Document> {
        let build = &self.builds[side];
        let mut command = Command::new(build);
        command.arg("run").args(&self.arguments).arg("--out").arg(directory);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let status = Running::start(&mut command)?.wait().await?;
        // 1 may mean that operations failed, which the document tells; without one it means more.
        let document = Document::read(directory);
        match (status.code(), document) {
            (Some(0 | 1), Ok(document)) => Ok(document),
            (_, Ok(_)) => bail!("{} run ended with {status}", build.display()),
            (_, Err(error)) => {
                bail!("{} run ended with {status} and left no result: {error}", build.display())
            }
        }
    }
}

/// A build that runs. Dropped before its end it is asked to stop, and waited for: it has servers to
/// end.
struct Running {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Running {
    fn start(command: &mut Command) -> anyhow::Result<Running> {
        let program = command.get_program().to_owned();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", Path::new(&program).display()))?;
        Ok(Running { child, ended: None })
    }

    async fn wait(mut self) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for a build")? {
                self.ended = Some(status);
                return Ok(status);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        if let Some(process) = Pid::from_raw(self.child.id().cast_signed()) {
            // It may have ended on its own meanwhile.
            let _ = kill_process(process, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::result::sample;

    /// A program that stands for a build: notes that it ran, writes a stored document, and ends with
    /// a code.
    fn build(directory: &Path, name: &str, per_second: f64, code: u8) -> PathBuf {
        let mut document = sample::document();
        document.results[0].per_second_total = per_second;
        document.write(&directory.join(name)).unwrap();
        let (log, stored) = (directory.join("log"), directory.join(name).join("result.json"));
        let script = format!(
            "#!/bin/sh\necho \"{name} $*\" >> '{}'\nwhile [ \"$1\" != --out ]; do shift; done\n\
             mkdir -p \"$2\" && cp '{}' \"$2\"\nexit {code}\n",
            log.display(),
            stored.display()
        );
        let path = directory.join(format!("{name}.sh"));
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn builds_take_turns_and_their_rounds_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let interleaved = Interleaved {
            builds: [build(directory.path(), "a", 100.0, 0), build(directory.path(), "b", 80.0, 1)],
            rounds: 3,
            arguments: vec!["--workload".to_owned(), "c".to_owned()],
        };
        let out = directory.path().join("out");
        let (before, after) = interleaved.measure(Some(&out)).await.unwrap();
        let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
        let order: String = log.lines().filter_map(|line| line.chars().next()).collect();
        assert_eq!(order, "abbaab");
        assert!(log.starts_with("a run --workload c --out "), "{log}");
        let rounds = |document: &Document| -> Vec<u32> {
            document.results.iter().map(|result| result.round).collect()
        };
        assert_eq!((rounds(&before), rounds(&after)), (vec![1, 2, 3], vec![1, 2, 3]));
        assert_eq!(after.results[2].per_second_total, 80.0);
        assert_eq!(Document::read(&out.join("a")).unwrap(), before);
        assert_eq!(Document::read(&out.join("b")).unwrap(), after);
    }

    #[tokio::test]
    async fn a_build_that_fails_ends_the_comparison() {
        let directory = tempfile::tempdir().unwrap();
        let well = build(directory.path(), "a", 100.0, 0);
        let ill = build(directory.path(), "b", 100.0, 2);
        for (build, words) in [
            (ill, "exit status: 2"),
            (PathBuf::from("/bin/true"), "left no result"),
            (directory.path().join("missing"), "cannot start"),
        ] {
            let builds = [well.clone(), build];
            let interleaved = Interleaved { builds, rounds: 1, arguments: Vec::new() };
            let error = interleaved.measure(None).await.unwrap_err();
            assert!(format!("{error:#}").contains(words), "{error:#}");
        }
    }
}
