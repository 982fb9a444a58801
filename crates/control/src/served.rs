//! How a tenant is served, by what was measured: what edges count, what applications report, what members use; and
//! whether it is this tenant that leaves where a whole cell is slow.
//!
//! Never proposes anything: `judge` does.

use crate::{App, ControlError, judge};
use berth_domain::{CellId, TenantId, UsagePeriod};
use berth_placement::{Engine, Profile};
use berth_store::{ApprovalFilter, CellUse, MoveOutcome, Tenant};
use berth_usage::{Place, Served, period_start};
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;

/// The metric under which an application says how many users it has at once.
pub(crate) const USERS: &str = "concurrent_users";
/// The same of what it takes in a second, in the unit in which places promise it.
pub(crate) const THROUGHPUT: &str = "throughput_per_s";
/// A cell whose members use more of their processors serves nobody better.
const BUSY_PERCENT: f64 = 80.0;
/// One a minute is taken.
const LOOKS_MIN: i64 = 10;
/// What a tenant that left has relieved is only seen when a day of the others is known.
const RELIEVED_WITHIN: SignedDuration = SignedDuration::from_hours(24);
/// Moves that are looked through for one that left a cell lately.
const MOVES_LOOKED_AT: i64 = 500;

/// How the tenant was served since yesterday, or since it came to its cell: what was slow where it lived before says nothing
/// of where it is. By the edges' counters and its cell's members. Of processors that have no
/// time left only the busiest tenant of the cell hears: the others would carry the trouble elsewhere and leave it here.
pub(crate) async fn of(app: &App, tenant: &Tenant, profile: &Profile, now: Timestamp) -> Result<Served, ControlError> {
    let yesterday = now.checked_sub(SignedDuration::from_hours(24)).unwrap_or(now);
    let moves = app.store().move_list(Some(tenant.id), 20).await?;
    let came = moves.iter().find(|known| known.outcome == Some(MoveOutcome::Moved)).and_then(|known| known.ended_at);
    // The hour of the move is of both cells.
    let since = came.map_or(yesterday, |came| came.max(yesterday));
    let rows = app.store().usage_list(tenant.id, UsagePeriod::Hour, since, now).await?;
    let rows: Vec<_> = rows.into_iter().filter(|row| row.starts_at >= since).collect();
    let sum = |metric: &str| {
        rows.iter().filter(|row| row.metric == metric).map(|row| u64::try_from(row.total).unwrap_or(0)).sum::<u64>()
    };
    let (requests, failed, time_us) = (sum("requests"), sum("failed_requests"), sum("request_time_us"));
    let per_request = |of: u64| (requests > 0).then(|| of as f64 / requests as f64);
    let mut cpu_share = loads(app, Some(tenant.cell), now).await?.get(&tenant.cell).and_then(|load| load.0);
    if cpu_share.is_some_and(|share| share * 100.0 > BUSY_PERCENT) {
        let busiest = app.store().usage_busiest(tenant.cell, "request_time_us", yesterday).await?;
        cpu_share = cpu_share.filter(|_| busiest.is_none_or(|busiest| busiest == tenant.id));
    }
    Ok(Served {
        requests,
        response_ms: per_request(time_us).map(|us| us / 1000.0),
        error_share: per_request(failed),
        cpu_share,
        wanted_ms: profile.latency_ms.map(|ms| ms as f64),
    })
}

/// What a cell's members use of what they are promised, as shares: of the processors and of the memory.
pub(crate) type Load = (Option<f64>, Option<f64>);

/// Of the running hour and the one before. Absent after fewer looks than a share is made of: a start or a busy minute is
/// no reason to move anybody.
pub(crate) async fn loads(
    app: &App,
    cell: Option<CellId>,
    now: Timestamp,
) -> Result<HashMap<CellId, Load>, ControlError> {
    let hour = period_start(UsagePeriod::Hour, now);
    let since = hour.checked_sub(SignedDuration::from_hours(1)).unwrap_or(hour);
    let share = |used: i64, of: i64| (of > 0).then(|| used as f64 / of as f64);
    let used = app.store().cell_use(cell, since).await?.into_iter().filter(|used| used.looks >= LOOKS_MIN);
    let of = |used: CellUse| {
        (used.cell, (share(used.cpu_millis, used.cpu_promised), share(used.memory_bytes, used.memory_promised)))
    };
    Ok(used.map(of).collect())
}

