//! Configuration: a file's text, environment variables and flags.
//!
//! Promises: what is accepted has no contradictions, and printed as a file it is read back as the
//! same settings; what is refused is refused with a reason that names its place.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use flotilla::settings::{Layers, Origin, SettingsError, load};
use tempfile::TempDir;

/// Keys that flags set, as the command line has them.
const FLAGS: [&str; 8] = [
    "cluster_name",
    "node_id",
    "peers",
    "split_at",
    "raft.election_timeout",
    "raft.reads",
    "storage.memtable_bytes",
    "limits.value_bytes_max",
];

thread_local! {
    static DIRECTORY: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

fn file() -> PathBuf {
    DIRECTORY.with_borrow_mut(|directory| {
        let directory = directory.get_or_insert_with(|| {
            let memory = Path::new("/dev/shm");
            let made = match memory.is_dir() {
                true => tempfile::tempdir_in(memory),
                false => tempfile::tempdir(),
            };
            made.expect("a temporary directory")
        });
        directory.path().join("node.toml")
    })
}

/// The file's text; after a zero byte `NAME=value` for each variable, after another `n=value` for
/// each flag, line by line.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.splitn(3, '\0');
    let (toml, environment, flags) = (parts.next(), parts.next(), parts.next());
    let path = file();
    fs::write(&path, toml.unwrap_or_default()).expect("a file of its own");
    let environment: Vec<(String, String)> = pairs(environment)
        .map(|(name, value)| (format!("FLOTILLA_{name}"), value.to_owned()))
        .filter(|(name, _)| name != "FLOTILLA_CONFIG")
        .collect();
    let flags = pairs(flags)
        .filter_map(|(number, value)| {
            Some((*FLAGS.get(number.parse::<usize>().ok()?)?, value.to_owned()))
        })
        .collect();
    let layers = Layers { file: Some(path.clone()), environment, flags };
    let loaded = match load(&layers) {
        Ok(loaded) => loaded,
        Err(error) => return check_error(&error, &path),
    };

    let settings = &loaded.settings;
    assert_eq!(settings.check(), Ok(()));
    assert!(settings.split_keys().is_ok());
    assert!(settings.insecure || settings.exposed_addresses().is_empty());
    let set = layers.flags.iter().map(|(key, _)| *key);
    for key in set {
        assert!(matches!(loaded.origins[key], Origin::Flag(_)), "{key}");
    }
    let printed = loaded.to_toml();
    fs::write(&path, &printed).expect("a file of its own");
    let again = load(&Layers { file: Some(path), ..Layers::default() });
    let again = again.unwrap_or_else(|error| panic!("{error}: {printed}"));
    assert_eq!(again.settings, loaded.settings, "{printed}");
    assert!(again.ignored_variables.is_empty());
}

fn pairs(lines: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    lines.unwrap_or_default().lines().filter_map(|line| line.split_once('='))
}

fn check_error(error: &SettingsError, path: &Path) {
    let words = error.to_string();
    match error {
        SettingsError::Read { .. } => panic!("the file is there: {words}"),
        SettingsError::File { .. } | SettingsError::UnknownKey { .. } => {
            assert!(words.contains(&path.display().to_string()), "{words}");
        }
        SettingsError::Variable { variable, .. } => assert!(words.contains(variable), "{words}"),
        SettingsError::Flag { flag, .. } => assert!(words.contains(flag), "{words}"),
        SettingsError::Invalid(invalid) => assert!(!invalid.problems.is_empty()),
        _ => {}
    }
    assert!(!words.trim().is_empty());
}
