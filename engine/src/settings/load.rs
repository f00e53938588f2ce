//! Defaults, file, environment, flags: one above the other, each value's origin kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Config, FileFormat};
use serde::{Deserialize, Deserializer, de};

use super::{Invalid, Settings};

/// The beginning of the names of environment variables that set something.
const PREFIX: &str = "FLOTILLA_";
/// The variable that names the file; it is no key of the file itself.
const FILE_VARIABLE: &str = "FLOTILLA_CONFIG";

/// Every key that can be set, dotted, in the order in which they are printed.
pub(super) const KEYS: [&str; 31] = [
    "cluster_name",
    "node_id",
    "data_dir",
    "peer_addr",
    "resp_addr",
    "admin_addr",
    "peers",
    "shards",
    "split_at",
    "lanes",
    "log",
    "insecure",
    "raft.election_timeout",
    "raft.heartbeat_interval",
    "raft.clock_skew_max",
    "raft.reads",
    "raft.clock_drift_max",
    "storage.memtable_bytes",
    "storage.merged_memtable_bytes",
    "storage.cache_bytes",
    "storage.segment_bytes",
    "storage.checkpoint_age",
    "storage.disk_reserve",
    "storage.disk_stall_max",
    "storage.log_retain",
    "storage.snapshot_rate",
    "storage.accept_data_loss",
    "limits.key_bytes_max",
    "limits.value_bytes_max",
    "limits.budget_bytes",
    "limits.connections_max",
];

/// What [`load`] reads, lowest layer first; the defaults lie below all of them.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// The file given by flag. `None`: the one that the variable `FLOTILLA_CONFIG` names, if any.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `FLOTILLA_` are passed over.
    pub environment: Vec<(String, String)>,
    /// Dotted keys with the values that flags gave them.
    pub flags: Vec<(&'static str, String)>,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of this file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// A command line flag: this one.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Settings with their origins.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Loaded {
    /// The settings in force. Checked: [`Settings::check`] found nothing.
    pub settings: Settings,
    /// The origin of every key.
    pub origins: BTreeMap<&'static str, Origin>,
    /// `FLOTILLA_…` variables that name no key, so that whoever starts the node can say so.
    pub ignored_variables: Vec<String>,
}

/// Why settings could not be loaded. Every text names the file, variable or flag at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or a value in it is not what its key wants.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// The file has a key that does not exist.
    #[error("{}: unknown key `{key}`; known here are: {known}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key, dotted.
        key: String,
        /// The keys that exist at that place, or the sections.
        known: String,
    },
    /// An environment variable has a value that its key does not take.
    #[error("environment variable {variable}={value}: {message}")]
    Variable {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
        /// What is wrong.
        message: String,
    },
    /// A flag has a value that its key does not take.
    #[error("{flag} {value}: {message}")]
    Flag {
        /// The flag.
        flag: String,
        /// Its value.
        value: String,
        /// What is wrong.
        message: String,
    },
    /// Each value is well formed, but together they make no sense.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Puts the layers together and checks the result.
///
/// # Errors
///
/// [`SettingsError`]; of a layer's bad values the first is reported, of contradictions all.
pub fn load(layers: &Layers) -> Result<Loaded, SettingsError> {
    let mut builder = Config::builder();
    let mut origins: BTreeMap<&'static str, Origin> =
        KEYS.iter().map(|key| (*key, Origin::Default)).collect();

    let named =
        layers.environment.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty());
    if let Some(path) = layers.file.clone().or_else(|| named.map(|(_, path)| PathBuf::from(path))) {
        let text = std::fs::read_to_string(&path)
            .map_err(|source| SettingsError::Read { path: path.clone(), source })?;
        for key in read_strictly(&path, &text)? {
            origins.insert(key, Origin::File(path.clone()));
        }
        builder = builder.add_source(config::File::from_str(&text, FileFormat::Toml));
    }

    let mut known = config::Map::new();
    let mut ignored_variables = Vec::new();
    for (variable, value) in &layers.environment {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        let dotted = name.to_ascii_lowercase().replace("__", ".");
        let Some(key) = KEYS.iter().copied().find(|key| *key == dotted) else {
            if variable != FILE_VARIABLE {
                ignored_variables.push(variable.clone());
            }
            continue;
        };
        alone(key, value).map_err(|message| SettingsError::Variable {
            variable: variable.clone(),
            value: value.clone(),
            message,
        })?;
        known.insert(variable.clone(), value.clone());
        origins.insert(key, Origin::Environment(variable.clone()));
    }
    ignored_variables.sort_unstable();
    builder = builder.add_source(
        config::Environment::with_prefix("FLOTILLA")
            .prefix_separator("_")
            .separator("__")
            .source(Some(known)),
    );

    for (key, value) in &layers.flags {
        let flag = format!("--{}", key.rsplit('.').next().unwrap_or(key).replace('_', "-"));
        let refuse =
            |message| SettingsError::Flag { flag: flag.clone(), value: value.clone(), message };
        alone(key, value).map_err(refuse)?;
        builder =
            builder.set_override(*key, value.as_str()).map_err(|error| refuse(plain(&error)))?;
        origins.insert(key, Origin::Flag(flag.clone()));
    }

    // Each layer was understood by itself, so together they can only contradict each other.
    let settings: Settings = builder
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|error| Invalid { problems: vec![plain(&error)] })?;
    settings.check()?;
    Ok(Loaded { settings, origins, ignored_variables })
}

