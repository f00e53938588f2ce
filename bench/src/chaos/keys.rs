//! The keys of the load: families of them, spread over all shards.

use rand::Rng;
use rand::rngs::SmallRng;

use crate::keys::shard_prefix;

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Written, read, removed.
    Register,
    /// Taken if it is free, read, removed.
    Lock,
    /// Incremented; what is in doubt stays so.
    Tally,
    /// Incremented, and repeated until it is certain.
    Ledger,
}

impl Family {
    const ALL: [Family; 4] = [Family::Register, Family::Lock, Family::Tally, Family::Ledger];
}

/// Three of four requests are for the first keys of a family, so that clients meet.
const HOT_OF_FOUR: u32 = 3;

/// All keys of a load.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    clients: u64,
    shards: u32,
}

impl Keys {
    /// For this many clients and shards.
    pub fn new(clients: u64, shards: u32) -> Keys {
        Keys { clients, shards }
    }

    /// How many keys a family has, and how many of them are hot.
    fn count(self, family: Family) -> (u64, u64) {
        let shards = u64::from(self.shards);
        // Twice the clients: fewer would make histories that take too long to judge.
        match family {
            Family::Register => (self.clients * 16, self.clients * 2),
            Family::Lock => (self.clients * 2, self.clients * 2),
            Family::Tally | Family::Ledger => (shards * 2, shards * 2),
        }
    }

    /// Some key, and its shard.
    pub fn draw(self, family: Family, random: &mut SmallRng) -> (u32, Vec<u8>) {
        let (all, hot) = self.count(family);
        let below = if random.random_ratio(HOT_OF_FOUR, 4) { hot } else { all };
        self.key(family, random.random_range(0..below))
    }

    fn key(self, family: Family, number: u64) -> (u32, Vec<u8>) {
        let shard = (number % u64::from(self.shards)) as u32;
        let letter = match family {
            Family::Register => 'r',
            Family::Lock => 'l',
            Family::Tally => 't',
            Family::Ledger => 'o',
        };
        let mut key = shard_prefix(shard, self.shards).to_vec();
        key.extend_from_slice(format!("{letter}{number:05}").as_bytes());
        (shard, key)
    }

    /// Every key.
    pub fn all(self) -> Vec<Vec<u8>> {
        let families = Family::ALL.into_iter();
        let all = families.flat_map(|family| {
            (0..self.count(family).0).map(move |number| self.key(family, number).1)
        });
        all.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_drawn_is_one_of_all_and_there_are_enough() {
        let keys = Keys::new(20, 8);
        let all: BTreeSet<Vec<u8>> = keys.all().into_iter().collect();
        assert_eq!(all.len(), keys.all().len(), "they differ");
        assert!(all.len() as u64 >= 2 * 20);
        let mut random = SmallRng::seed_from_u64(1);
        let mut shards = BTreeSet::new();
        for family in Family::ALL {
            for _ in 0..1_000 {
                let (shard, key) = keys.draw(family, &mut random);
                assert!(all.contains(&key));
                assert_eq!(key[..2], shard_prefix(shard, 8));
                shards.insert(shard);
            }
        }
        assert_eq!(shards.len(), 8);
    }
}
