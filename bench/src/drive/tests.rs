//! The driver against a store of this file, which answers as it is told.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::*;
use crate::target::{
    BoxFuture, Completion, Description, Operation, OperationKind, Outcome, Session, Target,
};
use crate::workload::{Distribution, ValueName, Workload};

/// A store in memory that answers in order, each operation after a time of its own.
#[derive(Clone)]
struct Store {
    rows: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    answers: Answers,
    in_flight_max: Arc<AtomicUsize>,
    stall: Option<(Instant, Instant)>,
}

#[derive(Clone, Copy)]
enum Answers {
    Well,
    /// Every so many operations one is refused, and one is lost.
    Badly,
    Never,
}

impl Store {
    fn new(answers: Answers) -> Store {
        Store { rows: Arc::default(), answers, in_flight_max: Arc::default(), stall: None }
    }

    fn target(&self) -> Arc<dyn Target> {
        Arc::new(self.clone())
    }
}

impl Target for Store {
    fn describe(&self) -> Description {
        Description { name: "test".to_owned(), ..Description::default() }
    }

    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }

    fn takes_batches(&self) -> bool {
        true
    }

    fn connect<'a>(&'a self, _client: usize) -> BoxFuture<'a, anyhow::Result<Box<dyn Session>>> {
        let timer = Box::pin(tokio::time::sleep_until(tokio::time::Instant::now()));
        let session = StoreSession { store: self.clone(), queue: VecDeque::new(), timer, count: 0 };
        Box::pin(async { Ok(Box::new(session) as Box<dyn Session>) })
    }
}

struct StoreSession {
    store: Store,
    queue: VecDeque<(u64, Operation)>,
    timer: Pin<Box<tokio::time::Sleep>>,
    count: u64,
}

