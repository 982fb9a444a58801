//! What a stack file means, what is wrong with bad ones, and that nothing makes the reader fall over.

use berth_config::{
    Acme, AcmeChallenge, Change, Environment, Hook, HostProofs, Hosts, Layer, Run, Stack, diff, json, no_files, over,
    parse, parse_layers, show, tree,
};
use berth_domain::{CellClass, Cents, PlanName};
use proptest::prelude::*;
use std::{fs, path::Path};

fn example() -> Stack {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/fleet");
    let text = fs::read_to_string(folder.join("berth.yaml")).expect("the example is part of the repository");
    parse(&text, Some(&Environment::default()), &|path| fs::read_to_string(folder.join(path)))
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn mistakes(text: &str) -> String {
    match parse(text, Some(&Environment::default()), &no_files) {
        Ok(stack) => panic!("taken without a word: {stack:?}"),
        Err(mistakes) => mistakes.to_string(),
    }
}

const GOOD: &str = "stack: s\nservices:\n  web: { command: [./web], health: /health }\n";

#[test]
fn the_example_is_the_four_shipped_plans_on_one_local_cell() {
    let stack = example();
    let prices: Vec<_> = stack.plans.iter().map(|(name, plan)| (name.as_str(), plan.price, plan.class)).collect();
    assert_eq!(
        prices,
        [
            ("business", Cents::new(39_900), CellClass::Dedicated),
            ("hobby", Cents::new(1_500), CellClass::Shared),
            ("professional", Cents::new(14_900), CellClass::Dedicated),
            ("starter", Cents::new(4_900), CellClass::Dedicated),
        ]
    );
    assert_eq!(stack.plans[&PlanName::new("hobby").unwrap()].limits.quantities["vehicles"], 5);
    for plan in stack.plans.values() {
        assert_eq!(["api", "upload", "gps"].map(|class| plan.limits.requests_per_minute[class]), [100, 10, 1000]);
    }
    assert!(
        matches!(&stack.data.hooks.create, Some(Hook::Sql(sql)) if sql.contains(":slug")),
        "a hook file became its text"
    );
    assert_eq!(stack.cells.values().next().map(|cell| cell.max_tenants), Some(150));
}

#[test]
fn what_is_left_out_has_the_documented_value() {
    let stack = parse(GOOD, None, &no_files).unwrap();
    let web = stack.services.values().next().unwrap();
    assert_eq!((web.copies, web.port, &web.run), (1, None, &Run::Command(vec!["./web".to_owned()])));
    assert_eq!(stack.data.root.to_string(), "public.customers");
    assert_eq!((stack.data.key.as_str(), stack.data.tenant_column.as_str()), ("id", "customer_id"));

    let cells = "providers: { here: { adapter: local } }\ncells: { a: {}, b: { class: dedicated } }\n";
    let stack = parse(&format!("{GOOD}{cells}"), None, &no_files).unwrap();
    let cells: Vec<_> =
        stack.cells.values().map(|cell| (cell.class, cell.max_tenants, cell.provider.as_str())).collect();
    assert_eq!(cells, [(CellClass::Shared, 150, "here"), (CellClass::Dedicated, 1, "here")]);
}

#[test]
fn a_stored_revision_reads_back_as_the_same_stack() {
    let stack = example();
    let json = serde_json::to_string_pretty(&stack).unwrap();
    assert_eq!(serde_json::from_str::<Stack>(&json).unwrap(), stack);
    // The stored form is a stack file too, checked by the same rules when it comes over the wire.
    assert_eq!(parse(&json, None, &no_files).unwrap_or_else(|mistakes| panic!("{mistakes}")), stack);
}

#[test]
fn a_secret_stays_a_reference_in_what_is_stored() {
    let text = GOOD.replace("health: /health", "health: /health, env: { KEY: \"${TOKEN}\" }");
    let environment: Environment = [("TOKEN", "hunter2")].into_iter().collect();
    let stack = parse(&text, Some(&environment), &no_files).unwrap();
    let json = serde_json::to_string(&stack).unwrap();
    assert!(json.contains("${TOKEN}") && !json.contains("hunter2"), "{json}");
}

#[test]
fn prices_are_exact() {
    for (written, cents) in
        [("149", 14_900), ("149.00", 14_900), ("\"149.00\"", 14_900), ("0.1", 10), ("19.99", 1_999), ("0", 0)]
    {
        let text = format!("{GOOD}plans: {{ p: {{ price: {written}, class: shared }} }}\n");
        let stack = parse(&text, None, &no_files).unwrap_or_else(|mistakes| panic!("{written}: {mistakes}"));
        assert_eq!(stack.plans.values().next().unwrap().price, Cents::new(cents), "{written}");
    }
    for written in ["-1", "1.005", "1e3x", "$5", "10000000", "\"\"", "true", ".nan", "[1]"] {
        let text = format!("{GOOD}plans: {{ p: {{ price: {written}, class: shared }} }}\n");
        assert!(parse(&text, None, &no_files).is_err(), "{written} was taken for a price");
    }
}

#[test]
fn every_mistake_of_a_file_is_reported_at_once() {
    let text = "\
stack: Fleet!
servces: {}
services:
  web:
    command: ./web --fast
    role: webb
    port: 70000
    copies: 0
    env:
      PORT: 1
      2X: a
      SECRET: ${NOWHERE}
      PRICE: 5$
      RATIO: 1.50
    hold: some
    speed: 9
  web: { image: a, command: [b] }
  job: { role: worker }
  tick: { command: [a], role: cron, copies: 2, polls: [{ of: cache, every: 5, amount: 2 }] }
  shop: { command: [a], health: /, edge: { balance: random, weight: 0, speaks: spdy, ca: gone.pem, server_name: 'a b', check: { path: up, every: 5, rise: 0, status: 99 } } }
  crew: { command: [a], role: worker, edge: { eject: { failures: -1, for: ever } } }
data:
  root: a.b.c
  leave_out: [x, public.x]
  shared: [x, plans]
  links:
    - { table: comments, column: subject_id, to: orders, when: { subject_type: Order } }
    - { table: comments, to: orders }
    - { table: comments, columns: [], to: orders, if: b }
  retention: { customers.x.y: at, a.b: '' }
  redis: { prefixes: ['t:{tenant}', 'x:', 't:{tenant}:', 't:{tenant}:', 't:cache:{tenant}:'], store: maybe }
  objects: { prefixes: ['{tenant}/', '/a/{tenant}/', 'a/{tenant}-b/', '../{tenant}/'], bucket: b }
  hooks:
    create: { sql: select 1, url: /x }
    delete: { file: gone.sql }
plans:
  hobby: { price: 1.005, class: shard, limits: { retention_days: none } }
cells:
  a: { provider: moon }
  b: { class: dedicated, max_tenants: 3 }
providers:
  local: { adaptor: local }
edges: [e, e, E]
https: { redirect: maybe, hsts: 1y, port: 0, keys_over_plain_http: 1, acme: { directory: http://x, email: me, ca_file: a.pem, challenge: dns-01, agree: true } }
hosts: { own: [A.test, a.test], proof: always, resolver: dns, http_port: 70000 }
headers: { csp: '', frame: sameorigin, nosniff: 1, referrer: none, hsts: 1d }
compression: { ways: [lzw, br, br], from_bytes: 0, types: ['text/*'], level: 9 }
archives: { s3: { bucket: '', endpoint: ftp://x, secret_access_key: plain, keys: 1 } }
limits: { body_bytes: -1 }
quotas: { redis: { amount: 0, per: 1 day, unit: commands } }
budget: { amount: -50, currency: XYZ, warning: 1.005 }
alerts:
  cpu_percent: { warning: 120, critical: many, for: 5 minutes }
  mood: {}
backups: { by: cron, every: daily, to: [b2], rpo: 0s }
failover: { by: Patroni, automatic: maybe }
check:
  silence:
    - { rule: moving-tag, reason: because }
    - { rule: moving-tag }
registries: { ghcr.io: { username: bot, password: hunter2 } }
modes: { multi_tenant: { pool_size: 0, prepared_statements: unnamed, env: { PORT: 1 } }, single_tenant: { queue_target: soon, application_name: two words }, both: {} }
cluster: { enabled: true, redis_address: cache, geo_routing: true }
tenants: { region_routing: { enabled: true } }
billing: { provider: stripe, enabled: true, apiKey: sk_test, exportFormat: json, exportSchedule: daily }
oidc: { provider: keycloak, clientSecret: x, claimMappings: { tenantId: t, roles: r } }
orchestration: { inCluster: true, chartPath: ./c, defaults: { resourceLimits: { cpuLimit: 1 }, autoscaling: { enabled: true } } }
";
    let found = mistakes(text);
    let expected = include_str!("every_mistake.txt");
    assert_eq!(found.trim(), expected.trim(), "\n--- found ---\n{found}\n");
}

#[test]
fn what_berth_does_not_carry_out_is_not_said_to_be_by_berth() {
    let sections = "alerts: { by: berth, down_s: { critical: 300 } }
backups: { by: Berth itself, every: 1h, to: elsewhere }
failover: { by: BERTH, to: elsewhere }
";
    let found = mistakes(&format!("{GOOD}{sections}"));
    for says in
        ["Berth sends no alerts itself", "Berth makes no backups of cells yet", "Berth carries out no failover yet"]
    {
        assert!(found.contains(says), "{says}: {found}");
    }
    let others =
        sections.replace("berth,", "a mailer,").replace("Berth itself", "pgBackRest").replace("BERTH", "Patroni");
    assert!(parse(&format!("{GOOD}{others}"), None, &no_files).is_ok());
}

#[test]
fn a_file_that_is_no_yaml_says_where() {
    for (text, expected) in [
        ("", "should be a map of keys and values, is empty"),
        ("- a\n- b\n", "should be a map of keys and values, is a list"),
        ("stack: [a\n", "line"),
        ("stack: a\n\tservices: {}\n", "tab"),
        ("stack: *nobody\n", "line 1"),
        ("stack: a\n---\nstack: b\n", "document"),
        ("stack: !exec rm\n", "line 1"),
        ("{ [a]: b }", "key"),
    ] {
        let found = mistakes(text);
        assert!(found.contains(expected), "{text:?} gave: {found}");
    }
}

#[test]
fn a_bomb_is_refused_before_it_grows() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let below = vec![format!("*a{}", n - 1); 10].join(", ");
        laughs = format!("{laughs}a{n}: &a{n} [{below}]\n");
    }
    assert!(mistakes(&laughs).contains("nested or repeated too much"), "{}", mistakes(&laughs));
    let deep = format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(mistakes(&deep).contains("too much"), "{}", mistakes(&deep));
    let wide = format!("stack: {}\n", "x".repeat(2 << 20));
    assert_eq!(mistakes(&wide), "the file is 2097160 bytes long\n  hint: a stack file has at most 1048576 bytes");
}

#[test]
fn values_that_may_be_secret_are_not_repeated_in_messages() {
    let text = "stack: s\nservices: { web: { command: [a], health: /h, env: { A: hunter2$ } } }\n\
                providers: { p: { token: hunter2, token: hunter3 } }\n";
    let found = mistakes(text);
    assert!(!found.contains("hunter"), "{found}");
}

#[test]
fn a_difference_names_each_key_that_changes_and_nothing_else() {
    let old = example();
    assert_eq!(diff(Some(&old), &old), []);

    let mut new = old.clone();
    new.cells.values_mut().next().unwrap().max_tenants = 100;
    new.plans.remove(&PlanName::new("hobby").unwrap());
    new.edges.push("edge-2".parse().unwrap());
    let lines: Vec<String> = diff(Some(&old), &new).iter().map(ToString::to_string).collect();
    assert!(lines.contains(&"~ cells.shared-1.max_tenants: 150 -> 100".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"- plans.hobby.price: 15.00".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"~ edges: [edge-1] -> [edge-1, edge-2]".to_owned()), "{lines:#?}");
    assert!(
        lines.iter().all(|line| ["cells.shared-1", "plans.hobby", "edges"].iter().any(|k| line[2..].starts_with(k))),
        "{lines:#?}"
    );

    let first = diff(None, &old);
    assert!(first.iter().all(|difference| matches!(difference.change, Change::Added(_))));
    assert_eq!(first[0].to_string(), "+ stack: fleet", "the file's order of sections");
}

#[test]
fn an_environments_file_says_only_what_differs() {
    let upper = "services: { web: { copies: 3, migrate: [./web, migrate] } }\nedges: [e]\n";
    let stack = parse_layers(&[("berth.yaml", GOOD), ("berth.staging.yaml", upper)], None, &no_files)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let web = stack.services.values().next().unwrap();
    assert_eq!((web.copies, web.health.as_deref(), stack.edges.len()), (3, Some("/health"), 1));

    let wrong = "services:\n  web: { copies: 0 }\n  job: { role: worker }\n  job: { role: cron }\nfoo: 1\n";
    let mistakes = parse_layers(&[("berth.yaml", GOOD), ("berth.staging.yaml", wrong)], None, &no_files).unwrap_err();
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "line 3: `services.job.command`: missing",
            "berth.staging.yaml line 2: `services.web.copies`: should be a whole number from 1 to 64, is 0",
            "berth.staging.yaml line 4: `services.job`: the key is there twice, first in line 3",
            "berth.staging.yaml line 5: `foo`: unknown key",
        ]
    );
    for upper in ["", "# nothing differs\n"] {
        assert!(parse_layers(&[("berth.yaml", GOOD), ("berth.staging.yaml", upper)], None, &no_files).is_ok());
    }
    let mistakes = parse_layers(&[("berth.yaml", GOOD), ("berth.staging.yaml", "- a\n")], None, &no_files).unwrap_err();
    assert!(mistakes.to_string().starts_with("berth.staging.yaml line 1: should be a map"), "{mistakes}");
}

#[test]
fn a_joined_file_sent_as_json_is_the_same_stack() {
    let upper = "services: { web: { env: { RATE: \"1.50\", N: 5, ON: true } } }\n";
    let files = [("berth.yaml", GOOD), ("berth.staging.yaml", upper)];
    let joined = parse_layers(&files, None, &no_files).unwrap();
    let tree = over(tree::parse(GOOD).unwrap(), &tree::parse(upper).unwrap());
    assert_eq!(parse(&json(&tree).to_string(), None, &no_files).unwrap_or_else(|m| panic!("{m}")), joined);
}

/// Lines of a stack file, right and wrong, to be thrown together.
fn line() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "stack",
        "services",
        "data",
        "plans",
        "cells",
        "providers",
        "edges",
        "web",
        "command",
        "env",
        "hooks",
        "create",
        "sql",
        "price",
        "class",
        "limits",
        "shape",
        "<<",
        "? x",
        "-",
        "root",
        "leave_out",
        "shared",
        "links",
        "retention",
        "redis",
        "objects",
        "prefixes",
        "archives",
        "s3",
        "bucket",
        "adapter",
        "provider",
    ]);
    let value = prop_oneof![
        Just(String::new()),
        "[a-z0-9./${}&*!|>\\-]{0,12}",
        Just("[a, b]".to_owned()),
        Just("{ a: b, a: c }".to_owned()),
        Just("&a x".to_owned()),
        Just("*a".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
    ];
    (0_usize..5, key, value).prop_map(|(indent, key, value)| format!("{}{key}: {value}\n", "  ".repeat(indent)))
}

