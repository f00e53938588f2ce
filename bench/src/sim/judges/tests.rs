//! Each judge is shown a good history, which it must let pass, and bad ones, which it must not.

use super::*;

const GROUP: Group = Group(7);
const A: Replica = Replica(1);
const B: Replica = Replica(2);
const C: Replica = Replica(3);

/// Shows observations to the judges, of one group of three.
struct Court {
    judges: Judges,
    tickets: BTreeMap<Replica, u64>,
}

impl Court {
    fn new() -> Court {
        let mut judges = Judges::new();
        judges.members(GROUP, &[A, B, C]);
        Court { judges, tickets: BTreeMap::new() }
    }

    /// The command of an entry; entries of one position have one command.
    fn hash(index: u64, term: u64) -> u64 {
        index * 1000 + term
    }

    fn writes(&mut self, replica: Replica, entries: &[(u64, u64)]) -> u64 {
        for &(index, term) in entries {
            self.judges.entry(GROUP, replica, index, term, Court::hash(index, term));
        }
        let ticket = self.tickets.entry(replica).or_default();
        *ticket += 1;
        self.judges.wrote(GROUP, replica, *ticket);
        *ticket
    }

    fn has(&mut self, replica: Replica, entries: &[(u64, u64)]) {
        let ticket = self.writes(replica, entries);
        self.judges.synced(GROUP, replica, ticket);
    }

    fn applies(&mut self, replica: Replica, index: u64, term: u64) {
        self.judges.applied(GROUP, replica, index, term, Court::hash(index, term));
    }

    /// Three replicas with entries 1 and 2 of term 1 committed and applied, under A.
    fn in_office() -> Court {
        let mut court = Court::new();
        for replica in [A, B, C] {
            court.judges.hard_state(GROUP, replica, 1, Some(1));
            court.judges.term(GROUP, replica, 1);
        }
        court.judges.leads(GROUP, A, 1);
        for replica in [A, B] {
            court.has(replica, &[(1, 1), (2, 1)]);
        }
        court.judges.acknowledged(GROUP, B, 1, 2);
        court.judges.committed(GROUP, A, 2, 1);
        court.has(C, &[(1, 1), (2, 1)]);
        for replica in [A, B, C] {
            court.judges.committed(GROUP, replica, 2, 1);
            court.applies(replica, 1, 1);
            court.applies(replica, 2, 1);
        }
        court.well()
    }

    fn well(self) -> Court {
        assert_eq!(self.judges.verdict(), Ok(()));
        self
    }

    fn reopens(&mut self, replica: Replica, entries: &[(u64, u64)], damaged: bool, suspect: bool) {
        let entries: Vec<(u64, u64)> =
            entries.iter().map(|&(index, term)| (term, Court::hash(index, term))).collect();
        let found = Reopened {
            term: 1,
            vote: Some(1),
            base: Position::default(),
            entries: &entries,
            suspect,
            damaged,
        };
        self.judges.reopened(GROUP, replica, &found);
        self.tickets.remove(&replica);
    }

    fn breaks(&self, rule: Rule, words: &str) {
        let violation = self.judges.verdict().expect_err("the judges must object");
        assert_eq!(violation.rule, rule, "{violation}");
        assert!(violation.text.contains(words), "{violation}");
    }
}

