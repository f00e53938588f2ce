//! Writes a history while clients work.
//!
//! Invariants:
//!
//! * Every operation on a sampled key that may have had an effect is in the file, or
//!   [`Recorder::finish`] fails. What was begun and never ended is there as unknown.
//! * Recording never waits for the disk: finished lines go through a bounded queue to a thread that
//!   writes. When the queue is full, the recorder gives up for good and says so in the end, since
//!   waiting would slow the clients and a history with holes proves nothing.
//! * All times are of one monotonic clock.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

use super::line::Line;
use super::sample::Sample;
use super::text;

/// Finished operations that wait for the thread that writes: at some 300 bytes each, 40 MB.
const QUEUE_LINES_MAX: usize = 128 << 10;

/// Operations under way are kept in this many maps, by client.
const SLOTS: usize = 64;

/// An operation on one key, as a client asks for it.
#[derive(Clone, Copy, Debug)]
pub enum Called<'a> {
    /// Reads.
    Get,
    /// Writes this.
    Put(&'a [u8]),
    /// Removes.
    Delete,
    /// Replaces `old` by `new`.
    CompareAndSwap {
        /// `None`: there must be nothing.
        old: Option<&'a [u8]>,
        /// What is there afterwards.
        new: &'a [u8],
    },
    /// Reads and, at once, writes this.
    ReadModifyWrite(&'a [u8]),
    /// Adds this.
    Add(i64),
    /// Reads a range; the key is where it begins.
    Scan,
    /// Writes several keys at once; the key is the first of them.
    Batch,
}

/// What a client was told.
#[derive(Clone, Copy, Debug)]
pub enum Returned<'a> {
    /// It is done. What a get or a read-modify-write read; of a compare-and-swap `Some` if it
    /// swapped; of others nothing.
    Done(Option<&'a [u8]>),
    /// What an addition came to.
    Sum(i64),
    /// It certainly had no effect: as if it had never been called.
    NoEffect,
    /// Nobody knows.
    Unknown,
}

/// An operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(u64);

impl Token {
    pub(super) fn number(self) -> u64 {
        self.0
    }

    pub(super) fn from_number(number: u64) -> Token {
        Token(number)
    }
}

/// What was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Lines in the file.
    pub lines: u64,
    /// How many of them are of unknown outcome.
    pub unknown: u64,
    /// Operations that certainly had no effect and were left out.
    pub without_effect: u64,
}

/// Why there is no complete history.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be made or written.
    #[error("cannot write the history {}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Operations ended faster than they could be written.
    #[error(
        "the history {} has holes: its disk could not keep up; sample fewer keys, or write it \
         elsewhere", path.display()
    )]
    Overrun {
        /// Which file.
        path: PathBuf,
    },
}

/// Records operations on the sampled keys. Clones record into the same file.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    sample: Sample,
    origin: Instant,
    path: PathBuf,
    next_token: AtomicU64,
    under_way: Vec<Mutex<HashMap<u64, Line>>>,
    without_effect: AtomicU64,
    overrun: AtomicBool,
    /// `None` after the end.
    writer: Mutex<Option<JoinHandle<io::Result<Recorded>>>>,
    /// `None` is the end of the history.
    queue: SyncSender<Option<Line>>,
}

impl Recorder {
    /// Begins a history of the keys of `sample` in a new file at `path`; an old one is replaced.
    ///
    /// # Errors
    ///
    /// [`RecordError::File`] if the file or the thread cannot be made.
    pub fn start(path: &Path, sample: Sample) -> Result<Recorder, RecordError> {
        let failed = |error| RecordError::File { path: path.to_owned(), error };
        let file = File::create(path).map_err(failed)?;
        Recorder::start_into(Box::new(file), path, sample, QUEUE_LINES_MAX)
    }

