//! Which faults happen when: a pure function of the seed, the length, the nodes and the kinds.
//!
//! Kinds are drawn from a bag that is emptied before it is filled again, so that all of them have
//! their turn; then who is hit, how badly and for how long. Faults mostly come one after the other
//! with a pause in between; where a second one goes with the first, the nodes that both hit are
//! together still a minority. A few faults take the majority away; they come alone.
//!
//! Invariants:
//!
//! * The same arguments give the same schedule, on every machine.
//! * But for those that say so ([`Kind::takes_majority`]), a majority of the nodes is untouched and
//!   connected at any time, if perhaps by bad weather.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::fault::{Fault, Kind, Measure, Victims};

/// Before the first fault.
const CALM: Duration = Duration::from_secs(2);

/// How many of each kind are in a full bag.
const BAG: [(Kind, usize); 16] = [
    (Kind::Kill, 3),
    (Kind::Stop, 2),
    (Kind::Restart, 1),
    (Kind::Wipe, 1),
    (Kind::Partition, 2),
    (Kind::OneWay, 2),
    (Kind::Loss, 1),
    (Kind::Delay, 1),
    (Kind::Narrow, 1),
    (Kind::Cut, 1),
    (Kind::SyncError, 1),
    (Kind::SyncDelay, 1),
    (Kind::FullDisk, 1),
    (Kind::KillMajority, 1),
    (Kind::StopMajority, 1),
    (Kind::Scatter, 1),
];

/// What a schedule is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How long it lasts.
    pub length: Duration,
    /// How many nodes there are.
    pub nodes: u64,
    /// The kinds of faults.
    pub kinds: BTreeSet<Kind>,
}

/// A fault at its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, from the beginning of the load.
    pub at: Duration,
    /// How long it lasts.
    pub length: Duration,
    /// What it is.
    pub fault: Fault,
}

impl Planned {
    /// When it ends.
    pub fn end(&self) -> Duration {
        self.at + self.length
    }
}

/// Faults in the order of their beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The faults.
    pub faults: Vec<Planned>,
}

impl Schedule {
    /// Draws the schedule of `plan`.
    pub fn draw(plan: &Plan) -> Schedule {
        let mut drawer = Drawer {
            random: SmallRng::seed_from_u64(plan.seed),
            plan,
            bag: Vec::new(),
            minority: (plan.nodes as usize - 1) / 2,
        };
        let mut faults = Vec::new();
        let mut at = CALM;
        while let Some(kind) = drawer.kind() {
            let first = drawer.fault(at, kind, &BTreeSet::new());
            let end = first.end();
            if end > plan.length {
                break;
            }
            let second = drawer.companion(&first);
            let last = second.as_ref().map_or(end, |second| second.end().max(end));
            faults.push(first);
            faults.extend(second.filter(|second| second.end() <= plan.length));
            at = last + drawer.milliseconds(500, 3_500);
        }
        Schedule { faults }
    }

    /// How many of each kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.faults.iter().filter(|planned| planned.fault.kind == kind).count()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for planned in &self.faults {
            writeln!(
                f,
                "  {:>8.3} s to {:>8.3} s  {}",
                planned.at.as_secs_f64(),
                planned.end().as_secs_f64(),
                planned.fault
            )?;
        }
        Ok(())
    }
}

struct Drawer<'a> {
    random: SmallRng,
    plan: &'a Plan,
    bag: Vec<Kind>,
    /// As many nodes may be hit at a time.
    minority: usize,
}

