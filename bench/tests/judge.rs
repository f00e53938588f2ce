//! The judge is judged: writers and checker against small servers, honest and dishonest ones.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flotilla_bench::register::Register;
use flotilla_bench::verify::verify;
use flotilla_bench::writers::{Counts, Fleet, Writer, counts};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const WRITERS: u32 = 8;
const SHARDS: u32 = 4;

/// What a server does to every hundredth write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manners {
    Honest,
    /// Acknowledges it and forgets it.
    Forgets,
    /// Refuses it as if without effect, and does it.
    LiesAboutRefusal,
    /// Does it, and closes the connection instead of answering.
    ClosesAfter,
    /// Does not do it, and closes the connection.
    ClosesBefore,
    /// Says that it does not know, does not do it, but does it much later: at the next one.
    Late,
}

struct Store {
    manners: Manners,
    values: HashMap<Vec<u8>, Vec<u8>>,
    writes: u64,
    late: Option<(Vec<u8>, Vec<u8>)>,
}

impl Store {
    /// The reply; `None` closes the connection.
    fn set(&mut self, key: Vec<u8>, value: Vec<u8>) -> Option<&'static [u8]> {
        self.writes += 1;
        let manners = if self.writes.is_multiple_of(100) { self.manners } else { Manners::Honest };
        if !matches!(manners, Manners::Forgets | Manners::ClosesBefore | Manners::Late) {
            self.values.insert(key.clone(), value.clone());
        }
        match manners {
            Manners::Honest | Manners::Forgets => Some(b"+OK\r\n"),
            Manners::LiesAboutRefusal => Some(b"-TRYAGAIN without effect\r\n"),
            Manners::ClosesAfter | Manners::ClosesBefore => None,
            Manners::Late => {
                if let Some((key, value)) = self.late.replace((key, value)) {
                    self.values.insert(key, value);
                }
                Some(b"-INDOUBT timed out\r\n")
            }
        }
    }
}

async fn serve(listener: TcpListener, store: Arc<Mutex<Store>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            // A client that went away is no concern of this test.
            let _ = serve_client(stream, &store).await;
        });
    }
}

async fn serve_client(stream: TcpStream, store: &Mutex<Store>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let parts = number(&mut stream).await?;
        let mut command = Vec::new();
        for _ in 0..parts {
            let mut part = vec![0; number(&mut stream).await? + 2];
            stream.read_exact(&mut part).await?;
            part.truncate(part.len() - 2);
            command.push(part);
        }
        let reply = match &command[..] {
            [_, key, value] => {
                let reply = store.lock().unwrap().set(key.clone(), value.clone());
                let Some(reply) = reply else { return Ok(()) };
                reply.to_vec()
            }
            [_, key] => match store.lock().unwrap().values.get(key) {
                None => b"$-1\r\n".to_vec(),
                Some(value) => {
                    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
                }
            },
            other => panic!("the writers only set and get: {other:?}"),
        };
        stream.get_mut().write_all(&reply).await?;
    }
}

/// The number in a line such as `*3` or `$16`.
async fn number(stream: &mut BufReader<TcpStream>) -> std::io::Result<usize> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line[1..].trim_end().parse().unwrap())
}

/// Writes until a thousand writes were acknowledged, reads all back, and counts violations.
async fn judge(manners: Manners) -> (usize, Counts) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let store = Store { manners, values: HashMap::new(), writes: 0, late: None };
    let server = tokio::spawn(serve(listener, Arc::new(Mutex::new(store))));

    let fleet = Fleet::start(Writer::spread(WRITERS, SHARDS, 128), &[address], SHARDS);
    while fleet.acknowledged().iter().sum::<u64>() < 1_000 {
        tokio::task::yield_now().await;
    }
    let (mut writers, _) = fleet.stop().await.unwrap();

    let mut violations: usize = writers.iter().map(|writer| writer.violations.len()).sum();
    let mut registers: Vec<&mut Register> =
        writers.iter_mut().flat_map(Writer::registers_mut).collect();
    let verification =
        verify(address, &mut registers, Duration::from_secs(60), None).await.unwrap();
    assert_eq!(verification.read, registers.len());
    violations += verification.violations.len();
    server.abort();
    (violations, counts(&writers))
}

#[tokio::test]
async fn an_honest_server_passes() {
    let (violations, counts) = judge(Manners::Honest).await;
    assert_eq!(violations, 0);
    assert!(counts.acknowledged >= 1_000 && counts.reads > 0, "{counts:?}");
    assert_eq!((counts.refused, counts.in_doubt), (0, 0));
}

#[tokio::test]
async fn unknown_outcomes_pass_whatever_became_of_them() {
    for manners in [Manners::ClosesAfter, Manners::ClosesBefore, Manners::Late] {
        let (violations, counts) = judge(manners).await;
        assert_eq!(violations, 0);
        assert!(counts.in_doubt > 0, "{counts:?}");
    }
}

#[tokio::test]
async fn a_server_that_forgets_is_found() {
    let (violations, _) = judge(Manners::Forgets).await;
    assert!(violations > 0);
}

#[tokio::test]
async fn a_server_that_lies_about_refusals_is_found() {
    let (violations, counts) = judge(Manners::LiesAboutRefusal).await;
    assert!(violations > 0 && counts.refused > 0, "{counts:?}");
}
