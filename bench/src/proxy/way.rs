//! One direction between two nodes: what happens to the bytes that travel it.
//!
//! Bytes go through a short queue: one task reads, another writes each piece when it is due. So a
//! delay costs time and no throughput, and pieces never overtake each other.
//!
//! Invariants:
//!
//! * Frames are lost whole; greetings, and what has no frames, are never lost.
//! * What is held is not lost: it arrives late, or finds its receiver gone.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Bytes of a greeting before its payload; the payload's length stands at 12.
pub(super) const GREETING_BYTES: usize = 20;
/// The kind of a greeting that begins a connection with frames.
pub(super) const HELLO: u8 = 1;
/// A frame's length and checksum; the length counts what follows.
const FRAME_PREFIX_BYTES: usize = 8;
/// Longer frames travel in pieces of this size.
const PIECE_BYTES: usize = 32 << 10;
/// Pieces on their way in one connection: with delays, a bound on what is in the air.
const PIECES_MAX: usize = 64;

/// What one direction between two nodes is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Nothing passes, and nobody is told.
    pub held: bool,
    /// How many of a thousand frames are lost.
    pub lost_per_mille: u16,
    /// How long everything is on its way.
    pub delay: Duration,
    /// How much passes in a second on each connection; `None`: all that comes.
    pub bytes_per_second: Option<u64>,
}

impl Weather {
    /// Everything passes at once.
    pub const FAIR: Weather =
        Weather { held: false, lost_per_mille: 0, delay: Duration::ZERO, bytes_per_second: None };
}

/// One direction between two nodes.
pub(super) struct Way {
    weather: watch::Sender<Weather>,
    /// Frames to swallow from now on.
    to_swallow: AtomicU64,
    swallowed: AtomicU64,
    random: Mutex<SmallRng>,
}

struct Piece {
    due: Instant,
    bytes: Vec<u8>,
}

type Pieces = mpsc::Sender<Piece>;

impl Way {
    pub(super) fn new(seed: u64) -> Way {
        Way {
            weather: watch::Sender::new(Weather::FAIR),
            to_swallow: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
        }
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    pub(super) fn swallow(&self, count: u64) {
        self.to_swallow.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn swallow_no_more(&self) {
        self.to_swallow.store(0, Ordering::Relaxed);
    }

    pub(super) fn swallowed(&self) -> u64 {
        self.swallowed.load(Ordering::Relaxed)
    }

    /// Waits while everything is held.
    pub(super) async fn pass(&self) {
        let mut weather = self.weather.subscribe();
        // It cannot end: the sender is here.
        let _ = weather.wait_for(|weather| !weather.held).await;
    }

    /// Carries what a dialer says: a greeting, then frames.
    pub(super) async fn carry_frames(
        &self,
        from: OwnedReadHalf,
        to: OwnedWriteHalf,
    ) -> io::Result<()> {
        let (pieces, queue) = mpsc::channel(PIECES_MAX);
        // Both, to the end: what was read before the dialer closed still arrives.
        let (read, written) = tokio::join!(self.read_frames(from, pieces), self.write(queue, to));
        read.and(written)
    }

    /// Carries anything.
    pub(super) async fn carry_bytes(
        &self,
        from: OwnedReadHalf,
        to: OwnedWriteHalf,
    ) -> io::Result<()> {
        let (pieces, queue) = mpsc::channel(PIECES_MAX);
        let (read, written) = tokio::join!(self.read_bytes(from, pieces), self.write(queue, to));
        read.and(written)
    }

    async fn read_frames(&self, mut from: OwnedReadHalf, pieces: Pieces) -> io::Result<()> {
        let mut greeting = vec![0; GREETING_BYTES];
        from.read_exact(&mut greeting).await?;
        let (kind, length) = (greeting[10], number_at(&greeting, 12));
        self.send(&pieces, greeting).await?;
        if kind != HELLO {
            return self.read_bytes(from, pieces).await;
        }
        self.read_exactly(length as usize, &mut from, Some(&pieces)).await?;
        loop {
            let mut prefix = vec![0; FRAME_PREFIX_BYTES];
            from.read_exact(&mut prefix).await?;
            let length = number_at(&prefix, 0) as usize;
            if self.loses_one() {
                self.swallowed.fetch_add(1, Ordering::Relaxed);
                self.read_exactly(length, &mut from, None).await?;
            } else {
                self.send(&pieces, prefix).await?;
                self.read_exactly(length, &mut from, Some(&pieces)).await?;
            }
        }
    }

    async fn read_bytes(&self, mut from: OwnedReadHalf, pieces: Pieces) -> io::Result<()> {
        loop {
            let mut bytes = Vec::with_capacity(PIECE_BYTES);
            if (&mut from).take(PIECE_BYTES as u64).read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            self.send(&pieces, bytes).await?;
        }
    }

    /// Reads `length` bytes, into nothing if there are no `pieces`.
    async fn read_exactly(
        &self,
        length: usize,
        from: &mut OwnedReadHalf,
        pieces: Option<&Pieces>,
    ) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let mut bytes = vec![0; left.min(PIECE_BYTES)];
            from.read_exact(&mut bytes).await?;
            left -= bytes.len();
            if let Some(pieces) = pieces {
                self.send(pieces, bytes).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, pieces: &Pieces, bytes: Vec<u8>) -> io::Result<()> {
        let due = Instant::now() + self.weather.borrow().delay;
        let sent = pieces.send(Piece { due, bytes }).await;
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn write(
        &self,
        mut queue: mpsc::Receiver<Piece>,
        mut to: OwnedWriteHalf,
    ) -> io::Result<()> {
        while let Some(Piece { due, bytes }) = queue.recv().await {
            if due > Instant::now() {
                sleep_until(due).await;
            }
            self.pass().await;
            to.write_all(&bytes).await?;
            let bytes_per_second = self.weather.borrow().bytes_per_second;
            if let Some(bytes_per_second) = bytes_per_second {
                sleep(Duration::from_secs_f64(bytes.len() as f64 / bytes_per_second as f64)).await;
            }
        }
        Ok(())
    }

    fn loses_one(&self) -> bool {
        if take_one(&self.to_swallow) {
            return true;
        }
        let lost_per_mille = self.weather.borrow().lost_per_mille;
        lost_per_mille > 0 && {
            let mut random = self.random.lock().expect("nobody panics while holding it");
            random.random_range(0..1000) < lost_per_mille
        }
    }
}

fn number_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn take_one(count: &AtomicU64) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok()
}
