//! A tenant is created: its name, hosts and place were reserved by who asked, in the transaction that started this.
//! Its application makes its root row, and then the edges learn of it.

use super::{
    done, provision_cell, reserved, store,
    tenant::{AwaitEdges, Call, call, call_with},
};
use crate::{App, ControlError, hook};
use async_trait::async_trait;
use berth_domain::{CellId, OperationId, TenantEvent, TenantId, TenantKey};
use berth_store::Tx;
use berth_wire::OperationResult;
use berth_workflow::{Run, Step, StepError, TxStep, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// In a cell that is there, or in one that is made first.
pub const CREATE_TENANT: Workflow<CreateTenant> = Workflow::named("create_tenant_v1");
/// In a cell that is there: one of the [short](super::SHORT) ones.
pub const CREATE_TENANT_IN_CELL: Workflow<CreateTenant> = Workflow::named("create_tenant_v2");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTenant {
    pub tenant: TenantId,
    /// A cell that was reserved for it and has to be made first.
    pub new_cell: Option<CellId>,
    /// The application has its root row already: it is not called.
    pub known_to_application: bool,
    pub asked_by: String,
}

pub(super) async fn run(run: &mut Run<App>, input: CreateTenant) -> Result<OperationResult, StepError> {
    let (tenant, operation) = (input.tenant, run.operation());
    run.tx(ReserveTenant { tenant }).await?;
    if let Some(cell) = input.new_cell {
        provision_cell(run, cell).await?;
    }
    let key = if input.known_to_application { None } else { run.step(TellApplication { tenant, operation }).await? };
    // From here customers may come in: what they write must not be undone by us.
    run.tx_of_no_return(Publish { tenant, key }).await?;
    let late = run.step(AwaitEdges { tenant }).await?;
    Ok(done(if late.is_empty() {
        "the tenant is served".to_owned()
    } else {
        format!("the tenant is served; edges that have not said so yet: {}", late.join(", "))
    }))
}

/// Recorded as done by who reserved the rows; its undo frees name and hosts when all else is undone.
pub(super) struct ReserveTenant {
    pub tenant: TenantId,
}

#[async_trait]
impl TxStep<App> for ReserveTenant {
    const NAME: &'static str = reserved::TENANT;
    type Output = ();

    async fn run(&self, _tx: &mut Tx) -> Result<(), StepError> {
        Ok(())
    }
    async fn undo(&self, tx: &mut Tx, (): ()) -> Result<(), StepError> {
        let undone = tx.tenant_apply(self.tenant, TenantEvent::ProvisioningUndone).await.map_err(store)?;
        undone.map(drop).map_err(|illegal| StepError::permanent("tenant_state", illegal.to_string()))
    }
    fn input(&self) -> Value {
        reserved::tenant(self.tenant).1
    }
}

/// The application makes its root row, and answers with the key under which it knows the tenant from now on.
struct TellApplication {
    tenant: TenantId,
    operation: OperationId,
}

#[async_trait]
impl Step<App> for TellApplication {
    const NAME: &'static str = "tell_application";
    type Output = Option<String>;

    async fn run(&self, app: &App) -> Result<Option<String>, StepError> {
        let answer = call(app, self.tenant, Call::Create, self.operation).await?;
        let answer = answer.filter(|key| !key.is_empty());
        if let Some(key) = &answer {
            TenantKey::new(key.clone()).map_err(|error| StepError::permanent("bad_name", error.to_string()))?;
            // Recorded, it would be deleted when this operation is undone.
            let known = app.store().tenant_ids_by_key().await.map_err(store)?;
            if known.get(key).is_some_and(|(tenant, _)| *tenant != self.tenant) {
                return Err(ControlError::KeyTaken(key.clone()).into());
            }
        }
        Ok(answer)
    }
    /// By the key that the application answered, or by the one that we asked with. Where it is not known whether the hook
    /// ran, only by that one: who has the tenant's name may have had it before.
    async fn undo(&self, app: &App, made: Option<Option<String>>) -> Result<(), StepError> {
        match made {
            None if deletes_by_name(app).await? => {
                tracing::info!(tenant.id = %self.tenant, "what the `create` hook may have left stays; `berth tenant sync` names it");
                Ok(())
            }
            None | Some(None) => call(app, self.tenant, Call::Delete, self.operation).await.map(drop),
            Some(Some(key)) => call_with(app, self.tenant, Some(key), Call::Delete, self.operation).await.map(drop),
        }
    }
}

async fn deletes_by_name(app: &App) -> Result<bool, StepError> {
    let in_force = app.stack().await?;
    Ok(in_force.stack.data.hooks.delete.as_ref().is_some_and(hook::names_the_slug))
}

pub(super) struct Publish {
    pub tenant: TenantId,
    pub key: Option<String>,
}

#[async_trait]
impl TxStep<App> for Publish {
    const NAME: &'static str = "publish_route";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        if let Some(key) = &self.key {
            let key = TenantKey::new(key.clone()).map_err(ControlError::from)?;
            tx.tenant_set_key(self.tenant, &key).await.map_err(|error| match error {
                berth_store::StoreError::Taken(_) => ControlError::KeyTaken(key.to_string()).into(),
                other => store(other),
            })?;
        }
        let published = tx.tenant_apply(self.tenant, TenantEvent::RoutePublished).await.map_err(store)?;
        published.map_err(|illegal| StepError::permanent("tenant_state", illegal.to_string()))?;
        tx.routes_publish(&[self.tenant]).await.map_err(store)?;
        Ok(())
    }
    /// Never called: its commit is the point of no return.
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
}
