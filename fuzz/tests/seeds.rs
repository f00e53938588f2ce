//! The seeds are what the code makes of them, and no target finds fault with them: runs without a
//! fuzzer. `UPDATE=1` writes them anew.

use std::fs;
use std::path::{Path, PathBuf};

use flotilla_fuzz::{TARGETS, seeds};

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

#[test]
fn seeds_are_those_of_the_code() {
    for (target, name, bytes) in seeds::all() {
        let path = home().join(target).join(&name);
        if std::env::var_os("UPDATE").is_some() {
            fs::create_dir_all(path.parent().expect("a folder")).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let kept = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(kept == bytes, "{} is not what the code makes: UPDATE=1", path.display());
    }
}

/// Everything below `seeds/`, what was found and kept there too.
#[test]
fn no_target_finds_fault_with_what_is_kept() {
    let mut bytes = 0;
    for (target, run) in TARGETS {
        let mut count = 0;
        for entry in fs::read_dir(home().join(target)).unwrap() {
            let seed = fs::read(entry.unwrap().path()).unwrap();
            bytes += seed.len();
            run(&seed);
            count += 1;
        }
        assert!(count > 5, "{target} has {count} seeds");
    }
    assert!(bytes < 100 << 10, "{bytes} bytes of seeds");
}
