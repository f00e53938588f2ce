//! Patterns for keys, with Redis's rules and quirks.
//!
//! `*` stands for any bytes, `?` for one, `[abc]`, `[a-z]` and `[^a]` for one of (or none of) a
//! class; a backslash takes the next byte as it is. A class that is not closed ends with the
//! pattern; a backslash at the very end stands for itself; a range given backwards is turned.
//!
//! Invariant: matching takes at most the product of the lengths of pattern and text. A `*` that is
//! met later takes the place of the earlier one as the point to go back to, which is enough since
//! whatever the earlier one could still try, the later one can too.

/// A pattern that is ready to be matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Literal(u8),
    One,
    Any,
    Class { negated: bool, ranges: Vec<(u8, u8)> },
}

impl Glob {
    /// Reads a pattern; every string of bytes is one.
    pub fn new(pattern: &[u8]) -> Glob {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let [first, after @ ..] = rest {
            rest = after;
            tokens.push(match (first, after) {
                (b'*', _) => {
                    if tokens.last() == Some(&Token::Any) {
                        continue;
                    }
                    Token::Any
                }
                (b'?', _) => Token::One,
                (b'[', _) => class(&mut rest),
                (b'\\', [escaped, after @ ..]) => {
                    rest = after;
                    Token::Literal(*escaped)
                }
                (byte, _) => Token::Literal(*byte),
            });
        }
        Glob { tokens }
    }

    /// The bytes that every matching text begins with.
    pub fn literal_prefix(&self) -> Vec<u8> {
        let literals = self.tokens.iter().map_while(|token| match token {
            Token::Literal(byte) => Some(*byte),
            _ => None,
        });
        literals.collect()
    }

    /// True if the whole of `text` matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        let (mut token, mut at) = (0, 0);
        // Where to go on after the last `*`, and the first byte that it does not cover yet.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match self.tokens.get(token) {
                Some(Token::Any) => {
                    token += 1;
                    if token == self.tokens.len() {
                        return true;
                    }
                    retry = Some((token, at));
                    continue;
                }
                Some(one) if at < text.len() && one.covers(text[at]) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                None if at == text.len() => return true,
                _ => {}
            }
            match &mut retry {
                Some((after, covered)) if *covered < text.len() => {
                    *covered += 1;
                    (token, at) = (*after, *covered);
                }
                _ => return false,
            }
        }
    }
}

impl Token {
    fn covers(&self, byte: u8) -> bool {
        match self {
            Token::Literal(literal) => *literal == byte,
            Token::One => true,
            Token::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *negated
            }
            Token::Any => unreachable!("a star is handled before"),
        }
    }
}

/// Reads a class, whose opening bracket has been passed.
fn class(rest: &mut &[u8]) -> Token {
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        match *rest {
            [] => break,
            [b'\\', escaped, after @ ..] => {
                ranges.push((*escaped, *escaped));
                *rest = after;
            }
            [b']', after @ ..] => {
                *rest = after;
                break;
            }
            [low, b'-', high, after @ ..] => {
                ranges.push((*low.min(high), *low.max(high)));
                *rest = after;
            }
            [byte, after @ ..] => {
                ranges.push((*byte, *byte));
                *rest = after;
            }
        }
    }
    Token::Class { negated, ranges }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern.as_bytes()).matches(text.as_bytes())
    }

    /// Pattern, texts that match, texts that do not: as Redis 7.0 has it.
    #[test]
    fn table() {
        type Row = (&'static str, &'static [&'static str], &'static [&'static str]);
        let table: &[Row] = &[
            ("hello", &["hello"], &["hell", "helloo", "Hello"]),
            ("h?llo", &["hello", "h?llo", "hxllo"], &["hllo", "heello"]),
            ("h*llo", &["hllo", "hello", "heeeello", "hllllo"], &["hell", "hellox"]),
            ("*", &["a", "anything"], &[]),
            ("**", &["a", "anything"], &[]),
            ("a*b*c", &["abc", "a-b-b-c", "abcbc"], &["ab", "acb", "abcd"]),
            ("*a", &["a", "ba", "aa"], &["ab", "b"]),
            ("*?a", &["ba", "cba"], &["a"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo", "hllo", "haello"]),
            ("h[^e]llo", &["hallo", "h^llo"], &["hello", "hllo"]),
            ("h[a-c]llo", &["hallo", "hbllo", "hcllo"], &["hdllo", "h-llo"]),
            ("h[c-a]llo", &["hallo", "hbllo", "hcllo"], &["hdllo"]),
            ("h[^a-c]llo", &["hdllo"], &["hbllo"]),
            ("[a-]", &["a", "]", "^", "_"], &["-", "b"]),
            ("[a\\-c]", &["a", "-", "c"], &["b"]),
            ("[\\]]", &["]"], &["\\"]),
            ("[]a", &[], &["a", "]a", "]"]),
            ("[^]a", &["xa", "]a"], &["a"]),
            ("[ab", &["a", "b"], &["[ab", "ab", "c"]),
            ("x[", &[], &["x", "x[", "xa"]),
            ("[a-c]*[0-9]", &["a0", "bxx9", "c55"], &["d0", "a", "ax"]),
            ("\\*", &["*"], &["a", "\\*"]),
            ("\\?\\[\\\\", &["?[\\"], &["a[\\"]),
            ("a\\", &["a\\"], &["a", "a\\\\"]),
            ("\\a", &["a"], &["\\a"]),
            ("", &[], &["a"]),
            ("a**b", &["ab", "axb"], &["a", "b"]),
        ];
        for (pattern, good, bad) in table {
            for text in *good {
                assert!(matches(pattern, text), "{pattern} matches {text}");
            }
            for text in *bad {
                assert!(!matches(pattern, text), "{pattern} does not match {text}");
            }
        }
    }

    #[test]
    fn literal_prefixes() {
        let table = [
            ("user:*", "user:"),
            ("user:1", "user:1"),
            ("us?r", "us"),
            ("[u]ser", ""),
            ("a\\*b*", "a*b"),
            ("*", ""),
        ];
        for (pattern, prefix) in table {
            assert_eq!(Glob::new(pattern.as_bytes()).literal_prefix(), prefix.as_bytes());
        }
    }

    /// A matcher that tries everything would not end before the universe does.
    #[test]
    fn many_stars_are_no_trouble() {
        let pattern = "a*".repeat(60) + "b";
        let text = "a".repeat(4000);
        assert!(!matches(&pattern, &text));
        assert!(matches(&pattern, &(text + "b")));
    }
}
