//! What was promised, held against what clients and nodes said.
//!
//! * While no majority could agree, nobody was acknowledged or read anything that was asked then.
//! * In the end all nodes tell the same of every key.
//! * Counters hold what was acknowledged and at most what is in doubt besides; no two
//!   acknowledgements told the same sum.
//!
//! That every key's history is linearizable, the final reads included, is judged from the file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::answers::{Answer, Came};
use crate::cluster::Cluster;
use crate::connection::{Connection, ReadResult};
use crate::gaps::{Gap, longest_gap};
use crate::history::{Called, Recorder, Returned};

use super::clients::{Increments, Seen};
use super::conductor::Happened;

/// What was on its way when the majority was lost may still be answered this long: a lease that was
/// promised before ends, bytes that had left arrive.
pub const MAJORITY_LOST_GRACE: Duration = Duration::from_secs(1);

/// How long one read may take in the end.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long reading a key may take in the end, with all tries.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const REFUSAL_PAUSE: Duration = Duration::from_millis(20);
/// Keys that are asked for at once.
const PIPELINE: usize = 32;

/// Who is named as the client of final reads: this and the node.
const READER: u64 = 1_000_000;

/// What a key held in the end, by node.
pub type Contents = BTreeMap<Vec<u8>, BTreeMap<u64, Option<Vec<u8>>>>;

/// Answers to what was asked while there was no majority.
pub fn answered_without_majority(
    happened: &[Happened],
    seen: &[Seen],
    violations: &mut Vec<String>,
) -> u64 {
    let mut windows = 0;
    for happened in happened {
        let fault = &happened.planned.fault;
        if !fault.kind.takes_majority() || happened.skipped.is_some() {
            continue;
        }
        let from = happened.begun + MAJORITY_LOST_GRACE;
        if from >= happened.ended {
            continue;
        }
        windows += 1;
        let answers = seen.iter().flat_map(|seen| &seen.answers);
        let wrong = answers.filter(|(_, answer)| {
            let asked = answer.at.checked_sub(answer.took).unwrap_or(answer.at);
            let answered = matches!(answer.came, Came::Read | Came::Written);
            answered && asked >= from && answer.at < happened.ended
        });
        let wrong = wrong.count();
        if wrong > 0 {
            violations.push(format!(
                "{wrong} requests were answered although there was no majority ({fault}, at {:.3} s)",
                happened.planned.at.as_secs_f64()
            ));
        }
    }
    windows
}

/// Reads every key through every node, and records it.
///
/// # Errors
///
/// If a key cannot be read in time.
pub async fn read_everywhere(
    cluster: &Cluster,
    keys: &[Vec<u8>],
    recorder: &Recorder,
) -> anyhow::Result<Contents> {
    let mut contents = Contents::new();
    for node in cluster.nodes() {
        let address = cluster.resp_address(node);
        let read = read_all(node, address, keys, recorder).await;
        for (key, value) in read.with_context(|| format!("reading through node {node}"))? {
            contents.entry(key).or_default().insert(node, value);
        }
    }
    Ok(contents)
}

