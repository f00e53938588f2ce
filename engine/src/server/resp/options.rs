//! What one server allows.

use super::codec::DecoderLimits;
use std::time::Duration;

/// Limits and times of a RESP server.
#[derive(Clone, Debug)]
pub struct RespOptions {
    /// Connections beyond this many are refused.
    pub connections_max: usize,
    /// The longest key.
    pub key_bytes_max: usize,
    /// The longest value.
    pub value_bytes_max: usize,
    /// The longest request; its keys and values together with their framing.
    pub request_bytes_max: usize,
    /// The most arguments of one request.
    pub arguments_max: usize,
    /// The most bytes that the commands of one transaction may have, before `EXEC`.
    pub transaction_bytes_max: usize,
    /// The most bytes of values in one reply to `MGET`, `KEYS` or `EXEC`.
    pub reply_bytes_max: usize,
    /// Requests of one connection that may be under way.
    pub pipeline_requests_max: usize,
    /// Bytes of one connection that may be under way: of requests, and of replies expected (as
    /// large as those before) or not yet taken by the client. One request is always let through.
    pub pipeline_bytes_max: usize,
    /// Reads of one connection that may be under way while nobody knows how large their values are.
    pub pipeline_reads_max: usize,
    /// Bytes of replies that a client has not taken, before the server stops making more for it.
    pub unread_bytes_max: usize,
    /// How long a client may take none of its replies while there is no room for more, before it is
    /// given up.
    pub unread_timeout: Duration,
    /// Scans whose position is remembered.
    pub cursors_max: usize,
    /// How long a request may take before it is given up.
    pub request_timeout: Duration,
    /// How long a stopping server waits for requests under way.
    pub shutdown_grace: Duration,
}

impl Default for RespOptions {
    fn default() -> Self {
        RespOptions {
            connections_max: 10_000,
            key_bytes_max: 4096,
            value_bytes_max: 8 << 20,
            request_bytes_max: 32 << 20,
            arguments_max: 1 << 20,
            transaction_bytes_max: 16 << 20,
            reply_bytes_max: 64 << 20,
            pipeline_requests_max: 1024,
            pipeline_bytes_max: 16 << 20,
            pipeline_reads_max: 128,
            unread_bytes_max: 1 << 20,
            unread_timeout: Duration::from_secs(60),
            cursors_max: 4096,
            request_timeout: Duration::from_secs(5),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

impl RespOptions {
    /// What the decoder may keep. An argument is kept if it can be a value, so that everything up
    /// to the largest value gets a precise answer.
    pub(super) fn decoder_limits(&self) -> DecoderLimits {
        DecoderLimits {
            argument_bytes_max: self.value_bytes_max.max(self.key_bytes_max),
            request_bytes_max: self.request_bytes_max,
            arguments_max: self.arguments_max,
            ..DecoderLimits::default()
        }
    }
}
