//! The list of bugs that can be planted.

/// Declares the mutations with their names, so that no list can forget one.
macro_rules! mutations {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutation {
            $($(#[$doc])* $variant,)*
        }

        impl Mutation {
            /// All of them, in the order of the table in `docs/testing.md`.
            pub const ALL: [Mutation; [$($name),*].len()] = [$(Mutation::$variant),*];

            /// What it does, as tables show it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Mutation::$variant => $name,)*
                }
            }
        }
    };
}

mutations! {
    /// A granted vote leaves before the disk holds it.
    AnswerVoteBeforeDurable "answer a vote before it is durable",
    /// Following in the same term forgets whom the vote of this term went to.
    ResetVoteOnEqualTerm "reset the vote on an equal term",
    /// A leader commits what a quorum has, whatever its term.
    CountOldTermEntries "count old-term entries",
    /// A leader opens its term without an entry of its own.
    SkipEmptyEntry "skip the empty entry of a new term",
    /// A follower cuts its log behind the entries of an append, whether they differ or not.
    TruncateWithoutConflict "truncate without conflict",
    /// A follower refuses an append from before its base.
    CompactedPrevIsConflict "treat prev in the compacted part as a conflict",
    /// The completed write of entries that were overwritten since counts as their durability.
    CountStalePersistence "count a stale persistence acknowledgement",
    /// All reads of a replica have the same id.
    ReuseReadId "reuse a read id",
    /// A leader goes on reading by its lease while it hands over.
    LeaseWhileTransferring "serve a lease read after a transfer began",
    /// A leader takes all of what its voters promised, as if clocks ran at one speed.
    LeaseBeyondDrift "serve a lease read beyond clock drift",
    /// A snapshot leaves without the table of sessions.
    SnapshotWithoutSessions "drop the session table in a snapshot",
    /// The rows of a snapshot are swapped in by two commits.
    InstallInTwoHalves "install a snapshot in two halves",
    /// The directory of a new file is not synced.
    ForgetDirectorySync "forget the directory sync",
    /// Batches behind the last proven one that are damaged count as lost content.
    TornTailIsCorruption "take a torn tail for corruption",
    /// Damage below what was proven to be synced counts as the end of the log.
    CorruptionIsTornTail "take corruption for a torn tail",
    /// The journal reports a batch durable that it has not synced.
    AcknowledgeBeforeSync "acknowledge before the sync",
    /// Everything in the log is applied, committed or not.
    ApplyBeyondCommit "apply beyond commit",
    /// A checkpoint writes rows, but not up to where they were applied.
    CheckpointWithoutAppliedIndex "checkpoint rows without the applied index",
    /// The oldest segment is freed although something in it is live.
    FreeLiveSegment "garbage-collect a segment still needed",
    /// What an earlier use left in a recycled file is taken for batches of the log.
    ParseRecycledBytes "parse old bytes of a recycled segment",
    /// A record that is rewritten forward counts as new.
    CopySupersedesNewer "rewrite a stale record forward over a newer one",
    /// A message that needs the write that is being prepared leaves with the one before.
    ReleaseOnOlderTicket "release a message on an older persistence ticket",
    /// A frozen memtable goes before readers can see its rows below.
    DropFrozenBeforePublish "drop a frozen memtable before the new read transaction is published",
    /// A command of a session that was forgotten opens it anew.
    AdmitEvictedSession "admit an evicted session",
    /// A forwarded write whose answer was lost counts as refused.
    LostForwardIsRefused "report a lost forward as refused",
    /// A replica that may have lost its log takes part as if nothing had happened.
    SuspectVotes "let a suspect replica vote",
    /// A leader reads by its lease before it has committed anything in its term.
    LeaseBeforeCommit "serve a lease read before an entry of the term is committed",
    /// A restart forgets what the voter had promised to its leader.
    ForgetPromiseOnRestart "forget the promise to a leader on a restart",
    /// A follower acknowledges entries that it has not on disk.
    AcknowledgeUnsynced "acknowledge an append before it is durable",
    /// A snapshot is swapped in before its announcement is durable.
    InstallBeforeIntent "install a snapshot before its intent is durable",
    /// An answer to an earlier round confirms a later read.
    CountStaleRound "count the answer to an earlier round",
    /// A read is served when it is confirmed, not when its index is applied.
    ReadBeforeApplied "serve a read before its index is applied",
}

impl Mutation {
    /// Its number, from 1.
    #[cfg(feature = "mutations")]
    pub(crate) fn number(self) -> u32 {
        self as u32 + 1
    }
}
