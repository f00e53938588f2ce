//! Opening a journal whatever its files hold: a real one with damage, or anything at all.
//!
//! Promises, when bytes were damaged, lost or are those of an earlier time (checksums hold or do
//! not): every group that may speak is what it was after one round, the same for all, and no round
//! before what some undamaged batch says was synced; a group that is suspect has only entries that
//! were written; without harmful corruption nothing is missing. Whatever the bytes, forged ones too:
//! opening ends, in bounded memory, says the same the next time, and what is written then lasts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use bytes::Bytes;
use flotilla_storage::GroupId;
use flotilla_storage::journal::{Change, Journal, JournalError, LogEntry, Recovery, Write};
use flotilla_storage::sim::SimFs;

use crate::choices::Choices;
use crate::memory::bounded;
use support::{
    Model, apply, birth, commit, compact, dir, observed, open, settle, state, try_open, write,
};

#[allow(dead_code)]
#[path = "../../shard/storage/tests/journal/support.rs"]
mod support;

const MUTATIONS_MAX: usize = 24;
/// Of a header.
const HEADER_BYTES: usize = 128;
/// Where the fields of a header are that a forger may set, and how long they are.
const FIELDS: [(usize, usize); 14] = [
    (14, 2),
    (16, 8),
    (32, 4),
    (36, 4),
    (40, 8),
    (48, 8),
    (56, 8),
    (64, 8),
    (72, 8),
    (80, 8),
    (88, 8),
    (96, 8),
    (104, 4),
    (112, 4),
];
/// Numbers at which arithmetic turns.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 3, 5, 100, 4096, 1 << 32, 1 << 61, 1 << 62, u64::MAX - 1, u64::MAX];

/// Content of segments by number.
type Files = BTreeMap<u64, Vec<u8>>;

/// A journal with every kind of record, over several segments and two boots.
struct Pristine {
    /// At the end.
    files: Files,
    /// At times before.
    earlier: Vec<Files>,
    /// What all groups should be, after each round.
    states: Vec<Model>,
    /// Segment, offset, length of each batch, and how many rounds were synced when it was written.
    batches: Vec<(u64, usize, usize, usize)>,
}

fn pristine() -> &'static Pristine {
    static PRISTINE: OnceLock<Pristine> = OnceLock::new();
    PRISTINE.get_or_init(Pristine::write)
}

fn path(number: u64) -> PathBuf {
    dir().join(format!("{number:016x}.segment"))
}

fn files_of(fs: &SimFs) -> Files {
    let numbers = support::segment_paths(fs).into_iter().map(|path| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        (u64::from_str_radix(&name, 16).expect("a number"), fs.content(&path).expect("there"))
    });
    numbers.collect()
}

/// The same entry has the same bytes whenever it is written.
fn payload(group: u64, index: u64, term: u64) -> Bytes {
    let name = format!("{group}/{index}/{term} ");
    let len = match index % 7 {
        0 => 3000,
        1 => 0,
        _ => 40,
    };
    Bytes::from(name.repeat(len / name.len() + 1))
}

fn append(group: u64, term: u64, from: u64, to: u64) -> Write {
    let entries =
        (from..=to).map(|index| LogEntry { index, term, payload: payload(group, index, term) });
    write(group, 0, Change::Append { state: None, entries: entries.collect() })
}

impl Pristine {
    fn write() -> Pristine {
        let fs = SimFs::new(1);
        let (mut journal, _) = open(&fs);
        let mut model = Model::new();
        let (mut states, mut earlier) = (vec![model.clone()], Vec::new());
        // The last batch of each round.
        let mut synced: Vec<(u64, usize)> = vec![(0, 0)];
        for round in 0..26u64 {
            let writes = Pristine::round(round);
            writes.iter().for_each(|write| apply(&mut model, write));
            commit(&mut journal, &writes);
            states.push(model.clone());
            let newest = Pristine::walk(&files_of(&fs)).into_iter().map(|batch| batch.0).max();
            synced.push((newest.expect("a batch"), states.len() - 1));
            match round {
                4 | 17 => settle(&mut journal),
                8 | 12 | 20 => {
                    earlier.push(files_of(&fs));
                    if round == 12 {
                        fs.kill();
                        let (reopened, recovery) = open(&fs);
                        journal = reopened;
                        assert_eq!(observed(&journal, &recovery), model);
                    }
                }
                _ => {}
            }
        }
        journal.prove().expect("a marker");
        let files = files_of(&fs);
        let rounds_at = |sequence: u64| {
            let known = synced.iter().rev().find(|(last, _)| *last <= sequence);
            known.map_or(0, |(_, rounds)| *rounds)
        };
        let batches = Pristine::walk(&files)
            .into_iter()
            .map(|(_, segment, offset, length, through)| {
                (segment, offset, length, rounds_at(through))
            })
            .collect();
        Pristine { files, earlier, states, batches }
    }

