//! One method a call. Tenants, cells and operations are named as people name them: by name or by id.

use crate::{Client, ClientError, Events, Lines};
use berth_domain::{
    ApprovalId, ApprovalState, CertificateId, EdgeName, KeyId, MemberId, OperationId, OperationState, TenantState,
    UsagePeriod,
};
use berth_wire::{
    Abandon, Approval, ApprovalReject, Archive, AuditEntry, Certificate, CertificateAdd, CertificateOrder, CheckAsk,
    CheckReport, CostInvoice, CostMonth, Costs, Decision, DecisionAsk, Drain, DrainAsk, Drained, EdgeView,
    Entitlements, Erasure, FleetApplied, FleetApply, FleetMonth, FleetPlan, FleetSimulate, Host, HostAdd, HostVerify,
    ImportPlan, InvoiceImport, Key, KeyCreate, KeyCreated, Move, MovePlan, Operation, OperationEvent, Overview, Page,
    PhaseAnswer, PhaseAsk, PlanPrice, PlanView, Profile, PurgePlan, Recovery, Stack, StackApplied, StackApply,
    SyncReport, Tenant, TenantAllow, TenantChange, TenantCreate, TenantFigures, TenantHosts, TenantImport, TenantMove,
    TenantSync, TenantUsage, Usage, UsageCounted, UsageEvent,
    edge::{EdgeAck, EdgeAckAnswer, EdgeMeters, EdgeMetersAnswer},
};
use http::Method;
use serde::de::DeserializeOwned;
use std::fmt::Write as _;

/// Which entries of the audit trail.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    pub tenant: Option<String>,
    pub limit: Option<u32>,
}

/// Which operations.
#[derive(Clone, Debug, Default)]
pub struct OperationFilter {
    pub tenant: Option<String>,
    pub state: Option<OperationState>,
    /// Only those that are not at their end.
    pub open: bool,
    pub limit: Option<u32>,
}

/// What can be drained.
#[derive(Clone, Debug)]
pub enum Drainable {
    Tenant(String),
    Member { cell: String, member: MemberId },
    Edge(EdgeName),
}

impl Drainable {
    fn path(&self) -> String {
        match self {
            Self::Tenant(tenant) => format!("/v1/tenants/{}/drain", escaped(tenant)),
            Self::Member { cell, member } => format!("/v1/cells/{}/members/{member}/drain", escaped(cell)),
            Self::Edge(edge) => format!("/v1/edges/{edge}/drain"),
        }
    }
}

pub(crate) const NOTHING: serde_json::Value = serde_json::Value::Null;

impl Client {
    pub async fn status(&self) -> Result<Overview, ClientError> {
        self.get("/v1/status").await
    }

    pub async fn stack(&self) -> Result<Stack, ClientError> {
        self.get("/v1/stack").await
    }

    pub async fn stack_apply(&self, wanted: &StackApply) -> Result<StackApplied, ClientError> {
        self.write(Method::POST, "/v1/stack", wanted).await
    }

    /// What is wrong with these files; none: with the stack file in force.
    pub async fn check(&self, wanted: &CheckAsk) -> Result<CheckReport, ClientError> {
        self.write(Method::POST, "/v1/check", wanted).await
    }

    pub async fn tenants(&self, state: Option<TenantState>) -> Result<Vec<Tenant>, ClientError> {
        let mut query = Query::default();
        query.add("state", state);
        self.all("/v1/tenants", query, None).await
    }

    pub async fn tenant(&self, tenant: &str) -> Result<Tenant, ClientError> {
        self.get(&format!("/v1/tenants/{}", escaped(tenant))).await
    }

    pub async fn tenant_create(&self, wanted: &TenantCreate) -> Result<Operation, ClientError> {
        self.write(Method::POST, "/v1/tenants", wanted).await
    }

