//! One connection to a server, for clients that remember what they were told.
//!
//! A failed call says whether its command may have had an effect: that is what a recording client
//! must know, and all that it can know.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::resp::{self, Refusal, Reply};

/// What a write came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteResult {
    /// Done.
    Acknowledged,
    /// Certainly not done: the error's first word.
    Refused(String),
    /// Nobody knows: the error's first word, or what happened to the connection.
    InDoubt(String),
}

/// What a read came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadResult {
    /// The value, if there is one.
    Value(Option<Vec<u8>>),
    /// An error reply; the connection is usable.
    Refused(String),
    /// The connection is of no more use.
    Lost(String),
}

/// A connection with at most one call under way.
pub struct Connection {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    reply_timeout: Duration,
    broken: bool,
}

impl Connection {
    /// Connects; every later call takes at most `reply_timeout`.
    ///
    /// # Errors
    ///
    /// If nobody accepts within `reply_timeout`.
    pub async fn open(address: SocketAddr, reply_timeout: Duration) -> io::Result<Connection> {
        let stream = timeout(reply_timeout, TcpStream::connect(address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        let (input, output) = (BytesMut::with_capacity(4 << 10), BytesMut::new());
        Ok(Connection { stream, input, output, reply_timeout, broken: false })
    }

    /// True if a call failed in a way after which replies cannot be matched to commands.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// `SET key value`.
    pub async fn set(&mut self, key: &[u8], value: &[u8]) -> WriteResult {
        resp::put_set(&mut self.output, key, value);
        let reply = self.exchange(|reply| match reply {
            Reply::Simple(b"OK") => WriteResult::Acknowledged,
            Reply::Error(error) => match resp::classify(error) {
                Refusal::Certain => WriteResult::Refused(kind(error)),
                Refusal::InDoubt => WriteResult::InDoubt(kind(error)),
            },
            other => WriteResult::InDoubt(format!("unexpected reply {other:?}")),
        });
        reply.await.unwrap_or_else(WriteResult::InDoubt)
    }

    /// `INCR key`; the new number comes only with an acknowledgement.
    pub async fn increment(&mut self, key: &[u8]) -> (WriteResult, Option<i64>) {
        let number = |reply: Reply<'_>| match reply {
            Reply::Integer(number) => Some(number),
            _ => None,
        };
        self.write(&[b"INCR", key], number).await
    }

    /// Any command that writes. `done` says what a reply acknowledges, `None` if it does not; what it
    /// says comes only with an acknowledgement.
    pub async fn write<T>(
        &mut self,
        command: &[&[u8]],
        done: impl FnOnce(Reply<'_>) -> Option<T>,
    ) -> (WriteResult, Option<T>) {
        resp::put_command(&mut self.output, command);
        let reply = self.exchange(|reply| match reply {
            Reply::Error(error) => match resp::classify(error) {
                Refusal::Certain => (WriteResult::Refused(kind(error)), None),
                Refusal::InDoubt => (WriteResult::InDoubt(kind(error)), None),
            },
            other => match done(other) {
                Some(done) => (WriteResult::Acknowledged, Some(done)),
                None => (WriteResult::InDoubt(format!("unexpected reply {other:?}")), None),
            },
        });
        reply.await.unwrap_or_else(|problem| (WriteResult::InDoubt(problem), None))
    }

    /// `GET key`.
    pub async fn get(&mut self, key: &[u8]) -> ReadResult {
        resp::put_get(&mut self.output, key);
        self.exchange(read_result).await.unwrap_or_else(ReadResult::Lost)
    }

    /// Any command whose reply is a bulk string.
    ///
    /// # Errors
    ///
    /// If the connection is lost, or the reply is another.
    pub async fn ask(&mut self, command: &[&[u8]]) -> anyhow::Result<Vec<u8>> {
        resp::put_command(&mut self.output, command);
        let reply = self.exchange(|reply| match reply {
            Reply::Bulk(Some(text)) => Ok(text.to_vec()),
            Reply::Error(error) => Err(String::from_utf8_lossy(error).into_owned()),
            other => Err(format!("unexpected reply {other:?}")),
        });
        match reply.await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(problem)) | Err(problem) => bail!("{problem}"),
        }
    }