    fn round(round: u64) -> Vec<Write> {
        let (term, at) = (round / 5 + 1, round * 4);
        let mut writes = match round {
            0 => (1..=5).map(birth).collect(),
            3 => vec![write(4, 0, Change::Death)],
            6 => vec![write(5, 0, Change::Suspect)],
            // Both anew: one that died before, and one that dies now.
            10 => vec![birth(4), write(2, 0, Change::Death), birth(2)],
            _ => Vec::new(),
        };
        writes.push(append(1, term, at + 1, at + 4));
        match round % 5 {
            0 => writes.push(state(1, &format!("state {round}"))),
            1 => writes.push(state(3, &format!("state {round}"))),
            2 if round > 4 => writes.push(compact(1, at - 6, (at - 7) / 20 + 1)),
            // The end of another's log is written over.
            3 => writes.push(append(3, term, round / 5 * 2 + 1, round / 5 * 2 + 3)),
            _ => {}
        }
        if round == 1 {
            writes.push(append(2, 1, 1, 9));
        }
        if round == 11 {
            writes.push(append(2, 3, 1, 2));
            writes.push(append(4, 3, 1, 2));
        }
        writes
    }

    /// Sequence, segment, offset, length and `synced_through` of all batches.
    fn walk(files: &Files) -> Vec<(u64, u64, usize, usize, u64)> {
        let mut found = Vec::new();
        for (number, content) in files {
            let field = |at: usize, len: usize| {
                let mut bytes = [0; 8];
                bytes[..len].copy_from_slice(&content[at..at + len]);
                u64::from_le_bytes(bytes)
            };
            let mut at = 0;
            while at + 4096 <= content.len() && &content[at..at + 8] == b"FLTJRNLH" {
                if field(at + 24, 8) != *number {
                    break;
                }
                let length = field(at + 36, 4) as usize;
                found.push((field(at + 16, 8), *number, at, length, field(at + 64, 8)));
                at += length;
            }
        }
        found
    }

    /// How many rounds the batches prove that these files still hold whole.
    fn proven(&self, files: &Files) -> usize {
        let is_whole = |&&(segment, at, length, _): &&(u64, usize, usize, usize)| {
            let place = at..at + length;
            let found = files.get(&segment).and_then(|content| content.get(place.clone()));
            found == self.files[&segment].get(place)
        };
        let rounds = self.batches.iter().filter(is_whole).map(|batch| batch.3);
        rounds.max().unwrap_or(0)
    }
}

/// The first byte: 0, the rest is a file; else the rest are mutations of a real journal.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let pristine = pristine();
    let mut files = Files::new();
    let mut is_forged = false;
    match choices.byte() % 8 {
        0 => {
            files.insert(1, choices.rest().to_vec());
        }
        1 => {
            files.clone_from(&pristine.files);
            files.insert(u64::from(choices.byte() % 8), choices.rest().to_vec());
            is_forged = true;
        }
        _ => {
            files.clone_from(&pristine.files);
            for _ in 0..MUTATIONS_MAX {
                if choices.is_over() {
                    break;
                }
                is_forged |= mutate(&mut files, pristine, &mut choices);
            }
        }
    }
    let fs = SimFs::new(7);
    files.iter().for_each(|(number, content)| fs.put(&path(*number), content));
    let bytes: usize = files.values().map(Vec::len).sum();
    let (journal, recovery) = match bounded(16 * bytes + (4 << 20), || try_open(&fs)) {
        Ok(opened) => opened,
        // A sealed header of another version is no damage.
        Err(JournalError::Version { .. }) if is_forged => return,
        Err(error) => panic!("{error}"),
    };
    let found = observed(&journal, &recovery);
    if !is_forged {
        check(pristine, &files, &recovery, &found);
    }
    drop(journal);
    fs.crash();
    let (journal, recovery) = open(&fs);
    let again = observed(&journal, &recovery);
    // Who forges checksums can make anything of a group; what they cannot do is stop the journal.
    if !is_forged {
        assert_eq!(again, found, "opened once more");
    }
    go_on(&fs, journal, again, is_forged);
}

