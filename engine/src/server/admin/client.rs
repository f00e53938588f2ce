//! Just enough HTTP to ask an admin port: one GET, one answer, one connection.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The longest answer that is read. `/status` of ten thousand shards is about 3 MB.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status code.
    pub code: u16,
    /// The header lines, as sent, without the status line.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Asks `http://{address}{path}` and waits for the whole answer, at most `timeout`.
///
/// # Errors
///
/// If nobody listens, the answer takes too long, or it is not HTTP.
pub fn get(address: &str, path: &str, timeout: Duration) -> io::Result<Response> {
    let deadline = Instant::now() + timeout;
    let mut stream = connect(address, timeout)?;
    stream.set_write_timeout(Some(timeout))?;
    // HTTP/1.0: the answer ends where the connection ends, and is never chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: */*\r\n\r\n")?;

    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the answer takes too long"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
    }
    parse(&answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

/// Tries every address that the name stands for.
fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
    for resolved in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&resolved, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let (line, head) = head.split_once("\r\n").unwrap_or((head, ""));
    let code = line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Response { code, head: head.to_owned(), body: answer[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_cut_into_code_head_and_body() {
        let response = parse(b"HTTP/1.0 503 Service Unavailable\r\nA: b\r\nC: d\r\n\r\n{}\r\n\r\n");
        let response = response.unwrap();
        assert_eq!(response.code, 503);
        assert_eq!(response.head, "A: b\r\nC: d");
        assert_eq!(response.body, b"{}\r\n\r\n");
        assert_eq!(parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().code, 204);
        for bad in [
            &b""[..],
            b"\r\n\r\n",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
        ] {
            assert_eq!(parse(bad), None);
        }
    }
}
