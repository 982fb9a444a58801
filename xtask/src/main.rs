//! `cargo xtask check`: the rules of the workspace that a program can check. `cargo xtask sqlx`: renews the data
//! against which the control plane's SQL is checked at build time. `cargo xtask mutants`: whether the mover's tests
//! notice a changed mover.
//!
//! Never part of the product: nothing depends on this crate, and it changes no file except by `sqlx` and the results
//! of `mutants`.

mod arrows;
mod licences;
mod metadata;
mod mutants;
mod sources;
mod sql;
mod sqlx;

use anyhow::{Context as _, bail, ensure};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const USAGE: &str =
    "usage: cargo xtask check | cargo xtask sqlx [--check] | cargo xtask mutants [COUNT] [SEED] [--resume]";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?.to_owned();
    match arguments[..] {
        ["check"] => check(&root),
        ["sqlx"] => sqlx::renew(&root),
        ["sqlx", "--check"] => sqlx::check(&root),
        ["mutants", ref rest @ ..] => mutants::run(&root, rest),
        _ => bail!(USAGE),
    }
}

/// Runs every check, and fails at the end: whoever repairs wants to see all of it.
fn check(root: &Path) -> anyhow::Result<()> {
    let metadata = metadata::read(root)?;
    let files = tracked_files(root)?;
    let mut faults = Vec::new();
    let mut warnings = Vec::new();

    faults.extend(arrows::faults(&metadata));
    faults.extend(licences::faults(&metadata));
    faults.extend(map_faults(root, &metadata)?);
    faults.extend(sql::faults(&read_all(root, &files, "crates/store/migrations/", ".sql")));
    for file in &files {
        let Ok(bytes) = fs::read(root.join(file)) else { continue };
        let name = file.to_string_lossy();
        let found = sources::look(&name, &bytes);
        faults.extend(found.faults);
        warnings.extend(found.warnings);
    }
    if !Command::new("cargo").args(["fmt", "--all", "--check", "--", "-l"]).current_dir(root).status()?.success() {
        faults.push("formatting: `cargo fmt --all` changes files".to_owned());
    }
    if let Err(error) = sqlx::check(root) {
        faults.push(format!("{error:#}"));
    }

    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    for fault in &faults {
        eprintln!("error: {fault}");
    }
    println!("{} files looked at; the demo's build has {} crates", files.len(), demo_crates(root)?);
    ensure!(faults.is_empty(), "{} rules broken", faults.len());
    Ok(())
}

/// The map in ARCHITECTURE.md has a line per crate, and each says what its crate never knows.
fn map_faults(root: &Path, metadata: &metadata::Metadata) -> anyhow::Result<Vec<String>> {
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let names = metadata.workspace().map(|package| package.name.trim_start_matches("berth-"));
    Ok(sources::map_faults(&map, names))
}

fn tracked_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().context("git ls-files")?;
    ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).context("file names are UTF-8")?;
    Ok(names.split_terminator('\0').map(PathBuf::from).collect())
}

fn read_all(root: &Path, files: &[PathBuf], folder: &str, ending: &str) -> String {
    let wanted =
        |file: &&PathBuf| file.to_string_lossy().starts_with(folder) && file.to_string_lossy().ends_with(ending);
    files.iter().filter(wanted).filter_map(|file| fs::read_to_string(root.join(file)).ok()).collect()
}

/// How many crates `scripts/demo` compiles, ours included.
fn demo_crates(root: &Path) -> anyhow::Result<usize> {
    let tree = Command::new("cargo")
        .args(["tree", "--locked", "-p", "berth", "-p", "fleet", "-e", "normal,build", "--prefix", "none", "-f", "{p}"])
        .current_dir(root)
        .output()
        .context("cargo tree")?;
    ensure!(tree.status.success(), "cargo tree: {}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).context("crate names are UTF-8")?;
    let crates: BTreeSet<&str> =
        text.lines().map(|line| line.trim_end_matches(" (*)")).filter(|l| !l.is_empty()).collect();
    Ok(crates.len())
}
