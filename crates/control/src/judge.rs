//! What is thought of a tenant by what it uses: its signals, its issues, and where it should be instead.
//!
//! `berth_usage` says when something is worth saying, the placement engine where a tenant belongs. A judgement stores
//! what it found and, where a person or the stack file's rule has to agree, a proposal; it never moves anybody.

use crate::{App, ControlError, decide, served, usage};
use berth_config::UsageRules;
use berth_domain::{ApprovalId, ApprovalState, Cents, TenantState, UsagePeriod};
use berth_placement::{Decision, Engine, Leaving, Profile, Refusal, TRAFFIC};
use berth_store::{Approval, ApprovalFilter, MoveOutcome, NewApproval, Tenant, UsageRow};
use berth_usage::{
    Agreed, Asked, Caution, Direction, Issue, Place, Quota, Signal, Thresholds, agreed, caution, performance,
    period_start, propose,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Usage is judged by the highest of this many days: a quiet Sunday says nothing about a plan.
pub(crate) const PEAK_DAYS: i64 = 7;
/// A proposal that a person rejected is not made again for this long.
const REJECTED_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What a tenant was found to need when it was judged: what was measured, with room.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Needs {
    quantities: BTreeMap<String, u64>,
    users: Option<u64>,
    throughput_per_s: Option<u64>,
}

impl Needs {
    /// As a single decision has it: a measured quantity in place of a stated one, of the rest whatever is more.
    pub fn add_to(self, profile: &mut Profile) {
        profile.quantities.extend(self.quantities);
        profile.users = profile.users.max(self.users);
        profile.throughput_per_s = profile.throughput_per_s.max(self.throughput_per_s);
    }
}

/// What usage says of one tenant now.
pub(crate) struct Standing {
    pub signals: BTreeMap<String, Signal>,
    /// Of all quotas together.
    pub signal: Signal,
    /// The highest use of each quantity that is known.
    pub peaks: BTreeMap<String, u64>,
    /// Those that the signal rests on, for people.
    pub says: Vec<String>,
}

pub(crate) fn thresholds(rules: &UsageRules) -> Thresholds {
    Thresholds {
        upgrade_at_percent: rules.upgrade_at_percent,
        downgrade_below_percent: rules.downgrade_below_percent,
        band_percent: rules.band_percent,
    }
}

/// The tenant's signals by what it used, going on from those of the judgement before.
pub(crate) async fn standing(
    app: &App,
    rules: &UsageRules,
    tenant: &Tenant,
    now: Timestamp,
) -> Result<Standing, ControlError> {
    let before = signals_before(app, tenant).await?.unwrap_or_default();
    let limits = usage::limits_of(app, tenant).await?;
    let days = usage::days_of(app, tenant.id, now).await?;
    let week_ago = now.checked_sub(SignedDuration::from_hours(24 * PEAK_DAYS)).unwrap_or(now);
    let at = thresholds(rules);
    // What is low since this morning is not low: a week of the tenant's life has to be known.
    let young = tenant.created_at > week_ago;
    let mut found =
        Standing { signals: BTreeMap::new(), signal: Signal::Calm, peaks: BTreeMap::new(), says: Vec::new() };
    for (quantity, limit) in &limits.quantities {
        let Some(peak) = peak(app, tenant, &Quota::of(quantity), &days, week_ago, now).await? else { continue };
        let signal = match before.get(quantity).copied().unwrap_or_default().after(peak, *limit, &at) {
            Signal::Under if young => Signal::Calm,
            signal => signal,
        };
        let percent = (u128::from(peak) * 100).checked_div(u128::from(*limit));
        let share = percent.map_or_else(|| "a limit of 0".to_owned(), |percent| format!("{percent} % of {limit}"));
        match signal {
            Signal::Over => found.says.push(format!("{quantity} stands at {peak}, {share}")),
            Signal::Under => found.says.push(format!("{quantity} stands at {peak}, only {share}")),
            Signal::Calm => {}
        }
        found.signals.insert(quantity.clone(), signal);
        found.peaks.insert(quantity.clone(), peak);
    }
    found.signal = Signal::of_all(found.signals.values().copied());
    Ok(found)
}

/// The signals of the judgement before; none where there is none, or it was made on another plan: against other limits
/// nothing of it goes on.
pub(crate) async fn signals_before(
    app: &App,
    tenant: &Tenant,
) -> Result<Option<BTreeMap<String, Signal>>, ControlError> {
    let judged = app.store().judgement(tenant.id).await?;
    let judged =
        judged.filter(|j| j.judgement.get("plan").and_then(|plan| plan.as_str()) == Some(tenant.plan.as_str()));
    Ok(judged.and_then(|judged| serde_json::from_value(judged.signals).ok()))
}

async fn peak(
    app: &App,
    tenant: &Tenant,
    quota: &Quota,
    days: &[UsageRow],
    week_ago: Timestamp,
    now: Timestamp,
) -> Result<Option<u64>, ControlError> {
    let own = |rows: &[UsageRow], from: Timestamp| {
        let of = rows.iter().filter(|row| row.metric == quota.metric && row.starts_at >= from);
        of.map(|row| u64::try_from(row.total).unwrap_or(0)).max()
    };
    let ever = days.iter().any(|row| row.metric == quota.metric);
    let most = match quota.period {
        None => days.iter().rfind(|row| row.metric == quota.metric).map(|row| u64::try_from(row.latest).unwrap_or(0)),
        Some(UsagePeriod::Day) => own(days, period_start(UsagePeriod::Day, week_ago)),
        Some(UsagePeriod::Hour) => {
            own(&app.store().usage_list(tenant.id, UsagePeriod::Hour, week_ago, now).await?, week_ago)
        }
        // The month before counts too: at its beginning every month is low.
        Some(UsagePeriod::Month) => {
            let month = period_start(UsagePeriod::Month, now);
            let from =
                period_start(UsagePeriod::Month, month.checked_sub(SignedDuration::from_hours(1)).unwrap_or(month));
            own(&app.store().usage_list(tenant.id, UsagePeriod::Month, from, now).await?, from)
        }
    };
    Ok(most.or_else(|| (ever && quota.period.is_some()).then_some(0)))
}

/// Judges one tenant and stores what was found. Answers the approval that the stack file's rule agreed to, if any.
pub(crate) async fn judge(
    app: &App,
    engine: &Engine,
    rules: &UsageRules,
    tenant: &Tenant,
) -> Result<Option<ApprovalId>, ControlError> {
    let now = Timestamp::now();
    let standing = standing(app, rules, tenant, now).await?;
    let profile = measured(app, engine, tenant, &standing, rules, now).await?;
    let mut decision = engine.decide(tenant.name.as_str(), &profile, decide::SEED).map_err(ControlError::BadProfile)?;
    let (mut issues, must_leave) = (broken(&decision, tenant), must_leave(&decision, tenant));
    let mut waits = None;
    if let Some(slow) = performance(&served::of(app, tenant, &profile, now).await?) {
        if served::is_relieved(app, tenant, now).await? {
            waits = Some("another tenant leaves its cell first: what that changes is known in a day");
        } else {
            issues.push(slow);
        }
    }
    if issues.iter().any(|issue| matches!(issue, Issue::Performance { .. })) {
        decision = elsewhere(app, engine, tenant, &profile, &issues).await?.unwrap_or(decision);
    }
    let price = |plan: &str| engine.plans().iter().find(|known| known.name == plan).map(|known| known.price_cents);
    let place_now = Place {
        plan: tenant.plan.to_string(),
        class: tenant.cell_class,
        cell: Some(tenant.cell_name.to_string()),
        // A plan that has left the stack file is on sale no more: every other one is as good.
        price_cents: price(tenant.plan.as_str()).unwrap_or(Cents::new(0)),
    };
    let then = |decision: &Decision| {
        let (class, plan) = (decision.class?, decision.plan.clone()?);
        Some(Place { class, cell: decision.cell.clone(), price_cents: price(&plan)?, plan })
    };
    let wanted = then(&decision);
    let direction = wanted.as_ref().and_then(|wanted| propose(&place_now, wanted, standing.signal, &issues));
    let says = match (&wanted, direction) {
        (None, _) => "no plan and place meets what it needs: `berth decide` says what each lacks".to_owned(),
        (Some(_), None) => match (waits, issues.is_empty()) {
            (Some(waits), _) => waits.to_owned(),
            (None, true) => "it is where it belongs".to_owned(),
            (None, false) => "no other place would serve it better".to_owned(),
        },
        (Some(wanted), Some(direction)) => {
            let cell = wanted.cell.as_deref().unwrap_or("a new cell");
            format!("{}: plan {} in {cell} ({})", direction.as_str(), wanted.plan, wanted.class)
        }
    };
    let issue_words = words(&issues);
    let mut tx = app.store().begin().await?;
    let mut quantities = profile.quantities;
    quantities.retain(|quantity, _| standing.peaks.contains_key(quantity));
    let needs = Needs { quantities, users: profile.users, throughput_per_s: profile.throughput_per_s };
    let judgement = json!({ "says": says, "issues": issue_words, "plan": tenant.plan, "needs": needs });
    tx.judgement_store(tenant.id, &serde_json::to_value(&standing.signals)?, &judgement).await?;
    tx.commit().await?;
    match (wanted, direction) {
        (Some(wanted), Some(direction)) => {
            let mut because = standing.says;
            because.extend(issue_words);
            let budget = profile.budget_cents.and_then(|cents| i64::try_from(cents).ok()).map(Cents::new);
            let caution = caution(direction, &wanted, standing.signal, &issues, budget);
            let found = Found { issues, must_leave, caution };
            put(app, rules, tenant, place_now, wanted, direction, decision, because, found, now).await
        }
        _ => {
            withdraw(app, tenant, "usage no longer asks for it").await?;
            Ok(None)
        }
    }
}

/// Where a tenant that is served badly would be served better, on its plan or a dearer one. `None`: nowhere.
async fn elsewhere(
    app: &App,
    engine: &Engine,
    tenant: &Tenant,
    profile: &Profile,
    issues: &[Issue],
) -> Result<Option<Decision>, ControlError> {
    let cells = served::no_answer(app, tenant, Timestamp::now()).await?;
    let says = words(issues).join("; ");
    let leaving = Leaving { cells: &cells, plan: tenant.plan.as_str(), because: &says };
    let decision = engine.decide_elsewhere(tenant.name.as_str(), profile, &leaving, decide::SEED);
    Ok(Some(decision.map_err(ControlError::BadProfile)?).filter(|decision| decision.class.is_some()))
}

fn words(issues: &[Issue]) -> Vec<String> {
    let words = issues.iter().map(|issue| match issue {
        Issue::Performance { says } | Issue::Compliance { says } => says.clone(),
    });
    words.collect()
}

/// What the tenant needs by its profile and by what it used: who asks is answered by the same that it is judged by.
pub(crate) async fn profile(app: &App, engine: &Engine, tenant: &Tenant) -> Result<Profile, ControlError> {
    let (in_force, now) = (app.stack().await?, Timestamp::now());
    let rules = &in_force.stack.usage;
    let standing = standing(app, rules, tenant, now).await?;
    measured(app, engine, tenant, &standing, rules, now).await
}

/// The tenant's profile with what was measured, each quantity with room to the threshold.
async fn measured(
    app: &App,
    engine: &Engine,
    tenant: &Tenant,
    standing: &Standing,
    rules: &UsageRules,
    now: Timestamp,
) -> Result<Profile, ControlError> {
    let mut profile = decide::needs_of(&app.stack().await?.stack, tenant)?;
    profile.sent_bytes = standing.peaks.get(TRAFFIC).copied();
    let at = thresholds(rules);
    let days = usage::days_of(app, tenant.id, now).await?;
    for (quantity, peak) in &standing.peaks {
        let room = if standing.signal == Signal::Under { at.with_room_below(*peak) } else { at.with_room(*peak) };
        profile.quantities.insert(quantity.clone(), room);
        if let Some((_, line)) = usage::line(&days, &Quota::of(quantity), now) {
            profile.forecast_error_percent.insert(quantity.clone(), line.error_percent(usage::day_number(now)));
        }
    }
    served::add_needs(app, engine, tenant, &mut profile, now).await?;
    Ok(profile)
}

/// Whether its own place breaks what nobody may agree to go without: that is proposed again, whoever rejected it.
fn must_leave(decision: &Decision, tenant: &Tenant) -> bool {
    let must = |refused: &Refusal| matches!(refused.constraint.as_str(), "compliance" | "residency" | "regions");
    decision.refused.iter().any(|refused| is_here(refused, tenant) && must(refused))
}

fn is_here(refused: &Refusal, tenant: &Tenant) -> bool {
    refused.cell.as_deref() == Some(tenant.cell_name.as_str())
        || (refused.class.as_deref() == Some(tenant.cell_class.as_str()) && refused.constraint == "compliance")
}

/// Hard constraints that the tenant's own place breaks.
fn broken(decision: &Decision, tenant: &Tenant) -> Vec<Issue> {
    // A dearer plan's promise is not broken by the cell of the plan that it has.
    let on_its_plan = decision.plan.as_deref() == Some(tenant.plan.as_str());
    let issue = |refused: &Refusal| {
        let says = format!("{}: it needs {}, its place has {}", refused.constraint, refused.wanted, refused.has);
        match refused.constraint.as_str() {
            "compliance" | "residency" | "region" | "regions" => Some(Issue::Compliance { says }),
            "shape" if on_its_plan => Some(Issue::Compliance { says }),
            "latency_ms" | "throughput_per_s" | "users" => Some(Issue::Performance { says }),
            _ => None,
        }
    };
    decision.refused.iter().filter(|refused| is_here(refused, tenant)).filter_map(issue).collect()
}

/// What a proposal rests on.
struct Found {
    issues: Vec<Issue>,
    must_leave: bool,
    caution: Option<Caution>,
}

/// Puts a proposal in the inbox, in place of one that says something else.
#[expect(clippy::too_many_arguments, reason = "everything that one row holds")]
async fn put(
    app: &App,
    rules: &UsageRules,
    tenant: &Tenant,
    now_at: Place,
    then: Place,
    direction: Direction,
    decision: Decision,
    mut because: Vec<String>,
    found: Found,
    now: Timestamp,
) -> Result<Option<ApprovalId>, ControlError> {
    let under_way = app.store().approval_under_way(tenant.id).await?;
    // What it has to meet is another question than how it is served, also where the answer looks the same.
    let broken = found.issues.iter().any(|issue| matches!(issue, Issue::Compliance { .. }));
    let known = |known: &Approval| is_same(known, &then) && (!broken || same_cell(known, &then));
    if under_way.as_ref().is_some_and(|it| it.state == ApprovalState::Approved || known(it)) {
        return Ok(None);
    }
    if !found.must_leave && rejected_lately(app, tenant, &then, now).await? {
        return Ok(None);
    }
    let moves = app.store().move_list(Some(tenant.id), 20).await?;
    let came = moves.iter().find(|known| known.outcome == Some(MoveOutcome::Moved)).and_then(|known| known.ended_at);
    let asked = Asked {
        confidence: decision.confidence,
        has_issue: !found.issues.is_empty(),
        caution: found.caution,
        days_here: now.duration_since(came.unwrap_or(tenant.created_at)).as_hours() / 24,
        automatic: rules.automatic,
        last_unattended: app.store().approval_last_unattended(tenant.id).await?,
    };
    let unattended = match agreed(&asked, now) {
        Agreed::Alone { because: rule } => {
            because.push(rule);
            true
        }
        Agreed::Ask { because: rule } => {
            because.push(format!("a person is asked: {rule}"));
            false
        }
    };
    withdraw(app, tenant, "a newer judgement says something else").await?;
    let new = NewApproval {
        id: ApprovalId::new(Uuid::now_v7()),
        tenant: tenant.id,
        direction: direction.as_str(),
        place_now: serde_json::to_value(&now_at)?,
        place_then: serde_json::to_value(&then)?,
        confidence: decision.confidence,
        decision: serde_json::to_value(decision)?,
        because: json!(because),
        unattended,
        days: i32::try_from(rules.approval_days).unwrap_or(i32::MAX),
    };
    let mut tx = app.store().begin().await?;
    let put = tx.approval_insert(&new).await?;
    if put {
        let permit = crate::Caller::berth().may(crate::Change)?;
        let after = json!({ "approval": new.id, "direction": new.direction, "then": new.place_then });
        let action = if unattended { "approval.agree_alone" } else { "approval.ask" };
        crate::audited(&mut tx, &permit, action, &format!("tenant/{}", tenant.name), None, Some(after)).await?;
    }
    tx.commit().await?;
    Ok((put && unattended).then_some(new.id))
}

fn same_cell(known: &Approval, then: &Place) -> bool {
    serde_json::from_value::<Place>(known.place_then.clone()).is_ok_and(|place| place.cell == then.cell)
}

/// Whichever cell of that kind: a fleet that fills up must not make a new question of an old one every day.
fn is_same(known: &Approval, then: &Place) -> bool {
    serde_json::from_value::<Place>(known.place_then.clone())
        .is_ok_and(|place| (place.plan, place.class) == (then.plan.clone(), then.class))
}

async fn rejected_lately(app: &App, tenant: &Tenant, then: &Place, now: Timestamp) -> Result<bool, ControlError> {
    let filter = ApprovalFilter { tenant: Some(tenant.id), state: Some(ApprovalState::Rejected), id: None };
    let rejected = app.store().approval_list(&filter, 20).await?;
    let lately = |known: &Approval| known.decided_at.is_some_and(|at| now.duration_since(at) < REJECTED_FOR);
    Ok(rejected.iter().any(|known| lately(known) && is_same(known, then)))
}

/// Ends a proposal that still waits: it no longer says what is so.
async fn withdraw(app: &App, tenant: &Tenant, reason: &str) -> Result<(), ControlError> {
    let Some(known) = app.store().approval_under_way(tenant.id).await? else { return Ok(()) };
    // What a person agreed to stands until it ends; what the rule agreed to holds as long as its reason.
    if known.state != ApprovalState::Open && !known.unattended {
        return Ok(());
    }
    let mut tx = app.store().begin().await?;
    match tx.approval_turn(known.id, known.state, ApprovalState::Superseded, None, Some(reason)).await {
        Ok(()) => Ok(tx.commit().await?),
        // Somebody decided about it this very moment.
        Err(berth_store::StoreError::Stale(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A tenant that is served and can be judged.
pub(crate) fn is_judged(tenant: &Tenant) -> bool {
    tenant.state == TenantState::Active
}