#[test]
fn a_group_that_keeps_the_rules_passes() {
    let mut court = Court::in_office();
    // B wins term 2, overwrites what A had appended and nobody had committed.
    court.has(A, &[(3, 1), (4, 1)]);
    for replica in [B, C] {
        court.judges.hard_state(GROUP, replica, 2, Some(2));
        court.judges.term(GROUP, replica, 2);
    }
    court.judges.voted(GROUP, C, 2, B);
    court.judges.leads(GROUP, B, 2);
    court.judges.leads(GROUP, A, 1);
    court.has(B, &[(3, 2)]);
    court.has(C, &[(3, 2)]);
    court.judges.acknowledged(GROUP, C, 2, 3);
    court.judges.committed(GROUP, B, 3, 2);
    court.applies(B, 3, 2);
    court.judges.term(GROUP, A, 2);
    court.judges.truncated(GROUP, A, 3);
    court.has(A, &[(3, 2)]);
    court.judges.committed(GROUP, A, 3, 2);
    court.applies(A, 3, 2);
    for replica in [A, B] {
        court.judges.contents(GROUP, replica, 3, 99);
        court.judges.compacted(GROUP, replica, 2, 1);
    }
    // C restarts with what it had synced, and gets the rest by a snapshot.
    court.judges.hard_state(GROUP, C, 2, Some(2));
    let entries = [(1, Court::hash(1, 1)), (1, Court::hash(2, 1)), (2, Court::hash(3, 2))];
    let found = Reopened {
        term: 2,
        vote: Some(2),
        base: Position::default(),
        entries: &entries,
        suspect: false,
        damaged: false,
    };
    court.judges.reopened(GROUP, C, &found);
    court.judges.restored(GROUP, C, 2, 1);
    court.judges.restored(GROUP, C, 3, 2);
    court.judges.contents(GROUP, C, 3, 99);
    court.judges.must_be_caught_up(GROUP, &[A, B, C]);
    court.well();
}

#[test]
fn two_leaders_of_a_term_are_one_too_many() {
    let mut court = Court::in_office();
    court.judges.leads(GROUP, C, 1);
    court.breaks(Rule::OneLeader, "in which replica 1 leads");
    let mut elsewhere = Court::in_office();
    elsewhere.judges.leads(Group(8), C, 1);
    elsewhere.well();
}

#[test]
fn a_position_has_one_command_and_one_past() {
    let mut court = Court::in_office();
    court.judges.entry(GROUP, A, 3, 1, 5);
    court.judges.entry(GROUP, B, 3, 1, 6);
    court.breaks(Rule::LogMatching, "another command");

    let mut court = Court::in_office();
    court.writes(A, &[(3, 1), (4, 3)]);
    court.writes(B, &[(3, 2), (4, 3)]);
    court.breaks(Rule::LogMatching, "follows one of term 2");

    let mut court = Court::in_office();
    court.writes(A, &[(4, 1)]);
    court.breaks(Rule::LogMatching, "ends at 2");

    let mut court = Court::in_office();
    court.writes(A, &[(3, 5), (4, 4)]);
    court.breaks(Rule::LogMatching, "later term 5");
}

#[test]
fn a_leader_lacks_nothing_that_was_committed_before() {
    let mut court = Court::new();
    court.judges.leads(GROUP, A, 1);
    court.has(A, &[(1, 1), (2, 1)]);
    court.has(B, &[(1, 1), (2, 1)]);
    court.has(C, &[(1, 1)]);
    court.judges.committed(GROUP, A, 2, 1);
    let mut court = court.well();
    court.judges.leads(GROUP, C, 2);
    court.breaks(Rule::LeaderCompleteness, "without the entry 2 of term 1");
}

/// Votes and acknowledgements may arrive late: the order in which they are seen says nothing.
#[test]
fn a_leader_that_was_elected_late_in_an_early_term_needs_nothing_of_later_ones() {
    let mut court = Court::in_office();
    court.judges.leads(GROUP, B, 5);
    court.has(B, &[(3, 5)]);
    court.has(A, &[(3, 5)]);
    court.judges.committed(GROUP, B, 3, 5);
    court.judges.leads(GROUP, C, 4);
    court.well();
}

#[test]
fn what_is_committed_late_must_be_with_the_leaders_of_later_terms() {
    let mut court = Court::in_office();
    court.has(A, &[(3, 1)]);
    court.judges.leads(GROUP, C, 2);
    court.has(B, &[(3, 1)]);
    court.judges.committed(GROUP, A, 3, 1);
    court.breaks(Rule::LeaderCompleteness, "replica 3");
}

