//! A tenant is erased: who asked has marked it and taken its route away. Everything of it is counted, then goes, place by
//! place, and last its name; what went where is kept as a document.
//!
//! From the start it only goes forward: a tenant half erased cannot be given back.

use super::{
    TenantInput, done,
    move_tenant::{failed, patient},
    store,
    tenant::{Call, CallApplication, NameEdges, tenant},
};
use crate::{App, archives, erasures, moves, ways_back};
use async_trait::async_trait;
use berth_domain::{CertificateId, MoveId, OperationId, TenantEvent, TenantId, WayBackState};
use berth_mover::MoveSpec;
use berth_store::Tx;
use berth_wire::{Erased, Erasure, OperationResult};
use berth_workflow::{Retry, Run, Step, StepError, TxStep, Workflow};

pub const ERASE_TENANT: Workflow<TenantInput> = Workflow::named("erase_tenant_v2");
/// It counted while it erased, and forgot what had gone when it was broken off in between.
pub const ERASE_TENANT_V1: Workflow<TenantInput> = Workflow::named("erase_tenant_v1");

/// How often keys and objects are looked for while they go.
const LOOKS: usize = 10;

pub(super) async fn run(run: &mut Run<App>, input: TenantInput) -> Result<OperationResult, StepError> {
    let tenant = input.tenant;
    run.point_of_no_return().await?;
    let unheard = run.step(NameEdges { tenant }).await?;
    let counted = run.step(CountPlaces { tenant }).await?;
    erase(run, tenant, counted, unheard).await
}

pub(super) async fn run_v1(run: &mut Run<App>, input: TenantInput) -> Result<OperationResult, StepError> {
    let tenant = input.tenant;
    run.point_of_no_return().await?;
    let unheard = run.step(NameEdges { tenant }).await?;
    erase(run, tenant, Vec::new(), unheard).await
}

async fn erase(
    run: &mut Run<App>,
    tenant: TenantId,
    counted: Vec<Erased>,
    unheard: Vec<String>,
) -> Result<OperationResult, StepError> {
    let mut erased = run.step(EraseLeftBehind { tenant }).await?;
    erased.extend(run.step(EraseCell { tenant }).await?);
    // What the application keeps elsewhere is its own to erase.
    let operation = run.operation();
    run.step(CallApplication { tenant, call: Call::Delete, operation }).await?;
    erased.push(run.step(EraseArchives { tenant }).await?);
    let mut erased = erasures::larger(counted, erased);
    let (records, certificates) = run.step(CountRecords { tenant }).await?;
    erased.extend(records);
    let report = erasures::report(tenant, erased, &unheard);
    run.tx(EraseRecords { tenant, certificates, operation, report: report.clone() }).await?;
    let mut result = done("everything of the tenant is erased; `berth tenant erasures` shows what went where");
    let document = serde_json::to_value(&report).map_err(crate::ControlError::from)?;
    result.figures.insert("erasure".to_owned(), document);
    Ok(result)
}

/// What there is, before any of it goes: a step that is broken off and begun again finds only the rest.
struct CountPlaces {
    tenant: TenantId,
}

#[async_trait]
impl Step<App> for CountPlaces {
    const NAME: &'static str = "count_places";
    type Output = Vec<Erased>;

    async fn run(&self, app: &App) -> Result<Vec<Erased>, StepError> {
        Ok(erasures::in_places(app, &tenant(app, self.tenant).await?).await?)
    }
    async fn undo(&self, _app: &App, _made: Option<Vec<Erased>>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
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
        // What can be refused comes first.
        let rows = berth_mover::erase_rows(&spec, &ways_back::Unwatched).await.map_err(|error| failed(&error))?;
        let beside = beside_gone(&spec).await?;
        Ok(erasures::in_cell(cell.name.as_str(), &rows, beside))
    }
    async fn undo(&self, _app: &App, _made: Option<Vec<Erased>>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

/// Keys and objects, until a look finds none: the application's workers may write on for a moment.
async fn beside_gone(spec: &MoveSpec) -> Result<(u64, u64), StepError> {
    let mut all = (0, 0);
    for _ in 0..LOOKS {
        let gone = berth_mover::remove_all(&spec.source, &spec.rules, &spec.beside, &spec.tenant).await;
        let gone = gone.map_err(|error| failed(&error))?;
        if gone == (0, 0) {
            return Ok(all);
        }
        all = (all.0 + gone.0, all.1 + gone.1);
    }
    Err(StepError::retryable("still_written", "keys or objects of the tenant are written while they are removed")
        .hint("end the application's worker that does it; it is tried again"))
}

struct EraseArchives {
    tenant: TenantId,
}

#[async_trait]
impl Step<App> for EraseArchives {
    const NAME: &'static str = "erase_archives";
    type Output = Erased;

    /// Once more what lies beside rows, first: the application's `delete` hook is over, and nothing of ours writes any more.
    async fn run(&self, app: &App) -> Result<Erased, StepError> {
        let about = tenant(app, self.tenant).await?;
        let cell = app.cell(about.cell).await?;
        let spec = moves::spec_in(app, MoveId::new(self.tenant.uuid()), &about.key, &cell).await?;
        beside_gone(&spec).await?;
        let (place, mut files) = (app.archives().await?, 0);
        for at in archives::places_of(app, self.tenant, &about.key).await? {
            files += berth_mover::remove_files(&place, &at).await.map_err(|error| failed(&error))?;
        }
        Ok(erasures::archived(files))
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
        // Before its hosts are others'.
        tx.tenant_forget_hosts(self.tenant).await.map_err(store)?;
        let gone = tx.tenant_apply(self.tenant, TenantEvent::DeleteFinished).await.map_err(store)?;
        gone.map_err(|illegal| StepError::permanent("tenant_state", illegal.to_string()))?;
        for certificate in &self.certificates {
            tx.certificate_delete(*certificate).await.map_err(store)?;
            tx.certificate_nameless(*certificate).await.map_err(store)?;
        }
        tx.tenant_erase(self.tenant, self.operation).await.map_err(store)?;
        let report = serde_json::to_value(&self.report).map_err(crate::ControlError::from)?;
        tx.erasure_insert(self.operation, self.tenant, &report).await.map_err(store)?;
        tx.settings_publish().await.map_err(store)?;
        tx.challenges_publish().await.map_err(store)?;
        Ok(())
    }
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
}
