//! `cargo xtask mutants`: changes one expression of the mover at a time and looks whether one of its tests notices.
//!
//! `cargo mutants` lists what can be changed; which of it is tried, the seed decides. Works in a copy of the last
//! commit, so that whoever edits meanwhile is not in the way; the tests of the copy are those of the workspace. Never
//! counts a mutant as caught by a test that fails once: machines are busy, and tests fail for that too.

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;
use std::{fs, iter};

const RESULTS: &str = "crates/mover/tests/mutants.jsonl";
const PACKAGE: &str = "berth-mover";
/// A mutant that waits for ever is caught by the limit of one test; this ends what is not a test.
const LIMIT_S: &str = "1800";
/// Runs of one mutant in which a test failed once and then did not.
const TRIES: u32 = 3;

/// Which tests, to nextest: those of the profile's default filter, and those that it leaves out.
const QUICK: &[&str] = &[];
const LONG: &[&str] = &["--ignore-default-filter", "-E", "not default()"];

/// What `cargo mutants --list --json --diff` says of one.
#[derive(Deserialize)]
struct Mutant {
    name: String,
    file: String,
    diff: String,
}

/// A line of the results.
#[derive(Clone, Deserialize, Serialize)]
struct Tried {
    mutant: String,
    verdict: Verdict,
    /// The test that failed twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<String>,
    seconds: u64,
    /// The quick tests, or all of them.
    all: bool,
    /// What was changed: places in files are those of this commit.
    #[serde(default)]
    commit: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Caught,
    /// No test noticed.
    Survived,
    /// The compiler refused it: no mutant at all.
    Unviable,
}

/// `arguments`: how many, the seed, `--resume`, in any order but the first two.
pub fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let resume = arguments.contains(&"--resume");
    let mut numbers = arguments.iter().filter(|word| **word != "--resume").map(|word| word.parse::<u64>());
    let count = numbers.next().transpose().context("how many")?.unwrap_or(100);
    let seed = numbers.next().transpose().context("the seed")?.unwrap_or(1);
    let at = |name: &str| root.join("target/mutants").join(name);
    let place = Place { tree: at("tree"), of: at("commit"), target: at("build"), whole: at("whole"), open: at("open") };
    let results = root.join(RESULTS);
    let known = if resume { read(&results)? } else { BTreeMap::new() };
    let begun = known.into_values().map(|tried| tried.commit).find(|commit| !commit.is_empty());
    let commit = match &begun {
        Some(commit) => commit.clone(),
        None => last_commit(root)?,
    };
    if begun.is_none() {
        fs::write(&results, "").context(RESULTS)?;
    }
    if begun.is_none() || fs::read_to_string(&place.of).unwrap_or_default() != commit {
        place.copied(root, &commit)?;
    }
    place.restore()?;
    // Tests that were added for survivors are met by them, in the order and with the limits that hold now.
    for folder in ["crates/mover/tests", ".config"] {
        copy_folder(&root.join(folder), &place.tree.join(folder))?;
    }
    // Servers of other versions, without which their tests say so and end.
    for name in ["postgres-18", "redis-6"] {
        let (there, here) = (root.join("target").join(name), place.tree.join("target").join(name));
        if there.exists() && !here.exists() {
            fs::create_dir_all(place.tree.join("target"))?;
            std::os::unix::fs::symlink(there, here)?;
        }
    }
    let chosen = chosen(place.list()?, usize::try_from(count)?, seed);
    println!("{} mutants with seed {seed}; first none at all, unless that is known", chosen.len());
    let whole = format!("{commit} {:x}", hash_of(&place.tree.join("crates/mover/tests"))?);
    if fs::read_to_string(&place.whole).unwrap_or_default() != whole {
        let (verdict, test) = place.tested(QUICK)?;
        ensure!(verdict == Verdict::Survived, "the tests fail without a mutant: {test:?}");
        fs::write(&place.whole, whole)?;
    }

    // Those whom no quick test notices meet the long ones in the end.
    for all in [false, true] {
        for (nth, mutant) in chosen.iter().enumerate() {
            let known = read(&results)?;
            let open = match known.get(&mutant.name) {
                None => true,
                Some(tried) => all && tried.verdict == Verdict::Survived && !tried.all,
            };
            if !open {
                continue;
            }
            // Only the model looks at nothing but this file, and takes its time.
            let at_once = mutant.file.ends_with("ownership.rs");
            let likely = likely(mutant);
            let likely = &likely.each_ref().map(String::as_str)[..];
            let stages: &[&[&str]] = match (all, at_once) {
                (true, _) => &[LONG],
                (false, true) => &[likely, QUICK, LONG],
                (false, false) => &[likely, QUICK],
            };
            let all = all || at_once;
            let begun = Instant::now();
            let (verdict, test) = place.with(mutant, || place.first_that_notices(stages))?;
            let tried = Tried {
                mutant: mutant.name.clone(),
                verdict,
                test,
                seconds: begun.elapsed().as_secs(),
                all,
                commit: commit.clone(),
            };
            let line = serde_json::to_string(&tried)?;
            println!("{}/{}: {line}", nth + 1, chosen.len());
            let mut file = fs::OpenOptions::new().append(true).open(&results).context(RESULTS)?;
            writeln!(file, "{line}")?;
        }
    }
    let tried = read(&results)?;
    // One line each, the last that was said of it.
    let lines: Vec<String> = tried.values().map(serde_json::to_string).collect::<Result<_, _>>()?;
    fs::write(&results, lines.join("\n") + "\n").context(RESULTS)?;
    let number = |verdict| tried.values().filter(|tried| tried.verdict == verdict).count();
    let (caught, survived) = (number(Verdict::Caught), number(Verdict::Survived));
    println!("{caught} caught, {survived} survived, {} refused by the compiler", number(Verdict::Unviable));
    tried.values().filter(|tried| tried.verdict == Verdict::Survived).for_each(|tried| println!("  {}", tried.mutant));
    Ok(())
}

