//! Drains: a tenant, a member of a cell, or a whole edge gets nothing new, until that is taken back.
//!
//! Never waits for what is open to end: `GET …/drain` says how far it is.

use crate::{App, Change, ControlError, Permit, Read, ReadTenant, audited, cells, edge_link::SILENT_MS, tenants};
use berth_domain::{EdgeName, MemberId, Revision, TenantId};
use berth_store::{Cell, DrainListed, Drained, Member, Tenant, Tx};
use berth_wire as wire;
use serde_json::json;

/// How long open connections have when nobody says otherwise.
const GRACE_USUAL_S: u32 = 30;
const GRACE_MOST_S: u32 = 3600;

fn grace_ms(asked: &wire::DrainAsk) -> u32 {
    asked.grace_s.unwrap_or(GRACE_USUAL_S).min(GRACE_MOST_S) * 1000
}

/// New requests of the tenant are answered 503 from now on. Done twice it is done once.
pub async fn tenant(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    asked: &wire::DrainAsk,
) -> Result<wire::Drain, ControlError> {
    let tenant = tenants::known(app, who).await?;
    set(app, permit, &Subject::Tenant(&tenant), Some(grace_ms(asked))).await?;
    shown(app, &Drained::Tenant(tenant.id), Some(tenant.id)).await
}

