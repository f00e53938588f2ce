//! What the server counts. Children of labelled metrics are made once, so that counting is one
//! atomic addition.

use super::commands::{COMMANDS, Command};
use super::error::ErrorKind;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Counters of one server. Clones count together.
#[derive(Clone, Debug)]
pub struct RespMetrics {
    pub(super) connections: IntGauge,
    pub(super) connections_accepted: IntCounter,
    pub(super) connections_refused: IntCounter,
    pub(super) connections_stalled: IntCounter,
    pub(super) received_bytes: IntCounter,
    pub(super) sent_bytes: IntCounter,
    pub(super) protocol_errors: IntCounter,
    commands: Vec<IntCounter>,
    errors: Vec<IntCounter>,
}

impl RespMetrics {
    /// Makes the counters and registers them.
    ///
    /// # Errors
    ///
    /// If `registry` has counters of these names already.
    pub fn register(registry: &Registry) -> Result<RespMetrics, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let labelled = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let connections =
            IntGauge::new("flotilla_resp_connections", "Open connections of Redis clients.")?;
        registry.register(Box::new(connections.clone()))?;
        let commands = labelled(
            "flotilla_resp_commands_total",
            "Commands of Redis clients that were taken, to be answered well or by an error.",
            "command",
        )?;
        let errors = labelled(
            "flotilla_resp_errors_total",
            "Commands of Redis clients that were answered by an error.",
            "kind",
        )?;
        Ok(RespMetrics {
            connections,
            connections_accepted: counter(
                "flotilla_resp_connections_accepted_total",
                "Connections of Redis clients that were accepted.",
            )?,
            connections_refused: counter(
                "flotilla_resp_connections_refused_total",
                "Connections of Redis clients that were refused because there were too many.",
            )?,
            connections_stalled: counter(
                "flotilla_resp_connections_stalled_total",
                "Connections closed because the client took none of its replies for too long.",
            )?,
            received_bytes: counter(
                "flotilla_resp_received_bytes_total",
                "Bytes received from Redis clients.",
            )?,
            sent_bytes: counter("flotilla_resp_sent_bytes_total", "Bytes sent to Redis clients.")?,
            protocol_errors: counter(
                "flotilla_resp_protocol_errors_total",
                "Connections closed because what came was no request.",
            )?,
            commands: COMMANDS
                .iter()
                .map(|spec| commands.with_label_values(&[spec.name]))
                .collect(),
            errors: ErrorKind::LABELS
                .iter()
                .map(|label| errors.with_label_values(&[*label]))
                .collect(),
        })
    }

    /// Counts a command.
    pub(super) fn taken(&self, command: Command) {
        self.commands[command as usize].inc();
    }

    /// Counts an error.
    pub(super) fn failed(&self, kind: ErrorKind) {
        self.errors[kind as usize].inc();
    }

    /// Commands taken so far.
    pub(super) fn commands_total(&self) -> u64 {
        self.commands.iter().map(IntCounter::get).sum()
    }

    /// Errors answered so far.
    pub(super) fn errors_total(&self) -> u64 {
        self.errors.iter().map(IntCounter::get).sum()
    }
}
