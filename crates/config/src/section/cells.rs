//! `cells` and `providers`: where tenants may live. Never knows an adapter's settings, and passes them on as they are.

use super::{
    plans::{CLASSES, read_price},
    services::{shape as read_shape, shape_of},
};
use crate::{
    Arch, Cell, Problem, Provider, Server,
    read::{At, Reader},
    tree::Value,
};
use berth_domain::{CellClass, CellName, ProviderName};
use std::collections::BTreeMap;

const KEYS: &[&str] = &["class", "provider", "region", "max_tenants", "price", "shape", "server"];
/// How many tenants a shared cell takes unless it says otherwise (the guides' `MAX_CUSTOMERS_PER_SERVER`).
const SHARED_TENANTS: u32 = 150;
const TENANTS_MAX: u32 = 100_000;
const ARCHES: &[(&str, Arch)] = &[("x86_64", Arch::X86_64), ("aarch64", Arch::Aarch64)];

pub fn read(reader: &mut Reader, at: &At<'_>, providers: &[ProviderName]) -> BTreeMap<CellName, Cell> {
    let mut cells = BTreeMap::new();
    for (name, at) in reader.named::<CellName>(at) {
        if let Some(cell) = cell(reader, &at, providers) {
            cells.insert(name, cell);
        }
    }
    cells
}

fn cell(reader: &mut Reader, at: &At<'_>, providers: &[ProviderName]) -> Option<Cell> {
    let section = reader.section(at, KEYS)?;
    let class = section.get("class").map_or(Some(CellClass::Shared), |at| reader.one_of(&at, CLASSES));
    let provider = match (section.get("provider"), providers) {
        (Some(at), _) => reader.name::<ProviderName>(&at).inspect(|name| {
            if !providers.contains(name) {
                let known = providers.iter().map(ToString::to_string).collect();
                reader.wrong(&at, Problem::Dangling { what: "provider", name: name.to_string(), known });
            }
        }),
        (None, [only]) => Some(only.clone()),
        (None, _) => section.need("provider", "provider: local", reader).and(None),
    };
    let region = section.get("region").and_then(|at| reader.name::<ProviderName>(&at)).map(String::from);
    let shipped = if class == Some(CellClass::Dedicated) { 1 } else { SHARED_TENANTS };
    let max_tenants = section.get("max_tenants").map_or(Some(shipped), |at| {
        reader.number(&at, 1..=TENANTS_MAX).inspect(|max| {
            if class == Some(CellClass::Dedicated) && *max > 1 {
                let problem = Problem::Malformed {
                    message: "a dedicated cell is for one tenant",
                    hint: "leave `max_tenants` out, or use the class `shared`",
                };
                reader.wrong(&at, problem);
            }
        })
    });
    let shape = section.get("shape").map(|at| read_shape(reader, &at)).unwrap_or_default();
    let server = section.get("server").map(|at| server(reader, &at)).unwrap_or_default();
    let price = section.get("price").and_then(|at| read_price(reader, &at));
    Some(Cell { class: class?, provider: provider?, region, max_tenants: max_tenants?, price, shape, server })
}

fn server(reader: &mut Reader, at: &At<'_>) -> Server {
    let Some(section) = reader.section(at, &["cpu_millis", "memory_mib", "disk_gib", "arch"]) else {
        return Server::default();
    };
    let arch = section.get("arch").and_then(|at| reader.one_of(&at, ARCHES));
    Server { shape: shape_of(reader, &section), arch }
}

pub fn read_providers(reader: &mut Reader, at: &At<'_>) -> BTreeMap<ProviderName, Provider> {
    let mut providers = BTreeMap::new();
    for (name, at) in reader.named::<ProviderName>(at) {
        if let Some(provider) = provider(reader, &at) {
            providers.insert(name, provider);
        }
    }
    providers
}

fn provider(reader: &mut Reader, at: &At<'_>) -> Option<Provider> {
    let section = reader.open_section(at)?;
    let adapter = section.need("adapter", "adapter: local", reader).and_then(|at| reader.name::<ProviderName>(&at));
    let mut settings = serde_json::Map::new();
    for (key, at) in section.values() {
        if key != "adapter" {
            settings.insert(key, json(reader, &at));
        }
    }
    Some(Provider { adapter: adapter?.into(), settings })
}

/// Policy and catalogue: the placement engine reads them, and says what is wrong with them.
pub fn read_placement(reader: &mut Reader, at: &At<'_>) -> serde_json::Map<String, serde_json::Value> {
    let Some(section) = reader.section(at, &["policy", "catalogue"]) else { return serde_json::Map::new() };
    section.values().into_iter().map(|(key, at)| (key, json(reader, &at))).collect()
}

fn json(reader: &mut Reader, at: &At<'_>) -> serde_json::Value {
    match &at.node.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(truth) => (*truth).into(),
        Value::Int(number) => i64::try_from(*number).map_or_else(|_| number.to_string().into(), Into::into),
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(_) => reader.list(at).unwrap_or_default().iter().map(|item| json(reader, item)).collect(),
        Value::Map(_) => reader.pairs(at).into_iter().map(|(key, at)| (key, json(reader, &at))).collect(),
    }
}
