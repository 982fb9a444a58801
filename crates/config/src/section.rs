//! The sections of the stack file, one function each, and the references between them.
//!
//! Every mistake is noted and reading goes on; a [`Stack`] is handed out only when none was. Reads hook files through
//! the function it is given and nothing else.

mod answers;
mod archives;
mod cells;
mod cluster;
mod data;
mod edge;
mod facts;
mod https;
mod later;
mod modes;
mod plans;
mod registries;
mod releases;
mod services;
mod usage;

use crate::{
    Check, Environment, Mistakes, Problem, Stack,
    read::{At, Reader},
    tree,
};
use berth_domain::{EdgeName, ProviderName, ServiceRole};
use std::io;

/// Longest stack file that is read: a hundred times what a large one needs.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Reads a file that the stack file names, by its path relative to the stack file.
pub type Files<'a> = &'a dyn Fn(&str) -> io::Result<String>;

/// For stack files that came without their folder, such as a stored revision.
pub fn no_files(path: &str) -> io::Result<String> {
    Err(io::Error::new(io::ErrorKind::Unsupported, format!("`{path}` was not sent along")))
}

/// Reads a stack file. `environment: None` leaves variables unchecked, for whoever will not start the services.
pub fn parse(text: &str, environment: Option<&Environment>, files: Files<'_>) -> Result<Stack, Mistakes> {
    parse_layers(&[("", text)], environment, files)
}

/// Reads a stack file and the files that lie over it, each with its name: `berth.yaml`, then `berth.staging.yaml`.
/// A mistake names the file that says it, except the first.
pub fn parse_layers(
    layers: &[(&str, &str)],
    environment: Option<&Environment>,
    files: Files<'_>,
) -> Result<Stack, Mistakes> {
    let mut trees = Vec::new();
    for (n, (name, text)) in layers.iter().enumerate() {
        let file = (n > 0).then(|| (*name).to_owned());
        if text.len() > FILE_BYTES_MAX {
            return Err(Mistakes::one(Problem::TooLarge { bytes: text.len() }, None).of(file.as_deref()));
        }
        let tree = tree::parse(text).map_err(|mistakes| mistakes.of(file.as_deref()))?;
        if n > 0 && !matches!(tree.value, tree::Value::Map(_) | tree::Value::Null) {
            let problem = Problem::WrongType { wanted: "a map of keys and values", found: tree.value.kind() };
            return Err(Mistakes::one(problem, Some(tree.line)).of(file.as_deref()));
        }
        trees.push((file, tree));
    }
    let mut upper = trees.iter().filter(|(_, tree)| tree.value != tree::Value::Null);
    let first = upper.next().or(trees.first()).map(|(_, tree)| tree.clone());
    let empty = tree::Node { line: 1, value: tree::Value::Null };
    let tree = upper.fold(first.unwrap_or(empty), |lower, (_, upper)| crate::over(lower, upper));
    let mut reader = Reader::default();
    let stack = stack(&mut reader, &At { key: String::new(), node: &tree }, environment, files);
    for mistake in &mut reader.mistakes {
        let said = trees.iter().rev().find(|(_, tree)| crate::find(tree, &mistake.key).is_some());
        mistake.file = said.and_then(|(file, _)| file.clone());
    }
    Mistakes::none_in(reader.mistakes)?;
    Ok(stack.expect("a section is left out only after a mistake was noted"))
}

/// In the order in which a file says them, and its differences are shown.
pub(crate) const KEYS: &[&str] = &[
    "stack",
    "services",
    "data",
    "plans",
    "limits",
    "cells",
    "providers",
    "edges",
    "https",
    "cluster",
    "tenants",
    "hosts",
    "headers",
    "compression",
    "modes",
    "archives",
    "releases",
    "registries",
    "quotas",
    "budget",
    "alerts",
    "backups",
    "failover",
    "check",
    "usage",
    "placement",
];

/// Whether a stack file may have a section of this name.
pub fn is_section(name: &str) -> bool {
    KEYS.contains(&name) || later::SECTIONS.contains(&name)
}

