//! From what goes in and out of a replica to the events of the specification.
//!
//! One event goes in, all of its effects come out, and everything that was to be written is durable
//! before anything leaves: then each step of the core is a few actions of the specification. Where
//! the core says less or more in one message than the specification does, the message is written
//! down as one that has the same effect:
//!
//! * A heartbeat is an append without entries behind what its receiver has. (The specification's own
//!   heartbeat commits what the leader knows of the follower; ours what the follower has.)
//! * An append whose first entries are committed at the receiver begins behind those.
//!
//! Which that is, is known when it arrives; until then the line waits. A candidate's vote for
//! itself and a leader's word to itself that its log is durable are messages in the specification.
//!
//! Invariant: after every turn the specification's node is what the core's status says.

use std::collections::BTreeMap;

use flotilla_shard::raft::{self, AppendOutcome, ReplicaId, Status};

use super::event::{Event, Line, Msg};
use super::model::{Kind, Message, Node, Role};

/// Names a message that was sent: the line that says so.
pub(super) type Tag = usize;

/// What happened to a replica.
pub(super) enum Cause<'a> {
    /// Time passed, it was told to campaign, or it was given proposals.
    Local,
    /// A message came.
    Received { from: u64, message: &'a raft::Message, tag: Tag },
}

#[derive(Clone)]
struct Sent {
    message: Message,
    /// The sender's log then.
    log: Vec<u64>,
    /// What the sender knew of the receiver then, and had committed.
    matched: u64,
    commit: u64,
}

#[derive(Clone)]
pub(super) struct Tracer {
    voters: Vec<u64>,
    nodes: BTreeMap<u64, Node>,
    events: Vec<Event>,
    sent: BTreeMap<Tag, Sent>,
}

type Outcome<T> = Result<T, String>;

impl Tracer {
    pub(super) fn new(voters: Vec<u64>) -> Tracer {
        let nodes = voters.iter().map(|id| (*id, Node::default())).collect();
        let mut tracer = Tracer { voters, nodes, events: Vec::new(), sent: BTreeMap::new() };
        for id in tracer.voters.clone() {
            tracer.say("InitState", id, None);
        }
        tracer
    }

    pub(super) fn into_lines(self) -> Vec<Line> {
        let events = self.events.into_iter().enumerate();
        events.map(|(number, event)| Line::new(number, event)).collect()
    }

    fn say(&mut self, name: &'static str, id: u64, message: Option<&Message>) -> Tag {
        self.events.push(Event::new(name, id, &self.nodes[&id], &self.voters, message));
        self.events.len() - 1
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("a voter")
    }

    /// The replica starts again from its disk.
    pub(super) fn restarted(&mut self, id: u64, status: &Status) -> Outcome<()> {
        self.node(id).restart();
        self.say("InitState", id, None);
        self.compare(id, status)
    }

    /// One turn of a replica. Gives a name to each of the messages.
    pub(super) fn turned(
        &mut self,
        id: u64,
        cause: Cause<'_>,
        status: &Status,
        messages: &[(u64, raft::Message)],
    ) -> Outcome<Vec<Option<Tag>>> {
        let mut reply = None;
        if let Cause::Received { from, message, tag } = cause {
            reply = self.received(id, from, message, tag, status, messages)?;
        }
        if self.nodes[&id].role != Role::Follower && status.role == raft::Role::Follower {
            self.node(id).step_down();
            self.say("BecomeFollower", id, None);
        }
        let mut tags = vec![None; messages.len()];
        if status.term.0 > self.nodes[&id].term {
            self.campaigned(id, messages, &mut tags)?;
        }
        if self.nodes[&id].role != Role::Leader && status.role == raft::Role::Leader {
            let voters = self.voters.len();
            self.node(id).become_leader(id, voters)?;
            self.say("BecomeLeader", id, None);
        }
        let mut owns = false;
        while status.role == raft::Role::Leader && self.nodes[&id].log.len() < last(status) {
            self.node(id).replicate();
            self.say("Replicate", id, None);
            owns = true;
        }
        self.commit(id, status);
        let own = owns.then(|| {
            let node = &self.nodes[&id];
            let index = node.log.len() as u64;
            let own = Message { index, ..Message::new(Kind::AppendReply, node.term, id, id) };
            self.say("SendAppendEntriesResponse", id, Some(&own));
            own
        });
        for ((to, message), tag) in messages.iter().zip(&mut tags) {
            if tag.is_none() {
                *tag = self.sends(id, *to, message, &mut reply)?;
            }
        }
        self.ready(id, !messages.is_empty() || own.is_some());
        if let Some(own) = own {
            self.say("ReceiveAppendEntriesResponse", id, Some(&own));
            self.node(id).receive(&own)?;
            self.commit(id, status);
            self.ready(id, false);
        }
        self.compare(id, status)?;
        Ok(tags)
    }