    /// `version`: refused when the tenant changed since it was read.
    pub async fn tenant_change(
        &self,
        tenant: &str,
        wanted: &TenantChange,
        version: Option<u64>,
    ) -> Result<Tenant, ClientError> {
        self.write_at(Method::PATCH, &format!("/v1/tenants/{}", escaped(tenant)), wanted, version).await
    }

    /// `version`: refused when the tenant changed since it was read.
    pub async fn tenant_set_hosts(
        &self,
        tenant: &str,
        wanted: &TenantHosts,
        version: Option<u64>,
    ) -> Result<Tenant, ClientError> {
        self.write_at(Method::PUT, &format!("/v1/tenants/{}/hosts", escaped(tenant)), wanted, version).await
    }

    /// `version`: refused when the tenant changed since it was read.
    pub async fn tenant_set_allow(
        &self,
        tenant: &str,
        wanted: &TenantAllow,
        version: Option<u64>,
    ) -> Result<Tenant, ClientError> {
        self.write_at(Method::PUT, &format!("/v1/tenants/{}/allow", escaped(tenant)), wanted, version).await
    }

    pub async fn tenant_entitlements(&self, tenant: &str) -> Result<Entitlements, ClientError> {
        self.get(&format!("/v1/tenants/{}/entitlements", escaped(tenant))).await
    }

    pub async fn tenant_plan_purge(&self, tenant: &str) -> Result<PurgePlan, ClientError> {
        self.write(Method::POST, &format!("/v1/tenants/{}/plan-purge", escaped(tenant)), &NOTHING).await
    }

    pub async fn tenant_purge(&self, tenant: &str) -> Result<Operation, ClientError> {
        self.write(Method::POST, &format!("/v1/tenants/{}/purge", escaped(tenant)), &NOTHING).await
    }

    /// Without a key of its own: events have theirs, so sending them again is safe as it is.
    pub async fn usage_record(&self, events: &[UsageEvent]) -> Result<UsageCounted, ClientError> {
        self.write(Method::POST, "/v1/usage", &events).await
    }

    /// What all tenants used in the running period.
    pub async fn usage(&self, period: UsagePeriod) -> Result<Vec<Usage>, ClientError> {
        let page: Page<Usage> = self.get(&format!("/v1/usage?period={period}")).await?;
        Ok(page.items)
    }

    pub async fn tenant_usage(&self, tenant: &str, period: UsagePeriod) -> Result<TenantUsage, ClientError> {
        self.get(&format!("/v1/tenants/{}/usage?period={period}", escaped(tenant))).await
    }

    pub async fn edge_meters(&self, edge: &EdgeName, said: &EdgeMeters) -> Result<EdgeMetersAnswer, ClientError> {
        self.write(Method::POST, &format!("/v1/edges/{edge}/meters"), said).await
    }

    pub async fn approvals(
        &self,
        tenant: Option<&str>,
        state: Option<ApprovalState>,
    ) -> Result<Vec<Approval>, ClientError> {
        let mut query = Query::default();
        query.add("tenant", tenant);
        query.add("state", state);
        let page: Page<Approval> = self.get(&format!("/v1/approvals{}", query.0)).await?;
        Ok(page.items)
    }

    pub async fn approval(&self, id: ApprovalId) -> Result<Approval, ClientError> {
        self.get(&format!("/v1/approvals/{id}")).await
    }

    pub async fn approval_approve(&self, id: ApprovalId) -> Result<Approval, ClientError> {
        self.write(Method::POST, &format!("/v1/approvals/{id}/approve"), &NOTHING).await
    }

    pub async fn approval_reject(&self, id: ApprovalId, said: &ApprovalReject) -> Result<Approval, ClientError> {
        self.write(Method::POST, &format!("/v1/approvals/{id}/reject"), said).await
    }

    pub async fn tenant_sync(&self, wanted: &TenantSync) -> Result<SyncReport, ClientError> {
        self.write(Method::POST, "/v1/tenants/sync", wanted).await
    }