#[test]
fn impossible_numbers_and_deep_nesting_are_mistakes_with_a_line() {
    for (text, expected) in [
        (
            "services: { web: { command: [a], health: /h, copies: 99999999999999999999999999999999999999999 } }",
            "copies",
        ),
        ("services: { web: { command: [a], health: /h, port: 8e3 } }", "should be a whole number, is a fraction"),
        ("services: { web: { command: [a], health: /h, port: .inf } }", "should be a whole number, is text"),
        ("services: { web: { command: [a], health: /h, port: -0 } }", "should be a whole number from 1 to 65535, is 0"),
        ("limits: { body_bytes: 9007199254740993 }", "should be a whole number from 1 to 9007199254740991"),
        ("cells: { a: { max_tenants: 4294967297 } }", "should be a whole number from 1 to 100000"),
    ] {
        let found = mistakes(&format!("stack: s\n{text}\n"));
        assert!(found.contains(expected) && found.contains("line 2"), "{text} gave: {found}");
    }
    // 1 MiB of nesting is looked at; 10 MiB is refused by its length alone.
    for levels in [200_000, 5_000_000] {
        let found = mistakes(&format!("a: {}{}", "[".repeat(levels), "]".repeat(levels)));
        assert!(found.contains("too much") || found.contains("bytes long"), "{found}");
    }
}

