//! `berth check` and `berth config` as a person starts them: which files they take, how they end, and what a real
//! Postgres, a real Redis and a real TLS server answer to `--live`.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod tokens;

use berth_infra::Role;
use berth_testkit::{TestPg, free_port, wait_until};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

const BERTH: &str = env!("CARGO_BIN_EXE_berth");

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = PathBuf::from(format!("/tmp/berth-check-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn berth(&self, words: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(BERTH);
        command.args(words).current_dir(&self.0).stdin(Stdio::null());
        let tokens = ["HETZNER_API_TOKEN", "HCLOUD_TOKEN", "FLY_API_TOKEN", "FLY_ORG_ID", "CLOUDFLARE_API_TOKEN"];
        let tokens = tokens.into_iter().chain(["RENDER_API_KEY", "KOYEB_TOKEN", "RAILWAY_API_TOKEN"]);
        for name in ["DATABASE_URL", "REDIS_URL", "BERTH_API_KEY", "SSL_CERT_FILE"].into_iter().chain(tokens) {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied()).output().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that ends with the test.
struct Running(Child);

impl Running {
    async fn start(program: &str, words: &[&str], port: u16) -> Self {
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Self(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")));
        let look = async || TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_until(program, look, |up| *up).await;
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn rules(output: &Output) -> BTreeSet<String> {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}{}", out(output), String::from_utf8_lossy(&output.stderr)));
    report["findings"].as_array().unwrap().iter().map(|f| f["rule"].as_str().unwrap().to_owned()).collect()
}

fn set(rules: &[&str]) -> BTreeSet<String> {
    rules.iter().map(|rule| (*rule).to_owned()).collect()
}

const STACK: &str = "stack: s\nservices:\n  web: { command: [./web], health: /health }\n";

#[test]
fn the_files_beside_a_stack_file_are_looked_at_together() {
    let folder = Folder::new();
    folder
        .write("berth.yaml", STACK)
        .write("README.md", "A zero-downtime DNS switch.\n")
        .write("docker-compose.yml", "services:\n  db: { image: \"postgres:15.8\", ports: [\"5432:5432\"] }\n")
        .write("nginx/shop.conf", "events {}\nhttp {\n  server { return 301 https://$server_name/; }\n}\n")
        .write(".env", "CERTIFICATE_PINNING=true\n");
    let found = folder.berth(&["check", "--json"], &[]);
    assert_eq!(found.status.code(), Some(1));
    assert_eq!(rules(&found), set(&["published-database", "redirect-to-catch-all", "flag-without-effect"]));
    let named = folder.berth(&["check", "README.md", "--json"], &[]);
    assert_eq!(rules(&named), set(&["dns-switch-downtime"]));
    let text = out(&folder.berth(&["check", "--only", "redirect-to-catch-all"], &[]));
    assert!(text.starts_with("nginx/shop.conf:3: error [redirect-to-catch-all]"), "{text}");
}

#[test]
fn how_it_ends_says_whether_an_error_was_found() {
    let folder = Folder::new();
    assert_eq!(folder.berth(&["check"], &[]).status.code(), Some(1), "nothing to look at is a mistake");
    folder.write("berth.yaml", STACK);
    assert_eq!(folder.berth(&["check"], &[]).status.code(), Some(0));
    folder.write("compose.yaml", "services:\n  web: { image: nginx }\n");
    let warned = folder.berth(&["check"], &[]);
    assert_eq!(warned.status.code(), Some(0), "a warning is no error: {}", out(&warned));
    assert!(out(&warned).contains("[moving-tag]") && out(&warned).contains("0 errors, 1 warning"), "{}", out(&warned));
    assert_eq!(folder.berth(&["check", "--only", "no-such-rule"], &[]).status.code(), Some(1));
    assert_eq!(folder.berth(&["check", "gone.yaml"], &[]).status.code(), Some(1));
    let page = folder.berth(&["check", "--explain", "moving-tag"], &[]);
    assert!(out(&page).starts_with("# moving-tag\n"), "{}", out(&page));
    assert!(out(&folder.berth(&["check", "--explain"], &[])).contains("live-clock"));
}

#[test]
fn config_show_says_where_each_value_comes_from_and_masks_secrets() {
    let folder = Folder::new();
    folder
        .write("berth.yaml", &STACK.replace("/health }", "/health, env: { API_TOKEN: hunter2 } }"))
        .write("berth.staging.yaml", "services:\n  web: { copies: 2 }\n");
    let shown = out(&folder.berth(&["config", "show", "--environment", "staging"], &[]));
    for line in [
        "services.web.copies: 2  # berth.staging.yaml:2",
        "services.web.env.API_TOKEN: ********  # berth.yaml:3",
        "data.way_back_days: 7  # default",
    ] {
        assert!(shown.contains(line), "{line} is missing in\n{shown}");
    }
    let schema: Value = serde_json::from_str(&out(&folder.berth(&["config", "schema"], &[]))).unwrap();
    assert_eq!(schema["properties"]["services"]["type"], "object");
    let none = folder.berth(&["config", "show", "--environment", "nowhere"], &[]);
    assert_eq!(none.status.code(), Some(1));
}

/// Whether this machine has what a test runs against; where not, the test says so and proves nothing. `scripts/test`
/// installs both.
fn there_is(program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("skipped: `{program}` is not installed (Debian: a package of the same name)");
    }
    there
}

async fn redis(words: &[&str]) -> (Running, u16) {
    let port = free_port();
    let text = port.to_string();
    let all = [&["--port", &text, "--save", "", "--bind", "127.0.0.1"], words].concat();
    (Running::start("redis-server", &all, port).await, port)
}

#[tokio::test]
async fn servers_that_are_as_they_should_be_give_no_finding() {
    if !there_is("redis-server") {
        return;
    }
    let pg = TestPg::new().await;
    let (_redis, port) = redis(&["--requirepass", "hunter2"]).await;
    let url = pg.cell().url(Role::App);
    let cache = format!("redis://:hunter2@127.0.0.1:{port}/0");
    let variables = [("DATABASE_URL", url.expose_secret()), ("REDIS_URL", cache.as_str())];
    let found = Folder::new().berth(&["check", "--live", "--json"], &variables);
    assert_eq!((rules(&found), found.status.code()), (set(&[]), Some(0)), "{}", out(&found));
    assert!(out(&found).contains("REDIS_URL") && !out(&found).contains("hunter2"), "{}", out(&found));

    let mover = pg.cell().url(Role::Mover);
    let variables = [("DATABASE_URL", mover.expose_secret())];
    let found = Folder::new().berth(&["check", "--live", "--mover", "--json"], &variables);
    assert_eq!(rules(&found), set(&[]), "{}", out(&found));
}

#[tokio::test]
async fn what_is_wrong_with_running_servers_is_found() {
    if !there_is("redis-server") {
        return;
    }
    let pg = TestPg::new().await;
    let mover = pg.connect(Role::Mover).await;
    mover
        .batch_execute(
            "SELECT pg_create_physical_replication_slot('old_' || n, true) FROM generate_series(1, 29) n;
             CREATE TABLE positions (id bigint) WITH (autovacuum_enabled = false);
             INSERT INTO positions SELECT generate_series(1, 20000)",
        )
        .await
        .unwrap();
    mover.batch_execute("DELETE FROM positions WHERE id <= 12000").await.unwrap();
    mover.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    let (_redis, port) = redis(&["--maxmemory", "950000", "--maxmemory-policy", "allkeys-lru"]).await;

    let folder = Folder::new();
    let url = pg.cell().url(Role::Mover);
    // Those of a `.env` file go before the environment's.
    folder.write(
        ".env",
        &format!(
            "DATABASE_URL={}\nREDIS_URL=redis://127.0.0.1:{port}\nPOOL_SIZE=90\nREPLICAS=2\n",
            url.expose_secret()
        ),
    );
    let look = async || {
        let found =
            folder.berth(&["check", "--live", "--json"], &[("DATABASE_URL", "postgres://nobody@127.0.0.1:1/x")]);
        (rules(&found), out(&found))
    };
    // Statistics of a session arrive when it is idle.
    let (found, text) = wait_until("dead rows are counted", look, |(rules, _)| rules.contains("live-dead-rows")).await;
    assert_eq!(
        found,
        set(&[
            "connections-over-maximum",
            "live-connections",
            "live-slot-idle",
            "live-slots",
            "live-application-superuser",
            "live-dead-rows",
            "live-redis-evicts",
            "live-redis-memory",
        ])
    );
    let app = pg.cell().url(Role::App);
    let variables = [("DATABASE_URL", app.expose_secret())];
    let found = Folder::new().berth(&["check", "--live", "--mover", "--json"], &variables);
    assert!(rules(&found).contains("live-mover-rights"), "{}", out(&found));
    assert!(out(&found).contains("berth_app\\\" REPLICATION"), "the statement is there: {}", out(&found));
    let password = url.expose_secret().split(':').nth(2).unwrap().split('@').next().unwrap().to_owned();
    assert!(!text.contains(&password), "a password is never printed");
}

#[tokio::test]
async fn a_redis_over_tls_is_asked_when_its_certificate_is_believed_and_else_no_password_is_sent() {
    if !there_is("redis-server") || !there_is("openssl") {
        return;
    }
    let folder = Folder::new();
    let (key, cert) = certificate(&folder.0, "localhost", "300");
    let port = free_port();
    let text = port.to_string();
    let words = ["--port", "0", "--tls-port", &text, "--tls-cert-file", &cert, "--tls-key-file", &key];
    let rest = [
        "--tls-ca-cert-file",
        &cert,
        "--tls-auth-clients",
        "no",
        "--save",
        "",
        "--bind",
        "127.0.0.1",
        "--requirepass",
        "hunter2",
    ];
    let _redis = Running::start("redis-server", &[&words[..], &rest].concat(), port).await;
    let cache = |name: &str| format!("rediss://:hunter2@{name}:{port}/0");
    let ask = |url: &str, ca: Option<&str>| {
        let mut variables = vec![("REDIS_URL", url)];
        variables.extend(ca.map(|ca| ("SSL_CERT_FILE", ca)));
        Folder::new().berth(&["check", "--live", "--json"], &variables)
    };
    let found = ask(&cache("localhost"), Some(&cert));
    assert_eq!((rules(&found), found.status.code()), (set(&[]), Some(0)), "{}", out(&found));
    assert!(out(&found).contains("REDIS_URL"), "{}", out(&found));
    // An authority that nobody here knows, and another name than the certificate's.
    for found in [ask(&cache("localhost"), None), ask(&cache("127.0.0.1"), Some(&cert))] {
        assert_eq!(rules(&found), set(&["live-redis-unreachable"]), "{}", out(&found));
        assert!(!out(&found).contains("hunter2"), "{}", out(&found));
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_found_and_its_password_is_not_told() {
    if !there_is("redis-server") {
        return;
    }
    let (_redis, port) = redis(&["--requirepass", "another"]).await;
    let closed = format!("postgres://app:hunter2@127.0.0.1:{}/app", free_port());
    let cache = format!("redis://:hunter2@127.0.0.1:{port}/0");
    let variables = [("DATABASE_URL", closed.as_str()), ("REDIS_URL", cache.as_str())];
    let found = Folder::new().berth(&["check", "--live", "--json"], &variables);
    assert_eq!(rules(&found), set(&["live-database-unreachable", "live-redis-unreachable"]));
    let talk = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(!out(&found).contains("hunter2") && !talk.contains("hunter2"), "{}{talk}", out(&found));
    assert_eq!(Folder::new().berth(&["check", "--live"], &[]).status.code(), Some(1), "nobody to ask");
}

fn certificate(folder: &Path, name: &str, days: &str) -> (String, String) {
    let (key, cert) = (folder.join("key.pem"), folder.join("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", days])
        .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")])
        // One that may sign others is believed as nobody's own.
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (key.display().to_string(), cert.display().to_string())
}

#[tokio::test]
async fn the_certificate_behind_a_name_is_looked_at() {
    if !there_is("openssl") {
        return;
    }
    for (name, days, known, expected) in [
        ("localhost", "300", true, set(&[])),
        ("localhost", "10", true, set(&["live-certificate-ends"])),
        ("other.example.com", "300", true, set(&["live-certificate"])),
        // The same without anybody who knows who signed it.
        ("localhost", "300", false, set(&["live-certificate-untrusted"])),
        ("localhost", "10", false, set(&["live-certificate-ends", "live-certificate-untrusted"])),
    ] {
        let folder = Folder::new();
        let (key, cert) = certificate(&folder.0, name, days);
        let port = free_port();
        let accept = port.to_string();
        let words = ["s_server", "-accept", &accept, "-key", &key, "-cert", &cert, "-quiet", "-www"];
        let _server = Running::start("openssl", &words, port).await;
        let variables = [("SSL_CERT_FILE", cert.as_str())];
        let host = format!("localhost:{port}");
        let ask = ["check", "--live", "--host", &host, "--json"];
        let found = Folder::new().berth(&ask, &variables[..usize::from(known)]);
        assert_eq!(rules(&found), expected, "{name} {days}: {}", out(&found));
        let said = out(&found).contains("its certificate is signed by itself");
        assert_eq!(said, expected.contains("live-certificate-untrusted"), "{}", out(&found));
    }
    let found = Folder::new().berth(&["check", "--live", "--host", "no-such-host.invalid", "--json"], &[]);
    assert_eq!(rules(&found), set(&["live-host-unresolved"]));
}

#[test]
fn hosts_that_the_files_name_are_looked_at() {
    let folder = Folder::new();
    folder
        .write("berth.yaml", &format!("{STACK}hosts: {{ own: [own.no-such-host.example.com] }}\n"))
        .write(
            "nginx/shop.conf",
            "events {}\nhttp {\n  server { listen 80; server_name plain.no-such-host.example.com; }\n  server { listen 443 ssl; server_name nginx.no-such-host.example.com nginx.invalid *.example.com _; }\n}\n",
        )
        .write(".env", "PHX_HOST=phoenix.no-such-host.example.com\n");
    let found = folder.berth(&["check", "--live", "--host", "NGINX.no-such-host.example.com", "--json"], &[]);
    let report: Value = serde_json::from_slice(&found.stdout).unwrap();
    let said: BTreeSet<String> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["rule"] == "live-host-unresolved")
        .map(|f| f["file"].as_str().unwrap().to_owned())
        .collect();
    let expected = ["NGINX", "phoenix"].map(|name| format!("{name}.no-such-host.example.com"));
    assert_eq!(said, BTreeSet::from(expected), "{}", out(&found));
}

/// What a person reads when a file is not as it should be, from each command that takes it.
fn refused(folder: &Folder, words: &[&str], says: &str) {
    let said = folder.berth(words, &[]);
    let text = format!("{}{}", out(&said), String::from_utf8_lossy(&said.stderr));
    let shown = &text[..text.floor_char_boundary(2000)];
    assert_eq!(said.status.code(), Some(1), "berth {}: {shown}", words.join(" "));
    assert!(text.contains(says), "berth {} does not say `{says}`: {shown}", words.join(" "));
    let remedies = ["hint: ", "remedy: ", "should be", "is none of"];
    assert!(remedies.iter().any(|word| text.contains(word)), "berth {}: no remedy: {shown}", words.join(" "));
}

/// The stack file that these commands take lies in the folder. None of them has a server to ask.
fn refused_by_all(folder: &Folder, says: &str) {
    for words in [
        &["check"][..],
        &["apply"],
        &["apply", "--dry-run"],
        &["config", "show"],
        &["decide", "--offline", "berth.yaml", "--profile", "profile.yaml"],
        &["render", "--host", "shop.example.com"],
    ] {
        refused(folder, words, says);
    }
}

#[test]
fn a_stack_file_that_arrives_damaged_is_refused_by_every_command_with_what_to_do() {
    let folder = Folder::new();
    folder.write("profile.yaml", "budget_cents: 4900\n");
    let with = |section: &str| format!("{STACK}{section}\n").into_bytes();
    let wide = |mark: &[u16]| -> Vec<u8> {
        mark.iter().copied().chain(STACK.encode_utf16()).flat_map(u16::to_le_bytes).collect()
    };
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let ten = vec![format!("*a{}", n - 1); 10].join(", ");
        laughs.extend([format!("a{n}: &a{n} [{ten}]\n")]);
    }
    for (bytes, says) in [
        // Cut off in the middle of a value.
        (STACK.as_bytes()[..STACK.len() - 12].to_vec(), "berth.yaml"),
        (Vec::new(), "is empty"),
        // In another encoding.
        (wide(&[0xfeff]), "it is in UTF-16 or UTF-32"),
        (wide(&[]), "it is in UTF-16 or UTF-32"),
        (with("# caf\u{e9}").iter().copied().filter(|byte| *byte != 0xc3).collect(), "not in UTF-8"),
        // Said twice, or in circles.
        (with("stack: other"), "twice"),
        (laughs.into_bytes(), "nested or repeated too much"),
        (format!("stack: s\nservices: {}{}\n", "[".repeat(200_000), "]".repeat(200_000)).into_bytes(), "nested"),
    ] {
        fs::write(folder.0.join("berth.yaml"), bytes).unwrap();
        refused_by_all(&folder, says);
    }
    // Ten megabytes of nesting are refused by their length alone.
    fs::write(folder.0.join("berth.yaml"), format!("a: {}{}", "[".repeat(5_000_000), "]".repeat(5_000_000))).unwrap();
    refused_by_all(&folder, "10000003 bytes long");
}

#[test]
fn numbers_prices_and_currencies_that_cannot_be_are_refused_with_key_and_line() {
    let folder = Folder::new();
    folder.write("profile.yaml", "budget_cents: 4900\n");
    for (section, key) in [
        ("plans: { a: { price: -1.00, class: shared } }", "plans.a.price"),
        ("plans: { a: { price: .nan, class: shared } }", "plans.a.price"),
        ("plans: { a: { price: 1e400, class: shared } }", "plans.a.price"),
        ("cells: { a: { class: shared, price: -5 } }", "cells.a.price"),
        ("cells: { a: { class: shared, max_tenants: 1e3 } }", "cells.a.max_tenants"),
        ("budget: { amount: 50, currency: XXX }", "budget.currency"),
        ("budget: { amount: -50, currency: EUR }", "budget.amount"),
    ] {
        folder.write("berth.yaml", &format!("{STACK}{section}\n"));
        refused_by_all(&folder, key);
        refused(&folder, &["check"], &format!("berth.yaml:4: error [stack-file] `{key}`"));
    }
    // What the catalogue says is read by whoever decides by it, and by what is applied.
    for (catalogue, key) in [
        ("providers: { fly: { shapes: { ipv4: { price: -2 } } } }", "providers.fly.shapes.ipv4.price"),
        ("providers: { fly: { currency: XXX } }", "providers.fly.currency"),
        ("rates: { usd: { EUR: -1 } }", "rates.usd.EUR"),
        ("rates: { usd: { EUR: .inf } }", "rates.usd.EUR"),
        ("providers: { fly: { shapes: { ipv4: { price: 1e400 } } } }", "providers.fly.shapes.ipv4.price"),
        ("regions: { us-east: null }", "providers."),
        ("providers: { fly: { regions: { iad: { region: atlantis } } } }", "providers.fly.regions.iad"),
        ("providers: { fly: { regions: { iad: null } } }", "offers."),
    ] {
        folder.write("berth.yaml", &format!("{STACK}placement:\n  catalogue: {{ {catalogue} }}\n"));
        for words in [&["check"][..], &["apply"], &["decide", "--offline", "berth.yaml", "--profile", "profile.yaml"]] {
            refused(&folder, words, key);
        }
        refused(&folder, &["check"], "berth.yaml:5: error [stack-file] `placement.catalogue.");
    }
    folder.write("berth.yaml", &format!("{STACK}placement: {{ policy: {{ rules: [] }} }}\n"));
    refused(&folder, &["check"], "`placement.policy`");
    refused(&folder, &["apply"], "`placement.policy`");
}

#[test]
fn what_is_assumed_is_said_and_what_is_odd_but_plain_is_taken() {
    let folder = Folder::new();
    let plan =
        "plans: { hobby: &p { price: 15.00, class: shared, limits: { quantities: { vehicles: 5 } } }, club: *p }\n";
    // A mark of byte order, lines that end as elsewhere, and an anchor that says the same twice.
    folder.write("berth.yaml", &format!("\u{feff}{STACK}{plan}").replace('\n', "\r\n"));
    let checked = folder.berth(&["check"], &[]);
    assert_eq!(checked.status.code(), Some(0), "{}", out(&checked));
    let shown = out(&folder.berth(&["config", "show", "--said"], &[]));
    assert!(shown.contains("plans.club.limits.quantities.vehicles: 5"), "{shown}");

    let ask = ["decide", "--offline", "berth.yaml", "--profile", "profile.yaml"];
    for nothing in ["", "{}\n", "# nobody asked\n"] {
        folder.write("profile.yaml", nothing);
        let answer = folder.berth(&ask, &[]);
        let text = out(&answer);
        assert_eq!(answer.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&answer.stderr));
        assert!(text.contains("because\n") && text.contains("assum"), "{text}");
    }
    // Rates that are weeks old are an assumption.
    let day =
        jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date().saturating_sub(jiff::Span::new().days(60));
    let rates = format!("placement: {{ catalogue: {{ rates: {{ as_of: {day} }} }} }}\n");
    folder.write("berth.yaml", &format!("{STACK}{plan}{rates}"));
    let text = out(&folder.berth(&ask, &[]));
    assert!(text.contains("60 days old"), "{text}");
    // Such of years ago are not used; who is charged in one currency needs none.
    folder.write(
        "berth.yaml",
        &format!("{STACK}{plan}placement: {{ catalogue: {{ rates: {{ as_of: 2024-01-01 }} }} }}\n"),
    );
    let answer = folder.berth(&ask, &[]);
    assert_eq!(answer.status.code(), Some(0), "{}", String::from_utf8_lossy(&answer.stderr));
    assert!(out(&answer).contains("not used past 400"), "{}", out(&answer));
    for bad in ["latency_ms: -1", "users: 1e400", "vehicels: 3", "[]", "budget_cents: 1\nbudget_cents: 2", "a: [b"] {
        folder.write("profile.yaml", bad);
        refused(&folder, &ask, "profile.yaml is not a profile");
    }
}
