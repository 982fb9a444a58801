//! The demo's processes: a janitor, a server with its own Postgres, an edge, and the way to the cells' databases.

use super::say;
use crate::fail::{Failure, FailureExt as _};
use crate::janitor;
use berth_client::Client;
use berth_domain::CellName;
use berth_infra::{DatabaseName, EnvVar, Role};
use berth_providers::local::{Afterwards, Local, LocalOptions, end_all, start_program};
use berth_wire::{KeyCreate, StackApply};
use secrecy::{ExposeSecret as _, SecretString};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const STACK: &str = include_str!("../../../../examples/fleet/berth.yaml");
const HOOKS: &[(&str, &str)] = &[
    ("../../apps/fleet/hooks/tenant_create.sql", include_str!("../../../../apps/fleet/hooks/tenant_create.sql")),
    ("../../apps/fleet/hooks/tenant_suspend.sql", include_str!("../../../../apps/fleet/hooks/tenant_suspend.sql")),
    ("../../apps/fleet/hooks/tenant_resume.sql", include_str!("../../../../apps/fleet/hooks/tenant_resume.sql")),
    ("../../apps/fleet/hooks/tenant_plan.sql", include_str!("../../../../apps/fleet/hooks/tenant_plan.sql")),
    ("../../apps/fleet/hooks/tenant_delete.sql", include_str!("../../../../apps/fleet/hooks/tenant_delete.sql")),
];
/// A fresh server makes its Postgres first.
const START_LIMIT: Duration = Duration::from_mins(1);

