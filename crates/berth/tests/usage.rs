//! From a device's position to a moved tenant, with the programs as people start them: the application reports what its
//! traffic used, a threshold is passed, a proposal appears, a person agrees, and the tenant moves while it is served.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use berth_client::Client;
use berth_domain::{ApprovalState, CellClass, Mode, OperationState, TenantState, UsagePeriod};
use berth_providers::local::{Afterwards, end_all};
use berth_testkit::wait_until;
use berth_wire::{KeyCreate, StackApply, TenantCreate};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use uuid::Uuid;

const BERTH: &str = env!("CARGO_BIN_EXE_berth");

/// The application is another package's program; `scripts/test` builds both.
fn fleet() -> PathBuf {
    let path = Path::new(BERTH).with_file_name("fleet");
    assert!(path.exists(), "{} is missing: cargo build -p fleet", path.display());
    path
}

struct World {
    dir: PathBuf,
    children: Vec<Child>,
    client: Client,
    url: String,
    edge: SocketAddr,
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        for root in ["serve/postgres", "cells"] {
            let _ = end_all(&self.dir.join(root), Afterwards::Delete);
        }
        if std::thread::panicking() {
            for log in ["serve", "edge"] {
                let text = fs::read_to_string(self.dir.join(format!("{log}.log"))).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {log}\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl World {
    async fn start() -> Self {
        let dir = PathBuf::from(format!("/tmp/berth-test-{}", Uuid::new_v4().simple()));
        fs::create_dir_all(dir.join("serve/postgres")).unwrap();
        fs::create_dir_all(dir.join("cells")).unwrap();
        let own = std::process::id().to_string();
        let janitor = Command::new(BERTH)
            .args(["janitor", "--delete", "--owner", &own, "--root"])
            .arg(dir.join("serve/postgres"))
            .arg("--root")
            .arg(dir.join("cells"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        drop(janitor.unwrap());
        let serve = program(&dir, "serve", &["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"], None);
        let look = || async { fs::read_to_string(dir.join("serve.log")).unwrap_or_default() };
        let log = wait_until("the server listens", look, |log: &String| log.contains("serving on http://")).await;
        let url = log.split("serving on ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        let admin = fs::read_to_string(dir.join("serve/admin.key")).unwrap().trim().to_owned();
        let client = Client::new(&url, Some(SecretString::from(admin))).unwrap();
        let edge = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut world = Self { dir, children: vec![serve], client, url, edge };
        world.apply().await;
        let key = world.key("edge").await;
        let (listen, control) = (edge.to_string(), world.url.clone());
        let arguments =
            ["edge", "--name", "edge-1", "--listen", &listen, "--admin", "127.0.0.1:0", "--control", &control];
        let edge = program(&world.dir, "edge", &arguments, Some(&key));
        world.children.push(edge);
        world
    }

    async fn key(&self, scope: &str) -> String {
        let wanted = KeyCreate { name: scope.to_owned(), scope: scope.to_owned() };
        self.client.key_create(&wanted).await.unwrap().secret
    }

    async fn apply(&self) {
        let (program, root) = (json!(fleet()), json!(self.dir.join("cells")));
        let (url, key) = (json!(self.url), json!(self.key("usage").await));
        let file = format!(
            "stack: fleet
services:
  web:
    command: [{program}, serve]
    migrate: [{program}, migrate]
    health: /health
    env: {{ BERTH_URL: {url}, BERTH_USAGE_KEY: {key} }}
data:
  root: public.customers
  key: id
  tenant_column: customer_id
  hooks:
    create: {{ file: tenant_create.sql }}
    plan: {{ file: tenant_plan.sql }}
plans:
  hobby: {{ price: 15, class: shared, limits: {{ quantities: {{ vehicles: 5, gps_points_per_day: 50 }} }} }}
  starter: {{ price: 49, class: dedicated, limits: {{ quantities: {{ vehicles: 25, gps_points_per_day: 500 }} }} }}
providers:
  local: {{ adapter: local, root: {root}, stop_grace_ms: 3000 }}
cells:
  shared-1: {{ class: shared, provider: local, max_tenants: 10 }}
edges: [edge-1]
"
        );
        let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../apps/fleet/hooks");
        let hook = |name: &str| (name.to_owned(), fs::read_to_string(hooks.join(name)).unwrap());
        let files = BTreeMap::from([hook("tenant_create.sql"), hook("tenant_plan.sql")]);
        let applied = self.client.stack_apply(&StackApply { file, files, dry_run: false }).await.unwrap();
        for operation in applied.operations {
            self.finishes(operation).await;
        }
    }

    async fn finishes(&self, operation: berth_domain::OperationId) {
        let until = std::time::Instant::now() + Duration::from_mins(2);
        loop {
            let now = self.client.operation(operation).await.unwrap();
            if now.state.is_final() || now.state == OperationState::Stuck {
                assert_eq!(now.state, OperationState::Succeeded, "{:?}", now.fault);
                return;
            }
            assert!(std::time::Instant::now() < until, "operation {operation} is still {}", now.state);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One request of a device, through the edge.
    fn device(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let Ok(mut stream) = TcpStream::connect(self.edge) else { return (0, "no edge".into()) };
        let body = body.to_string();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: acme.test\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = String::new();
        // What breaks off is an answer without a status.
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.read_to_string(&mut answer);
        (answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0), answer)
    }

    fn berth(&self, words: &[&str]) -> Value {
        let admin = fs::read_to_string(self.dir.join("serve/admin.key")).unwrap();
        let done = Command::new(BERTH)
            .args(words)
            .args(["--json", "--yes"])
            .env("BERTH_URL", &self.url)
            .env("BERTH_API_KEY", admin.trim())
            .output()
            .unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    }
}

fn program(dir: &Path, name: &str, arguments: &[&str], key: Option<&str>) -> Child {
    let log = fs::File::create(dir.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(BERTH);
    command
        .args(arguments)
        .arg("--data-dir")
        .arg(dir.join(name))
        .env_remove("DATABASE_URL")
        .env_remove("BERTH_API_KEY");
    if let Some(key) = key {
        command.env("BERTH_API_KEY", key);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn positions(vehicle: Uuid, count: usize) -> Value {
    let one = json!({ "vehicle_id": vehicle, "time": jiff::Timestamp::now(), "latitude": 52.5, "longitude": 13.4 });
    Value::from(vec![one; count])
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_over_a_threshold_becomes_a_proposal_and_when_it_is_agreed_to_a_move() {
    let world = World::start().await;
    let wanted = TenantCreate {
        name: "acme".parse().unwrap(),
        plan: "hobby".parse().unwrap(),
        hosts: vec!["acme.test".parse().unwrap()],
        key: None,
        cell: None,
    };
    let begun = world.client.tenant_create(&wanted).await.unwrap();
    world.finishes(begun.id).await;

    let vehicle = Uuid::new_v4();
    let body = json!({ "id": vehicle, "name": "v", "vehicle_identifier": "V1" });
    let create = || async { world.device("POST", "/api/v1/vehicles", &body) };
    wait_until("the edge serves the tenant", create, |(status, _): &(u16, String)| *status == 201).await;
    let (status, answer) = world.device("POST", "/api/v1/gps-positions", &positions(vehicle, 41));
    assert_eq!(status, 201, "{answer}");
    // The application asked what the plan allows, and counts what is not reported yet.
    let (status, answer) = world.device("POST", "/api/v1/gps-positions", &positions(vehicle, 10));
    assert_eq!((status, answer.contains("quota_spent")), (403, true), "{answer}");

    // 41 of 50 are over four fifths.
    let look = || async { world.client.approvals(Some("acme"), Some(ApprovalState::Open)).await.unwrap() };
    let open = wait_until("a proposal", look, |all: &Vec<_>| !all.is_empty()).await;
    assert_eq!((open[0].then.plan.as_str(), open[0].then.class), ("starter", CellClass::Dedicated), "{open:?}");
    let done = world.berth(&["approval", "approve", &open[0].id.to_string()]);
    let operation = done["operation"].as_str().unwrap_or_else(|| panic!("{done}")).parse().unwrap();
    world.finishes(operation).await;

    let tenant = world.client.tenant("acme").await.unwrap();
    assert_eq!((tenant.state, tenant.mode), (TenantState::Active, Some(Mode::SingleTenant)));
    assert_eq!(tenant.plan.as_str(), "starter");
    // Its rows came along, and the larger plan lets the devices go on.
    let (status, answer) = world.device("GET", "/api/v1/gps-positions/recent?limit=1000", &json!(null));
    assert_eq!((status, answer.matches("\"latitude\"").count()), (200, 41), "{answer}");
    let more = || async { world.device("POST", "/api/v1/gps-positions", &positions(vehicle, 10)) };
    wait_until("the new limit is known", more, |(status, _): &(u16, String)| *status == 201).await;
    let approval = world.berth(&["approval", "show", &open[0].id.to_string()]);
    assert_eq!(approval["state"], "carried_out");

    // What the edge carried is counted too.
    let carried = || async {
        let usage = world.client.tenant_usage("acme", UsagePeriod::Day).await.unwrap();
        usage.usage.iter().find(|row| row.metric == "requests").map_or(0, |row| row.total)
    };
    wait_until("the edge's counters arrive", carried, |requests: &u64| *requests >= 4).await;
}
