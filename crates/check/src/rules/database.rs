//! What a Postgres server refuses from a session, and how many sessions it is asked for.

use crate::{
    Kind,
    node::Ask,
    read::File,
    world::{Out, Variable, World},
};

/// Settings that only the server's own configuration can hold: a session that asks for one is refused, and with it
/// the connection.
const OF_THE_SERVER: &[&str] = &[
    "shared_preload_libraries",
    "max_connections",
    "shared_buffers",
    "wal_level",
    "max_wal_senders",
    "max_replication_slots",
    "max_worker_processes",
    "superuser_reserved_connections",
    "port",
    "listen_addresses",
    "wal_buffers",
    "huge_pages",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "hot_standby",
    "archive_mode",
    "archive_command",
    "fsync",
    "full_page_writes",
    "checkpoint_timeout",
    "max_wal_size",
    "autovacuum_max_workers",
    "ssl",
    "hba_file",
    "data_directory",
    "autovacuum",
];
/// Postgres's own default.
const SHIPPED_MAX: f64 = 100.0;
/// `superuser_reserved_connections`, as shipped: what an application cannot have.
const RESERVED: f64 = 3.0;

pub fn server_setting(world: &World<'_>, out: &mut Out) {
    let message = |name: &str| {
        format!(
            "`{name}` is a setting of the server; asked for by a session, every connection is refused (`parameter \"{name}\" cannot be changed`)"
        )
    };
    const REMEDY: &str =
        "set it in `postgresql.conf` or by `ALTER SYSTEM`, and start the server anew; leave it out here";
    for file in world.of(Kind::Elixir) {
        for (path, map) in file.tree.maps() {
            if !path.ends_with("parameters") {
                continue;
            }
            for entry in map.entries().iter().filter(|entry| OF_THE_SERVER.contains(&entry.key.as_str())) {
                out.note(file, entry.line, &format!("{path}.{}", entry.key), message(&entry.key), REMEDY);
            }
        }
    }
    for variable in world.variables() {
        let options = variable.name == "PGOPTIONS" || variable.value.contains("://");
        if !options {
            continue;
        }
        for name in session_options(&variable).iter().filter(|name| OF_THE_SERVER.contains(&name.as_str())) {
            out.note(variable.file, variable.line, &variable.key, message(name), REMEDY);
        }
    }
}

/// Names set by `-c name=…` or `--name=…`, in `PGOPTIONS` or in a URL's `options`.
fn session_options(variable: &Variable<'_>) -> Vec<String> {
    let text = match variable.value.split_once("options=") {
        Some((_, options)) => options.split('&').next().unwrap_or_default().to_owned(),
        None if variable.name == "PGOPTIONS" => variable.value.clone(),
        None => return Vec::new(),
    };
    let text = text.replace("%20", " ").replace('+', " ").replace("%3D", "=").replace("%3d", "=").replace("%2D", "-");
    let mut names = Vec::new();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let setting = match word {
            "-c" => words.next().unwrap_or_default(),
            _ => word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).unwrap_or_default(),
        };
        if let Some((name, _)) = setting.split_once('=') {
            names.push(name.replace('-', "_"));
        }
    }
    names
}

/// Who opens how many connections.
struct Demand<'a> {
    file: &'a File,
    line: u64,
    key: String,
    replicas: f64,
    workers: f64,
    pool: f64,
}

impl Demand<'_> {
    fn connections(&self) -> f64 {
        self.replicas * self.workers * self.pool
    }
}

pub fn connections(world: &World<'_>, out: &mut Out) {
    let variables = world.variables();
    let (maximum, from) = maximum(world, &variables);
    for group in groups(world, &variables) {
        let total: f64 = group.iter().map(Demand::connections).sum();
        let Some(first) = group.first().filter(|_| total > maximum - RESERVED) else { continue };
        let sum: Vec<String> =
            group.iter().map(|d| format!("{:.0} × {:.0} × {:.0}", d.replicas, d.workers, d.pool)).collect();
        out.note(
            first.file,
            first.line,
            &first.key,
            format!(
                "replicas × workers × pool is {} = {total:.0} connections; the server takes {maximum:.0} ({from}), of which {RESERVED:.0} are its administrator's",
                sum.join(" + ")
            ),
            "make the pools smaller, put a pooler such as PgBouncer between, or raise `max_connections` with the memory that each costs",
        );
    }
}

/// What the files let all processes open together; of several deployments the largest.
pub fn wanted(world: &World<'_>) -> Option<f64> {
    let variables = world.variables();
    let totals = groups(world, &variables).into_iter().map(|group| group.iter().map(Demand::connections).sum::<f64>());
    totals.filter(|total| *total > 0.0).max_by(f64::total_cmp)
}

