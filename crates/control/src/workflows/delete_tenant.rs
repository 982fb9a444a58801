//! A tenant is deleted: who asked has marked it and taken its route away. When the edges have heard, the application
//! deletes its rows; then its name and hosts are free.
//!
//! From the start it only goes forward: a tenant half deleted cannot be given back.

use super::{
    TenantInput, done, store,
    tenant::{AwaitEdges, Call, call, tenant},
};
use crate::{
    App, ControlError,
    cell_access::{self, connect, failed},
    moves, ways_back,
};
use async_trait::async_trait;
use berth_config::TableRef;
use berth_domain::{OperationId, TenantEvent, TenantId, WayBackState};
use berth_infra::Role;
use berth_store::Tx;
use berth_wire::OperationResult;
use berth_workflow::{Run, Step, StepError, TxStep, Workflow};

pub const DELETE_TENANT: Workflow<TenantInput> = Workflow::named("delete_tenant_v1");

pub(super) async fn run(run: &mut Run<App>, input: TenantInput) -> Result<OperationResult, StepError> {
    let (tenant, operation) = (input.tenant, run.operation());
    run.point_of_no_return().await?;
    run.step(AwaitEdges { tenant }).await?;
    run.step(ClearLeftBehind { tenant }).await?;
    run.step(DeleteRows { tenant, operation }).await?;
    run.tx(Forget { tenant }).await?;
    Ok(done("the tenant and its rows are gone"))
}

/// What earlier moves left in other cells goes first: afterwards nobody knows of it.
struct ClearLeftBehind {
    tenant: TenantId,
}

#[async_trait]
impl Step<App> for ClearLeftBehind {
    const NAME: &'static str = "clear_left_behind";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        for way in app.store().ways_back_unfinished(Some(self.tenant)).await.map_err(store)? {
            let reason = Some("the tenant was deleted");
            app.store()
                .way_back_turn(way.id, WayBackState::Open, WayBackState::Closing, reason)
                .await
                .map_err(store)?;
            ways_back::clear(app, &way, &ways_back::Unwatched).await?;
        }
        Ok(())
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
}

/// By the application's own hook, else the root row with all that its foreign keys cascade to.
struct DeleteRows {
    tenant: TenantId,
    operation: OperationId,
}

#[async_trait]
impl Step<App> for DeleteRows {
    const NAME: &'static str = "delete_rows";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let in_force = app.stack().await?;
        let about = tenant(app, self.tenant).await?;
        let cell = app.cell(about.cell).await?;
        let database = app.cell_database(&cell).await?;
        let data = &in_force.stack.data;
        // Keys and objects go by prefix: nothing cascades to them.
        let beside = moves::beside(app, data, &database, (&database, true))?;
        let (endpoint, rules) = (cell_access::endpoint(&database), moves::rules(data));
        let sure = berth_mover::may_be_removed(&endpoint, &rules, &beside, &about.key).await;
        sure.map_err(ControlError::from)?;
        if data.hooks.delete.is_some() {
            call(app, self.tenant, Call::Delete, self.operation).await?;
        }
        let removed = berth_mover::remove_all(&endpoint, &rules, &beside, &about.key).await;
        removed.map_err(ControlError::from)?;
        // A hook that left the root row has not deleted the tenant, whatever it answered.
        let client = connect(&cell.name, &database, Role::Mover).await?;
        let root = quoted(&data.root);
        let key = format!("\"{}\"", data.key.replace('"', "\"\""));
        let there: bool =
            client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&root]).await.map_err(failed(&cell.name))?.get(0);
        if !there {
            return Ok(()); // no such table, so no such row: a tenant whose provisioning failed early
        }
        let deleted =
            client.execute(&format!("DELETE FROM {root} WHERE {key}::text = $1"), &[&about.key.as_str()]).await;
        deleted.map(drop).map_err(|error| match error.as_db_error() {
            Some(answer) => StepError::permanent("rows_left", format!("the tenant's rows stay: {}", answer.message()))
                .hint("write a `delete` hook that deletes what refers to the root row, then `berth operation retry`"),
            None => failed(&cell.name)(error).into(),
        })
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
}

fn quoted(table: &TableRef) -> String {
    format!("\"{}\".\"{}\"", table.schema.replace('"', "\"\""), table.table.replace('"', "\"\""))
}

struct Forget {
    tenant: TenantId,
}

#[async_trait]
impl TxStep<App> for Forget {
    const NAME: &'static str = "forget_tenant";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        let gone = tx.tenant_apply(self.tenant, TenantEvent::DeleteFinished).await.map_err(store)?;
        gone.map(drop).map_err(|illegal| StepError::permanent("tenant_state", illegal.to_string()))
    }
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
}