    pub async fn tenant_plan_move(&self, tenant: &str, wanted: &TenantMove) -> Result<MovePlan, ClientError> {
        self.write(Method::POST, &format!("/v1/tenants/{}/plan-move", escaped(tenant)), wanted).await
    }

    pub async fn tenant_move(&self, tenant: &str, wanted: &TenantMove) -> Result<Operation, ClientError> {
        self.write(Method::POST, &format!("/v1/tenants/{}/moves", escaped(tenant)), wanted).await
    }

    pub async fn tenant_undo_move(&self, tenant: &str) -> Result<Operation, ClientError> {
        self.write(Method::POST, &format!("/v1/tenants/{}/undo-move", escaped(tenant)), &NOTHING).await
    }

    pub async fn tenant_settle_move(&self, tenant: &str) -> Result<Move, ClientError> {
        self.write(Method::POST, &format!("/v1/tenants/{}/settle-move", escaped(tenant)), &NOTHING).await
    }

    pub async fn tenant_archives(&self, tenant: &str) -> Result<Vec<Archive>, ClientError> {
        let page: Page<Archive> = self.get(&format!("/v1/tenants/{}/archives", escaped(tenant))).await?;
        Ok(page.items)
    }

    pub async fn tenant_export(&self, tenant: &str) -> Result<Operation, ClientError> {
        self.write(Method::POST, &format!("/v1/tenants/{}/archives", escaped(tenant)), &NOTHING).await
    }

    pub async fn tenant_restore(&self, tenant: &str, archive: OperationId) -> Result<Operation, ClientError> {
        let path = format!("/v1/tenants/{}/archives/{archive}/restore", escaped(tenant));
        self.write(Method::POST, &path, &NOTHING).await
    }

    /// One file of an archive, part by part.
    pub async fn archive_file(
        &self,
        tenant: &str,
        archive: OperationId,
        file: &str,
    ) -> Result<crate::Download, ClientError> {
        self.download(&format!("/v1/tenants/{}/archives/{archive}/files/{}", escaped(tenant), escaped(file))).await
    }

