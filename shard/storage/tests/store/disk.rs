//! A disk in memory behind redb's `StorageBackend`: it loses what was not synced, tears writes,
//! fails syncs the way kernels do, and can be switched off in the middle of anything.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use flotilla_storage::store::StoreFile;
use rand::Rng;
use rand::rngs::StdRng;
use redb::StorageBackend;

/// What survives a power loss in one piece.
const SECTOR_BYTES: usize = 512;

#[derive(Debug)]
enum Unsynced {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Default)]
struct State {
    /// What a power loss leaves at least.
    durable: Vec<u8>,
    /// What reads see.
    cached: Vec<u8>,
    unsynced: Vec<Unsynced>,
    failing_syncs: u32,
    skipped_syncs: u32,
    full: bool,
    /// Operations until the power goes; every operation after that fails.
    power_left: Option<u64>,
    /// Backends of an earlier power cycle are dead.
    boot: u64,
    /// A file that may take the place of this one.
    beside: Option<Disk>,
    /// Files that were kept when others took their places.
    kept: Vec<Vec<u8>>,
}

/// The disk; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn file(&self) -> Box<dyn StoreFile> {
        Box::new(self.clone())
    }

    /// Files that were kept when others took their places.
    pub fn kept(&self) -> Vec<Vec<u8>> {
        self.state().kept.clone()
    }

    /// The next `count` syncs fail. As on Linux, what they were to write counts as written from
    /// then on: reads see it, the next sync does not try again.
    pub fn fail_syncs(&self, count: u32) {
        self.fail_syncs_after(0, count);
    }

    /// The same, but `skip` syncs succeed before.
    pub fn fail_syncs_after(&self, skip: u32, count: u32) {
        let mut state = self.state();
        (state.skipped_syncs, state.failing_syncs) = (skip, count);
    }

    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    pub fn power_off_after(&self, operations: u64) {
        self.state().power_left = Some(operations);
    }

    /// Power off and on again: of what was not synced, any part may have arrived.
    pub fn power_cycle(&self, rng: &mut StdRng) {
        let mut state = self.state();
        let unsynced = std::mem::take(&mut state.unsynced);
        let arrives = rng.random_range(0..=100);
        for change in unsynced {
            match change {
                Unsynced::Length(len) if rng.random_range(0..100) < arrives => {
                    state.durable.resize(len, 0);
                }
                Unsynced::Length(_) => {}
                Unsynced::Write { offset, data } => {
                    // Sector by sector: a write can be torn anywhere.
                    for (position, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        if rng.random_range(0..100) < arrives {
                            write(&mut state.durable, offset + position * SECTOR_BYTES, sector);
                        }
                    }
                }
            }
        }
        state.cached = state.durable.clone();
        state.power_left = None;
        (state.failing_syncs, state.skipped_syncs) = (0, 0);
        state.boot += 1;
    }

    /// Another disk with the same content, nothing of it unsynced.
    pub fn fork(&self) -> Disk {
        let image = self.state().cached.clone();
        let state = State { durable: image.clone(), cached: image, ..State::default() };
        Disk(Arc::new(Mutex::new(state)))
    }

    pub fn len(&self) -> usize {
        self.state().cached.len()
    }

    /// Flips bits of the byte at `at`.
    pub fn flip(&self, at: usize, bits: u8) {
        let mut state = self.state();
        state.cached[at] ^= bits;
        state.durable = state.cached.clone();
    }

    /// The bytes from `at` on.
    pub fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        self.state().cached[at..at + len].to_vec()
    }

    /// Flips one bit of each place that holds `pattern`; returns how many there were.
    pub fn damage(&self, pattern: &[u8]) -> usize {
        let mut state = self.state();
        let places: Vec<usize> = (0..state.cached.len().saturating_sub(pattern.len()))
            .filter(|at| &state.cached[*at..*at + pattern.len()] == pattern)
            .collect();
        for at in &places {
            state.cached[*at] ^= 1;
        }
        state.durable = state.cached.clone();
        places.len()
    }
}

impl StoreFile for Disk {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let boot = self.state().boot;
        Ok(Box::new(Backend { disk: self.clone(), power: self.clone(), boot }))
    }

    fn create_beside(&self) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.state();
        state.consume()?;
        let full = state.full;
        let beside = Disk(Arc::new(Mutex::new(State { full, ..State::default() })));
        state.beside = Some(beside.clone());
        Ok(Box::new(Backend { disk: beside, power: self.clone(), boot: state.boot }))
    }

    fn replace(&self, keep: bool) -> io::Result<()> {
        let mut state = self.state();
        state.consume()?;
        let beside = state.beside.take().expect("it was begun");
        let mut new = beside.state();
        let old = std::mem::take(&mut state.cached);
        state.kept.extend(keep.then_some(old));
        // What the new one has not synced can be lost from here on.
        state.durable = std::mem::take(&mut new.durable);
        state.cached = std::mem::take(&mut new.cached);
        state.unsynced = std::mem::take(&mut new.unsynced);
        Ok(())
    }

    fn remove_beside(&self) -> io::Result<()> {
        self.state().beside = None;
        Ok(())
    }
}

fn write(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if image.len() < offset + data.len() {
        image.resize(offset + data.len(), 0);
    }
    image[offset..offset + data.len()].copy_from_slice(data);
}

#[derive(Debug)]
struct Backend {
    disk: Disk,
    /// Where the power comes from.
    power: Disk,
    boot: u64,
}

impl Backend {
    fn operation(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut power = self.power.state();
        if power.boot != self.boot {
            return Err(io::Error::other("a backend from before the power loss"));
        }
        power.consume()?;
        drop(power);
        Ok(self.disk.state())
    }
}

impl State {
    fn consume(&mut self) -> io::Result<()> {
        match &mut self.power_left {
            Some(0) => return Err(io::Error::other("no power")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.operation()?.cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.operation()?;
        let offset = offset as usize;
        let Some(data) = state.cached.get(offset..offset + out.len()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.operation()?;
        if state.full && len as usize > state.cached.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.cached.resize(len as usize, 0);
        state.unsynced.push(Unsynced::Length(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.operation()?;
        if state.skipped_syncs > 0 {
            state.skipped_syncs -= 1;
        } else if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            state.unsynced.clear();
            return Err(io::Error::other("sync failed"));
        }
        for change in std::mem::take(&mut state.unsynced) {
            match change {
                Unsynced::Write { offset, data } => write(&mut state.durable, offset, &data),
                Unsynced::Length(len) => state.durable.resize(len, 0),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.operation()?;
        let offset = offset as usize;
        write(&mut state.cached, offset, data);
        state.unsynced.push(Unsynced::Write { offset, data: data.to_vec() });
        Ok(())
    }
}
