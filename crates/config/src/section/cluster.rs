//! `cluster` and `tenants`: what edges have in common, and which region is a tenant's. Never opens a connection.

use super::{edge::authorities, later, services::template};
use crate::{
    Cell, Cluster, Environment, Files, Place, Problem, RegionRouting, Service, Tenants, place_of,
    read::{At, Reader},
};
use berth_domain::{CellName, ServiceName, TenantName};
use std::collections::{BTreeMap, BTreeSet};

const KEYS: &[&str] = &[
    "enabled",
    "redis_address",
    "redis_cluster_mode",
    "redis_master",
    "redis_user",
    "redis_password",
    "redis_ca",
    "geo_routing",
    "regions",
];

pub fn read(reader: &mut Reader, at: &At<'_>, environment: Option<&Environment>, files: Files<'_>) -> Option<Cluster> {
    let section = reader.section(at, KEYS)?;
    let geo_routing = section.get("geo_routing").map_or(Some(false), |at| reader.truth(&at));
    let mut regions = BTreeMap::new();
    if let Some(at) = section.get("regions") {
        for (name, at) in reader.pairs(&at) {
            if let Some(place) = place(reader, &at) {
                regions.insert(name, place);
            }
        }
    }
    let enabled = section.get("enabled").map_or(Some(true), |at| reader.truth(&at));
    let several = section.get("redis_cluster_mode").map_or(Some(false), |at| reader.truth(&at));
    let address = section.need("redis_address", "redis_address: cache:6379", reader);
    let redis_address = address.as_ref().and_then(|at| addresses(reader, at, several.unwrap_or(true)));
    let mut word = |key: &str| section.get(key).map(|at| (reader.text(&at).map(str::to_owned), at));
    let (master, user) = (word("redis_master"), word("redis_user"));
    for (text, at) in master.iter().chain(&user) {
        if text.as_ref().is_some_and(|text| text.is_empty() || text.contains(char::is_whitespace)) {
            reader.wrong(at, Problem::Malformed { message: "this is no name", hint: "one word" });
        }
    }
    if let (Some((_, at)), Some(false)) = (&master, several) {
        let problem =
            Problem::Excludes { other: "redis_cluster_mode: false", why: "Sentinels alone have masters by name" };
        reader.wrong(at, problem);
    }
    let redis_password = section.get("redis_password").and_then(|at| {
        let template = template(reader, &at, environment)?;
        if template.variables().is_empty() {
            let problem = Problem::Malformed {
                message: "a secret does not stand in the stack file",
                hint: "write `${NAME}` and set the variable where `berth serve` is started",
            };
            reader.wrong(&at, problem);
        }
        Some(template)
    });
    let secure = redis_address.as_ref().is_some_and(|address| address.starts_with(OVER_TLS));
    let redis_ca = section.get("redis_ca").and_then(|at| {
        if !secure {
            let problem = Problem::Excludes { other: "redis_address", why: "it does not begin with `rediss://`" };
            reader.wrong(&at, problem);
        }
        authorities(reader, &at, files)
    });
    Some(Cluster {
        enabled: enabled?,
        redis_address: redis_address?,
        redis_cluster_mode: several?,
        redis_master: master.and_then(|(text, _)| text),
        redis_user: user.and_then(|(text, _)| text),
        redis_password,
        redis_ca,
        geo_routing: geo_routing?,
        regions,
    })
}

/// `north east`, in degrees, as `48.1 11.6`.
fn place(reader: &mut Reader, at: &At<'_>) -> Option<Place> {
    let text = reader.text(at)?;
    let thousandths = |text: &str, most: f64| -> Option<i32> {
        let degrees: f64 = text.trim().parse().ok()?;
        (degrees.abs() <= most).then_some((degrees * 1000.0).round() as i32)
    };
    let place = text
        .split_once([' ', ','])
        .and_then(|(north, east)| Some(Place { north: thousandths(north, 90.0)?, east: thousandths(east, 180.0)? }));
    if place.is_none() {
        let problem = Problem::Malformed {
            message: "this is no spot on the globe",
            hint: "degrees north and east, as `48.1 11.6`",
        };
        reader.wrong(at, problem);
    }
    place
}

