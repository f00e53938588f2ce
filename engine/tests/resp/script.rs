//! Scripts of requests and the replies that Redis gave to them, run against any server.
//!
//! `connect 2` or `connect 3` begins a new connection called `main`, of that version of the
//! protocol; `on NAME` goes on with another one, begun when it is first named. `> words` is a
//! request, its words separated by spaces and escaped; `>> words` is one without a reply. A reply
//! stands on the next line, escaped, behind a mark:
//!
//! * `<`: exactly these bytes.
//! * `<set`: an array of the same elements, in any order.
//! * `<shape`: the same types, whatever they hold.
//! * `<near N`: an integer that differs by at most N.
//! * `<until`: the request is repeated until this is its reply.
//! * `<differs`: what Flotilla replies where it means to differ; nobody else is asked for that.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long a reply may take, and how often a request is repeated until it has the wanted reply.
const PATIENCE: Duration = Duration::from_secs(20);

/// All scripts, by name.
pub const SCRIPTS: [(&str, &str); 6] = [
    ("connection", include_str!("scripts/connection.txt")),
    ("expiry", include_str!("scripts/expiry.txt")),
    ("keys", include_str!("scripts/keys.txt")),
    ("lcs", include_str!("scripts/lcs.txt")),
    ("strings", include_str!("scripts/strings.txt")),
    ("transactions", include_str!("scripts/transactions.txt")),
];

/// A server that speaks the protocol.
pub struct Server {
    /// Where.
    pub address: SocketAddr,
    /// Whether it is Flotilla, whose own differences are expected of it.
    pub is_flotilla: bool,
}

struct Connection {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn open(server: &Server, version: &str) -> Connection {
        let stream = TcpStream::connect(server.address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut connection = Connection { stream, reader };
        if version == "3" {
            connection.send("HELLO 3");
            connection.reply();
        }
        connection
    }

    fn send(&mut self, text: &str) {
        let words: Vec<Vec<u8>> = text
            .split(' ')
            .map(|word| if word == "\"\"" { Vec::new() } else { unescape(word) })
            .collect();
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend(format!("${}\r\n", word.len()).bytes());
            out.extend(word);
            out.extend(b"\r\n");
        }
        self.stream.write_all(&out).expect("the server reads");
    }

    /// One whole reply, as received.
    fn reply(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut missing = 1;
        while missing > 0 {
            let start = out.len();
            self.reader.read_until(b'\n', &mut out).expect("a line in time");
            let line = std::str::from_utf8(&out[start..]).expect("text");
            assert!(line.ends_with("\r\n"), "the connection ended: {line:?}");
            missing -= 1;
            let length: i64 = line[1..line.len() - 2].parse().unwrap_or(-1);
            match line.as_bytes()[0] {
                b'$' | b'=' if length >= 0 => {
                    let start = out.len();
                    out.resize(start + length as usize + 2, 0);
                    self.reader.read_exact(&mut out[start..]).expect("the whole string in time");
                }
                b'*' | b'~' if length > 0 => missing += length,
                b'%' if length > 0 => missing += 2 * length,
                _ => {}
            }
        }
        out
    }
}

/// Runs `script` against `server`: how many replies were compared, and what was wrong with them.
pub fn run(name: &str, script: &str, server: &Server) -> (usize, Vec<String>) {
    let mut connections: Vec<(String, Connection)> = Vec::new();
    let mut current = 0;
    let mut asked = "";
    let (mut count, mut problems) = (0, Vec::new());
    for (number, line) in script.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (mark, text) = line.split_once(' ').unwrap_or((line, ""));
        match mark {
            "connect" => {
                connections.retain(|(known, _)| known != "main");
                connections.push(("main".to_owned(), Connection::open(server, text)));
                current = connections.len() - 1;
            }
            "on" => {
                let (wanted, version) = text.split_once(' ').unwrap_or((text, "2"));
                let known = connections.iter().position(|(known, _)| known == wanted);
                current = known.unwrap_or_else(|| {
                    connections.push((wanted.to_owned(), Connection::open(server, version)));
                    connections.len() - 1
                });
            }
            ">" | ">>" => {
                connections[current].1.send(text);
                asked = text;
            }
            _ => {
                let connection = &mut connections[current].1;
                count += 1;
                if let Err(problem) = check(connection, asked, mark, text, server.is_flotilla) {
                    problems.push(format!("{name}:{} {asked}: {problem}", number + 1));
                }
            }
        }
    }
    (count, problems)
}

fn check(
    connection: &mut Connection,
    asked: &str,
    mark: &str,
    text: &str,
    is_flotilla: bool,
) -> Result<(), String> {
    let mut got = connection.reply();
    let (limit, text) = match mark {
        "<near" => text.split_once(' ').expect("a limit and a number"),
        _ => ("", text),
    };
    let expected = unescape(text);
    if mark == "<until" {
        let begun = Instant::now();
        while got != expected && begun.elapsed() < PATIENCE {
            connection.send(asked);
            got = connection.reply();
        }
    }
    let holds = match mark {
        "<" | "<until" => got == expected,
        "<differs" => !is_flotilla || got == expected,
        "<set" => sorted(&got) == sorted(&expected),
        "<shape" => shape(&got) == shape(&expected),
        "<near" => {
            let limit: i64 = limit.parse().expect("a limit");
            match (integer(&got), integer(&expected)) {
                (Some(got), Some(expected)) => (got - expected).abs() <= limit,
                _ => false,
            }
        }
        _ => panic!("unknown mark {mark}"),
    };
    if holds {
        return Ok(());
    }
    Err(format!("expected {mark} {}, got {}", expected.escape_ascii(), got.escape_ascii()))
}

fn integer(reply: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(reply).ok()?;
    text.strip_prefix(':')?.strip_suffix("\r\n")?.parse().ok()
}

/// The lines of a reply in order: equal for the same elements in another order.
fn sorted(reply: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = reply.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines
}

/// The types in a reply, and the lengths of its arrays.
fn shape(reply: &[u8]) -> Vec<&[u8]> {
    let mut shape = Vec::new();
    let mut rest = reply;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..=end];
        rest = &rest[end + 1..];
        match line[0] {
            b'$' | b'=' => {
                shape.push(&line[..1]);
                let text = std::str::from_utf8(&line[1..line.len() - 2]).expect("a length");
                let length: i64 = text.parse().expect("a length");
                rest = &rest[usize::try_from(length + 2).unwrap_or(0).min(rest.len())..];
            }
            b'*' | b'~' | b'%' => shape.push(line),
            _ => shape.push(&line[..1]),
        }
    }
    shape
}

/// Undoes `escape_ascii`.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match rest.next().expect("an escape is complete") {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'x' => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.expect("two digits"));
                let digits = std::str::from_utf8(&digits).expect("digits");
                u8::from_str_radix(digits, 16).expect("hexadecimal")
            }
            other => other,
        });
    }
    out
}
