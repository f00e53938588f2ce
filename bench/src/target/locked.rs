//! Versions of libraries that are linked in, as the workspace has locked them.

/// The lock file with which this program was built: cargo builds it anew when that changes.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// The version of the package `name` that is linked in, without build metadata.
///
/// # Panics
///
/// If the lock file has no such package, or several versions of it.
pub(super) fn linked_version(name: &str) -> String {
    let versions = versions(LOCK, name);
    let [version] = versions[..] else {
        panic!("Cargo.lock has not one version of {name}, but {versions:?}")
    };
    version.to_owned()
}

fn versions<'a>(lock: &'a str, name: &str) -> Vec<&'a str> {
    let value = |package: &'a str, field: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(" = "));
        line.map(|text| text.trim_matches('"'))
    };
    lock.split("[[package]]")
        .filter(|package| value(package, "name") == Some(name))
        .filter_map(|package| value(package, "version"))
        .map(|version| version.split('+').next().unwrap_or(version))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_that_are_linked_in_have_one_version() {
        for name in ["fjall", "redb"] {
            let version = linked_version(name);
            assert_eq!(version.split('.').count(), 3, "{name} {version}");
        }
    }

    #[test]
    fn only_the_package_itself_counts() {
        let lock = "version = 4\n\n\
            [[package]]\nname = \"a\"\nversion = \"1.2.3+4\"\ndependencies = [\n \"b\",\n]\n\n\
            [[package]]\nname = \"b\"\nversion = \"2.0.0\"\n\n\
            [[package]]\nname = \"ab\"\nversion = \"3.0.0\"\n\n\
            [[package]]\nname = \"b\"\nversion = \"4.0.0\"\n";
        assert_eq!(versions(lock, "a"), ["1.2.3"]);
        assert_eq!(versions(lock, "b"), ["2.0.0", "4.0.0"]);
        assert!(versions(lock, "c").is_empty());
    }
}
