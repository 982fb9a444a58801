//! Tenants are judged: each once a day, and as soon as what it uses passes a threshold. What was agreed to is carried
//! out, what nobody agreed to in time ends, and quotas that are spent or come back are told to the edges.

use super::Loop;
use crate::{App, ControlError, approvals, decide, judge, usage};
use async_trait::async_trait;
use berth_config::UsageRules;
use berth_domain::{ApprovalState, TenantId};
use berth_store::{ApprovalFilter, Spent, Tenant};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// Tenants that one round looks at; the others wait for the next.
const AT_ONCE: usize = 200;
const CLEAR_EVERY: Duration = Duration::from_hours(1);

#[derive(Default)]
pub(super) struct Judging {
    /// Whose usage changed since it was looked at.
    touched: Waiting,
    last_look: Option<Instant>,
    cleared: Option<Instant>,
}

/// Tenants in the order in which they came, each once: whoever is busy all the time waits behind the others.
#[derive(Default)]
struct Waiting {
    order: VecDeque<TenantId>,
    known: BTreeSet<TenantId>,
}

impl Waiting {
    fn extend(&mut self, tenants: Vec<TenantId>) {
        for tenant in tenants {
            if self.known.insert(tenant) {
                self.order.push_back(tenant);
            }
        }
    }

    fn take(&mut self, most: usize) -> BTreeSet<TenantId> {
        let taken: BTreeSet<TenantId> = self.order.drain(..most.min(self.order.len())).collect();
        self.known.retain(|tenant| !taken.contains(tenant));
        taken
    }
}

#[async_trait]
impl Loop for Judging {
    const NAME: &'static str = "judging";
    const PAUSE: Duration = Duration::from_secs(5);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        let in_force = app.stack().await?;
        let rules = &in_force.stack.usage;
        let ended = app.store().approvals_expire().await?;
        if ended > 0 {
            info!(ended, "{ended} proposals ended, for nobody decided about them");
        }
        // A first look of this server may be the first one for a while: an hour is enough, the daily look has the rest.
        let since = self.last_look.replace(Instant::now()).map_or(3600.0, |last| last.elapsed().as_secs_f64() + 10.0);
        self.touched.extend(app.store().usage_touched(since).await?);
        let touched = self.touched.take(AT_ONCE);
        spent(app, rules, &touched).await?;
        judge_all(app, rules, touched).await?;
        let agreed = ApprovalFilter { state: Some(ApprovalState::Approved), ..ApprovalFilter::default() };
        for approval in app.store().approval_list(&agreed, 100).await? {
            approvals::carry_out(app, &approval).await?;
        }
        if self.cleared.is_none_or(|at| at.elapsed() > CLEAR_EVERY) {
            let keys_s = berth_usage::REMEMBERED_FOR.as_secs_f64();
            if !app.store().usage_clear(keys_s).await? {
                self.cleared = Some(Instant::now());
            }
        }
        Ok(())
    }
}

async fn judge_all(app: &App, rules: &UsageRules, due: BTreeSet<TenantId>) -> Result<(), ControlError> {
    let every_s = rules.judge_every.ms() as f64 / 1000.0;
    let daily: BTreeSet<TenantId> =
        app.store().judgements_due(every_s, 50).await?.into_iter().filter(|id| !due.contains(id)).collect();
    let mut engine = None;
    for id in due.iter().chain(&daily) {
        let Some(tenant) = app.store().tenant_get(*id).await?.filter(judge::is_judged) else { continue };
        if !daily.contains(id) && !signals_differ(app, rules, &tenant).await? {
            continue;
        }
        if engine.is_none() {
            engine = Some(decide::engine(app).await?);
        }
        let Some(engine) = &engine else { continue };
        // A profile that nobody could be placed by must not keep the others from being judged.
        if let Err(error) = judge::judge(app, engine, rules, &tenant).await {
            warn!(tenant = %tenant.name, error = error.full(), "tenant {} cannot be judged: {}", tenant.name, error.full());
        }
    }
    Ok(())
}

/// What edges refuse because it is spent, of tenants whose usage changed and of those that have something spent.
async fn spent(app: &App, rules: &UsageRules, touched: &BTreeSet<TenantId>) -> Result<(), ControlError> {
    let mut stored: BTreeMap<TenantId, Vec<Spent>> = BTreeMap::new();
    for one in app.store().spent_list().await? {
        stored.entry(one.tenant).or_default().push(one);
    }
    let mut look: BTreeSet<TenantId> = stored.keys().copied().collect();
    if !rules.stop.is_empty() {
        look.extend(touched);
    }
    let now = Timestamp::now();
    for id in look {
        let Some(tenant) = app.store().tenant_get(id).await? else { continue };
        let limits = usage::limits_of(app, &tenant).await?;
        let quotas = if rules.stop.is_empty() { Vec::new() } else { usage::quotas_of(app, id, &limits, now).await? };
        let spent: Vec<Spent> = quotas
            .into_iter()
            .filter(|quota| quota.left == Some(0))
            .filter_map(|quota| {
                let class = rules.stop.get(&quota.quantity)?.clone();
                Some(Spent { tenant: id, quantity: quota.quantity, class, until: quota.resets_at? })
            })
            .collect();
        if stored.get(&id).map(Vec::as_slice).unwrap_or_default() != spent {
            let mut tx = app.store().begin().await?;
            tx.spent_replace(id, &spent).await?;
            tx.commit().await?;
            let names: Vec<&str> = spent.iter().map(|one| one.quantity.as_str()).collect();
            info!(tenant = %tenant.name, spent = ?names, "quotas of tenant {} that edges refuse as spent: {names:?}", tenant.name);
        }
    }
    Ok(())
}

/// Whether usage passed a threshold since the tenant was judged.
async fn signals_differ(app: &App, rules: &UsageRules, tenant: &Tenant) -> Result<bool, ControlError> {
    let standing = judge::standing(app, rules, tenant, Timestamp::now()).await?;
    Ok(judge::signals_before(app, tenant).await?.is_none_or(|before| before != standing.signals))
}

#[cfg(test)]
mod tests {
    use super::Waiting;
    use berth_domain::TenantId;
    use std::collections::BTreeSet;

    #[test]
    fn of_many_that_are_busy_all_the_time_each_has_its_turn() {
        let all: Vec<TenantId> = (0..300).map(|n| TenantId::new(uuid::Uuid::from_u128(n))).collect();
        let mut waiting = Waiting::default();
        let mut seen = BTreeSet::new();
        for _ in 0..2 {
            waiting.extend(all.clone());
            seen.extend(waiting.take(200));
        }
        assert_eq!(seen.len(), 300);
    }
}
