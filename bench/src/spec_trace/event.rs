//! The lines of a trace, with the names and fields that etcd's trace validation reads.
//!
//! Lines carry a rising number where etcd's tool writes the time, by which its scripts sort them.

use serde::Serialize;

use super::model::{Kind, Message, Node, Role};

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    level: &'static str,
    ts: u64,
    tag: &'static str,
    /// What happened.
    pub event: Event,
}

/// What happened at one node.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Which action.
    pub name: &'static str,
    /// The node.
    pub nid: String,
    /// Its state: before the action for received messages, after it for all others.
    pub state: State,
    /// Its role then.
    pub role: &'static str,
    /// The length of its log then.
    pub log: u64,
    /// Its configuration: the voters, and nobody else.
    pub conf: [Vec<String>; 2],
    /// The message that was sent or received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg: Option<Msg>,
}

/// What a node remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// Its term.
    pub term: u64,
    /// Whom it voted for; `"0"`: nobody.
    pub vote: String,
    /// What it knows to be committed.
    pub commit: u64,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Msg {
    /// Which message, as etcd names them.
    pub r#type: &'static str,
    /// The sender's term.
    pub term: u64,
    /// The sender.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// How many entries it brings.
    pub entries: u64,
    /// The term at `index`.
    pub log_term: u64,
    /// Where its entries begin behind, the candidate's last entry, or what a follower has.
    pub index: u64,
    /// What the leader says is committed.
    pub commit: u64,
    /// Not used by any of these messages: `"0"`.
    pub vote: String,
    /// It says no.
    pub reject: bool,
    /// Not used by the specification: 0.
    pub reject_hint: u64,
}

impl Line {
    /// The line with this number in the global order.
    pub(super) fn new(number: usize, event: Event) -> Line {
        // As many digits for all, because they are sorted as text.
        Line { level: "debug", ts: 1_000_000_000 + number as u64, tag: "trace", event }
    }
}

impl Event {
    /// What happens at `id`, which is `node` just then.
    pub(super) fn new(
        name: &'static str,
        id: u64,
        node: &Node,
        voters: &[u64],
        message: Option<&Message>,
    ) -> Event {
        Event {
            name,
            nid: id.to_string(),
            state: State { term: node.term, vote: node.vote.to_string(), commit: node.commit },
            role: match node.role {
                Role::Follower => "StateFollower",
                Role::Candidate => "StateCandidate",
                Role::Leader => "StateLeader",
            },
            log: node.log.len() as u64,
            conf: [voters.iter().map(u64::to_string).collect(), Vec::new()],
            msg: message.map(Msg::new),
        }
    }
}

impl Msg {
    pub(super) fn new(message: &Message) -> Msg {
        Msg {
            r#type: match message.kind {
                Kind::Vote => "MsgVote",
                Kind::VoteReply => "MsgVoteResp",
                Kind::Append => "MsgApp",
                Kind::AppendReply => "MsgAppResp",
            },
            term: message.term,
            from: message.from.to_string(),
            to: message.to.to_string(),
            entries: message.entries.len() as u64,
            log_term: message.log_term,
            index: message.index,
            commit: message.commit,
            vote: "0".to_owned(),
            reject: message.reject,
            reject_hint: 0,
        }
    }
}
