//! What processes consume while a load runs: CPU time, memory, and bytes on their disk.
//!
//! Invariants:
//!
//! * A process that ends meanwhile makes the measurement an error: what it consumed is gone with
//!   it, and a sum without it would flatter.
//! * What cannot be told apart or looked up is `None`, with a note that says so.
//!
//! CPU time is counted by the kernel in ticks, usually of 10 ms: measure for seconds.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::device::Device;
use crate::cpu::{ProcessTimes, own_cpu_time, process_times};
use crate::latency::micros_per_operation;
use crate::result::Cost;
use crate::sampling::resident_bytes;

/// How often memory is looked at. Reading it walks no page tables, and costs microseconds.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);

/// Why consumption could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A process is not there, or ended while it was measured.
    #[error("the process {process} ended while it was measured: {reason}")]
    Ended {
        /// Which.
        process: u32,
        /// How that was noticed.
        reason: String,
    },
    /// What the system says of the harness itself cannot be read.
    #[error("cannot measure this program's own CPU time: {0:#}")]
    Own(anyhow::Error),
    /// A thread could not be started, or failed.
    #[error("cannot sample memory: {0}")]
    Sampler(String),
}

/// Counts from [`Meter::start`] to [`Meter::stop`].
pub struct Meter {
    started: Instant,
    own: Duration,
    processes: Vec<Baseline>,
    device: Option<(Device, u64)>,
    sampler: Option<Sampler>,
}

/// What one process had consumed at the start.
struct Baseline {
    process: u32,
    times: ProcessTimes,
}

/// What was consumed between start and stop.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// How long that was.
    pub elapsed: Duration,
    /// CPU time of all servers together.
    pub server_cpu: Option<Duration>,
    /// CPU time of the harness.
    pub client_cpu: Option<Duration>,
    /// Both.
    pub total_cpu: Option<Duration>,
    /// Bytes that arrived at the device of the servers' data, from everybody, in whole blocks.
    pub written_bytes: Option<u64>,
    /// The most memory that was resident in all servers together.
    pub resident_bytes_max: Option<u64>,
    /// What a reader must know of these figures, in sentences.
    pub notes: Vec<String>,
}

impl Usage {
    /// The cost of `operations` successes that wrote `logical_bytes` of keys and values.
    pub fn cost(&self, operations: u64, logical_bytes: u64) -> Cost {
        let each = |cpu: Option<Duration>| {
            let cpu = cpu.filter(|_| operations > 0);
            cpu.map(|cpu| micros_per_operation(cpu, operations))
        };
        let written = self.written_bytes.filter(|_| logical_bytes > 0);
        Cost {
            server_cpu_us_per_op: each(self.server_cpu),
            client_cpu_us_per_op: each(self.client_cpu),
            total_cpu_us_per_op: each(self.total_cpu),
            written_bytes_per_logical_byte: written
                .map(|bytes| bytes as f64 / logical_bytes as f64),
            resident_bytes_max: self.resident_bytes_max,
        }
    }
}

impl Meter {
    /// Begins to count for the servers' `processes` (none: they are not known) and for this one, and
    /// what is written to `device`, where their data is.
    ///
    /// # Errors
    ///
    /// If one of them is not there.
    pub fn start(processes: &[u32], device: Option<&Device>) -> Result<Meter, MeasureError> {
        let processes: Vec<Baseline> =
            processes.iter().map(|process| Baseline::take(*process)).collect::<Result<_, _>>()?;
        let sampler = match processes.is_empty() {
            true => None,
            false => Some(Sampler::start(processes.iter().map(|base| base.process).collect())?),
        };
        let own = own_cpu_time().map_err(MeasureError::Own)?;
        let device = device.filter(|_| !processes.is_empty());
        let device = device.and_then(|device| Some((device.clone(), device.written_bytes()?)));
        Ok(Meter { started: Instant::now(), own, processes, device, sampler })
    }

    /// Ends the count.
    ///
    /// # Errors
    ///
    /// If one of the processes ended since the start.
    pub fn stop(self) -> Result<Usage, MeasureError> {
        let elapsed = self.started.elapsed();
        let own = own_cpu_time().map_err(MeasureError::Own)?.saturating_sub(self.own);
        let mut servers = Duration::ZERO;
        for baseline in &self.processes {
            servers += baseline.cpu_since()?;
        }
        let written_bytes = self.device.and_then(|(device, before)| {
            device.written_bytes().map(|now| now.saturating_sub(before))
        });
        let resident_bytes_max = self.sampler.map(Sampler::stop).transpose()?;
        let mut usage = Usage { elapsed, resident_bytes_max, written_bytes, ..Usage::default() };
        let mut note = |text: &str| usage.notes.push(text.to_owned());
        if self.processes.is_empty() {
            note(
                "The servers' processes are not known here, so their CPU time, memory and written \
                  bytes were not measured.",
            );
            usage.client_cpu = Some(own);
        } else if self.processes.iter().any(|base| base.process == std::process::id()) {
            note(
                "The store ran in the process of the harness: its CPU time cannot be told from \
                  that of the load, and memory is that of both.",
            );
            let others = servers.saturating_sub(own);
            usage.total_cpu = Some(own + others);
        } else {
            (usage.server_cpu, usage.client_cpu) = (Some(servers), Some(own));
            usage.total_cpu = Some(servers + own);
        }
        if usage.written_bytes.is_none() && !self.processes.is_empty() {
            usage.notes.push(
                "Written bytes are not known: the directory of the data has no device of its own \
                 that counts them."
                    .to_owned(),
            );
        }
        Ok(usage)
    }
}

