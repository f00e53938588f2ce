//! Says in words why a few operations contradict each other.
//!
//! The words name the likeliest promise that was broken; what is certain is only that no order
//! explains the operations.

use super::Contradiction;
use super::diagram::{describe, name};
use super::model::{Call, Content, Deed, KeyHistory};

/// One sentence about `contradiction`.
pub fn reason(contradiction: &Contradiction) -> String {
    let history = &contradiction.history;
    let first = if contradiction.is_cut { None } else { unwritten(history) };
    first
        .or_else(|| too_early(history))
        .or_else(|| replaced_twice(contradiction))
        .or_else(|| gone_back(history))
        .or_else(|| overwritten(history))
        .or_else(|| miscounted(history))
        .unwrap_or_else(|| {
            "no order of these operations explains what each of them found".to_owned()
        })
}

fn finders(history: &KeyHistory) -> impl Iterator<Item = (&Call, Content)> {
    let certain = history.calls.iter().filter(|call| call.is_certain());
    certain.filter_map(|call| Some((call, call.deed.needs()?)))
}

fn leavers(history: &KeyHistory, content: Content) -> impl Iterator<Item = &Call> {
    history.calls.iter().filter(move |call| call.deed.leaves() == Some(content))
}

/// "client 3 (line 7) read \"a\"".
fn who(history: &KeyHistory, call: &Call) -> String {
    format!("client {} (line {}) {}", call.client, call.line, describe(history, call))
}

fn unwritten(history: &KeyHistory) -> Option<String> {
    if history.is_counter {
        return None;
    }
    let (finder, content) = finders(history).find(|(_, content)| {
        *content != history.initial && leavers(history, *content).count() == 0
    })?;
    Some(format!(
        "{}, but no operation that may have had an effect leaves {}: it was refused, it is damaged, \
         or it belongs to another key (a key that was not empty before the history wants --initial \
         any)",
        who(history, finder),
        name(history, content)
    ))
}

fn too_early(history: &KeyHistory) -> Option<String> {
    let (finder, content) = finders(history).find(|(finder, content)| {
        *content != history.initial
            && leavers(history, *content).count() > 0
            && leavers(history, *content).all(|leaver| finder.precedes(leaver))
    })?;
    let leaver = leavers(history, content).next()?;
    Some(format!("{} before {} had begun", who(history, finder), who(history, leaver)))
}

fn replaced_twice(contradiction: &Contradiction) -> Option<String> {
    let Contradiction { history, is_cut, .. } = contradiction;
    let replaces = |call: &&Call| call.is_certain() && matches!(call.deed, Deed::Replace(..));
    let replaced = |content| {
        let calls = history.calls.iter().filter(replaces);
        calls.filter(move |call| call.deed.needs() == Some(content)).collect::<Vec<&Call>>()
    };
    let (content, calls) = finders(history).find_map(|(_, content)| {
        let left = leavers(history, content).count();
        let was_there = content == history.initial || *is_cut && left == 0;
        let times = left + usize::from(was_there);
        let calls = replaced(content);
        (times == 1 && calls.len() > 1).then_some((content, calls))
    })?;
    let (one, other) = (calls[0], calls[1]);
    Some(format!(
        "{} was there once, but was replaced twice: {} and {}; one of the two updates is lost",
        name(history, content),
        who(history, one),
        who(history, other)
    ))
}

/// True if `content` was there for the last time before `after` had begun.
fn is_over(history: &KeyHistory, content: Content, overwriter: &Call) -> bool {
    overwriter.is_certain()
        && overwriter.deed.leaves().is_some_and(|left| left != content)
        && leavers(history, content).all(|leaver| leaver.precedes(overwriter))
}

/// An old value after a newer one had been found.
fn gone_back(history: &KeyHistory) -> Option<String> {
    for (late, old) in finders(history) {
        for (early, new) in finders(history) {
            if new == old || !early.precedes(late) {
                continue;
            }
            let is_newer = leavers(history, new).all(|leaver| is_over(history, old, leaver));
            if is_newer && leavers(history, new).count() == 1 {
                return Some(format!(
                    "{} after {}, which is newer: the read is stale, or what wrote {} took effect \
                     twice",
                    who(history, late),
                    who(history, early),
                    name(history, old)
                ));
            }
        }
    }
    None
}

/// An old value after a newer one had been acknowledged.
fn overwritten(history: &KeyHistory) -> Option<String> {
    for (late, old) in finders(history) {
        let over =
            history.calls.iter().find(|call| is_over(history, old, call) && call.precedes(late));
        let Some(over) = over else { continue };
        let left = over.deed.leaves()?;
        let seen = finders(history).any(|(_, content)| content == left);
        let verdict = match seen {
            true => "the read is stale",
            false => "the read is stale, or that update is lost",
        };
        return Some(format!(
            "{} although {} and was acknowledged before: {verdict}",
            who(history, late),
            who(history, over)
        ));
    }
    None
}

fn miscounted(history: &KeyHistory) -> Option<String> {
    let sum = |call: &Call| match call.deed {
        Deed::Add(_, sum) => sum.filter(|_| call.is_certain()),
        _ => None,
    };
    let mut sums: Vec<(i64, &Call)> =
        history.calls.iter().filter_map(|call| Some((sum(call)?, call))).collect();
    sums.sort_by_key(|(sum, call)| (*sum, call.line));
    if let Some(pair) = sums.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Some(format!(
            "{} and {} cannot both be: one of them is lost",
            who(history, pair[0].1),
            who(history, pair[1].1)
        ));
    }
    history.is_counter.then(|| {
        "no order of the additions gives these numbers: one counted twice, or one that was refused \
         counted, or an answer is stale"
            .to_owned()
    })
}