fn last_commit(root: &Path) -> anyhow::Result<String> {
    let said = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).current_dir(root).output()?;
    ensure!(said.status.success(), "the last commit is not known: {}", String::from_utf8_lossy(&said.stderr));
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}

/// By the hash of seed and name: the choice does not depend on the order of the list.
fn chosen(mut list: Vec<Mutant>, count: usize, seed: u64) -> Vec<Mutant> {
    let rank = |name: &str| {
        iter::once(seed).chain(name.bytes().map(u64::from)).fold(0xcbf2_9ce4_8422_2325_u64, |hash, word| {
            let hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3);
            hash ^ (hash >> 29)
        })
    };
    list.sort_by_key(|mutant| rank(&mutant.name));
    list.truncate(count);
    list
}

/// Those tests whose names speak of what the mutant's file is called by: they notice first, if any do.
fn likely(mutant: &Mutant) -> [String; 4] {
    let stem = Path::new(&mutant.file).file_stem().unwrap_or_default().to_string_lossy();
    let named = format!("kind(lib) | test(/{}/)", stem.get(..4).unwrap_or(&stem));
    ["-E".to_owned(), named, "--no-tests".to_owned(), "pass".to_owned()]
}

fn read(results: &Path) -> anyhow::Result<BTreeMap<String, Tried>> {
    let text = fs::read_to_string(results).context(RESULTS)?;
    let lines = text.lines().map(|line| serde_json::from_str::<Tried>(line).context(RESULTS));
    lines.map(|line| line.map(|tried| (tried.mutant.clone(), tried))).collect()
}

/// The copy, and where it is built.
struct Place {
    tree: PathBuf,
    /// Names the commit that the tree is a copy of.
    of: PathBuf,
    target: PathBuf,
    /// Names the commit and tests that were met without a mutant.
    whole: PathBuf,
    /// The file that a mutant has changed now, and what it said before.
    open: PathBuf,
}

impl Place {
    fn copied(&self, root: &Path, commit: &str) -> anyhow::Result<()> {
        if self.tree.exists() {
            fs::remove_dir_all(&self.tree)?;
        }
        if self.open.exists() {
            fs::remove_file(&self.open)?;
        }
        fs::create_dir_all(&self.tree)?;
        // As new as they are here: what was built of another commit is older.
        let archive = "git -C \"$1\" archive \"$3\" | tar -x -m -C \"$2\"";
        let copied = Command::new("sh").args(["-c", archive, "copy"]).arg(root).arg(&self.tree).arg(commit).status()?;
        ensure!(copied.success(), "commit {commit} could not be copied");
        Ok(fs::write(&self.of, commit)?)
    }

    fn list(&self) -> anyhow::Result<Vec<Mutant>> {
        let listed = Command::new("cargo")
            .args(["mutants", "--list", "--json", "--diff", "-p", PACKAGE, "--no-config"])
            .current_dir(&self.tree)
            .output()?;
        let said = String::from_utf8_lossy(&listed.stderr);
        ensure!(listed.status.success(), "`cargo mutants` is not there or lists nothing: {said}");
        serde_json::from_slice(&listed.stdout).context("the list of `cargo mutants`")
    }

    fn with<T>(&self, mutant: &Mutant, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let path = self.tree.join(&mutant.file);
        let original = fs::read_to_string(&path)?;
        let changed = patched(&original, &mutant.diff).with_context(|| mutant.name.clone())?;
        fs::write(&self.open, format!("{}\n{original}", mutant.file))?;
        fs::write(&path, changed)?;
        let outcome = act();
        self.restore()?;
        outcome
    }

    /// Also what a run that was broken off left changed.
    fn restore(&self) -> anyhow::Result<()> {
        let Ok(open) = fs::read_to_string(&self.open) else { return Ok(()) };
        let (file, original) = open.split_once('\n').context("no file is named")?;
        fs::write(self.tree.join(file), original)?;
        Ok(fs::remove_file(&self.open)?)
    }

    fn first_that_notices(&self, stages: &[&[&str]]) -> anyhow::Result<(Verdict, Option<String>)> {
        for stage in stages {
            match self.tested(stage)? {
                (Verdict::Survived, _) => {}
                said => return Ok(said),
            }
        }
        Ok((Verdict::Survived, None))
    }

