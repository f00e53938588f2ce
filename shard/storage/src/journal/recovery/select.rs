//! Decides which batches are the log: whose boot they belong to, where the log begins, what is
//! corrupt and where the torn tail starts. The rules are those of `docs/journal-format.md`.
//!
//! Pure: takes what the scan found.

use std::collections::BTreeMap;

use flotilla_mutation::{Mutation, planted};

use super::super::batch::Header;
use super::scan::{ScannedBatch, ScannedSegment};

/// Record sequences `from..to` of which nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub from: u64,
    pub to: u64,
    /// First batch that is missing or unreadable.
    pub batch: u64,
    /// Segment of that batch, when a header of it survived.
    pub segment: Option<u64>,
}

/// The log.
#[derive(Default)]
pub(super) struct Selected {
    /// Batches that count, in order; at or below `synced_through` some may be damaged.
    pub kept: Vec<ScannedBatch>,
    /// Records lost without a trace.
    pub gaps: Vec<Gap>,
    /// What is proven to have been synced.
    pub synced_through: u64,
    /// Last batch that counts, kept or lost.
    pub last_batch: u64,
    /// Its header's CRC; 0 = unknown.
    pub last_crc: u32,
    /// Bytes of batches behind the end.
    pub torn_bytes: u64,
    pub oldest_segment: u64,
    pub oldest_record: u64,
    /// Above every batch sequence seen anywhere.
    pub next_batch: u64,
    /// Above every record sequence seen anywhere.
    pub next_record: u64,
}

/// Sequences that one boot owns.
struct Owned {
    nonce: u64,
    first: u64,
    /// Inclusive; `u64::MAX` for the newest boot.
    last: u64,
}

/// Selects the log from what was found.
pub(super) fn select(segments: Vec<ScannedSegment>) -> Selected {
    let mut selected = Selected { next_batch: 1, next_record: 1, ..Selected::default() };
    for header in headers(&segments) {
        selected.next_batch = selected.next_batch.max(header.sequence + 1);
        selected.next_record = selected.next_record.max(header.next_record());
    }
    let boots = owned_ranges(&segments);
    let mut owned: BTreeMap<u64, ScannedBatch> = BTreeMap::new();
    for batch in segments.into_iter().flat_map(|segment| segment.batches) {
        let header = &batch.header;
        let owner = boots.iter().find(|boot| boot.nonce == header.boot_nonce);
        if owner.is_some_and(|boot| (boot.first..=boot.last).contains(&header.sequence)) {
            owned.entry(header.sequence).or_insert(batch);
        }
    }
    let Some(newest) = owned.values().map(|batch| batch.header).max_by_key(|header| {
        // All three move together, and only up.
        (header.oldest_segment, header.oldest_batch, header.oldest_record)
    }) else {
        return selected;
    };
    selected.oldest_segment = newest.oldest_segment;
    selected.oldest_record = newest.oldest_record;
    selected.synced_through =
        owned.values().map(|batch| batch.header.synced_through).max().unwrap_or(0);
    if planted(Mutation::CorruptionIsTornTail) {
        selected.synced_through = 0;
    }
    let mut walk = Walk {
        next_record: newest.oldest_record,
        open_gap: None,
        previous_crc: None,
        selected,
        is_cut: false,
    };
    // Of older boots, which are still needed, nothing was found at all.
    if boots.last().is_some_and(|oldest| newest.oldest_batch < oldest.first) {
        walk.lose(newest.oldest_batch, None);
    }
    for boot in boots.iter().rev() {
        walk.boot(boot, newest.oldest_batch, &mut owned);
    }
    let mut selected = walk.finish();
    selected.torn_bytes += owned
        .range(selected.last_batch + 1..)
        .map(|(_, batch)| u64::from(batch.header.length))
        .sum::<u64>();
    selected
}

fn headers(segments: &[ScannedSegment]) -> impl Iterator<Item = &Header> {
    segments.iter().flat_map(|segment| segment.batches.iter().map(|batch| &batch.header))
}

