//! `flotilla get`, `put`, `delete` and `scan`: keys and values of a running node.
//!
//! Keys are written as split keys are: text with `\xNN` for any byte and `\\` for a backslash. The
//! value of `get` leaves as it is, that of `put` comes as it is from standard input, or escaped from
//! the command line. Exit code 1 says that it did not work, or that `get` found nothing.

use std::io::{IsTerminal, Read, Write};
use std::time::Duration;

use clap::Args;
use flotilla::splits::{SplitError, escape_key, parse_key};

use crate::client::{Client, ClientError, Reply};
use flotilla::server::process::Failure;

/// Keys asked for at a time.
const PAGE_KEYS: &str = "256";

/// Which node, and how long to wait for it.
#[derive(Debug, Args)]
struct Target {
    /// A node's address for Redis clients.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7001")]
    addr: String,

    /// How long to wait for an answer.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Arguments of `flotilla get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    #[command(flatten)]
    target: Target,

    /// The key, with \xNN escapes.
    #[arg(value_name = "KEY")]
    key: String,
}

/// Arguments of `flotilla put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    #[command(flatten)]
    target: Target,

    /// Let the value expire after this time.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,

    /// The key, with \xNN escapes.
    #[arg(value_name = "KEY")]
    key: String,

    /// The value, with \xNN escapes; without it: what comes from standard input, as it is.
    #[arg(value_name = "VALUE")]
    value: Option<String>,
}

/// Arguments of `flotilla delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    target: Target,

    /// The keys, with \xNN escapes.
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
}

/// Arguments of `flotilla scan`.
#[derive(Debug, Args)]
pub struct ScanArgs {
    #[command(flatten)]
    target: Target,

    /// Only keys that begin with this, with \xNN escapes.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,

    /// At most this many rows.
    #[arg(long, value_name = "ROWS")]
    limit: Option<u64>,
}

impl Target {
    fn connect(&self) -> Result<Connection<'_>, Failure> {
        if self.timeout.is_zero() {
            return Err(Failure::usage("--timeout must not be zero"));
        }
        let client = Client::connect(&self.addr, self.timeout)
            .map_err(|error| self.failed("connect to", &error))?;
        Ok(Connection { target: self, client })
    }

    fn failed(&self, what: &str, error: &ClientError) -> Failure {
        Failure::runtime(format!("cannot {what} {}: {error}", self.addr))
    }
}

struct Connection<'a> {
    target: &'a Target,
    client: Client,
}

impl Connection<'_> {
    /// Calls, with the server's refusals as failures.
    fn call(&mut self, words: &[&[u8]]) -> Result<Reply, Failure> {
        match self.client.call(words) {
            Ok(Reply::Error(error)) => {
                Err(Failure::runtime(format!("{} says: {error}", self.target.addr)))
            }
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.target.failed("ask", &error)),
        }
    }

    fn unexpected<T>(&self, reply: &Reply) -> Result<T, Failure> {
        let (address, what) = (&self.target.addr, format!("{reply:.80?}"));
        Err(Failure::runtime(format!("{address} gave an answer of another kind: {what}")))
    }
}

/// Runs `flotilla get`.
pub fn get(args: &GetArgs) -> Result<(), Failure> {
    let key = parse_key(&args.key).map_err(Failure::usage)?;
    let mut connection = args.target.connect()?;
    match connection.call(&[b"GET", &key])? {
        Reply::Bulk(Some(value)) => write_raw(&value),
        Reply::Bulk(None) => Err(Failure::runtime(format!("`{}` holds nothing", args.key))),
        other => connection.unexpected(&other),
    }
}

/// The value as it is; a line end only for eyes.
fn write_raw(value: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let end: &[u8] = if out.is_terminal() { b"\n" } else { b"" };
    let written = out.write_all(value).and_then(|()| out.write_all(end)).and_then(|()| out.flush());
    written.map_err(|error| Failure::runtime(format!("cannot write the value: {error}")))
}

