//! `scale`: the same load over more and more shards, and over more and more clients.
//!
//! Each number of shards has a store of its own, started fresh. Rounds are interleaved: every number
//! is measured once before any is measured again, so that what the machine does meanwhile falls on
//! all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;

use crate::measure::{Device, describe_machine, revision};
use crate::report;
use crate::result::{Document, Kind, RunResult};
use crate::run::{Context, LoadArgs, ServerArgs, Subject, fill, fill_options, measure};
use crate::target::TargetSpec;
use crate::workload::Workload;

/// Phases before are those of filling.
const FIRST_PHASE: u16 = 16;

/// Arguments of `scale`.
#[derive(Clone, Debug, Args)]
pub struct ScaleArgs {
    /// Numbers of shards; none to leave them out.
    #[arg(long, value_delimiter = ',', value_name = "N,...", num_args = 0..,
        default_values_t = [1, 4, 16, 64, 256, 1_024])]
    pub shards: Vec<u32>,
    /// Numbers of clients; none to leave them out.
    #[arg(long, value_delimiter = ',', value_name = "N,...", num_args = 0..,
        default_values_t = [1, 4, 16, 64, 256, 1_024])]
    pub clients: Vec<usize>,
    /// Clients while shards are varied.
    #[arg(long, default_value_t = 256)]
    pub fixed_clients: usize,
    /// Shards while clients are varied.
    #[arg(long, default_value_t = 8)]
    pub fixed_shards: u32,
    /// How often everything is measured; medians are told.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// How many server processes.
    #[arg(long, default_value_t = 3, value_name = "NODES", conflicts_with = "target",
        value_parser = clap::value_parser!(u64).range(1..=9))]
    pub cluster: u64,
    /// embedded:1 or embedded:3, instead of server processes.
    #[arg(long, value_parser = embedded)]
    pub target: Option<TargetSpec>,
    /// Writes result.json and report.html into this directory.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What clients do.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The clusters to start.
    #[command(flatten)]
    pub servers: ServerArgs,
}

/// Only stores in this process can be cut as one likes.
fn embedded(text: &str) -> Result<TargetSpec, String> {
    match text.parse()? {
        spec @ TargetSpec::Embedded { .. } => Ok(spec),
        other => Err(format!("{other} cannot be cut anew: only embedded:N, or --cluster")),
    }
}

/// Runs `scale`. Returns false if there were errors or unknown outcomes.
///
/// # Errors
///
/// If a store does not start, or a drive fails.
pub async fn run(args: &ScaleArgs) -> anyhow::Result<bool> {
    ensure!(
        args.shards.iter().all(|shards| *shards > 0) && args.clients.iter().all(|n| *n > 0),
        "numbers of shards and of clients are 1 or more"
    );
    let workload = args.load.workload()?;
    let plan = plan(args);
    ensure!(!plan.is_empty(), "there is nothing to measure: name --shards or --clients");
    let mut results = Vec::new();
    for round in 1..=args.rounds {
        for (shards, clients) in &plan {
            results.extend(measure_store(args, &workload, round, *shards, clients).await?);
        }
    }
    let document = Document::new(Kind::Scale, results, Vec::new());
    print!("{}", report::table(&document));
    println!("{}", spread(&document));
    if let Some(directory) = &args.out {
        for file in report::write(directory, &document, &[])? {
            println!("written: {}", file.display());
        }
    }
    Ok(document.results.iter().all(RunResult::is_clean))
}

/// Which numbers of clients are measured with which numbers of shards; one store each.
fn plan(args: &ScaleArgs) -> BTreeMap<u32, Vec<usize>> {
    let mut plan: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for shards in &args.shards {
        plan.entry(*shards).or_default().push(args.fixed_clients);
    }
    if !args.clients.is_empty() {
        plan.entry(args.fixed_shards).or_default().extend(&args.clients);
    }
    for clients in plan.values_mut() {
        clients.sort_unstable();
        clients.dedup();
    }
    plan
}

