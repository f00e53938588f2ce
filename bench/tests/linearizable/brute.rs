//! Tries every order: slow, and too simple to be wrong.

use flotilla_bench::history::{Deed, Line};

/// True if some order of the operations, all on one key that is absent at first, explains them.
pub fn is_linearizable(lines: &[Line]) -> bool {
    let operations: Vec<(&Line, Deed)> =
        lines.iter().map(|line| (line, line.deed().unwrap())).collect();
    let left = (0..operations.len()).collect::<Vec<usize>>();
    try_all(&operations, &left, &None)
}

fn try_all(operations: &[(&Line, Deed)], left: &[usize], content: &Option<String>) -> bool {
    if left.iter().all(|at| operations[*at].0.is_unknown()) {
        return true;
    }
    left.iter().any(|at| {
        let (line, deed) = &operations[*at];
        let comes_too_late = left.iter().any(|other| {
            let other = operations[*other].0;
            !other.is_unknown() && other.ret < line.call
        });
        if comes_too_late {
            return false;
        }
        let Some(after) = apply(deed, content) else { return false };
        let rest: Vec<usize> = left.iter().copied().filter(|other| other != at).collect();
        try_all(operations, &rest, &after)
    })
}

/// What is there after `deed`; `None` if it would have answered otherwise.
fn apply(deed: &Deed, content: &Option<String>) -> Option<Option<String>> {
    match deed {
        Deed::Get(read) => (read == content).then(|| content.clone()),
        Deed::Put(value) => Some(Some(value.clone())),
        Deed::Delete(None) => Some(None),
        Deed::Delete(Some(found)) => (*found == content.is_some()).then_some(None),
        Deed::CompareAndSwap { old, new, swapped } => {
            let swaps = old == content;
            let after = if swaps { Some(new.clone()) } else { content.clone() };
            swapped.is_none_or(|swapped| swapped == swaps).then_some(after)
        }
        Deed::ReadModifyWrite { read, new } => {
            let fits = read.as_ref().is_none_or(|read| read == content);
            fits.then(|| Some(new.clone()))
        }
        Deed::Add { by, sum } => {
            let before: i64 = content.as_ref().map_or(0, |text| text.parse().unwrap());
            let after = before + by;
            sum.is_none_or(|sum| sum == after).then(|| Some(after.to_string()))
        }
        Deed::Other => Some(content.clone()),
    }
}
