//! Which measurements of two documents may be compared.
//!
//! Comparing what is not alike gives a number that means nothing; so it is refused, in words that
//! say what differs, unless somebody insists.

use crate::result::{Document, Machine, Measurement, RunSettings};

/// Measurements of two documents side by side.
pub struct Matched<'a> {
    /// What is in both, and alike.
    pub pairs: Vec<(Measurement<'a>, Measurement<'a>)>,
    /// Names of what is in only one of them.
    pub alone: Vec<String>,
}

/// Why documents cannot be compared; each a sentence.
#[derive(Debug, thiserror::Error)]
#[error("{}\n--force compares all the same", .reasons.join("\n"))]
pub struct Unlike {
    /// What differs.
    pub reasons: Vec<String>,
}

/// Pairs the measurements of `before` with those of `after`.
///
/// # Errors
///
/// If machines, settings or promises differ and `force` does not allow it, or nothing is in both.
pub fn matched<'a>(
    before: &'a Document,
    after: &'a Document,
    force: bool,
) -> Result<Matched<'a>, Unlike> {
    let (before, after) = (before.measurements(), after.measurements());
    let mut matched = Matched { pairs: Vec::new(), alone: Vec::new() };
    let mut reasons = Vec::new();
    let mut rest = after;
    for one in before {
        // Of the same name, rather the one with the same settings: sweeps have many of one name.
        let name = &one.first().name;
        let alike = rest.iter().position(|other| {
            other.first().name == *name && other.first().settings == one.first().settings
        });
        let at = alike.or_else(|| rest.iter().position(|other| other.first().name == *name));
        match at {
            None => matched.alone.push(format!("{name} is only in the first")),
            Some(at) => {
                let other = rest.remove(at);
                for reason in differences(&one, &other) {
                    if !reasons.contains(&reason) {
                        reasons.push(reason);
                    }
                }
                matched.pairs.push((one, other));
            }
        }
    }
    matched
        .alone
        .extend(rest.iter().map(|one| format!("{} is only in the second", one.first().name)));
    if matched.pairs.is_empty() {
        let mut reasons = vec!["nothing was measured in both".to_owned()];
        reasons.append(&mut matched.alone);
        return Err(Unlike { reasons });
    }
    match reasons.is_empty() || force {
        true => Ok(matched),
        false => Err(Unlike { reasons }),
    }
}

fn differences(before: &Measurement<'_>, after: &Measurement<'_>) -> Vec<String> {
    let (one, other) = (before.first(), after.first());
    let mut reasons = settings(&one.name, &one.settings, &other.settings);
    let mut promise = |what: &str, before: &str, after: &str| {
        if before != after {
            reasons.push(format!("{}: {what}: `{before}` and `{after}`", one.name));
        }
    };
    promise("the store", &one.target.name, &other.target.name);
    promise("replication", &one.target.replication, &other.target.replication);
    promise("durability", &one.target.durability, &other.target.durability);
    promise("reads", &one.target.reads, &other.target.reads);
    reasons.extend(machines(&one.machine, &other.machine));
    reasons
}

fn settings(name: &str, before: &RunSettings, after: &RunSettings) -> Vec<String> {
    // By their names in the file, so that no setting is ever forgotten here.
    let fields = |settings| match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => unreachable!("settings are a struct with names"),
    };
    let (before, after) = (fields(before), fields(after));
    let differing = before.iter().filter(|(field, value)| after.get(*field) != Some(*value));
    differing
        .map(|(field, value)| {
            let other = after.get(field).unwrap_or(&serde_json::Value::Null);
            format!("{name}: {field}: {value} and {other}")
        })
        .collect()
}

fn machines(before: &Machine, after: &Machine) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut differ = |what: &str, before: &str, after: &str| {
        if before != after {
            reasons
                .push(format!("measured on different machines: {what}: `{before}` and `{after}`"));
        }
    };
    differ("processor", &before.cpu, &after.cpu);
    differ("cores", &before.cores.to_string(), &after.cores.to_string());
    differ("file system", &before.file_system, &after.file_system);
    differ("kernel", &before.kernel, &after.kernel);
    // The kernel keeps a little for itself, not always the same.
    let (less, more) =
        (before.memory_bytes.min(after.memory_bytes), before.memory_bytes.max(after.memory_bytes));
    if more - less > more / 20 {
        differ("memory", &before.memory_bytes.to_string(), &after.memory_bytes.to_string());
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::sample;

    fn refusal(change: impl Fn(&mut crate::result::RunResult)) -> String {
        let before = sample::document();
        let mut after = sample::document();
        change(&mut after.results[0]);
        let text = matched(&before, &after, false).err().expect("they differ").to_string();
        assert_eq!(matched(&before, &after, true).is_ok(), text.contains("and"), "{text}");
        text
    }

    #[test]
    fn what_is_not_alike_is_refused_with_words() {
        let text = refusal(|result| result.settings.clients = 65);
        assert!(text.contains("ycsb-a: clients: 64 and 65") && text.contains("--force"), "{text}");
        let text = refusal(|result| result.machine.cores = 4);
        assert!(text.contains("different machines: cores: `2` and `4`"), "{text}");
        let text = refusal(|result| result.target.durability = "none".to_owned());
        assert!(text.contains("durability: `fdatasync before each acknowledgement` and `none`"));
        let text = refusal(|result| result.settings.rate = Some(5.0));
        assert!(text.contains("rate: null and 5.0"), "{text}");
    }

    #[test]
    fn nothing_in_common_is_refused_even_by_force() {
        let before = sample::document();
        let mut after = sample::document();
        after.results[0].name = "ycsb-b".to_owned();
        let text = matched(&before, &after, true).err().expect("nothing matches").to_string();
        assert!(text.contains("nothing was measured in both"), "{text}");
        assert!(text.contains("ycsb-b is only in the second"), "{text}");
    }

    #[test]
    fn versions_memory_and_rounds_may_differ() {
        let before = sample::document();
        let mut after = sample::document();
        after.results[0].target.version = "0.2.0".to_owned();
        after.results[0].machine.memory_bytes -= 1 << 20;
        after.results.push(crate::result::RunResult { round: 2, ..after.results[0].clone() });
        let matched = matched(&before, &after, false).expect("they are alike");
        assert_eq!((matched.pairs.len(), matched.alone.len()), (1, 0));
        assert_eq!(matched.pairs[0].1.rounds.len(), 2);
    }
}
