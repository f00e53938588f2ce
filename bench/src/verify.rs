//! Reads all that was written, through one node, and judges it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::connection::{Connection, ReadResult};
use crate::history::{Called, Recorder, Returned};
use crate::register::{Register, Violation};

/// Reads sent at once.
const READS_AT_ONCE: usize = 64;

/// How long a reply may take. The servers give up earlier.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two tries of a read that was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What reading came to.
#[derive(Debug, Default)]
pub struct Verification {
    /// Registers read.
    pub read: usize,
    /// Broken promises.
    pub violations: Vec<Violation>,
}

/// Added to the port of the server that is read through, as the client of the history.
const FIRST_CLIENT: u64 = 1_000_000;

/// Reads every register through the server at `address`. A refused read is tried again.
/// `recorder` sees the reads.
///
/// # Errors
///
/// If some register cannot be read within `timeout`: then nothing is proven.
pub async fn verify(
    address: SocketAddr,
    registers: &mut [&mut Register],
    timeout: Duration,
    recorder: Option<&Recorder>,
) -> anyhow::Result<Verification> {
    let deadline = Instant::now() + timeout;
    let mut verification = Verification::default();
    let mut connection: Option<Connection> = None;
    for chunk in registers.chunks_mut(READS_AT_ONCE) {
        let mut waiting: Vec<&mut Register> =
            chunk.iter_mut().map(|register| &mut **register).collect();
        while !waiting.is_empty() {
            let results = read_all(&mut connection, address, &waiting, recorder).await;
            let problem = match results {
                Ok(results) => judge(&mut waiting, results, &mut verification),
                Err(error) => Some(format!("{error:#}")),
            };
            let Some(problem) = problem else { continue };
            if Instant::now() >= deadline {
                bail!(
                    "{} keys could not be read through {address} within {timeout:?}: {problem}",
                    waiting.len()
                );
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
    Ok(verification)
}

async fn read_all(
    connection: &mut Option<Connection>,
    address: SocketAddr,
    registers: &[&mut Register],
    recorder: Option<&Recorder>,
) -> anyhow::Result<Vec<ReadResult>> {
    let keys: Vec<&[u8]> = registers.iter().map(|register| &register.key()[..]).collect();
    let open = match connection.take() {
        Some(open) => open,
        None => Connection::open(address, REPLY_TIMEOUT).await?,
    };
    let open = connection.insert(open);
    let client = FIRST_CLIENT + u64::from(address.port());
    let begin = |key: &[u8]| recorder.and_then(|it| it.begin(client, key, Called::Get));
    let tokens: Vec<_> = keys.iter().map(|key| begin(key)).collect();
    let results = open.get_all(&keys).await;
    for (at, token) in tokens.into_iter().enumerate() {
        let (Some(recorder), Some(token)) = (recorder, token) else { continue };
        let read = match results.as_ref().map(|results| &results[at]) {
            Ok(ReadResult::Value(value)) => Returned::Done(value.as_deref()),
            Ok(ReadResult::Refused(_) | ReadResult::Lost(_)) | Err(_) => Returned::NoEffect,
        };
        recorder.end(token, read);
    }
    if open.is_broken() {
        *connection = None;
    }
    results
}

/// Judges what was read and leaves in `waiting` what was refused; returns one of the refusals.
fn judge(
    waiting: &mut Vec<&mut Register>,
    results: Vec<ReadResult>,
    verification: &mut Verification,
) -> Option<String> {
    let mut refusal = None;
    let mut results = results.into_iter();
    waiting.retain_mut(|register| match results.next().expect("a result for each register") {
        ReadResult::Value(value) => {
            verification.read += 1;
            if let Err(violation) = register.observe(value.as_deref()) {
                verification.violations.push(violation);
            }
            false
        }
        ReadResult::Refused(kind) | ReadResult::Lost(kind) => {
            refusal = Some(kind);
            true
        }
    });
    refusal
}