fn stack(reader: &mut Reader, root: &At<'_>, environment: Option<&Environment>, files: Files<'_>) -> Option<Stack> {
    let section = reader.section_but(root, KEYS, later::SECTIONS)?;
    for name in later::SECTIONS {
        if let Some(at) = section.get(name) {
            later::refuse(reader, &at);
        }
    }
    let name = section.need("stack", "stack: fleet", reader).and_then(|at| reader.name(&at));
    let services =
        section.need("services", "services: { web: { command: [./web], health: /health } }", reader).map(|at| {
            let quotas = section.get("quotas").map(|at| names(&at)).unwrap_or_default();
            let services = services::read(reader, &at, environment, &quotas, files);
            edge::agree(reader, &at, &services);
            services
        });
    let data = section.get("data").map_or_else(|| Some(crate::Data::default()), |at| data::read(reader, &at, files));
    let limits = section.get("limits").map(|at| plans::limits(reader, &at)).unwrap_or_default();
    let plans = section.get("plans").map(|at| plans::read(reader, &at, &limits)).unwrap_or_default();
    // References are checked against the names a person wrote, right or wrong inside, so that one mistake in a
    // provider is not reported once more for each of its cells.
    let declared: Vec<ProviderName> =
        section.get("providers").map(|at| names(&at)).unwrap_or_default().iter().flat_map(|n| n.parse()).collect();
    let providers = section.get("providers").map(|at| cells::read_providers(reader, &at)).unwrap_or_default();
    let cells = section.get("cells").map(|at| cells::read(reader, &at, &declared)).unwrap_or_default();
    let edges = section.get("edges").map(|at| edges(reader, &at)).unwrap_or_default();
    let https = section.get("https").map(|at| https::https(reader, &at)).unwrap_or_default();
    let cluster = section.get("cluster").and_then(|at| cluster::read(reader, &at, environment, files));
    if let (Some(at), Some(services)) = (section.get("services"), &services) {
        cluster::agree(reader, &at, cluster.as_ref(), services);
    }
    let tenants = section.get("tenants").map(|at| cluster::tenants(reader, &at, &cells)).unwrap_or_default();
    let hosts = section.get("hosts").map(|at| https::hosts(reader, &at)).unwrap_or_default();
    let headers = section.get("headers").map(|at| answers::headers(reader, &at)).unwrap_or_default();
    let compression = section.get("compression").and_then(|at| answers::compression(reader, &at));
    let modes =
        section.get("modes").map_or_else(|| Some(crate::Modes::default()), |at| modes::read(reader, &at, environment));
    let archives = section.get("archives").and_then(|at| archives::read(reader, &at, environment));
    let releases = section.get("releases").map(|at| releases::read(reader, &at, services.as_ref(), &cells));
    let registries = section.get("registries").map(|at| registries::read(reader, &at, environment)).unwrap_or_default();
    let quotas = section.get("quotas").map(|at| facts::quotas(reader, &at)).unwrap_or_default();
    let budget = section.get("budget").and_then(|at| facts::budget(reader, &at));
    let alerts = section.get("alerts").and_then(|at| facts::alerts(reader, &at));
    let backups = section.get("backups").and_then(|at| facts::backups(reader, &at));
    let failover = section.get("failover").and_then(|at| facts::failover(reader, &at));
    let silence = section.get("check").map(|at| facts::silences(reader, &at)).unwrap_or_default();

    let placement = section.get("placement").map(|at| cells::read_placement(reader, &at)).unwrap_or_default();

    let usage = section.get("usage").map(|at| usage::read(reader, &at, &plans)).unwrap_or_default();

    let services = services?;
    if services.is_empty() && reader.mistakes.is_empty() {
        let at = section.get("services")?;
        reader.wrong(&at, Problem::Missing { example: "web: { command: [./web], health: /health }" });
    }
    if !edges.is_empty() && reader.mistakes.is_empty() && !services.values().any(|s| s.role == ServiceRole::Web) {
        let at = section.get("edges")?;
        let problem = Problem::Malformed {
            message: "no service has the role `web`, so an edge would have nowhere to send",
            hint: "give one service `role: web`, or leave `edges` out",
        };
        reader.wrong(&at, problem);
    }
    Some(Stack {
        stack: name?,
        services,
        data: data?,
        plans,
        cells,
        providers,
        edges,
        https,
        cluster,
        tenants,
        hosts,
        headers,
        compression,
        modes: modes?,
        archives,
        releases: releases.unwrap_or_default(),
        registries,
        placement,
        quotas,
        budget,
        alerts,
        backups,
        failover,
        check: Check { silence },
        usage,
    })
}

fn names(at: &At<'_>) -> Vec<String> {
    match &at.node.value {
        tree::Value::Map(entries) => entries.iter().map(|entry| entry.key.clone()).collect(),
        _ => Vec::new(),
    }
}

fn edges(reader: &mut Reader, at: &At<'_>) -> Vec<EdgeName> {
    let mut edges: Vec<EdgeName> = Vec::new();
    for item in reader.list(at).unwrap_or_default() {
        let Some(name) = reader.name::<EdgeName>(&item) else { continue };
        if edges.contains(&name) {
            reader.wrong(&item, Problem::NamedTwice { name: name.to_string() });
        } else {
            edges.push(name);
        }
    }
    edges
}
