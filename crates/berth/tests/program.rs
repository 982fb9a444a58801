//! The program as a person starts it: what it prints, where, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod running;

use berth_testkit::wait_until;
use running::{BERTH, Place, World, ask, fleet};
use serde_json::json;
use std::{
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

/// The metrics of an expression, each with the labels that it is asked by, and with their values where these are said:
/// `class="5xx"`. The expression may stand in a whole rule or before its legend.
fn asked_for(text: &str) -> Vec<(String, Vec<String>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let by = text.split("by (").skip(1).filter_map(|rest| rest.split(')').next()).flat_map(|all| all.split(", "));
    let shown = text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
    let shown = shown.map(|label| label.trim().trim_start_matches("$labels."));
    // Prometheus adds that one itself.
    let all: Vec<&str> = by.chain(shown).filter(|label| *label != "instance").collect();
    let begins = text.match_indices("berth_").filter(|(at, _)| !text[..*at].ends_with(is_word));
    let named = begins.map(|(at, _)| {
        let rest = &text[at..];
        let name = rest.split(|c: char| !is_word(c)).next().unwrap();
        let own = rest[name.len()..].strip_prefix('{').and_then(|rest| rest.split('}').next());
        let labels = all.iter().copied().chain(own.into_iter().flat_map(|own| own.split(',')));
        (name.to_owned(), labels.map(str::to_owned).collect())
    });
    named.collect()
}

/// Whether a page has a sample of this very name with these labels.
fn has_sample<L: AsRef<str>>(page: &str, name: &str, labels: &[L]) -> bool {
    page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' ')).any(|(rest, value)| {
        let own: Vec<&str> = rest.trim_start_matches('{').trim_end_matches('}').split(',').collect();
        let has = |label: &str| own.iter().any(|own| *own == label || own.split('=').next() == Some(label));
        (rest.is_empty() || rest.starts_with('{'))
            && value.parse::<f64>().is_ok()
            && labels.iter().all(|label| has(label.as_ref()))
    })
}

#[tokio::test]
async fn every_metric_that_rules_and_dashboard_name_has_a_sample_and_its_second_name_on_request() {
    let mut place = served().await;
    let log = place.log("serve");
    let control = log.split("metrics=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let (program, root) = (json!(fleet()), json!(place.dir.join("cells")));
    let stack = format!(
        "stack: fleet
services:
  web: {{ command: [{program}, serve], migrate: [{program}, migrate], health: /health }}
data:
  root: public.customers
  key: id
  tenant_column: customer_id
  hooks:
    create: {{ file: tenant_create.sql }}
plans:
  hobby: {{ price: 15, class: shared }}
providers:
  local: {{ adapter: local, root: {root} }}
cells:
  shared-1: {{ class: shared, provider: local, max_tenants: 10 }}
edges: [edge-1]
"
    );
    place.apply(stack).await;
    let [listen, admin] = [(); 2].map(|()| format!("127.0.0.1:{}", berth_testkit::free_port()));
    let (url, key) = (place.url.clone(), place.new_key("edge-1", "edge"));
    let data = place.dir.join("edge").to_string_lossy().into_owned();
    let words = ["edge", "--name", "edge-1", "--veloflux-names", "--listen", &listen, "--admin", &admin];
    let rest = ["--control", &url, "--data-dir", &data];
    place.start("edge", BERTH, &[&words[..], &rest].concat(), &[("BERTH_API_KEY", &key)]);
    let world = World { client: place.client(), edge: listen.parse().unwrap(), place };
    world.tenant("acme", "hobby").await;
    let asked =
        || async { ask(world.edge.port(), "acme.test", "GET", "/api/v1/vehicles", "").map(|(status, _)| status) };
    wait_until("the edge serves the tenant", asked, |status| *status == Some(200)).await;

    let folder = world.place.dir.join("stack");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("berth.yaml"), "stack: fleet\nservices: { web: { command: [./web], health: /health } }\n")
        .unwrap();
    let rendered = berth(&["render", "--host", "a.test", "--language", "go"]).current_dir(&folder).output().unwrap();
    assert!(rendered.status.success(), "{}", text(&rendered.stderr));
    let rules = fs::read_to_string(folder.join("prometheus/berth.rules.yml")).unwrap();
    let mut wanted: Vec<_> = rules.split("- alert: ").skip(1).flat_map(asked_for).collect();
    let board = fs::read(folder.join("grafana/berth.json")).unwrap();
    let board: serde_json::Value = serde_json::from_slice(&board).unwrap();
    for target in board["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        let word = |key: &str| target[key].as_str().unwrap();
        wanted.extend(asked_for(&format!("{} {}", word("expr"), word("legendFormat"))));
    }
    assert!(wanted.len() > 30, "{wanted:?}");
    assert!(wanted.iter().any(|(_, labels)| labels.contains(&"class=\"5xx\"".to_owned())), "{wanted:?}");
    let missing = || async {
        let pages = [&admin, &control].map(|address| page(address, "/metrics").unwrap_or_default()).concat();
        let missing = wanted.iter().filter(|(name, labels)| !has_sample(&pages, name, labels));
        missing.cloned().collect::<Vec<_>>()
    };
    wait_until("a sample of each with these labels", missing, Vec::is_empty).await;
    let edges = page(&admin, "/metrics").unwrap();
    for (second, labels) in [
        ("veloflux_requests_total", ["tenant=\"acme\"", "status_code=\"2xx\""]),
        ("veloflux_request_duration_seconds_bucket", ["tenant=\"acme\"", "le"]),
        ("veloflux_backend_up", ["pool=\"web\"", "backend"]),
    ] {
        assert!(has_sample(&edges, second, &labels), "{second}: {edges}");
    }
    assert!(has_sample::<&str>(&edges, "veloflux_cluster_nodes", &[]), "{edges}");
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
        + "cluster: { enabled: true, redis_address: 'a b', redis_password: plain, leader_timeout: 15, \
           geo_routing: true }\nedges: [a, a]\n\
           headers: { frame: sideways }\ncompression: { ways: [lzma] }\nclutser: { enabled: true }\n\
           providers: { theirs: { adapter: endpoint, cells: { a: { url: 'http://203.0.113.9' } } } }\n";
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
        // These are looked for whatever else is wrong.
        "cluster.geo_routing",
        "providers.theirs.cells.a.url",
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