/// The example with something in it changed: cut off, a character swapped or slipped in, lines doubled or lost.
fn damaged() -> impl Strategy<Value = String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/webhost/berth.yaml"))
        .expect("the example is part of the repository");
    (0_usize..6, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<char>()).prop_map(
        move |(how, at, other, c)| {
            let mut chars: Vec<char> = text.chars().collect();
            let mut lines: Vec<&str> = text.lines().collect();
            let (at, from, to) = (at.index(chars.len()), at.index(lines.len()), other.index(lines.len()));
            match how {
                0 => chars.truncate(at),
                1 => chars[at] = c,
                2 => chars.insert(at, c),
                3 => lines.swap(from, to),
                4 => lines.insert(to, lines[from]),
                _ => {
                    lines.remove(from);
                }
            }
            if how < 3 { chars.into_iter().collect() } else { lines.join("\n") }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        let _ = parse(&text, Some(&Environment::default()), &no_files);
    }

    #[test]
    fn no_damage_to_a_file_makes_the_reader_panic(text in damaged()) {
        match parse(&text, None, &no_files) {
            // What is taken can be stored and read again.
            Ok(stack) => {
                let json = serde_json::to_string(&stack).unwrap();
                prop_assert_eq!(parse(&json, None, &no_files).unwrap(), stack);
            }
            Err(mistakes) => prop_assert!(mistakes.iter().all(|mistake| !mistake.problem.to_string().is_empty())),
        }
    }

    #[test]
    fn no_arrangement_of_lines_makes_the_reader_panic(lines in prop::collection::vec(line(), 0..30)) {
        if let Err(mistakes) = parse(&lines.concat(), Some(&Environment::default()), &no_files) {
            prop_assert!(mistakes.iter().next().is_some());
            prop_assert!(!mistakes.to_string().is_empty());
        }
    }
}

