//! A `flotilla` process under test: watched, and never left behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use flotilla::server::admin::{Response, get};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before a test fails. Far more than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// A command with arguments and nothing of this process's `FLOTILLA_` environment.
pub fn flotilla(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flotilla"));
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLOTILLA_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a process that ended had to say.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ended {
    Process::start(command).wait()
}

/// Runs `flotilla` with these arguments to its end.
pub fn run_with(arguments: &[&str]) -> Ended {
    run(&mut flotilla(arguments))
}

/// A running process. Killed when dropped.
pub struct Process {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    said: String,
}

impl Process {
    pub fn start(command: &mut Command) -> Process {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Process { child, stdout, stderr, said: String::new() }
    }

    /// Waits for a line on standard output that `wanted` takes something from.
    pub fn await_line<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stdout.recv_timeout(left) {
                Ok(line) => {
                    self.said.push_str(&line);
                    self.said.push('\n');
                    if let Some(found) = wanted(&line) {
                        return found;
                    }
                }
                Err(_) => panic!(
                    "the line did not come; said:\n{}\nstderr:\n{}",
                    self.said,
                    self.stderr.try_iter().collect::<Vec<_>>().join("\n")
                ),
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// What Linux says of the process.
    #[cfg(target_os = "linux")]
    pub fn system_status(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap()
    }

    /// Waits for the end: the streams close when the process ends, whatever ends it.
    pub fn wait(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let mut rest = |channel: &Receiver<String>| {
            let mut text = String::new();
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                match channel.recv_timeout(left) {
                    Ok(line) => text = text + &line + "\n",
                    Err(RecvTimeoutError::Disconnected) => return text,
                    Err(RecvTimeoutError::Timeout) => {
                        let _ = self.child.kill();
                        panic!("did not end; said:\n{}{text}", self.said)
                    }
                }
            }
        };
        let stdout = rest(&self.stdout);
        let stderr = rest(&self.stderr);
        let status = self.child.wait().unwrap();
        let stdout = std::mem::take(&mut self.said) + &stdout;
        Ended { code: status.code(), stdout, stderr }
    }

    /// Sends a signal and waits for the end.
    pub fn end_by(self, signal: Signal) -> Ended {
        self.signal(signal);
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has ended already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A serving node.
pub struct Node {
    pub process: Process,
    pub resp: String,
    pub admin: String,
}

impl Node {
    /// Starts `flotilla serve` on free ports with these further arguments, and waits until it
    /// serves.
    pub fn serve(data_dir: &std::path::Path, arguments: &[&str]) -> Node {
        let mut process = Process::start(&mut serve(data_dir, arguments));
        let (resp, admin) = process.await_line(|line| {
            let (_, addresses) = line.split_once(" serves: redis ")?;
            let (resp, admin) = addresses.split_once(" admin http://")?;
            Some((resp.to_owned(), admin.to_owned()))
        });
        Node { process, resp, admin }
    }

    pub fn get(&self, path: &str) -> Response {
        get(&self.admin, path, PATIENCE).unwrap()
    }

    /// Polls until the node says that it is ready.
    pub fn await_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let response = self.get("/readyz");
            if response.code == 200 {
                return;
            }
            let body = String::from_utf8_lossy(&response.body).into_owned();
            assert!(Instant::now() < deadline, "not ready: {body}");
            // Nothing announces readiness but the answer to the question.
            std::thread::park_timeout(POLL);
        }
    }

    /// Sends one inline command and gives the lines of its answer that hold its payload.
    pub fn redis(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(&self.resp).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{command}\r\nQUIT\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.strip_suffix("+OK\r\n").unwrap_or(&answer).to_owned()
    }
}

/// `flotilla serve` on free ports with these further arguments, not started.
pub fn serve(data_dir: &std::path::Path, arguments: &[&str]) -> Command {
    let data_dir = data_dir.to_str().unwrap();
    let mut command = flotilla(&["serve", "--data-dir", data_dir]);
    for (flag, value) in [("--resp-addr", "127.0.0.1:0"), ("--admin-addr", "127.0.0.1:0")] {
        if !arguments.contains(&flag) {
            command.args([flag, value]);
        }
    }
    command.args(arguments);
    command
}

/// Addresses that were free a moment ago.
pub fn free_addresses<const COUNT: usize>() -> [String; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().to_string())
}
