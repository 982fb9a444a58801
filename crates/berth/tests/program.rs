//! The program as a person starts it: what it prints, where, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod running;

use berth_testkit::wait_until;
use running::{BERTH, Place};
use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output, Stdio},
};

fn berth(words: &[&str]) -> Command {
    let mut command = Command::new(BERTH);
    command.args(words).env_remove("BERTH_API_KEY").env_remove("DATABASE_URL").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn served() -> Place {
    let mut place = Place::new();
    place.serve().await;
    place
}

fn run(served: &Place, words: &[&str]) -> Output {
    served.berth(words).output().unwrap()
}

#[test]
fn alone_it_prints_what_it_can_do() {
    let done = berth(&[]).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty());
    assert!(text(&done.stdout).starts_with("berth: runs one SaaS"));
}

#[test]
fn a_typing_mistake_is_the_callers_and_goes_to_stderr() {
    let done = berth(&["tenant", "mvoe"]).output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(done.stdout.is_empty() && !done.stderr.is_empty());
}

#[test]
fn no_server_is_not_the_callers_fault() {
    let done = berth(&["status", "--url", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(done.status.code(), Some(2), "{}", text(&done.stderr));
    assert!(text(&done.stderr).starts_with("error: no server answers at http://127.0.0.1:1\n"));
    assert!(text(&done.stderr).contains("hint: start one with `berth serve`"));
}

#[test]
fn completions_name_the_commands() {
    let done = berth(&["completions", "bash"]).output().unwrap();
    assert!(done.status.success());
    assert!(text(&done.stdout).contains("plan-move"));
}

#[tokio::test]
async fn a_server_starts_with_nothing_set_up_and_stops_when_told() {
    let mut served = served().await;
    assert!(!served.log("serve").contains(&served.key), "a key is shown to a terminal, and never kept in a log");
    assert!(served.log("serve").contains("admin.key"), "the log says where it is");
    let mode = fs::metadata(served.dir.join("serve/admin.key")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "and only its owner reads it afterwards");

    let status = run(&served, &["status", "--json"]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status.stderr));
    let overview: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(overview["tenants"]["total"], 0);
    let empty = run(&served, &["tenant", "list"]);
    assert!(text(&empty.stdout).starts_with("No tenants yet: `berth tenant create"));
    let nobody = run(&served, &["tenant", "show", "nobody"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).starts_with("error: there is no tenant `nobody`\nhint: "), "{}", text(&nobody.stderr));
    let made = run(&served, &["key", "create", "ci", "--scope", "read"]);
    assert!(text(&made.stdout).starts_with("bk_"), "the key alone is data");
    assert!(text(&made.stderr).contains("only time"), "what is said about it is talk");

    // Another server in the same folder would stop this one's Postgres under it.
    let second = berth(&["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--data-dir"])
        .arg(served.dir.join("serve"))
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("another `berth serve` uses"), "{}", text(&second.stderr));

    let pid = rustix::process::Pid::from_child(&served.children[0]);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = served.children[0].wait().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", served.log("serve"));
    assert!(served.log("serve").contains("stopped"), "{}", served.log("serve"));
    assert!(!served.log("serve").contains("ERROR") && !served.log("serve").contains("WARN"), "{}", served.log("serve"));
}

#[tokio::test]
async fn a_stack_with_mistakes_is_refused_with_all_of_them_and_a_change_asks_first() {
    let served = served().await;
    let file = served.dir.join("berth.yaml");
    fs::write(&file, "stack: Fleet\nservces: {}\n").unwrap();
    let path = file.to_str().unwrap();
    let wrong = run(&served, &["apply", "--file", path]);
    assert_eq!(wrong.status.code(), Some(1));
    for mistake in ["servces", "Fleet", "services"] {
        assert!(text(&wrong.stderr).contains(mistake), "{mistake}: {}", text(&wrong.stderr));
    }

    let good = "stack: fleet\nservices: { web: { command: [./web], health: /health } }\n\
                plans: { starter: { price: 49.00, class: shared } }\nproviders: { here: { adapter: local, root: ROOT } }\n";
    fs::write(&file, good.replace("ROOT", served.dir.join("cells").to_str().unwrap())).unwrap();
    let asked = run(&served, &["apply", "--file", path]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(text(&asked.stderr).contains("no terminal to ask at"), "{}", text(&asked.stderr));
    let shown = run(&served, &["apply", "--file", path, "--dry-run"]);
    assert!(text(&shown.stdout).contains("+ plans.starter"), "{}", text(&shown.stdout));
    assert!(text(&run(&served, &["plan", "list"]).stdout).starts_with("No plans yet"), "nothing was changed so far");

    let applied = run(&served, &["apply", "--file", path, "--yes"]);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied.stderr));
    assert!(text(&applied.stdout).contains("Revision 1 is in force"), "{}", text(&applied.stdout));
    assert!(text(&run(&served, &["plan", "list"]).stdout).contains("starter"));
    let again = run(&served, &["apply", "--file", path, "--yes"]);
    assert!(text(&again.stdout).contains("Nothing differs from revision 1."), "{}", text(&again.stdout));
    assert!(text(&run(&served, &["audit"]).stdout).contains("stack.apply"));
}

fn page(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    Some(page)
}