#[test]
fn strict_transport_without_a_redirect_is_a_mistake() {
    let stack = |https: &str| format!("{GOOD}https: {{ {https} }}\n");
    assert!(mistakes(&stack("hsts: 365d")).contains("`https.hsts`: browsers would be told to keep to TLS"));
    let both = parse(&stack("redirect: true, hsts: 365d"), None, &no_files).unwrap();
    assert!(both.https.redirect && both.https.hsts.is_some());
}

#[test]
fn an_authority_is_lets_encrypts_unless_another_is_named_and_none_unless_asked_for() {
    let read = |rest: &str| parse(&format!("{GOOD}{rest}\n"), None, &no_files).unwrap();
    let usual = read("https: { acme: {} }").https.acme.unwrap();
    assert_eq!((usual.directory.as_str(), usual.challenge), (Acme::USUAL_DIRECTORY, AcmeChallenge::Http));
    let none = read("https: {}");
    assert_eq!((none.https.acme, none.hosts), (None, Hosts::default()));
    let text = "hosts: { own: [a.test], proof: required, resolver: 1.1.1.1 }\nhttps: { acme: { directory: 'https://ca.test/dir', \
                challenge: tls-alpn-01, email: ops@a.test, ca_file: /ca.pem }, port: 8443, keys_over_plain_http: true, members_over_plain_http: true }";
    let all = read(text);
    assert_eq!(all.hosts.resolver, Some("1.1.1.1:53".parse().unwrap()));
    assert_eq!((all.hosts.proof, all.https.port), (HostProofs::Required, Some(8443)));
    assert_eq!((all.https.members_over_plain_http, none.https.members_over_plain_http), (Some(true), None));
    // As it is stored and read again.
    let again: Stack = serde_json::from_value(serde_json::to_value(&all).unwrap()).unwrap();
    assert_eq!(again, all);
}

