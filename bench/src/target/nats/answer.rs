//! What JetStream's answers say.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;

use super::base64;
use super::wire;
use crate::target::{Outcome, Reason};

/// The error inside an answer.
#[derive(Debug, Deserialize)]
pub(super) struct ApiError {
    /// As in HTTP.
    #[serde(default)]
    pub(super) code: u16,
    #[serde(default)]
    pub(super) description: String,
}

/// The answer to a publication, and the frame of all other answers.
#[derive(Deserialize)]
struct Acknowledgement {
    error: Option<ApiError>,
    seq: Option<u64>,
}

/// The answer to a question for a message.
#[derive(Deserialize)]
struct Found<'a> {
    error: Option<ApiError>,
    #[serde(borrow)]
    message: Option<Stored<'a>>,
}

#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow, default)]
    data: Cow<'a, str>,
    #[serde(borrow, default)]
    hdrs: Cow<'a, str>,
}

/// Nobody listens to the request: it was stored nowhere.
const NO_RESPONDERS: u16 = 503;

/// What became of a write.
pub(super) fn written(headers: &[u8], payload: &[u8]) -> Outcome {
    if wire::status(headers) == Some(NO_RESPONDERS) {
        return Outcome::NoEffect("no stream answers".into());
    }
    match serde_json::from_slice::<Acknowledgement>(payload) {
        Ok(Acknowledgement { error: Some(error), .. }) => {
            let reason = Reason::from(error.description);
            // Bad requests are refused before they are proposed.
            match error.code {
                400..500 => Outcome::NoEffect(reason),
                _ => Outcome::Unknown(reason),
            }
        }
        Ok(Acknowledgement { seq: Some(_), .. }) => Outcome::WRITTEN,
        _ => Outcome::Unknown("malformed answer".into()),
    }
}

/// The value of a key, `None` if it has none.
///
/// # Errors
///
/// If the question was not answered.
pub(super) fn value(headers: &[u8], payload: &[u8]) -> Result<Option<Bytes>, Reason> {
    const MALFORMED: Reason = Cow::Borrowed("malformed answer");
    if wire::status(headers) == Some(NO_RESPONDERS) {
        return Err("no stream answers".into());
    }
    let found: Found<'_> = serde_json::from_slice(payload).map_err(|_| MALFORMED)?;
    match found {
        Found { error: Some(error), .. } if error.code == 404 => Ok(None),
        Found { error: Some(error), .. } => Err(error.description.into()),
        Found { message: Some(stored), .. } => {
            let decode = |text: &str| base64::decode(text.as_bytes()).ok_or(MALFORMED);
            // A removal is a message of its own, marked by this header.
            let is_removed = !stored.hdrs.is_empty() && has_operation(&decode(&stored.hdrs)?);
            match is_removed {
                true => Ok(None),
                false => decode(&stored.data).map(Some),
            }
        }
        Found { message: None, .. } => Err(MALFORMED),
    }
}

/// True if these are the headers of a removal: puts have none that say an operation.
fn has_operation(headers: &[u8]) -> bool {
    headers.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"KV-Operation:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_are_bytes_as_the_server_sends_them() {
        // Recorded from nats-server 2.9.10.
        assert_eq!(written(b"", br#"{"stream":"KV_bench", "seq":5}"#), Outcome::WRITTEN);
        let refused = br#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"},"stream":"KV_bench","seq":0}"#;
        assert_eq!(written(b"", refused), Outcome::NoEffect("wrong last sequence: 1".into()));
        let failed =
            br#"{"error":{"code":503,"err_code":10077,"description":"x"},"stream":"s","seq":0}"#;
        assert!(matches!(written(b"", failed), Outcome::Unknown(_)));
        assert!(matches!(written(b"NATS/1.0 503\r\n\r\n", b""), Outcome::NoEffect(_)));
        assert!(matches!(written(b"", b"{}"), Outcome::Unknown(_)));
        assert!(matches!(written(b"", b""), Outcome::Unknown(_)));
    }

    #[test]
    fn values_are_read_from_recorded_answers() {
        let found = br#"{"type":"io.nats.jetstream.api.v1.stream_msg_get_response","message":{"subject":"$KV.bench.aw","seq":1,"data":"dg==","time":"2026-11-21T15:00:00.1Z"}}"#;
        assert_eq!(value(b"", found), Ok(Some(Bytes::from_static(b"v"))));
        let empty = br#"{"type":"t","message":{"subject":"$KV.bench.aw","seq":1,"time":"x"}}"#;
        assert_eq!(value(b"", empty), Ok(Some(Bytes::new())));
        // "NATS/1.0\r\nKV-Operation: DEL\r\n\r\n"
        let removed = br#"{"type":"t","message":{"subject":"$KV.bench.aw","seq":2,"hdrs":"TkFUUy8xLjANCktWLU9wZXJhdGlvbjogREVMDQoNCg==","time":"x"}}"#;
        assert_eq!(value(b"", removed), Ok(None));
        let missing = br#"{"type":"t","error":{"code":404,"err_code":10037,"description":"no message found"}}"#;
        assert_eq!(value(b"", missing), Ok(None));
        let unavailable = br#"{"type":"t","error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}"#;
        assert!(value(b"", unavailable).is_err());
        assert!(value(b"NATS/1.0 503\r\n\r\n", b"").is_err());
        assert!(value(b"", b"{}").is_err());
    }
}
