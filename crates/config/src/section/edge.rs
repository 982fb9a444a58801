//! `services.NAME.edge`: how edges send to a web service's members. Never knows what an edge does with it.

use super::{
    facts::span,
    services::{path, template},
};
use crate::{
    EdgeCheck, Eject, Environment, Files, Problem, Service, ServiceEdge, Span, Template,
    edge::unfit_signature_key,
    read::{At, Reader},
};
use berth_domain::{Balance, ServiceName, ServiceRole, Speaks};
use secrecy::ExposeSecret as _;
use std::collections::BTreeMap;

const STREAK_MAX: u32 = 1000;
const WEIGHT_MAX: u32 = 1000;
const CA_BYTES_MAX: usize = 1 << 16;

const KEYS: &[&str] =
    &["balance", "weight", "check", "eject", "region", "speaks", "ca", "server_name", "signature_key"];

pub fn read(
    reader: &mut Reader,
    at: &At<'_>,
    role: Option<ServiceRole>,
    health: Option<&str>,
    files: Files<'_>,
    environment: Option<&Environment>,
) -> ServiceEdge {
    let mut edge = ServiceEdge::default();
    let Some(section) = reader.section(at, KEYS) else { return edge };
    if role.is_some_and(|role| role != ServiceRole::Web) {
        let problem = Problem::Malformed {
            message: "an edge sends to web services only",
            hint: "leave `edge` out, or give the service `role: web`",
        };
        reader.wrong(at, problem);
    }
    let ways: Vec<_> = Balance::ALL.iter().map(|way| (way.as_str(), *way)).collect();
    if let Some(way) = section.get("balance").and_then(|at| reader.one_of(&at, &ways)) {
        edge.balance = way;
    }
    if let Some(weight) = section.get("weight").and_then(|at| reader.number(&at, 1..=WEIGHT_MAX)) {
        edge.weight = weight;
    }
    edge.region = section.get("region").and_then(|at| reader.text(&at)).map(str::to_owned);
    edge.check = section.get("check").and_then(|at| check(reader, &at, health));
    if let Some(at) = section.get("eject") {
        edge.eject = eject(reader, &at);
    }
    let protocols: Vec<_> = Speaks::ALL.iter().map(|protocol| (protocol.as_str(), *protocol)).collect();
    if let Some(speaks) = section.get("speaks").and_then(|at| reader.one_of(&at, &protocols)) {
        edge.speaks = speaks;
    }
    edge.ca = section.get("ca").and_then(|at| authorities(reader, &at, files));
    edge.server_name = section.get("server_name").and_then(|at| reader.name(&at));
    edge.signature_key = section.get("signature_key").and_then(|at| signature_key(reader, &at, environment));
    edge
}

/// A secret: it is a variable, and long enough that nobody finds it by trying.
fn signature_key(reader: &mut Reader, at: &At<'_>, environment: Option<&Environment>) -> Option<Template> {
    let template = template(reader, at, environment)?;
    if template.variables().is_empty() {
        let problem = Problem::Malformed {
            message: "a secret does not stand in the stack file",
            hint: "write `${NAME}` and set the variable where `berth serve` is started",
        };
        reader.wrong(at, problem);
        return None;
    }
    // A variable that is not set has been named already.
    let key = environment.and_then(|known| template.resolve(known).ok());
    if let Some(message) = key.and_then(|key| unfit_signature_key(key.expose_secret())) {
        let hint = "make one with `openssl rand -hex 32` and set the variable to it";
        reader.wrong(at, Problem::Malformed { message, hint });
    }
    Some(template)
}

/// A file of certificates becomes its text here, so that a stored revision says who was believed.
pub(super) fn authorities(reader: &mut Reader, at: &At<'_>, files: Files<'_>) -> Option<String> {
    let path = reader.text(at)?;
    let pem = match files(path) {
        Ok(pem) => pem,
        Err(reason) => {
            let problem = Problem::UnreadableFile { path: path.to_owned(), reason: reason.to_string() };
            reader.wrong(at, problem);
            return None;
        }
    };
    let message = if pem.contains("PRIVATE KEY-----") {
        "there is a key in this file, which nobody needs who checks certificates"
    } else if pem.len() > CA_BYTES_MAX || !pem.contains("-----BEGIN CERTIFICATE-----") {
        "there is no certificate in this file"
    } else {
        return Some(pem);
    };
    reader.wrong(at, Problem::Malformed { message, hint: "name a PEM file with the authority's certificate" });
    None
}

fn check(reader: &mut Reader, at: &At<'_>, health: Option<&str>) -> Option<EdgeCheck> {
    let section = reader.section(at, &["path", "every", "timeout", "rise", "fall", "status"])?;
    let own = match section.get("path") {
        Some(at) => path(reader, &at),
        None => health.map(str::to_owned),
    };
    let mut spans = |key: &str, usual: u64| section.get(key).map_or(Some(Span::from_ms(usual)), |at| span(reader, &at));
    let (every, timeout) = (spans("every", 5_000), spans("timeout", 2_000));
    let mut streak =
        |key: &str, usual: u32| section.get(key).map_or(Some(usual), |at| reader.number(&at, 1..=STREAK_MAX));
    let (rise, fall) = (streak("rise", 2), streak("fall", 3));
    let status = section.get("status").and_then(|at| reader.number(&at, 100..=599));
    Some(EdgeCheck { path: own?, every: every?, timeout: timeout?, rise: rise?, fall: fall?, status })
}

/// `None`: no failures are counted.
fn eject(reader: &mut Reader, at: &At<'_>) -> Option<Eject> {
    let section = reader.section(at, &["failures", "for"])?;
    let usual = Eject::default();
    let failures = section.get("failures").map_or(Some(usual.failures), |at| reader.number(&at, 0..=STREAK_MAX));
    let lasting = section.get("for").map_or(Some(usual.lasting), |at| span(reader, &at));
    let eject = Eject { failures: failures?, lasting: lasting? };
    (eject.failures > 0).then_some(eject)
}

/// All web members of a cell are chosen among at once, so there is one way of choosing.
pub fn agree(reader: &mut Reader, at: &At<'_>, services: &BTreeMap<ServiceName, Service>) {
    let mut web = services.iter().filter(|(_, service)| service.role == ServiceRole::Web);
    let Some((_, first)) = web.next() else { return };
    for (name, _) in web.filter(|(_, service)| service.edge.balance != first.edge.balance) {
        let problem = Problem::Malformed {
            message: "the web services of a stack are balanced in one way",
            hint: "give all of them the same `balance`; shares are what `weight` is for",
        };
        reader.note(format!("{}.{name}.edge.balance", at.key), Some(at.node.line), problem);
    }
}