    fn campaigned(
        &mut self,
        id: u64,
        messages: &[(u64, raft::Message)],
        tags: &mut [Option<Tag>],
    ) -> Outcome<()> {
        self.node(id).timeout(id)?;
        self.say("BecomeCandidate", id, None);
        let own = Message::new(Kind::VoteReply, self.nodes[&id].term, id, id);
        self.say("SendRequestVoteResponse", id, Some(&own));
        for ((to, message), tag) in messages.iter().zip(tags) {
            if matches!(message, raft::Message::RequestVote { .. }) {
                *tag = self.sends(id, *to, message, &mut None)?;
            }
        }
        self.ready(id, true);
        self.say("ReceiveRequestVoteResponse", id, Some(&own));
        self.node(id).receive(&own).map(drop)
    }

    /// A leader has committed more, if that is what the specification makes of what it knows.
    fn commit(&mut self, id: u64, status: &Status) {
        if status.role != raft::Role::Leader || status.commit.0 <= self.nodes[&id].commit {
            return;
        }
        let (voters, before) = (self.voters.len(), self.nodes[&id].commit);
        self.node(id).advance_commit(voters);
        if self.nodes[&id].commit > before {
            self.say("Commit", id, None);
        }
    }

    fn ready(&mut self, id: u64, is_needed: bool) {
        if self.node(id).persist() || is_needed {
            self.say("Ready", id, None);
        }
    }

    /// A message arrives; gives what the specification answers.
    fn received(
        &mut self,
        id: u64,
        from: u64,
        message: &raft::Message,
        tag: Tag,
        status: &Status,
        answers: &[(u64, raft::Message)],
    ) -> Outcome<Option<Message>> {
        let name = match message {
            raft::Message::RequestVote { .. } => "ReceiveRequestVoteRequest",
            raft::Message::Vote { .. } => "ReceiveRequestVoteResponse",
            raft::Message::Append { .. } | raft::Message::Heartbeat { .. } => {
                self.bind(id, from, message, tag, status, answers);
                "ReceiveAppendEntriesRequest"
            }
            raft::Message::AppendReply { .. } | raft::Message::HeartbeatReply { .. } => {
                "ReceiveAppendEntriesResponse"
            }
            raft::Message::TimeoutNow { .. } => return Ok(None),
        };
        let message = self.sent[&tag].message.clone();
        self.say(name, id, Some(&message));
        let (term, role) = (self.nodes[&id].term, self.nodes[&id].role);
        let reply = self.node(id).receive(&message)?;
        // A line that says nothing new, where etcd has it.
        let returns = role == Role::Candidate
            && message.kind == Kind::Append
            && self.nodes[&id].role == Role::Follower;
        if message.term > term || returns {
            self.say("BecomeFollower", id, None);
        }
        Ok(reply)
    }

    /// Writes down an append or a heartbeat as what it turns out to be.
    fn bind(
        &mut self,
        id: u64,
        from: u64,
        message: &raft::Message,
        tag: Tag,
        status: &Status,
        answers: &[(u64, raft::Message)],
    ) {
        let follower = &self.nodes[&id];
        if message.term().0 < follower.term {
            return;
        }
        let has =
            answers.iter().filter(|(to, _)| *to == from).find_map(|(_, answer)| match answer {
                raft::Message::AppendReply { outcome, .. } => match outcome {
                    AppendOutcome::Accepted { matched } => Some(matched.0),
                    AppendOutcome::Rejected { .. } => None,
                },
                raft::Message::HeartbeatReply { matched, .. } => Some(matched.0),
                _ => None,
            });
        let sent = &self.sent[&tag];
        let (from_index, last) = match (message, has) {
            (raft::Message::Append { prev, .. }, Some(has)) => {
                (prev.index.0.max(follower.commit).max(sent.matched).min(has), has)
            }
            (raft::Message::Append { .. }, None) => return,
            (_, Some(has)) => (has.max(status.commit.0), has.max(status.commit.0)),
            (_, None) => {
                let has = status.commit.0.max(sent.matched);
                (has, has)
            }
        };
        self.rewrite(tag, from_index, last);
    }

    /// Makes the message of a line bring the entries behind `prev` up to `last`.
    fn rewrite(&mut self, tag: Tag, prev: u64, last: u64) {
        let sent = self.sent.get_mut(&tag).expect("it was sent");
        let log = &sent.log;
        let within = |index: u64| (index as usize).min(log.len());
        sent.message.index = prev;
        sent.message.log_term = within(prev).checked_sub(1).map_or(0, |at| log[at]);
        sent.message.entries = log[within(prev)..within(last).max(within(prev))].to_vec();
        sent.message.commit = sent.commit.min(prev + sent.message.entries.len() as u64);
        self.events[tag].msg = Some(Msg::new(&sent.message));
    }

