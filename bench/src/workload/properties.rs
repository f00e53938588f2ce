//! Files of properties as YCSB's core workload reads them.
//!
//! What would change the load and is not done here is refused with words; what cannot change it
//! (the class, the table's name) is accepted.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};

use super::{Distribution, Workload};
use crate::keys::KeyFormat;
use crate::target::OperationKind;

/// Properties that say nothing about the load here.
const WITHOUT_MEANING: [&str; 6] =
    ["workload", "table", "operationcount", "readallfields", "writeallfields", "maxexecutiontime"];

/// Kinds of operations, the properties with their shares, and YCSB's defaults.
const SHARES: [(OperationKind, &str, f64); 5] = [
    (OperationKind::Get, "readproportion", 0.95),
    (OperationKind::Put, "updateproportion", 0.05),
    (OperationKind::Insert, "insertproportion", 0.0),
    (OperationKind::Scan, "scanproportion", 0.0),
    (OperationKind::ReadModifyWrite, "readmodifywriteproportion", 0.0),
];

impl Workload {
    /// The workload that `text` describes, a property a line.
    ///
    /// # Errors
    ///
    /// If a line is not understood, in words.
    pub fn from_properties(name: &str, text: &str) -> anyhow::Result<Workload> {
        let mut properties = read(text)?;
        for ignored in WITHOUT_MEANING {
            properties.remove(ignored);
        }
        let shares = SHARES.map(|(kind, property, default)| {
            number(&mut properties, property, default).map(|share| (kind, share))
        });
        let shares = shares.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(shares.iter().all(|(_, share)| *share >= 0.0), "a share is negative");
        // As in YCSB, shares need not add up to 1.
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        ensure!(sum > 0.0, "all shares are 0: nothing would be done");
        let mix: Vec<_> = shares
            .into_iter()
            .filter(|(_, share)| *share > 0.0)
            .map(|(kind, share)| (kind, share / sum))
            .collect();

        let distribution = match word(&mut properties, "requestdistribution", "uniform").as_str() {
            "uniform" => Distribution::Uniform,
            "zipfian" => Distribution::Zipfian,
            "latest" => Distribution::Latest,
            "sequential" => Distribution::Sequential,
            other => bail!(
                "requestdistribution={other} is not known here: uniform, zipfian, latest or sequential"
            ),
        };
        let key_format = match word(&mut properties, "insertorder", "hashed").as_str() {
            "hashed" => KeyFormat::Spread,
            "ordered" => KeyFormat::Redis,
            other => bail!("insertorder={other} is not known: hashed or ordered"),
        };
        for (property, only) in
            [("scanlengthdistribution", "uniform"), ("fieldlengthdistribution", "constant")]
        {
            let given = word(&mut properties, property, only);
            ensure!(given == only, "{property}={given} is not done here: only {only}");
        }
        let shortest: u32 = number(&mut properties, "minscanlength", 1)?;
        ensure!(shortest == 1, "minscanlength={shortest} is not done here: only 1");
        let scan_rows_max: u32 = number(&mut properties, "maxscanlength", 1_000)?;
        ensure!(scan_rows_max > 0, "maxscanlength must be 1 or more");
        let keys = number(&mut properties, "recordcount", 0_u64)?;
        ensure!(keys > 0, "recordcount is missing: how many keys are there?");
        let fields: usize = number(&mut properties, "fieldcount", 10)?;
        let field_bytes: usize = number(&mut properties, "fieldlength", 100)?;
        let value_bytes = fields.checked_mul(field_bytes).context("values are too long")?;
        if let Some((unknown, _)) = properties.first_key_value() {
            bail!("the property {unknown} is not known here");
        }
        let workload = Workload {
            name: name.to_owned(),
            mix,
            keys,
            value_bytes,
            distribution,
            scan_rows_max,
            key_format,
        };
        workload.check()?;
        Ok(workload)
    }
}

/// Lines `name=value`; empty lines and those that begin with `#` or `!` say nothing.
fn read(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut properties = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            bail!("line {number}: `{line}` is no property: write name=value");
        };
        properties.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    Ok(properties)
}

fn word(properties: &mut BTreeMap<String, String>, name: &str, default: &str) -> String {
    properties.remove(name).unwrap_or_else(|| default.to_owned())
}

fn number<T: std::str::FromStr>(
    properties: &mut BTreeMap<String, String>,
    name: &str,
    default: T,
) -> anyhow::Result<T> {
    match properties.remove(name) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .ok()
            .with_context(|| format!("{name}={text} is not a number as it should be")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// YCSB's own file for its workload E, without its comments.
    const WORKLOAD_E: &str = "recordcount=1000\noperationcount=1000\n\
        workload=site.ycsb.workloads.CoreWorkload\n\nreadallfields=true\n\nreadproportion=0\n\
        updateproportion=0\nscanproportion=0.95\ninsertproportion=0.05\n\n\
        requestdistribution=zipfian\n\nmaxscanlength=100\n\nscanlengthdistribution=uniform\n";

    #[test]
    fn ycsbs_own_file_is_the_workload_of_that_name() {
        let read = Workload::from_properties("e", WORKLOAD_E).unwrap();
        let mut named = Workload { keys: 1_000, ..Workload::named("e").unwrap() };
        named.mix.reverse();
        assert_eq!(read, named);
    }

    #[test]
    fn defaults_are_ycsbs() {
        let workload = Workload::from_properties("x", "# nothing\nrecordcount=5").unwrap();
        assert_eq!(workload.mix, [(OperationKind::Get, 0.95), (OperationKind::Put, 0.05)]);
        assert_eq!(workload.distribution, Distribution::Uniform);
        assert_eq!((workload.value_bytes, workload.scan_rows_max), (1_000, 1_000));
    }

    #[test]
    fn what_is_not_understood_is_refused_in_words() {
        for (line, words) in [
            ("hotspotdatafraction=0.2", "hotspotdatafraction is not known"),
            ("requestdistribution=hotspot", "requestdistribution=hotspot is not known"),
            ("scanlengthdistribution=zipfian", "only uniform"),
            ("fieldlengthdistribution=uniform", "only constant"),
            ("readproportion=x", "readproportion=x is not a number"),
            ("nonsense", "line 2: `nonsense` is no property"),
            ("fieldlength=1", "cannot name their writers"),
            ("readproportion=0\nupdateproportion=0", "all shares are 0"),
            ("recordcount=0", "recordcount is missing"),
        ] {
            let error = Workload::from_properties("x", &format!("recordcount=5\n{line}"));
            let error = format!("{:#}", error.unwrap_err());
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
