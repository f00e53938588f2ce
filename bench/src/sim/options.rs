//! What a life is like: everything that differs between two lives follows from the seed, and is
//! printed.
//!
//! What is absent: when what happens (`faults`).

use std::fmt;
use std::time::Duration;

use super::random::Random;

/// How often faults of each kind come, in a thousand chances for a fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRates {
    /// A node's process dies.
    pub kill: u64,
    /// A node's power fails.
    pub power_loss: u64,
    /// A node's power fails in the middle of what it does to its disk.
    pub power_loss_in_io: u64,
    /// A node dies between two of its effects.
    pub kill_in_effects: u64,
    /// All nodes lose power at once.
    pub power_loss_of_all: u64,
    /// A sync fails.
    pub failed_sync: u64,
    /// A disk is full for a while.
    pub full_disk: u64,
    /// A disk takes seconds for a sync.
    pub stall: u64,
    /// A bit flips on a disk that may be damaged.
    pub bit_rot: u64,
    /// A node stands still.
    pub pause: u64,
    /// A node is cut off from all others.
    pub isolation: u64,
    /// The nodes fall into two parts.
    pub partition: u64,
    /// One direction between two nodes is dead.
    pub one_way: u64,
    /// A link becomes slow.
    pub slow_link: u64,
    /// A clock changes its speed.
    pub drift: u64,
    /// A wall clock is set.
    pub jump: u64,
    /// A leader is asked to hand over.
    pub transfer: u64,
}

/// What a life is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything else follows from it.
    pub seed: u64,
    /// How many nodes.
    pub nodes: u64,
    /// How many groups.
    pub groups: u64,
    /// How many replicas each has.
    pub replicas: u64,
    /// How many clients work at a time.
    pub clients: u64,
    /// How many keys hold values, and how many counters there are.
    pub keys: u64,
    /// Bytes of the longest values.
    pub value_bytes_max: u64,
    /// For how long faults happen.
    pub life: Duration,
    /// How long a client pauses between two operations, at most.
    pub think_max: Duration,
    /// How long a client waits for an answer.
    pub patience: Duration,
    /// How long it is until the next chance for a fault, at most.
    pub fault_interval_max: Duration,
    /// How often which fault comes.
    pub faults: FaultRates,
    /// See `flotilla_shard::raft::Options`.
    pub election_timeout: Duration,
    /// See `flotilla_shard::raft::Options`.
    pub heartbeat_interval: Duration,
    /// See `flotilla_shard::raft::Options`.
    pub disk_stall_max: Duration,
    /// Leaders read by leases.
    pub lease_reads: bool,
    /// How much faster or slower clocks may run.
    pub drift_max_ppm: u32,
    /// How long mail waits for a lane, at most.
    pub lane_delay_max: Duration,
    /// How long a sync takes, at most.
    pub sync_max: Duration,
    /// How long a read of the disk takes, at most.
    pub read_max: Duration,
    /// How long messages travel.
    pub latency: (Duration, Duration),
    /// In a thousand Raft messages, so many are lost.
    pub lost: u64,
    /// So many arrive twice.
    pub doubled: u64,
    /// So many are overtaken.
    pub reordered: u64,
    /// How long a broken connection goes unnoticed, at most.
    pub notice_max: Duration,
    /// Bytes of a segment of the journal.
    pub segment_bytes: u64,
    /// Bytes of memtables that speak for a checkpoint.
    pub memtable_bytes: u64,
    /// A checkpoint is made at the latest after this.
    pub checkpoint_age: Duration,
    /// Bytes of log that each replica keeps for others.
    pub log_share_bytes: u64,
    /// Bytes of log that each replica keeps in memory.
    pub log_cache_bytes: u64,
    /// Merged memtables stay readable up to this.
    pub merged_bytes: u64,
    /// Entries that must be unneeded before a log is cut.
    pub compact_entries_min: u64,
    /// Bytes of a chunk of a snapshot.
    pub chunk_bytes: usize,
}

impl Options {
    /// The options of `seed`. `life`: as long as that, whatever the seed says.
    pub fn of(seed: u64, life: Option<Duration>) -> Options {
        let mut random = Random::new(seed);
        let ms = Duration::from_millis;
        let nodes = random.pick(&[3, 3, 3, 4, 5, 5, 6, 7]);
        let replicas = if nodes >= 5 { random.pick(&[3, 5]) } else { 3 };
        let heartbeat_interval = ms(random.pick(&[40, 50, 80, 100]));
        let chosen = Duration::from_secs(random.between(60, 180));
        let clients = random.between(3, 12);
        Options {
            seed,
            nodes,
            groups: random.between(1, 8),
            replicas,
            clients,
            keys: clients * random.between(1, 8),
            value_bytes_max: random.pick(&[40, 40, 400, 4000]),
            life: life.unwrap_or(chosen),
            think_max: ms(random.pick(&[20, 50, 100, 200, 400])),
            patience: ms(random.pick(&[500, 1000, 2000, 5000])),
            fault_interval_max: ms(random.pick(&[400, 1000, 2000, 4000, 8000])),
            faults: FaultRates::of(&mut random),
            election_timeout: heartbeat_interval * random.between(4, 10) as u32,
            heartbeat_interval,
            disk_stall_max: ms(random.pick(&[200, 500, 1000])),
            lease_reads: random.permille(700),
            drift_max_ppm: random.pick(&[500, 10_000, 10_000, 100_000]),
            lane_delay_max: Duration::from_micros(random.pick(&[1, 100, 1000, 5000])),
            sync_max: ms(random.pick(&[1, 5, 20, 50])),
            read_max: ms(random.pick(&[1, 2, 10])),
            latency: (Duration::from_micros(50), ms(random.pick(&[1, 2, 10, 40]))),
            lost: random.pick(&[0, 0, 5, 20, 100]),
            doubled: random.pick(&[0, 0, 5, 50]),
            reordered: random.pick(&[0, 0, 10, 100]),
            notice_max: ms(random.pick(&[10, 500, 2000])),
            segment_bytes: random.pick(&[64 << 10, 64 << 10, 128 << 10, 256 << 10]),
            memtable_bytes: random.pick(&[4 << 10, 16 << 10, 64 << 10, 256 << 10]),
            checkpoint_age: ms(random.pick(&[1000, 3000, 10_000, 60_000])),
            log_share_bytes: random.pick(&[0, 2 << 10, 16 << 10, 256 << 10]),
            log_cache_bytes: random.pick(&[0, 1 << 10, 16 << 10, 1 << 20]),
            merged_bytes: random.pick(&[0, 0, 8 << 10, 1 << 20]),
            compact_entries_min: random.pick(&[1, 1, 10, 100]),
            chunk_bytes: random.pick(&[200, 1000, 16 << 10]),
        }
    }

