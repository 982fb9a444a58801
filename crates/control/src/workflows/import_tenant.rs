//! A tenant is imported: name, hosts and place were reserved by who asked. The archive is tried as a whole first, and
//! taken back; then it comes in, keys and objects before the rows, and the edges learn of it last.

use super::{
    archive::Told,
    create_tenant::{Publish, ReserveTenant},
    done,
    move_tenant::{failed, patient},
    provision_cell, reserved,
    tenant::{AwaitEdges, tenant},
};
use crate::{App, ControlError, imports, moves};
use async_trait::async_trait;
use berth_domain::{CellId, MoveId, OperationId, TenantId};
use berth_mover::{ArchivePath, MoveSpec};
use berth_wire::OperationResult;
use berth_workflow::{Retry, Run, Step, StepError, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub const IMPORT_TENANT: Workflow<ImportTenant> = Workflow::named("import_tenant_v2");
/// What was brought for it stayed when its cell could not be made.
pub const IMPORT_TENANT_V1: Workflow<ImportTenant> = Workflow::named("import_tenant_v1");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportTenant {
    pub tenant: TenantId,
    pub archive: OperationId,
    /// A cell that was reserved for it and has to be made first.
    pub new_cell: Option<CellId>,
    pub asked_by: String,
}

pub(super) async fn run(run: &mut Run<App>, input: ImportTenant) -> Result<OperationResult, StepError> {
    let what = What { tenant: input.tenant, archive: input.archive };
    run.tx(ReserveTenant { tenant: input.tenant }).await?;
    run.step(HoldUpload { what }).await?;
    import(run, input, what).await
}

pub(super) async fn run_v1(run: &mut Run<App>, input: ImportTenant) -> Result<OperationResult, StepError> {
    let what = What { tenant: input.tenant, archive: input.archive };
    run.tx(ReserveTenant { tenant: input.tenant }).await?;
    import(run, input, what).await
}

async fn import(run: &mut Run<App>, input: ImportTenant, what: What) -> Result<OperationResult, StepError> {
    if let Some(cell) = input.new_cell {
        provision_cell(run, cell).await?;
    }
    let told = Told { reporter: run.reporter(), cancelled: run.cancelled() };
    run.step(TryArchive { what, told }).await?;
    run.step(ImportBeside { what }).await?;
    let told = Told { reporter: run.reporter(), cancelled: run.cancelled() };
    let rows = run.step(ImportRows { what, told }).await?;
    // From here customers may come in: what they write must not be undone by us.
    run.tx_of_no_return(Publish { tenant: input.tenant, key: None }).await?;
    run.step(EndImport { what }).await?;
    let late = run.step(AwaitEdges { tenant: input.tenant }).await?;
    Ok(done(if late.is_empty() {
        format!("{rows} rows are in, and the tenant is served")
    } else {
        format!("{rows} rows are in, and the tenant is served; edges that have not said so yet: {}", late.join(", "))
    }))
}

#[derive(Clone, Copy)]
struct What {
    tenant: TenantId,
    archive: OperationId,
}

impl What {
    async fn spec(self, app: &App) -> Result<MoveSpec, StepError> {
        let tenant = tenant(app, self.tenant).await?;
        let cell = app.cell(tenant.cell).await?;
        Ok(moves::spec_in(app, MoveId::new(self.archive.uuid()), &tenant.key, &cell).await?)
    }

    async fn at(self, app: &App) -> Result<ArchivePath, StepError> {
        Ok(imports::lies(app, self.archive).await?.0)
    }

    /// What was brought for this import is not kept.
    async fn forget(self, app: &App) -> Result<(), StepError> {
        let (at, brought) = match imports::lies(app, self.archive).await {
            Err(ControlError::NoUpload(_)) => return Ok(()),
            other => other?,
        };
        if brought {
            berth_mover::remove_files(&app.archives().await?, &at).await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

/// Recorded as done by who asked; its undo lets go of what was brought, whatever fails.
struct HoldUpload {
    what: What,
}

#[async_trait]
impl Step<App> for HoldUpload {
    const NAME: &'static str = reserved::UPLOAD;
    type Output = ();

    async fn run(&self, _app: &App) -> Result<(), StepError> {
        Ok(())
    }
    async fn undo(&self, app: &App, _made: Option<()>) -> Result<(), StepError> {
        self.what.forget(app).await
    }
    fn input(&self) -> Value {
        reserved::upload(self.what.archive).1
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

struct TryArchive {
    what: What,
    told: Told,
}

#[async_trait]
impl Step<App> for TryArchive {
    const NAME: &'static str = "try_archive";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let (spec, at) = (self.what.spec(app).await?, self.what.at(app).await?);
        let tried = berth_mover::try_import(&spec, &app.archives().await?, &at, &self.told).await;
        tried.map(drop).map_err(|error| failed(&error))
    }
    async fn undo(&self, app: &App, _made: Option<()>) -> Result<(), StepError> {
        self.what.forget(app).await
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

struct ImportBeside {
    what: What,
}

#[async_trait]
impl Step<App> for ImportBeside {
    const NAME: &'static str = "import_beside";
    type Output = (u64, u64);

    async fn run(&self, app: &App) -> Result<(u64, u64), StepError> {
        let (spec, at) = (self.what.spec(app).await?, self.what.at(app).await?);
        let brought = berth_mover::import_beside(&spec, &app.archives().await?, &at).await;
        brought.map_err(|error| failed(&error))
    }
    /// Nothing of the tenant was there before: the step before has looked.
    async fn undo(&self, app: &App, _made: Option<(u64, u64)>) -> Result<(), StepError> {
        let spec = self.what.spec(app).await?;
        let gone = berth_mover::remove_all(&spec.target, &spec.rules, &spec.beside, &spec.tenant).await;
        gone.map(drop).map_err(|error| failed(&error))
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

struct ImportRows {
    what: What,
    told: Told,
}

#[async_trait]
impl Step<App> for ImportRows {
    const NAME: &'static str = "import_rows";
    type Output = u64;

    async fn run(&self, app: &App) -> Result<u64, StepError> {
        let (spec, at) = (self.what.spec(app).await?, self.what.at(app).await?);
        let mark = self.what.tenant.uuid();
        let rows = berth_mover::import_rows(&spec, &app.archives().await?, &at, mark, &self.told).await;
        rows.map_err(|error| failed(&error))
    }
    async fn undo(&self, app: &App, _made: Option<u64>) -> Result<(), StepError> {
        let spec = self.what.spec(app).await?;
        let undone = berth_mover::undo_import(&spec, self.what.tenant.uuid(), &crate::ways_back::Unwatched).await;
        undone.map_err(|error| failed(&error))
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

struct EndImport {
    what: What,
}

#[async_trait]
impl Step<App> for EndImport {
    const NAME: &'static str = "end_import";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let spec = self.what.spec(app).await?;
        berth_mover::forget_import(&spec, self.what.tenant.uuid()).await.map_err(|error| failed(&error))?;
        self.what.forget(app).await
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
}
