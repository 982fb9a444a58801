//! The control row in a table of the source database: for a move that no control plane stands behind.
//!
//! The table is the commit point then: whoever asks who owns the tenant asks the database that it began in, which
//! therefore has to be there until the move is undone or settled.

use crate::sql::{Doing, connect, literal};
use crate::{
    Change, Control, EdgeTrouble, Edges, Endpoint, HoldFigures, MoveError, MoveSpec, Ownership, Side, Verdict,
};
use async_trait::async_trait;
use berth_domain::{CellId, EdgeName, Generation, MovePhase, TenantKey, Token};
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

const TABLE: &str = "
    create schema if not exists berth_control;
    create table if not exists berth_control.tenants (
        tenant     text primary key,
        owner      uuid not null,
        generation bigint not null,
        token      bigint not null,
        phase      text not null check (phase in ('idle', 'running', 'committed', 'aborting')),
        target     uuid,
        holding    boolean not null
    )";

const COLUMNS: &str = "owner, generation, token, phase, target, holding";

/// One tenant's control row in a table.
pub struct ControlTable {
    endpoint: Endpoint,
    tenant: TenantKey,
    /// Made when it is needed, and again when it was lost: in the pause a new connection would be waited for.
    session: tokio::sync::Mutex<Option<Client>>,
}

impl ControlTable {
    /// Makes table and row where they are missing: the tenant is owned by the source of `spec` then.
    pub async fn open(spec: &MoveSpec) -> Result<Self, MoveError> {
        let what = "making the control table";
        let client = connect(&spec.source, Side::Source, "berth-control").await?;
        match client.batch_execute(TABLE).await {
            // Two at once: the other one has made it.
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {}
            other => other.doing(Side::Source, what)?,
        }
        // An earlier move's fences may still know its tokens: those of this one begin above them.
        let mut token = 0;
        for (endpoint, side) in [(&spec.source, Side::Source), (&spec.target, Side::Target)] {
            let fences = crate::fence::fences(endpoint, side).await?;
            let ours = fences.into_iter().filter(|(tenant, ..)| tenant == spec.tenant.as_str());
            token = ours.map(|(_, _, _, token)| token.as_i64()).fold(token, i64::max);
        }
        client
            .execute(
                "insert into berth_control.tenants values ($1, $2, 1, $3, 'idle', null, false) on conflict do nothing",
                &[&spec.tenant.as_str(), &spec.source_cell.uuid(), &token],
            )
            .await
            .doing(Side::Source, what)?;
        Ok(Self::over(spec, Some(client)))
    }

    /// The row as it is; makes none.
    pub fn existing(spec: &MoveSpec) -> Self {
        Self::over(spec, None)
    }

    fn over(spec: &MoveSpec, session: Option<Client>) -> Self {
        Self { endpoint: spec.source.clone(), tenant: spec.tenant.clone(), session: tokio::sync::Mutex::new(session) }
    }

    /// The row goes, and the table with the last one. Safe to run again.
    pub async fn remove(self) -> Result<(), MoveError> {
        let client = connect(&self.endpoint, Side::Source, "berth-control").await?;
        let there = client.query_one("select to_regclass('berth_control.tenants') is not null", &[]).await;
        if !there.doing(Side::Source, "removing the control row")?.get::<_, bool>(0) {
            return Ok(());
        }
        let gone = format!(
            "begin; lock table berth_control.tenants; delete from berth_control.tenants where tenant = {};
             do $$ begin if not exists (select from berth_control.tenants) then drop schema berth_control cascade; end if; end $$;
             commit",
            literal(self.tenant.as_str())
        );
        client.batch_execute(&gone).await.doing(Side::Source, "removing the control row")
    }

    /// `None`: the answer was lost.
    async fn try_change(&self, client: &mut Client, held: Token, change: Change) -> Option<Verdict> {
        let tx = client.transaction().await.ok()?;
        let select = format!("select {COLUMNS} from berth_control.tenants where tenant = $1 for update");
        let row = control(&tx.query_one(&select, &[&self.tenant.as_str()]).await.ok()?)?;
        let after = match row.after(held, change) {
            Ok(after) => after,
            Err(refusal) => return Some(Verdict::Refused(refusal)),
        };
        tx.execute(
            "update berth_control.tenants set owner = $2, generation = $3, token = $4, phase = $5, target = $6, holding = $7
             where tenant = $1",
            &[
                &self.tenant.as_str(),
                &after.owner.uuid(),
                &after.generation.as_i64(),
                &after.token.as_i64(),
                &after.phase.as_str(),
                &after.target.map(CellId::uuid),
                &after.holding,
            ],
        )
        .await
        .ok()?;
        tx.commit().await.ok()?;
        Some(Verdict::Changed(after))
    }
}

fn control(row: &Row) -> Option<Control> {
    Some(Control {
        owner: CellId::new(row.get(0)),
        generation: Generation::from_i64(row.get(1)),
        token: Token::from_i64(row.get(2)),
        phase: row.get::<_, String>(3).parse::<MovePhase>().ok()?,
        target: row.get::<_, Option<uuid::Uuid>>(4).map(CellId::new),
        holding: row.get(5),
    })
}

#[async_trait]
impl Ownership for ControlTable {
    async fn read(&self) -> Option<Control> {
        let client = connect(&self.endpoint, Side::Source, "berth-control").await.ok()?;
        let select = format!("select {COLUMNS} from berth_control.tenants where tenant = $1");
        control(&client.query_one(&select, &[&self.tenant.as_str()]).await.ok()?)
    }

    async fn change(&self, held: Token, change: Change) -> Verdict {
        let mut session = self.session.lock().await;
        let client = match session.take() {
            Some(client) if !client.is_closed() => Ok(client),
            _ => connect(&self.endpoint, Side::Source, "berth-control").await,
        };
        let Ok(mut client) = client else { return Verdict::Unknown };
        match self.try_change(&mut client, held, change).await {
            Some(verdict) => {
                *session = Some(client);
                verdict
            }
            None => Verdict::Unknown,
        }
    }
}

/// Nobody routes to this tenant but the application itself: writers that come during the pause are refused by the
/// fence instead of held.
pub struct NoEdges;

#[async_trait]
impl Edges for NoEdges {
    async fn all_alive(&self) -> Result<(), EdgeTrouble> {
        Ok(())
    }
    async fn wait_held(&self, _: Token, _: Duration) -> Result<(), EdgeTrouble> {
        Ok(())
    }
    async fn wait_routed(&self, _: Generation, _: Duration) -> Vec<EdgeName> {
        Vec::new()
    }
    async fn hold_figures(&self, _: Token, _: Duration) -> Option<HoldFigures> {
        None
    }
}
