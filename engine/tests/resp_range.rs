//! `FLOTILLA.RANGE` against running engines: over shards, and through any node of a cluster.

use flotilla::Engine;
use flotilla::server::resp::RespServer;
use served::Served;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

#[path = "resp/served.rs"]
mod served;

const PATIENCE: Duration = Duration::from_secs(30);

/// Where to go on, and rows.
type Rows = (Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        Client { stream, reader }
    }

    fn send(&mut self, words: &[&[u8]]) {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend(format!("${}\r\n", word.len()).bytes());
            out.extend(*word);
            out.extend(b"\r\n");
        }
        self.stream.write_all(&out).expect("the server reads");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line in time");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, words: &[&[u8]], reply: &str) {
        self.send(words);
        assert_eq!(self.line(), reply);
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.ask(&[b"SET", key, value], "+OK");
    }

    fn bulk(&mut self) -> Vec<u8> {
        let header = self.line();
        let bytes: usize = header.strip_prefix('$').expect("a string").parse().expect("a length");
        let mut text = vec![0; bytes + 2];
        self.reader.read_exact(&mut text).expect("the whole string");
        text.truncate(bytes);
        text
    }

    fn range(&mut self, start: &[u8], end: &[u8], limit: usize) -> Rows {
        self.send(&[b"FLOTILLA.RANGE", start, end, b"LIMIT", limit.to_string().as_bytes()]);
        assert_eq!(self.line(), "*2");
        let next = self.bulk();
        let header = self.line();
        let items: usize = header.strip_prefix('*').expect("an array").parse().expect("a length");
        let rows = (0..items / 2).map(|_| (self.bulk(), self.bulk())).collect();
        (next, rows)
    }

    /// All rows of a range, by as many requests as that takes, each of which is within its limit.
    fn walk(&mut self, start: &[u8], end: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        let mut at = start.to_vec();
        loop {
            let (next, rows) = self.range(&at, end, limit);
            assert!(rows.len() <= limit);
            all.extend(rows);
            if next.is_empty() {
                return all;
            }
            assert!(next > at, "it gets on");
            at = next;
        }
    }
}

#[test]
fn a_range_goes_over_shards_and_finds_each_row_once() {
    // Shards begin at "", "c", "k" and "n".
    let served = Served::start(100);
    let mut client = Client::connect(served.address());
    let mut expected = Vec::new();
    for first in ["a", "b", "c", "d", "j", "k", "m", "n", "z"] {
        for n in 0..20 {
            let (key, value) = (format!("{first}{n:02}").into_bytes(), format!("{n}").into_bytes());
            client.set(&key, &value);
            expected.push((key, value));
        }
    }
    // On the borders themselves, and what is not there any more.
    for key in ["c", "k", "n"] {
        client.set(key.as_bytes(), b"border");
        expected.push((key.into(), b"border".to_vec()));
    }
    client.set(b"b99", b"gone");
    client.ask(&[b"DEL", b"b99"], ":1");
    client.set(b"j99", b"expired");
    client.ask(&[b"PEXPIREAT", b"j99", b"1"], ":1");
    expected.sort();

    for limit in [1, 7, 60, 10_000] {
        assert_eq!(client.walk(b"", b"", limit), expected, "limit {limit}");
    }
    let ranges: [(&[u8], &[u8]); 7] = [
        (b"b05", b"n03"),
        (b"c", b"k"),
        (b"b19\x00", b"c00"),
        (b"k", b"k\x00"),
        (b"j99", b"k"),
        (b"m", b""),
        (b"zz", b""),
    ];
    for (start, end) in ranges {
        let inside = |key: &[u8]| key >= start && (end.is_empty() || key < end);
        let within: Vec<_> = expected.iter().filter(|(key, _)| inside(key)).cloned().collect();
        for limit in [1, 5, 1000] {
            let found = client.walk(start, end, limit);
            assert_eq!(found, within, "{} to {}", start.escape_ascii(), end.escape_ascii());
        }
    }
    served.stop();
}

#[test]
fn replies_are_bounded_whatever_the_values() {
    let served = Served::start(100);
    let mut client = Client::connect(served.address());
    let value = vec![b'x'; 300 << 10];
    let keys: Vec<Vec<u8>> = (b'a'..b't').map(|key| vec![key]).collect();
    keys.iter().for_each(|key| client.set(key, &value));
    let mut at = Vec::new();
    let mut found = Vec::new();
    loop {
        let (next, rows) = client.range(&at, b"", 10_000);
        let bytes: usize = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(bytes < (1 << 20) + (300 << 10), "{bytes} bytes in one reply");
        assert!(!rows.is_empty());
        found.extend(rows.into_iter().map(|(key, _)| key));
        if next.is_empty() {
            break;
        }
        at = next;
    }
    assert_eq!(found, keys);
    served.stop();
}

#[test]
fn what_one_node_acknowledged_every_other_reads() {
    let directories: Vec<_> =
        (0..3).map(|_| tempfile::tempdir().expect("a temporary directory")).collect();
    let bind = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let listeners: Vec<TcpListener> = (0..3).map(|_| bind()).collect();
    let addresses: Vec<String> =
        listeners.iter().map(|l| l.local_addr().expect("an address").to_string()).collect();
    let starts =
        listeners.into_iter().zip(&directories).zip(1..).map(|((listener, directory), node)| {
            Engine::builder(directory.path())
                .node_id(node)
                .peer_listener(listener)
                .peers((1..).zip(addresses.iter().cloned()))
                .split_at(["k"])
                .start()
        });
    let nodes =
        runtime.block_on(futures_util::future::try_join_all(starts)).expect("all nodes start");
    let servers: Vec<RespServer> = nodes
        .iter()
        .map(|node| RespServer::start(node.clone(), bind(), 10).expect("the server starts"))
        .collect();
    let mut clients: Vec<Client> =
        servers.iter().map(|server| Client::connect(server.address())).collect();
    for round in 0..60 {
        let value = round.to_string().into_bytes();
        clients[round % 3].set(b"a", &value);
        clients[(round + 1) % 3].set(b"z", &value);
        let expected = vec![(b"a".to_vec(), value.clone()), (b"z".to_vec(), value)];
        for client in &mut clients {
            assert_eq!(client.walk(b"", b"", 100), expected, "round {round}");
        }
    }
    drop(clients);
    runtime.block_on(async {
        for server in servers {
            server.shutdown().await;
        }
        futures_util::future::join_all(nodes.iter().map(Engine::shutdown)).await;
    });
}
