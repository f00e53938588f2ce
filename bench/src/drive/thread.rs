//! A thread of clients, with a runtime of its own.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::{sleep_until, timeout};

use super::Driven;
use super::arrivals::Due;
use super::client::{BACKLOG_TIMEOUT, Backlog, Client, Local, Shared};
use super::tally::{Seconds, Tally};
use crate::latency::Latencies;
use crate::target::{Session, Target};
use crate::workload::Generator;

/// What a thread does.
pub(super) struct Work {
    pub(super) target: Arc<dyn Target>,
    /// Its clients, by number.
    pub(super) clients: Vec<(usize, Generator)>,
    pub(super) pipeline: usize,
    pub(super) answer_timeout: Duration,
    pub(super) seconds: Arc<Seconds>,
    /// What is due on this thread, in an open loop.
    pub(super) due: Option<Arc<Due>>,
    /// The share of each second in which it stands still.
    pub(super) slowdown: f64,
}

/// What a thread came to: its counts, and when the latest answer came.
pub(super) struct Ended {
    pub(super) driven: Driven,
    pub(super) last_answer: Option<Instant>,
}

/// A thread that has been started.
pub(super) struct Started {
    /// All its clients are connected.
    pub(super) connected: oneshot::Receiver<anyhow::Result<()>>,
    /// Lets them begin.
    pub(super) begin: oneshot::Sender<Arc<Shared>>,
    pub(super) ended: oneshot::Receiver<Ended>,
}

/// Starts thread number `number`.
///
/// # Errors
///
/// If there can be no more threads.
pub(super) fn start(number: usize, work: Work) -> anyhow::Result<Started> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Many answers come at once: looking for more each 61 of them would cost more.
        .event_interval(127)
        .build()?;
    let (tell_connected, connected) = oneshot::channel();
    let (begin, begun) = oneshot::channel();
    let (tell_ended, ended) = oneshot::channel();
    thread::Builder::new()
        .name(format!("clients-{number}"))
        .spawn(move || {
            let run = async {
                let sessions = connect(&work).await;
                let sessions = match sessions {
                    Ok(sessions) => {
                        // Nobody listens only when the drive was given up; then nobody begins it.
                        let _ = tell_connected.send(Ok(()));
                        sessions
                    }
                    Err(error) => {
                        let _ = tell_connected.send(Err(error));
                        return;
                    }
                };
                if let Ok(shared) = begun.await {
                    let _ = tell_ended.send(drive(work, sessions, shared).await);
                }
            };
            LocalSet::new().block_on(&runtime, run);
        })
        .context("no thread for clients")?;
    Ok(Started { connected, begin, ended })
}

async fn connect(work: &Work) -> anyhow::Result<Vec<Box<dyn Session>>> {
    let mut sessions = Vec::with_capacity(work.clients.len());
    for (number, _) in &work.clients {
        let session = work.target.connect(*number).await;
        sessions.push(session.with_context(|| format!("client {number} cannot connect"))?);
    }
    Ok(sessions)
}

async fn drive(work: Work, sessions: Vec<Box<dyn Session>>, shared: Arc<Shared>) -> Ended {
    let local = Rc::new(Local {
        shared: Arc::clone(&shared),
        tally: RefCell::new(Tally::default()),
        last_answer: Cell::new(None),
        backlog: work.due.as_ref().map(|_| Backlog::default()),
    });
    sleep_until(shared.begin.into()).await;
    let seconds = roll_seconds(Rc::clone(&local), Arc::clone(&work.seconds));
    let seconds = spawn_local(seconds);
    let mut background = JoinSet::new();
    if work.slowdown > 0.0 {
        background.spawn_local(stand_still(shared.begin, work.slowdown));
    }
    if let Some(due) = &work.due {
        background.spawn_local(collect_due(Rc::clone(&local), Arc::clone(due)));
    }
    let mut running = JoinSet::new();
    for ((number, generator), session) in work.clients.into_iter().zip(sessions) {
        let client = Client::new(number, session, generator, work.pipeline, Rc::clone(&local));
        running.spawn_local(run_client(client, work.answer_timeout));
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("a client does not panic");
    }
    drop(background);
    if shared.until.is_some() {
        // The last second may end a little later than the last answer came.
        seconds.await.expect("counting does not panic");
    } else {
        seconds.abort();
    }
    let tally = local.tally.take();
    Ended { driven: tally.finish(), last_answer: local.last_answer.get() }
}

async fn run_client(mut client: Client, answer_timeout: Duration) {
    let until = client.until();
    let patience = match until {
        Some(until) => until.saturating_duration_since(Instant::now()) + answer_timeout,
        // Its sessions give up what is not answered; the drive ends when all was asked.
        None => Duration::from_secs(u64::from(u32::MAX)),
    };
    if timeout(patience, poll_fn(|context| client.poll(context))).await.is_err() {
        client.give_up();
    }
}

/// Moves what is due to the backlog and wakes clients for it.
async fn collect_due(local: Rc<Local>, due: Arc<Due>) {
    let backlog = local.backlog.as_ref().expect("it was made for this");
    loop {
        due.changed.notified().await;
        let more = due.take(&mut backlog.moments.borrow_mut());
        backlog.wake();
        if !more {
            break;
        }
    }
    let deadline = local.shared.until.expect("an open loop ends by time") + BACKLOG_TIMEOUT;
    let is_empty = || backlog.moments.borrow().is_empty();
    while !is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
        backlog.wake();
    }
    let left = std::mem::take(&mut *backlog.moments.borrow_mut());
    let counted = left.iter().filter(|moment| **moment >= local.shared.measure_from).count();
    if counted > 0 {
        local.tally.borrow_mut().error("not begun in time".into(), counted as u64);
    }
    backlog.is_complete.set(true);
    backlog.wake();
}

/// Ends each second of the measurement when it is over.
async fn roll_seconds(local: Rc<Local>, seconds: Arc<Seconds>) {
    let mut all = Latencies::new();
    let (from, until) = (local.shared.measure_from, local.shared.until);
    for number in 0.. {
        let end = from + Duration::from_secs(number + 1);
        if until.is_some_and(|until| end > until) {
            return;
        }
        sleep_until(end.into()).await;
        let second = local.tally.borrow_mut().roll(&mut all);
        seconds.ended(number, second, &all);
        all.clear();
    }
}

/// Blocks the thread for a share of each second, at the same moments as all other threads of clients.
async fn stand_still(begin: Instant, share: f64) {
    for number in 0.. {
        sleep_until((begin + Duration::from_secs(number)).into()).await;
        thread::sleep(Duration::from_secs_f64(share));
    }
}