/// What each boot owns, newest first.
fn owned_ranges(segments: &[ScannedSegment]) -> Vec<Owned> {
    let mut boots: BTreeMap<u64, (u64, u64, u64)> = BTreeMap::new();
    for header in headers(segments) {
        let said = (header.boot_first, header.segment, header.boot_previous);
        let known = boots.entry(header.boot_nonce).or_insert(said);
        *known = (*known).max(said);
    }
    let mut boots: Vec<((u64, u64, u64), u64)> =
        boots.into_iter().map(|(nonce, said)| (said, nonce)).collect();
    boots.sort_unstable_by(|a, b| b.cmp(a));
    let mut ranges = Vec::new();
    let mut last = u64::MAX;
    for ((first, _, previous), nonce) in boots {
        if first <= last {
            ranges.push(Owned { nonce, first, last });
            last = previous;
        }
    }
    ranges
}

/// One pass over the sequences that should be there.
struct Walk {
    selected: Selected,
    /// Sequence that the next record should have.
    next_record: u64,
    /// A gap whose end is not known yet.
    open_gap: Option<Gap>,
    /// CRC of the batch before; `None` = unknown.
    previous_crc: Option<u32>,
    is_cut: bool,
}

impl Walk {
    fn boot(&mut self, boot: &Owned, oldest: u64, owned: &mut BTreeMap<u64, ScannedBatch>) {
        let synced = self.selected.synced_through;
        let mut expected = boot.first.max(oldest);
        if planted(Mutation::ParseRecycledBytes) {
            expected = boot.first;
        }
        while !self.is_cut && expected <= boot.last {
            let found = owned.range(expected..=boot.last).next().map(|(sequence, _)| *sequence);
            // Everything from here to the next batch found is missing.
            let missing_to = found.unwrap_or(boot.last.saturating_add(1)).min(synced + 1);
            if missing_to > expected {
                self.lose(expected, None);
                self.selected.last_batch = missing_to - 1;
                expected = missing_to;
                continue;
            }
            if found != Some(expected) {
                self.is_cut = true;
                return;
            }
            let batch = owned.remove(&expected).expect("just found");
            let chains = self.chains(&batch.header);
            let is_unproven = expected > synced && !planted(Mutation::TornTailIsCorruption);
            if !(chains && batch.is_whole()) && is_unproven {
                self.selected.torn_bytes += u64::from(batch.header.length);
                self.is_cut = true;
                return;
            }
            self.keep(batch, chains);
            expected += 1;
        }
    }

    fn chains(&self, header: &Header) -> bool {
        match self.previous_crc {
            Some(crc) if header.previous_crc != 0 => header.previous_crc == crc,
            _ => true,
        }
    }

    fn keep(&mut self, mut batch: ScannedBatch, chains: bool) {
        let header = batch.header;
        if let Some(gap) = self.open_gap.take() {
            self.selected.gaps.push(Gap { to: header.first_record.max(gap.from), ..gap });
        }
        if !chains {
            batch.records = None;
        }
        if batch.records.is_none() {
            self.selected.gaps.push(Gap {
                from: header.first_record,
                to: header.next_record(),
                batch: header.sequence,
                segment: Some(header.segment),
            });
        }
        self.next_record = header.next_record();
        self.previous_crc = Some(header.crc);
        self.selected.last_batch = header.sequence;
        self.selected.last_crc = header.crc;
        self.selected.kept.push(batch);
    }

    fn lose(&mut self, batch: u64, segment: Option<u64>) {
        let gap = Gap { from: self.next_record, to: self.next_record, batch, segment };
        self.open_gap.get_or_insert(gap);
        self.previous_crc = None;
        self.selected.last_crc = 0;
    }

    /// Cuts an unfinished round and closes the last gap.
    fn finish(mut self) -> Selected {
        let selected = &mut self.selected;
        while let Some(batch) = selected.kept.last()
            && batch.header.sequence > selected.synced_through
            && batch.header.continues()
        {
            selected.torn_bytes += u64::from(batch.header.length);
            selected.kept.pop();
            let last = selected.kept.last().map(|batch| batch.header);
            let synced = selected.synced_through;
            selected.last_batch = last.map_or(0, |header| header.sequence).max(synced);
            selected.last_crc = match last {
                Some(header) if header.sequence == selected.last_batch => header.crc,
                _ => 0,
            };
        }
        if let Some(gap) = self.open_gap.take() {
            self.selected.gaps.push(Gap { to: self.selected.next_record, ..gap });
        }
        self.selected
    }
}
