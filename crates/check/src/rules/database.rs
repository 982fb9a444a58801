//! What a Postgres server refuses from a session, and how many sessions it is asked for.

use crate::{
    Kind,
    node::Ask,
    read::File,
    world::{MULTI, Out, SINGLE, Variable, World, copies, of_mode},
};
use berth_config::{Modes, tree::Node};

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
/// What Berth lets a cell's own server take: the least and the most, and the memory of the database that a session needs.
const OF_A_CELL: (f64, f64) = (120.0, 500.0);
const SESSION_MIB: f64 = 8.0;
const RESERVED_IN_A_CELL: f64 = 5.0;

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
    /// Some file says the pool; else it is what Berth tells, and nobody knows whether the process opens one at all.
    named: bool,
}

impl Demand<'_> {
    fn connections(&self) -> f64 {
        self.replicas * self.workers * self.pool
    }
}

/// Demands that meet at one server: those of one file, in a stack file those of one cell.
struct Group<'a> {
    demands: Vec<Demand<'a>>,
    /// Of the cells that Berth runs: their mode, and what the smallest one's server takes.
    cell: Option<(&'static str, f64)>,
}

impl Group<'_> {
    fn connections(&self) -> f64 {
        self.demands.iter().map(Demand::connections).sum()
    }

    fn named(&self) -> f64 {
        self.demands.iter().filter(|demand| demand.named).map(Demand::connections).sum()
    }
}

pub fn connections(world: &World<'_>, out: &mut Out) {
    let variables = world.variables();
    let said = maximum(world, &variables);
    for group in groups(world, &variables) {
        let (maximum, reserved, from) = match (&said, group.cell) {
            (Some((maximum, from)), _) => (*maximum, RESERVED, from.clone()),
            (None, Some((_, takes))) => (takes, RESERVED_IN_A_CELL, "as Berth sets it up".to_owned()),
            (None, None) => (SHIPPED_MAX, RESERVED, "Postgres's own default".to_owned()),
        };
        let total = group.connections();
        let Some(first) = group.demands.first().filter(|_| total > maximum - reserved) else { continue };
        let sum: Vec<String> =
            group.demands.iter().map(|d| format!("{:.0} × {:.0} × {:.0}", d.replicas, d.workers, d.pool)).collect();
        let place = group.cell.map_or_else(String::new, |(mode, _)| format!("in a `{mode}` cell "));
        let sure = group.named() > maximum - reserved;
        let usual = if sure { "" } else { "; where no file says a pool, Berth's usual one is counted" };
        out.note(
            first.file,
            first.line,
            &first.key,
            format!(
                "{place}replicas × workers × pool is {} = {total:.0} connections; the server takes {maximum:.0} ({from}), of which {reserved:.0} are its administrator's{usual}",
                sum.join(" + ")
            ),
            "make the pools smaller, put a pooler such as PgBouncer between, or raise `max_connections` with the memory that each costs",
        );
        if !sure {
            out.soften();
        }
    }
}

/// What the pools that files name let all processes open together; of several deployments the largest.
pub fn wanted(world: &World<'_>) -> Option<f64> {
    let totals = groups(world, &world.variables()).into_iter().map(|group| group.named());
    totals.filter(|total| *total > 0.0).max_by(f64::total_cmp)
}

fn groups<'a>(world: &World<'a>, variables: &[Variable<'a>]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let apart = |demands: Vec<Demand<'a>>| Group { demands, cell: None };
    for file in world.of(Kind::Compose) {
        groups.push(apart(of_services(file, Kind::Compose, variables, None)));
    }
    for file in world.of(Kind::Stack) {
        let cells = run_by_berth(file);
        // Somebody else runs all of them, and Berth tells their processes nothing.
        if cells.is_empty() {
            groups.push(apart(of_services(file, Kind::Stack, variables, None)));
        }
        let of_cell = |cell: (&'static str, f64)| {
            let demands = of_services(file, Kind::Stack, variables, Some(cell.0));
            Group { demands, cell: Some(cell) }
        };
        groups.extend(cells.into_iter().map(of_cell));
    }
    for file in world.of(Kind::Fly) {
        groups.extend(of_fly(file, variables).map(|demand| apart(vec![demand])));
    }
    for file in world.of(Kind::Environment) {
        groups.extend(of_environment(file, variables).map(|demand| apart(vec![demand])));
    }
    groups
}

