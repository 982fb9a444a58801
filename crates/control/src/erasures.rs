//! Erasures: everything of a tenant goes, everywhere; what went where is told by a document without personal data.

use crate::{
    App, Change, ControlError, Permit, Read, ReadTenant, archives, audited, hosts, moves,
    operations::{self, Begun},
    tenants, views,
    workflows::{ERASE_TENANT, TenantInput},
};
use berth_domain::{MoveId, TenantEvent};
use berth_mover::RowsOf;
use berth_store::{HostFilter, Records, Tenant};
use berth_wire as wire;
use serde_json::json;
use std::collections::BTreeSet;

/// What would go, and what would not. Changes nothing.
pub async fn plan(app: &App, permit: &Permit<ReadTenant>, who: &str) -> Result<wire::Erasure, ControlError> {
    let tenant = tenants::find(app, permit, who).await?;
    let cell = app.cell(tenant.cell).await?;
    let spec = moves::spec_in(app, MoveId::new(tenants::fresh().uuid()), &tenant.key, &cell).await?;
    berth_mover::may_be_erased(&spec).await?;
    let mut erased = in_places(app, &tenant).await?;
    erased.extend(in_control(&app.store().tenant_records(tenant.id, &tenant.name).await?));
    erased.push(certificates(certificates_of(app, &tenant).await?.len() as u64));
    Ok(report(tenant.id, erased, &[]))
}

