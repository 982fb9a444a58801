//! More than there is: memory, cores, places, quotas.

use super::catalogue;
use crate::{
    Kind,
    node::{Ask, grouped, mebibytes, said, span_ms},
    world::{Out, World, copies},
};
use berth_config::tree::Node;

const DAY_MS: f64 = 86_400_000.0;

/// What a machine has: cores and MiB.
struct Server {
    cell: String,
    cores: Option<f64>,
    memory_mib: Option<f64>,
}

fn servers(world: &World<'_>) -> Vec<(Server, u64)> {
    let Some(stack) = world.stack() else { return Vec::new() };
    let cells = stack.tree.entry("cells").map(|cells| cells.value.entries()).unwrap_or_default();
    let server = |entry: &berth_config::tree::Entry| {
        let server = entry.value.at(&["server"])?;
        let number = |key: &str| server.at(&[key]).and_then(Ask::number);
        let cores = number("cpu_millis").map(|millis| millis / 1000.0);
        Some((Server { cell: entry.key.clone(), cores, memory_mib: number("memory_mib") }, server.line))
    };
    cells.iter().filter_map(server).collect()
}

fn cores_of(service: &Node) -> Option<f64> {
    let cpus = service.at(&["deploy", "resources", "limits", "cpus"]).or_else(|| service.at(&["cpus"]))?;
    cpus.number()
}

fn memory_of(service: &Node) -> Option<f64> {
    let memory = service.at(&["deploy", "resources", "limits", "memory"]).or_else(|| service.at(&["mem_limit"]))?;
    mebibytes(&memory.text()?)
}

pub fn over(world: &World<'_>, out: &mut Out) {
    let servers = servers(world);
    // A compose file stands on one machine: the largest that the stack file names.
    let largest = servers.iter().max_by(|a, b| a.0.memory_mib.unwrap_or(0.0).total_cmp(&b.0.memory_mib.unwrap_or(0.0)));
    if let Some((server, _)) = largest {
        for file in world.of(Kind::Compose) {
            let services = World::services(file);
            let Some((_, _, line)) = services.iter().find(|(_, s, _)| memory_of(s).is_some() || cores_of(s).is_some())
            else {
                continue;
            };
            let replicas = |s: &Node| s.at(&["deploy", "replicas"]).and_then(Ask::number).unwrap_or(1.0);
            let memory: f64 = services.iter().filter_map(|(_, s, _)| Some(memory_of(s)? * replicas(s))).sum();
            let cores: f64 = services.iter().filter_map(|(_, s, _)| Some(cores_of(s)? * replicas(s))).sum();
            judge(file, *line, "services", server, cores, memory, out);
        }
    }
    let Some(stack) = world.stack() else { return };
    for (server, line) in &servers {
        let Some(cell) = stack.tree.at(&["cells", &server.cell]) else { continue };
        let shape = |node: Option<&Node>, key: &str| node.and_then(|n| n.at(&[key])?.number()).unwrap_or_default();
        let mut memory = shape(cell.at(&["shape"]), "memory_mib");
        let mut millis = shape(cell.at(&["shape"]), "cpu_millis");
        for (_, service, _) in World::services(stack) {
            let copies = copies(service);
            memory += copies * shape(service.at(&["shape"]), "memory_mib");
            millis += copies * shape(service.at(&["shape"]), "cpu_millis");
        }
        let key = format!("cells.{}.server", server.cell);
        judge(stack, *line, &key, server, millis / 1000.0, memory, out);
    }
}

fn judge(file: &crate::read::File, line: u64, key: &str, server: &Server, cores: f64, memory: f64, out: &mut Out) {
    if let Some(has) = server.memory_mib.filter(|has| memory > *has) {
        out.note(
            file,
            line,
            key,
            format!(
                "{} MiB of memory are promised on `{}`, which has {}: under load the kernel ends processes",
                grouped(memory),
                server.cell,
                grouped(has)
            ),
            "lower the limits, move a service to another machine, or take a larger one",
        );
    }
    if let Some(has) = server.cores.filter(|has| cores > *has) {
        out.note(
            file,
            line,
            key,
            format!("{cores} cores are promised on `{}`, which has {has}: nobody gets what the file says", server.cell),
            "lower the limits, move a service to another machine, or take a larger one",
        );
    }
}

