//! How messages and effects look in a transcript, and the same backwards for messages that a
//! script injects.

use std::time::Duration;

use flotilla_raft::{AppendOutcome, Entry, HardState, Index, Message, Position, Round, Term};

pub fn entries(entries: &[Entry]) -> String {
    let one = |entry: &Entry| {
        let text = String::from_utf8_lossy(&entry.payload);
        match text.len() {
            0 => format!("{}", entry.position()),
            1..=12 => format!("{}:{text}", entry.position()),
            bytes => format!("{}:{}..{bytes}B", entry.position(), &text[..4]),
        }
    };
    match entries {
        [] => "[]".to_owned(),
        [first, .., last] if entries.len() > 4 => {
            format!("[{} .. {}]", one(first), one(last))
        }
        few => format!("[{}]", few.iter().map(one).collect::<Vec<_>>().join(" ")),
    }
}

pub fn hard_state(state: &HardState) -> String {
    let vote = state.vote.map_or("none".to_owned(), |id| format!("n{id}"));
    let installing = state.installing.map_or(String::new(), |at| format!(" installing={at}"));
    format!("term={} vote={vote} commit={}{installing}", state.term, state.commit)
}

pub fn message(message: &Message) -> String {
    let pre = |pre: &bool| if *pre { "pre-" } else { "" };
    match message {
        Message::RequestVote { term, pre: p, transfer, last } => {
            let transfer = if *transfer { " transfer" } else { "" };
            format!("{}vote? term={term} last={last}{transfer}", pre(p))
        }
        Message::Vote { term, pre: p, granted } => {
            let answer = if *granted { "granted" } else { "refused" };
            format!("{}vote {answer} term={term}", pre(p))
        }
        Message::Append { term, prev, commit, entries: list } => {
            format!("append term={term} prev={prev} commit={commit} {}", entries(list))
        }
        Message::AppendReply { term, outcome: AppendOutcome::Accepted { matched } } => {
            format!("accepted term={term} matched={matched}")
        }
        Message::AppendReply { term, outcome: AppendOutcome::Rejected { prev, hint, first } } => {
            format!("rejected term={term} prev={prev} hint={hint} first={first}")
        }
        Message::Heartbeat { term, commit, round, answered } => {
            format!("heartbeat term={term} commit={commit} round={round} answered={answered}")
        }
        Message::HeartbeatReply {
            term,
            round,
            matched,
            received,
            wants_snapshot,
            may_lead,
            promise,
        } => {
            let wants = if *wants_snapshot { " wants-snapshot" } else { "" };
            let may = if *may_lead { "" } else { " may-not-lead" };
            let promise = match promise.as_millis() {
                0 => String::new(),
                promise => format!(" promise={promise}ms"),
            };
            format!(
                "alive term={term} round={round} matched={matched} received={received}{wants}{may}\
                 {promise}"
            )
        }
        Message::TimeoutNow { term } => format!("timeout-now term={term}"),
    }
}

/// Reads what [`message`] writes; an append's entries as `[5@2:text 6@2]`.
pub fn parse(text: &str) -> Result<Message, String> {
    let kind = text.split(['=', '[']).next().unwrap_or_default();
    let kind = kind.rsplit_once(' ').map_or(kind, |(kind, _)| kind).trim();
    let field = |name: &str| -> Result<&str, String> {
        text.split_whitespace()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            .ok_or_else(|| format!("{kind} needs {name}="))
    };
    let number = |name: &str| -> Result<u64, String> {
        field(name)?.parse().map_err(|_| format!("{name} is not a number"))
    };
    let term = Term(number("term")?);
    Ok(match kind {
        "vote?" | "pre-vote?" => Message::RequestVote {
            term,
            pre: kind.starts_with("pre"),
            transfer: text.ends_with(" transfer"),
            last: position(field("last")?)?,
        },
        "vote granted" | "vote refused" | "pre-vote granted" | "pre-vote refused" => {
            Message::Vote { term, pre: kind.starts_with("pre"), granted: kind.ends_with("granted") }
        }
        "append" => {
            let list = text.split_once('[').map_or("", |(_, list)| list.trim_end_matches(']'));
            let entries = list.split_whitespace().map(|word| {
                let (at, payload) = word.split_once(':').unwrap_or((word, ""));
                let Position { index, term } = position(at)?;
                Ok(Entry { index, term, payload: payload.to_owned().into() })
            });
            Message::Append {
                term,
                prev: position(field("prev")?)?,
                commit: Index(number("commit")?),
                entries: entries.collect::<Result<_, String>>()?,
            }
        }
        "accepted" => Message::AppendReply {
            term,
            outcome: AppendOutcome::Accepted { matched: Index(number("matched")?) },
        },
        "rejected" => Message::AppendReply {
            term,
            outcome: AppendOutcome::Rejected {
                prev: Index(number("prev")?),
                hint: position(field("hint")?)?,
                first: Index(number("first")?),
            },
        },
        "heartbeat" => Message::Heartbeat {
            term,
            commit: Index(number("commit")?),
            round: Round(number("round")?),
            answered: Round(number("answered").unwrap_or(0)),
        },
        "alive" => Message::HeartbeatReply {
            term,
            round: Round(number("round")?),
            matched: Index(number("matched")?),
            received: Index(number("received")?),
            wants_snapshot: text.contains(" wants-snapshot"),
            may_lead: !text.contains(" may-not-lead"),
            promise: field("promise")
                .ok()
                .and_then(|text| text.strip_suffix("ms")?.parse().ok())
                .map_or(Duration::ZERO, Duration::from_millis),
        },
        "timeout-now" => Message::TimeoutNow { term },
        other => return Err(format!("no message is called {other:?}")),
    })
}

pub fn position(text: &str) -> Result<Position, String> {
    let (index, term) = text.split_once('@').ok_or("a position is index@term")?;
    match (index.parse(), term.parse()) {
        (Ok(index), Ok(term)) => Ok(Position::new(index, term)),
        _ => Err(format!("{text:?} is not index@term")),
    }
}

/// A log as runs of terms: `1..3@1 4@2`.
pub fn runs(entries: &[Entry]) -> String {
    let mut text = String::new();
    for run in entries.chunk_by(|a, b| a.term == b.term) {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        if !text.is_empty() {
            text.push(' ');
        }
        if first.index == last.index {
            text += &first.position().to_string();
        } else {
            text += &format!("{}..{}", first.index, last.position());
        }
    }
    if text.is_empty() { "empty".to_owned() } else { text }
}