    /// How long after the faults have healed everything must be well: elections, repairs by
    /// snapshots, and requests that wait for their deadline.
    pub fn liveness_max(&self) -> Duration {
        self.patience + self.election_timeout * 20 + Duration::from_secs(60)
    }

    /// How often a node looks at its clock, as a running one does.
    pub fn tick_interval(&self) -> Duration {
        let range = (Duration::from_millis(2), Duration::from_millis(20));
        (self.heartbeat_interval / 5).clamp(range.0, range.1)
    }
}

impl FaultRates {
    /// Some kinds of faults are left out, so that others show what they do alone.
    fn of(random: &mut Random) -> FaultRates {
        let everything = random.permille(300);
        let mut rate = |high| match everything || random.permille(600) {
            true => random.between(1, high),
            false => 0,
        };
        FaultRates {
            kill: rate(100),
            power_loss: rate(100),
            power_loss_in_io: rate(200),
            kill_in_effects: rate(200),
            power_loss_of_all: rate(20),
            failed_sync: rate(60),
            full_disk: rate(40),
            stall: rate(60),
            bit_rot: rate(30),
            pause: rate(80),
            isolation: rate(100),
            partition: rate(100),
            one_way: rate(100),
            slow_link: rate(60),
            drift: rate(60),
            jump: rate(40),
            transfer: rate(80),
        }
    }

    /// The rates with their names, in a fixed order.
    pub fn named(&self) -> [(&'static str, u64); 17] {
        [
            ("kill", self.kill),
            ("power_loss", self.power_loss),
            ("power_loss_in_io", self.power_loss_in_io),
            ("kill_in_effects", self.kill_in_effects),
            ("power_loss_of_all", self.power_loss_of_all),
            ("failed_sync", self.failed_sync),
            ("full_disk", self.full_disk),
            ("stall", self.stall),
            ("bit_rot", self.bit_rot),
            ("pause", self.pause),
            ("isolation", self.isolation),
            ("partition", self.partition),
            ("one_way", self.one_way),
            ("slow_link", self.slow_link),
            ("drift", self.drift),
            ("jump", self.jump),
            ("transfer", self.transfer),
        ]
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { nodes, groups, replicas, clients, keys, .. } = self;
        writeln!(
            f,
            "nodes {nodes}, groups {groups}, replicas {replicas}, clients {clients}, keys {keys}, \
             values up to {} bytes",
            self.value_bytes_max
        )?;
        writeln!(
            f,
            "faults for {:?}, up to {:?} apart; clients pause up to {:?}, wait {:?}",
            self.life, self.fault_interval_max, self.think_max, self.patience
        )?;
        writeln!(
            f,
            "election timeout {:?}, heartbeats {:?}, reads by {}, clocks within {} ppm, lanes {:?}",
            self.election_timeout,
            self.heartbeat_interval,
            if self.lease_reads { "lease" } else { "round" },
            self.drift_max_ppm,
            self.lane_delay_max
        )?;
        writeln!(
            f,
            "latency {:?} to {:?}; of 1000 messages {} lost, {} doubled, {} reordered; breaks noticed \
             within {:?}",
            self.latency.0,
            self.latency.1,
            self.lost,
            self.doubled,
            self.reordered,
            self.notice_max
        )?;
        writeln!(
            f,
            "sync up to {:?}, read up to {:?}, stalled after {:?}; segments {} B, memtables {} B, \
             checkpoints every {:?}",
            self.sync_max,
            self.read_max,
            self.disk_stall_max,
            self.segment_bytes,
            self.memtable_bytes,
            self.checkpoint_age
        )?;
        writeln!(
            f,
            "log kept {} B, cached {} B, cut by {} entries; merged rows kept {} B; chunks {} B",
            self.log_share_bytes,
            self.log_cache_bytes,
            self.compact_entries_min,
            self.merged_bytes,
            self.chunk_bytes
        )?;
        write!(f, "fault rates:")?;
        for (name, rate) in self.faults.named().into_iter().filter(|(_, rate)| *rate > 0) {
            write!(f, " {name} {rate}")?;
        }
        Ok(())
    }
}
