//! What this program was built from, as far as it can be told when it runs.
//!
//! Nothing is fixed while it is built, so that it builds without git and is built again only when
//! its code changes. The price: git is asked about the source tree as it is now.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// `v0.1.0-12-gabc1234`, with `-dirty` behind it if files were changed since that commit, and
/// with `before ` in front of it if this program was built before it; `build` and a number where
/// the source tree is gone but the linker left a build id; otherwise `unknown`.
pub fn revision() -> String {
    let program = std::env::current_exe().ok();
    let built = program.as_ref().and_then(|path| path.metadata().ok()?.modified().ok());
    let build_id = || build_id(&fs::read(program.as_ref()?).ok()?);
    describe(Path::new(env!("CARGO_MANIFEST_DIR")), built)
        .or_else(|| build_id().map(|id| format!("build {id}")))
        .unwrap_or_else(|| "unknown".to_owned())
}

fn describe(tree: &Path, built: Option<SystemTime>) -> Option<String> {
    // A folder above may be under git without knowing anything of this one.
    git(tree, &["ls-files", "--error-unmatch", "Cargo.toml"])?;
    let name = git(tree, &["describe", "--tags", "--always", "--dirty"])?;
    let committed = git(tree, &["log", "-1", "--format=%ct"])?.parse().ok()?;
    let committed = SystemTime::UNIX_EPOCH + Duration::from_secs(committed);
    Some(match built.is_some_and(|built| built < committed) {
        true => format!("before {name}"),
        false => name,
    })
}

fn git(tree: &Path, arguments: &[&str]) -> Option<String> {
    // Without locks: looking must not disturb who works there.
    let mut command = Command::new("git");
    command.arg("--no-optional-locks").arg("-C").arg(tree).args(arguments);
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// The GNU build id of a 64-bit ELF program, the first 16 hexadecimal digits.
fn build_id(program: &[u8]) -> Option<String> {
    let number = |at: usize, length: usize| -> Option<usize> {
        let bytes = program.get(at..at.checked_add(length)?)?;
        let value = bytes
            .iter()
            .rev()
            .try_fold(0_u64, |sum, byte| Some(sum.checked_mul(256)? + u64::from(*byte)))?;
        usize::try_from(value).ok()
    };
    // Little endian, 64 bits.
    if program.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, entry_bytes, entries) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for entry in 0..entries {
        let header = table.checked_add(entry * entry_bytes)?;
        const NOTE: usize = 4;
        if number(header, 4)? != NOTE {
            continue;
        }
        let (mut at, bytes) = (number(header + 8, 8)?, number(header + 32, 8)?);
        let end = at.checked_add(bytes)?;
        while at < end.min(program.len()) {
            let (name_bytes, value_bytes, kind) =
                (number(at, 4)?, number(at + 4, 4)?, number(at + 8, 4)?);
            let name = at + 12;
            let value = name + name_bytes.next_multiple_of(4);
            const BUILD_ID: usize = 3;
            if kind == BUILD_ID && program.get(name..name + name_bytes)? == b"GNU\0" {
                let id = program.get(value..value.checked_add(value_bytes)?)?;
                return Some(id.iter().take(8).map(|byte| format!("{byte:02x}")).collect());
            }
            at = value + value_bytes.next_multiple_of(4);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs git, or tells that there is none.
    fn run(tree: &Path, arguments: &[&str]) -> bool {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"];
        let mut command = Command::new("git");
        command.arg("-C").arg(tree).args(identity).args(arguments);
        command.output().is_ok_and(|output| output.status.success())
    }

    #[test]
    fn a_tree_is_named_by_its_commit_and_by_what_was_changed_since() {
        let tree = tempfile::tempdir().unwrap();
        if !run(tree.path(), &["init"]) {
            return; // Without git there is nothing to ask.
        }
        assert_eq!(describe(tree.path(), None), None);
        fs::write(tree.path().join("Cargo.toml"), "a").unwrap();
        assert!(run(tree.path(), &["add", "Cargo.toml"]));
        assert!(run(tree.path(), &["commit", "-m", "a"]));
        assert!(run(tree.path(), &["tag", "v1"]));
        let later = Some(SystemTime::now() + Duration::from_secs(10));
        assert_eq!(describe(tree.path(), later).unwrap(), "v1");
        assert_eq!(describe(tree.path(), Some(SystemTime::UNIX_EPOCH)).unwrap(), "before v1");
        fs::write(tree.path().join("Cargo.toml"), "b").unwrap();
        assert_eq!(describe(tree.path(), later).unwrap(), "v1-dirty");
        let below = tree.path().join("below");
        fs::create_dir(&below).unwrap();
        assert_eq!(describe(&below, later), None);
    }

    #[test]
    fn build_ids_are_read_from_whole_and_from_cut_programs() {
        let mut elf = vec![0_u8; 64 + 56 + 36];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64; // The table of segments follows the header,
        elf[54] = 56;
        elf[56] = 1; // has one entry,
        elf[64] = 4; // a note,
        elf[64 + 8] = 120; // right behind it,
        elf[64 + 32] = 36; // of 36 bytes.
        elf[120..132].copy_from_slice(&[4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0]);
        elf[132..136].copy_from_slice(b"GNU\0");
        elf[136..156].fill(0xab);
        assert_eq!(build_id(&elf).unwrap(), "abababababababab");
        for length in 0..elf.len() {
            assert_eq!(build_id(&elf[..length]), None, "{length}");
        }
        elf[132] = b'g';
        assert_eq!(build_id(&elf), None);
    }

    #[test]
    fn this_program_has_some_revision() {
        assert!(!revision().is_empty());
    }
}
