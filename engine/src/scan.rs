//! Reads ranges of keys row by row.
//!
//! A scan remembers which keys it has not read yet and asks for them page by page. It holds nothing
//! in the engine between pages: it may be left lying as long as one likes.
//!
//! What is absent: one snapshot over pages or shards.

use crate::entry::{Entry, KeyValue};
use crate::error::Error;
use crate::options::deadline_after;
use flotilla_router::{Page, PageOptions, RouteError, Router};
use flotilla_shard::{Consistency, KeyRange};
use futures_core::Stream;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Rows of a page; enough that the way to the shard does not count.
const PAGE_ROWS_MAX: u64 = 1024;

/// Bytes of a page: what a slow reader holds in memory.
const PAGE_BYTES_MAX: u64 = 1 << 20;

/// A stream of rows, made by [`Engine::scan`](crate::Engine::scan) and
/// [`Engine::scan_prefix`](crate::Engine::scan_prefix).
///
/// Nothing is read before it is polled. It implements [`futures_core::Stream`], and
/// [`Scan::next`] serves programs without the `futures` crates. After an error the stream ends.
#[must_use = "a scan reads nothing until it is polled"]
pub struct Scan {
    router: Router,
    /// Keys not read yet.
    rest: Option<KeyRange>,
    reverse: bool,
    /// Rows still to be given.
    rows_left: u64,
    timeout: Duration,
    consistency: Consistency,
    page: std::vec::IntoIter<(bytes::Bytes, flotilla_shard::Entry)>,
    fetching: Option<PageFuture>,
}

type PageFuture = Pin<Box<dyn Future<Output = Result<Page, RouteError>> + Send>>;

impl Scan {
    pub(crate) fn new(router: Router, range: KeyRange, timeout: Duration) -> Scan {
        Scan {
            router,
            rest: (!range.is_empty()).then_some(range),
            reverse: false,
            rows_left: u64::MAX,
            timeout,
            consistency: Consistency::Linearizable,
            page: Vec::new().into_iter(),
            fetching: None,
        }
    }

    /// Gives at most `rows` rows.
    pub fn limit(mut self, rows: u64) -> Scan {
        self.rows_left = rows;
        self
    }

    /// Begins at the end of the range and goes backwards.
    pub fn reverse(mut self) -> Scan {
        self.reverse = true;
        self
    }

    /// Waits this long for each page, instead of the engine's request timeout.
    pub fn timeout(mut self, timeout: Duration) -> Scan {
        self.timeout = timeout;
        self
    }

    /// Reads pages as current as `consistency` says, instead of linearizable ones.
    pub fn consistency(mut self, consistency: Consistency) -> Scan {
        self.consistency = consistency;
        self
    }

    /// The next row; `None` at the end. Dropping the future loses no row.
    ///
    /// # Errors
    ///
    /// An [`Error`] in place of a row when a page could not be read; after it comes `None`.
    pub async fn next(&mut self) -> Option<Result<KeyValue, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Ends the stream.
    fn end(&mut self) {
        self.rows_left = 0;
        self.rest = None;
        self.page = Vec::new().into_iter();
    }

    fn fetch(&mut self, range: KeyRange) -> PageFuture {
        let rows_max = self.rows_left.min(PAGE_ROWS_MAX);
        let options = PageOptions {
            rows_max: u32::try_from(rows_max).expect("a page is small"),
            bytes_max: PAGE_BYTES_MAX,
            reverse: self.reverse,
            keys_only: false,
        };
        let deadline = deadline_after(self.timeout);
        Box::pin(self.router.page_with(range, options, self.consistency, deadline))
    }
}

impl Stream for Scan {
    type Item = Result<KeyValue, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.rows_left == 0 {
                return Poll::Ready(None);
            }
            if let Some((key, entry)) = this.page.next() {
                this.rows_left -= 1;
                let entry = Entry::to_keep(entry, this.router.budget());
                let Entry { value, version, expires_at } = entry;
                return Poll::Ready(Some(Ok(KeyValue { key, value, version, expires_at })));
            }
            let mut fetching = match (this.fetching.take(), this.rest.take()) {
                (Some(fetching), rest) => {
                    this.rest = rest;
                    fetching
                }
                (None, Some(range)) => this.fetch(range),
                (None, None) => return Poll::Ready(None),
            };
            match fetching.as_mut().poll(context) {
                Poll::Pending => {
                    this.fetching = Some(fetching);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(page)) => {
                    this.page = page.rows.into_iter();
                    this.rest = page.rest;
                }
                Poll::Ready(Err(error)) => {
                    this.end();
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
    }
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan")
            .field("rest", &self.rest)
            .field("reverse", &self.reverse)
            .finish_non_exhaustive()
    }
}