pub fn dedicated(world: &World<'_>, out: &mut Out) {
    const REMEDY: &str = "call it `pool` and say so to customers, or give it to one tenant and price it so";
    if let Some(stack) = world.stack() {
        for cell in stack.tree.entry("cells").map(|cells| cells.value.entries()).unwrap_or_default() {
            let class = cell.value.at(&["class"]).and_then(Ask::text);
            let Some(places) = cell.value.entry("max_tenants") else { continue };
            let many = places.value.number().filter(|places| *places > 1.0);
            if let (Some("dedicated"), Some(many)) = (class.as_deref(), many) {
                let key = format!("cells.{}.max_tenants", cell.key);
                let message = format!("a cell that is sold as dedicated has room for {many:.0} tenants");
                out.note(stack, places.line, &key, message, REMEDY);
            }
        }
    }
    let variables = world.variables();
    for mode in variables.iter().filter(|v| v.name == "DEPLOYMENT_MODE" && v.value == "single_tenant") {
        for places in variables.iter().filter(|v| std::ptr::eq(v.file, mode.file) && v.service == mode.service) {
            let named = matches!(places.name.as_str(), "MAX_CUSTOMERS_PER_SERVER" | "MAX_CUSTOMERS");
            if named && places.value.parse::<f64>().is_ok_and(|many| many > 1.0) {
                let message = format!("a deployment of one tenant takes {} of them", places.value);
                out.note(places.file, places.line, &places.key, message, REMEDY);
            }
        }
    }
}

pub fn quota(world: &World<'_>, out: &mut Out) {
    let Some(stack) = world.stack() else { return };
    let cells = stack.tree.entry("cells").map_or(1, |cells| cells.value.entries().len().max(1)) as f64;
    for quota in stack.tree.entry("quotas").map(|quotas| quotas.value.entries()).unwrap_or_default() {
        let number = |key: &str| quota.value.at(&[key]).and_then(Ask::number);
        let span = |node: &Node| node.text().and_then(|text| span_ms(&text)).filter(|ms| *ms > 0.0);
        let unit = quota.value.at(&["unit"]).and_then(Ask::text).unwrap_or_default();
        let (amount, per, unit) = match (number("amount"), quota.value.at(&["per"]).and_then(span)) {
            (Some(amount), Some(per)) => (amount, per, unit),
            _ => match catalogue::quota_of(stack, quota) {
                Some(Ok(known)) => known,
                Some(Err(says)) => {
                    let remedy = "`berth cost catalogue` lists them, and `placement.catalogue` adds one";
                    out.note(stack, quota.line, &format!("quotas.{}", quota.key), says, remedy);
                    continue;
                }
                None => continue,
            },
        };
        let mut used = 0.0;
        let mut first = None;
        for (name, service, _) in World::services(stack) {
            let copies = service.at(&["copies"]).and_then(Ask::number).unwrap_or(1.0);
            let polls = service.entry("polls").map(|entry| entry.value.items()).unwrap_or_default();
            for poll in polls.iter().filter(|p| p.at(&["of"]).and_then(Ask::text).as_ref() == Some(&quota.key)) {
                let Some(every) = poll.at(&["every"]).and_then(span) else { continue };
                let each = poll.at(&["amount"]).and_then(Ask::number).unwrap_or(1.0);
                used += cells * copies * each * per / every;
                first.get_or_insert_with(|| (poll.line, format!("services.{name}.polls")));
            }
        }
        let Some((line, key)) = first.filter(|_| used > amount) else { continue };
        let times = (used / amount * 10.0).round() / 10.0;
        let lasts = said(per * amount / used);
        let period = if (per - DAY_MS).abs() < 1.0 { "a day".to_owned() } else { format!("in {}", said(per)) };
        out.note(
            stack,
            line,
            &key,
            format!(
                "polling alone takes {} {unit} {period} of `{}`, which lets {} through: {times} times its quota, used up after {lasts}",
                grouped(used),
                quota.key,
                grouped(amount)
            ),
            "wait for a message instead of asking, ask less often, or pay for what is used",
        );
    }
}
