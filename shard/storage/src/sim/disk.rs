//! The simulated disk itself: blocks, names, and what chance makes of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{BLOCK_BYTES, SECTOR_BYTES};

type Block = Arc<[u8; BLOCK_BYTES]>;

/// Versions of a dirty block that are remembered; older ones are forgotten, as if the disk had
/// never been that slow.
const VERSIONS_MAX: usize = 4;

/// A file's content. Blocks that are absent read as zero.
#[derive(Default)]
struct Inode {
    cache: BTreeMap<u64, Block>,
    durable: BTreeMap<u64, Block>,
    /// Of each block written since the last sync, every version, the cached one last.
    dirty: BTreeMap<u64, Vec<Block>>,
    len: u64,
    durable_len: u64,
    /// Space that is taken, at least `len`.
    reserved: u64,
    unreadable: BTreeSet<u64>,
}

/// A change of a directory that is not durable yet.
#[derive(Clone)]
enum NameChange {
    Set(PathBuf, u64),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, u64),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Set(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
            NameChange::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

pub(super) struct Disk {
    random: u64,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes per directory since its last sync.
    name_changes: BTreeMap<PathBuf, Vec<NameChange>>,
    dirs: BTreeSet<PathBuf>,
    pub(super) locks: HashSet<PathBuf>,
    /// Grows with every crash and kill.
    pub(super) generation: u64,
    pub(super) fail_after: Option<u64>,
    pub(super) fail_sync_after: Option<u64>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) full_after: Option<u64>,
    pub(super) sync_count: u64,
    pub(super) stalled: bool,
}

impl Disk {
    pub(super) fn new(seed: u64) -> Disk {
        Disk {
            random: seed,
            inodes: BTreeMap::new(),
            next_inode: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: BTreeMap::new(),
            dirs: BTreeSet::new(),
            locks: HashSet::new(),
            generation: 0,
            fail_after: None,
            fail_sync_after: None,
            capacity_bytes: None,
            full_after: None,
            sync_count: 0,
            stalled: false,
        }
    }

    /// A number below `bound` (splitmix64).
    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    pub(super) fn check_alive(&self) -> io::Result<()> {
        match self.fail_after {
            Some(0) => Err(io::Error::other("the simulated machine is down")),
            _ => Ok(()),
        }
    }

    /// Counts a change down to the crash that was asked for.
    pub(super) fn start_change(&mut self) -> io::Result<()> {
        self.check_alive()?;
        if let Some(left) = &mut self.fail_after {
            *left -= 1;
        }
        self.check_alive()
    }

