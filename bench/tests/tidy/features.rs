//! Bugs can be planted only where somebody asks for it: no default build of any member can.

use std::process::Command;

use crate::tree::Tree;

/// True if a build with these arguments can plant bugs, as cargo tells.
fn can_plant(arguments: &[&str]) -> bool {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--edges", "normal,build,dev", "--prefix", "none", "--offline", "--locked"])
        .args(["--format", "{p} features:{f}"])
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs, as it ran this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("names of packages are text");
    let lines = text.lines().filter(|line| line.starts_with("flotilla-mutation "));
    let features: Vec<&str> =
        lines.filter_map(|line| line.split_once(" features:")).map(|(_, names)| names).collect();
    assert!(!features.is_empty(), "the crate is not where it is looked for: {arguments:?}");
    features.iter().any(|names| names.split([',', ' ']).any(|name| name == "mutations"))
}

#[test]
fn no_default_build_can_plant_bugs() {
    assert!(!can_plant(&["--workspace"]), "a build of the workspace can plant bugs");
    for package in Tree::load().packages {
        let name = &package.name;
        assert!(!can_plant(&["--package", name]), "a build of {name} can plant bugs");
    }
    let asked = can_plant(&["--package", "flotilla-bench", "--features", "mutations"]);
    assert!(asked, "this test would not see it");
}

/// And the build that runs this test is such a build, unless it was asked for.
#[cfg(not(feature = "mutations"))]
#[test]
fn this_build_cannot_plant_bugs() {
    const { assert!(!flotilla_mutation::ENABLED) };
}
