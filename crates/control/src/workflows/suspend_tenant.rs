//! A tenant is suspended and resumed. Suspending takes effect at the edges first and is then told to the application;
//! resuming the other way round, so that nobody is let in before the application is ready for them.

use super::{
    TenantInput, done, store,
    tenant::{AwaitEdges, Call, CallApplication},
};
use crate::App;
use async_trait::async_trait;
use berth_domain::{TenantEvent, TenantId, TenantState};
use berth_store::Tx;
use berth_wire::OperationResult;
use berth_workflow::{Run, StepError, TxStep, Workflow};

pub const SUSPEND_TENANT: Workflow<TenantInput> = Workflow::named("suspend_tenant_v1");
pub const RESUME_TENANT: Workflow<TenantInput> = Workflow::named("resume_tenant_v1");

/// Who asked has set the state and published the route already.
pub(super) async fn suspend(run: &mut Run<App>, input: TenantInput) -> Result<OperationResult, StepError> {
    let (tenant, operation) = (input.tenant, run.operation());
    run.point_of_no_return().await?;
    run.step(AwaitEdges { tenant }).await?;
    run.step(CallApplication { tenant, call: Call::Suspend, operation }).await?;
    Ok(done("the tenant is suspended"))
}

pub(super) async fn resume(run: &mut Run<App>, input: TenantInput) -> Result<OperationResult, StepError> {
    let (tenant, operation) = (input.tenant, run.operation());
    run.step(CallApplication { tenant, call: Call::Resume, operation }).await?;
    run.tx(LetIn { tenant }).await?;
    Ok(done("the tenant is served again"))
}

struct LetIn {
    tenant: TenantId,
}

#[async_trait]
impl TxStep<App> for LetIn {
    const NAME: &'static str = "let_in";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        match tx.tenant_apply(self.tenant, TenantEvent::Resume).await.map_err(store)? {
            Ok(_) => tx.routes_publish(&[self.tenant]).await.map(drop).map_err(store),
            // Asked for twice: the other one was first.
            Err(illegal) if illegal.from == TenantState::Active => Ok(()),
            Err(illegal) => Err(StepError::permanent("tenant_state", illegal.to_string())),
        }
    }
    /// The last step: nothing after it fails.
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
}
