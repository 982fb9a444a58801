//! The application is told of a tenant's new plan. Who asked has stored it and published the limits already.

use super::{
    TenantInput, done,
    tenant::{Call, CallApplication},
};
use crate::App;
use berth_wire::OperationResult;
use berth_workflow::{Run, StepError, Workflow};

pub const PLAN_TENANT: Workflow<TenantInput> = Workflow::named("plan_tenant_v1");

pub(super) async fn run(run: &mut Run<App>, input: TenantInput) -> Result<OperationResult, StepError> {
    run.point_of_no_return().await?;
    let operation = run.operation();
    run.step(CallApplication { tenant: input.tenant, call: Call::Plan, operation }).await?;
    Ok(done("the application knows the plan"))
}
