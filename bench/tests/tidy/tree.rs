//! The repository on disk: its crates, their manifests, and their source files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::source::Source;

/// A package of the workspace.
pub struct Package {
    /// Its name, as in `flotilla-raft`.
    pub name: String,
    /// Its folder from the root of the repository.
    pub folder: String,
    /// Its manifest.
    pub manifest: toml::Table,
    /// Files under `src`. Whole files that only tests compile are marked as such.
    pub sources: Vec<Source>,
    /// Files under `tests`, `benches` and `examples`.
    pub others: Vec<Source>,
}

/// The repository.
pub struct Tree {
    pub root: PathBuf,
    pub packages: Vec<Package>,
}

impl Tree {
    pub fn load() -> Tree {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("bench has a parent");
        let manifest = read_manifest(&root.join("Cargo.toml"));
        let members = manifest["workspace"]["members"].as_array().expect("members is a list");
        let packages = members
            .iter()
            .map(|member| Package::load(root, member.as_str().expect("a member is a folder")))
            .collect();
        Tree { root: root.to_owned(), packages }
    }

    /// All source files: those under `src` first, package by package.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.packages.iter().flat_map(|package| package.sources.iter().chain(&package.others))
    }

    /// Every text file that belongs to the project, with its path from the root.
    pub fn text_files(&self) -> Vec<(String, String)> {
        let mut files = Vec::new();
        walk(&self.root, &mut |path| {
            let name = relative(&self.root, path);
            if name == "Cargo.lock" {
                return;
            }
            // What is not UTF-8 is not text.
            if let Ok(text) = fs::read_to_string(path) {
                files.push((name, text));
            }
        });
        files
    }
}

impl Package {
    fn load(root: &Path, folder: &str) -> Package {
        let home = root.join(folder);
        let manifest = read_manifest(&home.join("Cargo.toml"));
        let name = manifest["package"]["name"].as_str().expect("a package has a name").to_owned();
        let mut sources = read_sources(root, &home.join("src"));
        mark_test_files(&mut sources);
        let mut others = Vec::new();
        for part in ["tests", "benches", "examples"] {
            others.extend(read_sources(root, &home.join(part)));
        }
        for source in &mut others {
            source.mark_all_as_test();
        }
        Package { name, folder: folder.to_owned(), manifest, sources, others }
    }

    /// The names of the packages in one of the manifest's tables of dependencies.
    pub fn dependencies(&self, table: &str) -> BTreeSet<String> {
        let table = self.manifest.get(table).and_then(toml::Value::as_table);
        table.map(|table| table.keys().cloned().collect()).unwrap_or_default()
    }
}

fn read_manifest(path: &Path) -> toml::Table {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_sources(root: &Path, folder: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    walk(folder, &mut |path| {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            sources.push(Source::new(&relative(root, path), &text));
        }
    });
    sources
}

/// Marks files that a `#[cfg(test)] mod name;` elsewhere pulls in, and what lies below them.
fn mark_test_files(sources: &mut [Source]) {
    let mut prefixes = Vec::new();
    for source in sources.iter() {
        let (folder, file) = source.path.rsplit_once('/').expect("sources lie in a folder");
        let stem = file.trim_end_matches(".rs");
        let children = match stem {
            "mod" | "lib" | "main" => folder.to_owned(),
            _ => format!("{folder}/{stem}"),
        };
        for module in &source.test_modules {
            if module.ends_with(".rs") {
                prefixes.push(format!("{folder}/{module}"));
            } else {
                prefixes.push(format!("{children}/{module}.rs"));
                prefixes.push(format!("{children}/{module}/"));
            }
        }
    }
    for source in sources.iter_mut() {
        if prefixes.iter().any(|prefix| source.path.starts_with(prefix)) {
            source.mark_all_as_test();
        }
    }
}

fn relative(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).expect("walked from the root");
    path.to_string_lossy().replace('\\', "/")
}

/// Visits every file below `folder` in the order of names, except build output and what tools keep.
fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        // What cargo built; a module may have that name too.
        let built = path.join("CACHEDIR.TAG").exists();
        if built || matches!(name.as_deref(), Some(".git") | None) {
            continue;
        }
        match path.is_dir() {
            true => walk(&path, visit),
            false => visit(&path),
        }
    }
}
