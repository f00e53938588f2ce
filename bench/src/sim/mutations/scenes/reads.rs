//! Reads that a deposed leader must not answer: what another one has committed meanwhile would be
//! missing.

use std::time::Duration;

use flotilla_shard::raft::{Event, Index, ReplicaId};

use super::super::super::judges::{Rule, Violation};
use super::trio::{DRIFT_PPM, TIMEOUT, Trio};

/// Between 2 and 3.
const WITHOUT_1: [(usize, usize); 2] = [(2, 3), (3, 2)];

/// A read that is served at `served` must see `committed`.
fn must_see(committed: Index, served: Index) -> Result<(), Violation> {
    if served >= committed {
        return Ok(());
    }
    let text = format!(
        "a read is served at {served} although {committed} was committed before it was asked"
    );
    Err(Violation::new(Rule::Linearizability, text))
}

/// Replica 2 leads without 1 knowing, and commits a command.
fn depose_1(trio: &mut Trio) -> Index {
    trio.campaign_until_it_leads(2, &WITHOUT_1);
    assert!(trio.leads(2) && trio.leads(1), "1 was deposed without knowing");
    trio.propose(2);
    trio.deliver(&WITHOUT_1);
    trio.commit(2)
}

/// An answer to a round that was sent before a read was asked says nothing about it.
///
/// # Errors
///
/// If the read is confirmed by it.
pub fn after_an_earlier_round() -> Result<(), Violation> {
    let mut trio = Trio::under_1(false, 2);
    trio.confirmed(1);
    let early = trio.read(1);
    // The question reaches 2; its answer is slow.
    trio.deliver(&[(1, 2)]);
    let committed = depose_1(&mut trio);
    let late = trio.read(1);
    // Whoever waits is known by the name of the read alone, and of two with one name the later.
    let mut floors = vec![(early, Index(0))];
    floors.retain(|(id, _)| *id != late);
    floors.push((late, committed));
    trio.deliver(&[(2, 1)]);
    for (id, served) in trio.confirmed(1) {
        if let Some((_, floor)) = floors.iter().find(|(waiting, _)| *waiting == id) {
            must_see(*floor, served)?;
        }
    }
    Ok(())
}

/// A leader that has not committed anything in its term does not know what others have.
///
/// # Errors
///
/// If it answers a read without what was committed before.
pub fn before_the_first_entry() -> Result<(), Violation> {
    for leases in [true, false] {
        let mut trio = Trio::under_1(leases, 2);
        // 1 commits what 2 has, and does not come to say so.
        trio.propose(1);
        trio.deliver(&[(1, 2)]);
        trio.deliver(&[(2, 1)]);
        let committed = trio.commit(1);
        trio.lose(1, 2);
        trio.lose(1, 3);
        // Nobody owes 1 anything any more.
        for id in [2, 3] {
            trio.wait(id, TIMEOUT * 2);
        }
        trio.step(2, Event::Campaign);
        // Votes and answers to rounds come and go; no entry of the new term comes through.
        for _ in 0..4 {
            trio.deliver(&[(3, 2)]);
            if trio.leads(2) {
                trio.heartbeat(2);
            }
            if trio.commit(2) < committed {
                trio.deliver_but_appends(2, 3);
            }
        }
        assert!(trio.leads(2) && trio.commit(2) < committed, "2 knows too much");
        if let Some(served) = trio.lease_read(2) {
            must_see(committed, served)?;
        }
        trio.read(2);
        for _ in 0..2 {
            trio.deliver_but_appends(2, 3);
            trio.deliver(&[(3, 2)]);
        }
        for (_, served) in trio.confirmed(2) {
            must_see(committed, served)?;
        }
    }
    Ok(())
}

/// Who has asked somebody to take over may be deposed at any moment.
///
/// # Errors
///
/// If it reads by its lease and misses what the next leader has committed.
pub fn while_handing_over() -> Result<(), Violation> {
    let mut trio = Trio::under_1(true, 2);
    assert!(trio.lease_read(1).is_some(), "1 has a lease");
    trio.step(1, Event::Transfer { to: Some(ReplicaId(2)) });
    trio.deliver(&[(1, 2), (2, 3), (3, 2)]);
    assert!(trio.leads(2), "2 was asked to take over");
    trio.propose(2);
    trio.deliver(&WITHOUT_1);
    let committed = trio.commit(2);
    match trio.lease_read(1) {
        Some(served) => must_see(committed, served),
        None => Ok(()),
    }
}

/// Clocks may run at different speeds, within a bound: that of 1 is as slow, those of 2 and 3 are as
/// fast as they may be.
///
/// # Errors
///
/// If 1 still reads by its lease when 2 and 3 are free to elect another leader.
pub fn with_a_slow_clock() -> Result<(), Violation> {
    let mut trio = Trio::under_1(true, 2);
    let drift = f64::from(DRIFT_PPM) / 1e6;
    // A little more than the promise, on fast clocks.
    let promised = TIMEOUT + Duration::from_millis(1);
    for id in [2, 3] {
        trio.wait(id, promised);
    }
    trio.wait(1, promised.mul_f64((1.0 - drift) / (1.0 + drift)));
    let committed = depose_1(&mut trio);
    match trio.lease_read(1) {
        Some(served) => must_see(committed, served),
        None => Ok(()),
    }
}

/// A voter that was started anew does not know what it had promised, and keeps it all the same.
///
/// # Errors
///
/// If it helps another leader into office while the first one reads by its lease.
pub fn after_a_restart() -> Result<(), Violation> {
    let mut trio = Trio::under_1(true, 2);
    for id in [2, 3] {
        trio.restart(id);
    }
    trio.campaign_until_it_leads(2, &WITHOUT_1);
    if !trio.leads(2) {
        return Ok(());
    }
    trio.propose(2);
    trio.deliver(&WITHOUT_1);
    let committed = trio.commit(2);
    match trio.lease_read(1) {
        Some(served) => must_see(committed, served),
        None => Ok(()),
    }
}
