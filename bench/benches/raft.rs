//! The Raft core: one proposal through three replicas until all have applied it, with disks and a
//! network that take no time.
//!
//! With a thousand groups the state of each is cold when its turn comes.

use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flotilla_shard::raft::{Event, Limits, Options, Raft, ReplicaId, Restored, Role, Time};

const VALUE_BYTES: usize = 256;
/// A group's log is compacted every so many proposals.
const COMPACTED_EVERY: u64 = 256;

/// Three replicas; the first leads.
struct Group {
    replicas: Vec<Raft>,
    applied: u64,
}

impl Group {
    fn new(seed: u64) -> Group {
        let replica = |id: u64| {
            let options = Options {
                id: ReplicaId(id),
                voters: [1, 2, 3].map(ReplicaId).to_vec(),
                election_timeout: Duration::from_secs(1),
                heartbeat_interval: Duration::from_millis(100),
                seed: 3 * seed + id,
                suspect: false,
                pre_vote: true,
                check_quorum: true,
                disk_stall_max: Duration::from_secs(1),
                may_lead: true,
                leases: None,
                limits: Limits::default(),
            };
            Raft::new(options, Restored::default(), NOW)
        };
        let mut group = Group { replicas: (1..=3).map(replica).collect(), applied: 0 };
        group.replicas[0].step(NOW, Event::Campaign);
        group.settle();
        assert_eq!(group.replicas[0].role(), Role::Leader, "nobody else campaigns");
        group
    }

    fn propose(&mut self, value: &Bytes) {
        let before = self.applied;
        let proposed = self.replicas[0].propose(NOW, value.clone()).expect("it leads");
        self.settle();
        assert_eq!(self.applied, before + 3, "each replica applies it");
        if proposed.index.0.is_multiple_of(COMPACTED_EVERY) {
            for replica in &mut self.replicas {
                replica.step(NOW, Event::Compact(proposed.index));
            }
        }
    }

    /// Until nobody has anything left to do.
    fn settle(&mut self) {
        let mut at = 0;
        let mut idle = 0;
        while idle < self.replicas.len() {
            let ready = self.replicas[at].ready(NOW);
            idle = if ready.is_empty() { idle + 1 } else { 0 };
            self.applied += ready.apply.len() as u64;
            if let Some(persist) = ready.persist {
                self.replicas[at].step(NOW, Event::Persisted(persist.ticket));
            }
            let from = ReplicaId(at as u64 + 1);
            for envelope in ready.messages {
                let to = &mut self.replicas[envelope.to.0 as usize - 1];
                to.step(NOW, Event::Receive { from, message: envelope.message });
            }
            if !ready.more {
                at = (at + 1) % self.replicas.len();
            }
        }
    }
}

const NOW: Time = Time(1_000_000);

fn step(criterion: &mut Criterion) {
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let mut benchmarks = criterion.benchmark_group("raft proposal");
    benchmarks.throughput(Throughput::Elements(1));
    for count in [1, 1_000] {
        let mut groups: Vec<Group> = (0..count).map(Group::new).collect();
        let mut next = 0;
        benchmarks.bench_function(BenchmarkId::new("groups", count), |bencher| {
            bencher.iter(|| {
                groups[next].propose(&value);
                next = (next + 1) % groups.len();
            });
        });
    }
    benchmarks.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = step
}
criterion_main!(benches);