/// Does one thing to the files; true if it makes a checksum hold that should not.
fn mutate(files: &mut Files, pristine: &Pristine, choices: &mut Choices<'_>) -> bool {
    let kind = choices.byte() % 10;
    let numbers: Vec<u64> = files.keys().copied().collect();
    let pick = |byte: u8| numbers.get(usize::from(byte) % numbers.len().max(1)).copied();
    let Some(number) = pick(choices.byte()) else { return false };
    let content = files.get_mut(&number).expect("one of them");
    match kind {
        0 => {
            let (at, mask) = (usize::from(choices.short()), choices.byte() | 1);
            if let Some(byte) = content.get_mut(at) {
                *byte ^= mask;
            }
        }
        1 => {
            let (block, value) = (usize::from(choices.byte() % 16), choices.byte());
            if let Some(block) = content.chunks_mut(4096).nth(block) {
                block.fill(value);
            }
        }
        2 => {
            let (from, block) = (pick(choices.byte()), usize::from(choices.byte() % 16));
            let to = usize::from(choices.byte() % 16);
            let source = from.and_then(|from| files[&from].chunks(4096).nth(block));
            let source = source.map(<[u8]>::to_vec).unwrap_or_default();
            let content = files.get_mut(&number).expect("one of them");
            if let Some(place) = content.get_mut(to * 4096..to * 4096 + source.len()) {
                place.copy_from_slice(&source);
            }
        }
        3 => content.truncate(usize::from(choices.short())),
        4 => {
            let (at, len) = (usize::from(choices.short()), usize::from(choices.byte()));
            let bytes = choices.bytes(len);
            if let Some(place) = content.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
        5 => {
            files.remove(&number);
        }
        6 => {
            let earlier = &pristine.earlier[usize::from(choices.byte()) % pristine.earlier.len()];
            match earlier.get(&number) {
                Some(earlier) => content.clone_from(earlier),
                None => drop(files.remove(&number)),
            }
        }
        7 => {
            let from = pick(choices.byte()).expect("there is one");
            let content = files[&from].clone();
            files.insert(number, content);
        }
        8 => {
            forge(pristine, number, content, choices);
            return true;
        }
        _ => {
            let mut copy = content.clone();
            let number = NUMBERS[usize::from(choices.byte() % 8)];
            renumber(&mut copy, number);
            files.insert(number, copy);
            return true;
        }
    }
    false
}

/// Gives fields of a batch's header and footer other values, with a checksum that holds.
fn forge(pristine: &Pristine, number: u64, content: &mut [u8], choices: &mut Choices<'_>) {
    let own: Vec<_> = pristine.batches.iter().filter(|batch| batch.0 == number).collect();
    let batch = usize::from(choices.byte()) % own.len().max(1);
    let Some((_, at, length, _)) = own.get(batch) else { return };
    let (at_field, len) = FIELDS[usize::from(choices.byte()) % FIELDS.len()];
    let value = match choices.byte() {
        small if usize::from(small) < NUMBERS.len() => NUMBERS[usize::from(small)],
        255 => choices.long(),
        small => u64::from(small),
    };
    let ends = choices.byte() % 3;
    for (is_wanted, start) in [(ends != 1, *at), (ends != 2, at + length - HEADER_BYTES)] {
        if let (true, Some(header)) = (is_wanted, content.get_mut(start..start + HEADER_BYTES)) {
            header[at_field..at_field + len].copy_from_slice(&value.to_le_bytes()[..len]);
            seal(header);
        }
    }
}

/// Makes batches believe that they lie in another segment.
fn renumber(content: &mut [u8], number: u64) {
    for block in content.chunks_mut(4096) {
        let foot = block.len().saturating_sub(HEADER_BYTES);
        for start in [0, foot] {
            let Some(header) = block.get_mut(start..start + HEADER_BYTES) else { continue };
            if header.starts_with(b"FLTJRNL") {
                header[24..32].copy_from_slice(&number.to_le_bytes());
                seal(header);
            }
        }
    }
}

fn seal(header: &mut [u8]) {
    let crc = crc32c::crc32c(&header[12..]);
    header[8..12].copy_from_slice(&crc.to_le_bytes());
}

fn check(pristine: &Pristine, files: &Files, recovery: &Recovery, found: &Model) {
    for (id, group) in found {
        for (entry, index) in group.entries.iter().zip(group.base.0 + 1..) {
            assert_eq!(entry.1, payload(id.0, index, entry.0), "{id} at {index}");
        }
    }
    let is_harmed = recovery.corrupt.iter().any(|corruption| corruption.harmful);
    let may_be = |model: &Model| {
        let all_there = is_harmed || model.keys().eq(found.keys());
        // Of a group that is said to have died only a suspect may be left.
        let is_right = |(id, group): (&GroupId, &support::ModelGroup)| {
            (is_harmed && group.suspect) || model.get(id) == Some(group)
        };
        all_there && found.iter().all(is_right)
    };
    let proven = pristine.proven(files);
    let is_some = pristine.states[proven..].iter().any(may_be);
    assert!(is_some, "no state after {proven} rounds or more is this: {found:?} {recovery:?}");
}

/// Life goes on, and what is written now lasts.
fn go_on(fs: &SimFs, mut journal: Journal, mut model: Model, is_forged: bool) {
    for (id, group) in &mut model {
        // A forger's indexes may leave no room.
        if group.last() >= 1 << 60 {
            continue;
        }
        let (index, term) = (group.last() + 1, 1 << 40);
        commit(&mut journal, &[append(id.0, term, index, index), state(id.0, "later")]);
        group.entries.push((term, payload(id.0, index, term)));
        group.state = Some(Bytes::from("later"));
    }
    settle(&mut journal);
    drop(journal);
    fs.crash();
    let (journal, recovery) = open(fs);
    let found = observed(&journal, &recovery);
    // Of two sealed batches of one number, which one counts may change when segments are freed.
    if !is_forged {
        assert_eq!(found, model, "written after damage");
    }
}
