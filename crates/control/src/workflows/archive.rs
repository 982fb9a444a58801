//! A tenant's rows go into an archive, or come back from one. The mover's work in one step each, safe to run twice.

use super::{
    done,
    move_tenant::{failed, patient},
    tenant::tenant,
};
use crate::{App, ControlError, archives, moves};
use async_trait::async_trait;
use berth_domain::{MoveId, OperationId, TenantId, TenantState};
use berth_mover::{MoveError, MoveSpec, Progress, Restored, Watcher};
use berth_wire::OperationResult;
use berth_workflow::{Cancelled, Reporter, Retry, Run, Step, StepError, Workflow};
use serde::{Deserialize, Serialize};

pub const EXPORT_TENANT: Workflow<ArchiveInput> = Workflow::named("export_tenant_v1");
pub const RESTORE_ARCHIVE: Workflow<ArchiveInput> = Workflow::named("restore_archive_v1");

/// What both are given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveInput {
    pub tenant: TenantId,
    pub archive: OperationId,
    pub asked_by: String,
}

pub(super) async fn export(run: &mut Run<App>, input: ArchiveInput) -> Result<OperationResult, StepError> {
    let told = Told { reporter: run.reporter(), cancelled: run.cancelled() };
    let rows = run.step(ExportRows { input, told }).await?;
    Ok(done(format!("{rows} rows are archived")))
}

pub(super) async fn restore(run: &mut Run<App>, input: ArchiveInput) -> Result<OperationResult, StepError> {
    let told = Told { reporter: run.reporter(), cancelled: run.cancelled() };
    let restored = run.step(RestoreRows { input, told }).await?;
    Ok(done(match restored.there_already {
        0 => format!("{} rows are back", restored.rows),
        there => format!("{} rows are back; {there} were there already and stay as they are", restored.rows),
    }))
}

pub(super) struct Told {
    pub reporter: Reporter,
    pub cancelled: Cancelled,
}

impl Watcher for Told {
    fn progress(&self, progress: Progress) {
        let fraction = progress.rows_done.zip(progress.rows_total).filter(|(_, total)| *total > 0);
        self.reporter.report(berth_workflow::Progress {
            fraction: fraction.map(|(rows, total)| (rows as f64 / total as f64).min(1.0)),
            message: format!("{} rows", progress.rows_done.unwrap_or(0)),
            figures: serde_json::json!({ "rows_done": progress.rows_done, "rows_total": progress.rows_total }),
        });
    }
    fn cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
}

/// Of the tenant where it lives now, as if it moved to where it is.
async fn spec(app: &App, input: &ArchiveInput) -> Result<MoveSpec, StepError> {
    let tenant = tenant(app, input.tenant).await?;
    // Of one that goes, nothing is archived any more, and nothing is brought back.
    if !matches!(tenant.state, TenantState::Active | TenantState::Suspended | TenantState::Moving) {
        return Err(ControlError::NotNow { tenant: tenant.name, state: tenant.state }.into());
    }
    let cell = app.cell(tenant.cell).await?;
    Ok(moves::spec(app, MoveId::new(input.archive.uuid()), &tenant, &cell, &cell).await?)
}

/// The tenant has moved since its cell was looked up: the next try finds it.
fn elsewhere(error: MoveError) -> StepError {
    match error {
        MoveError::LivesElsewhere => StepError::retryable(error.code(), "the tenant is moving"),
        other => failed(&other),
    }
}

struct ExportRows {
    input: ArchiveInput,
    told: Told,
}

#[async_trait]
impl Step<App> for ExportRows {
    const NAME: &'static str = "export_rows";
    type Output = u64;

    async fn run(&self, app: &App) -> Result<u64, StepError> {
        let (spec, place) = (spec(app, &self.input).await?, app.archives().await?);
        let at = archives::path(self.input.tenant, self.input.archive);
        let made = berth_mover::export(&spec, &place, &at, &self.told).await.map_err(elsewhere)?;
        Ok(made.rows())
    }
    async fn undo(&self, app: &App, _made: Option<u64>) -> Result<(), StepError> {
        Ok(archives::forget_unfinished(app, self.input.tenant, self.input.archive).await?)
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

struct RestoreRows {
    input: ArchiveInput,
    told: Told,
}

#[async_trait]
impl Step<App> for RestoreRows {
    const NAME: &'static str = "restore_rows";
    type Output = Restored;

    async fn run(&self, app: &App) -> Result<Restored, StepError> {
        let (spec, place) = (spec(app, &self.input).await?, app.archives().await?);
        let at = archives::path(self.input.tenant, self.input.archive);
        let restored = berth_mover::restore(&spec.source, &spec.rules, &spec.tenant, &place, &at, &self.told).await;
        restored.map_err(elsewhere)
    }
    /// Rows that came back are the tenant's own and stay.
    async fn undo(&self, _app: &App, _made: Option<Restored>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}
