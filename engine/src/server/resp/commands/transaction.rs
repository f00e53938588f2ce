//! `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`: transactions on the keys of one shard.
//!
//! The commands between `MULTI` and `EXEC` are kept as they came and judged by `EXEC`, as in Redis:
//! what is wrong with their arguments is told in their place in the reply, while a command that does
//! not exist, or has the wrong number of arguments, spoils the whole. `EXEC` sends one write to the
//! shard: the versions that the watched keys had, and the steps. The shard does all of them or none.
//!
//! Invariants:
//!
//! * A transaction has an effect only if every watched key still has the version that it had when
//!   `WATCH` was answered.
//! * What a connection keeps for a transaction is limited in bytes; beyond, the transaction is
//!   spoiled.
//! * Nothing is executed of a spoiled transaction.
//!
//! What is absent: transactions over several shards.

use super::answer::{WideAnswer, reply, reply_wide};
use super::lcs::{self, LcsOptions};
use super::{Command, Context, Plan, Replies, Session, Shape, Wide, keys_from, plan_command};
use crate::server::resp::backend::Backend;
use crate::server::resp::codec::Arguments;
use crate::server::resp::error::CommandError;
use bytes::{Bytes, BytesMut};
use flotilla_shard::{Answer, Guard, Operation, Step, StepOutcome, Write, WriteOutcome};
use std::collections::VecDeque;

/// What a queued command costs besides its bytes, about.
const COMMAND_OVERHEAD_BYTES: usize = 128;

/// Requests shorter than this are copied, so that they do not keep the buffer that they came in.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// Keys that a connection may watch.
const WATCHED_KEYS_MAX: usize = 16 * 1024;

/// A key and the version it had, 0 when it was absent.
pub type WatchedKey = Guard;

/// What is between `MULTI` and `EXEC`.
#[derive(Debug, Default)]
pub struct Transaction {
    queued: Vec<(Command, Arguments)>,
    bytes: usize,
    /// A command was refused: there is nothing left to execute.
    spoiled: bool,
}

/// The keys that a connection watches.
#[derive(Debug, Default)]
pub struct Watched {
    keys: Vec<WatchedKey>,
    /// A `WATCH` failed: nobody knows what happens to its keys.
    blind: bool,
}

impl Transaction {
    /// Commands queued so far.
    pub fn len(&self) -> usize {
        self.queued.len()
    }

    /// Makes sure that nothing of it will be executed.
    pub fn spoil(&mut self) {
        *self = Transaction { spoiled: true, ..Transaction::default() };
    }
}

impl Watched {
    /// Watches `keys` too. Of a key that is watched already the older version counts.
    pub fn add(&mut self, keys: Vec<WatchedKey>) {
        for key in keys {
            if !self.keys.iter().any(|known| known.key == key.key) {
                self.keys.push(key);
            }
        }
    }

    /// Notes that a `WATCH` failed: the next transaction does too.
    pub fn lose_sight(&mut self) {
        self.blind = true;
    }
}

/// True for commands that are executed at once even in a transaction.
fn is_immediate(command: Command) -> bool {
    matches!(
        command,
        Command::Exec
            | Command::Discard
            | Command::Multi
            | Command::Watch
            | Command::Quit
            | Command::Reset
    )
}

/// Commands that may touch any shard, and so cannot be part of a transaction.
fn is_of_all_shards(command: Command) -> bool {
    matches!(
        command,
        Command::Dbsize
            | Command::Flushall
            | Command::Flushdb
            | Command::FlotillaOnce
            | Command::FlotillaRange
            | Command::Keys
            | Command::Randomkey
            | Command::Scan
    )
}

