//! How clients reach the nodes of a world, and what becomes of what they ask.
//!
//! What is absent: what they ask for (`client`).

use std::time::Duration;

use bytes::Bytes;
use flotilla_shard::{Answer, Operation, WriteOutcome};

use super::client::{Call, Outcome};
use super::clock::MILLISECOND;
use super::phases::Phase;
use super::scene::Happening;
use super::world::World;

/// How long a client waits before it asks again under the same name, at most.
const AGAIN_MAX: Duration = Duration::from_millis(500);

impl World {
    /// A client begins something, or asks again.
    pub(super) fn go_on(&mut self, number: usize) {
        if self.clients[number].asked.is_some() {
            return;
        }
        if self.clients[number].call.is_some() {
            return self.ask(number);
        }
        if !matches!(self.phase, Phase::Faults | Phase::Healed) {
            return;
        }
        let at = self.clients[number].at;
        let wall_ms = self.nodes[at].clock.wall_ms(self.scene.now);
        let request = self.number_request();
        let (keys, options) = (&self.keys, &self.scene.options);
        let call = self.clients[number].choose(keys, options, request, wall_ms);
        self.call(number, call);
    }

    /// A client reads a key at the end.
    pub(super) fn read_last(&mut self, number: usize, key: Bytes) {
        let request = self.number_request();
        let call = self.clients[number].last_read(key, request);
        self.call(number, call);
    }

    fn number_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    fn call(&mut self, number: usize, mut call: Call) {
        call.called = self.history_clock.stamp(self.scene.now);
        self.scene.judges.request_began(call.request, self.scene.now / MILLISECOND);
        if let Some(counter) = &call.counter {
            self.scene.judges.increment_asked(counter);
        }
        self.scene.count("operations");
        self.clients[number].call = Some(call);
        self.ask(number);
    }

    /// Asks through the client's node, or another one if that is down.
    fn ask(&mut self, number: usize) {
        let nodes = self.nodes.len();
        let is_up = |at: &usize| {
            let node = &self.nodes[*at];
            node.life.is_some() && node.paused_until <= self.scene.now
        };
        let first = self.clients[number].at;
        let Some(at) = (0..nodes).map(|more| (first + more) % nodes).find(is_up) else {
            let delay = self.scene.delay(AGAIN_MAX);
            self.scene.after(delay, Happening::Client(number));
            return;
        };
        self.clients[number].at = at;
        let patience = self.scene.options.patience;
        let client = &mut self.clients[number];
        let call = client.call.as_ref().expect("it is about to be asked");
        let (operation, origin): (Operation, _) = (call.operation.clone(), call.origin);
        let mut asked = None;
        self.with_life(at, None, |life, _, now| {
            let deadline = now.instant + patience;
            asked = Some(Box::pin(match origin {
                Some(origin) => life.router.start_as(origin, operation, deadline),
                None => life.router.start(operation, deadline),
            }));
            true
        });
        // A node may die in that moment; then it was not asked.
        match asked {
            Some(asked) if self.nodes[at].life.is_some() => {
                self.clients[number].asked = Some(asked);
                self.wake(number);
            }
            _ => self.scene.after(AGAIN_MAX, Happening::Client(number)),
        }
    }

    /// A client looks whether there is an answer.
    pub(super) fn wake(&mut self, number: usize) {
        let at = self.clients[number].at;
        if self.clients[number].asked.is_none() {
            return;
        }
        // Later attempts are made while it is polled, by the clock of its node.
        let mut result = None;
        let client = &mut self.clients[number];
        let node = &mut self.nodes[at];
        if let Some(life) = &mut node.life {
            life.reading.set(&node.clock, self.scene.now);
            result = client.poll();
        }
        self.settle(at);
        if let Some(result) = result {
            let outcome = self.clients[number].judge(result);
            self.end(number, &outcome);
        }
    }

    /// A node is gone, and with it what was asked through it.
    pub(super) fn cut_off_clients(&mut self, at: usize) {
        for number in 0..self.clients.len() {
            if self.clients[number].at != at {
                continue;
            }
            if let Some(outcome) = self.clients[number].cut_off() {
                self.scene.count("operations whose node died");
                self.end(number, &outcome);
            }
            self.clients[number].at = (at + 1) % self.nodes.len();
        }
    }

    fn end(&mut self, number: usize, outcome: &Outcome) {
        if matches!(outcome, Outcome::Again) {
            self.scene.count("writes repeated under their name");
            // Through another node, if there is one.
            let nodes = self.nodes.len() as u64;
            self.clients[number].at = self.scene.random.below(nodes) as usize;
            let delay = self.scene.delay(AGAIN_MAX);
            self.scene.after(delay, Happening::Client(number));
            return;
        }
        let call = self.clients[number].call.take().expect("it was asked");
        self.tell_counters(&call, outcome);
        let kind = match outcome {
            Outcome::Done(_) => "operations done",
            Outcome::NoEffect => "operations certainly without effect",
            Outcome::Unknown => "operations of unknown outcome",
            Outcome::Again => unreachable!("it goes on"),
        };
        self.scene.count(kind);
        self.scene.judges.request_ended(call.request);
        let now = self.scene.now;
        self.scene.trace.note(&[now, number as u64, call.request, kind.len() as u64]);
        let operation = call.operation.clone();
        self.scene.trace.tell(now, format_args!("client {number} {operation:?}: {outcome:?}"));
        let returned = self.history_clock.stamp(now);
        for line in call.told(outcome, &mut self.keys, returned) {
            self.history.push((self.history.len() + 1, line));
        }
        if self.phase == Phase::Reading {
            return;
        }
        let think = self.scene.delay(self.scene.options.think_max);
        self.scene.after(think, Happening::Client(number));
    }

    fn tell_counters(&mut self, call: &Call, outcome: &Outcome) {
        let Some(counter) = &call.counter else {
            if let (Phase::Reading, Outcome::Done(Answer::Value(entry)), Operation::Get { key }) =
                (self.phase, outcome, &call.operation)
                && self.keys.all().0.contains(key)
            {
                let value = entry.as_ref().map_or(Some(0), |entry| {
                    std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok())
                });
                // What is no number is found by the history's judge.
                if let Some(value) = value {
                    self.scene.judges.counter_ended_at(key, value);
                }
            }
            return;
        };
        match outcome {
            Outcome::Done(Answer::Written(WriteOutcome::Number(sum))) => {
                let sum = u64::try_from(*sum).unwrap_or(u64::MAX);
                self.scene.judges.increment_answered(counter, sum);
            }
            Outcome::NoEffect => self.scene.judges.increment_refused(counter),
            _ => {}
        }
    }
}
