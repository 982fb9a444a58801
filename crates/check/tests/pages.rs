//! Each rule's page is its test: what fails there is found, what passes there is left alone, and the list of pages is
//! complete.

use berth_check::{Options, Page, RULES, Report, Rule, Severity, Source, check, named};
use jiff::Timestamp;
use proptest::prelude::*;
use std::{collections::BTreeSet, fs, path::Path};

fn look(sources: &[Source]) -> Report {
    // The certificates on the pages were made on this day.
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().expect("this is a moment");
    check(sources, &Options { now, only: Vec::new() })
}

fn shown(report: &Report) -> String {
    report.findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_failing_example_is_found_by_its_rule_and_by_no_other_error() {
    for rule in RULES {
        let fails = rule.page.fails();
        assert!(!fails.is_empty(), "{} has no failing example", rule.id);
        for (n, example) in fails.iter().enumerate() {
            let report = look(&example.sources);
            let found = report.findings.iter().filter(|finding| finding.rule == rule.id).count();
            assert!(found > 0, "{}, example {n}: not found\n{}", rule.id, shown(&report));
            let others: BTreeSet<&str> =
                report.findings.iter().map(|finding| finding.rule).filter(|id| *id != rule.id).collect();
            let expected: BTreeSet<&str> =
                ALSO.iter().filter(|(id, _)| *id == rule.id).map(|(_, also)| *also).collect();
            assert!(others.is_subset(&expected), "{}, example {n}:\n{}", rule.id, shown(&report));
        }
    }
}

/// Examples that cannot be wrong in one way alone.
const ALSO: &[(&str, &str)] = &[];

#[test]
fn nothing_at_all_is_found_in_a_passing_example() {
    for rule in RULES {
        let passes = rule.page.passes();
        assert!(!passes.is_empty(), "{} has no passing example", rule.id);
        for (n, example) in passes.iter().enumerate() {
            let report = look(&example.sources);
            assert!(report.findings.is_empty(), "{}, example {n}:\n{}", rule.id, shown(&report));
        }
    }
}

#[test]
fn every_finding_names_a_line_and_a_remedy() {
    for rule in RULES {
        for finding in rule.page.fails().iter().flat_map(|example| look(&example.sources).findings) {
            let unknown_kind = finding.rule == "unreadable";
            assert!(finding.line.is_some() || unknown_kind, "{finding}");
            assert!(!finding.message.is_empty() && !finding.remedy.is_empty(), "{finding}");
        }
    }
}

#[test]
fn a_page_says_its_rule_and_severity() {
    for rule in RULES {
        let text = rule.page.text();
        assert!(text.starts_with(&format!("# {}\n", rule.id)), "{}", rule.id);
        assert!(rule.page.subtitle().starts_with(&format!("*{}, looks at: ", rule.severity)), "{}", rule.id);
        assert!(text.contains("**What to do.** "), "{}", rule.id);
        assert!(rule.page.summary().ends_with('.'), "{}: {}", rule.id, rule.page.summary());
    }
}

#[test]
fn the_list_of_rules_names_each_with_its_page_and_no_other() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let list = fs::read_to_string(docs.join("check.md")).expect("docs/check.md is part of the repository");
    let row = |rule: &Rule| {
        let (id, severity, summary) = (rule.id, rule.severity, rule.page.summary());
        format!("| [{id}](check/{id}.md) | {severity} | {summary} |\n")
    };
    let rows = RULES.iter().map(row).collect::<Vec<_>>().concat();
    assert!(list.contains(&rows), "docs/check.md should hold these lines:\n{rows}");
    let pages: BTreeSet<String> = fs::read_dir(docs.join("check"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().trim_end_matches(".md").to_owned())
        .collect();
    let rules: BTreeSet<String> = RULES.iter().map(|rule| rule.id.to_owned()).collect();
    assert_eq!(pages, rules);
}

#[test]
fn no_value_that_may_be_a_secret_is_repeated() {
    let text = "services:\n  db:\n    image: postgres:15.8\n    environment:\n      POSTGRES_PASSWORD: hunter2-of-ours\n\
                \x20     DATABASE_URL: postgresql://u:hunter2-of-ours@db1,db2/x?options=-c%20port%3D1\n";
    let env = "DEPLOYMENT_MODE=multi_tenant\nSECRET_KEY_BASE=changeme-hunter2\nPOOL_SIZE=hunter2\n";
    let sources = [Source::new("docker-compose.yml", text), Source::new(".env", env)];
    let report = look(&sources);
    assert!(report.findings.len() > 4, "{}", shown(&report));
    assert!(!shown(&report).contains("hunter2"), "{}", shown(&report));
}

#[test]
fn connections_are_an_error_where_files_name_the_pools_and_else_a_warning() {
    let with = |services: &str| {
        let text = format!("stack: s\nservices:\n  web: {{ command: [./web], health: /h, {services} }}\n");
        let source = Source::new("berth.yaml", text);
        let report = look(std::slice::from_ref(&source));
        let found: BTreeSet<_> = report.findings.iter().map(|f| (f.rule, f.severity)).collect();
        (found, named(&[source]).connections)
    };
    let over = |severity| BTreeSet::from([("connections-over-maximum", severity)]);
    assert_eq!(with("scale: { max: 8 }"), (over(Severity::Warning), None));
    assert_eq!(with("scale: { max: 8 }, env: { POOL_SIZE: 20 }"), (over(Severity::Error), Some(160)));
    let jobs = |env: &str| {
        format!("env: {{ POOL_SIZE: 20 }} }}\n  jobs: {{ command: [celery, --concurrency, \"8\"], role: worker, {env}")
    };
    assert_eq!(with(&jobs("copies: 1")), (BTreeSet::new(), Some(20)));
    assert_eq!(with(&jobs("copies: 6")), (over(Severity::Warning), Some(20)));
    assert_eq!(with(&jobs("env: { POOL_SIZE: 20 }")), (over(Severity::Error), Some(180)));
}

#[test]
fn only_the_rules_asked_for_are_reported() {
    let example = &page("published-database").fails()[0];
    let now = "2026-11-21T12:00:00Z".parse().unwrap();
    let only = |id: &str| check(&example.sources, &Options { now, only: vec![id.to_owned()] }).findings.len();
    assert_eq!((only("published-database"), only("moving-tag")), (2, 0));
}

#[test]
fn a_silence_holds_for_its_rule_and_file_and_keeps_its_reason() {
    let example = &page("published-database").fails()[0];
    let stack = |file: &str| {
        Source::new(
            "berth.yaml",
            format!(
                "stack: s\nservices: {{ web: {{ command: [a], health: /h }} }}\ncheck:\n  silence:\n    - {{ rule: published-database, file: {file}, reason: a firewall of the provider stands before it }}\n"
            ),
        )
    };
    let report = look(&[example.sources[0].clone(), stack("docker-compose.yml")]);
    assert_eq!((report.findings.len(), report.silenced.len()), (0, 2), "{}", shown(&report));
    assert_eq!(report.silenced[0].reason, "a firewall of the provider stands before it");
    let report = look(&[example.sources[0].clone(), stack("other.yml")]);
    assert_eq!(report.count(Severity::Error), 2);
    assert!(shown(&report).contains("silence-unused"), "{}", shown(&report));
}

#[test]
fn what_somebody_else_carries_out_is_said_and_is_no_finding() {
    let file = "stack: s
services: { web: { command: [a], health: /h } }
alerts: { by: a mailer, error_percent: { warning: 3 }, cpu_percent: { warning: 80 } }
backups: { by: pgBackRest, every: 5m, to: elsewhere, rpo: 15m, rto: 1h }
failover: { by: Patroni, to: elsewhere, automatic: true, fence: a lease, copied_every: 1m }
";
    let report = look(&[Source::new("berth.yaml", file)]);
    assert_eq!(report.findings, []);
    assert_eq!(
        report.stated,
        [
            "`alerts`: sent by a mailer, not by Berth; `berth render` writes rules of error_percent; it has no rule of cpu_percent",
            "`backups`: made by pgBackRest. Berth makes none; it holds `rpo` against `every`, and sees nothing of to, rto",
            "`failover`: carried out by Patroni, also by itself. Berth carries out none; it asks for a `fence`, and holds `copied_every` against `backups.rpo`",
        ]
    );
    let hook = file.replace("a mailer", "https://hooks.test/hunter2");
    let stated = look(&[Source::new("berth.yaml", hook)]).stated.join(" ");
    assert!(stated.contains("sent by what `alerts.by` names") && !stated.contains("hunter2"), "{stated}");
    let plain = file.split("alerts:").next().unwrap_or_default();
    assert!(look(&[Source::new("berth.yaml", plain)]).stated.is_empty());
}

fn page(id: &str) -> Page {
    RULES.iter().find(|rule| rule.id == id).expect("this rule is in the list").page
}

/// A text of the pages with something in it changed: cut off, a line lost or doubled, a character swapped.
fn damaged() -> impl Strategy<Value = Source> {
    let all: Vec<Source> = RULES
        .iter()
        .flat_map(|rule| rule.page.fails().into_iter().chain(rule.page.passes()))
        .flat_map(|e| e.sources)
        .collect();
    (prop::sample::select(all), 0_usize..5, any::<prop::sample::Index>(), any::<char>()).prop_map(
        |(source, how, at, c)| {
            let mut chars: Vec<char> = source.text.clone().unwrap_or_default().chars().collect();
            let at = at.index(chars.len().max(1));
            match how {
                0 => chars.truncate(at),
                1 if at < chars.len() => chars[at] = c,
                2 => chars.insert(at, c),
                3 => {
                    let tail: Vec<char> = chars[at..].to_vec();
                    chars.extend(tail);
                }
                _ => {
                    chars.drain(..at);
                }
            }
            Source::new(source.path, chars.into_iter().collect::<String>())
        },
    )
}

#[test]
fn an_environments_file_is_read_over_the_stack_file() {
    let stack = Source::new("berth.yaml", "stack: s\nservices: { web: { command: [a], health: /h } }\n");
    let good = Source::new("berth.staging.yaml", "services: { web: { copies: 2 } }\n");
    assert_eq!(look(&[stack.clone(), good]).findings, []);
    let bad = Source::new("berth.staging.yaml", "services:\n  web: { copies: 0 }\n");
    let report = look(&[stack, bad]);
    assert!(
        shown(&report).starts_with("berth.staging.yaml:2: error [stack-file] `services.web.copies`"),
        "{}",
        shown(&report)
    );
    assert_eq!(report.findings.len(), 1, "{}", shown(&report));
}

#[test]
fn a_file_in_another_encoding_is_named_with_its_line() {
    let report = look(&[Source::new(".env", b"A=1\nB=caf\xe9\n".to_vec())]);
    assert_eq!(
        shown(&report).lines().next(),
        Some(".env:2: error [unreadable] this file cannot be read: it is not in UTF-8")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_to_a_file_makes_the_check_panic(source in damaged()) {
        look(&[source]);
    }

    #[test]
    fn no_text_makes_the_check_panic(text in "\\PC{0,300}", name in "(berth.yaml|docker-compose.yml|.env|nginx.conf|fly.toml|a.exs|a.md|a.pem)") {
        look(&[Source::new(name, text)]);
    }
}