/// Queues `command` if a transaction is open; false if it is to be executed now.
///
/// # Errors
///
/// When it cannot be part of a transaction, which then is spoiled.
pub(super) fn queue<B>(
    context: &Context<B>,
    session: &mut Session,
    command: Command,
    arguments: &Arguments,
    replies: &mut Replies<'_>,
) -> Result<bool, CommandError> {
    let Some(transaction) = session.transaction.as_mut() else { return Ok(false) };
    if is_immediate(command) {
        return Ok(false);
    }
    if is_of_all_shards(command) {
        transaction.spoil();
        return Err(CommandError::request(format!(
            "ERR {} is not about the keys of one shard and cannot be part of a transaction",
            command.spec().name
        )));
    }
    let bytes_max = context.options.transaction_bytes_max;
    transaction.bytes += arguments.frame_bytes() + COMMAND_OVERHEAD_BYTES;
    if transaction.bytes > bytes_max {
        transaction.spoil();
        return Err(CommandError::request(format!(
            "ERR the transaction exceeds the limit of {bytes_max} bytes"
        )));
    }
    if !transaction.spoiled {
        transaction.queued.push((command, arguments.detached(COPIED_BYTES_MAX)));
    }
    session.client.note_queued(Some(transaction.len()));
    replies.status("QUEUED");
    Ok(true)
}

pub(super) fn multi(session: &mut Session, replies: &mut Replies<'_>) -> Result<(), CommandError> {
    if session.transaction.is_some() {
        return Err(CommandError::fixed("ERR MULTI calls can not be nested"));
    }
    session.transaction = Some(Transaction::default());
    session.client.note_queued(Some(0));
    replies.ok();
    Ok(())
}

pub(super) fn discard(
    session: &mut Session,
    replies: &mut Replies<'_>,
) -> Result<(), CommandError> {
    if session.transaction.is_none() {
        return Err(CommandError::fixed("ERR DISCARD without MULTI"));
    }
    end(session);
    replies.ok();
    Ok(())
}

/// What `EXEC` with arguments is told; the transaction is dropped.
pub(super) fn refuse_exec(session: &mut Session) -> CommandError {
    end(session);
    CommandError::fixed(
        "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command",
    )
}

/// Forgets the transaction and what is watched.
pub(super) fn end(session: &mut Session) {
    session.transaction = None;
    session.watched = Watched::default();
    session.client.note_queued(None);
}

pub(super) fn unwatch(session: &mut Session, replies: &mut Replies<'_>) {
    session.watched = Watched::default();
    replies.ok();
}

pub(super) fn watch<B>(
    context: &Context<B>,
    session: &mut Session,
    arguments: &Arguments,
) -> Result<Plan, CommandError> {
    if session.transaction.is_some() {
        return Err(CommandError::fixed("ERR WATCH inside MULTI is not allowed"));
    }
    let keys = keys_from(&context.options, arguments, 1)?;
    if session.watched.keys.len() + keys.len() > WATCHED_KEYS_MAX {
        return Err(CommandError::request(format!(
            "ERR a connection watches at most {WATCHED_KEYS_MAX} keys"
        )));
    }
    // What was received with other requests must not be kept for as long as keys are watched.
    let keys = keys.iter().map(|key| Bytes::copy_from_slice(key)).collect();
    Ok(Plan::Wide(Wide::Watch(keys)))
}

/// What `EXEC` sends to the shard, and how its reply is made.
#[derive(Debug, PartialEq, Eq)]
pub struct TransactionPlan {
    guards: Vec<Guard>,
    steps: Vec<Step>,
    parts: Vec<Part>,
    /// Every key that is watched, read or written.
    pub(super) keys: Vec<Bytes>,
}

/// How one command's part of the reply is made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// It is known already.
    Replied(Bytes),
    /// It is an error.
    Failed(CommandError),
    /// Of one step.
    Single(Shape),
    /// Of so many reads: their values.
    Values(usize),
    /// Of so many reads: how many found something.
    Count(usize),
    /// Of two reads: what the values have in common.
    Lcs(LcsOptions),
}

/// What one command of a transaction ended in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartAnswer(Content);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Encoded(Bytes),
    Failed(CommandError),
    Single(Shape, Answer),
    Wide(WideAnswer),
}

