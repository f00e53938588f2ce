//! Asking until something is so.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;

/// How long one question may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(10);

/// Lets others work before the next question.
pub(super) async fn pause() {
    tokio::time::sleep(PAUSE).await;
}

/// The code and body that an admin port answers.
pub(super) async fn get(address: SocketAddr, path: &'static str) -> anyhow::Result<(u16, Vec<u8>)> {
    let asked = tokio::task::spawn_blocking(move || {
        flotilla::server::admin::get(&address.to_string(), path, ANSWER_TIMEOUT)
    });
    let response = asked.await.context("the question was dropped")?;
    let response = response.with_context(|| format!("http://{address}{path}"))?;
    Ok((response.code, response.body))
}
