//! Finds the few operations that already contradict each other.
//!
//! Whatever is left out must not make a right history look wrong. These may go:
//!
//! * what was called after some moment, if what had not returned by then is taken as uncertain: the
//!   beginning of a right history is right;
//! * what had returned before some moment, if what was under way then is taken as uncertain, and
//!   the rest cannot be explained whatever the key held at that moment;
//! * what changes nothing: fewer questions are easier to explain;
//! * a change, if nobody who stays needs what it leaves and nobody minds what is there in between:
//!   without it the order that explained the others still does.
//!
//! So what remains is a contradiction of the whole history too.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::Contradiction;
use super::model::{Call, Content, Deed, KeyHistory, NEVER, NOTHING, UNNAMED};
use super::search::{Found, Limits, search};

/// How long looking for a shorter contradiction may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// For each single trial while shrinking; what cannot be judged within it stays.
const LIMITS: Limits = Limits { memory_bytes: 64 << 20, steps: 20_000_000 };

/// Works out why `history`, which cannot be explained, cannot.
pub fn shrink(history: &KeyHistory) -> Contradiction {
    let deadline = Instant::now() + PATIENCE;
    let beginning = shortest_beginning(history);
    let last = beginning.calls.iter().filter(|call| call.is_certain()).max_by_key(|call| call.ret);
    let last = last.expect("without certain operations everything can be explained").line;
    let mut part = match shortest_end(&beginning) {
        Some((begin, end)) => Part { history: end, cut_at: Some(begin), last },
        None => Part { history: beginning.clone(), cut_at: None, last },
    };
    let mut piece = part.history.calls.len().div_ceil(2);
    while Instant::now() < deadline {
        let before = part.history.calls.len();
        part.leave_out(piece, deadline);
        match (piece, part.history.calls.len() < before) {
            (1, false) => break,
            (1, true) => {}
            _ => piece = piece.div_ceil(2),
        }
    }
    part.bring_back_origins(&beginning);
    part.bring_back_returns(history);
    let left_out = history.calls.len() - part.history.calls.len();
    Contradiction { history: part.history, is_cut: part.cut_at.is_some(), last, left_out }
}

/// A part of a history that cannot be explained.
struct Part {
    history: KeyHistory,
    /// What was over at this time was cut off; what the key held then is not known.
    cut_at: Option<u64>,
    /// The line that must stay.
    last: usize,
}

impl Part {
    fn is_contradiction(&self, history: &KeyHistory) -> bool {
        match self.cut_at {
            Some(_) => contradicts_itself(history),
            None => search(history, LIMITS) == Found::Unexplained,
        }
    }

    /// Tries to leave out each `piece` calls that follow each other, or as much of them as may go.
    fn leave_out(&mut self, piece: usize, deadline: Instant) {
        let mut end = self.history.calls.len();
        while end > 0 && Instant::now() < deadline {
            let begin = end.saturating_sub(piece);
            let fewer = without(&self.history, begin..end, self.last);
            if fewer.calls.len() < self.history.calls.len() && self.is_contradiction(&fewer) {
                self.history = fewer;
            }
            end = begin.min(self.history.calls.len());
        }
    }

    /// Shows where contents came from that nobody in the part leaves, if it stays a contradiction.
    fn bring_back_origins(&mut self, whole: &KeyHistory) {
        let needed: BTreeSet<Content> =
            self.history.calls.iter().filter_map(|call| call.deed.needs()).collect();
        for content in needed {
            let leaves = |call: &&Call| call.deed.leaves() == Some(content);
            if content == NOTHING || self.history.calls.iter().any(|call| leaves(&call)) {
                continue;
            }
            let Some(origin) = whole.calls.iter().find(leaves) else { continue };
            let mut calls = self.history.calls.clone();
            calls.push(*origin);
            calls.sort_by_key(|call| (call.call, call.ret, call.line));
            let more = self.history.with(calls);
            if self.is_contradiction(&more) {
                self.history = more;
            }
        }
    }

    /// What had not returned at the end of the part may have returned later: that makes nothing
    /// easier to explain, and a truer picture.
    fn bring_back_returns(&mut self, whole: &KeyHistory) {
        for call in &mut self.history.calls {
            let told = whole.calls.iter().find(|told| told.line == call.line);
            let was_under_way = self.cut_at.is_some_and(|cut_at| call.call < cut_at);
            if let Some(told) = told.filter(|_| !was_under_way) {
                call.ret = told.ret;
            }
        }
    }
}