    /// A message leaves; its name, if the specification has such a message.
    fn sends(
        &mut self,
        id: u64,
        to: u64,
        message: &raft::Message,
        reply: &mut Option<Message>,
    ) -> Outcome<Option<Tag>> {
        let (term, node) = (message.term().0, &self.nodes[&id]);
        let (matched, commit, log) = (node.matched(to), node.commit, node.log.clone());
        let (name, sent) = match message {
            raft::Message::RequestVote { last, .. } => {
                let (index, log_term) = (last.index.0, last.term.0);
                let vote = Message::new(Kind::Vote, term, id, to);
                ("SendRequestVoteRequest", Message { index, log_term, ..vote })
            }
            raft::Message::Vote { granted, .. } => {
                let vote = Message::new(Kind::VoteReply, term, id, to);
                let vote = Message { reject: !granted, ..vote };
                if reply.take().as_ref() != Some(&vote) {
                    return Err(format!("replica {id} answers {message:?}"));
                }
                ("SendRequestVoteResponse", vote)
            }
            raft::Message::Append { .. } | raft::Message::Heartbeat { .. } => {
                ("SendAppendEntriesRequest", Message::new(Kind::Append, term, id, to))
            }
            raft::Message::AppendReply { .. } | raft::Message::HeartbeatReply { .. } => {
                let has = match message {
                    raft::Message::AppendReply {
                        outcome: AppendOutcome::Accepted { matched },
                        ..
                    } => Some(matched.0),
                    raft::Message::HeartbeatReply { matched, .. } => Some(matched.0),
                    _ => None,
                };
                let reply = reply.take().filter(|reply| reply.to == to && reply.term == term);
                let fits = |reply: &Message| reply.reject || has == Some(reply.index);
                let Some(reply) = reply.filter(fits) else {
                    return Err(format!("replica {id} answers {message:?}"));
                };
                ("SendAppendEntriesResponse", reply)
            }
            raft::Message::TimeoutNow { .. } => return Ok(Some(0)),
        };
        let tag = self.say(name, id, Some(&sent));
        self.sent.insert(tag, Sent { message: sent, log, matched, commit });
        match message {
            raft::Message::Append { prev, entries, .. } => {
                let last = prev.index.0 + entries.len() as u64;
                self.rewrite(tag, prev.index.0.max(matched), last.max(matched));
            }
            raft::Message::Heartbeat { .. } => self.rewrite(tag, matched, matched),
            _ => {}
        }
        Ok(Some(tag))
    }

    fn compare(&self, id: u64, status: &Status) -> Outcome<()> {
        let node = &self.nodes[&id];
        let role = match node.role {
            Role::Follower => raft::Role::Follower,
            Role::Candidate => raft::Role::Candidate,
            Role::Leader => raft::Role::Leader,
        };
        let is = (node.term, node.vote, role, node.log.len(), node.commit);
        let vote = status.vote.map_or(0, |ReplicaId(id)| id);
        let should = (status.term.0, vote, status.role, last(status), status.commit.0);
        if is == should {
            return Ok(());
        }
        Err(format!("replica {id} is {should:?} where the specification has {is:?}"))
    }
}

fn last(status: &Status) -> usize {
    status.last.index.0 as usize
}

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use bytes::Bytes;

    /// A replica that says something else than the specification is found out: what it says after a
    /// turn is changed in each way in turn.
    #[test]
    fn what_the_specification_would_not_do_is_found() {
        let mut world = World::new(3, 1).unwrap();
        world.campaign(1).unwrap();
        for _ in 0..4 {
            world.deliver(&[], usize::MAX).unwrap();
        }
        world.propose(1, &[Bytes::from_static(b"x")]).unwrap();
        let (tracer, status) = world.observed(1);
        assert_eq!(status.commit.0, 1);
        let turn = |status: &Status| {
            let mut tracer = tracer.clone();
            tracer.turned(1, Cause::Local, status, &[]).map(drop)
        };
        assert_eq!(turn(&status), Ok(()));
        let lies: [fn(&mut Status); 5] = [
            |status| status.commit.0 += 1,
            |status| status.term.0 += 2,
            |status| status.vote = Some(ReplicaId(2)),
            |status| status.last.index.0 -= 1,
            |status| status.commit.0 -= 1,
        ];
        for (at, lie) in lies.into_iter().enumerate() {
            let mut told = status.clone();
            lie(&mut told);
            assert!(turn(&told).is_err(), "lie {at}");
        }
        // A vote that nobody gave, and an answer to nothing.
        let vote = raft::Message::Vote { term: status.term, pre: false, granted: true };
        assert!(tracer.clone().turned(1, Cause::Local, &status, &[(2, vote)]).is_err());
    }
}
