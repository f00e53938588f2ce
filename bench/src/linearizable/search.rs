//! Looks for an order of the operations on one key that explains what each of them found.
//!
//! The search is that of Wing and Gong with the improvements of Lowe: operations are taken one by
//! one out of a list of calls and returns in the order of time. Whatever was called before the first
//! return that is left can be next. What was tried in vain is remembered: which operations were
//! taken, and what the key held.
//!
//! Most keys need no choice at all:
//!
//! * What changes nothing is taken as soon as it fits; it can only be in the way later.
//! * While somebody still has to find what is there, and nobody is left who could bring it again,
//!   only those who find it can be next.
//! * A change is taken for good if everybody who has to find what it leaves can be taken right after
//!   it, nobody is left who needs what was there before, and nobody minds what is there in between:
//!   in any explanation it could be moved to here together with them.
//!
//! So a key that is read and written with values of their own is judged without a single trial,
//! whatever the number of clients. Only removals, refused swaps, counters and repeated values
//! multiply the possibilities; then the search is bounded.
//!
//! Invariants:
//!
//! * `Explained` and `Unexplained` are certain, but for a collision of 128-bit hashes among what was
//!   tried.
//! * What the search remembers stays within [`Limits::memory_bytes`].

use std::collections::{HashMap, HashSet};

use super::model::{Call, Content, Deed, KeyHistory};

/// How far a search may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The memory for what was tried, of one key at a time.
    pub memory_bytes: usize,
    /// How many operations may be looked at, for one key.
    pub steps: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { memory_bytes: 512 << 20, steps: 2_000_000_000 }
    }
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is such an order.
    Explained,
    /// There is none.
    Unexplained,
    /// It would take more than the limits allow.
    GaveUp,
}

/// Searches an order for `history`.
pub fn search(history: &KeyHistory, limits: Limits) -> Found {
    Search::new(history, limits).run()
}

/// Bytes that one remembered trial takes, with the free places of its table.
const TRIAL_BYTES: usize = 40;

/// The end of the list.
const END: u32 = u32::MAX;

struct Search<'a> {
    calls: &'a [Call],
    limits: Limits,
    list: List,
    content: Content,
    /// Calls that must be taken and are left.
    certain_left: usize,
    /// By content: calls left that need it, and that leave it.
    counts: HashMap<Content, Counts>,
    /// Calls left for which [`Deed::is_sensitive`].
    sensitive_left: usize,
    has_sums: bool,
    /// What was taken, as a hash that does not depend on the order.
    taken: u128,
    /// Taken calls and the content before each of them.
    trail: Vec<(u32, Content)>,
    forks: Vec<Fork>,
    forks_bytes: usize,
    tried: HashSet<u128>,
    steps: u64,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    /// Calls that need it, certain and uncertain.
    needed: usize,
    /// Of these, the certain ones.
    needed_certainly: usize,
    /// Calls that leave it.
    left: usize,
}

/// A place where several calls may be next.
struct Fork {
    trail: usize,
    choices: Vec<u32>,
    next: usize,
}