#[test]
fn nobody_applies_or_commits_something_else() {
    let mut court = Court::in_office();
    court.has(A, &[(3, 1)]);
    court.has(B, &[(3, 1)]);
    court.has(C, &[(3, 2)]);
    court.judges.committed(GROUP, A, 3, 1);
    court.judges.committed(GROUP, C, 3, 2);
    court.breaks(Rule::StateMachineSafety, "replica 1 committed one of term 1");

    let mut court = Court::in_office();
    court.has(A, &[(3, 1)]);
    court.applies(A, 3, 1);
    court.breaks(Rule::StateMachineSafety, "only that 2 is committed");

    let mut court = Court::in_office();
    court.applies(A, 2, 1);
    court.breaks(Rule::StateMachineSafety, "applies 2 after 2");

    let mut court = Court::in_office();
    court.judges.committed(GROUP, A, 3, 1);
    court.breaks(Rule::StateMachineSafety, "ends at 2");

    let mut court = Court::in_office();
    court.judges.restored(GROUP, A, 9, 1);
    court.breaks(Rule::StateMachineSafety, "only 2 is committed anywhere");
}

#[test]
fn committed_means_on_the_disks_of_a_quorum() {
    let mut court = Court::in_office();
    court.writes(A, &[(3, 1)]);
    court.has(B, &[(3, 1)]);
    court.judges.committed(GROUP, A, 3, 1);
    court.breaks(Rule::CommittedIsKept, "1 of 3 disks");

    // The leader's own disk may be the slow one.
    let mut court = Court::in_office();
    court.writes(A, &[(3, 1)]);
    court.has(B, &[(3, 1)]);
    court.has(C, &[(3, 1)]);
    court.judges.committed(GROUP, A, 3, 1);
    court.well();
}

#[test]
fn a_leader_counts_for_its_own_term_only() {
    let later = |term| {
        let mut court = Court::in_office();
        court.has(A, &[(3, 1)]);
        court.has(C, &[(3, 1)]);
        court.judges.term(GROUP, C, 2);
        court.judges.leads(GROUP, C, 2);
        court.judges.term(GROUP, C, 2);
        if term == 2 {
            court.has(A, &[(4, 2)]);
            court.has(C, &[(4, 2)]);
            court.judges.committed(GROUP, C, 4, 2);
        } else {
            court.judges.committed(GROUP, C, 3, 1);
        }
        court.judges.leads(GROUP, C, 2);
        court
    };
    later(2).well();
    later(1).breaks(Rule::OwnTerm, "commits 3 of term 1");
}

#[test]
fn nobody_refuses_what_lies_before_its_base() {
    let mut court = Court::in_office();
    court.judges.refused(GROUP, B, 3, 2);
    let mut court = court.well();
    court.judges.refused(GROUP, B, 1, 2);
    court.breaks(Rule::LogMatching, "because of its entry 2");
}

/// A write that was overwritten before it was done proves nothing about what took its place.
#[test]
fn a_late_sync_of_overwritten_entries_does_not_count() {
    let mut court = Court::in_office();
    let old = court.writes(C, &[(3, 1), (4, 1)]);
    court.judges.term(GROUP, C, 2);
    court.writes(C, &[(3, 2), (4, 2)]);
    court.judges.synced(GROUP, C, old);
    court.judges.acknowledged(GROUP, C, 2, 4);
    court.breaks(Rule::Promises, "durable up to 2");
}

#[test]
fn committed_entries_are_not_cut_off() {
    let mut court = Court::in_office();
    court.judges.truncated(GROUP, A, 2);
    court.breaks(Rule::CommittedIsKept, "cuts its log at 2");

    let mut court = Court::in_office();
    court.has(A, &[(3, 1)]);
    court.judges.compacted(GROUP, A, 3, 1);
    court.breaks(Rule::CommittedIsKept, "having applied only 2");
}

#[test]
fn what_was_acknowledged_stays_for_the_term() {
    let mut court = Court::in_office();
    court.has(B, &[(3, 1), (4, 1)]);
    court.judges.acknowledged(GROUP, B, 1, 4);
    court.judges.truncated(GROUP, B, 4);
    court.breaks(Rule::Promises, "the leader counts on");

    let mut court = Court::in_office();
    court.has(B, &[(3, 1), (4, 1)]);
    court.judges.acknowledged(GROUP, B, 1, 4);
    court.judges.term(GROUP, B, 2);
    court.judges.truncated(GROUP, B, 4);
    court.well();
}