/// Starts a store with `shards` shards and measures it with each number of clients.
async fn measure_store(
    args: &ScaleArgs,
    workload: &Workload,
    round: u32,
    shards: u32,
    clients: &[usize],
) -> anyhow::Result<Vec<RunResult>> {
    let subject = match &args.target {
        Some(spec) => Subject::cut(spec, shards, args.servers.dir.clone()).await?,
        None => {
            let cluster = args.servers.cluster(args.cluster, shards, None);
            Subject::start(&cluster).await?
        }
    };
    let mut results = Vec::with_capacity(clients.len());
    let measured = async {
        fill(&subject.target, workload, fill_options(args.load.batch)).await?;
        let data = subject.data_directory();
        let device = data.as_deref().and_then(Device::below);
        let machine =
            tokio::task::spawn_blocking(move || describe_machine(data.as_deref())).await??;
        for (number, clients) in (1..).zip(clients) {
            let context = Context {
                name: format!("{}, {shards} shards, {clients} clients", workload.title()),
                round,
                machine: machine.clone(),
                device: device.clone(),
                revision: revision(),
                shards: subject.shards,
            };
            let mut options = args.load.options(*clients, None);
            options.phase = FIRST_PHASE + number;
            let (result, _) = measure(&subject.target, workload, &options, &context).await?;
            eprintln!(
                "round {round}: {shards} shards, {clients} clients: {:.0} operations/s",
                result.per_second_total
            );
            results.push(result);
        }
        anyhow::Ok(())
    };
    let measured = measured.await;
    let stopped = subject.stop().await;
    measured?;
    stopped?;
    Ok(results)
}

/// How far throughput lies apart over the numbers of shards, with the same clients.
fn spread(document: &Document) -> String {
    let mut by_clients: BTreeMap<u32, BTreeMap<u32, f64>> = BTreeMap::new();
    for measurement in document.measurements() {
        let settings = &measurement.first().settings;
        let rate = measurement.median(|round| Some(round.per_second_total));
        if let (Some(shards), Some(rate)) = (settings.shards, rate) {
            by_clients.entry(settings.clients).or_default().insert(shards, rate);
        }
    }
    let Some((clients, rates)) = by_clients.into_iter().max_by_key(|(_, rates)| rates.len()) else {
        return String::new();
    };
    let best = rates.iter().max_by(|one, other| one.1.total_cmp(other.1));
    let least = rates.iter().min_by(|one, other| one.1.total_cmp(other.1));
    match (best, least) {
        (Some((best, most)), Some((worst, least))) if rates.len() > 1 => format!(
            "{clients} clients over {} numbers of shards: best {most:.0} operations/s with {best}, \
             least {least:.0} with {worst}, which is {:.0} % below",
            rates.len(),
            (1.0 - least / most) * 100.0
        ),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        scale: ScaleArgs,
    }

    fn parse(arguments: &str) -> Result<ScaleArgs, clap::Error> {
        let words = std::iter::once("scale").chain(arguments.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.scale)
    }

    #[test]
    fn each_number_of_shards_has_one_store() {
        let args = parse("--shards 1,8,64 --clients 1,256").unwrap();
        let want = BTreeMap::from([(1, vec![256]), (8, vec![1, 256]), (64, vec![256])]);
        assert_eq!(plan(&args), want);
        let all = plan(&parse("").unwrap());
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), [1, 4, 8, 16, 64, 256, 1_024]);
        assert_eq!(all[&8], [1, 4, 16, 64, 256, 1_024]);
        assert!(parse("--target redis://127.0.0.1:1").is_err());
    }

    #[test]
    fn the_spread_is_told_for_the_shards() {
        let mut document = crate::result::sample::document();
        let mut result = crate::result::sample::result();
        document.results.clear();
        for (shards, rate) in [(1, 100.0), (8, 80.0), (64, 90.0)] {
            result.settings.shards = Some(shards);
            result.per_second_total = rate;
            document.results.push(result.clone());
        }
        let words = spread(&document);
        assert!(words.contains("best 100 operations/s with 1, least 80 with 8"), "{words}");
        assert!(words.contains("20 % below"), "{words}");
    }
}
