//! What drives a traced world: the commands of a golden script, or chance.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::event::Line;
use super::world::World;

type Outcome<T = ()> = Result<T, String>;

/// Traces a golden script of `shard/raft/testscripts`. Ends before the first command that means nothing
/// to the specification, and says which: logs that begin with entries, slow disks, messages that are
/// repeated or made up, refinements that the specification does not know.
///
/// # Errors
///
/// What the specification would not do; or the script is none.
pub fn trace_script(script: &str) -> Result<(Vec<Line>, Option<String>), String> {
    let mut world = None;
    let mut is_transcript = false;
    let mut ended_by = None;
    for (number, line) in script.lines().enumerate() {
        is_transcript = (is_transcript || line == "---") && !line.is_empty();
        let command = line.split('#').next().unwrap_or_default().trim();
        let command = command.strip_prefix("quiet ").unwrap_or(command);
        if is_transcript || command.is_empty() {
            continue;
        }
        let is_known = run(&mut world, command)
            .map_err(|problem| format!("line {}, `{command}`: {problem}", number + 1))?;
        if !is_known {
            ended_by = Some(format!("line {}, `{command}`", number + 1));
            break;
        }
    }
    Ok((world.map_or_else(Vec::new, World::into_lines), ended_by))
}

/// False if the command means nothing to the specification.
fn run(world: &mut Option<World>, command: &str) -> Outcome<bool> {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    let words: Vec<&str> = rest.split_whitespace().collect();
    let Some(world) = world else {
        let ("cluster", [voters]) = (verb, &words[..]) else { return Ok(false) };
        *world = Some(World::new(number(voters)?, 1)?);
        return Ok(true);
    };
    match (verb, &words[..]) {
        ("campaign", [id]) => world.campaign(number(id)?)?,
        ("propose", [id, payloads @ ..]) => {
            let payloads: Vec<Bytes> =
                payloads.iter().map(|payload| Bytes::from((*payload).to_owned())).collect();
            world.propose(number(id)?, &payloads)?;
        }
        ("read", [id]) => world.read(number(id)?)?,
        ("transfer", [id]) => world.transfer(number(id)?, None)?,
        ("transfer", [id, to]) => world.transfer(number(id)?, Some(number(to)?))?,
        ("deliver", words) => world.deliver(&links(words)?, usize::MAX)?,
        ("deliver-one", words) => world.deliver(&links(words)?, 1)?,
        ("settle", []) => settle(world)?,
        ("drop", words) => world.drop_messages(&links(words)?, usize::MAX),
        ("cut", words) => world.cut(&links(words)?),
        ("isolate", [id]) => world.isolate(number(id)?),
        ("heal", []) => world.heal(),
        ("timeout", [id]) => world.time_out(number(id)?)?,
        ("wait", [time_ms]) => world.wait(number(time_ms)?)?,
        ("run", [time_ms]) => {
            for _ in 0..number(time_ms)? {
                world.wait(1)?;
                settle(world)?;
            }
        }
        ("crash", [id]) => world.crash(number(id)?),
        ("restart", [id]) => world.restart(number(id)?)?,
        ("status" | "log", _) => {}
        _ => return Ok(false),
    }
    Ok(true)
}

fn settle(world: &mut World) -> Outcome {
    for _ in 0..10_000 {
        if world.is_quiet() {
            return Ok(());
        }
        world.deliver(&[], usize::MAX)?;
    }
    Err("the network never settles".to_owned())
}

fn number(text: &str) -> Outcome<u64> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

fn links(words: &[&str]) -> Outcome<Vec<(u64, u64)>> {
    let link = |word: &&str| {
        let (from, to) = word.split_once("->").ok_or_else(|| format!("`{word}` is no link"))?;
        Ok((number(from)?, number(to)?))
    };
    words.iter().map(link).collect()
}

/// Traces a random life of `voters` replicas: losses, cut links, crashes, elections.
///
/// # Errors
///
/// What the specification would not do.
pub fn trace_seed(seed: u64, voters: u64, steps: u64) -> Result<Vec<Line>, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new(voters, seed)?;
    for step in 0..steps {
        one_step(&mut world, &mut rng, voters)
            .map_err(|problem| format!("seed {seed}, step {step}: {problem}"))?;
    }
    world.heal();
    for id in 1..=voters {
        if !world.is_up(id) {
            world.restart(id)?;
        }
    }
    settle(&mut world)?;
    Ok(world.into_lines())
}

fn one_step(world: &mut World, rng: &mut StdRng, voters: u64) -> Outcome {
    let any = rng.random_range(1..=voters);
    let links = world.links();
    match rng.random_range(0..100) {
        0..60 if !links.is_empty() => world.deliver(&[links[rng.random_range(0..links.len())]], 1),
        60..66 if !links.is_empty() => {
            world.drop_messages(&[links[rng.random_range(0..links.len())]], 1);
            Ok(())
        }
        66..78 => match world.leader() {
            Some(leader) => {
                let payloads = vec![Bytes::from_static(b"x"); rng.random_range(1..4)];
                world.propose(leader, &payloads)
            }
            None => world.wait(rng.random_range(1..80)),
        },
        78..80 => {
            world.isolate(any);
            Ok(())
        }
        80..83 => {
            world.heal();
            Ok(())
        }
        83..85 if world.is_up(any) => {
            world.crash(any);
            Ok(())
        }
        85..89 if !world.is_up(any) => world.restart(any),
        89 if world.is_up(any) => world.campaign(any),
        _ => world.wait(rng.random_range(1..30)),
    }
}