    /// `GET` of each key, sent at once; the results in order.
    ///
    /// # Errors
    ///
    /// If the connection is lost before the last reply: nothing is known then.
    pub async fn get_all(&mut self, keys: &[&[u8]]) -> anyhow::Result<Vec<ReadResult>> {
        for key in keys {
            resp::put_get(&mut self.output, key);
        }
        let mut results = Vec::with_capacity(keys.len());
        for _ in keys {
            match self.exchange(read_result).await {
                Ok(result) => results.push(result),
                Err(problem) => bail!("lost the connection: {problem}"),
            }
        }
        Ok(results)
    }

    /// Sends what is to be sent, and reads one reply.
    async fn exchange<T>(&mut self, read: impl FnOnce(Reply<'_>) -> T) -> Result<T, String> {
        match timeout(self.reply_timeout, self.exchange_inner(read)).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => {
                self.broken = true;
                Err(format!("{error:#}"))
            }
            Err(_) => {
                self.broken = true;
                Err("no reply in time".to_owned())
            }
        }
    }

    async fn exchange_inner<T>(&mut self, read: impl FnOnce(Reply<'_>) -> T) -> anyhow::Result<T> {
        if !self.output.is_empty() {
            self.stream.write_all_buf(&mut self.output).await.context("connection lost")?;
        }
        loop {
            if let Some((reply, length)) = resp::parse(&self.input)? {
                let result = read(reply);
                self.input.advance(length);
                return Ok(result);
            }
            if self.stream.read_buf(&mut self.input).await.context("connection lost")? == 0 {
                bail!("connection closed");
            }
        }
    }
}

fn read_result(reply: Reply<'_>) -> ReadResult {
    match reply {
        Reply::Bulk(value) => ReadResult::Value(value.map(<[u8]>::to_vec)),
        Reply::Error(error) => ReadResult::Refused(kind(error)),
        other => ReadResult::Refused(format!("unexpected reply {other:?}")),
    }
}

fn kind(error: &[u8]) -> String {
    String::from_utf8_lossy(resp::error_kind(error)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A server that answers each connection with a fixed text after the first bytes came.
    async fn answering(text: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut command = [0; 1024];
                let _ = stream.read(&mut command).await;
                let _ = stream.write_all(text).await;
            }
        });
        address
    }

    async fn set(text: &'static [u8]) -> WriteResult {
        let address = answering(text).await;
        let mut connection = Connection::open(address, Duration::from_secs(20)).await.unwrap();
        connection.set(b"k", b"v").await
    }

    #[tokio::test]
    async fn only_ok_is_an_acknowledgement() {
        assert_eq!(set(b"+OK\r\n").await, WriteResult::Acknowledged);
        assert_eq!(set(b"-TRYAGAIN no leader\r\n").await, WriteResult::Refused("TRYAGAIN".into()));
        assert_eq!(set(b"-INDOUBT lost\r\n").await, WriteResult::InDoubt("INDOUBT".into()));
        assert!(matches!(set(b":1\r\n").await, WriteResult::InDoubt(_)));
        assert!(matches!(set(b"").await, WriteResult::InDoubt(_)), "closed without a reply");
        assert!(matches!(set(b"+O").await, WriteResult::InDoubt(_)), "closed within a reply");
    }

    #[tokio::test]
    async fn replies_come_in_order() {
        let address = answering(b"$1\r\na\r\n$-1\r\n-BUSY later\r\n").await;
        let mut connection = Connection::open(address, Duration::from_secs(20)).await.unwrap();
        let results = connection.get_all(&[b"1", b"2", b"3"]).await.unwrap();
        let want = [
            ReadResult::Value(Some(b"a".to_vec())),
            ReadResult::Value(None),
            ReadResult::Refused("BUSY".into()),
        ];
        assert_eq!(results, want);
        assert!(connection.get_all(&[b"4"]).await.is_err());
        assert!(connection.is_broken());
    }
}