pub struct World {
    pub dir: PathBuf,
    pub client: Client,
    pub url: String,
    pub edge: SocketAddr,
    pub serve_pid: u32,
    pub edge_pid: u32,
    /// How `serve` and `edge` were started, for who has to start them again.
    programs: [(&'static str, Vec<String>, Vec<EnvVar>); 2],
    cells: Cells,
}

/// The way to the cells' databases, for tasks that outlive a look at the world.
#[derive(Clone)]
pub struct Cells {
    local: Arc<Local>,
    dir: PathBuf,
}

impl World {
    pub async fn start(under: &Path, fleet: &Path, unix_sockets: bool) -> Result<Self, Failure> {
        let dir = under.join(format!("berth-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&dir).ours("the demo's folder")?;
        janitor::hire(&roots(&dir))?;
        let (port, metrics) = (free_port()?, free_port()?);
        let url = format!("http://127.0.0.1:{port}");
        say(format!("starting a control plane on {url} (dashboard, API) with a Postgres of its own"));
        let me = std::env::current_exe().ours("this program's own path")?;
        let me = me.to_string_lossy().into_owned();
        let serve = [
            me.clone(),
            "serve".into(),
            "--open-dashboard".into(),
            "--listen".into(),
            format!("127.0.0.1:{port}"),
            "--metrics".into(),
            format!("127.0.0.1:{metrics}"),
            "--data-dir".into(),
            dir.join("serve").to_string_lossy().into_owned(),
        ];
        let serve_pid = program(&dir, "serve", &serve, &[]).await?;
        let key = first_key(&dir).await?;
        let client = Client::new(&url, Some(key)).ours("the client")?;
        let until = Instant::now() + START_LIMIT;
        while let Err(error) = client.status().await {
            if Instant::now() > until {
                return Err(Failure::ours(error, "the control plane did not come up", log_hint(&dir)));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let applied = client
            .stack_apply(&stack(&dir, fleet, unix_sockets))
            .await
            .map_err(|error| refused(error, "applying the stack file"))?;
        for operation in applied.operations {
            super::story::finished(&client, operation, "making the shared cell", |_| {}).await?;
        }
        let edge_key = client
            .key_create(&KeyCreate { name: "edge-1".into(), scope: "edge".into() })
            .await
            .map_err(|error| refused(error, "making the edge's key"))?;
        let (edge_port, admin) = (free_port()?, free_port()?);
        let edge: SocketAddr = ([127, 0, 0, 1], edge_port).into();
        let command = [
            me,
            "edge".into(),
            "--name".into(),
            "edge-1".into(),
            "--listen".into(),
            edge.to_string(),
            "--admin".into(),
            format!("127.0.0.1:{admin}"),
            "--control".into(),
            url.clone(),
            "--data-dir".into(),
            dir.join("edge").to_string_lossy().into_owned(),
        ];
        let edge_env = vec![EnvVar::new("BERTH_API_KEY", SecretString::from(edge_key.secret))];
        let edge_pid = program(&dir, "edge", &command, &edge_env).await?;
        let until = Instant::now() + START_LIMIT;
        while tokio::net::TcpStream::connect(edge).await.is_err() {
            if Instant::now() > until {
                return Err(Failure::request("the edge did not come up", log_hint(&dir)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        say(format!("an edge listens on {edge}"));
        let local = Local::new(LocalOptions::under(dir.join("cells"))).ours("the cells' folder")?;
        let cells = Cells { local: Arc::new(local), dir: dir.clone() };
        let programs = [("serve", serve.to_vec(), Vec::new()), ("edge", command.to_vec(), edge_env)];
        Ok(Self { dir, client, url, edge, serve_pid, edge_pid, programs, cells })
    }

    /// Starts `serve` or `edge` as it was started first: same ports, same folders.
    pub async fn start_again(&self, name: &str) -> Result<u32, Failure> {
        let known = self.programs.iter().find(|(known, ..)| *known == name);
        let (name, command, env) = known.expect("only these two are started");
        program(&self.dir, name, command, env).await
    }

    /// The database of a cell, as the one role that passes row security: for seeding and for the checker.
    pub async fn database(&self, cell: &CellName) -> Result<tokio_postgres::Config, Failure> {
        self.database_as(cell, Role::Mover).await
    }

    pub async fn database_as(&self, cell: &CellName, role: Role) -> Result<tokio_postgres::Config, Failure> {
        self.cells.database_as(cell, role).await
    }

    pub fn cells(&self) -> Cells {
        self.cells.clone()
    }

    /// Ends everything. What a demo that went wrong has written stays, for who wants to know why.
    pub fn end(&self, good: bool) {
        for root in roots(&self.dir) {
            if let Err(error) = end_all(&root, Afterwards::Keep) {
                say(format!("{}: {error}; the janitor ends what is left", root.display()));
            }
        }
        if good {
            // Left to the janitor if it fails: that deletes the folder too.
            let _ = std::fs::remove_dir_all(&self.dir);
        } else {
            keep(&self.dir);
        }
    }
}

impl Cells {
    pub async fn database_as(&self, cell: &CellName, role: Role) -> Result<tokio_postgres::Config, Failure> {
        let databases = self.local.provider().database.expect("the local adapter makes databases");
        let found = databases.observe_database(&DatabaseName::of(cell)).await.ours("looking at a cell")?;
        let found = found
            .present()
            .ok_or_else(|| Failure::request(format!("cell `{cell}` has no database"), log_hint(&self.dir)))?;
        let login = found.login(role);
        let mut config = tokio_postgres::Config::new();
        config
            .host(&found.host)
            .port(found.port)
            .dbname(&found.database)
            .user(&login.user)
            .password(login.password.expose_secret())
            .application_name("berth-demo");
        Ok(config)
    }
}

/// Programs first: a server that lives would start again what is ended under it.
fn roots(dir: &Path) -> [PathBuf; 3] {
    [dir.to_owned(), dir.join("cells"), dir.join("serve/postgres")]
}

/// Logs are small and say why; databases are large and do not.
fn keep(dir: &Path) {
    let logs = dir.with_extension("logs");
    let kept = std::fs::create_dir_all(&logs).and_then(|()| std::fs::read_dir(dir.join("logs"))).and_then(|entries| {
        for entry in entries {
            let entry = entry?;
            std::fs::copy(entry.path(), logs.join(entry.file_name()))?;
        }
        Ok(())
    });
    match kept {
        Ok(()) => say(format!("the logs are kept in {}", logs.display())),
        Err(error) => say(format!("the logs could not be kept: {error}")),
    }
}

async fn program(dir: &Path, name: &str, command: &[String], env: &[EnvVar]) -> Result<u32, Failure> {
    let logs = dir.join("logs");
    std::fs::create_dir_all(&logs).ours("the folder of the logs")?;
    start_program(dir, name, command, env, &logs.join(format!("{name}.log"))).await.map_err(|error| {
        let hint = error.hint().unwrap_or_default();
        Failure::ours(error, format!("`berth {name}` could not be started"), hint)
    })
}

async fn first_key(dir: &Path) -> Result<SecretString, Failure> {
    let path = dir.join("serve/admin.key");
    let until = Instant::now() + START_LIMIT;
    loop {
        match std::fs::read_to_string(&path) {
            Ok(text) if text.ends_with('\n') => return Ok(SecretString::from(text.trim())),
            _ if Instant::now() > until => {
                return Err(Failure::request("the control plane did not come up", log_hint(dir)));
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn stack(dir: &Path, fleet: &Path, unix_sockets: bool) -> StackApply {
    let program = serde_json::Value::String(fleet.to_string_lossy().into_owned());
    let root = serde_json::Value::String(dir.join("cells").to_string_lossy().into_owned());
    // One program is the users of a whole company here: what a plan allows is not what this is to show.
    let limits =
        STACK.replace("{ api: 100, upload: 10, gps: 1000 }", "{ api: 10000000, upload: 10000000, gps: 10000000 }");
    let file = limits.replace("[fleet, ", &format!("[{program}, ")).replace(
        "local: { adapter: local }",
        &format!("local: {{ adapter: local, root: {root}, stop_grace_ms: 3000, unix_sockets: {unix_sockets} }}"),
    );
    let files: BTreeMap<String, String> =
        HOOKS.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    StackApply { file, files, dry_run: false }
}

fn free_port() -> Result<u16, Failure> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).ours("no free port on loopback")?;
    Ok(listener.local_addr().ours("the address of a socket")?.port())
}

pub fn refused(error: berth_client::ClientError, what: &str) -> Failure {
    let hint = error.hint().unwrap_or_default();
    Failure::ours(error, what.to_owned(), hint)
}

fn log_hint(dir: &Path) -> String {
    format!("its log will be kept in {}", dir.with_extension("logs").display())
}
