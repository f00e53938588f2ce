//! The faults: what they are called, whom they hit, and what stays possible meanwhile.
//!
//! What is absent: when they happen, which is the schedule's, and how they are done, which is the
//! conductor's.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

use crate::proxy::Weather;

/// What can happen to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// `kill -9`; the node is started again at the end.
    Kill,
    /// SIGSTOP, then SIGCONT.
    Stop,
    /// SIGTERM, and the node is started again at the end.
    Restart,
    /// Killed, and started with an empty data directory; it must refuse. Then it gets its own back.
    Wipe,
    /// Some nodes and the others cannot hear each other.
    Partition,
    /// A node is heard by nobody, or hears nobody.
    OneWay,
    /// Some of what is sent between a node and the others is lost.
    Loss,
    /// Everything is late, between all nodes.
    Delay,
    /// Little passes between a node and the others.
    Narrow,
    /// Connections between a node and the others are closed again and again.
    Cut,
    /// Syncs of a node fail with EIO.
    SyncError,
    /// Syncs of a node take long.
    SyncDelay,
    /// The disk of a node is full.
    FullDisk,
    /// A majority is killed.
    KillMajority,
    /// A majority stands still.
    StopMajority,
    /// Every node is cut off from every other one.
    Scatter,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 16] = [
        Kind::Kill,
        Kind::Stop,
        Kind::Restart,
        Kind::Wipe,
        Kind::Partition,
        Kind::OneWay,
        Kind::Loss,
        Kind::Delay,
        Kind::Narrow,
        Kind::Cut,
        Kind::SyncError,
        Kind::SyncDelay,
        Kind::FullDisk,
        Kind::KillMajority,
        Kind::StopMajority,
        Kind::Scatter,
    ];

    /// True if nobody may acknowledge anything meanwhile.
    pub fn takes_majority(self) -> bool {
        matches!(self, Kind::KillMajority | Kind::StopMajority | Kind::Scatter)
    }

    /// True if it happens to what lies between the nodes.
    pub fn is_of_network(self) -> bool {
        use Kind::{Cut, Delay, Loss, Narrow, OneWay, Partition, Scatter};
        matches!(self, Partition | OneWay | Loss | Delay | Narrow | Cut | Scatter)
    }

    /// Its name on command lines and in reports.
    pub fn name(self) -> String {
        self.to_possible_value().expect("no kind is skipped").get_name().to_owned()
    }
}

/// Who is hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Victims {
    /// These nodes.
    Nodes(BTreeSet<u64>),
    /// The node that leads most shards when it happens.
    Busiest,
    /// All nodes.
    All,
}

impl fmt::Display for Victims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Victims::Busiest => f.write_str("the node that leads most"),
            Victims::All => f.write_str("all nodes"),
            Victims::Nodes(nodes) => {
                let names: Vec<String> = nodes.iter().map(u64::to_string).collect();
                let word = if nodes.len() == 1 { "node" } else { "nodes" };
                write!(f, "{word} {}", names.join(" and "))
            }
        }
    }
}

/// How bad it is, where that can be said in a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Nothing to say.
    None,
    /// Heard by nobody.
    Mute,
    /// Hearing nobody.
    Deaf,
    /// This many of a thousand.
    PerMille(u16),
    /// This long.
    Milliseconds(u64),
    /// This much.
    BytesPerSecond(u64),
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Measure::None => Ok(()),
            Measure::Mute => f.write_str(", heard by nobody"),
            Measure::Deaf => f.write_str(", hearing nobody"),
            Measure::PerMille(lost) => write!(f, ", {lost} of a thousand lost"),
            Measure::Milliseconds(ms) => write!(f, ", {ms} ms"),
            Measure::BytesPerSecond(bytes) => write!(f, ", {} KiB/s", bytes >> 10),
        }
    }
}

/// One thing that happens, for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// To whom.
    pub victims: Victims,
    /// How bad.
    pub measure: Measure,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}{}", self.kind.name(), self.victims, self.measure)
    }
}

impl Fault {
    /// What this makes of the weather from `from` to `to` where `victims` are hit.
    pub fn weather(&self, victims: &BTreeSet<u64>, from: u64, to: u64) -> Weather {
        let touches = victims.contains(&from) != victims.contains(&to);
        let mut weather = Weather::FAIR;
        match (self.kind, self.measure) {
            (Kind::Partition, _) => weather.held = touches,
            (Kind::Scatter, _) => weather.held = true,
            (Kind::OneWay, Measure::Mute) => weather.held = victims.contains(&from),
            (Kind::OneWay, Measure::Deaf) => weather.held = victims.contains(&to),
            (Kind::Loss, Measure::PerMille(lost)) if touches => weather.lost_per_mille = lost,
            (Kind::Delay, Measure::Milliseconds(ms)) => weather.delay = Duration::from_millis(ms),
            (Kind::Narrow, Measure::BytesPerSecond(bytes)) if touches => {
                weather.bytes_per_second = Some(bytes);
            }
            _ => {}
        }
        weather
    }
}

/// What two kinds of weather are together.
pub fn worse(one: Weather, other: Weather) -> Weather {
    Weather {
        held: one.held || other.held,
        lost_per_mille: one.lost_per_mille.max(other.lost_per_mille),
        delay: one.delay.max(other.delay),
        bytes_per_second: match (one.bytes_per_second, other.bytes_per_second) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weather(kind: Kind, measure: Measure, from: u64, to: u64) -> Weather {
        let victims = BTreeSet::from([1]);
        let fault = Fault { kind, victims: Victims::Nodes(victims.clone()), measure };
        fault.weather(&victims, from, to)
    }

    #[test]
    fn partitions_have_sides_and_directions() {
        let held = |kind, measure, from, to| weather(kind, measure, from, to).held;
        assert!(held(Kind::Partition, Measure::None, 1, 2));
        assert!(held(Kind::Partition, Measure::None, 2, 1));
        assert!(!held(Kind::Partition, Measure::None, 2, 3));
        assert!(
            held(Kind::OneWay, Measure::Mute, 1, 2) && !held(Kind::OneWay, Measure::Mute, 2, 1)
        );
        assert!(
            held(Kind::OneWay, Measure::Deaf, 2, 1) && !held(Kind::OneWay, Measure::Deaf, 1, 2)
        );
        assert!(held(Kind::Scatter, Measure::None, 2, 3));
        assert_eq!(weather(Kind::Kill, Measure::None, 1, 2), Weather::FAIR);
    }

    #[test]
    fn the_worse_weather_wins() {
        let lossy = weather(Kind::Loss, Measure::PerMille(50), 1, 2);
        let narrow = weather(Kind::Narrow, Measure::BytesPerSecond(1000), 2, 1);
        let both = worse(lossy, narrow);
        assert_eq!((both.lost_per_mille, both.bytes_per_second), (50, Some(1000)));
        assert!(worse(both, weather(Kind::Scatter, Measure::None, 1, 2)).held);
    }
}