    /// Brings one file of an archive that is to be imported under the id `archive`.
    pub async fn import_file<S, E>(&self, archive: OperationId, file: &str, content: S) -> Result<(), ClientError>
    where
        S: futures_util::Stream<Item = Result<bytes::Bytes, E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        self.upload(&format!("/v1/imports/{archive}/files/{}", escaped(file)), content).await
    }

    pub async fn import_forget(&self, archive: OperationId) -> Result<(), ClientError> {
        let _files: serde_json::Value = self.write(Method::DELETE, &format!("/v1/imports/{archive}"), &NOTHING).await?;
        Ok(())
    }

    pub async fn tenant_plan_import(&self, wanted: &TenantImport) -> Result<ImportPlan, ClientError> {
        self.write(Method::POST, "/v1/imports/plan", wanted).await
    }

    pub async fn tenant_import(&self, wanted: &TenantImport) -> Result<Operation, ClientError> {
        self.write(Method::POST, "/v1/imports", wanted).await
    }

    pub async fn tenant_plan_erase(&self, tenant: &str) -> Result<Erasure, ClientError> {
        self.write(Method::POST, &format!("/v1/tenants/{}/plan-erase", escaped(tenant)), &NOTHING).await
    }

    pub async fn tenant_erase(&self, tenant: &str) -> Result<Operation, ClientError> {
        self.write(Method::POST, &format!("/v1/tenants/{}/erase", escaped(tenant)), &NOTHING).await
    }

    pub async fn erasures(&self) -> Result<Vec<Erasure>, ClientError> {
        let page: Page<Erasure> = self.get("/v1/erasures").await?;
        Ok(page.items)
    }

    pub async fn tenant_suspend(&self, tenant: &str) -> Result<Operation, ClientError> {
        self.write(Method::POST, &format!("/v1/tenants/{}/suspend", escaped(tenant)), &NOTHING).await
    }

    pub async fn tenant_resume(&self, tenant: &str) -> Result<Operation, ClientError> {
        self.write(Method::POST, &format!("/v1/tenants/{}/resume", escaped(tenant)), &NOTHING).await
    }

    pub async fn tenant_delete(&self, tenant: &str) -> Result<Operation, ClientError> {
        self.write(Method::DELETE, &format!("/v1/tenants/{}", escaped(tenant)), &NOTHING).await
    }

    pub async fn moves(&self, tenant: Option<&str>) -> Result<Vec<Move>, ClientError> {
        let mut query = Query::default();
        query.add("tenant", tenant);
        self.all("/v1/moves", query, None).await
    }

    pub async fn plans(&self) -> Result<Vec<PlanView>, ClientError> {
        self.all("/v1/plans", Query::default(), None).await
    }

    pub async fn plan(&self, plan: &str) -> Result<PlanView, ClientError> {
        self.get(&format!("/v1/plans/{}", escaped(plan))).await
    }

    pub async fn decide(&self, asked: &DecisionAsk) -> Result<Decision, ClientError> {
        self.write(Method::POST, "/v1/decisions", asked).await
    }

    pub async fn tenant_set_profile(&self, tenant: &str, profile: &Profile) -> Result<Profile, ClientError> {
        self.write(Method::PUT, &format!("/v1/tenants/{}/profile", escaped(tenant)), profile).await
    }

    /// `month`: `2026-11`; this one otherwise.
    pub async fn costs(&self, month: Option<&str>) -> Result<Costs, ClientError> {
        let mut query = Query::default();
        query.add("month", month);
        self.get(&format!("/v1/costs{}", query.0)).await
    }

    pub async fn cost_months(&self, last: u32) -> Result<Vec<CostMonth>, ClientError> {
        self.get::<Page<CostMonth>>(&format!("/v1/costs/months?last={last}")).await.map(|page| page.items)
    }

    /// Every tenant with what it uses of its plan, and what it cost and left of this month so far.
    pub async fn tenant_figures(&self) -> Result<Vec<TenantFigures>, ClientError> {
        self.get::<Page<TenantFigures>>("/v1/costs/tenants").await.map(|page| page.items)
    }

    pub async fn invoice_import(&self, invoice: &InvoiceImport) -> Result<CostInvoice, ClientError> {
        self.write(Method::PUT, "/v1/costs/invoices", invoice).await
    }

    pub async fn invoice_forget(&self, month: &str, provider: &str) -> Result<Costs, ClientError> {
        let path = format!("/v1/costs/invoices/{}/{}", escaped(month), escaped(provider));
        self.write(Method::DELETE, &path, &NOTHING).await
    }

    pub async fn growth_phase(&self, asked: &PhaseAsk) -> Result<PhaseAnswer, ClientError> {
        self.write(Method::POST, "/v1/costs/phase", asked).await
    }

    pub async fn tenant_plan_price(&self, tenant: &str, plan: &str) -> Result<PlanPrice, ClientError> {
        self.get(&format!("/v1/tenants/{}/plan-price?plan={}", escaped(tenant), escaped(plan))).await
    }

    pub async fn fleet_plan(&self) -> Result<FleetPlan, ClientError> {
        self.get("/v1/fleet/plan").await
    }

    pub async fn fleet_apply(&self, wanted: &FleetApply) -> Result<FleetApplied, ClientError> {
        self.write(Method::POST, "/v1/fleet/apply", wanted).await
    }

    pub async fn fleet_simulate(&self, wanted: &FleetSimulate) -> Result<Vec<FleetMonth>, ClientError> {
        self.write::<Page<FleetMonth>>(Method::POST, "/v1/fleet/simulate", wanted).await.map(|page| page.items)
    }

    pub async fn keys(&self) -> Result<Vec<Key>, ClientError> {
        self.all("/v1/keys", Query::default(), None).await
    }

    pub async fn key_create(&self, wanted: &KeyCreate) -> Result<KeyCreated, ClientError> {
        self.write(Method::POST, "/v1/keys", wanted).await
    }

    pub async fn key_revoke(&self, key: KeyId) -> Result<Key, ClientError> {
        self.write(Method::DELETE, &format!("/v1/keys/{key}"), &NOTHING).await
    }

    /// Newest first.
    pub async fn operations(&self, filter: &OperationFilter) -> Result<Vec<Operation>, ClientError> {
        let mut query = Query::default();
        query.add("tenant", filter.tenant.as_deref());
        query.add("state", filter.state);
        query.add("open", filter.open.then_some(true));
        self.all("/v1/operations", query, filter.limit).await
    }

    pub async fn operation(&self, operation: OperationId) -> Result<Operation, ClientError> {
        self.get(&format!("/v1/operations/{operation}")).await
    }

    /// The operation now, and again whenever it changes, until it is at its end.
    pub async fn operation_events(&self, operation: OperationId) -> Result<Events<OperationEvent>, ClientError> {
        self.lines(&format!("/v1/operations/{operation}/events")).await.map(Events::new)
    }

    pub async fn operation_retry(&self, operation: OperationId) -> Result<Operation, ClientError> {
        self.write(Method::POST, &format!("/v1/operations/{operation}/retry"), &NOTHING).await
    }

    pub async fn operation_abandon(&self, operation: OperationId, wanted: &Abandon) -> Result<Operation, ClientError> {
        self.write(Method::POST, &format!("/v1/operations/{operation}/abandon"), wanted).await
    }

    /// Newest first.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, ClientError> {
        let mut query = Query::default();
        query.add("tenant", filter.tenant.as_deref());
        self.all("/v1/audit", query, filter.limit).await
    }

    pub async fn edges(&self) -> Result<Vec<EdgeView>, ClientError> {
        self.all("/v1/edges", Query::default(), None).await
    }

    /// The stream that an edge follows: [`berth_wire::edge::EdgeEvent`] a line.
    pub async fn edge_routes(
        &self,
        edge: &EdgeName,
        instance: berth_domain::EdgeId,
        after: berth_domain::Revision,
    ) -> Result<Lines, ClientError> {
        self.lines(&format!("/v1/edges/{edge}/routes?instance={instance}&after={after}")).await
    }

    pub async fn edge_ack(&self, edge: &EdgeName, ack: &EdgeAck) -> Result<EdgeAckAnswer, ClientError> {
        self.write(Method::POST, &format!("/v1/edges/{edge}/acks"), ack).await
    }

    /// The newest first.
    pub async fn certificates(&self) -> Result<Vec<Certificate>, ClientError> {
        self.all("/v1/certificates", Query::default(), None).await
    }

    pub async fn certificate_add(&self, wanted: &CertificateAdd) -> Result<Certificate, ClientError> {
        self.write(Method::POST, "/v1/certificates", wanted).await
    }

    pub async fn certificate_remove(&self, id: CertificateId) -> Result<Certificate, ClientError> {
        self.write(Method::DELETE, &format!("/v1/certificates/{id}"), &NOTHING).await
    }

    pub async fn certificate_orders(&self) -> Result<Vec<CertificateOrder>, ClientError> {
        self.all("/v1/certificates/orders", Query::default(), None).await
    }

    pub async fn certificate_renew(&self, host: &str) -> Result<CertificateOrder, ClientError> {
        self.write(Method::POST, &format!("/v1/certificates/orders/{}/renew", escaped(host)), &NOTHING).await
    }

    pub async fn hosts(&self, tenant: Option<&str>) -> Result<Vec<Host>, ClientError> {
        let mut query = Query::default();
        query.add("tenant", tenant);
        let page: Page<Host> = self.get(&format!("/v1/hosts{}", query.0)).await?;
        Ok(page.items)
    }

    pub async fn host_add(&self, wanted: &HostAdd) -> Result<Host, ClientError> {
        self.write(Method::POST, "/v1/hosts", wanted).await
    }

    pub async fn host_verify(&self, host: &str, asked: &HostVerify) -> Result<Host, ClientError> {
        self.write(Method::POST, &format!("/v1/hosts/{}/verify", escaped(host)), asked).await
    }

    pub async fn host_remove(&self, host: &str, tenant: Option<&str>) -> Result<Host, ClientError> {
        let mut query = Query::default();
        query.add("tenant", tenant);
        self.write(Method::DELETE, &format!("/v1/hosts/{}{}", escaped(host), query.0), &NOTHING).await
    }

    /// All that is drained.
    pub async fn drains(&self) -> Result<Vec<Drained>, ClientError> {
        self.all("/v1/drains", Query::default(), None).await
    }

    pub async fn drain(&self, what: &Drainable, asked: &DrainAsk) -> Result<Drain, ClientError> {
        self.write(Method::POST, &what.path(), asked).await
    }

    pub async fn drain_show(&self, what: &Drainable) -> Result<Drain, ClientError> {
        self.get(&what.path()).await
    }

    pub async fn drain_undo(&self, what: &Drainable) -> Result<Drain, ClientError> {
        self.write(Method::DELETE, &what.path(), &NOTHING).await
    }

    pub async fn recovery(&self) -> Result<Recovery, ClientError> {
        self.get("/v1/recovery").await
    }

    pub async fn recover(&self) -> Result<Recovery, ClientError> {
        self.write(Method::POST, "/v1/recovery", &NOTHING).await
    }

    /// A list that is always whole.
    pub(crate) async fn list_whole<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ClientError> {
        self.all(path, Query::default(), None).await
    }

    /// Follows the pages of a list, up to `limit` items.
    pub(crate) async fn all<T: DeserializeOwned>(
        &self,
        path: &str,
        query: Query,
        limit: Option<u32>,
    ) -> Result<Vec<T>, ClientError> {
        let wanted = limit.map_or(usize::MAX, |limit| limit as usize);
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = query.clone();
            query.add("limit", Some(wanted.saturating_sub(items.len()).clamp(1, 200)));
            query.add("after", after.as_deref());
            let page: Page<T> = self.get(&format!("{path}{}", query.0)).await?;
            items.extend(page.items);
            after = page.next;
            if after.is_none() || items.len() >= wanted {
                items.truncate(wanted);
                return Ok(items);
            }
        }
    }
}

/// `?name=value&…`, escaped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(pub(crate) String);

impl Query {
    pub(crate) fn add(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.0.push(if self.0.is_empty() { '?' } else { '&' });
            self.0.push_str(name);
            self.0.push('=');
            self.0.push_str(&escaped(&value.to_string()));
        }
    }
}

/// What people typed, safe as one path segment or query value.
pub(crate) fn escaped(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        // A lone dot segment would be taken for a folder, so dots at the beginning are escaped as well.
        let plain =
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') || (byte == b'.' && !out.is_empty());
        if plain {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string does not fail");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::{Query, escaped};

    #[test]
    fn what_people_type_stays_one_segment() {
        assert_eq!(escaped("../keys?x#y"), "%2E.%2Fkeys%3Fx%23y");
        assert_eq!([escaped("acme-2"), escaped("ä")], ["acme-2", "%C3%A4"]);
    }

    #[test]
    fn a_query_leaves_out_what_is_not_asked() {
        let mut query = Query::default();
        query.add("state", None::<&str>);
        assert_eq!(query.0, "");
        query.add("tenant", Some("a b"));
        query.add("limit", Some(5));
        assert_eq!(query.0, "?tenant=a%20b&limit=5");
    }
}
