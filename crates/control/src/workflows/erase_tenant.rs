//! A tenant is erased: who asked has marked it and taken its route away. Then everything of it goes, place by place, and
//! last its name; what went where is kept as a document.
//!
//! From the start it only goes forward: a tenant half erased cannot be given back.

use super::{
    TenantInput, done,
    move_tenant::{failed, patient},
    store,
    tenant::{AwaitEdges, Call, CallApplication, tenant},
};
use crate::{App, archives, erasures, moves, ways_back};
use async_trait::async_trait;
use berth_domain::{CertificateId, MoveId, OperationId, TenantEvent, TenantId, WayBackState};
use berth_store::Tx;
use berth_wire::{Erased, Erasure, OperationResult};
use berth_workflow::{Retry, Run, Step, StepError, TxStep, Workflow};

pub const ERASE_TENANT: Workflow<TenantInput> = Workflow::named("erase_tenant_v1");

pub(super) async fn run(run: &mut Run<App>, input: TenantInput) -> Result<OperationResult, StepError> {
    let tenant = input.tenant;
    run.point_of_no_return().await?;
    run.step(AwaitEdges { tenant }).await?;
    let mut erased = run.step(EraseLeftBehind { tenant }).await?;
    erased.extend(run.step(EraseCell { tenant }).await?);
    // What the application keeps elsewhere is its own to erase.
    run.step(CallApplication { tenant, call: Call::Delete }).await?;
    erased.push(run.step(EraseArchives { tenant }).await?);
    let (records, certificates) = run.step(CountRecords { tenant }).await?;
    erased.extend(records);
    let report = erasures::report(tenant, erased);
    let operation = run.operation();
    run.tx(EraseRecords { tenant, certificates, operation, report: report.clone() }).await?;
    let mut result = done("everything of the tenant is erased; `berth tenant erasures` shows what went where");
    let document = serde_json::to_value(&report).map_err(crate::ControlError::from)?;
    result.figures.insert("erasure".to_owned(), document);
    Ok(result)
}

/// The old sides of moves, kept for their way back.
struct EraseLeftBehind {
    tenant: TenantId,
}

#[async_trait]
impl Step<App> for EraseLeftBehind {
    const NAME: &'static str = "erase_left_behind";
    type Output = Vec<Erased>;

    async fn run(&self, app: &App) -> Result<Vec<Erased>, StepError> {
        let mut erased = Vec::new();
        for way in app.store().ways_back_unfinished(Some(self.tenant)).await.map_err(store)? {
            let reason = Some("the tenant is erased");
            let turned = app.store().way_back_turn(way.id, WayBackState::Open, WayBackState::Closing, reason).await;
            turned.map_err(store)?;
            let rows = ways_back::clear(app, &way, &ways_back::Unwatched).await?;
            erased.push(erasures::left_behind(app.cell(way.old_cell).await?.name.as_str(), rows));
        }
        Ok(erased)
    }
    async fn undo(&self, _app: &App, _made: Option<Vec<Erased>>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

/// Rows, keys and objects where the tenant lived.
struct EraseCell {
    tenant: TenantId,
}

#[async_trait]
impl Step<App> for EraseCell {
    const NAME: &'static str = "erase_cell";
    type Output = Vec<Erased>;

    async fn run(&self, app: &App) -> Result<Vec<Erased>, StepError> {
        let about = tenant(app, self.tenant).await?;
        let cell = app.cell(about.cell).await?;
        let spec = moves::spec_in(app, MoveId::new(self.tenant.uuid()), &about.key, &cell).await?;
        let beside = berth_mover::remove_all(&spec.source, &spec.rules, &spec.beside, &spec.tenant).await;
        let beside = beside.map_err(|error| failed(&error))?;
        let rows = berth_mover::erase_rows(&spec, &ways_back::Unwatched).await.map_err(|error| failed(&error))?;
        Ok(erasures::in_cell(cell.name.as_str(), &rows, beside))
    }
    async fn undo(&self, _app: &App, _made: Option<Vec<Erased>>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

struct EraseArchives {
    tenant: TenantId,
}

#[async_trait]
impl Step<App> for EraseArchives {
    const NAME: &'static str = "erase_archives";
    type Output = Erased;

    async fn run(&self, app: &App) -> Result<Erased, StepError> {
        let gone = berth_mover::remove_files(&app.archives().await?, &archives::folder(self.tenant)).await;
        Ok(erasures::archived(gone.map_err(|error| failed(&error))?))
    }
    async fn undo(&self, _app: &App, _made: Option<Erased>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

/// What the control database knows, counted while it knows it.
struct CountRecords {
    tenant: TenantId,
}

#[async_trait]
impl Step<App> for CountRecords {
    const NAME: &'static str = "count_records";
    type Output = (Vec<Erased>, Vec<CertificateId>);

    async fn run(&self, app: &App) -> Result<(Vec<Erased>, Vec<CertificateId>), StepError> {
        let about = tenant(app, self.tenant).await?;
        let mut records = app.store().tenant_records(self.tenant, &about.name).await.map_err(store)?;
        // This one stays, nameless.
        records.operations -= 1;
        let certificates = erasures::certificates_of(app, &about).await?;
        let mut erased = erasures::in_control(&records);
        erased.push(erasures::certificates(certificates.len() as u64));
        Ok((erased, certificates))
    }
    async fn undo(&self, _app: &App, _made: Option<(Vec<Erased>, Vec<CertificateId>)>) -> Result<(), StepError> {
        Ok(())
    }
}

struct EraseRecords {
    tenant: TenantId,
    certificates: Vec<CertificateId>,
    operation: OperationId,
    report: Erasure,
}

#[async_trait]
impl TxStep<App> for EraseRecords {
    const NAME: &'static str = "erase_records";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        let gone = tx.tenant_apply(self.tenant, TenantEvent::DeleteFinished).await.map_err(store)?;
        gone.map_err(|illegal| StepError::permanent("tenant_state", illegal.to_string()))?;
        for certificate in &self.certificates {
            tx.certificate_delete(*certificate).await.map_err(store)?;
        }
        if !self.certificates.is_empty() {
            tx.settings_publish().await.map_err(store)?;
        }
        tx.tenant_erase(self.tenant, self.operation).await.map_err(store)?;
        let report = serde_json::to_value(&self.report).map_err(crate::ControlError::from)?;
        tx.erasure_insert(self.operation, self.tenant, &report).await.map_err(store)
    }
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
}
