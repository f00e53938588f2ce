//! Redis clients on a socket, against a running engine.

use script::{Server, unescape};
use served::Served;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

#[path = "resp/script.rs"]
mod script;
#[path = "resp/served.rs"]
mod served;

/// Recorded from Redis; its head says how to read it.
const REPLIES: &str = include_str!("resp/replies.txt");

struct Client {
    stream: TcpStream,
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        Client { stream }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Receives as many bytes as are expected, which must be these.
    fn expect(&mut self, expected: impl AsRef<[u8]>, what: &str) {
        let expected = expected.as_ref();
        let mut got = vec![0; expected.len()];
        let mut filled = 0;
        while filled < got.len() {
            match self.stream.read(&mut got[filled..]) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) => panic!("{what}: {error} after {}", got[..filled].escape_ascii()),
            }
        }
        let (got, expected) = (got[..filled].escape_ascii(), expected.escape_ascii());
        assert_eq!(got.to_string(), expected.to_string(), "{what}");
    }

    fn expect_end(&mut self, what: &str) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("the server closes");
        assert_eq!(rest.escape_ascii().to_string(), "", "{what}");
    }

    fn ask(&mut self, request: &str, reply: impl AsRef<[u8]>) {
        self.send(&array(&request.split(' ').map(str::as_bytes).collect::<Vec<_>>()));
        self.expect(reply, request);
    }

    /// Asks and receives one bulk string.
    fn ask_text(&mut self, request: &str) -> String {
        self.send(format!("{request}\r\n").as_bytes());
        let header = self.line();
        let length: usize = header.strip_prefix('$').expect("a string").parse().expect("a length");
        let mut text = vec![0; length + 2];
        self.stream.read_exact(&mut text).expect("the whole string");
        text.truncate(length);
        String::from_utf8(text).expect("text")
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("a whole line");
            line.push(byte[0]);
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).expect("text")
    }
}

/// A request as clients send it.
fn array(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend(format!("${}\r\n", word.len()).bytes());
        out.extend(*word);
        out.extend(b"\r\n");
    }
    out
}

#[test]
fn replies_are_those_of_redis() {
    let served = Served::start(100);
    let mut client = Client::connect(served.address());
    let mut close = None;
    let mut asked = "";
    let mut count = 0;
    for line in REPLIES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (kind, text) = line.split_once(' ').expect("a mark and a text");
        match kind {
            "connect" => {
                client = Client::connect(served.address());
                if text == "3" {
                    client.send(b"HELLO 3\r\n");
                    client.expect("%7\r\n", "hello");
                    // Seven pairs in 25 lines: two for each string, one for anything else.
                    for _ in 0..25 {
                        client.line();
                    }
                }
            }
            ">" => {
                let words: Vec<Vec<u8>> = text
                    .split(' ')
                    .map(|word| if word == "\"\"" { Vec::new() } else { unescape(word) })
                    .collect();
                client.send(&array(&words.iter().map(Vec::as_slice).collect::<Vec<_>>()));
                asked = text;
            }
            "!" | "~" => {
                client = Client::connect(served.address());
                client.send(&unescape(text));
                close = (kind == "!").then_some(text);
                asked = text;
            }
            "<" => {
                client.expect(unescape(text), asked);
                if let Some(what) = close.take() {
                    client.stream.shutdown(Shutdown::Write).expect("a half of a connection");
                    client.expect_end(what);
                }
                count += 1;
            }
            other => panic!("unknown mark {other}"),
        }
    }
    assert!(count > 150, "only {count} replies were compared");
    served.stop();
}

