//! What is lost for good, named before it is accepted, and remembered once it is.
//!
//! A shard whose only replica lost rows or log has lost data: nobody else has it. The node then
//! refuses to start and says what is gone. Told to go on without it, it writes into the file
//! `losses` which shards that was said of, before anything else changes; later starts need not be
//! told again. Whatever is lost later must be accepted anew.

use crate::error::Error;
use crate::splits::escape_key;
use flotilla_shard::{Descriptor, GroupId};
use flotilla_storage::journal::RecoveredGroup;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Name of the file in the data directory: the numbers of shards, one a line.
const FILE: &str = "losses";

/// Losses of shards that have no other replica.
pub(crate) struct Losses {
    path: PathBuf,
    is_accepting: bool,
    accepted: BTreeSet<GroupId>,
    /// Not accepted yet, with the words for each.
    new: BTreeMap<GroupId, String>,
}

impl Losses {
    /// Reads which losses were accepted before. `is_accepting`: those of now are, too.
    pub(crate) fn load(directory: &Path, is_accepting: bool) -> Result<Losses, Error> {
        let path = directory.join(FILE);
        let mut accepted = BTreeSet::new();
        match fs::read_to_string(&path) {
            Ok(text) => {
                for line in text.lines() {
                    let group = line.parse().map_err(|_| Error::Directory {
                        directory: directory.to_owned(),
                        problem: format!(
                            "its file `{FILE}` holds the line `{line}`, which names no shard; \
                             delete the file, and accept what is lost once more"
                        ),
                    })?;
                    accepted.insert(GroupId(group));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, &error)),
        }
        Ok(Losses { path, is_accepting, accepted, new: BTreeMap::new() })
    }

    /// Notes that a shard lost something. Harmless if it has other replicas.
    pub(crate) fn add(
        &mut self,
        shard: &Descriptor,
        problem: &str,
        group: Option<&RecoveredGroup>,
    ) {
        if shard.replicas.len() == 1 && !self.accepted.contains(&shard.group) {
            self.new.insert(shard.group, words(shard, problem, group));
        }
    }

    /// Refuses what was noted, or makes its acceptance durable.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        if self.new.is_empty() {
            return Ok(());
        }
        if !self.is_accepting {
            return Err(Error::DataLost { losses: self.new.values().cloned().collect() });
        }
        for (group, loss) in std::mem::take(&mut self.new) {
            tracing::error!(group = group.0, loss, "the loss is accepted");
            self.accepted.insert(group);
        }
        self.save().map_err(|error| failed(&self.path, &error))
    }

    /// True if the shard may be opened without what it lost.
    pub(crate) fn is_accepted(&self, group: GroupId) -> bool {
        self.accepted.contains(&group)
    }

    fn save(&self) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        let mut file = File::create(&temporary)?;
        for group in &self.accepted {
            writeln!(file, "{}", group.0)?;
        }
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::Storage(format!("{}: {error}", path.display()))
}

/// A loss as people need it: which shard, which keys, what is wrong, what of its log is left.
fn words(shard: &Descriptor, problem: &str, group: Option<&RecoveredGroup>) -> String {
    let from = match &shard.range.start[..] {
        [] => "the lowest key".to_owned(),
        key => format!("`{}`", escape_key(key)),
    };
    let to = match &shard.range.end {
        Some(key) => format!("below `{}`", escape_key(key)),
        None => "the highest".to_owned(),
    };
    let log = match group {
        Some(group) if group.last_index > group.base.0 => {
            let suspect = if group.suspect { ", and may have gone on" } else { "" };
            format!(
                "; of its log, entries {} to {} are left{suspect}",
                group.base.0 + 1,
                group.last_index
            )
        }
        Some(group) if group.base.0 > 0 => {
            format!("; its log is empty above entry {}", group.base.0)
        }
        _ => "; of its log nothing is left".to_owned(),
    };
    format!("shard {} (keys from {from} to {to}): {problem}{log}", shard.group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_shard::{Epoch, KeyRange, NodeId, ReplicaDescriptor, ReplicaId};

    fn shard(group: u64, replicas: u64) -> Descriptor {
        let replicas = (1..=replicas)
            .map(|n| ReplicaDescriptor { node: NodeId(n), replica: ReplicaId(n) })
            .collect();
        Descriptor {
            group: GroupId(group),
            range: KeyRange::whole(),
            epoch: Epoch::FIRST,
            replicas,
        }
    }

    #[test]
    fn a_loss_is_named_then_accepted_and_only_that_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let load = |accept| Losses::load(dir.path(), accept).expect("a readable file");
        let log = RecoveredGroup { base: (7, 1), last_index: 9, ..RecoveredGroup::default() };
        let mut losses = load(false);
        losses.add(&shard(3, 1), "gone", Some(&log));
        losses.add(&shard(4, 3), "gone", None);
        let Err(Error::DataLost { losses: named }) = losses.settle() else {
            panic!("a loss that nobody accepted");
        };
        assert_eq!(
            named,
            [
                "shard g3 (keys from the lowest key to the highest): gone; of its log, entries 8 to 9 \
              are left"
            ]
        );
        let mut losses = load(true);
        losses.add(&shard(3, 1), "gone", Some(&log));
        losses.settle().expect("accepted");

        let mut losses = load(false);
        assert!(losses.is_accepted(GroupId(3)) && !losses.is_accepted(GroupId(4)));
        losses.add(&shard(3, 1), "gone", Some(&log));
        losses.settle().expect("accepted before");
        losses.add(&shard(5, 1), "gone too", None);
        assert!(losses.settle().is_err(), "another shard's loss is another loss");
    }
}