#[test]
fn votes_and_terms_do_not_go_back() {
    let mut court = Court::in_office();
    court.judges.hard_state(GROUP, B, 1, Some(3));
    court.breaks(Rule::HardState, "from replica 1 to replica 3");

    let mut court = Court::in_office();
    court.judges.hard_state(GROUP, B, 1, None);
    court.breaks(Rule::HardState, "to nobody");

    let mut court = Court::in_office();
    court.judges.hard_state(GROUP, B, 3, None);
    court.judges.hard_state(GROUP, B, 2, None);
    court.breaks(Rule::HardState, "from term 3 to 2");

    let mut court = Court::in_office();
    court.judges.hard_state(GROUP, B, 3, None);
    court.judges.hard_state(GROUP, B, 3, Some(3));
    court.well();
}

#[test]
fn a_vote_leaves_when_it_is_durable() {
    let mut court = Court::in_office();
    court.judges.voted(GROUP, B, 2, C);
    court.breaks(Rule::Promises, "its disk says term 1");

    let mut court = Court::in_office();
    court.judges.hard_state(GROUP, B, 2, Some(3));
    court.judges.voted(GROUP, B, 2, C);
    court.judges.hard_state(GROUP, B, 3, None);
    court.judges.voted(GROUP, B, 2, C);
    court.well();
}

#[test]
fn a_suspect_promises_nothing() {
    let mut court = Court::in_office();
    court.judges.hard_state(GROUP, B, 2, Some(3));
    court.judges.suspects(GROUP, B);
    court.judges.voted(GROUP, B, 2, C);
    court.breaks(Rule::Promises, "may have lost");

    let mut court = Court::in_office();
    court.judges.suspects(GROUP, B);
    court.judges.acknowledged(GROUP, B, 1, 2);
    court.breaks(Rule::Promises, "may have lost");

    let mut court = Court::in_office();
    court.judges.suspects(GROUP, B);
    court.judges.leads(GROUP, B, 2);
    court.breaks(Rule::Promises, "leads in term 2");
}

#[test]
fn a_disk_returns_what_it_had_synced() {
    let mut court = Court::in_office();
    court.reopens(B, &[(1, 1)], false, false);
    court.breaks(Rule::DurableLog, "synced up to 2 and returns up to 1");

    let mut court = Court::in_office();
    court.reopens(B, &[(1, 1), (2, 0)], false, false);
    court.breaks(Rule::DurableLog, "another one");

    let mut court = Court::in_office();
    court.reopens(B, &[(1, 1), (2, 1)], false, true);
    court.breaks(Rule::DurableLog, "nobody damaged");

    // What was not synced may be there or not.
    for kept in [2, 3] {
        let mut court = Court::in_office();
        court.writes(B, &[(3, 1), (4, 1)]);
        court.reopens(B, &[(1, 1), (2, 1), (3, 1)][..kept], false, false);
        court.judges.restored(GROUP, B, 0, 0);
        court.judges.committed(GROUP, B, 2, 1);
        court.applies(B, 1, 1);
        court.well();
    }
}

#[test]
fn committed_entries_survive_what_one_disk_loses_but_not_what_two_lose() {
    let mut court = Court::in_office();
    court.reopens(A, &[], true, true);
    court.reopens(B, &[], true, true);
    let mut court = court.well();
    court.reopens(A, &[], true, false);
    court.reopens(B, &[], true, false);
    court.breaks(Rule::CommittedIsKept, "replica 1, replica 2 can elect");
}

