//! What happened in runs: a simulation in which nothing goes wrong, or nothing goes on, proves nothing.

macro_rules! counts {
    ($($name:ident),* $(,)?) => {
        /// What happened in a run.
        #[derive(Default, Debug, Clone)]
        pub struct Counts { $(pub $name: u64),* }

        impl Counts {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// A simulation in which nothing goes wrong, or nothing goes on, proves nothing.
            pub fn assert_meaningful(&self) {
                $(assert!(self.$name > 0, "no {} in any run", stringify!($name));)*
            }
        }
    };
}

counts!(
    turns,
    messages,
    lost,
    repeated,
    cut_by_partition,
    partitions,
    pauses,
    crashes,
    writes_lost,
    slow_disks,
    elections,
    proposals,
    proposals_refused,
    proposals_applied,
    reads,
    reads_confirmed,
    reads_refused,
    reads_by_lease,
    leaders_without_lease,
    clocks_changed,
    campaigns_ordered,
    leaders_cut_off,
    fetches,
    fetches_failed,
    compactions,
    truncations,
    entries_committed,
    unreachable,
    snapshots_ordered,
    snapshots_lost,
    snapshots_repeated,
    snapshots_unwanted,
    snapshots_received,
    snapshots_refused,
    snapshots_installed,
    logs_restarted,
    crashes_before_swap,
    crashes_after_swap,
    crashes_after_install,
    rows_lost,
    applied_again,
    transfers,
    takeovers_asked,
    proposals_refused_in_transfer,
    leading_forbidden,
);
