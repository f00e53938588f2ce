//! One call: a request is on its way, its answer comes in pieces.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason as ResetReason, RecvStream};
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::{Method, Request, StatusCode, Uri, Version};

use super::grpc::{self, Failure};

/// Sends `message` (framed) to the method behind `uri`.
///
/// # Errors
///
/// If the connection takes no requests any more. Then nothing was sent.
pub(super) fn send(
    sender: &mut SendRequest<Bytes>,
    uri: &Uri,
    message: Bytes,
) -> Result<Answer, h2::Error> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.clone();
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let (response, mut body) = sender.send_request(request, false)?;
    body.send_data(message, true)?;
    Ok(Answer { state: State::Head(response) })
}

/// The answer to come: its message, without the head.
pub(super) struct Answer {
    state: State,
}

enum State {
    Head(ResponseFuture),
    Body { stream: RecvStream, message: Bytes, more: BytesMut },
    Taken,
}

impl Future for Answer {
    type Output = Result<Bytes, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.state {
                State::Head(response) => {
                    let response = match ready!(Pin::new(response).poll(context)) {
                        Ok(response) => response,
                        Err(error) => return self.end(Err(lost(&error))),
                    };
                    if response.status() != StatusCode::OK {
                        let reason = format!("HTTP status {}", response.status().as_u16());
                        return self.end(Err(Failure::in_doubt(reason)));
                    }
                    // A call that failed may be answered by headers alone.
                    if response.headers().contains_key("grpc-status") {
                        let status = grpc::status(response.headers());
                        return self.end(status.map(|()| Bytes::new()));
                    }
                    let stream = response.into_body();
                    let (message, more) = (Bytes::new(), BytesMut::new());
                    self.state = State::Body { stream, message, more };
                }
                State::Body { stream, message, more } => {
                    match ready!(stream.poll_data(context)) {
                        Some(Ok(data)) => {
                            // A stream that is done needs no room any more: not an error.
                            let _ = stream.flow_control().release_capacity(data.len());
                            gather(message, more, data);
                            continue;
                        }
                        Some(Err(error)) => return self.end(Err(lost(&error))),
                        None => {}
                    }
                    let trailers = match ready!(stream.poll_trailers(context)) {
                        Ok(trailers) => trailers.unwrap_or_default(),
                        Err(error) => return self.end(Err(lost(&error))),
                    };
                    let whole = match more.is_empty() {
                        true => std::mem::take(message),
                        false => std::mem::take(more).freeze(),
                    };
                    let answer = grpc::status(&trailers).and_then(|()| grpc::unframe(whole));
                    return self.end(answer);
                }
                State::Taken => unreachable!("an answer is not polled after its end"),
            }
        }
    }
}

impl Answer {
    fn end(&mut self, answer: Result<Bytes, Failure>) -> Poll<Result<Bytes, Failure>> {
        self.state = State::Taken;
        Poll::Ready(answer)
    }
}

/// The first piece is kept as it came; only further ones are copied together.
fn gather(message: &mut Bytes, more: &mut BytesMut, data: Bytes) {
    if message.is_empty() && more.is_empty() {
        *message = data;
        return;
    }
    if more.is_empty() {
        more.extend_from_slice(&std::mem::take(message));
    }
    more.extend_from_slice(&data);
}

/// Only a stream that the server says it did not look at is certain to have had no effect.
fn lost(error: &h2::Error) -> Failure {
    let is_certain = error.is_remote() && error.reason() == Some(ResetReason::REFUSED_STREAM);
    let reason = match error.is_reset() {
        true => "stream reset",
        false => "connection lost",
    };
    Failure { reason: reason.into(), is_certain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_one_message() {
        let gathered = |pieces: &[&'static [u8]]| {
            let (mut message, mut more) = (Bytes::new(), BytesMut::new());
            for piece in pieces {
                gather(&mut message, &mut more, Bytes::from_static(piece));
            }
            if more.is_empty() { message } else { more.freeze() }
        };
        assert_eq!(gathered(&[]), &b""[..]);
        assert_eq!(gathered(&[b"abc"]), &b"abc"[..]);
        assert_eq!(gathered(&[b"a", b"b", b"", b"c"]), &b"abc"[..]);
    }
}