async fn read_all(
    node: u64,
    address: SocketAddr,
    keys: &[Vec<u8>],
    recorder: &Recorder,
) -> anyhow::Result<Vec<(Vec<u8>, Option<Vec<u8>>)>> {
    let mut found = Vec::with_capacity(keys.len());
    let mut left: Vec<&Vec<u8>> = keys.iter().collect();
    let deadline = Instant::now() + READ_TIMEOUT;
    let mut connection: Option<Connection> = None;
    let mut problem = "not connected".to_owned();
    while !left.is_empty() {
        if Instant::now() >= deadline {
            bail!("{} keys cannot be read: {problem}", left.len());
        }
        let Some(open) = &mut connection else {
            match Connection::open(address, REPLY_TIMEOUT).await {
                Ok(open) => connection = Some(open),
                Err(error) => {
                    problem = error.to_string();
                    tokio::time::sleep(REFUSAL_PAUSE).await;
                }
            }
            continue;
        };
        let asked: Vec<&Vec<u8>> = left.drain(..left.len().min(PIPELINE)).collect();
        let tokens: Vec<_> =
            asked.iter().map(|key| recorder.begin(READER + node, key, Called::Get)).collect();
        let words: Vec<&[u8]> = asked.iter().map(|key| &key[..]).collect();
        let results = match open.get_all(&words).await {
            Ok(results) => results,
            Err(error) => vec![ReadResult::Lost(format!("{error:#}")); asked.len()],
        };
        for ((key, token), result) in asked.into_iter().zip(tokens).zip(results) {
            let end = |returned| token.into_iter().for_each(|token| recorder.end(token, returned));
            match result {
                ReadResult::Value(value) => {
                    end(Returned::Done(value.as_deref()));
                    found.push((key.clone(), value));
                }
                ReadResult::Refused(why) | ReadResult::Lost(why) => {
                    end(Returned::NoEffect);
                    problem = why;
                    left.push(key);
                }
            }
        }
        if open.is_broken() {
            connection = None;
        }
    }
    Ok(found)
}

/// Holds what the nodes tell in the end against each other.
pub fn compare(contents: &Contents, violations: &mut Vec<String>) {
    for (key, told) in contents {
        let different: BTreeSet<&Option<Vec<u8>>> = told.values().collect();
        if different.len() > 1 {
            let told: Vec<String> = told
                .iter()
                .map(|(node, value)| format!("node {node} {}", excerpt(value)))
                .collect();
            violations.push(format!("key {}: {}", key.escape_ascii(), told.join(", ")));
        }
    }
}

fn excerpt(value: &Option<Vec<u8>>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(value) => value[..value.len().min(24)].escape_ascii().to_string(),
    }
}

/// What counters came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many there are.
    pub counters: u64,
    /// Increments that were acknowledged.
    pub acknowledged: u64,
    /// Increments in doubt.
    pub unknown: u64,
    /// What the counters hold together.
    pub found: i64,
}

/// Holds what counters tell in the end against what was acknowledged.
pub fn count(contents: &Contents, seen: &[Seen], violations: &mut Vec<String>) -> Counted {
    let mut counters: BTreeMap<&[u8], Increments> = BTreeMap::new();
    for (key, known) in seen.iter().flat_map(|seen| &seen.increments) {
        let all = counters.entry(key).or_default();
        all.sums.extend(&known.sums);
        all.unknown += known.unknown;
    }
    let mut counted = Counted::default();
    for (key, Increments { sums, unknown }) in counters {
        let told = contents.get(key).and_then(|told| told.values().next()).and_then(Option::as_ref);
        let text = told.map_or("0", |value| std::str::from_utf8(value).unwrap_or("no text"));
        let key = key.escape_ascii();
        let Ok(found) = text.parse::<i64>() else {
            violations.push(format!("counter {key} holds {text:?}, which is no number"));
            continue;
        };
        let excess = found - sums.len() as i64;
        if excess < 0 {
            violations.push(format!("counter {key}: {} acknowledged are missing", -excess));
        }
        if excess > unknown as i64 {
            let doubled = excess - unknown as i64;
            violations.push(format!("counter {key}: at least {doubled} counted twice"));
        }
        let different: BTreeSet<i64> = sums.iter().copied().collect();
        if different.len() < sums.len() {
            let repeated = sums.len() - different.len();
            violations.push(format!("counter {key}: {repeated} sums were told twice"));
        }
        counted.counters += 1;
        counted.acknowledged += sums.len() as u64;
        counted.unknown += unknown;
        counted.found += found;
    }
    counted
}

/// How long a shard took no write.
#[derive(Clone, Debug)]
pub struct ShardGap {
    /// Which shard.
    pub shard: u32,
    /// How long.
    pub gap: Gap,
}

