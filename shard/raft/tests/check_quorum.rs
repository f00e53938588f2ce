//! A leader that its followers no longer answer steps down, however busy its clients keep it.

use std::time::Duration;

use flotilla_raft::{
    AppendOutcome, Event, Index, Limits, Message, Options, Raft, ReplicaId, Restored, Role, Term,
    Time,
};

const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes one turn with a disk on which everything is durable at once.
fn turn(raft: &mut Raft, now: Time) {
    loop {
        let ready = raft.ready(now);
        let done = ready.is_empty() && !ready.more;
        if let Some(persist) = ready.persist {
            raft.step(now, Event::Persisted(persist.ticket));
        } else if done {
            return;
        }
    }
}

/// Replica 1 of three, leading term 1 with its first entry committed.
fn leader(now: Time) -> Raft {
    let options = Options {
        id: ReplicaId(1),
        voters: [1, 2, 3].map(ReplicaId).to_vec(),
        election_timeout: ELECTION_TIMEOUT,
        heartbeat_interval: Duration::from_millis(100),
        seed: 1,
        suspect: false,
        pre_vote: true,
        check_quorum: true,
        disk_stall_max: Duration::from_secs(1),
        may_lead: true,
        leases: None,
        limits: Limits::default(),
    };
    let mut raft = Raft::new(options, Restored::default(), now);
    let term = Term(1);
    let accepted = AppendOutcome::Accepted { matched: Index(1) };
    for event in [
        Event::Campaign,
        receive(Message::Vote { term, pre: true, granted: true }),
        receive(Message::Vote { term, pre: false, granted: true }),
        receive(Message::AppendReply { term, outcome: accepted }),
    ] {
        raft.step(now, event);
        turn(&mut raft, now);
    }
    assert_eq!((raft.role(), raft.commit()), (Role::Leader, Index(1)));
    raft
}

fn receive(message: Message) -> Event {
    Event::Receive { from: ReplicaId(2), message }
}

/// Every read sends heartbeats of its own. They must not put off the moment at which the leader
/// notices that nobody answers them.
#[test]
fn reads_do_not_keep_a_lonely_leader_in_office() {
    let start = Time(0);
    let mut raft = leader(start);
    let mut now = start;
    while now.since(start) < ELECTION_TIMEOUT * 2 {
        now = now + Duration::from_millis(10);
        if raft.role() != Role::Leader {
            return;
        }
        raft.read(now).expect("a leader takes reads");
        if raft.next_tick() <= now {
            raft.step(now, Event::Tick);
        }
        turn(&mut raft, now);
    }
    panic!("it still leads after two election timeouts of silence");
}