/// Words that are names of metrics, without what a histogram appends.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("berth_"));
    let plain = |word: &str| {
        let parts = ["_bucket", "_sum", "_count"];
        parts.iter().find_map(|part| word.strip_suffix(part)).unwrap_or(word).to_owned()
    };
    words.map(plain).collect()
}

#[tokio::test]
async fn every_metric_that_rules_and_dashboard_name_is_emitted_and_has_its_second_name_on_request() {
    let served = served().await;
    let log = served.log("serve");
    let control = log.split("metrics=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let key = text(&run(&served, &["key", "create", "north", "--scope", "edge"]).stdout);
    let port = |n: u16| format!("127.0.0.1:{n}");
    let (listen, admin) = (port(berth_testkit::free_port()), port(berth_testkit::free_port()));
    let mut edge = berth(&["edge", "--name", "north", "--veloflux-names", "--listen", &listen, "--admin", &admin])
        .args(["--control", &served.url, "--data-dir"])
        .arg(served.dir.join("edge"))
        .env("BERTH_API_KEY", key.trim())
        .spawn()
        .unwrap();
    let look = || async { page(&admin, "/metrics").unwrap_or_default() };
    let follows = |page: &String| page.contains("berth_edge_control_connected 1");
    let edges = wait_until("the edge follows", look, follows).await;
    edge.kill().unwrap();
    edge.wait().unwrap();
    for second in ["veloflux_requests_total", "veloflux_request_duration_seconds", "veloflux_cluster_nodes"] {
        assert!(edges.contains(&format!("# TYPE {second} ")), "{second}");
    }
    let pages = edges + &page(&control, "/metrics").unwrap();
    let folder = served.dir.join("stack");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("berth.yaml"), "stack: fleet\nservices: { web: { command: [./web], health: /health } }\n")
        .unwrap();
    let rendered = berth(&["render", "--host", "a.test", "--language", "go"]).current_dir(&folder).output().unwrap();
    assert!(rendered.status.success(), "{}", text(&rendered.stderr));
    let mut named = 0;
    for file in ["prometheus/berth.rules.yml", "grafana/berth.json"] {
        for metric in metrics(&fs::read_to_string(folder.join(file)).unwrap()) {
            assert!(pages.contains(&format!("# TYPE {metric} ")), "{file}: {metric}");
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
}

#[test]
fn what_a_stack_file_says_to_edges_is_checked_all_at_once_and_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let check = |stack: &str| {
        fs::write(folder.path().join("berth.yaml"), stack).unwrap();
        let done = berth(&["edge", "check", "berth.yaml", "--json"]).current_dir(folder.path()).output().unwrap();
        (done.status.code(), serde_json::from_slice::<serde_json::Value>(&done.stdout).unwrap())
    };
    let good = "stack: fleet\nservices: { web: { command: [./web], health: /health } }\n";
    let (status, report) = check(&format!("{good}cells: {{ a: {{ class: shared }} }}\n"));
    assert_eq!((status, report["mistakes"].as_array().unwrap().len()), (Some(0), 0));
    assert!(report["elsewhere"].as_u64() > Some(0), "the rest of the file is not passed over in silence");
    let bad = good.replace("health: /health", "health: /health, edge: { balance: fastest, wait: 1 }")
        + "cluster: { enabled: true, redis_address: 'a b', redis_password: plain, leader_timeout: 15 }\nedges: [a, a]\n\
           headers: { frame: sideways }\ncompression: { ways: [lzma] }\nclutser: { enabled: true }\n";
    let (status, report) = check(&bad);
    let keys: Vec<_> = report["mistakes"].as_array().unwrap().iter().map(|m| m["key"].as_str().unwrap()).collect();
    assert_eq!(status, Some(1));
    for key in [
        "services.web.edge.balance",
        "services.web.edge.wait",
        "cluster.redis_address",
        "cluster.redis_password",
        "cluster.leader_timeout",
        "edges[1]",
        "headers.frame",
        "compression.ways[0]",
        "clutser",
    ] {
        assert!(keys.contains(&key), "{key}: {keys:?}");
    }

    let near = format!("{good}cluster: {{ enabled: true, redis_address: 'cache:6379', geo_routing: true }}\n");
    let (status, report) = check(&near);
    assert_eq!((status, report["mistakes"][0]["key"].as_str()), (Some(1), Some("cluster.geo_routing")), "{report}");
    let open = format!(
        "{good}providers:\n  theirs:\n    adapter: endpoint\n    cells:\n      \
         a: {{ url: 'http://203.0.113.9', database: 'postgres://u:p@10.0.0.1/d' }}\n      \
         b: {{ url: 'https://203.0.113.9', database: 'postgres://u:p@10.0.0.1/d' }}\n"
    );
    let (status, report) = check(&open);
    let key = "providers.theirs.cells.a.url";
    assert_eq!((status, report["mistakes"][0]["key"].as_str()), (Some(1), Some(key)), "{report}");
    assert!(report["mistakes"][0]["hint"].as_str().unwrap().contains("https.members_over_plain_http: true"));
    let (status, report) = check(&format!("{open}https: {{ members_over_plain_http: true }}\n"));
    assert_eq!(status, Some(0), "a warning is no mistake: {report}");
    let expected = serde_json::json!([{ "key": key, "url": "http://203.0.113.9" }]);
    assert_eq!(report["in_the_open"], expected);
}
