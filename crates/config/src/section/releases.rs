//! `releases`: waves, limits and smoke checks. Never looks whether a path answers.

use super::{facts::span, services::path};
use crate::{
    Problem, Releases, Service, Smoke, Workers,
    read::{At, Reader},
};
use berth_domain::{CellName, ServiceName, ServiceRole};
use std::collections::BTreeMap;

const KEYS: &[&str] = &["canary", "wave", "pause", "migrate_limit", "healthy_limit", "workers", "smoke"];
const WAVE_MAX: u16 = 1000;
const CONTAINS_MAX: usize = 1000;

pub fn read(
    reader: &mut Reader,
    at: &At<'_>,
    services: Option<&BTreeMap<ServiceName, Service>>,
    cells: &BTreeMap<CellName, crate::Cell>,
) -> Releases {
    let usual = Releases::default();
    let Some(section) = reader.section(at, KEYS) else { return usual };
    let canary = section.get("canary").and_then(|at| {
        let name = reader.name::<CellName>(&at)?;
        // Cells may also be made by `berth cell create`; a file that declares some knows its canary.
        if !cells.is_empty() && !cells.contains_key(&name) {
            let known = cells.keys().map(ToString::to_string).collect();
            reader.wrong(&at, Problem::Dangling { what: "cell", name: name.to_string(), known });
        }
        Some(name)
    });
    let wave = section.get("wave").and_then(|at| reader.number(&at, 1..=WAVE_MAX));
    let pause = section.get("pause").and_then(|at| span(reader, &at));
    let migrate_limit = section.get("migrate_limit").and_then(|at| span(reader, &at));
    let healthy_limit = section.get("healthy_limit").and_then(|at| span(reader, &at));
    let workers = section
        .get("workers")
        .and_then(|at| reader.one_of(&at, &[("after", Workers::After), ("beside", Workers::Beside)]));
    let mut smoke = Vec::new();
    if let Some(at) = section.get("smoke") {
        for item in reader.list(&at).unwrap_or_default() {
            smoke.extend(check(reader, &item, services));
        }
    }
    Releases {
        canary,
        wave: wave.unwrap_or(usual.wave),
        pause,
        migrate_limit: migrate_limit.unwrap_or(usual.migrate_limit),
        healthy_limit: healthy_limit.unwrap_or(usual.healthy_limit),
        workers: workers.unwrap_or(usual.workers),
        smoke,
    }
}

fn check(reader: &mut Reader, at: &At<'_>, services: Option<&BTreeMap<ServiceName, Service>>) -> Option<Smoke> {
    let section = reader.section(at, &["service", "path", "status", "contains"])?;
    let service = section.need("service", "service: web", reader).and_then(|at| {
        let name = reader.name::<ServiceName>(&at)?;
        let web = |service: &Service| service.role == ServiceRole::Web;
        if let Some(services) = services
            && !services.get(&name).is_some_and(web)
        {
            let known = services.iter().filter(|(_, service)| web(service)).map(|(name, _)| name.to_string()).collect();
            reader.wrong(&at, Problem::Dangling { what: "web service", name: name.to_string(), known });
        }
        Some(name)
    });
    let path = section.need("path", "path: /health", reader).and_then(|at| path(reader, &at));
    let status = section.get("status").and_then(|at| reader.number(&at, 100..=599));
    let contains = section.get("contains").and_then(|at| {
        let text = reader.text(&at)?.to_owned();
        if text.is_empty() || text.len() > CONTAINS_MAX {
            let problem = Problem::Malformed {
                message: "this is no text to look for",
                hint: "1 to 1000 characters that a right answer holds",
            };
            reader.wrong(&at, problem);
        }
        Some(text)
    });
    Some(Smoke { service: service?, path: path?, status, contains })
}
