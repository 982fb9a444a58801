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

impl TenantFigures {
    /// The quota that is nearest to its limit, one that nobody reported anything of only where there is no other.
    pub fn nearest(&self) -> Option<&QuotaFigure> {
        // Of the last of several equal ones `max_by_key` would choose; by name the first is meant.
        self.quotas.iter().rev().max_by_key(|quota| quota.share())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaFigure {
    pub quantity: String,
    pub used: Option<u64>,
    pub limit: u64,
}

impl QuotaFigure {
    /// Of the limit, in millionths. A limit of nothing is used up.
    fn share(&self) -> Option<u128> {
        let used = u128::from(self.used?) * 1_000_000;
        Some(used.checked_div(u128::from(self.limit)).unwrap_or(u128::MAX))
    }
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

#[cfg(test)]
mod tests {
    use super::{QuotaFigure, TenantFigures};
    use berth_domain::Cents;

    #[test]
    fn the_nearest_quota_is_the_one_whose_share_is_largest_and_never_one_of_which_nothing_is_known() {
        let nearest = |quotas: &[(&str, Option<u64>, u64)]| {
            let quota = |(quantity, used, limit): &(&str, Option<u64>, u64)| QuotaFigure {
                quantity: (*quantity).to_owned(),
                used: *used,
                limit: *limit,
            };
            let figures = TenantFigures {
                name: "acme".parse().unwrap(),
                price_cents: Cents::new(1_500),
                quotas: quotas.iter().map(quota).collect(),
                members: 1,
                members_healthy: 1,
            };
            figures.nearest().map(|quota| quota.quantity.clone())
        };
        assert_eq!(nearest(&[]), None);
        assert_eq!(nearest(&[("a", None, 5), ("b", None, 5)]).as_deref(), Some("a"));
        assert_eq!(nearest(&[("a", None, 5), ("b", Some(0), 5)]).as_deref(), Some("b"));
        assert_eq!(nearest(&[("a", Some(4), 5), ("b", Some(90), 100), ("c", Some(9), 10)]).as_deref(), Some("b"));
        assert_eq!(nearest(&[("a", Some(u64::MAX), u64::MAX), ("b", Some(0), 0)]).as_deref(), Some("b"));
    }
}
