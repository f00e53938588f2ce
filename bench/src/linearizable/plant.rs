//! Breaks a promise in a right history, to see that the judge notices.
//!
//! Each change makes a history that no correct store could have given, whatever else is in it:
//! only operations of certain outcome are used, whose order in time leaves no doubt.

use std::collections::HashMap;

use clap::ValueEnum;
use serde_json::Value;

use crate::history::{Deed, Line};

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Planted {
    /// A read answers with a value that had been overwritten before it began.
    StaleRead,
    /// An acknowledged write is never seen: whoever saw it sees what was there before.
    LostUpdate,
    /// A write takes effect a second time, after a later one was seen; an increment counts twice.
    DoubleApply,
}

/// Plants `planted` somewhere in the middle of the history; returns the number of the first line
/// that it changed, or `None` if no key of the history has the operations for it.
pub fn plant(lines: &mut [(usize, Line)], planted: Planted) -> Option<usize> {
    let mut keys: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, (_, line)) in lines.iter().enumerate() {
        keys.entry(line.k.clone()).or_default().push(at);
    }
    let mut keys: Vec<Vec<usize>> = keys.into_values().collect();
    let middle = lines.len() / 2;
    // Keys with operations near the middle of the file first.
    keys.sort_by_key(|key| (key[key.len() / 2].abs_diff(middle), key[0]));
    keys.iter().find_map(|key| plant_in_key(lines, key, planted))
}

fn plant_in_key(lines: &mut [(usize, Line)], key: &[usize], planted: Planted) -> Option<usize> {
    if planted == Planted::DoubleApply
        && let Some(changed) = count_twice(lines, key)
    {
        return Some(changed);
    }
    let scene = Scene::find(lines, key, planted)?;
    for at in &scene.changed {
        lines[*at].1.r = Some(Value::String(scene.old.clone()));
    }
    scene.changed.iter().map(|at| lines[*at].0).min()
}

/// Reads that shall answer with an old value.
struct Scene {
    old: String,
    changed: Vec<usize>,
}

/// A write of certain outcome whose value no other line writes.
struct Written<'a> {
    value: &'a str,
    line: &'a Line,
}

impl Scene {
    fn find(lines: &[(usize, Line)], key: &[usize], planted: Planted) -> Option<Scene> {
        let written = written(lines, key);
        let reads: Vec<(usize, &Line)> = key
            .iter()
            .map(|at| (*at, &lines[*at].1))
            .filter(|(_, line)| line.f == "get" && !line.is_unknown())
            .collect();
        let middle = written.len() / 2;
        let pairs =
            (0..written.len().saturating_sub(1)).map(|at| (at + middle) % (written.len() - 1));
        for pair in pairs {
            let (old, new) = (&written[pair], &written[pair + 1]);
            if old.line.ret >= new.line.call {
                continue;
            }
            let reads_new =
                |line: &Line| line.r.as_ref().and_then(Value::as_str) == Some(new.value);
            let after = |line: &Line, time: u64| line.call > time;
            let seen = reads.iter().find(|(_, line)| reads_new(line) && after(line, new.line.ret));
            let Some((seen_at, seen)) = seen else { continue };
            let changed = match planted {
                Planted::StaleRead => vec![*seen_at],
                Planted::LostUpdate if is_replaced(lines, key, new.value) => continue,
                Planted::LostUpdate => {
                    let all = reads.iter().filter(|(_, line)| reads_new(line));
                    all.map(|(at, _)| *at).collect()
                }
                Planted::DoubleApply => {
                    let later = reads.iter().find(|(_, line)| after(line, seen.ret));
                    let Some((later, _)) = later else { continue };
                    vec![*later]
                }
            };
            return Some(Scene { old: old.value.to_owned(), changed });
        }
        None
    }
}

/// In the order of their calls.
fn written<'a>(lines: &'a [(usize, Line)], key: &[usize]) -> Vec<Written<'a>> {
    let mut times: HashMap<&str, usize> = HashMap::new();
    let mut puts = Vec::new();
    for at in key {
        let line = &lines[*at].1;
        let Some(value) = line.v.as_ref().and_then(Value::as_str) else { continue };
        *times.entry(value).or_default() += 1;
        if line.f == "put" && !line.is_unknown() {
            puts.push(Written { value, line });
        }
    }
    puts.retain(|put| times[put.value] == 1);
    puts.sort_by_key(|put| put.line.call);
    puts
}

/// True if anything but a get depends on `value`.
fn is_replaced(lines: &[(usize, Line)], key: &[usize], value: &str) -> bool {
    key.iter().any(|at| {
        let line = &lines[*at].1;
        let is = |field: &Option<Value>| field.as_ref().and_then(Value::as_str) == Some(value);
        line.f == "rmw" && is(&line.r) || line.f == "cas" && is(&line.old)
    })
}

/// Lets the addition in the middle of a key count twice for all that come after it.
fn count_twice(lines: &mut [(usize, Line)], key: &[usize]) -> Option<usize> {
    let mut sums = Vec::new();
    for at in key {
        let line = &lines[*at].1;
        // Somebody else's addition of unknown outcome could explain the difference.
        if line.f == "incr" && line.is_unknown() {
            return None;
        }
        if let Ok(Deed::Add { by, sum: Some(sum) }) = line.deed() {
            sums.push((sum, by));
        }
    }
    sums.sort_unstable();
    let (twice, by) = *sums.get(sums.len() / 2)?;
    // The last one would have nobody who sees it.
    if by <= 0 || sums.last() == Some(&(twice, by)) {
        return None;
    }
    let mut first = None;
    for at in key {
        let (number, line) = &mut lines[*at];
        let told = line.r.as_ref().and_then(|told| match told {
            Value::String(text) => text.parse().ok(),
            told => told.as_i64(),
        });
        if let Some(told) = told.filter(|told| *told > twice) {
            line.r = Some(match &line.r {
                Some(Value::String(_)) => Value::from((told + by).to_string()),
                _ => Value::from(told + by),
            });
            first = Some(first.map_or(*number, |first: usize| first.min(*number)));
        }
    }
    first
}
