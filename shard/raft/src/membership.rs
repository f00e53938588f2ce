//! Who votes, and what a quorum has reached.
//!
//! One fixed set of voters, sorted by id. Values that voters have reached (a match index, a
//! heartbeat round, a time) are put in order here, on the stack, for every question: no sorted
//! vector is kept that an update could leave in the wrong order.

use crate::types::ReplicaId;

/// The voters of a group.
pub(crate) struct Voters {
    ids: Vec<ReplicaId>,
}

impl Voters {
    /// Most voters of a group. Beyond seven, more voters cost more than they protect.
    pub(crate) const COUNT_MAX: usize = 31;

    /// # Panics
    ///
    /// If there are no voters or more than [`Voters::COUNT_MAX`], or an id is 0 or repeated.
    pub(crate) fn new(mut ids: Vec<ReplicaId>) -> Self {
        ids.sort_unstable();
        assert!(!ids.is_empty(), "a group without voters");
        assert!(ids.len() <= Self::COUNT_MAX, "a group of more than {} voters", Self::COUNT_MAX);
        assert!(ids[0].0 != 0, "replica ids start at 1");
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "a voter is listed twice");
        Self { ids }
    }

    /// The voters in id order.
    pub(crate) fn ids(&self) -> &[ReplicaId] {
        &self.ids
    }

    pub(crate) fn contains(&self, id: ReplicaId) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    /// How many voters make a quorum: any two quorums share a voter.
    pub(crate) fn quorum(&self) -> usize {
        self.ids.len() / 2 + 1
    }

    /// The highest value that a quorum of voters has reached, given the value of each voter in
    /// any order. Voters without a value count as having the default.
    ///
    /// # Panics
    ///
    /// If there are more values than voters.
    pub(crate) fn quorum_value<T: Ord + Copy + Default>(
        &self,
        values: impl Iterator<Item = T>,
    ) -> T {
        let mut descending = [T::default(); Self::COUNT_MAX];
        for (count, value) in values.enumerate() {
            assert!(count < self.ids.len(), "more values than voters");
            let mut at = count;
            while at > 0 && descending[at - 1] < value {
                descending[at] = descending[at - 1];
                at -= 1;
            }
            descending[at] = value;
        }
        descending[self.quorum() - 1]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn voters(count: u64) -> Voters {
        Voters::new((1..=count).map(ReplicaId).collect())
    }

    #[test]
    fn quorums_are_majorities() {
        let quorums: Vec<_> = (1..=7).map(|count| voters(count).quorum()).collect();
        assert_eq!(quorums, [1, 2, 2, 3, 3, 4, 4]);
    }

    proptest! {
        #[test]
        fn quorum_value_is_reached_by_a_quorum_and_the_next_is_not(
            values in prop::collection::vec(0u64..20, 1..=9),
        ) {
            let voters = voters(values.len() as u64);
            let reached = voters.quorum_value(values.iter().copied());
            let count_at_least = |bar: u64| values.iter().filter(|value| **value >= bar).count();
            prop_assert!(count_at_least(reached) >= voters.quorum());
            prop_assert!(count_at_least(reached + 1) < voters.quorum());
        }
    }
}
