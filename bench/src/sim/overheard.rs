//! Tells the judges what replicas say to each other, when it leaves a node: what they promise must
//! be true by then.
//!
//! What is absent: what becomes of it on the way.

use flotilla_router::peer::PeerMessage;
use flotilla_shard::Message;
use flotilla_shard::raft::AppendOutcome;

use super::judges::{Group, Judges, Replica};

/// `message` leaves its node.
pub fn left(judges: &mut Judges, message: &PeerMessage) {
    let PeerMessage::Raft(said) = message else { return };
    let (group, replica) = (Group(said.group.0), Replica(said.from.0));
    match &said.message {
        Message::Vote { term, pre: false, granted: true } => {
            judges.voted(group, replica, term.0, Replica(said.to.0));
        }
        Message::AppendReply { term, outcome: AppendOutcome::Accepted { matched } } => {
            judges.acknowledged(group, replica, term.0, matched.0);
        }
        // A refusal of a message of an earlier term has no hint.
        Message::AppendReply { outcome: AppendOutcome::Rejected { prev, hint, .. }, .. }
            if hint.index.0 > 0 =>
        {
            judges.refused(group, replica, prev.0, hint.index.0);
        }
        Message::HeartbeatReply { term, round, matched, .. } if round.0 > 0 => {
            judges.acknowledged(group, replica, term.0, matched.0);
        }
        _ => {}
    }
}
