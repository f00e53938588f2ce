//! Requests typed as one line of words, with Redis's rules for quotes.
//!
//! Words are separated by white space. Double quotes understand `\n \r \t \b \a \xHH`, and a
//! backslash before anything else stands for that character; single quotes understand only `\'`. A
//! closing quote must be followed by white space or the end of the line.

use super::{Arguments, Span};
use bytes::{BufMut, BytesMut};

/// A quote that is not closed, or closed in the middle of a word.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unbalanced;

/// Splits `line` (without its line end) into `out`.
pub(super) fn split(line: &[u8], out: &mut Arguments) -> Result<(), Unbalanced> {
    out.clear();
    // Unescaping never makes a word longer.
    let mut words = BytesMut::with_capacity(line.len());
    let mut rest = line;
    loop {
        rest = trim_start(rest);
        if rest.is_empty() {
            break;
        }
        let start = words.len() as u32;
        rest = word(rest, &mut words)?;
        out.spans.push(Span { start, end: words.len() as u32 });
    }
    out.frame = words.freeze();
    Ok(())
}

/// Copies the first word of `rest` to `out`; gives what follows it.
fn word<'a>(mut rest: &'a [u8], out: &mut BytesMut) -> Result<&'a [u8], Unbalanced> {
    loop {
        match rest {
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Ok(rest),
            [b'"', quoted @ ..] => return double_quoted(quoted, out),
            [b'\'', quoted @ ..] => return single_quoted(quoted, out),
            [byte, after @ ..] => {
                out.put_u8(*byte);
                rest = after;
            }
        }
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], out: &mut BytesMut) -> Result<&'a [u8], Unbalanced> {
    loop {
        match rest {
            [] => return Err(Unbalanced),
            [b'\\', b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                out.put_u8(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                out.put_u8(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                rest = after;
            }
            [b'"', after @ ..] => return closed(after),
            [byte, after @ ..] => {
                out.put_u8(*byte);
                rest = after;
            }
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], out: &mut BytesMut) -> Result<&'a [u8], Unbalanced> {
    loop {
        match rest {
            [] => return Err(Unbalanced),
            [b'\\', b'\'', after @ ..] => {
                out.put_u8(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return closed(after),
            [byte, after @ ..] => {
                out.put_u8(*byte);
                rest = after;
            }
        }
    }
}

fn closed(after: &[u8]) -> Result<&[u8], Unbalanced> {
    match after.first() {
        Some(byte) if !is_space(*byte) => Err(Unbalanced),
        _ => Ok(after),
    }
}

fn trim_start(mut rest: &[u8]) -> &[u8] {
    while let [first, after @ ..] = rest
        && is_space(*first)
    {
        rest = after;
    }
    rest
}

/// White space as C's `isspace` has it: unlike Rust's, with the vertical tab.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut out = Arguments::default();
        split(line, &mut out).ok()?;
        Some(out.iter_from(0).map(<[u8]>::to_vec).collect())
    }

    /// What Redis 7.0 makes of the same lines.
    #[test]
    fn words_and_quotes() {
        let table: [(&[u8], &[&[u8]]); 13] = [
            (b"", &[]),
            (b"  \t ", &[]),
            (b"PING", &[b"PING"]),
            (b"  SET  a   b ", &[b"SET", b"a", b"b"]),
            (b"ECHO \"\\x41\\n\\t\\q\"", &[b"ECHO", b"A\n\tq"]),
            (b"ECHO \"\\r\\b\\a\\\\\\\"\"", &[b"ECHO", b"\r\x08\x07\\\""]),
            (b"ECHO 'a\\'b\\n'", &[b"ECHO", b"a'b\\n"]),
            (b"ECHO a\"b c\"", &[b"ECHO", b"ab c"]),
            (b"ECHO \"a\\xzz\"", &[b"ECHO", b"axzz"]),
            (b"ECHO \"\"", &[b"ECHO", b""]),
            (b"ECHO '' ", &[b"ECHO", b""]),
            (b"\"\"", &[b""]),
            (b"ECHO a\x0bb", &[b"ECHO", b"a\x0bb"]),
        ];
        for (line, expected) in table {
            let expected: Vec<Vec<u8>> = expected.iter().map(|word| word.to_vec()).collect();
            assert_eq!(words(line), Some(expected), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn unbalanced_quotes() {
        let table: [&[u8]; 7] = [
            b"SET a \"b",
            b"SET a 'b",
            b"ECHO \"b\"c",
            b"ECHO 'b'c",
            b"\"",
            b"ECHO \"a\\",
            b"ECHO 'a\\'",
        ];
        for line in table {
            assert_eq!(words(line), None, "{}", line.escape_ascii());
        }
    }
}