impl Drawer<'_> {
    /// The next kind; `None` if there are none at all.
    fn kind(&mut self) -> Option<Kind> {
        if self.bag.is_empty() {
            let kinds = BAG.iter().filter(|(kind, _)| self.plan.kinds.contains(kind));
            self.bag = kinds.flat_map(|(kind, count)| [*kind].repeat(*count)).collect();
            self.bag.shuffle(&mut self.random);
        }
        self.bag.pop()
    }

    fn milliseconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.random.random_range(from..=to))
    }

    /// A fault at `at` that spares the nodes in `spared`.
    fn fault(&mut self, at: Duration, kind: Kind, spared: &BTreeSet<u64>) -> Planned {
        let measure = self.measure(kind);
        let victims = self.victims(kind, spared);
        let (shortest, longest) = match kind {
            Kind::Restart => (300, 1_500),
            Kind::Wipe => (3_000, 6_000),
            Kind::KillMajority | Kind::StopMajority | Kind::Scatter => (2_500, 5_000),
            Kind::FullDisk => (4_000, 7_000),
            // Long enough now and then that the others cannot keep all log.
            Kind::Kill if self.random.random_bool(0.2) => (10_000, 20_000),
            // Connections notice after five seconds that they hear nothing: both sides of that.
            Kind::Partition | Kind::OneWay | Kind::Stop => (700, 8_000),
            _ => (1_000, 6_000),
        };
        let length = self.milliseconds(shortest, longest);
        Planned { at, length, fault: Fault { kind, victims, measure } }
    }

    /// Sometimes a second fault while `first` lasts.
    fn companion(&mut self, first: &Planned) -> Option<Planned> {
        if first.fault.kind.takes_majority() || !self.random.random_bool(0.35) {
            return None;
        }
        let Victims::Nodes(hit) = &first.fault.victims else { return None };
        let at = first.at + first.length.mul_f64(self.random.random_range(0.1..0.9));
        // Another node, if the majority can spare it; else bad weather for all.
        let others = [Kind::Kill, Kind::Stop, Kind::Partition, Kind::OneWay, Kind::Restart];
        let kinds: &[Kind] = if hit.len() < self.minority { &others } else { &[Kind::Delay] };
        let kinds: Vec<Kind> =
            kinds.iter().copied().filter(|kind| self.plan.kinds.contains(kind)).collect();
        let kind = *kinds.choose(&mut self.random)?;
        if kind == first.fault.kind {
            return None;
        }
        let mut second = self.fault(at, kind, hit);
        if let Victims::Nodes(nodes) = &mut second.fault.victims {
            while hit.len() + nodes.len() > self.minority {
                nodes.pop_first();
            }
        }
        Some(second)
    }

    fn measure(&mut self, kind: Kind) -> Measure {
        match kind {
            Kind::OneWay if self.random.random_bool(0.5) => Measure::Mute,
            Kind::OneWay => Measure::Deaf,
            Kind::Loss => Measure::PerMille(self.random.random_range(20..=300)),
            Kind::Delay => Measure::Milliseconds(self.random.random_range(5..=60)),
            Kind::Narrow => Measure::BytesPerSecond(self.random.random_range(16..=256) << 10),
            Kind::SyncDelay => Measure::Milliseconds(self.random.random_range(100..=2_000)),
            _ => Measure::None,
        }
    }

    fn victims(&mut self, kind: Kind, spared: &BTreeSet<u64>) -> Victims {
        let mut nodes: Vec<u64> =
            (1..=self.plan.nodes).filter(|node| !spared.contains(node)).collect();
        nodes.shuffle(&mut self.random);
        let several = self.random.random_range(1..=self.minority.max(1));
        let is_busiest = self.random.random_bool(0.5);
        let count = match kind {
            Kind::Delay | Kind::Scatter => return Victims::All,
            // The one with the small disk.
            Kind::FullDisk => return Victims::Nodes(BTreeSet::from([self.plan.nodes])),
            Kind::Kill | Kind::Stop | Kind::Partition | Kind::OneWay | Kind::SyncDelay
                if spared.is_empty() && is_busiest =>
            {
                return Victims::Busiest;
            }
            Kind::KillMajority | Kind::StopMajority => {
                self.random.random_range(self.minority + 1..=self.plan.nodes as usize)
            }
            Kind::Kill | Kind::Stop | Kind::Partition => several,
            _ => 1,
        };
        Victims::Nodes(nodes.into_iter().take(count).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64, nodes: u64) -> Plan {
        let kinds = Kind::ALL.into_iter().collect();
        Plan { seed, length: Duration::from_secs(300), nodes, kinds }
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_another() {
        assert_eq!(Schedule::draw(&plan(7, 3)), Schedule::draw(&plan(7, 3)));
        assert_ne!(Schedule::draw(&plan(7, 3)), Schedule::draw(&plan(8, 3)));
    }

    #[test]
    fn every_kind_has_its_turn_and_the_time_is_used() {
        for nodes in [3, 5] {
            let schedule = Schedule::draw(&plan(1, nodes));
            let rare: Vec<Kind> =
                Kind::ALL.into_iter().filter(|kind| schedule.count(*kind) == 0).collect();
            assert!(rare.is_empty(), "{nodes} nodes: never {rare:?} in\n{schedule}");
            assert!(schedule.faults.len() > 30, "{schedule}");
            let last = schedule.faults.iter().map(Planned::end).max().unwrap();
            assert!(last <= Duration::from_secs(300) && last > Duration::from_secs(280));
        }
    }

    #[test]
    fn a_majority_stays_untouched_but_where_it_is_meant_not_to() {
        for seed in 0..200 {
            for nodes in [3, 5] {
                let schedule = Schedule::draw(&plan(seed, nodes));
                for planned in &schedule.faults {
                    let at_once = schedule
                        .faults
                        .iter()
                        .filter(|other| other.at <= planned.at && planned.at < other.end());
                    let mut hit = BTreeSet::new();
                    let mut others = 0;
                    for other in at_once {
                        others += 1;
                        match &other.fault.victims {
                            Victims::Nodes(nodes) => hit.extend(nodes.iter().copied()),
                            Victims::Busiest => hit.extend([99]),
                            Victims::All => {}
                        }
                    }
                    if planned.fault.kind.takes_majority() {
                        assert_eq!(others, 1, "seed {seed}: they come alone:\n{schedule}");
                    } else {
                        assert!(
                            hit.len() <= (nodes as usize - 1) / 2,
                            "seed {seed}: {hit:?} of {nodes} hit at {:?}:\n{schedule}",
                            planned.at
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn only_the_kinds_that_are_wanted_come() {
        let kinds = BTreeSet::from([Kind::Kill, Kind::Scatter]);
        let schedule = Schedule::draw(&Plan { kinds: kinds.clone(), ..plan(3, 3) });
        assert!(schedule.faults.iter().all(|planned| kinds.contains(&planned.fault.kind)));
        let none = Schedule::draw(&Plan { kinds: BTreeSet::new(), ..plan(3, 3) });
        assert_eq!(none.faults, []);
    }
}