/// Demands that meet at one server: those of one file.
fn groups<'a>(world: &World<'a>, variables: &[Variable<'a>]) -> Vec<Vec<Demand<'a>>> {
    let mut groups: Vec<Vec<Demand<'a>>> = Vec::new();
    for kind in [Kind::Compose, Kind::Stack] {
        for file in world.of(kind) {
            groups.push(of_services(file, kind, variables));
        }
    }
    for file in world.of(Kind::Fly) {
        groups.extend(of_fly(file, variables).map(|demand| vec![demand]));
    }
    for file in world.of(Kind::Environment) {
        groups.extend(of_environment(file, variables).map(|demand| vec![demand]));
    }
    groups
}

/// What some file says the server takes.
fn maximum(world: &World<'_>, variables: &[Variable<'_>]) -> (f64, String) {
    for file in world.of(Kind::Compose) {
        for (_, service, _) in World::services(file) {
            let Some(command) = service.entry("command") else { continue };
            let words: Vec<String> = match command.value.text() {
                Some(text) => text.split_whitespace().map(str::to_owned).collect(),
                None => command.value.items().iter().filter_map(Ask::text).collect(),
            };
            let set = words
                .iter()
                .find_map(|word| word.trim_start_matches("-c").strip_prefix("max_connections=")?.parse().ok());
            if let Some(max) = set {
                return (max, format!("`max_connections` in {}:{}", file.path, command.line));
            }
        }
    }
    for file in world.of(Kind::Elixir) {
        let said = file.tree.leaves().into_iter().filter(|leaf| leaf.name() == "max_connections");
        let said = said.filter_map(|leaf| Some((leaf.node.number()?, leaf.line))).min_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((max, line)) = said {
            return (max, format!("`max_connections` in {}:{line}", file.path));
        }
    }
    let named = variables.iter().find(|v| matches!(v.name.as_str(), "POSTGRES_MAX_CONNECTIONS" | "DB_MAX_CONNECTIONS"));
    match named.and_then(|v| Some((v.value.parse().ok()?, v))) {
        Some((max, v)) => (max, format!("`{}` in {}", v.name, v.file.path)),
        None => (SHIPPED_MAX, "Postgres's own default".to_owned()),
    }
}

const POOLS: &[&str] =
    &["DB_POOL_SIZE", "DATABASE_POOL_SIZE", "SHARED_DATABASE_POOL_SIZE", "DEDICATED_DATABASE_POOL_SIZE", "POOL_SIZE"];
const WORKERS: &[&str] = &["WEB_CONCURRENCY", "WORKERS", "UVICORN_WORKERS", "GUNICORN_WORKERS", "CELERY_CONCURRENCY"];

fn named(variables: &[&Variable<'_>], names: &[&str]) -> Option<f64> {
    variables.iter().find(|v| names.contains(&v.name.as_str())).and_then(|v| v.value.parse().ok())
}

/// With what a pool may open beyond its size.
fn pool(variables: &[&Variable<'_>]) -> Option<f64> {
    Some(named(variables, POOLS)? + named(variables, &["MAX_OVERFLOW", "DB_MAX_OVERFLOW"]).unwrap_or_default())
}

fn of_services<'a>(file: &'a File, kind: Kind, variables: &[Variable<'a>]) -> Vec<Demand<'a>> {
    let mut demands = Vec::new();
    for (name, service, line) in World::services(file) {
        let own: Vec<&Variable<'_>> =
            variables.iter().filter(|v| std::ptr::eq(v.file, file) && v.service.as_deref() == Some(name)).collect();
        let Some(pool) = pool(&own) else { continue };
        let replicas = match kind {
            Kind::Compose => service.at(&["deploy", "replicas"]).or_else(|| service.at(&["scale"])),
            _ => service.at(&["copies"]),
        };
        let replicas = replicas.and_then(Ask::number).unwrap_or(1.0);
        let workers = named(&own, WORKERS).or_else(|| workers_in(service)).unwrap_or(1.0);
        demands.push(Demand { file, line, key: format!("services.{name}"), replicas, workers, pool });
    }
    demands
}

/// `--workers 4` in a command.
fn workers_in(service: &berth_config::tree::Node) -> Option<f64> {
    let command = service.entry("command")?;
    let words: Vec<String> = match command.value.text() {
        Some(text) => text.split_whitespace().map(str::to_owned).collect(),
        None => command.value.items().iter().filter_map(Ask::text).collect(),
    };
    let after = words.iter().position(|word| matches!(word.as_str(), "--workers" | "-w" | "--concurrency"))?;
    words.get(after + 1)?.parse().ok()
}

/// The largest number of machines that the file asks for, in every region that it names.
fn of_fly<'a>(file: &'a File, variables: &[Variable<'a>]) -> Option<Demand<'a>> {
    let own: Vec<&Variable<'_>> = variables.iter().filter(|v| std::ptr::eq(v.file, file)).collect();
    let pool = pool(&own)?;
    let line = own.iter().find(|v| POOLS.contains(&v.name.as_str()))?.line;
    let most = |table: &str, key: &str| {
        let items = file.tree.entry(table).map(|entry| entry.value.items()).unwrap_or_default();
        items.iter().filter_map(|item| item.at(&[key])?.number()).max_by(f64::total_cmp)
    };
    let regions = file.tree.entry("deploy").map_or(1, |entry| entry.value.items().len().max(1));
    let replicas = most("autoscale", "max").unwrap_or(1.0) * regions as f64;
    let workers = named(&own, WORKERS).unwrap_or(1.0);
    Some(Demand { file, line, key: "env".to_owned(), replicas, workers, pool })
}

fn of_environment<'a>(file: &'a File, variables: &[Variable<'a>]) -> Option<Demand<'a>> {
    let own: Vec<&Variable<'_>> = variables.iter().filter(|v| std::ptr::eq(v.file, file)).collect();
    let pool = pool(&own)?;
    let line = own.iter().find(|v| POOLS.contains(&v.name.as_str()))?.line;
    let replicas = named(&own, &["MAX_INSTANCES", "FLY_REPLICAS", "REPLICAS"]).unwrap_or(1.0);
    let workers = named(&own, WORKERS).unwrap_or(1.0);
    Some(Demand { file, line, key: "POOL_SIZE".to_owned(), replicas, workers, pool })
}