    pub(super) fn inode_of(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change_name(&mut self, path: &Path, change: NameChange) {
        change.apply(&mut self.names);
        let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
        self.name_changes.entry(dir).or_default().push(change);
    }

    /// Counts an operation that takes space down to the full disk that was asked for.
    fn take_space(&mut self) -> io::Result<()> {
        match &mut self.full_after {
            Some(0) => Err(io::ErrorKind::StorageFull.into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        self.take_space()?;
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| self.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        self.change_name(path, NameChange::Set(path.to_path_buf(), inode));
        Ok(inode)
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names = self.names.keys().chain(&self.dirs).filter(|path| path.parent() == Some(dir));
        let mut names: Vec<String> =
            names.filter_map(|path| Some(path.file_name()?.to_str()?.to_string())).collect();
        names.sort();
        Ok(names)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.inode_of(from)?;
        let change = NameChange::Rename(from.to_path_buf(), to.to_path_buf(), inode);
        self.change_name(to, change);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.inode_of(path)?;
        self.change_name(path, NameChange::Remove(path.to_path_buf()));
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        for change in self.name_changes.remove(dir).unwrap_or_default() {
            change.apply(&mut self.durable_names);
        }
        self.forget_unnamed();
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, dir: &Path) {
        for dir in dir.ancestors() {
            self.dirs.insert(dir.to_path_buf());
        }
    }

    /// Frees what no name leads to, now or after a crash. Open handles keep working on real
    /// systems; here they fail, which nobody may rely on.
    fn forget_unnamed(&mut self) {
        let mut named: BTreeSet<u64> = self.names.values().copied().collect();
        named.extend(self.durable_names.values());
        self.inodes.retain(|inode, _| named.contains(inode));
    }

    fn inode(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let used = self.names.values().filter_map(|inode| self.inodes.get(inode));
        used.map(|inode| inode.reserved).sum()
    }

    fn reserve(&mut self, inode: u64, bytes: u64) -> io::Result<()> {
        let reserved = self.inode(inode)?.reserved;
        let bytes = bytes.next_multiple_of(BLOCK_BYTES as u64);
        if bytes > reserved {
            let used = self.used_bytes() + bytes - reserved;
            if self.capacity_bytes.is_some_and(|capacity| used > capacity) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.inode(inode)?.reserved = bytes;
        }
        Ok(())
    }

    pub(super) fn read(&mut self, inode: u64, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inode = self.inode(inode)?;
        let count = inode.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let (number, within) = (at / BLOCK_BYTES as u64, (at % BLOCK_BYTES as u64) as usize);
            if inode.unreadable.contains(&number) {
                return Err(io::Error::other("simulated unreadable block"));
            }
            let part = (BLOCK_BYTES - within).min(count - done);
            let target = &mut buffer[done..done + part];
            match inode.cache.get(&number) {
                Some(block) => target.copy_from_slice(&block[within..within + part]),
                None => target.fill(0),
            }
            done += part;
        }
        Ok(count)
    }

    pub(super) fn write(&mut self, inode: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(full) = self.take_space() {
            // As a real one, it may find out in the middle.
            let written = self.below(bytes.len() + 1);
            self.write_whole(inode, &bytes[..written], offset)?;
            return Err(full);
        }
        self.write_whole(inode, bytes, offset)
    }

    fn write_whole(&mut self, inode: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        self.reserve(inode, end)?;
        let inode = self.inode(inode)?;
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (number, within) = (at / BLOCK_BYTES as u64, (at % BLOCK_BYTES as u64) as usize);
            let part = (BLOCK_BYTES - within).min(bytes.len() - done);
            let mut block = match inode.cache.get(&number) {
                Some(block) => **block,
                None => [0; BLOCK_BYTES],
            };
            block[within..within + part].copy_from_slice(&bytes[done..done + part]);
            let block = Arc::new(block);
            let versions = inode.dirty.entry(number).or_default();
            versions.push(Arc::clone(&block));
            if versions.len() > VERSIONS_MAX {
                versions.remove(0);
            }
            inode.cache.insert(number, block);
            inode.unreadable.remove(&number);
            done += part;
        }
        inode.len = inode.len.max(end);
        Ok(())
    }

    pub(super) fn sync(&mut self, inode: u64) -> io::Result<()> {
        if let Some(left) = self.fail_sync_after {
            self.fail_sync_after = left.checked_sub(1);
            if left == 0 {
                self.lose_some(inode)?;
                return Err(io::Error::other("simulated I/O error in sync"));
            }
        }
        let inode = self.inode(inode)?;
        for (number, versions) in std::mem::take(&mut inode.dirty) {
            if let Some(block) = versions.into_iter().next_back() {
                inode.durable.insert(number, block);
            }
        }
        inode.durable_len = inode.len;
        self.sync_count += 1;
        Ok(())
    }

    /// A failed sync: dirty blocks reach the disk or not, and count as clean afterwards.
    fn lose_some(&mut self, inode: u64) -> io::Result<()> {
        let dirty = std::mem::take(&mut self.inode(inode)?.dirty);
        for (number, versions) in dirty {
            if self.below(2) == 0
                && let Some(block) = versions.into_iter().next_back()
            {
                self.inode(inode)?.durable.insert(number, block);
            }
        }
        Ok(())
    }

    pub(super) fn allocate(&mut self, inode: u64, len: u64) -> io::Result<()> {
        self.take_space()?;
        self.reserve(inode, len)?;
        let inode = self.inode(inode)?;
        inode.len = inode.len.max(len);
        Ok(())
    }

    pub(super) fn len(&self, inode: u64) -> u64 {
        self.inodes.get(&inode).map_or(0, |inode| inode.len)
    }

    pub(super) fn set_len(&mut self, inode: u64, len: u64) -> io::Result<()> {
        self.reserve(inode, len)?;
        // What lies behind the new end must read as zero should the file grow again.
        let old = self.len(inode);
        if len < old {
            let boundary = len.next_multiple_of(BLOCK_BYTES as u64).min(old);
            self.write_whole(inode, &vec![0; (boundary - len) as usize], len)?;
        }
        let inode = self.inode(inode)?;
        let first_gone = len.div_ceil(BLOCK_BYTES as u64);
        let _ = inode.cache.split_off(&first_gone);
        let _ = inode.dirty.split_off(&first_gone);
        if len < inode.durable_len {
            let _ = inode.durable.split_off(&first_gone);
            inode.durable_len = len;
        }
        inode.len = len;
        inode.reserved = len.next_multiple_of(BLOCK_BYTES as u64);
        Ok(())
    }

    pub(super) fn kill(&mut self) {
        self.generation += 1;
        self.locks.clear();
        self.fail_after = None;
        self.fail_sync_after = None;
        self.stalled = false;
    }

    pub(super) fn crash(&mut self) {
        self.kill();
        for changes in std::mem::take(&mut self.name_changes).into_values() {
            let survive = self.below(changes.len() + 1);
            for change in &changes[..survive] {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        self.forget_unnamed();
        let inodes: Vec<u64> = self.inodes.keys().copied().collect();
        for number in inodes {
            if let Some(mut inode) = self.inodes.remove(&number) {
                self.crash_inode(&mut inode);
                self.inodes.insert(number, inode);
            }
        }
    }

    /// Mixes what is durable with what might have become so.
    fn crash_inode(&mut self, inode: &mut Inode) {
        // Often a whole file is late or on time; mixtures within one are the rarer case.
        let mood = self.below(4);
        for (number, versions) in std::mem::take(&mut inode.dirty) {
            let mut block = match inode.durable.get(&number) {
                Some(block) => **block,
                None => [0; BLOCK_BYTES],
            };
            let whole = self.below(3) > 0;
            let mut choice = self.choose(mood, versions.len());
            for sector in 0..BLOCK_BYTES / SECTOR_BYTES {
                if !whole {
                    choice = self.choose(mood, versions.len());
                }
                if let Some(version) = choice {
                    let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                    block[range.clone()].copy_from_slice(&versions[version][range]);
                }
            }
            inode.durable.insert(number, Arc::new(block));
        }
        if inode.len != inode.durable_len && self.below(2) == 0 {
            inode.durable_len = inode.len;
        }
        let first_gone = inode.durable_len.div_ceil(BLOCK_BYTES as u64);
        let _ = inode.durable.split_off(&first_gone);
        inode.cache = inode.durable.clone();
        inode.len = inode.durable_len;
        inode.reserved = inode.len.next_multiple_of(BLOCK_BYTES as u64);
    }

    /// Which version a sector has: `None` = what was durable.
    fn choose(&mut self, mood: usize, versions: usize) -> Option<usize> {
        match mood {
            0 => None,
            1 => Some(versions - 1),
            _ => self.below(versions + 1).checked_sub(1),
        }
    }

    pub(super) fn flip(&mut self, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        let inode = self.inode_of(path)?;
        let inode = self.inode(inode)?;
        if offset >= inode.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (number, within) =
            (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
        for blocks in [&mut inode.cache, &mut inode.durable] {
            let mut block = match blocks.get(&number) {
                Some(block) => **block,
                None => [0; BLOCK_BYTES],
            };
            block[within] ^= mask;
            blocks.insert(number, Arc::new(block));
        }
        Ok(())
    }

    pub(super) fn fail_reads(&mut self, path: &Path, offset: u64) -> io::Result<()> {
        let inode = self.inode_of(path)?;
        self.inode(inode)?.unreadable.insert(offset / BLOCK_BYTES as u64);
        Ok(())
    }

    pub(super) fn content(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let inode = self.inode_of(path)?;
        let mut content = vec![0; self.len(inode) as usize];
        self.read(inode, &mut content, 0)?;
        Ok(content)
    }

    pub(super) fn put(&mut self, path: &Path, content: &[u8]) {
        let mut inode = Inode::default();
        for (number, chunk) in content.chunks(BLOCK_BYTES).enumerate() {
            let mut block = [0; BLOCK_BYTES];
            block[..chunk.len()].copy_from_slice(chunk);
            inode.cache.insert(number as u64, Arc::new(block));
        }
        inode.durable = inode.cache.clone();
        inode.len = content.len() as u64;
        inode.durable_len = inode.len;
        inode.reserved = inode.len.next_multiple_of(BLOCK_BYTES as u64);
        if let Some(dir) = path.parent() {
            self.create_dir_all(dir);
        }
        self.inodes.insert(self.next_inode, inode);
        self.names.insert(path.to_path_buf(), self.next_inode);
        self.durable_names.insert(path.to_path_buf(), self.next_inode);
        self.next_inode += 1;
    }
}