/// Marks the tenant, takes its route away and starts the operation: there is no way back from here.
pub async fn start(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let tenant = tenants::known(app, who).await?;
    tenants::must_be_idle(app, &tenant).await?;
    // Everything that would be refused is refused now: with the route gone there is no way back.
    let cell = app.cell(tenant.cell).await?;
    let spec = moves::spec_in(app, MoveId::new(tenants::fresh().uuid()), &tenant.key, &cell).await?;
    berth_mover::may_be_erased(&spec).await?;
    let mut tx = app.store().begin().await?;
    if let Err(source) = tx.tenant_apply(tenant.id, TenantEvent::DeleteStarted).await? {
        drop(tx);
        return Err(tenants::wrong_state(app, &tenant, source).await?);
    }
    tx.keys_revoke_of(tenant.id).await?;
    let input = TenantInput { tenant: tenant.id, asked_by: permit.caller().name.clone() };
    let operation = ERASE_TENANT.with(tenants::fresh(), &input).about(operations::about_tenant(&tenant.name));
    let started = operations::start(app, &mut tx, operation, Begun::ForGood).await?;
    let after = json!({ "operation": started.id });
    audited(&mut tx, permit, "tenant.erase", &format!("tenant/{}", tenant.name), None, Some(after)).await?;
    tx.routes_publish(&[tenant.id]).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

/// The documents, newest first.
pub async fn list(app: &App, _permit: &Permit<Read>) -> Result<wire::Page<wire::Erasure>, ControlError> {
    let mut items = Vec::new();
    for stored in app.store().erasure_list().await? {
        let report: wire::Erasure = serde_json::from_value(stored.report)?;
        items.push(wire::Erasure { operation: Some(stored.operation), at: Some(stored.at), ..report });
    }
    Ok(wire::Page::whole(items))
}

/// What lies outside the control database, counted.
pub(crate) async fn in_places(app: &App, tenant: &Tenant) -> Result<Vec<wire::Erased>, ControlError> {
    let mut erased = Vec::new();
    for way in app.store().ways_back_unfinished(Some(tenant.id)).await? {
        let old = app.cell(way.old_cell).await?;
        let rows = berth_mover::count_rows(&moves::spec_in(app, way.id, &tenant.key, &old).await?).await?;
        erased.push(left_behind(old.name.as_str(), rows.iter().map(|table| table.rows).sum()));
    }
    let cell = app.cell(tenant.cell).await?;
    let spec = moves::spec_in(app, MoveId::new(tenants::fresh().uuid()), &tenant.key, &cell).await?;
    let rows = berth_mover::count_rows(&spec).await?;
    let (found, _) = berth_mover::count_beside(&spec.beside, &tenant.key).await?;
    let many = |kind| found.iter().filter(|found| found.what == kind).map(|found| found.found).sum();
    use berth_mover::BesideKind as Kind;
    erased.extend(in_cell(cell.name.as_str(), &rows, (many(Kind::RedisKeys), many(Kind::Objects))));
    erased.push(archived(archives::count_of(app, tenant.id, &tenant.key).await?));
    Ok(erased)
}

/// Of what was counted before and of what was found while it went, the larger figure, line by line.
pub(crate) fn larger(counted: Vec<wire::Erased>, erased: Vec<wire::Erased>) -> Vec<wire::Erased> {
    let add_up = |lines: Vec<wire::Erased>| {
        let mut sums: Vec<wire::Erased> = Vec::new();
        for line in lines {
            match sums.iter_mut().find(|sum| (&sum.place, &sum.what) == (&line.place, &line.what)) {
                Some(sum) => sum.many += line.many,
                None => sums.push(line),
            }
        }
        sums
    };
    let mut all = add_up(counted);
    for line in add_up(erased) {
        match all.iter_mut().find(|known| (&known.place, &known.what) == (&line.place, &line.what)) {
            Some(known) => known.many = known.many.max(line.many),
            None => all.push(line),
        }
    }
    all
}

/// `unheard`: edges that had not said that they stopped serving the tenant.
pub(crate) fn report(tenant: berth_domain::TenantId, erased: Vec<wire::Erased>, unheard: &[String]) -> wire::Erasure {
    let kept = |what: &str, why: &str| wire::ErasureKept { what: what.to_owned(), why: why.to_owned() };
    let mut kept_all = vec![
        kept("who changed what and when, without the tenant's name", "a record of processing has to be kept"),
        kept("plan, price and cell by month, under the tenant's id", "bookkeeping has to be kept"),
        kept("figures of its moves, under the tenant's id", "nothing in them tells who it was"),
        kept("the names of cells that were made for it", "a cell is another's next: remove it where the name tells"),
        kept("backups, logs and metrics outside Berth", "Berth does not know them: look there"),
    ];
    kept_all.extend(unheard.iter().map(|edge| {
        let why =
            "it was not heard of: cut off, it may serve the tenant on, and what is written through it is not erased";
        kept(&format!("the route at edge {edge}"), why)
    }));
    wire::Erasure {
        operation: None,
        tenant,
        at: None,
        erased: erased.into_iter().filter(|line| line.many > 0).collect(),
        kept: kept_all,
    }
}

fn line(place: impl Into<String>, what: impl Into<String>, many: u64) -> wire::Erased {
    wire::Erased { place: place.into(), what: what.into(), many }
}

pub(crate) fn left_behind(cell: &str, rows: u64) -> wire::Erased {
    line(format!("cell {cell}"), "rows that a move had left for its way back", rows)
}

pub(crate) fn in_cell(cell: &str, rows: &[RowsOf], (keys, objects): (u64, u64)) -> Vec<wire::Erased> {
    let place = format!("cell {cell}");
    let tables = rows.iter().map(|table| line(&place, format!("rows of {}", table.table), table.rows));
    tables.chain([line(&place, "keys in Redis", keys), line(&place, "objects", objects)]).collect()
}

pub(crate) fn archived(files: u64) -> wire::Erased {
    line("place of archives", "files of archives", files)
}

pub(crate) fn certificates(many: u64) -> wire::Erased {
    line("control database", "certificates of its hosts", many)
}

pub(crate) fn in_control(records: &Records) -> Vec<wire::Erased> {
    let many = |n: i64| u64::try_from(n).unwrap_or(0);
    [
        ("records of usage", records.usage),
        ("proposals", records.proposals),
        ("API keys", records.keys),
        ("hosts", records.hosts),
        ("operations", records.operations),
        ("kept answers", records.answers),
        ("entries of the audit trail, made nameless", records.audit),
    ]
    .into_iter()
    .map(|(what, n)| line("control database", what, many(n)))
    .collect()
}

/// Those that name the tenant's hosts and nothing else.
pub(crate) async fn certificates_of(
    app: &App,
    tenant: &Tenant,
) -> Result<Vec<berth_domain::CertificateId>, ControlError> {
    let rules = hosts::rules(app).await?;
    let filter = HostFilter { tenant: Some(tenant.id), host: None };
    let served = app.store().hosts_all(&filter).await?.into_iter().filter(|host| host.served);
    let names: BTreeSet<String> = served.filter_map(|host| hosts::certified(&rules, &host.host)).collect();
    let beside = |name: &String| name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    let own = |name: &String| names.contains(name) || beside(name).is_some_and(|wild| names.contains(&wild));
    let all = app.store().certificate_list().await?;
    Ok(all.into_iter().filter(|known| known.names.iter().all(own)).map(|known| known.id).collect())
}