#[test]
fn a_key_has_one_owner_at_an_epoch() {
    let keys = |start: &str, end: Option<&str>| Keys {
        start: start.as_bytes().to_vec(),
        end: end.map(|end| end.as_bytes().to_vec()),
    };
    let mut court = Court::new();
    for node in 1..4 {
        court.judges.owns(node, Group(1), 1, &keys("", Some("m")));
        court.judges.owns(node, Group(2), 1, &keys("m", None));
        court.judges.owns(node, Group(3), 2, &keys("k", Some("m")));
    }
    let mut court = court.well();
    court.judges.owns(3, Group(4), 1, &keys("l", Some("n")));
    court.breaks(Rule::OneOwner, "which group 1 owns");

    let mut court = Court::new();
    court.judges.owns(1, Group(1), 1, &keys("", Some("m")));
    court.judges.owns(2, Group(1), 1, &keys("", Some("n")));
    court.breaks(Rule::OneOwner, "other keys than node 1");
}

#[test]
fn equal_progress_means_equal_rows() {
    let mut court = Court::in_office();
    court.judges.contents(GROUP, A, 2, 1);
    court.judges.contents(GROUP, B, 1, 2);
    court.judges.contents(GROUP, C, 2, 1);
    let mut court = court.well();
    court.judges.contents(GROUP, B, 2, 2);
    court.breaks(Rule::SameContents, "differ from those of replica 1");
}

#[test]
fn increments_count_once() {
    let counted = || {
        let mut court = Court::new();
        for _ in 0..5 {
            court.judges.increment_asked(b"k");
        }
        court.judges.increment_answered(b"k", 1);
        court.judges.increment_answered(b"k", 3);
        court.judges.increment_refused(b"k");
        court.well()
    };
    for right in [3, 4] {
        let mut court = counted();
        court.judges.counter_ended_at(b"k", right);
        court.well();
    }
    let mut court = counted();
    court.judges.counter_ended_at(b"k", 5);
    court.breaks(Rule::ExactlyOnce, "only 4 can have counted");
    let mut court = counted();
    court.judges.counter_ended_at(b"k", 2);
    court.breaks(Rule::ExactlyOnce, "2 increments were answered, up to 3");
    let mut court = counted();
    court.judges.increment_answered(b"k", 3);
    court.breaks(Rule::ExactlyOnce, "two increments were answered with 3");
    let mut court = counted();
    court.judges.increment_answered(b"k", 6);
    court.breaks(Rule::ExactlyOnce, "gave 6");
}

#[test]
fn everything_ends() {
    let mut court = Court::in_office();
    court.judges.request_began(1, 10);
    court.judges.request_began(2, 20);
    court.judges.request_ended(1);
    let mut court = court.well();
    court.judges.must_have_ended();
    court.breaks(Rule::Liveness, "the oldest, 2, was asked at 20 ms");

    let mut court = Court::in_office();
    court.judges.request_ended(1);
    court.breaks(Rule::Liveness, "ended twice");

    let mut court = Court::in_office();
    court.has(A, &[(3, 1)]);
    court.has(B, &[(3, 1)]);
    court.judges.committed(GROUP, A, 3, 1);
    court.applies(A, 3, 1);
    court.judges.must_be_caught_up(GROUP, &[A]);
    let mut court = court.well();
    court.judges.must_be_caught_up(GROUP, &[A, B]);
    court.breaks(Rule::Liveness, "has applied 2 of 3");
}

/// A long life of a group costs no more memory than what its replicas have not compacted.
#[test]
fn what_all_have_compacted_is_forgotten() {
    let mut court = Court::new();
    court.judges.leads(GROUP, A, 1);
    for index in 1..=10_000 {
        for replica in [A, B, C] {
            court.has(replica, &[(index, 1)]);
        }
        for replica in [A, B, C] {
            court.judges.committed(GROUP, replica, index, 1);
            court.applies(replica, index, 1);
            if index % 100 == 0 {
                court.judges.compacted(GROUP, replica, index - 50, 1);
            }
        }
    }
    let court = court.well();
    let case = &court.judges.cases[&GROUP];
    assert!(case.remembered() < 1_000, "{} are remembered", case.remembered());
}

#[test]
fn the_first_violation_stays() {
    let mut court = Court::in_office();
    court.judges.found(Violation::new(Rule::Linearizability, "key x has no order"));
    court.judges.leads(GROUP, C, 1);
    court.breaks(Rule::Linearizability, "key x");
    assert!(court.judges.observations() > 20);
}