#[test]
fn web_services_that_are_balanced_in_different_ways_are_a_mistake() {
    let stack = |other: &str| {
        format!(
            "stack: s\nservices:\n  api: {{ command: [a], health: /, edge: {{ balance: sticky, weight: 3 }} }}\n  web: {{ command: [b], health: /, edge: {{ balance: {other} }} }}\n"
        )
    };
    let found = mistakes(&stack("two_choices"));
    assert!(
        found.contains("`services.web.edge.balance`: the web services of a stack are balanced in one way"),
        "{found}"
    );
    assert!(parse(&stack("sticky"), None, &no_files).is_ok());
}

#[test]
fn what_edges_sign_with_is_a_variable_that_is_set_and_long_enough() {
    let stack = |key: &str| {
        format!("stack: s\nservices:\n  web: {{ command: [a], health: /, edge: {{ signature_key: {key} }} }}\n")
    };
    let set = |value: &str| [("KEY", value)].into_iter().collect::<Environment>();
    let (long, short) = (set("0123456789abcdef0123456789abcdef"), set("0123456789abcdef0123456789abcde"));
    for environment in [None, Some(&long)] {
        let read = parse(&stack("'${KEY}'"), environment, &no_files).unwrap();
        let web = &read.services[&"web".parse().unwrap()].edge;
        assert_eq!(web.signature_key.as_ref().unwrap().as_str(), "${KEY}");
        // As it is stored and read again: the reference, never what it stands for.
        let stored = serde_json::to_value(&read).unwrap();
        assert!(!stored.to_string().contains("0123456789"), "{stored}");
        assert_eq!(serde_json::from_value::<Stack>(stored).unwrap(), read);
    }
    for (key, environment, said) in [
        ("0123456789abcdef0123456789abcdef", &long, "a secret does not stand in the stack file"),
        ("'${KEY}'", &short, "the key is shorter than 32 characters"),
        ("'${OTHER}'", &long, "variable `OTHER` is not set"),
        ("'$KEY'", &long, "a `$` begins neither"),
        ("[a]", &long, "should be text"),
    ] {
        let found = parse(&stack(key), Some(environment), &no_files).unwrap_err().to_string();
        assert!(found.contains(said) && found.contains("services.web.edge.signature_key"), "{key}: {found}");
        assert!(!found.contains("0123456789"), "{found}");
    }
}

