//! Steps that several workflows on tenants share.

use super::store;
use crate::{App, ControlError, edge_link, hook};
use async_trait::async_trait;
use berth_config::{Hook, Hooks};
use berth_domain::{OperationId, TenantId, TenantKey};
use berth_store::Tenant;
use berth_workflow::{Step, StepError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// How long edges are waited for after a route changed. A silent edge catches up from its next snapshot, and an
/// operation must not hang on one dead machine.
const EDGES_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn tenant(app: &App, id: TenantId) -> Result<Tenant, StepError> {
    let found = app.store().tenant_get(id).await.map_err(store)?;
    found.ok_or_else(|| ControlError::NoTenant(id.to_string()).into())
}

/// Which call to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Call {
    Create,
    Suspend,
    Resume,
    Plan,
    Delete,
}

impl Call {
    const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Plan => "plan",
            Self::Delete => "delete",
        }
    }
    fn of(self, hooks: &Hooks) -> Option<&Hook> {
        match self {
            Self::Create => hooks.create.as_ref(),
            Self::Suspend => hooks.suspend.as_ref(),
            Self::Resume => hooks.resume.as_ref(),
            Self::Plan => hooks.plan.as_ref(),
            Self::Delete => hooks.delete.as_ref(),
        }
    }
}

/// Calls the application in the tenant's cell, if the stack file says how. `None`: it does not, or nothing came back.
/// `operation`: for which; with it the application tells a try from a second call.
pub(super) async fn call(
    app: &App,
    id: TenantId,
    call: Call,
    operation: OperationId,
) -> Result<Option<String>, StepError> {
    call_with(app, id, None, call, operation).await
}

/// `key`: under which the application knows the tenant, where that is not recorded yet.
pub(super) async fn call_with(
    app: &App,
    id: TenantId,
    key: Option<String>,
    call: Call,
    operation: OperationId,
) -> Result<Option<String>, StepError> {
    let in_force = app.stack().await?;
    let Some(hook) = call.of(&in_force.stack.data.hooks) else { return Ok(None) };
    let tenant = tenant(app, id).await?;
    let cell = app.cell(tenant.cell).await?;
    let key = match key {
        Some(key) => TenantKey::new(key).map_err(ControlError::from)?,
        None => tenant.key,
    };
    let about = hook::HookTenant { key, name: tenant.name, plan: tenant.plan };
    Ok(hook::run(app, &cell, call.name(), hook, operation, &about).await?)
}

/// One call to the application as a step. Undone by nothing: the workflows that use it have their own way back.
pub(super) struct CallApplication {
    pub tenant: TenantId,
    pub call: Call,
    pub operation: OperationId,
}

#[async_trait]
impl Step<App> for CallApplication {
    const NAME: &'static str = "call_application";
    type Output = Option<String>;

    async fn run(&self, app: &App) -> Result<Option<String>, StepError> {
        call(app, self.tenant, self.call, self.operation).await
    }
    async fn undo(&self, _app: &App, _made: Option<Option<String>>) -> Result<(), StepError> {
        Ok(())
    }
    fn input(&self) -> Value {
        json!({ "tenant": self.tenant, "call": self.call })
    }
}

/// Waits until the edges have the tenant's route as it is now, or have been silent for too long.
pub(super) struct AwaitEdges {
    pub tenant: TenantId,
}

#[async_trait]
impl Step<App> for AwaitEdges {
    const NAME: &'static str = "await_edges";
    /// Edges that did not say so in time.
    type Output = Vec<String>;

    async fn run(&self, app: &App) -> Result<Vec<String>, StepError> {
        let late = edge_link::await_routed(app, self.tenant, EDGES_LIMIT).await?;
        Ok(late.iter().map(ToString::to_string).collect())
    }
    async fn undo(&self, _app: &App, _made: Option<Vec<String>>) -> Result<(), StepError> {
        Ok(())
    }
}

/// The same, and those that have been silent for long are named too: nobody waits for them, and they may serve on.
pub(super) struct NameEdges {
    pub tenant: TenantId,
}

#[async_trait]
impl Step<App> for NameEdges {
    const NAME: &'static str = AwaitEdges::NAME;
    type Output = Vec<String>;

    async fn run(&self, app: &App) -> Result<Vec<String>, StepError> {
        let mut unheard = AwaitEdges { tenant: self.tenant }.run(app).await?;
        unheard.extend(edge_link::silent(app).await?.iter().map(ToString::to_string));
        Ok(unheard)
    }
    async fn undo(&self, _app: &App, _made: Option<Vec<String>>) -> Result<(), StepError> {
        Ok(())
    }
}
