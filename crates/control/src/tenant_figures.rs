//! What monitoring asks of each tenant: its price, what it uses of its quotas, and how its cell stands.
//!
//! A handful of statements however many tenants there are. What nobody ever reported is absent and no 0.

use crate::{App, ControlError, Permit, Read, usage};
use berth_domain::{CellId, Cents, MemberState, TenantId, TenantName, UsagePeriod};
use berth_store::UsageRow;
use berth_usage::{Quota, period_start};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantFigures {
    pub name: TenantName,
    /// A month, as its plan says.
    pub price_cents: Cents,
    pub quotas: Vec<QuotaFigure>,
    /// Of its cell, that are wanted, and those last seen healthy.
    pub members: u32,
    pub members_healthy: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaFigure {
    pub quantity: String,
    pub used: Option<u64>,
    pub limit: u64,
}

type Rows = BTreeMap<(TenantId, String), UsageRow>;

fn by_tenant(rows: Vec<UsageRow>) -> Rows {
    rows.into_iter().map(|row| ((row.tenant, row.metric.clone()), row)).collect()
}

/// All tenants that are not gone, by name.
pub async fn list(app: &App, _permit: &Permit<Read>) -> Result<Vec<TenantFigures>, ControlError> {
    let (store, now) = (app.store(), Timestamp::now());
    let plans: BTreeMap<_, _> =
        store.plan_list().await?.into_iter().map(|stored| (stored.plan.name.clone(), stored.plan)).collect();
    let mut members: BTreeMap<CellId, (u32, u32)> = BTreeMap::new();
    for member in store.member_list(None).await?.into_iter().filter(|member| member.wanted) {
        let (all, healthy) = members.entry(member.cell).or_default();
        *all += 1;
        *healthy += u32::from(member.state == MemberState::Healthy);
    }
    let quantities = plans.values().flat_map(|plan| plan.limits.quantities.keys());
    let metrics: BTreeSet<String> = quantities.map(|quantity| Quota::of(quantity).metric).collect();
    let metrics: Vec<String> = metrics.into_iter().collect();
    let newest = by_tenant(store.usage_newest_of_all(UsagePeriod::Day, &metrics).await?);
    let mut running: BTreeMap<UsagePeriod, Rows> = BTreeMap::new();
    let mut figures = Vec::new();
    for tenant in store.tenant_list(None, None, i64::MAX).await? {
        let Some(plan) = plans.get(&tenant.plan) else { continue };
        let mut quotas = Vec::new();
        for (quantity, limit) in &plan.limits.quantities {
            let quota = Quota::of(quantity);
            let key = (tenant.id, quota.metric.clone());
            let last = newest.get(&key);
            let used = match quota.period {
                None => quota.used(last.map(usage::rollup).as_ref(), last.is_some()),
                Some(period) => {
                    let rows = match running.entry(period) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(free) => {
                            free.insert(by_tenant(store.usage_of_all(period, period_start(period, now)).await?))
                        }
                    };
                    quota.used(rows.get(&key).map(usage::rollup).as_ref(), last.is_some())
                }
            };
            quotas.push(QuotaFigure { quantity: quantity.clone(), used, limit: *limit });
        }
        let (all, healthy) = members.get(&tenant.cell).copied().unwrap_or_default();
        figures.push(TenantFigures {
            name: tenant.name,
            price_cents: plan.price_cents,
            quotas,
            members: all,
            members_healthy: healthy,
        });
    }
    Ok(figures)
}
