//! The configurations of the guides, in an arrangement of our own: each problem in them is found, and nothing is found
//! in the corrected ones under `examples`.

use berth_check::{Options, Report, Source, check};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn look(folder: &Path) -> Report {
    let mut paths = Vec::new();
    collect(folder, &mut paths);
    paths.sort();
    let sources: Vec<Source> = paths
        .iter()
        .map(|path| {
            let name = path.strip_prefix(folder).expect("it lies in the folder").display().to_string();
            Source::new(name, fs::read(path).expect("a listed file is there"))
        })
        .collect();
    check(&sources, &Options { now: "2026-11-21T12:00:00Z".parse().expect("this is a moment"), only: Vec::new() })
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is part of the repository").flatten() {
        let path = entry.path();
        // What an example says about itself is no runbook.
        if path.is_dir() {
            collect(&path, paths);
        } else if path.file_name().is_some_and(|name| name != "README.md") {
            paths.push(path);
        }
    }
}

fn guide(name: &str) -> Report {
    look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guides").join(name))
}

fn shown(report: &Report) -> String {
    report.findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Rule, file and line of all that is found.
fn found(report: &Report) -> BTreeSet<String> {
    report.findings.iter().map(|f| format!("{} {}:{}", f.rule, f.file, f.line.unwrap_or_default())).collect()
}

fn expect(report: &Report, lines: &[&str]) {
    let expected: BTreeSet<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    assert_eq!(found(report), expected, "\n{}", shown(report));
}

#[test]
fn all_that_is_wrong_with_the_webhost_guide_is_found() {
    expect(
        &guide("webhost"),
        &[
            "compliance-after-score lib/decide.ex:9",
            "connections-over-maximum fly.toml:6",
            "dedicated-for-many berth.yaml:9",
            "dns-switch-downtime migration.md:5",
            "flag-without-effect config/dedicated.exs:11",
            "flag-without-effect config/dedicated.exs:13",
            "flag-without-effect config/dedicated.exs:14",
            "fly-ignored-key fly.toml:30",
            "fly-ignored-key fly.toml:37",
            "limit-by-address nginx.conf:4",
            "limit-by-address nginx.conf:5",
            "limits-contradict nginx.conf:4",
            "limits-contradict nginx.conf:5",
            "moving-tag docker-compose.yml:11",
            "moving-tag docker-compose.yml:17",
            "open-metrics config/shared.exs:23",
            "plan-limits-off config/dedicated.exs:8",
            "proxy-bypass docker-compose.yml:5",
            "published-database docker-compose.yml:12",
            "published-database docker-compose.yml:15",
            "quota-unreachable berth.yaml:6",
            "redirect-to-catch-all nginx.conf:10",
            "retention-below-plan config/shared.exs:15",
            "rpo-below-interval migration.md:11",
            "server-setting-as-parameter config/dedicated.exs:6",
            "server-setting-as-parameter config/shared.exs:10",
            "server-setting-as-parameter config/shared.exs:9",
            "unrendered-template fly.toml:1",
            "variable-missing .env:1",
        ],
    );
}

#[test]
fn all_that_is_wrong_with_the_chrono_guide_is_found() {
    expect(
        &guide("chrono-scraper"),
        &[
            "cache-evicts-jobs docker-compose.yml:5",
            "over-capacity docker-compose.yml:2",
            "rpo-below-interval berth.yaml:7",
            "rpo-below-interval production.md:4",
            "thresholds-contradict .env:1",
        ],
    );
}

#[test]
fn all_that_is_wrong_with_the_linkflow_guide_is_found() {
    expect(
        &guide("linkflow"),
        &[
            "credit-ends berth.yaml:19",
            "failover-without-fencing berth.yaml:17",
            "failover-without-fencing operations.md:6",
            "free-grant-used-up berth.yaml:14",
            "free-quota-exceeded berth.yaml:7",
            "moving-tag berth.yaml:3",
            "moving-tag berth.yaml:5",
            "moving-tag docker-compose.yml:5",
            "moving-tag docker-compose.yml:6",
            "over-capacity docker-compose.yml:3",
            "rpo-below-interval berth.yaml:16",
            "secret-placeholder .env:2",
            "secret-placeholder .env:3",
            "secret-placeholder .env:4",
        ],
    );
}

#[test]
fn all_that_is_wrong_with_the_veloflux_guide_is_found() {
    expect(
        &guide("veloflux"),
        &[
            "moving-tag berth.yaml:3",
            "secret-in-file berth.yaml:10",
            "secret-in-file berth.yaml:11",
            "secret-in-file berth.yaml:16",
            "stack-file berth.yaml:12",
            "stack-file berth.yaml:14",
            "stack-file berth.yaml:17",
            "stack-file berth.yaml:19",
            "stack-file berth.yaml:21",
            "stack-file berth.yaml:23",
            "stack-file berth.yaml:24",
            "stack-file berth.yaml:8",
        ],
    );
}

/// What an example's README says that the guide had wrong is what is found in the guide's own files, and nothing is left out.
#[test]
fn the_examples_name_the_rules_that_find_what_their_guides_have_wrong() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for name in ["webhost", "chrono-scraper", "linkflow", "veloflux"] {
        let readme = fs::read_to_string(examples.join(name).join("README.md")).expect("each example says what it is");
        let named: BTreeSet<String> = readme
            .split("(../../docs/check/")
            .skip(1)
            .filter_map(|rest| Some(rest.split_once(".md)")?.0.to_owned()))
            .collect();
        let found: BTreeSet<String> = guide(name).findings.iter().map(|finding| finding.rule.to_owned()).collect();
        assert_eq!(named, found, "{name}");
    }
}

#[test]
fn nothing_is_found_in_any_example() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut seen = 0;
    for folder in fs::read_dir(&examples).expect("the examples are part of the repository").flatten() {
        let report = look(&folder.path());
        assert!(report.findings.is_empty(), "{}\n{}", folder.path().display(), shown(&report));
        assert!(!report.files.is_empty());
        seen += 1;
    }
    assert_eq!(seen, 5);
}
