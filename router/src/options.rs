//! What can be chosen about a router.

use flotilla_shard::NodeId;
use std::time::Duration;

/// How a router behaves.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// The node that it runs on.
    pub node: NodeId,
    /// The first pause before an attempt is made again. Pauses double, with jitter.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// How often forwarded requests are checked against their deadlines.
    pub sweep_interval: Duration,
    /// What a caller is told when the budget is spent.
    pub busy_retry_after: Duration,
    /// Writes carry no names: repeats are applied again. For tests that must be seen to fail.
    #[cfg(feature = "test-switches")]
    pub without_sessions: bool,
}

impl RouterOptions {
    /// The defaults for `node`: pauses of 1 to 50 ms, a check every 20 ms.
    pub fn new(node: NodeId) -> RouterOptions {
        RouterOptions {
            node,
            backoff_min: Duration::from_millis(1),
            backoff_max: Duration::from_millis(50),
            sweep_interval: Duration::from_millis(20),
            busy_retry_after: Duration::from_millis(10),
            #[cfg(feature = "test-switches")]
            without_sessions: false,
        }
    }

    /// True if writes carry names by which shards recognize repeats.
    pub(crate) fn names_writes(&self) -> bool {
        #[cfg(feature = "test-switches")]
        return !self.without_sessions;
        #[cfg(not(feature = "test-switches"))]
        true
    }
}
