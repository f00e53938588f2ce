//! A session that is forgotten while an answer of it was lost, and that comes back.

use flotilla_shard::command::{CommandFailure, Origin, WriteOutcome};
use flotilla_shard::sessions::{SESSION_IDLE_MS, Seen, SessionTable};

use super::super::super::judges::{Judges, Violation};

const COUNTER: &[u8] = b"counter";

/// A counter behind a table of sessions, as a shard has it.
#[derive(Default)]
struct Counter {
    table: SessionTable,
    value: i64,
    stamp_ms: u64,
}

impl Counter {
    /// An increment arrives; what is answered.
    fn increase(&mut self, origin: &Origin) -> WriteOutcome {
        match self.table.look_up(origin) {
            Seen::Answered(outcome) => outcome.clone(),
            Seen::Refused(failure) => WriteOutcome::Failed(failure),
            Seen::Never => {
                self.value += 1;
                let outcome = WriteOutcome::Number(self.value);
                self.table.record(origin, self.stamp_ms, &outcome);
                outcome
            }
        }
    }

    fn wait(&mut self, duration_ms: u64) {
        let now_ms = self.stamp_ms + duration_ms;
        self.table.advance(self.stamp_ms, now_ms);
        self.stamp_ms = now_ms;
    }
}

/// Tells what an increment was answered with; without an answer nobody knows.
fn tell(judges: &mut Judges, outcome: &WriteOutcome) {
    match outcome {
        WriteOutcome::Number(value) => {
            judges.increment_answered(COUNTER, u64::try_from(*value).unwrap_or(0));
        }
        WriteOutcome::Failed(CommandFailure::SessionExpired { .. }) => {}
        outcome => unreachable!("an increment is not answered with {outcome:?}"),
    }
}

/// What was counted once is not counted again because its session was forgotten.
///
/// # Errors
///
/// If it is.
pub fn come_back() -> Result<(), Violation> {
    let mut judges = Judges::new();
    let mut counter = Counter { stamp_ms: 1_000_000, ..Counter::default() };
    let origin = Origin {
        session: 7,
        session_born_ms: counter.stamp_ms,
        sequence: 1,
        lowest_unacknowledged: 1,
    };
    judges.increment_asked(COUNTER);
    let lost = counter.increase(&origin);
    assert_eq!(lost, WriteOutcome::Number(1), "a new session is admitted");
    // Its answer is lost; the client is away for longer than sessions are kept.
    counter.wait(2 * SESSION_IDLE_MS);
    tell(&mut judges, &counter.increase(&origin));
    judges.counter_ended_at(COUNTER, u64::try_from(counter.value).unwrap_or(0));
    judges.verdict()
}
