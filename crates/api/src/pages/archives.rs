//! `/imports`: an archive that lies in the place of archives becomes a tenant, shown with what it would bring first; what
//! lies elsewhere is brought by a command, which the page names. `/tenants/{tenant}/archives/…`: files of one, as they are.

use super::{
    decisions::Asked,
    failure::{Failure, html},
    inner::escaped,
    session::{Change, Session, once},
    shown::{Frame, When, bytes, count},
    tenants::follow,
};
use askama::Template;
use axum::{
    extract::{Path, Query},
    http::{Method, header},
    response::{IntoResponse as _, Response},
};
use berth_domain::{CellState, OperationId};
use berth_wire::{Cell, ImportPlan, Operation, PlanView, TenantImport};
use jiff::Timestamp;
use serde::Deserialize;

const SHOWN: usize = 2000;
const ARCHIVE_HINT: &str = "it takes the id of an archive: its tenant's page lists them, and an export has it";

/// As a form has it; empty until something was asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    archive: String,
    name: String,
    plan: String,
    hosts: String,
    cell: String,
    quantities: String,
    compliance: String,
    locations: String,
    residency: String,
    latency_ms: String,
    regions: String,
    budget: String,
}

/// A field of what the tenant needs.
struct Need<'a> {
    name: &'static str,
    label: &'static str,
    like: &'static str,
    value: &'a str,
}

impl Wanted {
    fn is_empty(&self) -> bool {
        [&self.name, &self.plan].iter().all(|field| field.trim().is_empty())
    }

    fn needs(&self) -> [Need<'_>; 7] {
        let need = |name, label, like, value| Need { name, label, like, value };
        [
            need("quantities", "Quantities", "vehicles=12", self.quantities.as_str()),
            need("compliance", "Standards", "soc2, hipaa", &self.compliance),
            need("locations", "Users in", "us, de", &self.locations),
            need("residency", "Data stays in", "eu", &self.residency),
            need("latency_ms", "Latency, ms", "", &self.latency_ms),
            need("regions", "Regions", "", &self.regions),
            need("budget", "Budget a month, $", "", &self.budget),
        ]
    }
}

/// What an import would bring.
struct Planned {
    facts: Vec<(String, String)>,
    made: When,
}

#[derive(Template)]
#[template(path = "pages/import.html")]
struct ImportPage {
    frame: Frame,
    wanted: Wanted,
    plans: Vec<String>,
    cells: Vec<String>,
    planned: Option<Planned>,
    /// For commands that are shown.
    plan_shown: String,
}

fn field<T: std::str::FromStr>(text: &str, what: &str, hint: &str) -> Result<T, Failure>
where
    T::Err: std::fmt::Display,
{
    let text = text.trim();
    let said = |why: String| Failure::Field { detail: why, hint: hint.to_owned() };
    if text.is_empty() {
        return Err(said(format!("`{what}` is empty")));
    }
    text.parse().map_err(|bad: T::Err| said(format!("`{what}`: {bad}")))
}

fn asked(wanted: &Wanted) -> Result<TenantImport, Failure> {
    let hosts = wanted.hosts.split([',', ' ', '\r', '\n']).filter(|host| !host.is_empty());
    let value = |name: &str| wanted.needs().iter().find(|need| need.name == name).map(|need| need.value.to_owned());
    let needs = Asked::typed(|name| value(name).unwrap_or_default());
    Ok(TenantImport {
        archive: field(&wanted.archive, "archive", ARCHIVE_HINT)?,
        name: field(&wanted.name, "name", "a name, as in `acme`")?,
        plan: field(&wanted.plan, "plan", "a plan of the stack file")?,
        hosts: hosts
            .map(|host| field(host, "hosts", "for example `acme.example.com`"))
            .collect::<Result<_, Failure>>()?,
        cell: match wanted.cell.trim() {
            "" => None,
            cell => Some(field(cell, "cell", "choose a cell of the list")?),
        },
        profile: if needs.is_empty() { None } else { Some(needs.profile()?) },
    })
}

/// `GET /imports?archive=&name=&plan=&hosts=&cell=`, with what it needs: what that would bring, and where. Changes nothing.
pub async fn page(session: Session, Query(wanted): Query<Wanted>) -> Result<Response, Failure> {
    let plans: Vec<PlanView> = session.list("/v1/plans", SHOWN).await?;
    let cells: Vec<Cell> = session.list("/v1/cells", SHOWN).await?;
    let planned = if wanted.is_empty() {
        None
    } else {
        let plan: ImportPlan = session.send(Method::POST, "/v1/imports/plan", &asked(&wanted)?, &once()).await?;
        Some(planned(&plan))
    };
    let room = |cell: &&Cell| cell.state == CellState::Ready && cell.tenants < cell.max_tenants;
    html(&ImportPage {
        frame: Frame::of(&session, "tenants"),
        plan_shown: plans.first().map_or_else(|| "PLAN".to_owned(), |plan| plan.name.to_string()),
        plans: plans.iter().map(|plan| plan.name.to_string()).collect(),
        cells: cells.iter().filter(room).map(|cell| cell.name.to_string()).collect(),
        planned,
        wanted,
    })
}

fn planned(plan: &ImportPlan) -> Planned {
    let cell = if plan.new_cell { format!("{}, which is made for it first", plan.cell) } else { plan.cell.to_string() };
    let facts = [
        ("Tenant", plan.name.to_string()),
        ("Key in the application", plan.key.to_string()),
        ("Into cell", cell),
        ("Rows", count(plan.rows)),
        ("Size, unpacked", bytes(plan.bytes)),
        ("Keys in Redis", count(plan.keys)),
        ("Objects", count(plan.objects)),
    ];
    Planned {
        facts: facts.map(|(what, much)| (what.to_owned(), much)).into(),
        made: When::new(plan.made_at, Timestamp::now()),
    }
}

/// `POST /imports`
pub async fn start(change: Change) -> Result<Response, Failure> {
    let text = |name: &str| change.field(name).unwrap_or_default().to_owned();
    let wanted = Wanted {
        archive: text("archive"),
        name: text("name"),
        plan: text("plan"),
        hosts: text("hosts"),
        cell: text("cell"),
        quantities: text("quantities"),
        compliance: text("compliance"),
        locations: text("locations"),
        residency: text("residency"),
        latency_ms: text("latency_ms"),
        regions: text("regions"),
        budget: text("budget"),
    };
    let body = asked(&wanted)?;
    let operation: Operation = change.session.send(Method::POST, "/v1/imports", &body, &change.once()).await?;
    Ok(follow(&operation))
}

/// `GET /tenants/{tenant}/archives/{archive}/{file}`: one file, as it lies there.
pub async fn file(
    session: Session,
    Path((name, archive, file)): Path<(String, OperationId, String)>,
) -> Result<Response, Failure> {
    let path = format!("/v1/tenants/{}/archives/{archive}/files/{}", escaped(&name), escaped(&file));
    let content = session.stream(&path).await?;
    // A name that came from an archive is no header of ours.
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let called: String = file.chars().map(plain).collect();
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{called}\"")),
    ];
    Ok((headers, content).into_response())
}