/// What the tenant takes at its busiest, as its application counts it, into a profile that asks for less. Asked for only
/// where its own cell is known to give less: a place of which nobody said what it gives is refused to whoever asks.
pub(crate) async fn add_needs(
    app: &App,
    engine: &Engine,
    tenant: &Tenant,
    profile: &mut Profile,
    now: Timestamp,
) -> Result<(), ControlError> {
    let week_ago = now.checked_sub(SignedDuration::from_hours(24 * judge::PEAK_DAYS)).unwrap_or(now);
    let rows = app.store().usage_list(tenant.id, UsagePeriod::Hour, week_ago, now).await?;
    let most = |metric: &str| {
        let of = rows.iter().filter(|row| row.metric == metric).map(|row| row.greatest);
        of.max().and_then(|most| u64::try_from(most).ok())
    };
    let (per_second, users) = (most(THROUGHPUT), most(USERS));
    let (asks_throughput, asks_users) = engine.gives_less(tenant.cell_name.as_str(), per_second, users);
    if asks_throughput {
        profile.throughput_per_s = profile.throughput_per_s.max(per_second);
    }
    if asks_users {
        profile.users = profile.users.max(users);
    }
    Ok(())
}

/// The most users at once that an application reported within the days of a peak.
pub(crate) async fn most_users(app: &App, tenant: TenantId, now: Timestamp) -> Result<Option<u64>, ControlError> {
    let week_ago = now.checked_sub(SignedDuration::from_hours(24 * judge::PEAK_DAYS)).unwrap_or(now);
    let rows = app.store().usage_list(tenant, UsagePeriod::Hour, week_ago, now).await?;
    let users = rows.iter().filter(|row| row.metric == USERS).map(|row| row.greatest).max();
    Ok(users.and_then(|users| u64::try_from(users).ok()))
}

/// Cells where a tenant would be served no better than in its own: its own first, and those that are as busy.
pub(crate) async fn no_answer(app: &App, tenant: &Tenant, now: Timestamp) -> Result<Vec<String>, ControlError> {
    let loads = loads(app, None, now).await?;
    let busy =
        |cell: CellId| loads.get(&cell).and_then(|load| load.0).is_some_and(|share| share * 100.0 > BUSY_PERCENT);
    let cells = app.store().cell_list().await?;
    let busy = cells.iter().filter(|cell| cell.id != tenant.cell && busy(cell.id)).map(|cell| cell.name.to_string());
    Ok(std::iter::once(tenant.cell_name.to_string()).chain(busy).collect())
}

/// Whether another tenant is leaving this cell, or left it within a day: one at a time, or a slow day would empty it.
pub(crate) async fn is_relieved(app: &App, tenant: &Tenant, now: Timestamp) -> Result<bool, ControlError> {
    use berth_domain::ApprovalState::{Approved, Open};
    for state in [Open, Approved] {
        let filter = ApprovalFilter { state: Some(state), ..ApprovalFilter::default() };
        for other in app.store().approval_list(&filter, 1000).await? {
            let from: Place = serde_json::from_value(other.place_now)?;
            let to: Place = serde_json::from_value(other.place_then)?;
            // One that nobody answers holds nobody else back.
            let lately = state == Approved || now.duration_since(other.made_at) < RELIEVED_WITHIN;
            if other.tenant != tenant.id
                && lately
                && from.cell.as_deref() == Some(tenant.cell_name.as_str())
                && from.cell != to.cell
            {
                return Ok(true);
            }
        }
    }
    let moves = app.store().move_list(None, MOVES_LOOKED_AT).await?;
    Ok(moves.iter().any(|known| {
        let lately = known.ended_at.is_none_or(|ended| now.duration_since(ended) < RELIEVED_WITHIN);
        let left = known.outcome.is_none_or(|outcome| outcome == MoveOutcome::Moved);
        known.tenant != tenant.id && known.source == tenant.cell_name && lately && left
    }))
}