#[test]
fn the_guides_cluster_and_regions_are_taken_as_written_and_what_they_cannot_mean_is_refused() {
    let stack = |more: &str| format!("{GOOD}{more}\n");
    let taken = |more: &str| parse(&stack(more), None, &no_files).unwrap();
    let cluster =
        taken("cluster: { enabled: true, redis_address: 'redis-sentinel:26379', redis_cluster_mode: true }").cluster;
    let cluster = cluster.unwrap();
    assert!(cluster.enabled && cluster.redis_cluster_mode && cluster.redis_address == "redis-sentinel:26379");
    let secure =
        stack("cluster: { redis_address: 'rediss://a:1,rediss://b', redis_cluster_mode: true, redis_ca: ca.pem }");
    let cluster = parse(&secure, None, &|_| Ok("-----BEGIN CERTIFICATE-----".into())).unwrap().cluster.unwrap();
    assert!(cluster.redis_address == "rediss://a:1,b" && cluster.redis_ca.is_some());
    for (wrong, said) in [
        ("redis_address: 'a:1,b:1'", "redis_cluster_mode` says that there is one"),
        ("redis_address: 'redis://u:p@a:1'", "this is no address of Redis"),
        ("redis_address: 'rediss://u:p@a:1'", "this is no address of Redis"),
        ("redis_address: 'a:1,rediss://b:1', redis_cluster_mode: true", "this is no address of Redis"),
        ("redis_address: a, redis_ca: ca.pem", "it does not begin with `rediss://`"),
        ("redis_address: 'a:0'", "this is no address of Redis"),
        ("redis_address: a, redis_password: secret", "a secret does not stand in the stack file"),
        ("redis_address: a, redis_master: main, redis_cluster_mode: false", "cannot stand beside"),
        ("enabled: true", "`cluster.redis_address`: missing"),
        ("redis_address: a, sync_interval: 5s", "`cluster.sync_interval`: unknown key"),
    ] {
        let found = mistakes(&stack(&format!("cluster: {{ {wrong} }}")));
        assert!(found.contains(said), "{wrong}: {found}");
    }
    let near = |cluster: &str| {
        let edge = "health: /health, edge: { region: REGION } }";
        stack(cluster).replace("health: /health }", edge)
    };
    let geo = "cluster: { redis_address: a, geo_routing: true, regions: { here: 48.1 -11.6 } }";
    for (region, known) in [("eu-west-1", true), ("here", true), ("atlantis", false)] {
        let parsed = parse(&near(geo).replace("REGION", region), None, &no_files);
        assert_eq!(parsed.is_ok(), known, "{region}: {parsed:?}");
    }
    assert!(
        mistakes(&near("cluster: { redis_address: a, regions: { here: 91 0, there: north } }"))
            .contains("this is no spot")
    );
    let routing = "tenants: { region_routing: { enabled: true, default_region: us-east, tenant_region_mapping: { tenant-1: eu-west } } }";
    let stack_with = taken(routing);
    let home = |tenant: &str| {
        let tenant = tenant.parse().unwrap();
        stack_with.residence(&tenant).map(|home| (home.region.to_owned(), home.bound))
    };
    assert_eq!(home("tenant-1"), Some(("eu-west".to_owned(), true)));
    assert_eq!(home("other"), Some(("us-east".to_owned(), false)));
    assert_eq!(
        taken(&routing.replace("enabled: true", "enabled: false")).residence(&"tenant-1".parse().unwrap()),
        None
    );
    let wrong = mistakes(&stack(
        "tenants: { region_routing: { region: x, tenant_region_mapping: { Tenant: eu } }, plans: {} }",
    ));
    for said in
        ["region_routing.region`: unknown key", "tenant_region_mapping.Tenant", "`tenants.plans`: would have no effect"]
    {
        assert!(wrong.contains(said), "{said}: {wrong}");
    }
}