impl PartAnswer {
    /// Writes the command's part of the reply; what it failed with is a part like any other.
    pub(super) fn write(self, replies: &mut Replies<'_>) {
        match self.0 {
            Content::Encoded(bytes) => replies.encoded(&bytes),
            Content::Failed(error) => replies.error(&error.text),
            Content::Single(shape, answer) => {
                if let Err(error) = reply(shape, Ok(answer), replies) {
                    replies.error(&error.text);
                }
            }
            Content::Wide(answer) => reply_wide(answer, replies),
        }
    }
}

pub(super) fn exec<B: Backend>(
    context: &Context<B>,
    session: &mut Session,
) -> Result<Plan, CommandError> {
    let Some(transaction) = session.transaction.take() else {
        return Err(CommandError::fixed("ERR EXEC without MULTI"));
    };
    let watched = std::mem::take(&mut session.watched);
    session.client.note_queued(None);
    if transaction.spoiled {
        return Err(CommandError::fixed(
            "EXECABORT Transaction discarded because of previous errors.",
        ));
    }
    if watched.blind {
        return Err(CommandError::fixed(
            "EXECABORT Transaction discarded because a WATCH before it failed.",
        ));
    }
    let mut plan = TransactionPlan {
        guards: watched.keys,
        steps: Vec::new(),
        parts: Vec::with_capacity(transaction.queued.len()),
        keys: Vec::new(),
    };
    for (command, arguments) in transaction.queued {
        let mut out = BytesMut::new();
        let part = match plan_command(context, session, command, &arguments, &mut out) {
            Ok(Plan::Replied) => Part::Replied(out.freeze()),
            Ok(Plan::Single { operation, shape }) => plan.single(operation, shape),
            Ok(Plan::Wide(wide)) => plan.wide(wide),
            Ok(Plan::Once { .. }) => unreachable!("it is refused when it is to be queued"),
            Err(error) => Part::Failed(error),
        };
        plan.parts.push(part);
    }
    plan.keys.extend(plan.guards.iter().map(|guard| guard.key.clone()));
    Ok(Plan::Wide(Wide::Transaction(Box::new(plan))))
}

impl TransactionPlan {
    fn single(&mut self, operation: Operation, shape: Shape) -> Part {
        match operation {
            Operation::Get { key } => self.get(key),
            Operation::Write(write) => self.write(write),
            Operation::GetMany { .. } | Operation::Page { .. } | Operation::Count { .. } => {
                unreachable!("no command plans it as a single operation")
            }
        }
        Part::Single(shape)
    }

    fn wide(&mut self, wide: Wide) -> Part {
        match wide {
            Wide::GetMany(keys) => Part::Values(self.get_all(keys)),
            Wide::CountExisting(keys) => Part::Count(self.get_all(keys)),
            Wide::Delete(keys) => {
                self.write(Write::Delete { keys });
                Part::Single(Shape::Outcome)
            }
            Wide::Lcs { keys, options } => {
                self.get_all(keys);
                Part::Lcs(options)
            }
            Wide::Wait(replicas) => Part::Replied(Bytes::from(format!(":{replicas}\r\n"))),
            Wide::Scan(_)
            | Wide::Range(_)
            | Wide::Keys { .. }
            | Wide::RandomKey
            | Wide::CountAll
            | Wide::Clear
            | Wide::Watch(_)
            | Wide::Transaction(_) => unreachable!("it is refused when it is to be queued"),
        }
    }

    fn get_all(&mut self, keys: Vec<Bytes>) -> usize {
        let count = keys.len();
        keys.into_iter().for_each(|key| self.get(key));
        count
    }

    fn get(&mut self, key: Bytes) {
        self.keys.push(key.clone());
        self.steps.push(Step::Get { key });
    }

    fn write(&mut self, write: Write) {
        write.for_each_key(|key| self.keys.push(key.clone()));
        self.steps.push(Step::Write(write));
    }