impl Loaded {
    /// The settings in force as TOML, each line with its origin as a comment. Reading it back as a
    /// file gives the same settings.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for (key, value) in self.settings.values() {
            let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
            if table != section {
                text.push_str(&format!("\n[{table}]\n"));
                section = table;
            }
            let line = match value {
                Some(value) => format!("{name} = {value}"),
                None => format!("# {name} is not set"),
            };
            text.push_str(&format!("{line:<40} # {}\n", self.origins[key]));
        }
        text
    }
}

impl Settings {
    /// Every key with its value as TOML writes it; `None` if it is not set.
    pub(crate) fn values(&self) -> Vec<(&'static str, Option<String>)> {
        let table =
            toml::Value::try_from(self).expect("settings are plain data that TOML can hold");
        let find = |key: &str| {
            key.split('.').try_fold(&table, |value, part| value.get(part)).map(ToString::to_string)
        };
        KEYS.iter().map(|key| (*key, find(key))).collect()
    }
}

/// Reads a file's text with nothing above or below it; returns the keys that it sets.
fn read_strictly(path: &Path, text: &str) -> Result<Vec<&'static str>, SettingsError> {
    let bad = |message: String| SettingsError::File { path: path.to_owned(), message };
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| bad(error.to_string()))?;
    let mut keys = Vec::new();
    for (name, value) in &table {
        if let Some(key) = known_key(name) {
            keys.push(key);
            continue;
        }
        let prefix = format!("{name}.");
        let unknown = |key: String, known: String| SettingsError::UnknownKey {
            path: path.to_owned(),
            key,
            known,
        };
        match value {
            toml::Value::Table(section) if KEYS.iter().any(|key| key.starts_with(&prefix)) => {
                for name in section.keys() {
                    let dotted = format!("{prefix}{name}");
                    let key = known_key(&dotted)
                        .ok_or_else(|| unknown(dotted.clone(), names_below(&prefix)))?;
                    keys.push(key);
                }
            }
            _ => return Err(unknown(name.clone(), names_below(""))),
        }
    }
    Config::builder()
        .add_source(config::File::from_str(text, FileFormat::Toml))
        .build()
        .and_then(Config::try_deserialize::<Settings>)
        .map_err(|error| bad(plain(&error)))?;
    Ok(keys)
}

/// Reads one value with nothing around it, so that what is wrong with it is wrong with it alone.
fn alone(key: &str, value: &str) -> Result<Settings, String> {
    Config::builder()
        .set_override(key, value)
        .and_then(|builder| builder.build())
        .and_then(Config::try_deserialize)
        .map_err(|error| plain(&error))
}

fn known_key(name: &str) -> Option<&'static str> {
    KEYS.iter().copied().find(|key| *key == name)
}

/// The keys right below `prefix`; at the top the names of sections too.
fn names_below(prefix: &str) -> String {
    let mut names: Vec<String> = Vec::new();
    for key in KEYS.iter().filter_map(|key| key.strip_prefix(prefix)) {
        let name = match key.split_once('.') {
            Some((section, _)) => format!("[{section}]"),
            None => key.to_owned(),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

/// An error of the `config` crate without the layers' inner names for their sources.
fn plain(error: &config::ConfigError) -> String {
    error.to_string()
}

/// Reads a list of texts, or one text with commas between its items.
pub(super) fn list_or_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    struct Visitor;

    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of keys, or keys with commas between them")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            if text.is_empty() {
                return Ok(Vec::new());
            }
            Ok(text.split(',').map(str::to_owned).collect())
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Vec<String>, A::Error> {
            Vec::deserialize(de::value::SeqAccessDeserializer::new(seq))
        }
    }

    deserializer.deserialize_any(Visitor)
}
