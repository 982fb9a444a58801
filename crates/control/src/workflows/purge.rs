//! Rows that are too old for a tenant's plan go. What goes is archived in one step and deleted in the next, which deletes
//! only what the first one saw.

use super::{
    archive::{ArchiveInput, Told},
    done,
    move_tenant::{failed, patient},
    tenant::tenant,
};
use crate::{App, archives, purge};
use async_trait::async_trait;
use berth_domain::{CellId, MoveId};
use berth_mover::{MoveError, Old};
use berth_wire::OperationResult;
use berth_workflow::{Retry, Run, Step, StepError, Workflow};
use serde::{Deserialize, Serialize};

pub const PURGE_TENANT: Workflow<ArchiveInput> = Workflow::named("purge_tenant_v1");

pub(super) async fn run(run: &mut Run<App>, input: ArchiveInput) -> Result<OperationResult, StepError> {
    let told = Told { reporter: run.reporter(), cancelled: run.cancelled() };
    let Some(found) = run.step(ArchiveOldRows { input: input.clone(), told }).await? else {
        return Ok(done("nothing is older than the plan keeps"));
    };
    let told = Told { reporter: run.reporter(), cancelled: run.cancelled() };
    let archived = found.archived;
    let rows = run.step(DeleteOldRows { input, found, told }).await?;
    let how = if archived { "are archived and gone" } else { "are gone" };
    Ok(done(format!("{rows} rows that are older than the plan keeps {how}")))
}

/// What the first step saw, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    cell: CellId,
    old: Old,
    archived: bool,
}

struct ArchiveOldRows {
    input: ArchiveInput,
    told: Told,
}

#[async_trait]
impl Step<App> for ArchiveOldRows {
    const NAME: &'static str = "archive_old_rows";
    type Output = Option<Found>;

    async fn run(&self, app: &App) -> Result<Option<Found>, StepError> {
        let tenant = tenant(app, self.input.tenant).await?;
        let id = MoveId::new(self.input.archive.uuid());
        let Some(spec) = purge::spec(app, id, &tenant).await? else { return Ok(None) };
        let archived = app.stack().await?.stack.data.purge != Some(berth_config::Purge::Delete);
        let at = archives::path(self.input.tenant, self.input.archive);
        let old = if archived {
            let place = app.archives().await?;
            berth_mover::old_rows(&spec, Some((&place, &at)), &self.told).await
        } else {
            berth_mover::old_rows(&spec, None, &self.told).await
        };
        let old = old.map_err(elsewhere)?;
        Ok((old.rows() > 0).then_some(Found { cell: tenant.cell, old, archived }))
    }
    /// Nothing was deleted: an archive too many does no harm, and half of one goes.
    async fn undo(&self, app: &App, made: Option<Option<Found>>) -> Result<(), StepError> {
        if made.is_some_and(|found| found.is_none_or(|found| !found.archived)) {
            return Ok(());
        }
        Ok(archives::forget_unfinished(app, self.input.tenant, self.input.archive).await?)
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

struct DeleteOldRows {
    input: ArchiveInput,
    found: Found,
    told: Told,
}

#[async_trait]
impl Step<App> for DeleteOldRows {
    const NAME: &'static str = "delete_old_rows";
    type Output = u64;

    async fn run(&self, app: &App) -> Result<u64, StepError> {
        let tenant = tenant(app, self.input.tenant).await?;
        let id = MoveId::new(self.input.archive.uuid());
        // It moved meanwhile: what was seen was seen elsewhere, and the next purge looks again.
        if tenant.cell != self.found.cell {
            return Ok(0);
        }
        let Some(mut spec) = purge::spec(app, id, &tenant).await? else { return Ok(0) };
        let archived = self.found.old.tables.first().map(|table| table.before);
        // It was put on a plan that keeps more: what was seen then is not too old any more.
        if spec.keep_from < archived {
            return Ok(0);
        }
        // Midnight may have passed: what was archived is what goes.
        spec.keep_from = archived;
        berth_mover::purge(&spec, &self.found.old, &self.told).await.map_err(elsewhere)
    }
    /// What is gone is in the archive, or was to go.
    async fn undo(&self, _app: &App, _made: Option<u64>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

fn elsewhere(error: MoveError) -> StepError {
    match error {
        MoveError::LivesElsewhere => StepError::retryable(error.code(), "the tenant is moving"),
        other => failed(&other),
    }
}
