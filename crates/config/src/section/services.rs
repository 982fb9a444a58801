//! `services`: what runs in every cell. Starts nothing, and does not look whether a command exists.

use super::{facts::polls, usage::scale};
use crate::{
    Environment, Files, HoldPolicy, Problem, Run, Service, Shape, Template,
    environment::is_variable,
    read::{At, Reader, Section},
};
use berth_domain::{ServiceName, ServiceRole};
use std::collections::BTreeMap;

const KEYS: &[&str] = &[
    "command", "image", "migrate", "role", "port", "health", "socket", "copies", "scale", "env", "shape", "hold",
    "polls", "edge",
];
const COPIES_MAX: u16 = 64;
/// Set by Berth for every process; a service that set them itself would run against another cell's database.
const RESERVED: &[&str] = &["DATABASE_URL", "DEPLOYMENT_MODE", "INFRASTRUCTURE_PROVIDER", "PORT", "BERTH_CELL"];

pub fn read(
    reader: &mut Reader,
    at: &At<'_>,
    environment: Option<&Environment>,
    quotas: &[String],
    files: Files<'_>,
) -> BTreeMap<ServiceName, Service> {
    let mut services = BTreeMap::new();
    for (name, at) in reader.named::<ServiceName>(at) {
        if let Some(service) = service(reader, &at, environment, quotas, files) {
            services.insert(name, service);
        }
    }
    services
}

fn service(
    reader: &mut Reader,
    at: &At<'_>,
    environment: Option<&Environment>,
    quotas: &[String],
    files: Files<'_>,
) -> Option<Service> {
    let section = reader.section(at, KEYS)?;
    let run = run(reader, at, &section);
    let role = match section.get("role") {
        Some(at) => {
            let words = [("web", ServiceRole::Web), ("worker", ServiceRole::Worker), ("cron", ServiceRole::Cron)];
            reader.one_of(&at, &words)
        }
        None => Some(ServiceRole::Web),
    };
    let migrate = section.get("migrate").and_then(|at| command(reader, &at));
    let port = section.get("port").and_then(|at| reader.number(&at, 1..=u16::MAX));
    let health = health(reader, &section, role);
    let socket = section.get("socket").and_then(|at| {
        if role != Some(ServiceRole::Web) {
            let message = "only a web service is asked by others";
            reader.wrong(&at, Problem::Malformed { message, hint: "leave it out, or use the role `web`" });
        }
        path(reader, &at)
    });
    let copies = section.get("copies").map_or(Some(1), |at| reader.number(&at, 1..=COPIES_MAX));
    let scale = section.get("scale").and_then(|at| scale(reader, &at));
    let env = section.get("env").map(|at| env(reader, &at, environment)).unwrap_or_default();
    let shape = section.get("shape").map(|at| shape(reader, &at)).unwrap_or_default();
    let polls = section.get("polls").map(|at| polls(reader, &at, quotas)).unwrap_or_default();
    let hold = section.get("hold").map_or(Some(HoldPolicy::default()), |at| {
        reader.one_of(&at, &[("unsafe", HoldPolicy::Unsafe), ("all", HoldPolicy::All)])
    });
    let edge =
        section.get("edge").map(|at| super::edge::read(reader, &at, role, health.as_deref(), files, environment));
    let edge = edge.unwrap_or_default();
    let several = if scale.is_some_and(|scale| scale.max > 1) { "scale" } else { "copies" };
    let copies = copies.map(|copies| scale.map_or(copies, |scale| copies.clamp(scale.min, scale.max.max(scale.min))));
    let most = copies.max(scale.map(|scale| scale.max));
    if let (Some(at), Some(2..)) = (section.get(several), most) {
        if role == Some(ServiceRole::Cron) {
            let problem = Problem::Malformed {
                message: "a cron service runs once in a cell, or its work would be done several times",
                hint: "leave `copies` and `scale` out, or use the role `worker`",
            };
            reader.wrong(&at, problem);
        } else if port.is_some() {
            let why = "copies on one host would fight for the port; without `port` each is given its own as `PORT`";
            reader.wrong(&at, Problem::Excludes { other: "port", why });
        }
    }
    let (run, role, copies, hold) = (run?, role?, copies?, hold?);
    Some(Service { run, role, migrate, port, health, socket, copies, scale, env, shape, hold, polls, edge })
}