#[test]
fn a_quota_is_said_here_or_named_in_the_catalogue_and_never_both() {
    let text = |quota: &str| {
        format!("stack: s\nservices: {{ web: {{ command: [a], health: /h }} }}\nquotas: {{ redis: {quota} }}\n")
    };
    let named = parse(&text("{ provider: upstash, what: commands_per_day }"), None, &no_files).unwrap();
    let quota = &named.quotas["redis"];
    assert_eq!((quota.provider.as_deref(), quota.amount), (Some("upstash"), None));
    for (quota, says) in [
        ("{ provider: upstash, what: commands_per_day, amount: 5 }", "quotas.redis.amount"),
        ("{ provider: upstash }", "quotas.redis.what"),
        ("{ what: commands_per_day, amount: 1, per: 1d, unit: x }", "no `provider` is named"),
        ("{ amount: 1, per: 1d }", "quotas.redis.unit"),
    ] {
        let wrong = parse(&text(quota), None, &no_files).unwrap_err().to_string();
        assert!(wrong.contains(says), "{quota}: {wrong}");
    }
}

#[test]
fn an_account_of_a_registry_names_a_variable_and_holds_no_password() {
    let text = |account: &str| {
        format!("stack: s\nservices: {{ web: {{ command: [a], health: /h }} }}\nregistries: {{ {account} }}\n")
    };
    let good = "\"registry.example.com:5000\": { user: shop-bot, password: \"${PULL}\" }";
    let known = Environment::from_iter([("PULL", "hunter2"), ("BLANK", "")]);
    let stack = parse(&text(good), Some(&known), &no_files).unwrap();
    assert_eq!(stack.registries["registry.example.com:5000"].user, "shop-bot");
    let written = serde_json::to_string(&stack).unwrap();
    assert!(!written.contains("hunter2") && written.contains("${PULL}"), "{written}");
    // A variable may stand anywhere in the text.
    let within =
        parse(&text("ghcr.io: { user: bot, password: \"a-${PULL}${BLANK}-b\" }"), Some(&known), &no_files).unwrap();
    let password = within.registries["ghcr.io"].password.resolve(&known).unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&password), "a-hunter2-b");
    let tree = tree::parse(&text(good)).unwrap();
    let shown = show(&stack, &[Layer { name: "berth.yaml", tree: &tree }]);
    assert!(!format!("{shown:?}").contains("hunter2"), "{shown:?}");
    for (account, says) in [
        ("ghcr.io: { user: bot, password: hunter2 }", "a secret does not stand in the stack file"),
        ("ghcr.io: { user: 'a:b', password: \"${PULL}\" }", "no name of an account"),
        ("ghcr.io: { user: bot }", "registries.ghcr.io.password"),
        ("\"https://x/\": { user: bot, password: \"${PULL}\" }", "this is no registry"),
        ("ghcr.io: { user: bot, password: \"${NOBODY}\" }", "NOBODY"),
        ("ghcr.io: { user: bot, password: \"${BLANK}\" }", "this password is empty"),
    ] {
        let wrong = parse(&text(account), Some(&known), &no_files).unwrap_err().to_string();
        assert!(wrong.contains(says) && !wrong.contains("hunter2"), "{account}: {wrong}");
    }
}
