//! A node's data directory: who it is, which cluster it belongs to, and that nobody else has it.
//!
//! The file `node` holds the node's id, the incarnation that was drawn when the directory was
//! born, how often it has been opened, and the genesis of its cluster. It is small and replaced
//! whole: written beside, synced, renamed, and the directory synced.
//!
//! Invariants:
//!
//! * One process at a time: a lock is held as long as the value lives.
//! * The incarnation never changes. A directory that was lost and made anew has another one, and
//!   its peers refuse it: it has forgotten its votes.
//! * Groups start only after their births are in the journal, and that they are is recorded here:
//!   a journal that is missing afterwards is noticed, not replaced.
//!
//! What is absent: what journal and store hold.

use crate::error::Error;
use bytes::{Bytes, BytesMut};
use flotilla_router::genesis::{Genesis, GenesisState, GenesisStore, StoreError};
use flotilla_shard::{DecodeError, NodeId, Reader, Writer};
use flotilla_storage::fs::{DirectoryLock, FileSystem, LockError, RealFs};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

const FILE: &str = "node";
const MAGIC: &[u8] = b"flotilla node";
const VERSION: u32 = 1;

/// An open data directory. Dropping it lets another process have it.
pub(crate) struct Directory {
    path: PathBuf,
    record: Record,
    _lock: DirectoryLock,
}

#[derive(Clone)]
struct Record {
    node: NodeId,
    incarnation: u64,
    boot: u64,
    born: bool,
    genesis: GenesisState,
}

