//! Cells on servers that are reached over SSH: looked at under a named host key, made there, and how edges reach them.
//! Never a connection of its own: the adapter speaks to servers. Never a key in an answer but to an edge, and that one
//! opens nothing but members' ports.

use crate::{App, Change, ControlError, Follow, Permit, Read, cells, certificates, endpoints, views};
use berth_domain::{CellName, EdgeName, ProviderName, ServiceRole};
use berth_infra::{Compute, Machine, ProviderError};
use berth_store::Cell;
use berth_wire::{self as wire, edge::Hidden};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinSet;
use tracing::debug;

/// The adapter whose cells stand on such servers.
const ADAPTER: &str = "ssh";
/// A cell begins with its Postgres, its log and its members' programs.
const ROOM_BYTES: u64 = 1024 * 1024 * 1024;
/// Edges ask twice a second.
const WAY_LIMIT: Duration = Duration::from_secs(2);

/// The server's host key, for a person to compare. Nothing is done there.
pub async fn look(
    app: &App,
    _permit: &Permit<Change>,
    wanted: wire::ServerLook,
) -> Result<wire::ServerSeen, ControlError> {
    let in_force = app.stack().await?;
    let provider = endpoints::provider(&in_force.stack, ADAPTER, wanted.provider.as_ref(), ControlError::NoServers)?;
    let cell = CellName::new("look")?;
    let settings = json!({ "host": wanted.host, "port": wanted.port, "user": wanted.user, "key": wanted.key });
    let compute = compute(app, &in_force.stack, &provider, &cell, &settings)?;
    let shown = compute.identity(&cell).await.map_err(about(&cell))?;
    let host_key = shown.ok_or_else(|| missing(&provider))?;
    Ok(wire::ServerSeen { host_key })
}

fn about(cell: &CellName) -> impl Fn(ProviderError) -> ControlError {
    let cell = cell.clone();
    move |source| ControlError::Provider { cell: cell.clone(), source }
}

fn missing(provider: &ProviderName) -> ControlError {
    ControlError::NotOffered { provider: provider.to_string(), what: "servers" }
}

fn compute(
    app: &App,
    stack: &berth_config::Stack,
    provider: &ProviderName,
    cell: &CellName,
    settings: &Value,
) -> Result<Arc<dyn Compute>, ControlError> {
    let there = app.with_cell(stack, provider, cell, settings).map_err(about(cell))?;
    there.compute.ok_or_else(|| missing(provider))
}

/// Looks whether the server can hold a cell, and only then begins one there.
pub async fn add(app: &App, permit: &Permit<Change>, wanted: wire::ServerAdd) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let in_force = app.stack().await?;
    let stack = &in_force.stack;
    let provider = endpoints::provider(stack, ADAPTER, wanted.provider.as_ref(), ControlError::NoServers)?;
    if app.store().cell_by_name(&wanted.name).await?.is_some() {
        return Err(ControlError::CellExists(wanted.name));
    }
    let settings = json!({
        "host": wanted.host, "port": wanted.port, "user": wanted.user, "key": wanted.key,
        "host_key": wanted.host_key,
    });
    let there = compute(app, stack, &provider, &wanted.name, &settings)?;
    let machine = there.machine(&wanted.name).await.map_err(about(&wanted.name))?;
    fit(&wanted.name, &machine.ok_or_else(|| missing(&provider))?)?;
    let (class, region) = (wanted.class, wanted.region);
    let new = cells::like_others(&in_force, wanted.name, class, provider.to_string(), region, wanted.max_tenants)?;
    let mut tx = app.store().begin().await?;
    let started = cells::reserve(app, &mut tx, permit, &new).await?;
    tx.cell_set_settings(app.store(), new.id, &settings.to_string().into()).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

/// Before anything is stored: a cell that cannot be made would be an operation that fails after its retries.
fn fit(cell: &CellName, machine: &Machine) -> Result<(), ControlError> {
    let refused = |reason: String| about(cell)(ProviderError::Refused { what: "its server".to_owned(), reason });
    if !is_served(&machine.system) {
        return Err(refused(format!("it runs {}; Debian 12, Ubuntu 22.04 and newer are served", machine.system)));
    }
    if machine.disk_free_bytes < ROOM_BYTES {
        let free = machine.disk_free_bytes / 1024 / 1024;
        return Err(refused(format!("{free} MiB of its disk are free, and a cell begins with 1024; make room there")));
    }
    Ok(())
}

/// Of `Debian GNU/Linux 12 (bookworm)` and `Ubuntu 24.04.1 LTS` the name and the number. One that has no number is what
/// comes after the newest.
fn is_served(system: &str) -> bool {
    let least = [("Debian", (12, 0)), ("Ubuntu", (22, 4))];
    let Some((_, least)) = least.into_iter().find(|(name, _)| system.contains(name)) else { return false };
    let number = system.split_whitespace().find_map(|word| {
        let mut parts = word.split('.').map(str::parse::<u32>);
        let major = parts.next()?.ok()?;
        Some((major, parts.next().and_then(Result::ok).unwrap_or(0)))
    });
    number.is_none_or(|number| number >= least)
}

/// What is said of the cells of this provider, in the stack file and over the API.
async fn told(app: &App, stack: &berth_config::Stack, provider: &str) -> Result<BTreeMap<String, Value>, ControlError> {
    let section = ProviderName::new(provider).ok().and_then(|name| stack.providers.get(&name));
    let declared = section.and_then(|section| section.settings.get("cells")?.as_object().cloned()).unwrap_or_default();
    let mut all: BTreeMap<String, Value> = declared.into_iter().collect();
    for (cell, settings) in app.store().cell_settings(provider).await? {
        all.insert(cell.to_string(), serde_json::from_str(settings.expose_secret())?);
    }
    Ok(all)
}

