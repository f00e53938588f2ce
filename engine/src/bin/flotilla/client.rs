//! A Redis client that waits: one command out, one reply in.
//!
//! Written apart from the server's codec: it is to be believed about what the server says.
//!
//! What is absent: pipelines, and reconnecting.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// The longest line of a reply; errors are one line.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// The longest string that is taken, as in Redis.
const BULK_BYTES_MAX: i64 = 512 << 20;
/// The most items that a list may have.
const ITEMS_MAX: i64 = 1 << 20;
/// How deep lists may lie in lists.
const DEPTH_MAX: u32 = 4;

/// What a server replies.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(Vec<u8>),
    /// `-ERR …`, without the dash.
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$3…`; `None` is the null string.
    Bulk(Option<Vec<u8>>),
    /// `*2…`
    List(Vec<Reply>),
}

/// Why there is no reply.
#[derive(Debug)]
pub enum ClientError {
    /// The server is not there, or went away.
    Io(io::Error),
    /// It does not speak the protocol.
    Protocol(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Io(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => f.write_str("no answer"),
                io::ErrorKind::UnexpectedEof => f.write_str("the connection was closed"),
                _ => error.fmt(f),
            },
            ClientError::Protocol(what) => write!(f, "not a Redis server: {what}"),
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Io(error)
    }
}

/// A connection.
pub struct Client<S: Read + Write = TcpStream> {
    stream: BufReader<S>,
}

impl Client {
    /// Connects to `address`. Nothing waits for longer than `timeout` for a single read or write.
    pub fn connect(address: &str, timeout: Duration) -> Result<Client, ClientError> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(timeout))?;
                    stream.set_write_timeout(Some(timeout))?;
                    stream.set_nodelay(true)?;
                    return Ok(Client { stream: BufReader::new(stream) });
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }
}

impl<S: Read + Write> Client<S> {
    /// Sends a command and waits for its reply.
    pub fn call(&mut self, words: &[&[u8]]) -> Result<Reply, ClientError> {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&out)?;
        self.reply(0)
    }

    fn reply(&mut self, depth: u32) -> Result<Reply, ClientError> {
        let line = self.line()?;
        let Some((kind, rest)) = line.split_first() else {
            return Err(ClientError::Protocol("an empty line".to_owned()));
        };
        match kind {
            b'+' => Ok(Reply::Simple(rest.to_vec())),
            b'-' => Ok(Reply::Error(String::from_utf8_lossy(rest).into_owned())),
            b':' => Ok(Reply::Integer(number(rest)?)),
            b'$' => self.bulk(number(rest)?),
            b'*' if depth < DEPTH_MAX => {
                let count = number(rest)?;
                if !(0..=ITEMS_MAX).contains(&count) {
                    return Err(ClientError::Protocol(format!("a list of {count}")));
                }
                (0..count).map(|_| self.reply(depth + 1)).collect::<Result<_, _>>().map(Reply::List)
            }
            _ => Err(ClientError::Protocol(format!("it said `{}`", line.escape_ascii()))),
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut line = Vec::new();
        (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(line.to_vec()),
            None => Err(ClientError::Protocol("a line without an end".to_owned())),
        }
    }

    fn bulk(&mut self, bytes: i64) -> Result<Reply, ClientError> {
        if bytes == -1 {
            return Ok(Reply::Bulk(None));
        }
        if !(0..=BULK_BYTES_MAX).contains(&bytes) {
            return Err(ClientError::Protocol(format!("a string of {bytes} bytes")));
        }
        let mut text = Vec::new();
        (&mut self.stream).take(bytes as u64 + 2).read_to_end(&mut text)?;
        if text.len() as u64 != bytes as u64 + 2 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if !text.ends_with(b"\r\n") {
            return Err(ClientError::Protocol("a string longer than it says".to_owned()));
        }
        text.truncate(bytes as usize);
        Ok(Reply::Bulk(Some(text)))
    }
}

fn number(text: &[u8]) -> Result<i64, ClientError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| ClientError::Protocol(format!("`{}` for a number", text.escape_ascii())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what it was given, and keeps what it is told.
    struct Canned {
        says: io::Cursor<Vec<u8>>,
        heard: Vec<u8>,
    }

    impl Read for Canned {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.says.read(out)
        }
    }

    impl Write for Canned {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn client(says: &[u8]) -> Client<Canned> {
        let canned = Canned { says: io::Cursor::new(says.to_vec()), heard: Vec::new() };
        Client { stream: BufReader::new(canned) }
    }

    #[test]
    fn commands_and_replies_are_what_the_protocol_says() {
        let mut client =
            client(b"+OK\r\n-ERR no\r\n:-7\r\n$4\r\na\r\nb\r\n$-1\r\n*2\r\n:1\r\n*0\r\n");
        assert_eq!(client.call(&[b"SET", b"k\0", b""]).unwrap(), Reply::Simple(b"OK".to_vec()));
        assert_eq!(client.stream.get_ref().heard, b"*3\r\n$3\r\nSET\r\n$2\r\nk\0\r\n$0\r\n\r\n");
        assert_eq!(client.call(&[b"A"]).unwrap(), Reply::Error("ERR no".to_owned()));
        assert_eq!(client.call(&[b"A"]).unwrap(), Reply::Integer(-7));
        assert_eq!(client.call(&[b"A"]).unwrap(), Reply::Bulk(Some(b"a\r\nb".to_vec())));
        assert_eq!(client.call(&[b"A"]).unwrap(), Reply::Bulk(None));
        let list = vec![Reply::Integer(1), Reply::List(Vec::new())];
        assert_eq!(client.call(&[b"A"]).unwrap(), Reply::List(list));
        assert!(matches!(client.call(&[b"A"]), Err(ClientError::Io(_))), "closed");
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for says in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b"+OK",
            b"$3\r\nabcd\r\n",
            b"$-2\r\n",
            b"$99999999999\r\n",
            b":one\r\n",
            b"*-1\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        ] {
            let result = client(says).call(&[b"A"]);
            assert!(matches!(result, Err(ClientError::Protocol(_))), "{says:?}: {result:?}");
        }
    }
}
