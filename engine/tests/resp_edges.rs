//! Redis clients that come, go, repeat themselves and get in each other's way.

use served::Served;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

#[path = "resp/served.rs"]
mod served;

const PATIENCE: Duration = Duration::from_secs(30);

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

    fn send(&mut self, request: &str) {
        self.stream.write_all(format!("{request}\r\n").as_bytes()).expect("the server reads");
    }

    /// The first line of a reply.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line in time");
        line.trim_end().to_owned()
    }

    /// The first line of the reply, or the string that it announces.
    fn ask(&mut self, request: &str) -> String {
        self.send(request);
        let line = self.line();
        match line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok()) {
            Some(length) => {
                let mut text = vec![0; length + 2];
                self.reader.read_exact(&mut text).expect("the whole string");
                text.truncate(length);
                String::from_utf8(text).expect("text")
            }
            None => line,
        }
    }
}

#[test]
fn a_named_write_is_done_once_whoever_repeats_it() {
    let served = Served::start(500);
    let born_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_millis();
    let once = |sequence: u64, lowest: u64, write: &str| {
        format!("FLOTILLA.ONCE 4242 {born_ms} {sequence} {lowest} {write}")
    };
    for _ in 0..3 {
        // Another connection each time, as if the first process had died.
        let mut client = Client::connect(served.address());
        assert_eq!(client.ask(&once(1, 1, "INCR n")), ":1");
        assert_eq!(client.ask(&once(2, 1, "APPEND n 0")), ":2");
        assert_eq!(client.ask(&once(3, 1, "SET n 7 GET")), "10");
        assert_eq!(client.ask(&once(4, 1, "INCRBY m x")), NOT_AN_INTEGER);
    }
    let mut client = Client::connect(served.address());
    assert_eq!(client.ask("GET n"), "7");
    // Without its name the same write is done again.
    assert_eq!(client.ask("INCR n"), ":8");
    assert_eq!(client.ask("INCR n"), ":9");
    // What was acknowledged may be forgotten, but is never done again.
    assert_eq!(client.ask(&once(5, 5, "INCR n")), ":10");
    let reply = client.ask(&once(1, 1, "INCR n"));
    assert_eq!(reply, "-INDOUBT the answer to this write is no longer kept");
    assert_eq!(client.ask("GET n"), "10");
    served.stop();
}

const NOT_AN_INTEGER: &str = "-ERR value is not an integer or out of range";

#[test]
fn transactions_of_many_clients_lose_no_update() {
    const CLIENTS: usize = 4;
    const ROUNDS: usize = 25;
    let served = Served::start(500);
    let address = served.address();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::connect(address);
                for _ in 0..ROUNDS {
                    // Read, add, write, if nobody came between.
                    loop {
                        assert_eq!(client.ask("WATCH a"), "+OK");
                        let seen = client.ask("GET a").parse::<u64>().unwrap_or(0);
                        assert_eq!(client.ask("MULTI"), "+OK");
                        assert_eq!(client.ask(&format!("SET a {}", seen + 1)), "+QUEUED");
                        assert_eq!(client.ask("INCR ab"), "+QUEUED");
                        if client.ask("EXEC") == "*2" {
                            client.line();
                            client.line();
                            break;
                        }
                    }
                }
            });
        }
    });
    let mut client = Client::connect(served.address());
    let total = (CLIENTS * ROUNDS).to_string();
    assert_eq!(client.ask("GET a"), total);
    assert_eq!(client.ask("GET ab"), total);
    served.stop();
}

#[test]
fn every_key_can_be_the_random_one() {
    let served = Served::start(500);
    let mut client = Client::connect(served.address());
    let mut missing: BTreeSet<String> = ["a", "ab", "zzz"].into_iter().map(str::to_owned).collect();
    missing.extend((0..300).map(|n| format!("user:{n}")));
    for key in &missing {
        assert_eq!(client.ask(&format!("SET {key} v")), "+OK");
    }
    let begun = Instant::now();
    while !missing.is_empty() {
        let key = client.ask("RANDOMKEY");
        missing.remove(&key);
        assert!(begun.elapsed() < PATIENCE, "never found: {missing:?}");
    }
    served.stop();
}

#[test]
fn clients_come_and_go_by_the_thousand() {
    let served = Served::start(500);
    let mut lasting = Client::connect(served.address());
    for round in 0..10 {
        let mut clients: Vec<Client> =
            (0..200).map(|_| Client::connect(served.address())).collect();
        for client in &mut clients {
            client.send("SET k v");
        }
        for (index, client) in clients.iter_mut().enumerate() {
            // Half leave without having read their reply.
            if index % 2 == 0 {
                assert_eq!(client.line(), "+OK", "round {round}");
            }
        }
    }
    let begun = Instant::now();
    loop {
        let info = lasting.ask("INFO clients");
        if info.contains("connected_clients:1\r\n") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{info}");
    }
    assert_eq!(lasting.ask("GET k"), "v");
    served.stop();
}

#[test]
fn a_client_that_reads_nothing_does_not_slow_another() {
    let served = Served::start(500);
    let mut other = Client::connect(served.address());
    let value = "x".repeat(1 << 20);
    assert_eq!(other.ask(&format!("SET big {}", &value[..60_000])), "+OK");
    let mut slow = Client::connect(served.address());
    // The replies are more than the sockets and the server hold for one client.
    let requests = "GET big\r\n".repeat(1000);
    slow.stream.write_all(requests.as_bytes()).expect("requests are small");
    for _ in 0..200 {
        assert_eq!(other.ask("INCR n").as_bytes()[0], b':');
    }
    // What it did not read is still there, all of it and in order.
    for _ in 0..1000 {
        assert_eq!(slow.line(), "$60000");
        let mut rest = vec![0; 60_002];
        slow.reader.read_exact(&mut rest).expect("the whole value");
        assert!(rest[..60_000].iter().all(|byte| *byte == b'x'));
    }
    served.stop();
}
