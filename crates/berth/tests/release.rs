//! Releases under traffic, with the programs as people start them: nobody notices one that goes well, and nobody notices
//! one that does not, nor its way back.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod running;

use berth_testkit::wait_until;
use running::{Place, World, fleet};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Requests one after the other until it is told to stop: how many, and how many were not answered with 200.
struct Traffic {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Traffic {
    fn begin(edge: SocketAddr) -> Self {
        let (stop, asked, failed) = (Arc::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let one = |_| {
            let (stop, asked, failed) = (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&failed));
            thread::spawn(move || {
                while !AtomicBool::load(&stop, Ordering::Relaxed) {
                    let (status, answer) = request(edge);
                    asked.fetch_add(1, Ordering::Relaxed);
                    if status != 200 {
                        failed.fetch_add(1, Ordering::Relaxed);
                        eprintln!("answered {status}: {}", answer.get(..300).unwrap_or(&answer));
                    }
                }
            })
        };
        let threads = (0..4).map(one).collect();
        Self { stop, asked, failed, threads }
    }

    /// So many more requests have been answered.
    fn goes_on(&self, more: u64) {
        let until = self.asked.load(Ordering::Relaxed) + more;
        let limit = Instant::now() + Duration::from_mins(1);
        while self.asked.load(Ordering::Relaxed) < until {
            assert!(Instant::now() < limit, "the traffic stands still");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn ends_without_a_failure(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let (asked, failed) = (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        println!("{asked} requests, {failed} failed");
        assert!(asked > 100 && failed == 0, "{failed} of {asked} requests failed");
    }
}

fn request(edge: SocketAddr) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(edge) else { return (0, "no edge".into()) };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
    let mut answer = String::new();
    // What breaks off is an answer without a status.
    let _ = stream.write_all(b"GET /api/v1/vehicles HTTP/1.1\r\nHost: acme.test\r\nConnection: close\r\n\r\n");
    let _ = stream.read_to_string(&mut answer);
    (answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0), answer)
}

fn stack(place: &Place) -> String {
    let (program, root) = (json!(fleet()), json!(place.dir.join("cells")));
    format!(
        "stack: fleet
services:
  web:
    command: [{program}, serve]
    migrate: [{program}, migrate]
    health: /health
    copies: 2
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
  shared-2: {{ class: shared, provider: local, max_tenants: 10 }}
edges: [edge-1]
releases:
  migrate_limit: 8s
  healthy_limit: 8s
  smoke: [{{ service: web, path: /health, status: 200, contains: ok }}]
"
    )
}

impl World {
    /// A program of the application, and the release that runs it.
    fn release(&self, name: &str, script: &str) -> String {
        let path = self.place.dir.join(name);
        let text = format!("#!/bin/sh\n# {name}\n{}\n", script.replace("FLEET", fleet().to_str().unwrap()));
        fs::write(&path, &text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let sum = Command::new("sha256sum").arg(&path).output().unwrap();
        let hex = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
        let (code, out, error) =
            self.berth(&["release", "create", &format!("web={}@sha256:{hex}", path.display()), "--json"]);
        assert_eq!(code, 0, "{error}");
        let made: Value = serde_json::from_str(&out).unwrap();
        format!("r{}", made["number"])
    }

    /// What each cell runs.
    fn runs(&self) -> Vec<u64> {
        let (_, out, _) = self.berth(&["release", "status", "--json"]);
        let status: Value = serde_json::from_str(&out).unwrap();
        status["cells"].as_array().unwrap().iter().map(|cell| cell["release"].as_u64().unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_notice_neither_a_release_nor_one_that_fails_nor_the_way_back() {
    let world = World::start(stack).await;
    world.tenant("acme", "hobby").await;
    let first = || async { request(world.edge) };
    wait_until("the edge serves the tenant", first, |(status, _): &(u16, String)| *status == 200).await;

    let traffic = Traffic::begin(world.edge);
    let good = world.release("good", "echo this is good\nexec FLEET \"$@\"");
    let (code, out, error) = world.berth(&["release", "roll", &good, "--wait"]);
    assert_eq!(code, 0, "{out}{error}");
    assert_eq!(world.runs(), [1, 1]);
    traffic.goes_on(100);
    let (_, logs, _) = world.berth(&["logs", "--cell", "shared-1"]);
    assert!(logs.contains("this is good"), "{logs}");

    for (name, script, word) in [
        ("sick", "[ \"$1\" = migrate ] && exit 0\nexec sleep 1000", "were not healthy within 8 s"),
        (
            "hollow",
            "[ \"$1\" = migrate ] && exit 0\nexec python3 -c '\nimport http.server, os\n\
             class App(http.server.BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.send_response(200)\n        \
             self.end_headers()\n        self.wfile.write(b\"empty\")\n\
             http.server.HTTPServer((\"127.0.0.1\", int(os.environ[\"PORT\"])), App).serve_forever()'",
            "a smoke check of member",
        ),
        ("hung", "[ \"$1\" = migrate ] && echo waits && exec sleep 1000\nexec FLEET \"$@\"", "had not ended after 8 s"),
        ("ends", "[ \"$1\" = migrate ] && exit 0\necho no such option; exit 64", "no such option"),
    ] {
        let bad = world.release(name, script);
        let (code, out, error) = world.berth(&["release", "roll", &bad, "--wait"]);
        assert_eq!(code, 1, "{name}: {out}{error}");
        assert!(error.contains(word) && error.contains("2 what they ran before"), "{name}: {error}");
        assert_eq!(world.runs(), [1, 1], "{name}");
    }
    let replaced = world.release("replaced", "exec FLEET \"$@\"");
    fs::write(world.place.dir.join("replaced"), "something else").unwrap();
    let (code, _, error) = world.berth(&["release", "roll", &replaced, "--wait"]);
    assert!(code == 1 && error.contains("has the digest sha256:"), "{error}");

    let (code, out, error) = world.berth(&["release", "back", "--to", "stack", "--wait"]);
    assert_eq!(code, 0, "{out}{error}");
    assert_eq!(world.runs(), [0, 0]);
    traffic.goes_on(100);
    traffic.ends_without_a_failure();

    // Of what failed and of what was replaced nothing is left.
    let left = || async {
        let members = fs::read_dir(world.place.dir.join("cells/members")).unwrap();
        let names = members.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains(".r")).collect::<Vec<String>>()
    };
    wait_until("the last member of a release goes", left, |left: &Vec<String>| left.is_empty()).await;
}