/// The longest time in which some shard acknowledged no write, from `from` to `to`.
pub fn longest_shard_gap(seen: &[Seen], shards: u32, from: Instant, to: Instant) -> ShardGap {
    let mut moments: Vec<Vec<Instant>> = vec![Vec::new(); shards as usize];
    for (shard, answer) in seen.iter().flat_map(|seen| &seen.answers) {
        if answer.came == Came::Written && (from..=to).contains(&answer.at) {
            moments[*shard as usize].push(answer.at);
        }
    }
    let gaps = (0..shards).zip(moments).map(|(shard, moments)| {
        let gap = longest_gap(moments, from, to);
        ShardGap { shard, gap }
    });
    gaps.max_by_key(|gap| gap.gap.length).unwrap_or(ShardGap { shard: 0, gap: Gap::NONE })
}

/// All answers.
pub fn answers(seen: &[Seen]) -> impl Iterator<Item = &Answer> {
    seen.iter().flat_map(|seen| &seen.answers).map(|(_, answer)| answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::fault::{Fault, Kind, Measure, Victims};
    use crate::chaos::schedule::Planned;

    fn counted(sums: &[i64], unknown: u64, found: &str) -> Vec<String> {
        let known = Increments { sums: sums.to_vec(), unknown };
        let increments = BTreeMap::from([(b"n".to_vec(), known)]);
        let seen = Seen { increments, ..Seen::default() };
        let told = BTreeMap::from([(1, Some(found.as_bytes().to_vec()))]);
        let mut violations = Vec::new();
        count(&BTreeMap::from([(b"n".to_vec(), told)]), &[seen], &mut violations);
        violations
    }

    #[test]
    fn counters_that_lose_or_double_are_seen() {
        assert!(counted(&[1, 2], 0, "2").is_empty());
        assert!(counted(&[1, 3], 1, "3").is_empty(), "what was in doubt happened");
        assert!(counted(&[1, 2], 1, "2").is_empty(), "what was in doubt did not happen");
        assert!(counted(&[1, 2, 3], 0, "2")[0].contains("missing"));
        assert!(counted(&[1, 2], 0, "3")[0].contains("twice"));
        assert!(counted(&[1, 1], 0, "2")[0].contains("told twice"));
        assert!(counted(&[1], 0, "one")[0].contains("no number"));
    }

    #[test]
    fn nodes_that_disagree_are_seen() {
        let told = |one: &[u8], other: Option<&[u8]>| {
            let nodes = BTreeMap::from([(1, Some(one.to_vec())), (2, other.map(<[u8]>::to_vec))]);
            let mut violations = Vec::new();
            compare(&BTreeMap::from([(b"k".to_vec(), nodes)]), &mut violations);
            violations.len()
        };
        assert_eq!(told(b"a", Some(b"a")), 0);
        assert_eq!(told(b"a", Some(b"b")), 1);
        assert_eq!(told(b"a", None), 1);
    }

    #[test]
    fn answers_without_a_majority_are_seen_and_those_around_it_are_not() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let fault = Fault { kind: Kind::Scatter, victims: Victims::All, measure: Measure::None };
        let planned = Planned { at: Duration::ZERO, length: Duration::from_secs(5), fault };
        let (victims, skipped) = (BTreeSet::new(), None);
        let happened = Happened { planned, victims, begun, ended: at(5_000), skipped };
        let wrong = |asked: u64, answered: u64, came: Came| {
            let took = Duration::from_millis(answered - asked);
            let answer = Answer { at: at(answered), took, came };
            let seen = Seen { answers: vec![(0, answer)], ..Seen::default() };
            let mut violations = Vec::new();
            let windows = answered_without_majority(
                std::slice::from_ref(&happened),
                &[seen],
                &mut violations,
            );
            assert_eq!(windows, 1);
            violations.len()
        };
        assert_eq!(wrong(2_000, 2_100, Came::Written), 1);
        assert_eq!(wrong(2_000, 2_100, Came::Read), 1);
        assert_eq!(wrong(2_000, 2_100, Came::NoEffect), 0);
        assert_eq!(wrong(500, 2_000, Came::Written), 0, "asked while the lease may last");
        assert_eq!(wrong(4_000, 5_100, Came::Written), 0, "answered after the end");
    }
}