impl<'a> Search<'a> {
    fn new(history: &'a KeyHistory, limits: Limits) -> Search<'a> {
        let mut search = Search {
            calls: &history.calls,
            limits,
            list: List::new(&history.calls),
            content: history.initial,
            certain_left: 0,
            counts: HashMap::new(),
            sensitive_left: 0,
            has_sums: history.is_counter,
            taken: 0,
            trail: Vec::with_capacity(history.calls.len()),
            forks: Vec::new(),
            forks_bytes: 0,
            tried: HashSet::new(),
            steps: 0,
        };
        for call in &history.calls {
            search.count(call, 1);
        }
        search
    }

    fn run(mut self) -> Found {
        loop {
            self.settle();
            if self.certain_left == 0 {
                return Found::Explained;
            }
            let choices = self.choices();
            let next = match self.safe(&choices) {
                true => true,
                false => self.fork(choices),
            };
            if self.steps > self.limits.steps || self.memory_bytes() > self.limits.memory_bytes {
                return Found::GaveUp;
            }
            if !next && !self.back() {
                return Found::Unexplained;
            }
        }
    }

    /// Takes whatever fits and changes nothing.
    fn settle(&mut self) {
        let mut entry = self.list.first();
        while let Some(at) = self.list.call_at(entry) {
            self.steps += 1;
            let after = self.list.next(entry);
            let call = &self.calls[at as usize];
            if call.deed.changes_nothing() && call.deed.step(self.content).is_some() {
                // Its return, which goes too, may be the entry after it.
                let is_own = self.list.is_return_of(after, at);
                entry = if is_own { self.list.next(after) } else { after };
                self.take(at);
            } else {
                entry = after;
            }
        }
    }

    /// The calls that may be next and change something, the most urgent first.
    fn choices(&mut self) -> Vec<u32> {
        let here = self.counts_of(self.content);
        let only_finders = !self.has_sums && here.left == 0 && here.needed_certainly > 0;
        let mut choices = Vec::new();
        let mut entry = self.list.first();
        while let Some(at) = self.list.call_at(entry) {
            self.steps += 1;
            entry = self.list.next(entry);
            let call = &self.calls[at as usize];
            let Some(after) = call.deed.step(self.content) else { continue };
            // The last finder may be one that changes it.
            let is_last_finder = call.is_certain()
                && call.deed.needs() == Some(self.content)
                && here.needed_certainly == 1;
            let waits = only_finders && !is_last_finder;
            let helps = call.is_certain() || (after != self.content && self.is_useful(call.deed));
            if !call.deed.changes_nothing() && !waits && helps {
                choices.push(at);
            }
        }
        choices.sort_by_key(|at| (self.calls[*at as usize].ret, *at));
        choices
    }

    /// True if taking an uncertain call may explain something.
    fn is_useful(&self, deed: Deed) -> bool {
        let is_needed = |content| self.counts_of(content).needed > 0;
        self.sensitive_left > 0 || self.has_sums || deed.leaves().is_none_or(is_needed)
    }

    /// Takes the first of `choices` that can be taken for good.
    fn safe(&mut self, choices: &[u32]) -> bool {
        if let [only] = choices {
            self.take(*only);
            return true;
        }
        let minds = self.sensitive_left > 0 || self.has_sums;
        if minds || self.counts_of(self.content).needed > 0 {
            return false;
        }
        for at in choices {
            let mark = self.trail.len();
            self.take(*at);
            self.settle();
            if self.counts_of(self.content).needed == 0 {
                return true;
            }
            self.undo(mark);
        }
        false
    }

    /// Takes the first of several choices, unless all this was tried before.
    fn fork(&mut self, choices: Vec<u32>) -> bool {
        let Some(first) = choices.first().copied() else { return false };
        if !self.tried.insert(self.taken ^ spread(self.content as u64 ^ CONTENT_SALT)) {
            return false;
        }
        self.forks_bytes += choices.capacity() * size_of::<u32>() + size_of::<Fork>();
        self.forks.push(Fork { trail: self.trail.len(), choices, next: 1 });
        self.take(first);
        true
    }

    /// Goes back to the last fork with a choice left, and takes that; false if there is none.
    fn back(&mut self) -> bool {
        while let Some(fork) = self.forks.last_mut() {
            let (mark, choice) = (fork.trail, fork.choices.get(fork.next).copied());
            fork.next += 1;
            self.undo(mark);
            if let Some(choice) = choice {
                self.take(choice);
                return true;
            }
            if let Some(fork) = self.forks.pop() {
                self.forks_bytes -= fork.choices.capacity() * size_of::<u32>() + size_of::<Fork>();
            }
        }
        false
    }

    fn take(&mut self, at: u32) {
        let call = &self.calls[at as usize];
        let after = call.deed.step(self.content).expect("only what fits is taken");
        self.trail.push((at, self.content));
        self.content = after;
        self.taken ^= spread(u64::from(at));
        self.list.remove(at);
        self.count(call, -1);
    }

    fn undo(&mut self, mark: usize) {
        while self.trail.len() > mark {
            let (at, before) = self.trail.pop().expect("it is longer than the mark");
            self.content = before;
            self.taken ^= spread(u64::from(at));
            self.list.put_back(at);
            self.count(&self.calls[at as usize], 1);
        }
    }

    /// Counts `call` as left, or no longer.
    fn count(&mut self, call: &Call, change: isize) {
        let certain = if call.is_certain() { change } else { 0 };
        let apply = |count: &mut usize, change| *count = count.wrapping_add_signed(change);
        apply(&mut self.certain_left, certain);
        if call.deed.is_sensitive() {
            apply(&mut self.sensitive_left, change);
        }
        if let Some(needed) = call.deed.needs() {
            let counts = self.counts.entry(needed).or_default();
            apply(&mut counts.needed, change);
            apply(&mut counts.needed_certainly, certain);
        }
        if let Some(left) = call.deed.leaves() {
            apply(&mut self.counts.entry(left).or_default().left, change);
        }
    }

    fn counts_of(&self, content: Content) -> Counts {
        self.counts.get(&content).copied().unwrap_or_default()
    }

    fn memory_bytes(&self) -> usize {
        self.tried.len() * TRIAL_BYTES + self.forks_bytes
    }
}

/// Keeps contents apart from calls among the hashes.
const CONTENT_SALT: u64 = 0x5bd1_e995_97f4_a7c1;

/// 128 bits that have nothing to do with each other, for each number.
fn spread(number: u64) -> u128 {
    let mix = |mut mixed: u64| {
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let one = mix(number.wrapping_add(0x9e37_79b9_7f4a_7c15));
    let other = mix(one ^ number.rotate_left(32) ^ 0xd6e8_feb8_6659_fd93);
    u128::from(one) << 64 | u128::from(other)
}

/// Calls and returns in the order of time, from which operations are taken and put back.
///
/// Entry `2 i` is the call of operation `i`, entry `2 i + 1` its return, which uncertain ones lack.
struct List {
    next: Vec<u32>,
    previous: Vec<u32>,
    first: u32,
    has_return: Vec<bool>,
}

impl List {
    fn new(calls: &[Call]) -> List {
        // At the same time calls come first: clocks are not so fine that more could be concluded.
        let mut entries: Vec<(u64, bool, u32)> = Vec::with_capacity(calls.len() * 2);
        for (at, call) in (0_u32..).zip(calls) {
            entries.push((call.call, false, 2 * at));
            if call.is_certain() {
                entries.push((call.ret, true, 2 * at + 1));
            }
        }
        entries.sort_unstable();
        let mut list = List {
            next: vec![END; calls.len() * 2],
            previous: vec![END; calls.len() * 2],
            first: entries.first().map_or(END, |(_, _, entry)| *entry),
            has_return: calls.iter().map(Call::is_certain).collect(),
        };
        for pair in entries.windows(2) {
            let (one, other) = (pair[0].2, pair[1].2);
            list.next[one as usize] = other;
            list.previous[other as usize] = one;
        }
        list
    }

    fn first(&self) -> u32 {
        self.first
    }

    fn next(&self, entry: u32) -> u32 {
        self.next[entry as usize]
    }

    /// The operation that `entry` is the call of; `None` for a return, and at the end.
    fn call_at(&self, entry: u32) -> Option<u32> {
        (entry != END && entry.is_multiple_of(2)).then_some(entry / 2)
    }

    fn is_return_of(&self, entry: u32, at: u32) -> bool {
        entry == 2 * at + 1
    }

    fn remove(&mut self, at: u32) {
        self.unlink(2 * at);
        if self.has_return[at as usize] {
            self.unlink(2 * at + 1);
        }
    }

    /// Undoes the last removal that is not yet undone.
    fn put_back(&mut self, at: u32) {
        if self.has_return[at as usize] {
            self.link(2 * at + 1);
        }
        self.link(2 * at);
    }

    fn unlink(&mut self, entry: u32) {
        let (previous, next) = (self.previous[entry as usize], self.next[entry as usize]);
        match previous {
            END => self.first = next,
            _ => self.next[previous as usize] = next,
        }
        if next != END {
            self.previous[next as usize] = previous;
        }
    }

    fn link(&mut self, entry: u32) {
        let (previous, next) = (self.previous[entry as usize], self.next[entry as usize]);
        match previous {
            END => self.first = entry,
            _ => self.next[previous as usize] = entry,
        }
        if next != END {
            self.previous[next as usize] = entry;
        }
    }
}
