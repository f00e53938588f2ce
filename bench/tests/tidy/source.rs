//! Rust source as the tidy test sees it: code without comments and literals, test code marked.
//!
//! This is a scanner, not a parser. It knows comments, strings, characters, lifetimes, attributes
//! and braces, which is all that counting lines and looking for words takes. Macros are read as
//! ordinary code.

use std::ops::Range;

/// One source file.
pub struct Source {
    /// Path from the root of the repository, with forward slashes.
    pub path: String,
    /// The file as it is, by line.
    pub raw: Vec<String>,
    /// The same lines with comments and the contents of literals replaced by spaces.
    pub code: Vec<String>,
    /// For each line: true if it belongs to an item that only tests compile.
    pub test: Vec<bool>,
    /// Modules that `#[cfg(test)]` declares and other files hold: their names or their paths.
    pub test_modules: Vec<String>,
}

/// A function's name, the line where its `fn` stands (from 1), and how many lines it has.
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let blank = blank_literals(text);
        let raw: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut source = Source {
            path: path.to_owned(),
            code: blank.lines().map(str::to_owned).collect(),
            test: vec![false; raw.len()],
            test_modules: Vec::new(),
            raw,
        };
        source.code.resize(source.raw.len(), String::new());
        source.mark_tests(&blank);
        source
    }

    /// Lines that are not compiled for tests only, with their numbers from 1.
    pub fn production(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.iter().zip(&self.test).enumerate();
        lines.filter(|(_, (_, test))| !**test).map(|(at, (line, _))| (at + 1, line.as_str()))
    }

    /// Lines of items that only tests compile, with their numbers from 1.
    pub fn tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.iter().zip(&self.test).enumerate();
        lines.filter(|(_, (_, test))| **test).map(|(at, (line, _))| (at + 1, line.as_str()))
    }

    /// Marks the whole file as one that only tests compile.
    pub fn mark_all_as_test(&mut self) {
        self.test.fill(true);
    }

    /// The functions with a body that are not compiled for tests only.
    pub fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        for (at, line) in self.code.iter().enumerate() {
            if self.test[at] {
                continue;
            }
            for start in word_positions(line, "fn") {
                let rest = &line[start + 2..];
                let name: String = rest.trim_start().chars().take_while(|c| is_word(*c)).collect();
                if name.is_empty() {
                    continue; // A function pointer type.
                }
                let tail =
                    std::iter::once(rest).chain(self.code[at + 1..].iter().map(String::as_str));
                if let Some(lines) = body_lines(tail) {
                    functions.push(Function { name, line: at + 1, lines });
                }
            }
        }
        functions
    }

    fn mark_tests(&mut self, blank: &str) {
        for attribute in ["#[cfg(test)]", "#[test]", "#[cfg(all(test", "#[cfg(any(test"] {
            let mut from = 0;
            while let Some(found) = blank[from..].find(attribute) {
                let start = from + found;
                let item = item_range(blank, start);
                from = item.end.max(start + attribute.len());
                let first = line_of(blank, item.start);
                let last = line_of(blank, item.end.saturating_sub(1));
                for line in first..=last.min(self.test.len() - 1) {
                    self.test[line] = true;
                }
                self.note_test_module(first, last);
            }
        }
    }

    /// Remembers `mod name;` between two lines, so that its file is known as a test's.
    fn note_test_module(&mut self, first: usize, last: usize) {
        let code = self.code[first..=last].join(" ");
        if code.contains('{') {
            return;
        }
        let Some(start) = word_positions(&code, "mod").next() else { return };
        let name: String =
            code[start + 3..].trim_start().chars().take_while(|c| is_word(*c)).collect();
        let path = self.raw[first..=last]
            .iter()
            .find_map(|line| Some(line.split_once("#[path = \"")?.1.split_once('"')?.0.to_owned()));
        self.test_modules.push(path.unwrap_or(name));
    }
}

