//! The texts that name targets.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::Target;
use super::embedded::EmbeddedTarget;
use super::etcd::Etcd;
use super::fjall::Fjall;
use super::nats::Nats;
use super::redb::Redb;
use super::resp::{Dialect, RespTarget};

/// A target as `--target` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    /// `embedded:N`: the engine in this process, with N replicas.
    Embedded {
        /// How many, 1 to 9.
        replicas: u64,
    },
    /// `resp://HOST:PORT[,…]`: Flotilla over the Redis protocol.
    Resp(Vec<String>),
    /// `redis://HOST:PORT[,…]`: a Redis.
    Redis(Vec<String>),
    /// `etcd://HOST:PORT[,…]`.
    Etcd(Vec<String>),
    /// `nats://HOST:PORT[,…]`: a key-value bucket of JetStream.
    Nats(Vec<String>),
    /// `redb:[DIR]`: redb in this process; without DIR in a fresh directory.
    Redb(Option<PathBuf>),
    /// `fjall:[DIR]`: fjall in this process; without DIR in a fresh directory.
    Fjall(Option<PathBuf>),
}

/// What a target needs to know beyond its text.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Where fresh directories are made; by default the system's place for temporary files.
    pub directory: Option<PathBuf>,
    /// Into how many shards an embedded engine is cut; by default one.
    pub shards: Option<u32>,
    /// Processes of servers that run already, whose cost is to be counted.
    pub processes: Vec<u32>,
}

impl TargetSpec {
    /// Opens it, or checks that it is there.
    ///
    /// # Errors
    ///
    /// If it does not open or nobody answers.
    pub async fn open(&self, options: &OpenOptions) -> anyhow::Result<Arc<dyn Target>> {
        let processes = || options.processes.clone();
        let resp = |dialect, hosts| RespTarget::open(dialect, hosts, processes());
        Ok(match self {
            TargetSpec::Embedded { replicas } => {
                let directory = options.directory.as_deref();
                Arc::new(EmbeddedTarget::open(*replicas, options.shards, directory).await?)
            }
            TargetSpec::Resp(hosts) => Arc::new(resp(Dialect::Flotilla, hosts).await?),
            TargetSpec::Redis(hosts) => Arc::new(resp(Dialect::Redis, hosts).await?),
            TargetSpec::Etcd(hosts) => Arc::new(Etcd::open(hosts, processes()).await?),
            TargetSpec::Nats(hosts) => Arc::new(Nats::open(hosts, processes()).await?),
            TargetSpec::Redb(Some(directory)) => Arc::new(Redb::open(directory)?),
            TargetSpec::Redb(None) => Arc::new(Redb::fresh(options.directory.as_deref())?),
            TargetSpec::Fjall(Some(directory)) => Arc::new(Fjall::open(directory)?),
            TargetSpec::Fjall(None) => Arc::new(Fjall::fresh(options.directory.as_deref())?),
        })
    }
}

impl FromStr for TargetSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<TargetSpec, String> {
        const FORMS: &str = "write embedded:1, embedded:3, resp://HOST:PORT[,HOST:PORT…], redis://…, etcd://…, \
             nats://…, redb:[DIR] or fjall:[DIR]";
        let wrong = |why: &str| Err(format!("`{text}` is not a target: {why}; {FORMS}"));
        let Some((kind, rest)) = text.split_once(':') else {
            return wrong("there is no colon");
        };
        let hosts = || -> Result<Vec<String>, String> {
            let listed = rest.strip_prefix("//").unwrap_or("");
            let hosts: Vec<String> =
                listed.trim_end_matches('/').split(',').map(str::to_owned).collect();
            let is_host = |host: &String| {
                host.rsplit_once(':').is_some_and(|(name, port)| {
                    !name.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
                })
            };
            match hosts.iter().all(is_host) {
                true => Ok(hosts),
                false => Err(format!(
                    "`{text}` is not a target: `{listed}` is no HOST:PORT[,…]; {FORMS}"
                )),
            }
        };
        let directory = || (!rest.is_empty()).then(|| PathBuf::from(rest));
        Ok(match kind {
            "embedded" => match rest.parse() {
                Ok(replicas @ 1..=9) => TargetSpec::Embedded { replicas },
                _ => return wrong("an embedded engine has 1 to 9 replicas"),
            },
            "resp" => TargetSpec::Resp(hosts()?),
            "redis" => TargetSpec::Redis(hosts()?),
            "etcd" => TargetSpec::Etcd(hosts()?),
            "nats" => TargetSpec::Nats(hosts()?),
            "redb" => TargetSpec::Redb(directory()),
            "fjall" => TargetSpec::Fjall(directory()),
            _ => return wrong("nobody of that name is known"),
        })
    }
}

impl fmt::Display for TargetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = |path: &Option<PathBuf>| {
            path.as_ref().map_or_else(String::new, |path| path.display().to_string())
        };
        match self {
            TargetSpec::Embedded { replicas } => write!(f, "embedded:{replicas}"),
            TargetSpec::Resp(hosts) => write!(f, "resp://{}", hosts.join(",")),
            TargetSpec::Redis(hosts) => write!(f, "redis://{}", hosts.join(",")),
            TargetSpec::Etcd(hosts) => write!(f, "etcd://{}", hosts.join(",")),
            TargetSpec::Nats(hosts) => write!(f, "nats://{}", hosts.join(",")),
            TargetSpec::Redb(path) => write!(f, "redb:{}", directory(path)),
            TargetSpec::Fjall(path) => write!(f, "fjall:{}", directory(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_written() {
        for text in [
            "embedded:1",
            "embedded:3",
            "resp://127.0.0.1:7001,127.0.0.1:7002",
            "redis://localhost:6379",
            "etcd://127.0.0.1:2379",
            "nats://127.0.0.1:4222",
            "redb:",
            "redb:/data/x",
            "fjall:",
        ] {
            assert_eq!(text.parse::<TargetSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_forms() {
        for text in [
            "",
            "embedded",
            "embedded:0",
            "embedded:x",
            "resp://",
            "resp:1.2.3.4:5",
            "redis://a",
            "mysql://a:1",
        ] {
            let error = text.parse::<TargetSpec>().unwrap_err();
            assert!(error.contains("embedded:1"), "{error}");
        }
    }
}