/// The shortest beginning that cannot be explained.
fn shortest_beginning(history: &KeyHistory) -> KeyHistory {
    let mut ends: Vec<u64> = history.calls.iter().map(|call| call.ret).collect();
    ends.retain(|end| *end != NEVER);
    ends.sort_unstable();
    ends.dedup();
    let is_wrong = |end: u64| search(&until(history, end), LIMITS) == Found::Unexplained;
    // Where a search gives up, the end is taken as too early: the result is still wrong, not the
    // shortest.
    let wrong_from = ends.partition_point(|end| !is_wrong(*end));
    match ends.get(wrong_from) {
        Some(end) => until(history, *end),
        None => history.clone(),
    }
}

/// What was known at the time `end`.
fn until(history: &KeyHistory, end: u64) -> KeyHistory {
    let called = history.calls.iter().filter(|call| call.call <= end);
    let known = called.filter(|call| call.ret <= end || !call.deed.changes_nothing());
    let calls = known.map(|call| match call.ret <= end {
        true => *call,
        false => Call { ret: NEVER, ..*call },
    });
    history.with(calls.collect())
}

/// What was not yet over at the time `begin`, whatever the key held then.
fn since(history: &KeyHistory, begin: u64) -> KeyHistory {
    let left = history.calls.iter().filter(|call| call.ret >= begin);
    let known = left.filter(|call| call.call >= begin || !call.deed.changes_nothing());
    let calls = known.map(|call| match call.call >= begin {
        true => *call,
        false => Call { ret: NEVER, ..*call },
    });
    KeyHistory { initial: UNNAMED, ..history.with(calls.collect()) }
}

/// A short end that cannot be explained whatever the key held before, and when it begins; `None` if
/// only the whole cannot.
fn shortest_end(history: &KeyHistory) -> Option<(u64, KeyHistory)> {
    let mut begins: Vec<u64> = history.calls.iter().map(|call| call.call).collect();
    begins.dedup();
    // From the end in growing steps, because a long end has many things that it may have begun with.
    let mut enough = 1;
    while enough < begins.len() {
        let end = since(history, begins[begins.len() - enough]);
        if contradicts_itself(&end) {
            let shorter = enough / 2 + 1..enough;
            let lengths: Vec<usize> = shorter.collect();
            let at = lengths.partition_point(|length| {
                !contradicts_itself(&since(history, begins[begins.len() - length]))
            });
            let length = lengths.get(at).copied().unwrap_or(enough);
            let begin = begins[begins.len() - length];
            return Some((begin, since(history, begin)));
        }
        enough *= 2;
    }
    None
}

/// True if `history` cannot be explained whatever the key held before it.
fn contradicts_itself(history: &KeyHistory) -> bool {
    let starts = starts(history);
    let cannot = |initial: &Content| {
        let history = KeyHistory { initial: *initial, ..history.clone() };
        search(&history, LIMITS) == Found::Unexplained
    };
    starts.is_some_and(|starts| starts.iter().all(cannot))
}

/// All that may make a difference as the first content; `None` if that is too much.
fn starts(history: &KeyHistory) -> Option<BTreeSet<Content>> {
    let mut starts = BTreeSet::from([NOTHING, UNNAMED]);
    for call in &history.calls {
        match call.deed {
            Deed::Find(needed) | Deed::Replace(needed, _) => starts.insert(needed),
            Deed::Add(by, Some(sum)) => starts.insert(sum.checked_sub(by)?),
            Deed::Add(_, None) => return None,
            Deed::Miss(_) | Deed::Leave(_) | Deed::Remove => continue,
        };
    }
    Some(starts)
}

/// `history` without those of the calls `range` that may go.
fn without(history: &KeyHistory, range: Range<usize>, last: usize) -> KeyHistory {
    let may_go: Vec<bool> = (0..)
        .zip(&history.calls)
        .map(|(at, call)| range.contains(&at) && call.line != last)
        .collect();
    let calls = || history.calls.iter().zip(&may_go);
    // Somebody who stays may depend on anything that is there: then only what changes nothing goes.
    let minds = history.is_counter
        || calls().any(|(call, may_go)| {
            call.deed.is_sensitive() && !(*may_go && call.deed.changes_nothing())
        });
    let mut stays: Vec<bool> =
        calls().map(|(call, may_go)| !may_go || (minds && !call.deed.changes_nothing())).collect();
    // What stays may need what others leave, which then stays too and may need more.
    loop {
        let staying = history.calls.iter().zip(&stays).filter(|(_, stays)| **stays);
        let needed: HashSet<Content> = staying.filter_map(|(call, _)| call.deed.needs()).collect();
        let mut has_grown = false;
        for (call, stays) in history.calls.iter().zip(&mut stays) {
            let is_needed = call.deed.leaves().is_some_and(|left| needed.contains(&left));
            if !*stays && is_needed {
                (*stays, has_grown) = (true, true);
            }
        }
        if !has_grown {
            break;
        }
    }
    let calls = history.calls.iter().zip(stays).filter(|(_, stays)| *stays);
    history.with(calls.map(|(call, _)| *call).collect())
}
