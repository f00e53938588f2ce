//! The longest common subsequence of two values, by the textbook's table.
//!
//! The table has a cell for each pair of bytes, so the product of the lengths is limited; it is
//! filled on a thread that may block, for one request at a time. Of several subsequences of the
//! same length the one is found that Redis finds: where both ways are equal, the step back is taken
//! in the second value.

use super::{Plan, RespOptions, Wide, integer, key};
use crate::server::resp::codec::{Arguments, Replies};
use crate::server::resp::error::CommandError;

/// Cells of the table at most; each has four bytes.
const CELLS_MAX: usize = 16 << 20;

/// What a client wants to know of the subsequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LcsOptions {
    /// Its length only.
    length_only: bool,
    /// Where its parts lie in both values.
    positions: bool,
    /// Leave out parts shorter than this.
    part_bytes_min: i64,
    /// Tell the length of each part.
    part_lengths: bool,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LcsAnswer {
    options: LcsOptions,
    sequence: Vec<u8>,
    /// From the last to the first.
    parts: Vec<Part>,
}

/// Bytes that stand in both values without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    start: usize,
    other_start: usize,
    length: usize,
}

pub(super) fn lcs(options: &RespOptions, arguments: &Arguments) -> Result<Plan, CommandError> {
    let mut asked = LcsOptions::default();
    let mut index = 3;
    while index < arguments.len() {
        let option = arguments.get(index);
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("idx") {
            asked.positions = true;
        } else if is("len") {
            asked.length_only = true;
        } else if is("withmatchlen") {
            asked.part_lengths = true;
        } else if is("minmatchlen") && index + 1 < arguments.len() {
            index += 1;
            asked.part_bytes_min = integer(arguments, index)?;
        } else {
            return Err(CommandError::SYNTAX);
        }
        index += 1;
    }
    if asked.positions && asked.length_only {
        return Err(CommandError::fixed(
            "ERR If you want both the length and indexes, please just use IDX.",
        ));
    }
    let keys = vec![key(options, arguments, 1)?, key(options, arguments, 2)?];
    Ok(Plan::Wide(Wide::Lcs { keys, options: asked }))
}

/// Finds the subsequence of `a` and `b`.
///
/// # Errors
///
/// When the table would be too large.
pub(super) fn find(a: &[u8], b: &[u8], options: LcsOptions) -> Result<LcsAnswer, CommandError> {
    let width = b.len() + 1;
    let cells = (a.len() + 1).checked_mul(width).filter(|cells| *cells <= CELLS_MAX);
    let Some(cells) = cells else {
        return Err(CommandError::request(format!(
            "ERR values of {} and {} bytes are too long for LCS: their product exceeds {CELLS_MAX}",
            a.len(),
            b.len()
        )));
    };
    // table[i * width + j]: the length for the first i bytes of `a` and the first j of `b`.
    let mut table = vec![0u32; cells];
    for (i, byte) in a.iter().enumerate() {
        let (above, row) = table[i * width..(i + 2) * width].split_at_mut(width);
        for (j, other) in b.iter().enumerate() {
            row[j + 1] = if byte == other { above[j] + 1 } else { above[j + 1].max(row[j]) };
        }
    }
    let mut sequence = Vec::with_capacity(table[cells - 1] as usize);
    let mut parts: Vec<Part> = Vec::new();
    let (mut i, mut j) = (a.len(), b.len());
    while i > 0 && j > 0 {
        if a[i - 1] != b[j - 1] {
            if table[(i - 1) * width + j] > table[i * width + j - 1] {
                i -= 1
            } else {
                j -= 1
            }
            continue;
        }
        match parts.last_mut() {
            Some(part) if part.start == i && part.other_start == j => {
                *part = Part { start: i - 1, other_start: j - 1, length: part.length + 1 };
            }
            _ => parts.push(Part { start: i - 1, other_start: j - 1, length: 1 }),
        }
        sequence.push(a[i - 1]);
        (i, j) = (i - 1, j - 1);
    }
    sequence.reverse();
    Ok(LcsAnswer { options, sequence, parts })
}

impl LcsAnswer {
    /// Writes the reply.
    pub(super) fn write(&self, replies: &mut Replies<'_>) {
        let LcsOptions { length_only, positions, part_bytes_min, part_lengths } = self.options;
        if length_only {
            return replies.integer(self.sequence.len() as i64);
        }
        if !positions {
            return replies.bulk(&self.sequence);
        }
        let told = |part: &&Part| part.length as i64 >= part_bytes_min;
        replies.map(2);
        replies.bulk(b"matches");
        replies.array(self.parts.iter().filter(told).count());
        for part in self.parts.iter().filter(told) {
            replies.array(if part_lengths { 3 } else { 2 });
            for start in [part.start, part.other_start] {
                replies.array(2);
                replies.integer(start as i64);
                replies.integer((start + part.length - 1) as i64);
            }
            if part_lengths {
                replies.integer(part.length as i64);
            }
        }
        replies.bulk(b"len");
        replies.integer(self.sequence.len() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_subsequence(part: &[u8], whole: &[u8]) -> bool {
        let mut rest = whole.iter();
        part.iter().all(|byte| rest.any(|other| other == byte))
    }

    /// By trying every subset of `a`.
    fn longest(a: &[u8], b: &[u8]) -> usize {
        (0u32..1 << a.len())
            .filter_map(|chosen| {
                let part: Vec<u8> =
                    (0..a.len()).filter(|at| chosen >> at & 1 == 1).map(|at| a[at]).collect();
                is_subsequence(&part, b).then_some(part.len())
            })
            .max()
            .unwrap_or(0)
    }

    #[test]
    fn long_values_are_refused() {
        let long = vec![b'a'; 4096];
        assert!(find(&long, &long[..4000], LcsOptions::default()).is_ok());
        let error = find(&long, &long, LcsOptions::default()).unwrap_err();
        assert!(error.text.starts_with(b"ERR values of 4096 and 4096 bytes are too long for LCS"));
        assert!(find(&vec![b'a'; 8 << 20], b"", LcsOptions::default()).is_ok());
    }

    proptest! {
        #[test]
        fn it_is_longest_and_its_parts_agree(
            a in prop::collection::vec(0..3u8, 0..10),
            b in prop::collection::vec(0..3u8, 0..10),
        ) {
            let found = find(&a, &b, LcsOptions::default()).unwrap();
            prop_assert!(is_subsequence(&found.sequence, &a));
            prop_assert!(is_subsequence(&found.sequence, &b));
            prop_assert_eq!(found.sequence.len(), longest(&a, &b));
            let of_parts = |whole: &[u8], start: fn(&Part) -> usize| -> Vec<u8> {
                let parts = found.parts.iter().rev();
                parts.flat_map(|part| whole[start(part)..start(part) + part.length].to_vec())
                    .collect()
            };
            prop_assert_eq!(&of_parts(&a, |part| part.start), &found.sequence);
            prop_assert_eq!(&of_parts(&b, |part| part.other_start), &found.sequence);
        }
    }
}