/// True if `line` has `word` with no letter, digit or underscore on either side.
pub fn has_word(line: &str, word: &str) -> bool {
    word_positions(line, word).next().is_some()
}

fn word_positions<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    line.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = line[..*at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
}

/// From an attribute to the end of the item that it stands on: its closing brace or semicolon.
fn item_range(blank: &str, start: usize) -> Range<usize> {
    let (mut depth, mut braces) = (0_usize, 0_usize);
    for (at, c) in blank[start..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            '{' => braces += 1,
            '}' if braces <= 1 => return start..start + at + 1,
            '}' => braces -= 1,
            // A field, a variant, an argument or an arm ends at a comma.
            ';' | ',' if depth == 0 && braces == 0 => return start..start + at + 1,
            _ => {}
        }
    }
    start..blank.len()
}

/// How many lines it takes from a function's name to its closing brace; `None` without a body.
fn body_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Option<usize> {
    let (mut braces, mut nested) = (0_usize, 0_usize);
    for (at, line) in lines.enumerate() {
        for c in line.chars() {
            match c {
                '(' | '[' => nested += 1,
                ')' | ']' if nested == 0 && braces == 0 => return None,
                ')' | ']' => nested = nested.saturating_sub(1),
                ';' if braces == 0 && nested == 0 => return None,
                '{' => braces += 1,
                '}' if braces == 1 => return Some(at + 1),
                '}' => braces = braces.saturating_sub(1),
                _ => {}
            }
        }
    }
    None
}

/// Replaces comments and the contents of strings and characters by spaces; lines stay lines.
fn blank_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let previous = out.chars().next_back().unwrap_or(' ');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment_length(rest)
        } else if let Some(length) = raw_string_length(rest, previous) {
            length
        } else if c == '"' {
            quoted_length(rest, '"')
        } else if c == '\'' && !is_lifetime(rest) {
            quoted_length(rest, '\'')
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    out
}

fn block_comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"`; `None` if none begins here.
fn raw_string_length(text: &str, previous: char) -> Option<usize> {
    if is_word(previous) {
        return None;
    }
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inside = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(text.len() - inside.len() + length)
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// True for `'a` in `&'a str`, false for `'a'`.
fn is_lifetime(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    let first = chars.next();
    first.is_some_and(|c| is_word(c) && c != '\\') && chars.next() != Some('\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_vanish_and_lines_stay() {
        let text = "let a = \"x // {\"; // }\nlet b = '{'; /* { /* } */ \n } */ let c: &'a str = r#\"\"}\"#;";
        let source = Source::new("a.rs", text);
        assert_eq!(source.code.len(), 3);
        assert!(
            source.code.iter().all(|line| !line.contains(['{', '}', '"', '/'])),
            "{:?}",
            source.code
        );
        assert!(source.code[2].contains("&'a str"));
    }

    #[test]
    fn what_only_tests_compile_is_marked() {
        let text = "fn a() {\n}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n#[cfg(test)]\n#[path = \"c_tests.rs\"]\nmod c;\nfn d() {}\n#[cfg(test)]\nmod e;\n";
        let source = Source::new("a.rs", text);
        let production: Vec<usize> = source.production().map(|(line, _)| line).collect();
        assert_eq!(production, [1, 2, 10]);
        assert_eq!(source.test_modules, ["c_tests.rs", "e"]);
    }

    #[test]
    fn functions_are_measured_to_their_closing_brace() {
        let text = "trait T { fn none(&self) -> [u8; 2]; }\nfn one() {}\nfn four(f: fn(u8) -> u8)\n{\n    if a { b }\n}\n";
        let functions = Source::new("a.rs", text).functions();
        let found: Vec<_> = functions.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(found, [("one", 2, 1), ("four", 3, 4)]);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("use std::fs;", "std::fs"));
        assert!(!has_word("use std::fsx;", "std::fs"));
        assert!(!has_word("MyHashMap", "HashMap"));
    }
}
