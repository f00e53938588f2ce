//! Draws a few operations over time.
//!
//! ```text
//! client 3   ├─────┤                    put "one"     0.001 to 0.004 ms
//! client 1            ├─────┤           put "two"     0.010 to 0.012 ms
//! client 7                     ├─────┤  get → "one"  0.020 to 0.030 ms  ◀ cannot be explained
//! ```
//!
//! Only the order of the ends counts on the line of time, not their distance.

use std::fmt::Write;

use super::Contradiction;
use super::model::{Call, Content, Deed, KeyHistory, NEVER, NOTHING};

/// More operations are not drawn.
const ROWS_MAX: usize = 24;

/// Values are cut after so many characters.
const VALUE_CHARS_MAX: usize = 48;

/// The picture of `contradiction`, one line an operation.
pub fn draw(contradiction: &Contradiction) -> String {
    let Contradiction { history, last, .. } = contradiction;
    let calls = &history.calls;
    // Of too many the latest are drawn: there is the contradiction.
    let left_out = calls.len().saturating_sub(ROWS_MAX);
    let drawn = &calls[left_out..];
    let mut times: Vec<u64> = drawn.iter().flat_map(|call| [call.call, call.ret]).collect();
    times.retain(|time| *time != NEVER);
    times.sort_unstable();
    times.dedup();
    let origin = times.first().copied().unwrap_or(0);
    let column = match times.len() {
        0..=12 => 5,
        13..=24 => 3,
        _ => 2,
    };
    let width = (times.len() + 1) * column;
    let at = |time: u64| times.partition_point(|other| *other < time) * column;
    let deeds: Vec<String> = drawn.iter().map(|call| describe(history, call)).collect();
    let deed_width = deeds.iter().map(|deed| deed.chars().count()).max().unwrap_or(0);

    let mut picture = String::new();
    if left_out > 0 {
        writeln!(picture, "  … {left_out} earlier operations are not drawn").expect("a String");
    }
    for (call, deed) in drawn.iter().zip(&deeds) {
        let begin = at(call.call);
        let (bar, to) = match call.ret {
            NEVER => (format!("├{}", "╌".repeat(width - begin)), "nobody knows".to_owned()),
            ret => {
                (format!("├{}┤", "─".repeat(at(ret).max(begin + 1) - begin - 1)), ms(ret, origin))
            }
        };
        let mark = if call.line == *last { "  ◀ cannot be explained" } else { "" };
        let (indent, fill) = (" ".repeat(begin), width + 2 - begin - bar.chars().count());
        writeln!(
            picture,
            "  {:<12}{indent}{bar}{}{deed:<deed_width$}  {} to {to}, line {}{mark}",
            format!("client {}", call.client),
            " ".repeat(fill),
            ms(call.call, origin),
            call.line,
        )
        .expect("a String takes everything");
    }
    picture
}

/// What a call did, in a few words.
pub fn describe(history: &KeyHistory, call: &Call) -> String {
    let name = |content| name(history, content);
    let words = match call.deed {
        Deed::Find(found) => format!("read {}", name(found)),
        Deed::Miss(missed) => format!("did not swap: no {}", name(missed)),
        Deed::Leave(NOTHING) => "deleted".to_owned(),
        Deed::Leave(left) => format!("wrote {}", name(left)),
        Deed::Remove => "deleted something".to_owned(),
        Deed::Replace(found, left) => format!("swapped {} for {}", name(found), name(left)),
        Deed::Add(by, Some(sum)) => format!("added {by}, sum {sum}"),
        Deed::Add(by, None) => format!("added {by}"),
    };
    match call.is_certain() {
        true => words,
        false => format!("perhaps {words}"),
    }
}

/// The name of a content, cut if it is long.
pub fn name(history: &KeyHistory, content: Content) -> String {
    let name = history.name(content);
    match name.char_indices().nth(VALUE_CHARS_MAX) {
        None => name,
        Some((end, _)) => format!("{}…\"", &name[..end]),
    }
}

fn ms(time: u64, origin: u64) -> String {
    format!("{:.3} ms", (time - origin) as f64 / 1e6)
}