    /// True if making the reply takes long.
    pub(super) fn is_slow(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Lcs(_)))
    }

    /// The one write that does all of it; `None` if the data need not be asked.
    pub(super) fn take_write(&mut self) -> Option<Write> {
        let guards = std::mem::take(&mut self.guards);
        let steps = std::mem::take(&mut self.steps);
        let needed = !guards.is_empty() || !steps.is_empty();
        needed.then_some(Write::Atomic { guards, steps })
    }

    /// What the commands ended in; `outcome` is that of the write, if there was one.
    ///
    /// # Errors
    ///
    /// When the outcome does not fit the write.
    pub(super) fn answers(
        self,
        outcome: Option<WriteOutcome>,
        reply_bytes_max: usize,
    ) -> Result<Option<Vec<PartAnswer>>, CommandError> {
        let outcomes = match outcome {
            None => Vec::new(),
            Some(WriteOutcome::Atomic { outcomes: Some(outcomes), .. }) => outcomes,
            Some(WriteOutcome::Atomic { outcomes: None, .. }) => return Ok(None),
            Some(WriteOutcome::Failed(failure)) => return Err(CommandError::of_failure(failure)),
            Some(_) => return Err(CommandError::unexpected_answer()),
        };
        let mut left = Outcomes { left: outcomes.into(), reply_bytes_left: reply_bytes_max };
        let answers: Option<Vec<Content>> =
            self.parts.into_iter().map(|part| left.content(part)).collect();
        match answers {
            Some(answers) if left.left.is_empty() => {
                Ok(Some(answers.into_iter().map(PartAnswer).collect()))
            }
            _ => Err(CommandError::unexpected_answer()),
        }
    }
}

/// The outcomes of steps that no part of the reply has taken yet.
struct Outcomes {
    left: VecDeque<StepOutcome>,
    reply_bytes_left: usize,
}

impl Outcomes {
    /// One command's part; `None` if there are too few outcomes, or of the wrong kind.
    fn content(&mut self, part: Part) -> Option<Content> {
        Some(match part {
            Part::Replied(bytes) => Content::Encoded(bytes),
            Part::Failed(error) => Content::Failed(error),
            Part::Single(shape) => {
                let answer = match self.left.pop_front()? {
                    StepOutcome::Written(outcome) => Answer::Written(outcome),
                    StepOutcome::Value(entry) => Answer::Value(entry),
                };
                self.limited(value_bytes(&answer), Content::Single(shape, answer))
            }
            Part::Values(count) => {
                let values = self.values(count)?;
                let bytes = values.iter().flatten().map(|entry| entry.value.len()).sum();
                self.limited(bytes, Content::Wide(WideAnswer::Values(values)))
            }
            Part::Count(count) => {
                let found = self.values(count)?.iter().flatten().count() as u64;
                Content::Wide(WideAnswer::Number(found))
            }
            Part::Lcs(options) => {
                let values = self.values(2)?;
                let bytes =
                    |at: usize| -> &[u8] { values[at].as_ref().map_or(&[], |entry| &entry.value) };
                match lcs::find(bytes(0), bytes(1), options) {
                    Ok(found) => Content::Wide(WideAnswer::Lcs(found)),
                    Err(error) => Content::Failed(error),
                }
            }
        })
    }

    fn values(&mut self, count: usize) -> Option<Vec<Option<flotilla_shard::Entry>>> {
        if self.left.len() < count {
            return None;
        }
        self.left
            .drain(..count)
            .map(|outcome| match outcome {
                StepOutcome::Value(entry) => Some(entry),
                StepOutcome::Written(_) => None,
            })
            .collect()
    }

    /// `content`, unless the replies before it and its own values are too large together.
    fn limited(&mut self, bytes: usize, content: Content) -> Content {
        match self.reply_bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.reply_bytes_left = left;
                content
            }
            None => Content::Failed(CommandError::fixed(
                "ERR done, but the values are left out: the replies of the transaction are too \
                 large together",
            )),
        }
    }
}

fn value_bytes(answer: &Answer) -> usize {
    let entry = match answer {
        Answer::Value(entry)
        | Answer::Written(
            WriteOutcome::Taken(entry)
            | WriteOutcome::Put { previous: entry, .. }
            | WriteOutcome::Expired { entry, .. },
        ) => entry,
        _ => return 0,
    };
    entry.as_ref().map_or(0, |entry| entry.value.len())
}
