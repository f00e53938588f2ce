//! A connection that is ready for use: greeted, subscribed to its inbox, and answered once.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Buf, BytesMut};
use rand::distr::{Alphanumeric, SampleString};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wire::{self, Frame};

/// How long a server may take for what is asked here.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Headers and no-responders are asked for: a request that nobody listens to is answered then.
const GREETING: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\
    \"no_responders\":true,\"protocol\":1,\"lang\":\"rust\",\"name\":\"flotilla-bench\"}\r\n";

/// What a server says when it greets.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Info {
    #[serde(default)]
    pub(super) version: String,
    #[serde(default)]
    pub(super) jetstream: bool,
}

/// A connection whose answers come to subjects that begin with `inbox`.
pub(super) struct Link {
    pub(super) stream: TcpStream,
    /// Bytes that came and were not looked at.
    pub(super) input: BytesMut,
    /// With a dot at its end.
    pub(super) inbox: Vec<u8>,
    pub(super) info: Info,
}

impl Link {
    /// Connects to `address`.
    pub(super) async fn open(address: SocketAddr) -> anyhow::Result<Link> {
        let opened = timeout(ANSWER_TIMEOUT, Link::greet(address)).await;
        opened.context("no answer in time")?.with_context(|| format!("NATS at {address}"))
    }

    async fn greet(address: SocketAddr) -> anyhow::Result<Link> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // Not from a seed: two clients with one inbox would take each other's answers.
        let name = Alphanumeric.sample_string(&mut rand::rng(), 16);
        let inbox = format!("_INBOX.{name}.");
        let input = BytesMut::with_capacity(64 << 10);
        let mut link =
            Link { stream, input, inbox: inbox.clone().into_bytes(), info: Info::default() };
        let greeting = format!("{GREETING}SUB {inbox}* 1\r\nPING\r\n");
        link.stream.write_all(greeting.as_bytes()).await?;
        loop {
            match wire::parse(&link.input)? {
                Some((Frame::Pong, length)) => {
                    link.input.advance(length);
                    return Ok(link);
                }
                Some((Frame::Info(json), length)) => {
                    link.info = serde_json::from_slice(json).context("INFO is not as expected")?;
                    link.input.advance(length);
                }
                Some((Frame::Error(text), _)) => bail!("refused: {}", text.escape_ascii()),
                Some((_, length)) => link.input.advance(length),
                None => {
                    if link.stream.read_buf(&mut link.input).await? == 0 {
                        bail!("the connection was closed");
                    }
                }
            }
        }
    }

    /// Asks `subject`, and returns the answer's headers and payload. One question at a time.
    pub(super) async fn request(
        &mut self,
        subject: &str,
        payload: &[u8],
    ) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        let mut output = BytesMut::new();
        let parts: [&[u8]; 2] = [&self.inbox, b"setup"];
        wire::put_publish(&mut output, &[subject.as_bytes()], &parts, b"", payload);
        self.stream.write_all(&output).await?;
        let answered = timeout(ANSWER_TIMEOUT, self.answer());
        answered.await.with_context(|| format!("no answer to {subject} in time"))?
    }

    async fn answer(&mut self) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        loop {
            match wire::parse(&self.input)? {
                Some((Frame::Message { headers, payload, .. }, length)) => {
                    let answer = (headers.to_vec(), payload.to_vec());
                    self.input.advance(length);
                    return Ok(answer);
                }
                Some((Frame::Ping, length)) => {
                    self.input.advance(length);
                    self.stream.write_all(b"PONG\r\n").await?;
                }
                Some((_, length)) => self.input.advance(length),
                None => {
                    if self.stream.read_buf(&mut self.input).await? == 0 {
                        bail!("the connection was closed");
                    }
                }
            }
        }
    }
}
