//! For each mutation: what lives are likely to meet it, and the scene that is left if none does.
//!
//! A shape changes how often things happen, never what they are: whatever it makes frequent is also
//! met in other lives, only later.

use std::time::Duration;

use flotilla_mutation::Mutation;

use super::super::judges::Violation;
use super::super::options::{FaultRates, Options};
use super::scenes::{damage, installing, overwritten, publishing, reads, sessions};

/// Makes something frequent in a life.
pub type Shape = fn(&mut Options);

/// Drives parts of the product to where a bug shows.
pub type Scene = fn() -> Result<(), Violation>;

/// How to look for a mutation.
#[derive(Clone, Copy)]
pub struct Plan {
    /// The shape of lives that are likely to meet it.
    pub life: Option<Shape>,
    /// What is left.
    pub scene: Option<Scene>,
}

fn lives(shape: Shape) -> Plan {
    Plan { life: Some(shape), scene: None }
}

fn lives_or(shape: Shape, scene: Scene) -> Plan {
    Plan { life: Some(shape), scene: Some(scene) }
}

/// How to look for `mutation`.
pub fn of(mutation: Mutation) -> Plan {
    match mutation {
        Mutation::AnswerVoteBeforeDurable
        | Mutation::ReleaseOnOlderTicket
        | Mutation::AcknowledgeUnsynced
        | Mutation::ApplyBeyondCommit => lives(slow_disks),
        Mutation::ResetVoteOnEqualTerm => lives(contests),
        Mutation::CountOldTermEntries => lives(elections),
        Mutation::SkipEmptyEntry => lives_or(read_by_rounds, reads::before_the_first_entry),
        Mutation::TruncateWithoutConflict => lives(disorder),
        Mutation::CompactedPrevIsConflict => lives(short_logs),
        Mutation::CountStalePersistence => {
            lives_or(overwritten_tails, overwritten::while_being_written)
        }
        Mutation::ReuseReadId => lives_or(read_by_rounds, reads::after_an_earlier_round),
        Mutation::CountStaleRound => lives_or(read_by_rounds, reads::after_an_earlier_round),
        Mutation::LeaseWhileTransferring => lives_or(transfers, reads::while_handing_over),
        Mutation::LeaseBeyondDrift => lives_or(wild_clocks, reads::with_a_slow_clock),
        Mutation::LeaseBeforeCommit => lives_or(read_by_lease, reads::before_the_first_entry),
        Mutation::ForgetPromiseOnRestart => lives_or(long_promises, reads::after_a_restart),
        Mutation::ReadBeforeApplied => lives(cold_rows),
        Mutation::SnapshotWithoutSessions => lives(short_logs),
        Mutation::InstallInTwoHalves => lives(torn_installs),
        Mutation::InstallBeforeIntent => {
            lives_or(torn_installs, installing::power_loss_after_the_swap)
        }
        Mutation::ForgetDirectorySync | Mutation::AcknowledgeBeforeSync => lives(power_losses),
        Mutation::TornTailIsCorruption => lives(power_losses),
        Mutation::CorruptionIsTornTail => lives_or(rot, damage::in_the_middle),
        Mutation::CheckpointWithoutAppliedIndex => lives(short_logs),
        Mutation::FreeLiveSegment
        | Mutation::ParseRecycledBytes
        | Mutation::CopySupersedesNewer => lives(small_segments),
        Mutation::DropFrozenBeforePublish => lives_or(failing_syncs, publishing::a_failed_commit),
        Mutation::AdmitEvictedSession => Plan { life: None, scene: Some(sessions::come_back) },
        Mutation::LostForwardIsRefused => lives(elections),
        Mutation::SuspectVotes => lives(rot),
    }
}

/// Few nodes that do much, and whose faults follow each other closely.
fn busy(options: &mut Options) {
    let ms = Duration::from_millis;
    options.nodes = 3;
    options.replicas = 3;
    options.groups = options.groups.min(2);
    options.clients = 8;
    options.keys = 6;
    options.think_max = ms(20);
    options.patience = ms(1000);
    options.fault_interval_max = ms(300);
    options.faults = FaultRates::default();
}

/// Leaders come and go, and most of the time there is one.
fn elections(options: &mut Options) {
    busy(options);
    let faults = &mut options.faults;
    (faults.kill, faults.isolation, faults.one_way, faults.transfer) = (15, 20, 20, 60);
    (options.lost, options.doubled) = (20, 20);
}

fn slow_disks(options: &mut Options) {
    elections(options);
    options.sync_max = Duration::from_millis(50);
    options.disk_stall_max = Duration::from_secs(1);
    options.faults.stall = 20;
}

