//! The actix actor of one group: a thin shell around [`Replica`].
//!
//! The mailbox brings bags of events. When it is drained, a future that never ends is polled and
//! makes one turn of everything that the events led to; the effects go into the lane's buffers,
//! which are flushed once for all groups.
//!
//! Invariants:
//!
//! * A panic here stops the node: actix would only leave a silently dead actor behind.
//!
//! What is absent: the group's logic (`replica`), and performing effects (`lane`).

use crate::effects::Event;
use crate::lane::{Lane, Slot};
use crate::replica::Replica;
use actix::{Actor, ActorContext, ActorFuture, AsyncContext, Context, Handler, Message};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

/// Events for one group, in order.
pub(crate) struct Bag(pub Vec<Event>);

impl Message for Bag {
    type Result = ();
}

/// The node stops: everybody who waits is answered.
pub(crate) struct Close;

impl Message for Close {
    type Result = ();
}

/// One group on its lane.
pub(crate) struct ReplicaActor {
    replica: Replica,
    lane: Rc<Lane>,
    slot: Rc<Slot>,
}

impl ReplicaActor {
    pub(crate) fn new(replica: Replica, lane: Rc<Lane>, slot: Rc<Slot>) -> ReplicaActor {
        ReplicaActor { replica, lane, slot }
    }

    fn turn(&mut self) {
        if !self.replica.is_stirred() || self.lane.is_halted() {
            return;
        }
        let now = self.lane.now();
        self.lane.with_effects(|effects| self.replica.turn(&now, effects));
        self.slot.note(&self.replica, &now);
    }
}

impl Actor for ReplicaActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.spawn(Turns);
    }
}

impl Handler<Bag> for ReplicaActor {
    type Result = ();

    fn handle(&mut self, Bag(events): Bag, _: &mut Self::Context) {
        let now = self.lane.now();
        self.lane.with_effects(|effects| {
            for event in events {
                self.replica.handle(&now, event, effects);
            }
        });
    }
}

impl Handler<Close> for ReplicaActor {
    type Result = ();

    fn handle(&mut self, Close: Close, context: &mut Self::Context) {
        self.turn();
        self.lane.with_effects(|effects| self.replica.close(effects));
        context.stop();
    }
}

impl Drop for ReplicaActor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let group = self.replica.group().0;
            self.lane.halt(&format!("the replica of group {group} panicked"));
        }
    }
}

/// Polled by actix whenever the mailbox has been drained; never completes.
struct Turns;

impl ActorFuture<ReplicaActor> for Turns {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut ReplicaActor,
        _: &mut Context<ReplicaActor>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<()> {
        actor.turn();
        Poll::Pending
    }
}