    fn tested(&self, which: &[&str]) -> anyhow::Result<(Verdict, Option<String>)> {
        for _ in 0..TRIES {
            let output = self.nextest(&[&["--max-fail", "1:immediate"], which].concat())?;
            match output.status.code() {
                Some(0) => return Ok((Verdict::Survived, None)),
                Some(100) => {}
                Some(101) => return Ok((Verdict::Unviable, None)),
                code => bail!("the tests ended with {code:?}: {}", String::from_utf8_lossy(&output.stderr)),
            }
            let (binary, test) = failed(&String::from_utf8_lossy(&output.stderr)).context("no failed test is named")?;
            let only = format!("binary_id({binary}) & test(={test})");
            let again = self.nextest(&["--ignore-default-filter", "-E", &only])?;
            if again.status.code() == Some(100) {
                return Ok((Verdict::Caught, Some(format!("{binary} {test}"))));
            }
        }
        Ok((Verdict::Survived, None))
    }

    fn nextest(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Command::new("timeout")
            .args([
                "--kill-after=10",
                LIMIT_S,
                "nice",
                "-n",
                "15",
                "cargo",
                "nextest",
                "run",
                "--locked",
                "-p",
                PACKAGE,
            ])
            .args(["--profile", "mutants"])
            .args(["--failure-output", "never", "--status-level", "fail", "--final-status-level", "none"])
            .args(arguments)
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // What a mutant leaves behind in the server that tests share is not for other tests.
            .env("BERTH_TEST_SHARED", "mutants")
            .env("BERTH_CORRUPTION_CASES", "20")
            .output()
            .context("cargo nextest")
    }
}

/// Binary and name of the first test that did not pass.
fn failed(said: &str) -> Option<(String, String)> {
    said.lines().find_map(|line| {
        let (status, rest) = line.trim_start().split_once(" [")?;
        let failed = ["FAIL", "TIMEOUT", "TERMINATING"].contains(&status) || status.starts_with("SIG");
        let (_, name) = rest.split_once("] ").filter(|_| failed)?;
        let name = name.trim_start().strip_prefix('(').and_then(|n| n.split_once(") ")).map_or(name, |(_, name)| name);
        let (binary, test) = name.trim().split_once(' ')?;
        Some((binary.to_owned(), test.trim().to_owned()))
    })
}

/// The text after the diff's hunks.
fn patched(text: &str, diff: &str) -> anyhow::Result<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    // From the last hunk upwards, so that the numbers of the earlier ones stay right.
    for hunk in diff.split("\n@@ -").skip(1).collect::<Vec<_>>().into_iter().rev() {
        let (head, body) = hunk.split_once('\n').context("a hunk without lines")?;
        let first: usize = head.split([',', ' ']).next().unwrap_or_default().parse().context("a hunk's line")?;
        let side = |sign: char| -> Vec<&str> {
            body.lines().filter_map(|l| l.strip_prefix([' ', sign]).or((l.is_empty()).then_some(l))).collect()
        };
        let (old, new) = (side('-'), side('+'));
        let place = first.saturating_sub(1)..(first.saturating_sub(1) + old.len());
        ensure!(lines.get(place.clone()) == Some(&old[..]), "the diff does not fit");
        lines.splice(place, new);
    }
    Ok(lines.join("\n") + "\n")
}

/// Of all its files' contents, in the order of their names.
fn hash_of(folder: &Path) -> anyhow::Result<u64> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    entries.sort();
    let mut hasher = DefaultHasher::new();
    for path in entries {
        if path.is_dir() {
            hash_of(&path)?.hash(&mut hasher);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            fs::read(&path)?.hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from)? {
        let (path, target) = {
            let e = entry?;
            (e.path(), to.join(e.file_name()))
        };
        if path.is_dir() {
            fs::create_dir_all(&target)?;
            copy_folder(&path, &target)?;
        // An unchanged file keeps its time, or all would be built again.
        } else if fs::read(&path)? != fs::read(&target).unwrap_or_default() {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{failed, patched};

    #[test]
    fn a_hunk_replaces_the_lines_that_it_names() {
        let text = "a\n\nb\nc\nd\n";
        let diff = "--- f\n+++ g\n@@ -2,3 +2,3 @@\n \n-b\n+B\n c\n";
        assert_eq!(patched(text, diff).expect("it fits"), "a\n\nB\nc\nd\n");
        assert!(patched("a\n\nx\nc\n", diff).is_err());
    }

    #[test]
    fn the_failed_test_is_found_among_what_was_said() {
        let said =
            "    Starting 2 tests\n        PASS [   0.1s] (1/2) p a::b\n        FAIL [   0.008s] ( 2/56) p::q c_d\n";
        assert_eq!(failed(said), Some(("p::q".to_owned(), "c_d".to_owned())));
        assert_eq!(failed("     TIMEOUT [ 180.0s] p x::y\n"), Some(("p".to_owned(), "x::y".to_owned())));
        assert_eq!(failed("    PASS [   0.1s] (1/2) p a\n"), None);
    }
}