impl Baseline {
    fn take(process: u32) -> Result<Baseline, MeasureError> {
        let times = process_times(process).map_err(|error| ended(process, &error))?;
        if times.has_ended {
            return Err(MeasureError::Ended {
                process,
                reason: "only its name is left".to_owned(),
            });
        }
        Ok(Baseline { process, times })
    }

    /// CPU time since then.
    fn cpu_since(&self) -> Result<Duration, MeasureError> {
        let now = Baseline::take(self.process)?;
        if now.times.started_ticks != self.times.started_ticks {
            let reason = "another process has its number now".to_owned();
            return Err(MeasureError::Ended { process: self.process, reason });
        }
        Ok(now.times.cpu.saturating_sub(self.times.cpu))
    }
}

fn ended(process: u32, error: &anyhow::Error) -> MeasureError {
    MeasureError::Ended { process, reason: format!("{error:#}") }
}

/// A thread that looks at memory now and then.
struct Sampler {
    stop: Sender<()>,
    thread: JoinHandle<Result<u64, MeasureError>>,
}

impl Sampler {
    fn start(processes: Vec<u32>) -> Result<Sampler, MeasureError> {
        let (stop, stopped) = mpsc::channel();
        let sample = move || {
            let mut bytes_max = 0;
            loop {
                let mut bytes = 0;
                for process in &processes {
                    bytes += resident_bytes(*process).map_err(|error| ended(*process, &error))?;
                }
                bytes_max = bytes_max.max(bytes);
                match stopped.recv_timeout(SAMPLE_INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(bytes_max),
                }
            }
        };
        let thread = thread::Builder::new().name("memory-sampler".to_owned()).spawn(sample);
        let thread = thread.map_err(|error| MeasureError::Sampler(error.to_string()))?;
        Ok(Sampler { stop, thread })
    }

    fn stop(self) -> Result<u64, MeasureError> {
        // Nobody listens when it has already ended, with an error that is told below.
        let _ = self.stop.send(());
        let ended = self.thread.join();
        ended.unwrap_or_else(|_| Err(MeasureError::Sampler("its thread panicked".to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Child, Command, Stdio};

    /// A shell that does what it is told, line by line.
    fn shell() -> Child {
        Command::new("sh").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn tell(shell: &mut Child, line: &str) {
        use std::io::{BufRead as _, BufReader};
        writeln!(shell.stdin.as_mut().unwrap(), "{line}; echo done").unwrap();
        let mut answer = String::new();
        BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), "done");
    }

    #[test]
    fn another_process_is_measured_apart_from_this_one() {
        let mut server = shell();
        let meter = Meter::start(&[server.id()], None).unwrap();
        tell(&mut server, "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done");
        let usage = meter.stop().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        let (servers, client) = (usage.server_cpu.unwrap(), usage.client_cpu.unwrap());
        assert!(servers >= Duration::from_millis(50), "{usage:?}");
        assert_eq!(usage.total_cpu, Some(servers + client));
        assert!(usage.resident_bytes_max.unwrap() > 100_000 && usage.notes.len() == 1, "{usage:?}");
        let cost = usage.cost(1_000, 0);
        assert_eq!(cost.server_cpu_us_per_op, Some(servers.as_secs_f64() * 1_000.0));
        assert_eq!(cost.written_bytes_per_logical_byte, None);
        assert_eq!(usage.cost(0, 0).server_cpu_us_per_op, None);
    }

    #[test]
    fn a_process_that_ends_meanwhile_is_an_error() {
        let mut server = shell();
        let meter = Meter::start(&[server.id()], None).unwrap();
        // Not waited for yet: the kernel keeps its number and its CPU time, and nothing else.
        server.kill().unwrap();
        while !process_times(server.id()).unwrap().has_ended {
            thread::yield_now();
        }
        let error = meter.stop().unwrap_err().to_string();
        assert!(error.contains(&server.id().to_string()) && error.contains("ended"), "{error}");
        assert!(Meter::start(&[server.id()], None).is_err());
        server.wait().unwrap();
        assert!(matches!(Meter::start(&[server.id()], None), Err(MeasureError::Ended { .. })));
    }

    #[test]
    fn a_store_in_this_process_is_not_told_from_its_load() {
        let directory = tempfile::tempdir().unwrap();
        let device = Device::below(directory.path());
        let meter = Meter::start(&[std::process::id()], device.as_ref()).unwrap();
        let mut file = std::fs::File::create(directory.path().join("file")).unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        let usage = meter.stop().unwrap();
        assert_eq!((usage.server_cpu, usage.client_cpu), (None, None));
        assert!(
            usage.total_cpu.is_some() && usage.notes[0].contains("cannot be told"),
            "{usage:?}"
        );
        // What is kept in memory has no device.
        assert_eq!(usage.written_bytes.is_some(), device.is_some());
        assert!(usage.written_bytes.is_none_or(|bytes| bytes >= 1 << 20), "{usage:?}");
    }

    #[test]
    fn servers_elsewhere_are_not_measured() {
        let usage = Meter::start(&[], None).unwrap().stop().unwrap();
        assert_eq!((usage.server_cpu, usage.resident_bytes_max), (None, None));
        assert!(usage.client_cpu.is_some() && usage.notes[0].contains("not known"), "{usage:?}");
    }
}