    fn start_into(
        file: Box<dyn Write + Send>,
        path: &Path,
        sample: Sample,
        queue_lines_max: usize,
    ) -> Result<Recorder, RecordError> {
        let failed = |error| RecordError::File { path: path.to_owned(), error };
        let (queue, lines) = sync_channel(queue_lines_max);
        let writer = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || write(file, &lines))
            .map_err(failed)?;
        let shared = Shared {
            sample,
            origin: Instant::now(),
            path: path.to_owned(),
            next_token: AtomicU64::new(0),
            under_way: (0..SLOTS).map(|_| Mutex::default()).collect(),
            without_effect: AtomicU64::new(0),
            overrun: AtomicBool::new(false),
            writer: Mutex::new(Some(writer)),
            queue,
        };
        Ok(Recorder { shared: Arc::new(shared) })
    }

    /// True if operations on `key` are recorded.
    pub fn wants(&self, key: &[u8]) -> bool {
        self.shared.sample.holds(key)
    }

    /// True if it has given up: the history has holes, and [`Recorder::finish`] will fail.
    pub fn has_failed(&self) -> bool {
        self.shared.overrun.load(Ordering::Relaxed)
    }

    /// `client` is about to ask for something; `None` if the key is not sampled. To be called
    /// before the request is handed to anybody.
    pub fn begin(&self, client: u64, key: &[u8], called: Called<'_>) -> Option<Token> {
        if !self.wants(key) || self.has_failed() {
            return None;
        }
        let mut line = line_of(client, key, called);
        let token = self.shared.next_token.fetch_add(1, Ordering::Relaxed);
        line.call = self.now();
        self.slot(token).insert(token, line);
        Some(Token(token))
    }

    /// What was begun as `token` has ended. To be called after the answer was taken.
    ///
    /// # Panics
    ///
    /// If it has ended before.
    pub fn end(&self, token: Token, returned: Returned<'_>) {
        let ended = self.now();
        let line = self.slot(token.0).remove(&token.0);
        let mut line = line.expect("an operation ends once, and before the history does");
        line.ret = ended;
        match returned {
            Returned::Done(value) => match line.f.as_str() {
                "get" | "rmw" => line.r = Some(text_of(value)),
                "cas" => line.r = Some(Value::Bool(value.is_some())),
                _ => {}
            },
            Returned::Sum(sum) => line.r = Some(Value::from(sum)),
            Returned::Unknown => line.unk = 1,
            Returned::NoEffect => {
                self.shared.without_effect.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        // Nothing is known from a read that was not answered, and it changed nothing.
        if line.unk == 1 && line.f == "get" {
            self.shared.without_effect.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.push(line);
    }

    /// Writes what is under way as unknown, and waits until all is in the file.
    ///
    /// Operations that end afterwards panic: the clients must have stopped.
    ///
    /// # Errors
    ///
    /// [`RecordError`] if the history is not complete.
    pub fn finish(&self) -> Result<Recorded, RecordError> {
        let now = self.now();
        for slot in &self.shared.under_way {
            let left = std::mem::take(&mut *slot.lock().expect("nobody panics while holding it"));
            for mut line in left.into_values().filter(|line| line.f != "get") {
                (line.ret, line.unk) = (now, 1);
                // The clients have stopped: waiting harms nobody. What ended the thread is told
                // below.
                let _ = self.shared.queue.send(Some(line));
            }
        }
        let _ = self.shared.queue.send(None);
        let writer = self.shared.writer.lock().expect("nobody panics while holding it").take();
        let writer = writer.expect("a history is finished once");
        let failed = |error| RecordError::File { path: self.shared.path.clone(), error };
        let written = writer.join().map_err(|_| failed(io::Error::other("it panicked")))?;
        let written = written.map_err(failed)?;
        if self.has_failed() {
            return Err(RecordError::Overrun { path: self.shared.path.clone() });
        }
        Ok(Recorded {
            without_effect: self.shared.without_effect.load(Ordering::Relaxed),
            ..written
        })
    }

    fn push(&self, line: Line) {
        match self.shared.queue.try_send(Some(line)) {
            // What ended the writing thread is told by finish().
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => self.shared.overrun.store(true, Ordering::Relaxed),
        }
    }

    fn slot(&self, token: u64) -> MutexGuard<'_, HashMap<u64, Line>> {
        let slot = &self.shared.under_way[token as usize % SLOTS];
        slot.lock().expect("nobody panics while holding it")
    }

    fn now(&self) -> u64 {
        u64::try_from(self.shared.origin.elapsed().as_nanos()).expect("no run lasts 500 years")
    }
}

fn line_of(client: u64, key: &[u8], called: Called<'_>) -> Line {
    let value = |value: &[u8]| Some(Value::String(text::of_value(value)));
    let (f, v, old) = match called {
        Called::Get => ("get", None, None),
        Called::Put(new) => ("put", value(new), None),
        Called::Delete => ("del", None, None),
        Called::CompareAndSwap { old, new } => ("cas", value(new), Some(text_of(old))),
        Called::ReadModifyWrite(new) => ("rmw", value(new), None),
        Called::Add(by) => ("incr", Some(Value::from(by)), None),
        Called::Scan => ("scan", None, None),
        Called::Batch => ("batch", None, None),
    };
    let (f, k) = (f.to_owned(), text::of_key(key));
    Line { f, k, v, old, r: None, c: client, call: 0, ret: 0, unk: 0 }
}

fn text_of(value: Option<&[u8]>) -> Value {
    value.map_or(Value::Null, |value| Value::String(text::of_value(value)))
}

/// Writes lines until the end of the history.
fn write(file: Box<dyn Write + Send>, lines: &Receiver<Option<Line>>) -> io::Result<Recorded> {
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut recorded = Recorded::default();
    while let Ok(Some(line)) = lines.recv() {
        serde_json::to_writer(&mut file, &line)?;
        file.write_all(b"\n")?;
        recorded.lines += 1;
        recorded.unknown += u64::from(line.unk);
    }
    file.flush()?;
    Ok(recorded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Deed, read};
    use std::sync::mpsc;

    /// A disk that takes nothing until it is told to.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Once the test lets go, everything passes.
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Failing;

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn put(recorder: &Recorder, key: &[u8], value: &[u8], returned: Returned<'_>) {
        if let Some(token) = recorder.begin(1, key, Called::Put(value)) {
            recorder.end(token, returned);
        }
    }

    #[test]
    fn what_may_have_happened_is_in_the_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history");
        let recorder = Recorder::start(&path, Sample::ALL).unwrap();
        put(&recorder, b"a", b"done", Returned::Done(None));
        put(&recorder, b"a", b"refused", Returned::NoEffect);
        put(&recorder, b"a", b"in doubt", Returned::Unknown);
        let read_of = |returned| {
            let token = recorder.begin(2, b"a", Called::Get).unwrap();
            recorder.end(token, returned);
        };
        read_of(Returned::Done(Some(b"done")));
        read_of(Returned::Done(None));
        read_of(Returned::Unknown);
        recorder.begin(3, b"b", Called::Delete).unwrap();
        recorder.begin(3, b"b", Called::Get).unwrap();
        let old = Called::CompareAndSwap { old: None, new: b"n" };
        recorder.end(recorder.begin(3, b"b", old).unwrap(), Returned::Done(None));
        recorder.end(recorder.begin(3, b"n", Called::Add(2)).unwrap(), Returned::Sum(7));
        let recorded = recorder.finish().unwrap();
        assert_eq!(recorded, Recorded { lines: 7, unknown: 2, without_effect: 2 });

        let lines = read(io::BufReader::new(File::open(path).unwrap())).unwrap();
        let lines: Vec<Line> = lines.into_iter().map(|(_, line)| line).collect();
        assert!(lines.iter().all(|line| line.call <= line.ret));
        let deeds: Vec<(u8, Deed)> =
            lines.iter().map(|line| (line.unk, line.deed().unwrap())).collect();
        let text = |text: &str| text.to_owned();
        let want = [
            (0, Deed::Put(text("done"))),
            (1, Deed::Put(text("in doubt"))),
            (0, Deed::Get(Some(text("done")))),
            (0, Deed::Get(None)),
            (0, Deed::CompareAndSwap { old: None, new: text("n"), swapped: Some(false) }),
            (0, Deed::Add { by: 2, sum: Some(7) }),
            (1, Deed::Delete(None)),
        ];
        assert_eq!(deeds, want);
        assert_eq!(lines[6].c, 3);
    }

    #[test]
    fn keys_outside_the_sample_cost_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history");
        let recorder = Recorder::start(&path, Sample::share(0.0)).unwrap();
        assert_eq!(recorder.begin(1, b"a", Called::Get), None);
        assert_eq!(recorder.finish().unwrap(), Recorded::default());
    }

    #[test]
    fn a_disk_that_does_not_keep_up_fails_the_history_and_stops_nobody() {
        let (go_on, stuck) = mpsc::channel();
        let path = Path::new("history");
        let recorder = Recorder::start_into(Box::new(Stuck(stuck)), path, Sample::ALL, 4).unwrap();
        let big = vec![b'v'; 40];
        while !recorder.has_failed() {
            put(&recorder, b"a", &big, Returned::Done(None));
        }
        assert_eq!(recorder.begin(1, b"a", Called::Get), None, "it has given up");
        drop(go_on);
        assert!(matches!(recorder.finish(), Err(RecordError::Overrun { .. })));
    }

    #[test]
    fn a_disk_that_refuses_fails_the_history() {
        let path = Path::new("history");
        let recorder = Recorder::start_into(Box::new(Failing), path, Sample::ALL, 4).unwrap();
        put(&recorder, b"a", b"v", Returned::Done(None));
        let error = recorder.finish().unwrap_err();
        assert!(error.to_string().contains("cannot write the history history"), "{error}");
    }
}
