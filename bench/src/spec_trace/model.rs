//! The actions of the specification that a trace goes through, on plain data.
//!
//! Written after the actions of etcd's TLA+ specification, one function each, so that a trace is
//! compared with it while it is made: what the specification would not do ends the trace.

use std::collections::{BTreeMap, BTreeSet};

/// What the specification knows of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) term: u64,
    pub(super) role: Role,
    /// 0: nobody.
    pub(super) vote: u64,
    /// The terms of the entries.
    pub(super) log: Vec<u64>,
    pub(super) commit: u64,
    pub(super) matched: BTreeMap<u64, u64>,
    granted: BTreeSet<u64>,
    /// Term, vote, length of the log and commit, as of the last ready.
    durable: (u64, u64, usize, u64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Role {
    #[default]
    Follower,
    Candidate,
    Leader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Vote,
    VoteReply,
    Append,
    AppendReply,
}

/// A message as the specification has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) term: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) index: u64,
    pub(super) log_term: u64,
    pub(super) entries: Vec<u64>,
    pub(super) commit: u64,
    pub(super) reject: bool,
}

impl Message {
    pub(super) fn new(kind: Kind, term: u64, from: u64, to: u64) -> Message {
        let (index, log_term, commit, reject) = (0, 0, 0, false);
        Message { kind, term, from, to, index, log_term, entries: Vec::new(), commit, reject }
    }
}

impl Node {
    /// `Restart`: everything but what was durable is gone.
    pub(super) fn restart(&mut self) {
        let (term, vote, len, commit) = self.durable;
        let mut log = std::mem::take(&mut self.log);
        log.truncate(len);
        *self = Node { term, vote, log, commit, durable: self.durable, ..Node::default() };
    }

    /// `Timeout`.
    pub(super) fn timeout(&mut self, id: u64) -> Result<(), String> {
        if self.role == Role::Leader {
            return Err("a leader campaigns".to_owned());
        }
        (self.role, self.term, self.vote) = (Role::Candidate, self.term + 1, id);
        self.granted.clear();
        Ok(())
    }

    /// `BecomeLeader`.
    pub(super) fn become_leader(&mut self, id: u64, voters: usize) -> Result<(), String> {
        if self.role != Role::Candidate || self.granted.len() * 2 <= voters {
            return Err(format!("leads with the votes of {:?}", self.granted));
        }
        self.role = Role::Leader;
        self.matched = BTreeMap::from([(id, self.log.len() as u64)]);
        Ok(())
    }

    /// `StepDownToFollower`.
    pub(super) fn step_down(&mut self) {
        self.role = Role::Follower;
    }

    /// `ClientRequest`.
    pub(super) fn replicate(&mut self) {
        self.log.push(self.term);
    }

    /// `AdvanceCommitIndex`: what the leader knows to be committed.
    pub(super) fn advance_commit(&mut self, voters: usize) {
        let mut matched: Vec<u64> = self.matched.values().copied().collect();
        matched.resize(voters, 0);
        matched.sort_unstable_by(|a, b| b.cmp(a));
        let agreed = matched[voters / 2];
        if self.term_at(agreed) == Some(self.term) {
            self.commit = self.commit.max(agreed);
        }
    }

    /// `Ready`, of the node alone.
    pub(super) fn persist(&mut self) -> bool {
        let now = (self.term, self.vote, self.log.len(), self.commit);
        std::mem::replace(&mut self.durable, now) != now
    }

    pub(super) fn term_at(&self, index: u64) -> Option<u64> {
        self.log.get(index.checked_sub(1)? as usize).copied()
    }

    pub(super) fn matched(&self, id: u64) -> u64 {
        self.matched.get(&id).copied().unwrap_or(0)
    }

    /// `Receive`, up to where the message is gone; gives the reply.
    pub(super) fn receive(&mut self, message: &Message) -> Result<Option<Message>, String> {
        if message.term > self.term {
            (self.term, self.vote, self.role) = (message.term, 0, Role::Follower);
        }
        let reply = |kind| Message::new(kind, self.term, message.to, message.from);
        match message.kind {
            Kind::Vote => {
                let reply = reply(Kind::VoteReply);
                let last = (self.log.last().copied().unwrap_or(0), self.log.len() as u64);
                let grant = message.term == self.term
                    && (message.log_term, message.index) >= last
                    && (self.vote == 0 || self.vote == message.from);
                if grant {
                    self.vote = message.from;
                }
                Ok(Some(Message { reject: !grant, ..reply }))
            }
            Kind::VoteReply => {
                if message.term == self.term && !message.reject {
                    self.granted.insert(message.from);
                }
                Ok(None)
            }
            Kind::Append => {
                let reply = reply(Kind::AppendReply);
                let (index, reject) = match self.append(message)? {
                    Some(matched) => (matched, false),
                    None => (0, true),
                };
                Ok(Some(Message { index, reject, ..reply }))
            }
            Kind::AppendReply => {
                if message.term == self.term && !message.reject {
                    let matched = self.matched.entry(message.from).or_default();
                    *matched = (*matched).max(message.index);
                }
                Ok(None)
            }
        }
    }

    /// `HandleAppendEntriesRequest`; gives what the follower says it has. `None`: it refuses.
    fn append(&mut self, message: &Message) -> Result<Option<u64>, String> {
        if message.term < self.term {
            return Ok(None);
        }
        match self.role {
            Role::Leader => return Err("a leader hears another one of its term".to_owned()),
            Role::Candidate => self.role = Role::Follower,
            Role::Follower => {}
        }
        let prev = message.index;
        if prev > 0 && self.term_at(prev) != Some(message.log_term) {
            return Ok(None);
        }
        if prev < self.commit {
            // Nothing of it is looked at.
            return Ok(Some(self.commit));
        }
        for (index, term) in (prev + 1..).zip(&message.entries) {
            match self.term_at(index) {
                Some(known) if known == *term => {}
                _ => {
                    self.log.truncate(index as usize - 1);
                    self.log.push(*term);
                }
            }
        }
        let last = prev + message.entries.len() as u64;
        self.commit = self.commit.max(message.commit.min(last));
        Ok(Some(last))
    }
}