/// Several campaign at a time.
fn contests(options: &mut Options) {
    elections(options);
    options.election_timeout = options.heartbeat_interval * 4;
    options.latency.1 = Duration::from_millis(40);
    options.lost = 100;
    (options.faults.kill, options.faults.isolation) = (40, 40);
}

/// Leaders are cut off, and come back to find that what is being written is overwritten.
fn overwritten_tails(options: &mut Options) {
    slow_disks(options);
    let faults = &mut options.faults;
    (faults.kill, faults.isolation, faults.one_way, faults.transfer) = (40, 60, 60, 60);
    options.lost = 50;
}

fn disorder(options: &mut Options) {
    busy(options);
    options.groups = 1;
    options.clients = 12;
    options.think_max = Duration::from_millis(2);
    (options.lost, options.doubled, options.reordered) = (20, 200, 200);
    options.latency.1 = Duration::from_millis(10);
}

/// One key that everybody reads and writes.
fn one_key(options: &mut Options) {
    busy(options);
    options.groups = 1;
    options.keys = 1;
    options.clients = 12;
    options.think_max = Duration::from_millis(40);
    options.sync_max = Duration::from_millis(1);
    options.latency.1 = Duration::from_millis(1);
    options.lane_delay_max = Duration::from_micros(100);
    (options.lost, options.doubled, options.reordered) = (0, 0, 0);
}

fn read_by_rounds(options: &mut Options) {
    one_key(options);
    options.lease_reads = false;
    let faults = &mut options.faults;
    (faults.kill, faults.one_way, faults.slow_link, faults.transfer) = (10, 20, 150, 60);
}

fn read_by_lease(options: &mut Options) {
    read_by_rounds(options);
    options.lease_reads = true;
    options.log_cache_bytes = 0;
    options.sync_max = Duration::from_millis(20);
}

/// Leaders hand over, and do not hear what becomes of it.
fn transfers(options: &mut Options) {
    one_key(options);
    options.lease_reads = true;
    (options.faults.transfer, options.faults.slow_link) = (150, 150);
}

/// Leaders hand over to those who still wait for their disks to apply what is committed.
fn cold_rows(options: &mut Options) {
    one_key(options);
    options.lease_reads = true;
    options.keys = 4;
    options.think_max = Duration::from_millis(10);
    options.memtable_bytes = 4 << 10;
    options.checkpoint_age = Duration::from_millis(200);
    options.merged_bytes = 0;
    options.read_max = Duration::from_millis(200);
    options.faults.transfer = 150;
}

/// Leaders are cut off, and clocks run as they like within a wide bound.
fn wild_clocks(options: &mut Options) {
    one_key(options);
    options.lease_reads = true;
    options.drift_max_ppm = 500_000;
    (options.faults.drift, options.faults.isolation) = (100, 25);
}

/// Leaders are cut off while voters are started anew, and promises last long.
fn long_promises(options: &mut Options) {
    one_key(options);
    options.lease_reads = true;
    options.heartbeat_interval = Duration::from_millis(300);
    options.election_timeout = Duration::from_secs(3);
    (options.faults.kill, options.faults.isolation) = (25, 25);
}

/// Checkpoints often, and logs that are cut at once: who was away gets a snapshot.
fn short_logs(options: &mut Options) {
    elections(options);
    options.memtable_bytes = 4 << 10;
    options.checkpoint_age = Duration::from_secs(1);
    options.log_share_bytes = 0;
    options.compact_entries_min = 1;
    options.chunk_bytes = 200;
    (options.lost, options.doubled, options.reordered) = (50, 50, 100);
}

fn torn_installs(options: &mut Options) {
    short_logs(options);
    options.lost = 20;
    (options.faults.power_loss_in_io, options.faults.kill_in_effects) = (60, 40);
}

fn small_segments(options: &mut Options) {
    short_logs(options);
    options.lost = 0;
    options.segment_bytes = 64 << 10;
    options.value_bytes_max = 4000;
    options.faults = FaultRates { kill: 40, power_loss: 40, ..FaultRates::default() };
}

fn power_losses(options: &mut Options) {
    busy(options);
    options.segment_bytes = 64 << 10;
    options.value_bytes_max = 4000;
    options.sync_max = Duration::from_millis(20);
    options.faults.power_loss = 40;
    options.faults.power_loss_in_io = 40;
}

fn failing_syncs(options: &mut Options) {
    short_logs(options);
    options.lost = 0;
    options.merged_bytes = 0;
    options.faults = FaultRates { failed_sync: 100, kill: 20, ..FaultRates::default() };
}

fn rot(options: &mut Options) {
    busy(options);
    options.segment_bytes = 64 << 10;
    options.value_bytes_max = 4000;
    options.faults.bit_rot = 300;
    (options.faults.kill, options.faults.power_loss) = (60, 30);
}