pub async fn undo_tenant(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Drain, ControlError> {
    let tenant = tenants::known(app, who).await?;
    set(app, permit, &Subject::Tenant(&tenant), None).await?;
    shown(app, &Drained::Tenant(tenant.id), Some(tenant.id)).await
}

pub async fn show_tenant(app: &App, permit: &Permit<ReadTenant>, who: &str) -> Result<wire::Drain, ControlError> {
    let tenant = tenants::find(app, permit, who).await?;
    shown(app, &Drained::Tenant(tenant.id), Some(tenant.id)).await
}

/// The member gets no new requests; refused when there would be nobody left to give them to.
pub async fn member(
    app: &App,
    permit: &Permit<Change>,
    cell: &str,
    member: MemberId,
    asked: &wire::DrainAsk,
) -> Result<wire::Drain, ControlError> {
    let (cell, member) = in_cell(app, cell, member).await?;
    set(app, permit, &Subject::Member(&cell, &member), Some(grace_ms(asked))).await?;
    shown(app, &Drained::Member(member.id), None).await
}

pub async fn undo_member(
    app: &App,
    permit: &Permit<Change>,
    cell: &str,
    member: MemberId,
) -> Result<wire::Drain, ControlError> {
    let (cell, member) = in_cell(app, cell, member).await?;
    set(app, permit, &Subject::Member(&cell, &member), None).await?;
    shown(app, &Drained::Member(member.id), None).await
}

pub async fn show_member(
    app: &App,
    _permit: &Permit<Read>,
    cell: &str,
    member: MemberId,
) -> Result<wire::Drain, ControlError> {
    let (_, member) = in_cell(app, cell, member).await?;
    shown(app, &Drained::Member(member.id), None).await
}

/// The edge goes on answering, and ends its connections. `None`: the only edge there is.
pub async fn edge(
    app: &App,
    permit: &Permit<Change>,
    name: Option<&EdgeName>,
    asked: &wire::DrainAsk,
) -> Result<wire::Drain, ControlError> {
    let name = known_edge(app, name).await?;
    set(app, permit, &Subject::Edge(&name), Some(grace_ms(asked))).await?;
    shown(app, &Drained::Edge(name), None).await
}

pub async fn undo_edge(
    app: &App,
    permit: &Permit<Change>,
    name: Option<&EdgeName>,
) -> Result<wire::Drain, ControlError> {
    let name = known_edge(app, name).await?;
    set(app, permit, &Subject::Edge(&name), None).await?;
    shown(app, &Drained::Edge(name), None).await
}

pub async fn show_edge(
    app: &App,
    _permit: &Permit<Read>,
    name: Option<&EdgeName>,
) -> Result<wire::Drain, ControlError> {
    let name = known_edge(app, name).await?;
    shown(app, &Drained::Edge(name), None).await
}

/// All that is drained, the longest drained first.
pub async fn list(app: &App, _permit: &Permit<Read>) -> Result<wire::Page<wire::Drained>, ControlError> {
    let mut all = Vec::new();
    for DrainListed { what, name, cell, .. } in app.store().drain_list().await? {
        let (kind, member, routed) = match &what {
            Drained::Tenant(tenant) => (wire::DrainedKind::Tenant, None, Some(*tenant)),
            Drained::Member(member) => (wire::DrainedKind::Member, Some(*member), None),
            Drained::Edge(_) => (wire::DrainedKind::Edge, None, None),
        };
        let drain = shown(app, &what, routed).await?;
        // It may have been taken back meanwhile.
        if drain.draining {
            all.push(wire::Drained { kind, name, cell, member, drain });
        }
    }
    Ok(wire::Page::whole(all))
}

enum Subject<'a> {
    Tenant(&'a Tenant),
    Member(&'a Cell, &'a Member),
    Edge(&'a EdgeName),
}

impl Subject<'_> {
    fn drained(&self) -> Drained {
        match self {
            Self::Tenant(tenant) => Drained::Tenant(tenant.id),
            Self::Member(_, member) => Drained::Member(member.id),
            Self::Edge(name) => Drained::Edge((*name).clone()),
        }
    }

    /// As the audit trail names it.
    fn target(&self) -> String {
        match self {
            Self::Tenant(tenant) => format!("tenant/{}", tenant.name),
            Self::Member(cell, member) => format!("cell/{}/member/{}", cell.name, member.id),
            Self::Edge(name) => format!("edge/{name}"),
        }
    }

    /// Edges hear of it when the transaction commits.
    async fn publish(&self, tx: &mut Tx) -> Result<(), ControlError> {
        match self {
            Self::Tenant(tenant) if tenants::is_routed(tenant.state) => {
                tx.routes_publish(&[tenant.id]).await?;
            }
            Self::Tenant(_) => {}
            Self::Member(cell, _) => tx.routes_publish_cell(cell.id).await?,
            Self::Edge(_) => tx.settings_publish().await?,
        }
        Ok(())
    }
}

/// `grace_ms: None`: takes it back.
async fn set(
    app: &App,
    permit: &Permit<Change>,
    subject: &Subject<'_>,
    grace_ms: Option<u32>,
) -> Result<(), ControlError> {
    app.writable().await?;
    let what = subject.drained();
    let mut tx = app.store().begin().await?;
    if let Some(grace_ms) = grace_ms {
        if let Subject::Member(cell, member) = subject
            && tx.members_beside(member.id).await? == 0
        {
            return Err(ControlError::LastMember(cell.name.clone()));
        }
        tx.drain_put(&what, grace_ms).await?;
        let after = json!({ "grace_s": grace_ms / 1000 });
        audited(&mut tx, permit, "drain", &subject.target(), None, Some(after)).await?;
    } else {
        if !tx.drain_remove(&what).await? {
            return Ok(());
        }
        audited(&mut tx, permit, "drain.undo", &subject.target(), None, None).await?;
    }
    subject.publish(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

async fn shown(app: &App, what: &Drained, routed: Option<TenantId>) -> Result<wire::Drain, ControlError> {
    let Some(drain) = app.store().drain_get(what).await? else {
        let waiting_for = Vec::new();
        return Ok(wire::Drain { draining: false, since: None, grace_s: None, done: false, waiting_for });
    };
    // A member's routes are those of all tenants of its cell: whoever has the newest revision has them.
    let wanted = match (routed, what) {
        (Some(tenant), _) => app.store().route_revision(tenant).await?.unwrap_or_default(),
        (None, Drained::Edge(_)) => Revision::default(),
        (None, _) => app.store().route_head().await?,
    };
    let edges = app.store().edge_list().await?.into_iter();
    let late = edges.filter(|edge| edge.silent_ms <= SILENT_MS && edge.acked < wanted);
    let waiting_for: Vec<_> = late.map(|edge| edge.name).collect();
    Ok(wire::Drain {
        draining: true,
        since: Some(drain.since),
        grace_s: Some(drain.grace_ms / 1000),
        done: drain.over && waiting_for.is_empty(),
        waiting_for,
    })
}

async fn in_cell(app: &App, cell: &str, member: MemberId) -> Result<(Cell, Member), ControlError> {
    let cell = cells::known(app, cell).await?;
    let members = app.store().member_list(Some(cell.id)).await?;
    let found = members.into_iter().find(|found| found.id == member);
    let found = found.ok_or_else(|| ControlError::NoMember { cell: cell.name.clone(), member })?;
    Ok((cell, found))
}

async fn known_edge(app: &App, name: Option<&EdgeName>) -> Result<EdgeName, ControlError> {
    let mut edges = app.store().edge_list().await?;
    match name {
        Some(name) if edges.iter().any(|edge| edge.name == *name) => Ok(name.clone()),
        Some(name) => Err(ControlError::NoEdge(name.to_string())),
        None if edges.len() == 1 => Ok(edges.remove(0).name),
        None => Err(ControlError::WhichEdge(edges.into_iter().map(|edge| edge.name.to_string()).collect())),
    }
}