fn run(reader: &mut Reader, at: &At<'_>, section: &Section<'_>) -> Option<Run> {
    match (section.get("command"), section.get("image")) {
        (Some(at), None) => command(reader, &at).map(Run::Command),
        (None, Some(at)) => {
            let image = reader.text(&at)?;
            if image.is_empty() || image.len() > 512 || image.contains(|c: char| c.is_whitespace() || c.is_control()) {
                let problem = Problem::Malformed {
                    message: "this is not the name of an image",
                    hint: "for example `registry.example.com/fleet@sha256:…`",
                };
                reader.wrong(&at, problem);
                return None;
            }
            Some(Run::Image(image.to_owned()))
        }
        (Some(_), Some(at)) => {
            reader.wrong(&at, Problem::Excludes { other: "command", why: "a service is either a command or an image" });
            None
        }
        (None, None) => {
            let key = format!("{}.command", at.key);
            reader.note(key, Some(at.node.line), Problem::Missing { example: "command: [./server, --fast]" });
            None
        }
    }
}

/// Program and arguments. A single text is refused: whether a shell would have split it is anybody's guess.
pub fn command(reader: &mut Reader, at: &At<'_>) -> Option<Vec<String>> {
    let items = reader.list(at)?;
    let before = reader.mistakes.len();
    let words: Vec<String> = items.iter().filter_map(|item| reader.loose_text(item)).collect();
    if reader.mistakes.len() > before {
        return None;
    }
    if words.first().is_none_or(String::is_empty) || words.iter().any(|word| word.contains('\0')) {
        let problem =
            Problem::Malformed { message: "a command begins with a program", hint: "for example `[./server, --fast]`" };
        reader.wrong(at, problem);
        return None;
    }
    Some(words)
}

fn health(reader: &mut Reader, section: &Section<'_>, role: Option<ServiceRole>) -> Option<String> {
    let at = match (section.get("health"), role) {
        (Some(at), _) => at,
        (None, Some(ServiceRole::Web)) => section.need("health", "health: /health", reader)?,
        (None, _) => return None,
    };
    path(reader, &at)
}

pub fn path(reader: &mut Reader, at: &At<'_>) -> Option<String> {
    let path = reader.text(at)?;
    let clean = path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !clean {
        let problem =
            Problem::Malformed { message: "this is not a path", hint: "a path begins with `/`, as in `/health`" };
        reader.wrong(at, problem);
        return None;
    }
    Some(path.to_owned())
}

pub fn env(reader: &mut Reader, at: &At<'_>, environment: Option<&Environment>) -> BTreeMap<String, Template> {
    let mut env = BTreeMap::new();
    for (name, at) in reader.pairs(at) {
        if !is_variable(&name) {
            let problem = Problem::Malformed {
                message: "this is not the name of a variable",
                hint: "letters, digits and `_`, not beginning with a digit",
            };
            reader.wrong(&at, problem);
        } else if RESERVED.contains(&name.as_str()) {
            let problem = Problem::Malformed {
                message: "Berth sets this variable for every process",
                hint: "leave it out; the process finds the value of its own cell there",
            };
            reader.wrong(&at, problem);
        }
        let Some(value) = reader.loose_text(&at) else { continue };
        if let Some(template) = checked(reader, &at, value, environment) {
            env.insert(name, template);
        }
    }
    env
}

/// A text in which `${NAME}` stands for a variable.
pub fn template(reader: &mut Reader, at: &At<'_>, environment: Option<&Environment>) -> Option<Template> {
    let value = reader.loose_text(at)?;
    checked(reader, at, value, environment)
}

fn checked(reader: &mut Reader, at: &At<'_>, value: String, environment: Option<&Environment>) -> Option<Template> {
    let Ok(template) = Template::new(value) else {
        let problem = Problem::Malformed {
            message: "a `$` begins neither `${NAME}` nor `$$`",
            hint: "write `${NAME}` for a variable and `$$` for a dollar sign",
        };
        reader.wrong(at, problem);
        return None;
    };
    for variable in template.variables() {
        if environment.is_some_and(|known| known.get(variable).is_none()) {
            reader.wrong(at, Problem::MissingVariable { name: variable.to_owned() });
        }
    }
    Some(template)
}

pub fn shape(reader: &mut Reader, at: &At<'_>) -> Shape {
    let section = reader.section(at, &["cpu_millis", "memory_mib", "disk_gib"]);
    section.map(|section| shape_of(reader, &section)).unwrap_or_default()
}

pub fn shape_of(reader: &mut Reader, section: &Section<'_>) -> Shape {
    Shape {
        cpu_millis: section.get("cpu_millis").and_then(|at| reader.number(&at, 1..=1_000_000)),
        memory_mib: section.get("memory_mib").and_then(|at| reader.number(&at, 1..=16_777_216)),
        disk_gib: section.get("disk_gib").and_then(|at| reader.number(&at, 1..=1_048_576)),
    }
}
