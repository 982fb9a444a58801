//! Releases under traffic, with the programs as people start them: nobody notices one that goes well, and nobody notices
//! one that does not, nor its way back.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod running;

use berth_testkit::wait_until;
use berth_wire::TenantCreate;
use running::{BERTH, Place, World, finishes, fleet};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
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
    /// A program of the application, as a release names it.
    fn program(&self, name: &str, script: &str) -> String {
        let path = self.place.dir.join(name);
        let text = format!("#!/bin/sh\n# {name}\n{}\n", script.replace("FLEET", fleet().to_str().unwrap()));
        fs::write(&path, &text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let sum = Command::new("sha256sum").arg(&path).output().unwrap();
        format!("{}@sha256:{}", path.display(), &String::from_utf8(sum.stdout).unwrap()[..64])
    }

    /// The release that runs such a program.
    fn release(&self, name: &str, script: &str) -> String {
        let web = format!("web={}", self.program(name, script));
        let (code, out, error) = self.berth(&["release", "create", &web, "--json"]);
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

    for (name, script, word, remedy) in [
        (
            "sick",
            "[ \"$1\" = migrate ] && exit 0\nexec sleep 1000",
            "were not healthy within 8 s",
            "`releases.healthy_limit`",
        ),
        (
            "hollow",
            "[ \"$1\" = migrate ] && exit 0\nexec python3 -c '\nimport http.server, os\n\
             class App(http.server.BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.send_response(200)\n        \
             self.end_headers()\n        self.wfile.write(b\"empty\")\n\
             http.server.HTTPServer((\"127.0.0.1\", int(os.environ[\"PORT\"])), App).serve_forever()'",
            "a smoke check of member",
            "`releases.smoke`",
        ),
        (
            "hung",
            "[ \"$1\" = migrate ] && echo waits && exec sleep 1000\nexec FLEET \"$@\"",
            "had not ended after 8 s",
            "or raise `releases.migrate_limit`",
        ),
        ("ends", "[ \"$1\" = migrate ] && exit 0\necho no such option; exit 64", "no such option", "the stack file"),
    ] {
        let bad = world.release(name, script);
        let (code, out, error) = world.berth(&["release", "roll", &bad, "--wait"]);
        assert_eq!(code, 1, "{name}: {out}{error}");
        for word in [word, remedy, "2 what they ran before"] {
            assert!(error.contains(word), "{name} lacks `{word}`: {error}");
        }
        assert_eq!(world.runs(), [1, 1], "{name}");
    }
    let replaced = world.release("replaced", "exec FLEET \"$@\"");
    fs::write(world.place.dir.join("replaced"), "something else").unwrap();
    let (code, _, error) = world.berth(&["release", "roll", &replaced, "--wait"]);
    assert!(code == 1 && error.contains("has the digest sha256:") && error.contains("`sha256sum` prints"), "{error}");

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

/// A release stops in the cell in which it goes wrong, and whoever lives there notices nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_goes_wrong_in_the_second_of_three_cells_ends_there_and_never_serves() {
    let third = "  shared-3: { class: shared, provider: local, max_tenants: 10 }\nedges:";
    let world = World::start(|place| stack(place).replace("edges:", third)).await;
    let wanted = TenantCreate {
        name: "acme".parse().unwrap(),
        plan: "hobby".parse().unwrap(),
        hosts: vec!["acme.test".parse().unwrap()],
        key: None,
        cell: Some("shared-2".parse().unwrap()),
        profile: None,
    };
    finishes(&world.client, world.client.tenant_create(&wanted).await.unwrap().id).await;
    let first = || async { request(world.edge) };
    wait_until("the edge serves the tenant", first, |(status, _): &(u16, String)| *status == 200).await;
    assert_eq!(world.runs(), [0, 0, 0]);

    let traffic = Traffic::begin(world.edge);
    for (number, name, wrong, word) in [
        (1, "unmigrated", "[ \"$1\" = migrate ] && echo no such column && exit 3", "no such column"),
        (2, "sick", "[ \"$1\" = serve ] && exec sleep 1000", "were not healthy within 8 s"),
    ] {
        let script = format!("if [ \"$BERTH_CELL\" = shared-2 ]; then\n{wrong}\nfi\nexec FLEET \"$@\"");
        let (code, out, error) = world.berth(&["release", "roll", &world.release(name, &script), "--wait"]);
        assert_eq!(code, 1, "{name}: {out}{error}");
        for word in ["cell `shared-2`", word, &format!("1 cells run r{number}"), "2 what they ran before"] {
            assert!(error.contains(word), "{name} lacks `{word}`: {error}");
        }
        assert_eq!(world.runs(), [number, 0, 0], "{name}");
        traffic.goes_on(20);
    }
    let (code, out, error) = world.berth(&["release", "back", "--wait"]);
    assert_eq!(code, 0, "{out}{error}");
    assert_eq!(world.runs(), [1, 0, 0]);
    let good = world.release("good", "exec FLEET \"$@\"");
    let (code, out, error) = world.berth(&["release", "roll", &good, "--wait"]);
    assert_eq!(code, 0, "{out}{error}");
    assert_eq!(world.runs(), [3, 3, 3]);
    traffic.goes_on(20);
    traffic.ends_without_a_failure();
}

/// What is read of a workflow of GitHub's.
#[derive(Deserialize)]
struct Workflow {
    jobs: BTreeMap<String, Job>,
}

#[derive(Deserialize)]
struct Job {
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    run: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// The step of the rendered workflow that brings an image to the cells, as a runner runs it: nothing of it is replaced but
/// GitHub's expressions. `ssh` is a stand-in that does what the server's would with the same words.
struct Pipeline {
    dir: PathBuf,
    env: BTreeMap<String, String>,
}

const SSH_KEY: &str = "-----BEGIN KEY-----\nplanted\n-----END KEY-----";
const HOST: &str = "server ssh-ed25519 AAAA";

impl Pipeline {
    fn rendered(place: &Place) -> Self {
        let dir = place.dir.join("repository");
        for folder in ["bin", "runner"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        fs::write(dir.join("berth.yaml"), stack(place)).unwrap();
        let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../apps/fleet/hooks/tenant_create.sql");
        fs::copy(hook, dir.join("tenant_create.sql")).unwrap();
        let words = ["render", "--host", "fleet.example.com", "--language", "rust"];
        let done = place.berth(&words).current_dir(&dir).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

        let text = fs::read_to_string(dir.join(".github/workflows/images.yml")).unwrap();
        let mut workflow: Workflow = serde_saphyr::from_str(&text).unwrap();
        let mut steps = workflow.jobs.remove("release").unwrap().steps;
        assert_eq!(steps.len(), 1, "{text}");
        let Step { run, env } = steps.remove(0);
        let run = run.unwrap();
        assert!(!run.contains("${{"), "an expression in a script is taken for a part of it: {run}");
        fs::write(dir.join("step.sh"), run).unwrap();
        let ssh = "#!/bin/sh\nprintf '%s\\n' \"$@\" >\"$RUNNER_TEMP/words\"\nfor line; do :; done\n\
                   exec env -i PATH=\"$PATH\" HOME=\"$RUNNER_TEMP\" BERTH_URL=\"$URL_THERE\" sh -c \"$line\"\n";
        fs::write(dir.join("bin/ssh"), ssh).unwrap();
        fs::set_permissions(dir.join("bin/ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink(BERTH, dir.join("bin/berth")).unwrap();
        Self { dir, env }
    }

    fn brings(&self, place: &Place, image: &str) -> Output {
        let (bin, path) = (self.dir.join("bin"), std::env::var_os("PATH").unwrap());
        let mut step = Command::new("sh");
        step.args(["-e", "step.sh"]).current_dir(&self.dir).env_remove("BERTH_URL").env_remove("DATABASE_URL");
        step.env("PATH", format!("{}:{}", bin.display(), path.to_str().unwrap()));
        step.env("RUNNER_TEMP", self.dir.join("runner")).env("URL_THERE", &place.url);
        for (name, expression) in &self.env {
            let value = match expression.as_str() {
                "${{ needs.build.outputs.image }}" => image,
                "${{ vars.BERTH_SSH }}" => "deploy@server",
                "${{ vars.BERTH_KNOWN_HOSTS }}" => HOST,
                "${{ secrets.BERTH_SSH_KEY }}" => SSH_KEY,
                "${{ secrets.BERTH_API_KEY }}" => &place.key,
                other => panic!("the workflow asks for `{other}`, which nobody gives here"),
            };
            step.env(name, value);
        }
        step.output().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rendered_workflow_brings_an_image_to_the_cells_and_fails_where_that_fails() {
    let world = World::start(stack).await;
    let pipeline = Pipeline::rendered(&world.place);
    let said = |done: &Output| [&done.stdout[..], &done.stderr].map(String::from_utf8_lossy).concat();

    let image = world.program("built", "exec FLEET \"$@\"");
    let done = pipeline.brings(&world.place, &image);
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(world.runs(), [1, 1], "{}", said(&done));
    let runner = pipeline.dir.join("runner");
    for (file, holds) in [("key", SSH_KEY), ("known_hosts", HOST)] {
        assert_eq!(fs::read_to_string(runner.join(file)).unwrap(), format!("{holds}\n"));
        assert_eq!(fs::metadata(runner.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let words = fs::read_to_string(runner.join("words")).unwrap();
    let (key, hosts) = (runner.join("key"), format!("UserKnownHostsFile={}", runner.join("known_hosts").display()));
    let options =
        ["-i", key.to_str().unwrap(), "-o", "IdentitiesOnly=yes", "-o", &hosts, "-o", "StrictHostKeyChecking=yes"];
    let given: Vec<&str> = words.lines().collect();
    assert_eq!(given[..given.len() - 1], [&options[..], &["deploy@server"]].concat());
    assert!(!words.contains(&world.place.key) && !words.contains("planted"), "a secret on a command line: {words}");

    // The same again is the same release, and there is nothing to do.
    let again = pipeline.brings(&world.place, &image);
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(world.runs(), [1, 1]);
    let broken = world.program("broken", "[ \"$1\" = migrate ] && echo no such column && exit 3\nexec FLEET \"$@\"");
    for (image, word) in [(broken.as_str(), "no such column"), ("ghcr.io/desk/fleet:latest", "a tag can be moved")] {
        let failed = pipeline.brings(&world.place, image);
        assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
        assert!(said(&failed).contains(word), "{}", said(&failed));
        assert_eq!(world.runs(), [1, 1]);
    }
}