/// The modes in which Berth runs the services of a stack file, each with the sessions that the smallest such cell takes.
fn run_by_berth(file: &File) -> Vec<(&'static str, f64)> {
    // What lies over a stack file is judged together with it.
    if file.tree.entry("stack").is_none() {
        return Vec::new();
    }
    let entries = |key: &str| file.tree.entry(key).map(|entry| entry.value.entries()).unwrap_or_default();
    let (cells, providers, plans) = (entries("cells"), entries("providers"), entries("plans"));
    let elsewhere = |cell: &Node| {
        let named = cell.at(&["provider"]).and_then(Ask::text);
        let provider = match &named {
            Some(name) => providers.iter().find(|entry| entry.key == *name),
            None => providers.first(),
        };
        provider.and_then(|entry| entry.value.at(&["adapter"])?.text()).as_deref() == Some("endpoint")
    };
    let mode = |node: &Node| match node.at(&["class"]).and_then(Ask::text).as_deref() {
        Some("dedicated") => SINGLE,
        _ => MULTI,
    };
    let takes = |node: &Node| {
        let memory = node.at(&["shape", "memory_mib"]).and_then(Ask::number).unwrap_or_default();
        (memory / SESSION_MIB).floor().clamp(OF_A_CELL.0, OF_A_CELL.1)
    };
    let own = cells.iter().map(|entry| &entry.value).filter(|cell| !elsewhere(cell));
    let mut found: Vec<(&'static str, f64)> = own.map(|cell| (mode(cell), takes(cell))).collect();
    if cells.is_empty() {
        found.extend([(MULTI, OF_A_CELL.0), (SINGLE, OF_A_CELL.0)]);
    } else if !found.is_empty() {
        // A tenant of such a plan gets a cell of its own.
        found.extend(plans.iter().filter(|plan| mode(&plan.value) == SINGLE).map(|plan| (SINGLE, takes(&plan.value))));
    }
    let least = |mode: &'static str| {
        let takes = found.iter().filter(|(of, _)| *of == mode).map(|(_, takes)| *takes);
        Some((mode, takes.min_by(f64::total_cmp)?))
    };
    [MULTI, SINGLE].into_iter().filter_map(least).collect()
}

/// What some file says the server takes.
fn maximum(world: &World<'_>, variables: &[Variable<'_>]) -> Option<(f64, String)> {
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
                return Some((max, format!("`max_connections` in {}:{}", file.path, command.line)));
            }
        }
    }
    for file in world.of(Kind::Elixir) {
        let said = file.tree.leaves().into_iter().filter(|leaf| leaf.name() == "max_connections");
        let said = said.filter_map(|leaf| Some((leaf.node.number()?, leaf.line))).min_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((max, line)) = said {
            return Some((max, format!("`max_connections` in {}:{line}", file.path)));
        }
    }
    let named = variables.iter().find(|v| matches!(v.name.as_str(), "POSTGRES_MAX_CONNECTIONS" | "DB_MAX_CONNECTIONS"));
    named.and_then(|v| Some((v.value.parse().ok()?, format!("`{}` in {}", v.name, v.file.path))))
}

const POOLS: &[&str] =
    &["DB_POOL_SIZE", "DATABASE_POOL_SIZE", "SHARED_DATABASE_POOL_SIZE", "DEDICATED_DATABASE_POOL_SIZE", "POOL_SIZE"];
const WORKERS: &[&str] = &["WEB_CONCURRENCY", "WORKERS", "UVICORN_WORKERS", "GUNICORN_WORKERS", "CELERY_CONCURRENCY"];