/// Runs `flotilla put`.
pub fn put(args: &PutArgs) -> Result<(), Failure> {
    let key = parse_key(&args.key).map_err(Failure::usage)?;
    let ttl_ms = args.ttl.map(|ttl| ttl.as_millis().to_string());
    if ttl_ms.as_deref() == Some("0") {
        return Err(Failure::usage("--ttl must be at least 1ms"));
    }
    let value = match &args.value {
        Some(text) => parse_key(text).map_err(|error| bad_value(&error))?.to_vec(),
        None => {
            let mut value = Vec::new();
            std::io::stdin().lock().read_to_end(&mut value).map_err(|error| {
                Failure::runtime(format!("cannot read the value from standard input: {error}"))
            })?;
            value
        }
    };
    let mut connection = args.target.connect()?;
    let mut words: Vec<&[u8]> = vec![b"SET", &key, &value];
    if let Some(ttl_ms) = &ttl_ms {
        words.extend([&b"PX"[..], ttl_ms.as_bytes()]);
    }
    match connection.call(&words)? {
        Reply::Simple(_) => Ok(()),
        other => connection.unexpected(&other),
    }
}

/// Values are written as keys are, but it is not the key that is wrong.
fn bad_value(error: &SplitError) -> Failure {
    match error {
        SplitError::Escape { text, position } => Failure::usage(format!(
            "value `{text}` has a bad escape at byte {position}: write \\xNN with two hex digits, or \\\\ \
             for a backslash, or give the value on standard input as it is"
        )),
        other => Failure::usage(other),
    }
}

/// Runs `flotilla delete`.
pub fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    let keys = args.keys.iter().map(|key| parse_key(key)).collect::<Result<Vec<_>, _>>();
    let keys = keys.map_err(Failure::usage)?;
    let mut connection = args.target.connect()?;
    let mut words: Vec<&[u8]> = vec![b"DEL"];
    words.extend(keys.iter().map(|key| &key[..]));
    match connection.call(&words)? {
        Reply::Integer(count) => {
            say!("{count}");
            Ok(())
        }
        other => connection.unexpected(&other),
    }
}

/// Runs `flotilla scan`: a line for each row, key and value escaped, with a tab in between.
pub fn scan(args: &ScanArgs) -> Result<(), Failure> {
    let prefix = parse_key(&args.prefix).map_err(Failure::usage)?;
    let pattern = pattern_of(&prefix);
    let mut connection = args.target.connect()?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut cursor = b"0".to_vec();
    let mut out = std::io::stdout().lock();
    while left > 0 {
        let words: [&[u8]; 6] =
            [b"SCAN", &cursor, b"MATCH", &pattern, b"COUNT", PAGE_KEYS.as_bytes()];
        let (next, mut keys) = match connection.call(&words)? {
            Reply::List(parts) => match parts_of(parts) {
                Some(found) => found,
                None => return Err(Failure::runtime("the node's answer to SCAN is no page")),
            },
            other => return connection.unexpected(&other),
        };
        keys.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        for (key, value) in rows(&mut connection, keys)? {
            left -= 1;
            let line = writeln!(out, "{}\t{}", escape_key(&key), escape_key(&value));
            if line.is_err() {
                // The reader has seen enough.
                return Ok(());
            }
        }
        if next == b"0" {
            break;
        }
        cursor = next;
    }
    Ok(())
}

/// The rows of these keys that still hold something.
fn rows(
    connection: &mut Connection<'_>,
    keys: Vec<Vec<u8>>,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Failure> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut words: Vec<&[u8]> = vec![b"MGET"];
    words.extend(keys.iter().map(|key| &key[..]));
    let values = match connection.call(&words)? {
        Reply::List(values) if values.len() == keys.len() => values,
        other => return connection.unexpected(&other),
    };
    let rows = keys.into_iter().zip(values);
    Ok(rows
        .filter_map(|(key, value)| match value {
            Reply::Bulk(Some(value)) => Some((key, value)),
            _ => None,
        })
        .collect())
}

/// Cursor and keys of a page.
fn parts_of(parts: Vec<Reply>) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let [Reply::Bulk(Some(cursor)), Reply::List(keys)] = <[Reply; 2]>::try_from(parts).ok()? else {
        return None;
    };
    let key = |reply| match reply {
        Reply::Bulk(Some(key)) => Some(key),
        _ => None,
    };
    Some((cursor, keys.into_iter().map(key).collect::<Option<_>>()?))
}

/// The pattern that matches what begins with `prefix`.
fn pattern_of(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'^' | b'-') {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    pattern
}
