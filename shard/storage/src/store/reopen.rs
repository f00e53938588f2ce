//! Opening the file again, after a failure; and writing it anew, when that leads to nothing.
//!
//! Invariants:
//!
//! * What is seen after a failure is confirmed by a small commit before anything is concluded from it.
//! * A file to which nothing can be written, again and again and without the disk to blame, is written
//!   anew. Readers go on meanwhile; what is lost on the way is a damaged shard from then on, in the new
//!   file as well, and the old file is kept.
//!
//! What is absent: what goes from the old file into the new one (`renew`).

use std::sync::Arc;

use super::base::{Base, DamagedShard, Slot};
use super::error::{StoreError, guarded};
use super::file::{self, Loaded};
use super::renew;
use super::snapshot::Snapshot;

impl Base {
    /// Closes the file and opens it again, after a failure. What it holds then is the truth. If that
    /// leads to nothing time and again the file is written anew.
    ///
    /// Views of the time before answer [`StoreError::Reopened`] for what they have not read yet.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened, or what it shows cannot be confirmed by a small commit; in the
    /// latter case it can be read. Nothing is to be concluded from it, and this is to be called
    /// again.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let mut slot = self.slot.lock();
        self.metrics.reopens_total.inc();
        let opened = self.open_again(&mut slot);
        slot.doubt.note_opening(&opened);
        let is_readable = slot.database.is_some();
        if slot.doubt.calls_for_renewal(is_readable) {
            return self.renew(&mut slot);
        }
        opened
    }

    fn open_again(&self, slot: &mut Slot) -> Result<(), StoreError> {
        self.close(slot);
        self.watch.next_epoch();
        let database = file::open_database(&*self.file, self.options, &self.traffic)
            .map_err(StoreError::of_whole_file)?;
        // A sync that failed may have left pages that look written and are not. Commits are
        // two-phase: all but the header were synced before the header could name them, so one
        // more successful commit, which writes the header, makes durable what is seen here.
        let confirmed = guarded("confirm the reopened store", || file::confirm(&database));
        let database = match &confirmed {
            Ok(()) => database,
            Err(_) => {
                // redb reads nothing after a failed write either, so once more for the readers.
                slot.database = Some(database);
                self.close(slot);
                file::open_database(&*self.file, self.options, &self.traffic)
                    .map_err(StoreError::of_whole_file)?
            }
        };
        let loaded = guarded("read the shards", || file::load(&database))
            .map_err(StoreError::of_whole_file)?;
        self.publish_reopened(loaded);
        (slot.database, slot.confirmed) = (Some(database), confirmed.is_ok());
        confirmed
    }

    /// Writes all that can be proven of the file into a new one, which takes its place. Nobody reads
    /// anything else for that, but from where it lies; what is lost is a damaged shard from then on.
    ///
    /// # Errors
    ///
    /// If the disk refuses: everything is as before, or the file has to be opened again.
    fn renew(&self, slot: &mut Slot) -> Result<(), StoreError> {
        let snapshot = self.snapshot();
        let source = renew::Source {
            snapshot: &snapshot,
            is_readable: slot.database.is_some(),
            damaged: self.watch.damaged_records(),
        };
        tracing::error!(
            is_readable = source.is_readable,
            "nothing can be written to the store's file any more; it is written anew"
        );
        let lost = match renew::write(&source, &*self.file, self.options, &self.metrics) {
            Ok(lost) => lost,
            Err(error) => {
                tracing::error!(%error, "the store's file could not be written anew");
                return Err(error);
            }
        };
        drop(snapshot);
        self.close(slot);
        self.watch.next_epoch();
        renew::replace(&*self.file, !lost.is_empty())?;
        let database = file::open_database(&*self.file, self.options, &self.traffic)?;
        let loaded = guarded("read the shards", || file::load(&database))?;
        self.publish_reopened(loaded);
        (slot.database, slot.confirmed) = (Some(database), true);
        slot.doubt.renewed();
        self.metrics.renewals_total.inc();
        tracing::warn!(lost = lost.len(), "the store's file was written anew");
        self.show_sizes();
        Ok(())
    }

    pub(super) fn close(&self, slot: &mut Slot) {
        let Some(old) = slot.database.take() else { return };
        // Its destructor may meet the same failing disk; there is nothing to learn from it.
        let dropped = guarded("close the file", || {
            drop(old);
            Ok(())
        });
        if let Err(error) = dropped {
            tracing::warn!(%error, "closing the failed store file");
        }
    }

    fn publish_reopened(&self, loaded: Loaded) {
        let Loaded { transaction, states, damaged, table_next } = loaded;
        let before = self.snapshot();
        let mut generations = before.generations.clone();
        if let Some(swapping) = &*self.swapping.lock()
            && states.contains(swapping)
            && before.state(swapping.group) != Some(swapping)
        {
            *Arc::make_mut(&mut generations).entry(swapping.group).or_default() += 1;
        }
        // A shard that was sound must not be taken for one without rows.
        for DamagedShard { group, error } in damaged {
            let generation = generations.get(&group).copied().unwrap_or(0);
            self.watch.mark_record_damaged(group, generation, &error);
        }
        let watch = self.watch.clone();
        self.publish(Snapshot::new(transaction, states, table_next, generations, watch));
    }
}
