//! Rows that are too old for their tenant's plan go, where the stack file says so: each tenant is looked at once a day,
//! one at a time, and has an operation only where there is something to remove.

use super::Loop;
use crate::{App, Caller, Change, ControlError, purge, tenants};
use async_trait::async_trait;
use berth_domain::{MoveId, TenantId, TenantName, TenantState};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tracing::{info, warn};

const LOOK_EVERY: Duration = Duration::from_hours(24);
/// Tenants that one round looks at: each costs its cell a count over the tables with a history.
const AT_ONCE: i64 = 20;

/// When each tenant was looked at last, by this server: another one that takes over looks anew, which costs a count.
#[derive(Default)]
pub(super) struct Purging {
    looked: HashMap<TenantId, Instant>,
    /// Where the last round ended.
    after: Option<TenantName>,
}

#[async_trait]
impl Loop for Purging {
    const NAME: &'static str = "purging";
    const PAUSE: Duration = Duration::from_secs(10);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        let in_force = app.stack().await?;
        if in_force.stack.data.purge.is_none() || in_force.stack.data.retention.is_empty() {
            return Ok(());
        }
        let page = app.store().tenant_list(self.after.as_ref(), None, AT_ONCE).await?;
        self.after = page.last().map(|last| last.name.clone());
        for tenant in page.into_iter().filter(|tenant| tenant.state == TenantState::Active) {
            if self.looked.get(&tenant.id).is_some_and(|at| at.elapsed() < LOOK_EVERY) {
                continue;
            }
            self.looked.insert(tenant.id, Instant::now());
            // One cell that does not answer must not keep the others from being looked at.
            match look(app, &tenant).await {
                Ok(0) => {}
                Ok(rows) => {
                    info!(tenant = %tenant.name, rows, "{rows} rows of tenant {} are older than its plan keeps, and go", tenant.name);
                }
                Err(error) => {
                    warn!(tenant = %tenant.name, error = error.full(), "old rows of tenant {} stay: {}", tenant.name, error.full());
                }
            }
        }
        Ok(())
    }
}

async fn look(app: &App, tenant: &berth_store::Tenant) -> Result<i64, ControlError> {
    let Some(spec) = purge::spec(app, MoveId::new(tenants::fresh().uuid()), tenant).await? else { return Ok(0) };
    let rows = purge::found(&spec).await?.rows();
    if rows > 0 {
        let permit = Caller::berth().may(Change)?;
        purge::start(app, &permit, &tenant.id.to_string()).await?;
    }
    Ok(rows)
}