async fn cells_there(app: &App) -> Result<Vec<Cell>, ControlError> {
    let in_force = app.stack().await?;
    let ours = |cell: &Cell| {
        let section = ProviderName::new(cell.provider.clone()).ok();
        section.and_then(|name| in_force.stack.providers.get(&name)).is_some_and(|it| it.adapter == ADAPTER)
    };
    Ok(app.store().cell_list().await?.into_iter().filter(ours).collect())
}

/// The servers of all cells that stand on some, each looked at now.
pub async fn list(app: &App, _permit: &Permit<Read>) -> Result<wire::Page<wire::Server>, ControlError> {
    let in_force = app.stack().await?;
    let mut looks = JoinSet::new();
    for cell in cells_there(app).await? {
        let settings = told(app, &in_force.stack, &cell.provider).await?.remove(cell.name.as_str()).unwrap_or_default();
        let compute = app.compute_of(&cell).await;
        looks.spawn(async move {
            let looked = match compute {
                Ok(compute) => compute.machine(&cell.name).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.full()),
            };
            let text = |key: &str| settings[key].as_str().map(ToOwned::to_owned);
            let (machine, because) = match looked {
                Ok(machine) => (machine.map(shown), None),
                Err(reason) => (None, Some(reason)),
            };
            wire::Server {
                cell: cell.name,
                state: cell.state,
                host: text("host").unwrap_or_default(),
                port: settings["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap_or(22),
                user: text("user").unwrap_or_else(|| "berth-ssh".to_owned()),
                host_key: text("host_key"),
                machine,
                because,
            }
        });
    }
    let mut items = looks.join_all().await;
    items.sort_by(|a, b| a.cell.cmp(&b.cell));
    Ok(wire::Page::whole(items))
}

fn shown(machine: Machine) -> wire::Machine {
    wire::Machine {
        system: machine.system,
        arch: machine.arch,
        cpus: machine.cpus,
        memory_bytes: machine.memory_bytes,
        memory_free_bytes: machine.memory_free_bytes,
        disk_bytes: machine.disk_bytes,
        disk_free_bytes: machine.disk_free_bytes,
        load_1m: machine.load_1m,
    }
}

/// How an edge gets to the members on such servers. One whose server does not answer is left out: the edge keeps what
/// it was told before. `open`: the ports that it has a way to by now; an older edge does not say. `in_the_open`: others may
/// read along, so there is none, for a way holds a key.
pub async fn ways(
    app: &App,
    _permit: &Permit<Follow>,
    edge: EdgeName,
    open: Option<BTreeSet<(CellName, u16)>>,
    in_the_open: bool,
) -> Result<wire::Page<wire::EdgeWay>, ControlError> {
    if in_the_open && !certificates::keys_may_be_read(app).await? {
        return Ok(wire::Page::whole(Vec::new()));
    }
    if let Some(open) = open {
        app.ways_open().say(edge, open);
    }
    let mut items = Vec::new();
    let cells = match cells_there(app).await {
        Ok(cells) => cells,
        Err(ControlError::NoStack) => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut asked = JoinSet::new();
    for cell in cells {
        let members = app.store().member_list(Some(cell.id)).await?;
        let web = members.iter().filter(|member| member.service_role == ServiceRole::Web);
        let port = |address: &String| address.rsplit(':').next()?.parse().ok();
        let ports: Vec<u16> = web.filter_map(|member| member.address.as_ref().and_then(port)).collect();
        let reach = app.provider(&cell.provider).await?.reach;
        let (Some(reach), false) = (reach, ports.is_empty()) else { continue };
        asked.spawn(async move {
            // What is known is answered at once; a server that is dead must not keep the edges from the others' ways.
            let way = tokio::time::timeout(WAY_LIMIT, reach.way(&cell.name)).await;
            (cell.name, ports, way)
        });
    }
    while let Some(answered) = asked.join_next().await {
        let Ok((cell, ports, way)) = answered else { continue };
        match way {
            Ok(Ok(Some(way))) => {
                let settings = Hidden::new(way.settings.expose_secret().to_owned());
                items.push(wire::EdgeWay { cell, settings, ports });
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => debug!(%cell, %error, "no way into cell {cell} now"),
            Err(_) => debug!(%cell, "the server of cell {cell} does not answer now"),
        }
    }
    items.sort_by(|a, b| a.cell.cmp(&b.cell));
    Ok(wire::Page::whole(items))
}

#[cfg(test)]
mod tests {
    use super::is_served;

    #[test]
    fn debian_12_and_ubuntu_22_04_and_what_is_newer_are_served() {
        for (system, served) in [
            ("Debian GNU/Linux 12 (bookworm)", true),
            ("Debian GNU/Linux 13 (trixie)", true),
            ("Debian GNU/Linux trixie/sid", true),
            ("Debian GNU/Linux 11 (bullseye)", false),
            ("Ubuntu 24.04.3 LTS", true),
            ("Ubuntu 22.04 LTS", true),
            ("Ubuntu 22.10", true),
            ("Ubuntu 20.04.6 LTS", false),
            ("Ubuntu 18.04.6 LTS", false),
            ("Arch Linux", false),
            ("Linux", false),
        ] {
            assert_eq!(is_served(system), served, "{system}");
        }
    }
}
