//! Power losses at random moments: what is on the disk afterwards is some checkpoint, whole.

use bytes::Bytes;
use flotilla_storage::store::RowChange;
use flotilla_storage::{GroupId, KeyRange};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::disk::Disk;
use crate::support::{Command, Modelled, delete, open, put};

fn random_command(rng: &mut StdRng) -> Command {
    if rng.random_range(0..60) == 0 {
        return Command::Clear;
    }
    let key = |rng: &mut StdRng| Bytes::from(format!("key-{:03}", rng.random_range(0..150)));
    let changes = (0..rng.random_range(1..12))
        .map(|_| match rng.random_range(0..12) {
            0..9 => {
                let value = vec![rng.random::<u8>(); rng.random_range(0..600)];
                put(key(rng), value)
            }
            9..11 => delete(key(rng)),
            _ => {
                let (a, b) = (key(rng), key(rng));
                RowChange::DeleteRange(KeyRange::new(a.clone().min(b.clone()), Some(a.max(b))))
            }
        })
        .collect();
    Command::Changes(changes)
}

/// One life of a disk: several power cycles, each at a random moment of the work.
fn live(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = Disk::default();
    let (mut store, _) = open(&disk).unwrap();
    let mut shards: Vec<_> =
        (1..=3).map(|group| Modelled::create(&store, GroupId(group))).collect();
    // The checkpoint that is certainly on disk: one log length per shard.
    let mut certain: Vec<u64> = vec![0; shards.len()];

    for _ in 0..6 {
        disk.power_off_after(rng.random_range(0..400));
        let mut frozen = Vec::new();
        let mut attempted = certain.clone();
        loop {
            for shard in &mut shards {
                for _ in 0..rng.random_range(0..8) {
                    shard.apply(random_command(&mut rng));
                }
            }
            for (shard, attempted) in shards.iter_mut().zip(&mut attempted) {
                if rng.random_range(0..4) > 0 {
                    frozen.push(shard.freeze());
                    *attempted = shard.applied().0;
                }
            }
            match store.checkpoint(&frozen) {
                Ok(_) => certain.clone_from(&attempted),
                Err(_) => break,
            }
            frozen.clear();
        }

        // A new process: everything in memory is gone, but for the logs.
        let elsewhere = open(&Disk::default()).unwrap().0;
        for shard in &mut shards {
            shard.shard = elsewhere.create_shard(shard.group, KeyRange::whole(), Bytes::new());
        }
        drop(frozen);
        drop(std::mem::replace(&mut store, elsewhere));
        disk.power_cycle(&mut rng);
        let (reopened, states) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        store = reopened;

        // All shards are at the last certain checkpoint, or all at the one that was under way.
        let found: Vec<u64> = shards
            .iter()
            .map(|shard| states.iter().find(|state| state.group == shard.group))
            .map(|state| state.map_or(0, |state| state.applied.0))
            .collect();
        assert!(found == certain || found == attempted, "seed {seed}: {found:?}, {certain:?}");
        certain = found;
        for shard in &mut shards {
            shard.recover(&store, &states);
        }
        assert!(store.damaged().is_empty());
    }
}

#[test]
fn after_a_power_loss_applied_index_and_rows_agree() {
    for seed in 0..60 {
        live(seed);
    }
}
