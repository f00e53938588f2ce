//! Throughput of the engine inside this process, through its public API.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use clap::Args;
use flotilla::Engine;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::cpu::own_cpu_time;
use crate::keys::KeyFormat;
use crate::latency::{Latencies, head, micros_per_operation, row};

/// Arguments of `embedded`.
#[derive(Clone, Debug, Args)]
pub struct EmbeddedArgs {
    /// How many tasks, each with one call under way.
    #[arg(long, default_value_t = 256)]
    pub tasks: usize,
    /// Seconds of writing, and then of reading.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// How many replicas, all in this process.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub replicas: u64,
    /// How many shards. By default one, as `Engine::open` makes it.
    #[arg(long)]
    pub shards: Option<u32>,
    /// How many keys of 16 bytes.
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    /// Where the data directory is made; it vanishes at the end. By default the system's place for
    /// temporary files, which may be memory.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Runs `embedded`. Returns false if a call failed.
///
/// # Errors
///
/// If the engine does not open or close.
pub async fn run(args: &EmbeddedArgs) -> anyhow::Result<bool> {
    if args.tasks == 0 || args.keys == 0 {
        bail!("--tasks and --keys must be 1 or more");
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix("flotilla-bench-");
    let directory = match &args.dir {
        Some(parent) => builder.tempdir_in(parent),
        None => builder.tempdir(),
    };
    let directory = directory.context("cannot make a data directory")?;
    let engine = open(args, directory.path().to_owned()).await?;
    println!(
        "{} tasks, {} replicas in this process, {} keys of 16 B, values of {} B, in {}",
        args.tasks,
        args.replicas,
        args.keys,
        args.value_size,
        directory.path().display()
    );
    let loader = Loader {
        engine: engine.clone(),
        keys: args.keys,
        value: Bytes::from(vec![0x5a; args.value_size]),
        taken: Arc::new(AtomicU64::new(0)),
    };
    let filled = loader.phase(args.tasks, Work::Fill, None).await?;
    println!(
        "filled with {} keys in {:.2} s",
        filled.latencies.count(),
        filled.elapsed.as_secs_f64()
    );
    println!("{}{:>17}{:>9}", head(), "CPU µs/operation", "errors");
    let duration = Some(Duration::from_secs(args.seconds));
    let put = loader.phase(args.tasks, Work::Put, duration).await?;
    put.print("put");
    let get = loader.phase(args.tasks, Work::Get, duration).await?;
    get.print("get");
    println!("CPU of the whole process: engine, replicas, and the tasks that call");
    engine.shutdown().await.context("the engine does not close")?;
    let problems = [filled, put, get].iter().filter_map(|phase| phase.problem.clone()).next();
    if let Some(problem) = &problems {
        println!("the first error: {problem}");
    }
    Ok(problems.is_none())
}

async fn open(args: &EmbeddedArgs, directory: PathBuf) -> anyhow::Result<Engine> {
    if args.replicas == 1 && args.shards.is_none() {
        return Engine::open(directory).await.context("the engine does not open");
    }
    let mut builder = Engine::builder(directory).replicas(args.replicas);
    if let Some(shards) = args.shards {
        builder = builder.shards(shards);
    }
    builder.start().await.context("the engine does not open")
}

/// What a phase does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Puts each key once.
    Fill,
    /// Puts keys at random.
    Put,
    /// Gets keys at random; each must be there.
    Get,
}

#[derive(Clone)]
struct Loader {
    engine: Engine,
    keys: u64,
    value: Bytes,
    taken: Arc<AtomicU64>,
}

/// What a phase came to.
struct Phase {
    latencies: Latencies,
    elapsed: Duration,
    cpu: Duration,
    errors: u64,
    problem: Option<String>,
}

impl Phase {
    fn print(&self, name: &str) {
        let summary = self.latencies.summary();
        let micros = micros_per_operation(self.cpu, summary.operations);
        println!("{}{micros:>17.1}{:>9}", row(name, &summary, self.elapsed), self.errors);
    }
}

impl Loader {
    async fn phase(
        &self,
        tasks: usize,
        work: Work,
        duration: Option<Duration>,
    ) -> anyhow::Result<Phase> {
        self.taken.store(0, Ordering::Relaxed);
        let (started, cpu) = (Instant::now(), own_cpu_time()?);
        let deadline = duration.map(|duration| started + duration);
        let running: Vec<_> = (0..tasks)
            .map(|task| tokio::spawn(self.clone().work(task as u64, work, deadline)))
            .collect();
        let mut ended = Vec::with_capacity(tasks);
        for task in running {
            ended.push(task.await.context("a task failed")?);
        }
        let mut phase = Phase {
            latencies: Latencies::new(),
            elapsed: started.elapsed(),
            cpu: own_cpu_time()?.saturating_sub(cpu),
            errors: 0,
            problem: None,
        };
        // After the clock was read: filling a histogram is no work of the engine's.
        for (latencies, problem, errors) in ended {
            for latency in latencies {
                phase.latencies.record(latency);
            }
            phase.errors += errors;
            phase.problem = phase.problem.or(problem);
        }
        Ok(phase)
    }

    async fn work(
        self,
        task: u64,
        work: Work,
        deadline: Option<Instant>,
    ) -> (Vec<Duration>, Option<String>, u64) {
        let mut random = SmallRng::seed_from_u64(task);
        let mut key = BytesMut::new();
        let (mut latencies, mut problem, mut errors) = (Vec::new(), None, 0);
        loop {
            let number = match work {
                Work::Fill => self.taken.fetch_add(1, Ordering::Relaxed),
                Work::Put | Work::Get => random.random_range(0..self.keys),
            };
            let begin = Instant::now();
            if number >= self.keys || deadline.is_some_and(|deadline| begin >= deadline) {
                return (latencies, problem, errors);
            }
            KeyFormat::Spread.write(number, &mut key);
            let result = match work {
                Work::Get => match self.engine.get(&key).await {
                    Ok(Some(_)) => Ok(()),
                    Ok(None) => Err(format!("key {number} is not there")),
                    Err(error) => Err(error.to_string()),
                },
                Work::Fill | Work::Put => {
                    let key = Bytes::copy_from_slice(&key);
                    let put = self.engine.put_bytes(key, self.value.clone()).await;
                    put.map(|_| ()).map_err(|error| error.to_string())
                }
            };
            match result {
                Ok(()) => latencies.push(begin.elapsed()),
                Err(text) => {
                    errors += 1;
                    problem = problem.or(Some(text));
                }
            }
        }
    }
}