fn named(variables: &[&Variable<'_>], names: &[&str]) -> Option<f64> {
    variables.iter().find(|v| names.contains(&v.name.as_str())).and_then(|v| v.value.parse().ok())
}

/// With what a pool may open beyond its size; `usual` where no variable says one.
fn pool(variables: &[&Variable<'_>], usual: Option<f64>) -> Option<f64> {
    Some(
        named(variables, POOLS).or(usual)? + named(variables, &["MAX_OVERFLOW", "DB_MAX_OVERFLOW"]).unwrap_or_default(),
    )
}

/// `mode`: of the cell in which Berth runs them, and tells each process its pool.
fn of_services<'a>(file: &'a File, kind: Kind, variables: &[Variable<'a>], mode: Option<&str>) -> Vec<Demand<'a>> {
    let told = mode.map(of_mode);
    let said = mode.and_then(|mode| file.tree.at(&["modes", mode, "pool_size"])?.number());
    let usual = mode.map(|mode| {
        let modes = Modes::default();
        let usual = if mode == SINGLE { modes.single_tenant } else { modes.multi_tenant }.pool_size;
        said.unwrap_or(f64::from(usual))
    });
    let here = |v: &&Variable<'a>| std::ptr::eq(v.file, file);
    let mut demands = Vec::new();
    for (name, service, line) in World::services(file) {
        // A service's own go before its mode's.
        let own = variables.iter().filter(here).filter(|v| v.service.as_deref() == Some(name));
        let its_own = own.clone().any(|v| POOLS.contains(&v.name.as_str()));
        let of_mode =
            variables.iter().filter(here).filter(|v| told.as_ref().is_some_and(|told| v.key.starts_with(told)));
        let own: Vec<&Variable<'_>> = own.chain(of_mode).collect();
        let Some(pool) = pool(&own, usual) else { continue };
        let replicas = match kind {
            Kind::Compose => {
                let said = service.at(&["deploy", "replicas"]).or_else(|| service.at(&["scale"]));
                said.and_then(Ask::number).unwrap_or(1.0)
            }
            _ => copies(service),
        };
        // Workers often open no database: only a pool of the service's own speaks for each of its processes.
        let each = its_own || service.at(&["role"]).and_then(Ask::text).is_none_or(|role| role == "web");
        let workers = named(&own, WORKERS).or_else(|| workers_in(service)).filter(|_| each).unwrap_or(1.0);
        let named = said.is_some() || named(&own, POOLS).is_some();
        demands.push(Demand { file, line, key: format!("services.{name}"), replicas, workers, pool, named });
    }
    demands
}

/// `--workers 4` in a command.
fn workers_in(service: &Node) -> Option<f64> {
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
    let pool = pool(&own, None)?;
    let line = own.iter().find(|v| POOLS.contains(&v.name.as_str()))?.line;
    let most = |table: &str, key: &str| {
        let items = file.tree.entry(table).map(|entry| entry.value.items()).unwrap_or_default();
        items.iter().filter_map(|item| item.at(&[key])?.number()).max_by(f64::total_cmp)
    };
    let regions = file.tree.entry("deploy").map_or(1, |entry| entry.value.items().len().max(1));
    let replicas = most("autoscale", "max").unwrap_or(1.0) * regions as f64;
    let workers = named(&own, WORKERS).unwrap_or(1.0);
    Some(Demand { file, line, key: "env".to_owned(), replicas, workers, pool, named: true })
}

fn of_environment<'a>(file: &'a File, variables: &[Variable<'a>]) -> Option<Demand<'a>> {
    let own: Vec<&Variable<'_>> = variables.iter().filter(|v| std::ptr::eq(v.file, file)).collect();
    let pool = pool(&own, None)?;
    let line = own.iter().find(|v| POOLS.contains(&v.name.as_str()))?.line;
    let replicas = named(&own, &["MAX_INSTANCES", "FLY_REPLICAS", "REPLICAS"]).unwrap_or(1.0);
    let workers = named(&own, WORKERS).unwrap_or(1.0);
    Some(Demand { file, line, key: "POOL_SIZE".to_owned(), replicas, workers, pool, named: true })
}