impl Directory {
    /// Opens or makes the directory of `node` and counts this boot.
    pub(crate) fn open(path: &Path, node: NodeId) -> Result<Directory, Error> {
        let fs = RealFs;
        std::fs::create_dir_all(path).map_err(|error| storage(path, "cannot be made", &error))?;
        let lock = fs.try_lock(path).map_err(|error| match error {
            LockError::Held { .. } => Error::DirectoryInUse { directory: path.to_owned() },
            other => storage(path, "cannot be locked", &other),
        })?;
        let file = path.join(FILE);
        let mut record = match std::fs::read(&file) {
            Ok(bytes) => decode(Bytes::from(bytes)).map_err(|problem| Error::Directory {
                directory: path.to_owned(),
                problem: format!(
                    "its file `{FILE}` cannot be understood ({problem}); restore it from a backup, \
                     or use the release that wrote it"
                ),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                refuse_orphans(path)?;
                let incarnation = rand::random::<u64>().max(1);
                Record { node, incarnation, boot: 0, born: false, genesis: GenesisState::Blank }
            }
            Err(error) => return Err(storage(&file, "cannot be read", &error)),
        };
        if record.node != node {
            return Err(Error::Directory {
                directory: path.to_owned(),
                problem: format!(
                    "it belongs to node {}, not to node {node}; give each node its own directory",
                    record.node
                ),
            });
        }
        record.boot += 1;
        let directory = Directory { path: path.to_owned(), record, _lock: lock };
        directory.save()?;
        Ok(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Drawn when the directory was made.
    pub(crate) fn incarnation(&self) -> u64 {
        self.record.incarnation
    }

    /// Counts how often the directory was opened, from 1.
    pub(crate) fn boot(&self) -> u64 {
        self.record.boot
    }

    /// True once the births of the node's groups are in the journal.
    pub(crate) fn is_born(&self) -> bool {
        self.record.born
    }

    /// The births of the node's groups are in the journal.
    pub(crate) fn set_born(&mut self) -> Result<(), Error> {
        self.record.born = true;
        self.save()
    }

    /// The cluster that the directory belongs to.
    pub(crate) fn genesis(&self) -> &GenesisState {
        &self.record.genesis
    }

    fn save(&self) -> Result<(), Error> {
        let beside = self.path.join("node.new");
        let replace = || -> std::io::Result<()> {
            let mut file = File::create(&beside)?;
            file.write_all(&encode(&self.record))?;
            file.sync_all()?;
            std::fs::rename(&beside, self.path.join(FILE))?;
            File::open(&self.path)?.sync_all()?;
            if let Some(parent) = self.path.parent().filter(|p| !p.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
            Ok(())
        };
        replace().map_err(|error| storage(&self.path, "cannot be written", &error))
    }
}

impl GenesisStore for Directory {
    fn load(&self) -> Result<GenesisState, StoreError> {
        Ok(self.record.genesis.clone())
    }

    fn save_prepared(&mut self, genesis: &Genesis) -> Result<(), StoreError> {
        self.record.genesis = GenesisState::Prepared(genesis.clone());
        Ok(self.save()?)
    }

    fn save_committed(&mut self, genesis: &Genesis) -> Result<(), StoreError> {
        self.record.genesis = GenesisState::Committed(genesis.clone());
        Ok(self.save()?)
    }
}

/// A journal or store without the file that says whose they are must not be taken over silently.
fn refuse_orphans(path: &Path) -> Result<(), Error> {
    for name in [super::node::JOURNAL, super::node::STORE] {
        if path.join(name).exists() {
            return Err(Error::Directory {
                directory: path.to_owned(),
                problem: format!(
                    "it holds `{name}` but not the file `{FILE}` that says whose it is; restore \
                     that file, or use an empty directory"
                ),
            });
        }
    }
    Ok(())
}

fn encode(record: &Record) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    let mut out = Writer::new(&mut buffer);
    out.bytes(MAGIC);
    out.u32(VERSION);
    out.u64(record.node.0);
    out.u64(record.incarnation);
    out.u64(record.boot);
    out.bool(record.born);
    match &record.genesis {
        GenesisState::Blank => out.u8(0),
        GenesisState::Prepared(genesis) => {
            out.u8(1);
            out.bytes(&genesis.encode());
        }
        GenesisState::Committed(genesis) => {
            out.u8(2);
            out.bytes(&genesis.encode());
        }
    }
    let checksum = crc32c::crc32c(&buffer);
    buffer.extend_from_slice(&checksum.to_le_bytes());
    buffer.to_vec()
}

fn decode(mut bytes: Bytes) -> Result<Record, DecodeError> {
    if bytes.len() < 4 {
        return Err(DecodeError("it ends early"));
    }
    let checksum = bytes.split_off(bytes.len() - 4);
    if crc32c::crc32c(&bytes).to_le_bytes() != checksum[..] {
        return Err(DecodeError("its checksum is wrong"));
    }
    let mut input = Reader::new(bytes);
    if input.bytes()? != MAGIC {
        return Err(DecodeError("it is not the file of a node"));
    }
    if input.u32()? != VERSION {
        return Err(DecodeError("its format version is another release's"));
    }
    let (node, incarnation, boot) = (NodeId(input.u64()?), input.u64()?, input.u64()?);
    let born = input.bool()?;
    let genesis = match input.u8()? {
        0 => GenesisState::Blank,
        1 => GenesisState::Prepared(Genesis::decode(input.bytes()?)?),
        2 => GenesisState::Committed(Genesis::decode(input.bytes()?)?),
        _ => return Err(DecodeError("its genesis is of an unknown kind")),
    };
    input.finish()?;
    Ok(Record { node, incarnation, boot, born, genesis })
}

fn storage(path: &Path, what: &str, error: &dyn std::error::Error) -> Error {
    Error::Storage(format!("{} {what}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_and_belongs_to_one_node() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = Directory::open(dir.path(), NodeId(1)).expect("a fresh directory");
        let incarnation = first.incarnation();
        assert_eq!(first.boot(), 1);
        assert!(matches!(
            Directory::open(dir.path(), NodeId(1)),
            Err(Error::DirectoryInUse { .. })
        ));
        drop(first);
        let second = Directory::open(dir.path(), NodeId(1)).expect("the same node again");
        assert_eq!((second.incarnation(), second.boot()), (incarnation, 2));
        drop(second);
        let foreign = Directory::open(dir.path(), NodeId(2)).err().expect("another node's");
        assert!(foreign.to_string().contains("belongs to node 1"), "{foreign}");
    }

    #[test]
    fn damage_and_orphans_are_refused_with_words() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        drop(Directory::open(dir.path(), NodeId(1)).expect("a fresh directory"));
        let file = dir.path().join(FILE);
        let good = std::fs::read(&file).expect("the file was written");
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 0x40;
            std::fs::write(&file, &bad).expect("the file can be replaced");
            assert!(Directory::open(dir.path(), NodeId(1)).is_err(), "byte {position}");
        }
        std::fs::remove_file(&file).expect("the file is there");
        std::fs::create_dir(dir.path().join(crate::node::JOURNAL)).expect("a journal");
        let orphan = Directory::open(dir.path(), NodeId(1)).err().expect("an orphaned journal");
        assert!(orphan.to_string().contains("restore that file"), "{orphan}");
    }
}