impl StoreSession {
    fn answer(&mut self, operation: Operation) -> Outcome {
        self.count += 1;
        if matches!(self.store.answers, Answers::Badly) {
            match self.count % 10 {
                3 => return Outcome::NoEffect("BUSY".into()),
                7 => return Outcome::lost(operation.is_write(), "lost"),
                _ => {}
            }
        }
        let mut rows = self.store.rows.lock().unwrap();
        let mut put = |key: &[u8], value: &[u8]| rows.insert(key.to_vec(), value.to_vec());
        match operation {
            Operation::Put { key, value } => {
                put(&key, &value);
                Outcome::WRITTEN
            }
            Operation::PutMany { pairs } => {
                pairs.iter().for_each(|(key, value)| drop(put(key, value)));
                Outcome::WRITTEN
            }
            Operation::Get { key } => {
                Outcome::read(rows.get(&key[..]).map(|value| value.clone().into()))
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Session for StoreSession {
    fn submit(&mut self, tag: u64, operation: Operation) {
        self.queue.push_back((tag, operation));
        self.store.in_flight_max.fetch_max(self.queue.len(), Ordering::Relaxed);
    }

    fn poll(&mut self, context: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        if matches!(self.store.answers, Answers::Never) || self.queue.is_empty() {
            return Poll::Pending;
        }
        if let Some((from, until)) = self.store.stall
            && (from..until).contains(&Instant::now())
        {
            self.timer.as_mut().reset(until.into());
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
        while let Some((tag, operation)) = self.queue.pop_front() {
            let outcome = self.answer(operation);
            done.push(Completion { tag, outcome });
        }
        Poll::Ready(())
    }
}

fn workload(name: &str) -> Workload {
    Workload { keys: 1_000, value_bytes: 100, ..Workload::named(name).unwrap() }
}

#[tokio::test]
async fn each_key_is_put_once_and_every_value_differs() {
    let store = Store::new(Answers::Well);
    let options = DriveOptions {
        clients: 7,
        pipeline: 3,
        threads: 2,
        end: End::EachKeyOnce,
        ..DriveOptions::default()
    };
    let driven = drive(&store.target(), &workload("a"), &options).await.unwrap();
    assert_eq!(driven.per_operation[&OperationKind::Put].count(), 1_000);
    assert_eq!(driven.user_bytes_written, 116_000);
    assert!(driven.is_clean());
    let rows = store.rows.lock().unwrap();
    assert_eq!(rows.len(), 1_000);
    let names: std::collections::BTreeSet<_> =
        rows.values().map(|value| ValueName::of(value)).collect();
    assert_eq!(names.len(), 1_000);
    assert_eq!(store.in_flight_max.load(Ordering::Relaxed), 3, "the pipeline is filled");
}

#[tokio::test]
async fn many_keys_can_go_in_one_put() {
    let store = Store::new(Answers::Well);
    let options = DriveOptions { batch: 16, end: End::EachKeyOnce, ..DriveOptions::default() };
    let driven = drive(&store.target(), &workload("put"), &options).await.unwrap();
    assert_eq!(driven.operations(), 1_000, "a key is an operation");
    assert_eq!(store.rows.lock().unwrap().len(), 1_000);
}

#[tokio::test]
async fn operations_end_the_drive_and_refusals_and_doubts_are_counted_apart() {
    let store = Store::new(Answers::Badly);
    let options =
        DriveOptions { clients: 1, end: End::Operations(1_000), ..DriveOptions::default() };
    let driven = drive(&store.target(), &workload("put"), &options).await.unwrap();
    assert_eq!(driven.operations(), 800);
    assert_eq!(driven.errors["BUSY"], 100);
    assert_eq!(driven.unknown["lost"], 100);
    let driven = drive(&store.target(), &workload("c"), &options).await.unwrap();
    assert_eq!(driven.errors["lost"], 100, "a lost read had no effect");
    assert!(driven.unknown.is_empty());
}

#[tokio::test]
async fn closed_loop_counts_seconds_and_leaves_warming_up_out() {
    let store = Store::new(Answers::Well);
    let options = DriveOptions {
        clients: 2,
        threads: 2,
        warmup: Duration::from_millis(300),
        end: End::After(Duration::from_secs(2)),
        ..DriveOptions::default()
    };
    let driver = Driver::start(&store.target(), &workload("c"), &options).await.unwrap();
    let measure_from = driver.measure_from();
    driver.warmed_up().await;
    assert!(Instant::now() >= measure_from);
    let driven = driver.finish().await.unwrap();
    assert_eq!(driven.series.len(), 2);
    let in_series: u64 = driven.series.iter().map(|second| second.operations).sum();
    assert!(in_series <= driven.operations());
    assert!(driven.series.iter().all(|second| second.operations > 0 && second.p99_ms > 0.0));
    assert!(driven.misses > 0, "nothing was filled");
    assert!((1.9..3.0).contains(&driven.elapsed.as_secs_f64()), "{:?}", driven.elapsed);
}

#[tokio::test]
async fn a_stall_counts_for_all_that_were_due_in_an_open_loop() {
    let begin = Instant::now();
    let mut store = Store::new(Answers::Well);
    // From half a second to a whole one after the beginning nobody is answered.
    store.stall = Some((begin + Duration::from_millis(500), begin + Duration::from_millis(1_000)));
    let options = DriveOptions {
        clients: 4,
        rate: Some(1_000.0),
        spacing: Spacing::Even,
        end: End::After(Duration::from_millis(1_500)),
        ..DriveOptions::default()
    };
    let driven = drive(&store.target(), &workload("put"), &options).await.unwrap();
    let puts = &driven.per_operation[&OperationKind::Put];
    assert!((1_490..=1_500).contains(&puts.count()), "{}", puts.count());
    // A third was due in the stall and waited a quarter of a second on average, though only four
    // were under way at a time.
    let waited = puts.histogram().count_between(50_000_000, u64::MAX);
    assert!((400..=520).contains(&waited), "{waited}");
    assert!(puts.quantile_ms(0.99) > 400.0);
}

#[tokio::test]
async fn what_is_not_begun_in_time_is_an_error_and_what_is_not_answered_is_in_doubt() {
    let store = Store::new(Answers::Never);
    let options = DriveOptions {
        clients: 2,
        rate: Some(500.0),
        spacing: Spacing::Even,
        end: End::After(Duration::from_millis(200)),
        answer_timeout: Duration::from_millis(1_500),
        ..DriveOptions::default()
    };
    let driven = drive(&store.target(), &workload("put"), &options).await.unwrap();
    assert_eq!(driven.operations(), 0);
    assert_eq!(driven.unknown["not answered in time"], 2);
    let late = driven.errors["not begun in time"];
    assert!((95..=98).contains(&late), "{late}");
}

#[tokio::test]
async fn a_planted_slowdown_slows_down() {
    let store = Store::new(Answers::Well);
    let mut rates = Vec::new();
    for slowdown in [0.0, 0.5] {
        let options = DriveOptions {
            clients: 1,
            slowdown,
            end: End::After(Duration::from_secs(2)),
            ..DriveOptions::default()
        };
        let workload = Workload { distribution: Distribution::Uniform, ..workload("c") };
        rates.push(drive(&store.target(), &workload, &options).await.unwrap().per_second());
    }
    assert!(rates[1] < rates[0] * 0.8, "{rates:?}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let store = Store::new(Answers::Well);
    let plain = DriveOptions::default();
    for (options, words) in [
        (DriveOptions { clients: 0, ..plain.clone() }, "--clients"),
        (DriveOptions { pipeline: 0, ..plain.clone() }, "--pipeline"),
        (
            DriveOptions { rate: Some(1.0), end: End::Operations(1), ..plain.clone() },
            "an open loop ends by time",
        ),
    ] {
        let error = drive(&store.target(), &workload("a"), &options).await.err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
    }
}