#[test]
fn every_script_gets_the_replies_of_redis() {
    let served = Served::start(100);
    let server = Server { address: served.address(), is_flotilla: true };
    let mut problems = Vec::new();
    let mut compared = 0;
    for (name, text) in script::SCRIPTS {
        let (count, found) = script::run(name, text, &server);
        compared += count;
        problems.extend(found);
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(compared > 900, "only {compared} replies were compared");
    served.stop();
}

#[test]
fn a_long_pipeline_over_all_shards_answers_in_order() {
    let served = Served::start(100);
    let mut client = Client::connect(served.address());
    let mut writer = client.stream.try_clone().expect("a second handle");
    let keys: Vec<String> = (0..3000).map(|n| format!("{:02x}-{n}", n * 7 % 256)).collect();
    let requests: Vec<u8> = keys
        .iter()
        .flat_map(|key| {
            let set = array(&[b"SET", key.as_bytes(), format!("v-{key}").as_bytes()]);
            set.into_iter().chain(array(&[b"GET", key.as_bytes()]))
        })
        .collect();
    let sender = std::thread::spawn(move || writer.write_all(&requests).expect("sent"));
    for key in &keys {
        client.expect(format!("+OK\r\n${}\r\nv-{key}\r\n", key.len() + 2), key);
    }
    sender.join().expect("the sender ends");
    client.ask("DBSIZE", ":3000\r\n");

    let mut counting = Client::connect(served.address());
    counting.send(&array(&[b"INCR", b"n"]).repeat(50));
    for sum in 1..=50 {
        counting.expect(format!(":{sum}\r\n"), "INCR");
    }
    served.stop();
}

#[test]
fn a_scan_finds_every_key_once() {
    let served = Served::start(100);
    let mut client = Client::connect(served.address());
    for n in 0..200 {
        client.ask(&format!("SET {}:{n:03} v", ["a", "f", "m", "z"][n % 4]), "+OK\r\n");
    }
    for (pattern, expected) in [("*", 200), ("f:*", 50), ("?:*7", 20), ("none*", 0)] {
        let mut found = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            client.send(format!("SCAN {cursor} MATCH {pattern} COUNT 7\r\n").as_bytes());
            client.expect("*2\r\n", pattern);
            client.line();
            cursor = client.line();
            let count: usize = client.line()[1..].parse().expect("a number");
            for _ in 0..count {
                client.line();
                found.push(client.line());
            }
            if cursor == "0" {
                break;
            }
        }
        assert!(found.is_sorted());
        found.dedup();
        assert_eq!(found.len(), expected, "{pattern}");
    }
    client.ask("FLUSHALL", "+OK\r\n");
    client.ask("DBSIZE", ":0\r\n");
    served.stop();
}

#[test]
fn commands_over_several_shards() {
    let served = Served::start(100);
    let mut client = Client::connect(served.address());
    for key in ["a", "d", "l", "z"] {
        client.ask(&format!("SET {key} {key}{key}"), "+OK\r\n");
    }
    client.ask("MGET z a no d", "*4\r\n$2\r\nzz\r\n$2\r\naa\r\n$-1\r\n$2\r\ndd\r\n");
    client.ask("EXISTS a d a no", ":3\r\n");
    client.ask("DEL z a z no", ":2\r\n");
    client.ask("UNLINK d l", ":2\r\n");
    client.ask("DBSIZE", ":0\r\n");
    served.stop();
}

#[test]
fn large_values_pass_and_larger_ones_are_refused() {
    let served = Served::start(100);
    let mut client = Client::connect(served.address());
    let value = vec![b'x'; 8 << 20];
    client.send(&array(&[b"SET", b"big", &value]));
    client.expect("+OK\r\n", "SET");
    client.ask("STRLEN big", ":8388608\r\n");
    client.ask("GET big", [b"$8388608\r\n".as_slice(), &value, b"\r\n"].concat());
    client.ask("APPEND big y", "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n");
    let larger = vec![b'x'; (8 << 20) + 1];
    client.send(&array(&[b"SET", b"big", &larger]));
    client.expect("-ERR an argument of 8388609 bytes exceeds the limit of 8388608\r\n", "SET");
    let key = vec![b'k'; 4096];
    client.send(&array(&[b"SET", &key, b""]));
    client.expect("+OK\r\n", "SET");
    let longer = vec![b'k'; 4097];
    client.send(&array(&[b"GET", &longer]));
    client.expect("-ERR the key of 4097 bytes exceeds the limit of 4096\r\n", "GET");
    served.stop();
}

#[test]
fn clients_are_counted_listed_and_limited() {
    let served = Served::start(2);
    let mut first = Client::connect(served.address());
    first.ask("CLIENT SETNAME first", "+OK\r\n");
    first.ask("CLIENT SETINFO LIB-NAME tested", "+OK\r\n");
    let mut second = Client::connect(served.address());
    second.ask("PING", "+PONG\r\n");
    let list = first.ask_text("CLIENT LIST");
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(list.contains(" name=first "), "{list}");
    assert!(list.contains(" lib-name=tested "), "{list}");
    let info = second.ask_text("INFO");
    for line in ["redis_version:7.0.15", "connected_clients:2", "maxclients:2", "role:master"] {
        assert!(info.lines().any(|told| told == line), "{line} in {info}");
    }

    let mut third = Client::connect(served.address());
    third.expect("-ERR max number of clients reached\r\n", "refused");
    third.expect_end("refused");
    served.stop();
}

#[test]
fn stopping_ends_idle_clients() {
    let served = Served::start(100);
    let mut client = Client::connect(served.address());
    client.ask("PING", "+PONG\r\n");
    served.stop();
    client.expect_end("stopped");
}