/// Whoever is to be chosen by nearness has to be somewhere.
pub fn agree(reader: &mut Reader, at: &At<'_>, cluster: Option<&Cluster>, services: &BTreeMap<ServiceName, Service>) {
    let Some(cluster) = cluster.filter(|cluster| cluster.enabled && cluster.geo_routing) else { return };
    for (name, region) in services.iter().filter_map(|(name, service)| Some((name, service.edge.region.as_ref()?))) {
        if !cluster.regions.contains_key(region) && place_of(region).is_none() {
            let problem = Problem::Malformed {
                message: "nobody knows where this region is",
                hint: "say it in `cluster.regions`, in degrees north and east: `{ here: 48.1 11.6 }`",
            };
            reader.note(format!("{}.{name}.edge.region", at.key), Some(at.node.line), problem);
        }
    }
}

/// What stands before an address that is spoken to over TLS.
const OVER_TLS: &str = "rediss://";

/// `host`, `host:port` or `[address]:port`, with commas between several; over TLS where the first says so.
fn addresses(reader: &mut Reader, at: &At<'_>, several: bool) -> Option<String> {
    let text = reader.text(at)?;
    let one = |address: &str| {
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (address, "6379"),
        };
        let literal = host.starts_with('[') && host.ends_with(']');
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b) || (literal && b":[]".contains(&b));
        !host.is_empty() && host.bytes().all(plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let secure = text.trim_start().starts_with(OVER_TLS);
    let bare = |address: &'_ str| {
        if secure { address.strip_prefix(OVER_TLS).unwrap_or(address).to_owned() } else { address.to_owned() }
    };
    let all: Vec<String> = text.split(',').map(str::trim).map(bare).collect();
    if !all.iter().all(|address| one(address)) {
        let problem = Problem::Malformed {
            message: "this is no address of Redis",
            hint: "for example `cache:6379`, `rediss://cache:6379` over TLS, or `redis-1:26379,redis-2:26379` for several; the password is `redis_password`",
        };
        reader.wrong(at, problem);
        return None;
    }
    if all.len() > 1 && !several {
        let problem = Problem::Malformed {
            message: "these are several servers, and `redis_cluster_mode` says that there is one",
            hint: "add `redis_cluster_mode: true` for Sentinels or a cluster's nodes, or name one server",
        };
        reader.wrong(at, problem);
        return None;
    }
    Some(format!("{}{}", if secure { OVER_TLS } else { "" }, all.join(",")))
}

/// `tenants`. `cells`: those of the file, whose regions are the ones there are.
pub fn tenants(reader: &mut Reader, at: &At<'_>, cells: &BTreeMap<CellName, Cell>) -> Tenants {
    let Some(section) = reader.section_but(at, &["region_routing"], &["plans", "default_plan"]) else {
        return Tenants::default();
    };
    for key in ["plans", "default_plan"] {
        if let Some(at) = section.get(key) {
            later::refuse(reader, &at);
        }
    }
    Tenants { region_routing: section.get("region_routing").and_then(|at| region_routing(reader, &at, cells)) }
}

fn region_routing(reader: &mut Reader, at: &At<'_>, cells: &BTreeMap<CellName, Cell>) -> Option<RegionRouting> {
    let section = reader.section(at, &["enabled", "default_region", "tenant_region_mapping"])?;
    let enabled = section.get("enabled").map_or(Some(true), |at| reader.truth(&at));
    let known: BTreeSet<&str> = cells.values().filter_map(|cell| cell.region.as_deref()).collect();
    let region = |reader: &mut Reader, at: &At<'_>| -> Option<String> {
        let region = reader.text(at)?;
        // Cells may be made by command alone; where the file has regions, another one is a slip.
        if known.is_empty() || known.contains(region) {
            return Some(region.to_owned());
        }
        let known = known.iter().map(|region| (*region).to_owned()).collect();
        reader.wrong(at, Problem::Dangling { what: "region of a cell", name: region.to_owned(), known });
        None
    };
    let default_region = section.get("default_region").and_then(|at| region(reader, &at));
    let mut tenant_region_mapping = BTreeMap::new();
    if let Some(at) = section.get("tenant_region_mapping") {
        for (tenant, at) in reader.named::<TenantName>(&at) {
            if let Some(region) = region(reader, &at) {
                tenant_region_mapping.insert(tenant, region);
            }
        }
    }
    Some(RegionRouting { enabled: enabled?, default_region, tenant_region_mapping })
}
