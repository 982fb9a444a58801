//! `/tenants/{tenant}`: who, on which plan, where, in which state; and what can be done about it.
//!
//! Whatever moves rows or takes a tenant away is asked for on a page that shows its plan first.

use super::{
    audit::AuditRow,
    decisions::DecisionShown,
    failure::{Failure, html},
    inner::escaped,
    operations::OperationRow,
    session::{Change, Session},
    shown::{Frame, State, When, bytes, count, millis, money, or_unknown, seconds, state, tenant_state},
};
use askama::Template;
use axum::{
    extract::{Path, Query},
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};
use berth_domain::{CellClass, CellState, OperationId, OperationState, TenantState, WayBackState};
use berth_wire::{
    Approval, Archive, AuditEntry, Cell, Decision, Move, MoveBlocker, MovePlan, MoveUnsure, Operation, Page, PlanView,
    QuotaOutlook, Tenant, TenantCreate, TenantMove, TenantUsage,
};
use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

/// How many plans or cells a page goes through.
const SHOWN: usize = 2000;

/// What can still be done about the last move.
struct LastMove {
    from: String,
    what: String,
    trouble: String,
}

impl LastMove {
    fn of(last: &Move) -> Option<(WayBackState, Self)> {
        let way = last.way_back.as_ref()?;
        let what = match way.state {
            WayBackState::Open => {
                let behind = way.bytes_behind.map(|n| format!(", {} behind", bytes(n))).unwrap_or_default();
                format!("it can be undone until {}{behind}", way.until.strftime("%Y-%m-%d %H:%M UTC"))
            }
            WayBackState::Undoing => "it is being undone".to_owned(),
            WayBackState::Closing => "it cannot be undone any more; the rows left there are being removed".to_owned(),
            WayBackState::Undone | WayBackState::Closed => return None,
        };
        let trouble = way.trouble.clone().unwrap_or_default();
        Some((way.state, Self { from: last.from.to_string(), what, trouble }))
    }
}

#[derive(Template)]
#[template(path = "pages/tenant.html")]
struct TenantPage {
    frame: Frame,
    name: String,
    id: String,
    key: String,
    state: State,
    plan: String,
    price: String,
    limits: Vec<(String, String)>,
    cell: Option<String>,
    why_here: String,
    decision: Option<DecisionShown>,
    mode: String,
    generation: u64,
    hosts: Vec<String>,
    allow: Vec<String>,
    operation: Option<String>,
    created: When,
    may_move: bool,
    way_back: Option<LastMove>,
    may_undo: bool,
    may_suspend: bool,
    may_resume: bool,
    may_delete: bool,
    operations: Vec<OperationRow>,
    trail: Vec<AuditRow>,
    archives: Vec<ArchiveRow>,
    /// Exports, imports and what was brought back, that are under way or came to no good end.
    files: Vec<OperationRow>,
    quotas: Vec<QuotaRow>,
    usage_says: String,
    usage_issues: Vec<String>,
    judged: Option<When>,
    approval: Option<String>,
    /// Of today, by the edges.
    carried: Vec<(String, String)>,
}

/// A quantity of the plan against what is used of it.
struct QuotaRow {
    what: String,
    used: String,
    limit: String,
    /// For the bar, never above 100, and in words.
    share: Option<(u64, String)>,
    signal: State,
    again: String,
    over: String,
}

impl QuotaRow {
    fn new(outlook: &QuotaOutlook) -> Self {
        let quota = &outlook.quota;
        let share = quota.used.and_then(|used| (u128::from(used) * 100).checked_div(u128::from(quota.limit)));
        let day = |days: Option<u32>| days.map_or_else(|| "never".to_owned(), |days| format!("{days}\u{a0}d"));
        let over = outlook.forecast.as_ref().map_or_else(
            || "?".to_owned(),
            |forecast| match (forecast.over_in_days, forecast.over_earliest_days) {
                (None, None) => "not within 2 years".to_owned(),
                (expected, earliest) => {
                    format!("in {} ({} to {})", day(expected), day(earliest), day(forecast.over_latest_days))
                }
            },
        );
        Self {
            what: quota.quantity.replace('_', " "),
            used: or_unknown(quota.used, count),
            limit: count(quota.limit),
            share: share.map(|share| (u64::try_from(share.min(100)).unwrap_or(100), format!("{share}\u{a0}%"))),
            signal: match outlook.signal.as_str() {
                _ if quota.used.is_none() => state("unknown", "off"),
                "over" => state("nearly used up", "bad"),
                "under" => state("hardly used", "off"),
                _ => state("calm", "good"),
            },
            again: quota.resets_at.map(|at| at.strftime("%m-%d %H:%M UTC").to_string()).unwrap_or_default(),
            over,
        }
    }
}

/// What edges carried for the tenant today.
fn carried(usage: &TenantUsage) -> Vec<(String, String)> {
    let day = usage.usage.iter().map(|row| row.starts_at).max();
    let total = |metric: &str| {
        usage.usage.iter().find(|row| row.metric == metric && Some(row.starts_at) == day).map(|row| row.total)
    };
    let mut rows = Vec::new();
    if let Some(requests) = total("requests") {
        rows.push(("requests today".to_owned(), count(requests)));
        let mean = total("request_time_us").map(|us| us as f64 / 1000.0 / requests.max(1) as f64);
        rows.push(("answered in, on average".to_owned(), or_unknown(mean, millis)));
        rows.push(("failed".to_owned(), count(total("failed_requests").unwrap_or(0))));
        rows.push(("refused by limits".to_owned(), count(total("limited_requests").unwrap_or(0))));
        rows.push(("received".to_owned(), bytes(total("received_bytes").unwrap_or(0))));
        rows.push(("sent".to_owned(), bytes(total("sent_bytes").unwrap_or(0))));
    }
    rows
}

struct ArchiveRow {
    id: String,
    /// As they are called, and where they are.
    files: Vec<(String, String)>,
    made: When,
    state: State,
    holds: String,
    rows: String,
    /// As CSV, before it was compressed.
    size: String,
}

/// `GET /tenants/{tenant}`
pub async fn one(session: Session, Path(name): Path<String>) -> Result<Response, Failure> {
    let tenant: Tenant = session.get(&format!("/v1/tenants/{}", escaped(&name))).await?;
    let of = escaped(tenant.name.as_str());
    // A plan may be gone from the stack file while tenants are still on it.
    let plan: Option<PlanView> = may_be_absent(session.get(&format!("/v1/plans/{}", tenant.plan)).await)?;
    let cell: Option<Cell> = match &tenant.cell {
        Some(cell) => may_be_absent(session.get(&format!("/v1/cells/{cell}")).await)?,
        None => None,
    };
    let decision: Option<Decision> = may_be_absent(session.get(&format!("/v1/tenants/{of}/decision")).await)?;
    let usage: Option<TenantUsage> = may_be_absent(session.get(&format!("/v1/tenants/{of}/usage")).await)?;
    let waits: Option<Page<Approval>> =
        may_be_absent(session.get(&format!("/v1/approvals?state=open&tenant={of}")).await)?;
    let operations: Vec<Operation> = session.list(&format!("/v1/operations?tenant={of}"), 20).await?;
    let trail: Vec<AuditEntry> =
        may_be_absent(session.list(&format!("/v1/audit?tenant={of}"), 20).await)?.unwrap_or_default();
    let moves: Vec<Move> = session.list(&format!("/v1/moves?tenant={of}"), 20).await?;
    // Their place may be out of reach; the page is not.
    let archives: Page<Archive> =
        session.get(&format!("/v1/tenants/{of}/archives")).await.unwrap_or_else(|_| Page::whole(Vec::new()));
    let (way_state, way_back) = moves.iter().find_map(LastMove::of).unzip();
    let now = Timestamp::now();
    let active = tenant.state == TenantState::Active;
    html(&TenantPage {
        frame: Frame::of(&session, "tenants"),
        name: tenant.name.to_string(),
        id: tenant.id.to_string(),
        key: or_unknown(tenant.key.as_ref(), ToString::to_string),
        state: tenant_state(tenant.state),
        price: or_unknown(plan.as_ref(), |plan| money(plan.price_cents)),
        limits: limits(plan.as_ref(), &tenant),
        decision: decision.map(|decision| DecisionShown::of(&decision)),
        why_here: why_here(plan.as_ref(), cell.as_ref()),
        quotas: usage.iter().flat_map(|usage| &usage.quotas).map(QuotaRow::new).collect(),
        usage_says: usage.as_ref().and_then(|usage| usage.says.clone()).unwrap_or_default(),
        usage_issues: usage.as_ref().map(|usage| usage.issues.clone()).unwrap_or_default(),
        judged: usage.as_ref().and_then(|usage| usage.judged_at).map(|at| When::new(at, now)),
        approval: waits.and_then(|waits| Some(waits.items.first()?.id.to_string())),
        carried: usage.as_ref().map(carried).unwrap_or_default(),
        plan: tenant.plan.to_string(),
        cell: tenant.cell.as_ref().map(ToString::to_string),
        mode: or_unknown(tenant.mode, |mode| mode.to_string().replace('_', " ")),
        generation: tenant.generation.get(),
        hosts: tenant.routed(),
        allow: tenant.allow.iter().map(ToString::to_string).collect(),
        operation: tenant.operation.map(|id| id.to_string()),
        created: When::new(tenant.created_at, now),
        may_move: active,
        may_undo: active && way_state == Some(WayBackState::Open),
        way_back,
        may_suspend: active,
        may_resume: tenant.state == TenantState::Suspended,
        may_delete: matches!(tenant.state, TenantState::Active | TenantState::Suspended | TenantState::Failed),
        operations: operations.iter().map(|operation| OperationRow::new(operation, now)).collect(),
        files: operations.iter().filter(|it| is_about_files(it)).map(|it| OperationRow::new(it, now)).collect(),
        trail: trail.iter().map(|entry| AuditRow::new(entry, now)).collect(),
        archives: archives
            .items
            .iter()
            .map(|archive| ArchiveRow {
                id: archive.id.to_string(),
                files: archive
                    .files
                    .iter()
                    .map(|file| (file.clone(), format!("/tenants/{of}/archives/{}/{}", archive.id, escaped(file))))
                    .collect(),
                made: When::new(archive.made_at, now),
                // Its manifest is written last, and what has none is not listed.
                state: state("complete", "good"),
                holds: archive.contents.replace('_', " "),
                rows: count(archive.rows),
                size: bytes(archive.tables.iter().map(|table| table.bytes).sum()),
            })
            .collect(),
    })
}

/// Of one that succeeded, the archive itself is listed.
fn is_about_files(operation: &Operation) -> bool {
    let kinds = ["export_tenant", "restore_archive", "import_tenant", "erase_tenant"];
    operation.state != OperationState::Succeeded && kinds.contains(&operation.kind.as_str())
}

/// For what a page can do without: missing, or not shown to this key.
fn may_be_absent<T: DeserializeOwned>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(it) => Ok(Some(it)),
        Err(Failure::Refused(problem)) if matches!(problem.status, 403 | 404) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Its plan's, and where it has its own those.
fn limits(plan: Option<&PlanView>, tenant: &Tenant) -> Vec<(String, String)> {
    let own = &tenant.own_limits;
    let limits = plan.map(|plan| plan.limits.clone()).unwrap_or_default().with(own);
    let whose = |own: bool, text: String| if own { format!("{text}, its own") } else { text };
    let mut rows: Vec<(String, String)> = Vec::new();
    rows.extend(limits.quantities.iter().map(|(name, most)| (name.replace('_', " "), count(*most))));
    rows.extend(limits.requests_per_minute.iter().map(|(class, most)| {
        let text = whose(own.requests_per_minute.contains_key(class), count(*most));
        (format!("{class} requests per minute"), text)
    }));
    rows.extend(limits.body_bytes.map(|n| ("request body".to_owned(), whose(own.body_bytes.is_some(), bytes(n)))));
    rows.extend(limits.retention_days.map(|days| ("history".to_owned(), format!("{days} days"))));
    rows
}

fn why_here(plan: Option<&PlanView>, cell: Option<&Cell>) -> String {
    let (Some(plan), Some(cell)) = (plan, cell) else { return String::new() };
    if plan.class == cell.class {
        return format!("the plan {} belongs in a {} cell, and this is one", plan.name, cell.class);
    }
    let way = if plan.class == CellClass::Dedicated {
        "a move would give it a cell of its own"
    } else {
        "a move would bring it there"
    };
    format!("the plan {} belongs in a {} cell, this one is {}: {way}", plan.name, plan.class, cell.class)
}

#[derive(Template)]
#[template(path = "pages/tenant_new.html")]
struct NewPage {
    frame: Frame,
    plans: Vec<String>,
}

/// `GET /tenants/new`
pub async fn new(session: Session) -> Result<Response, Failure> {
    let plans: Vec<PlanView> = session.list("/v1/plans", SHOWN).await?;
    let plans = plans.iter().map(|plan| plan.name.to_string()).collect();
    html(&NewPage { frame: Frame::of(&session, "tenants"), plans })
}

/// `POST /tenants`
pub async fn create(change: Change) -> Result<Response, Failure> {
    let hosts = change.field("hosts").unwrap_or_default().split([',', ' ']).filter(|host| !host.is_empty());
    let body = TenantCreate {
        name: typed(&change, "name", "a name, as in `acme`")?,
        plan: typed(&change, "plan", "a plan of the stack file")?,
        hosts: hosts
            .map(|host| host.parse().map_err(|bad| field(&bad, "for example `acme.example.com`")))
            .collect::<Result<_, Failure>>()?,
        key: None,
        cell: None,
        profile: None,
    };
    let operation: Operation = change.session.send(Method::POST, "/v1/tenants", &body, &change.once()).await?;
    Ok(follow(&operation))
}

/// A field of a form as the type it has to be.
pub fn typed<T: std::str::FromStr>(change: &Change, name: &str, wanted: &str) -> Result<T, Failure>
where
    T::Err: std::fmt::Display,
{
    let missing = || Failure::Field { detail: format!("`{name}` is empty"), hint: format!("it takes {wanted}") };
    change.field(name).ok_or_else(missing)?.parse().map_err(|bad| field(&bad, &format!("`{name}` takes {wanted}")))
}

fn field(detail: &dyn std::fmt::Display, hint: &str) -> Failure {
    Failure::Field { detail: detail.to_string(), hint: hint.to_owned() }
}

pub fn follow(operation: &Operation) -> Response {
    Redirect::to(&format!("/operations/{}", operation.id)).into_response()
}

#[derive(Template)]
#[template(path = "pages/tenant_move.html")]
struct MovePage {
    frame: Frame,
    name: String,
    from: String,
    to: String,
    /// Cells that could take it, for choosing another.
    cells: Vec<String>,
    facts: Vec<(String, String)>,
    tables: Vec<(String, String, String, String)>,
    blockers: Vec<MoveBlocker>,
    notes: Vec<String>,
    neighbours: Vec<String>,
    unsure: Vec<MoveUnsure>,
    left_behind: Vec<(String, String, String)>,
    archived_to: String,
    /// What, prefix, how many, how large, and what to know.
    beside: Vec<(String, String, String, String, String)>,
    may_start: bool,
}

#[derive(Debug, Deserialize)]
pub struct Target {
    #[serde(default)]
    to: String,
}

/// `GET /tenants/{tenant}/move?to=`: what a move would do. Changes nothing.
pub async fn plan_move(
    session: Session,
    Path(name): Path<String>,
    Query(target): Query<Target>,
) -> Result<Response, Failure> {
    let to = target.to.trim();
    let wanted = TenantMove {
        to: if to.is_empty() {
            None
        } else {
            Some(to.parse().map_err(|bad| field(&bad, "choose a cell of the list"))?)
        },
    };
    let path = format!("/v1/tenants/{}/plan-move", escaped(&name));
    let plan: MovePlan = session.send(Method::POST, &path, &wanted, &super::session::once()).await?;
    let cells: Vec<Cell> = session.list("/v1/cells", SHOWN).await?;
    let price = match (plan.price_before_cents, plan.price_after_cents) {
        (Some(before), Some(after)) => format!("{before} now, {after} after"),
        (before, after) => format!("{} now, {} after", or_unknown(before, money), or_unknown(after, money)),
    };
    html(&MovePage {
        frame: Frame::of(&session, "tenants"),
        name: plan.tenant.to_string(),
        from: plan.from.to_string(),
        to: plan.to.to_string(),
        cells: cells
            .iter()
            .filter(|cell| cell.state == CellState::Ready && cell.name != plan.from && cell.tenants < cell.max_tenants)
            .map(|cell| cell.name.to_string())
            .collect(),
        facts: vec![
            ("rows".to_owned(), or_unknown(plan.rows, count)),
            ("size".to_owned(), or_unknown(plan.bytes, bytes)),
            ("expected to take".to_owned(), or_unknown(plan.duration_s, seconds)),
            ("cells, a month".to_owned(), price),
        ],
        tables: plan
            .tables
            .iter()
            .chain(&plan.shared)
            .map(|it| (it.table.clone(), it.belongs.clone(), or_unknown(it.rows, count), or_unknown(it.bytes, bytes)))
            .collect(),
        may_start: plan.blockers.is_empty(),
        blockers: plan.blockers,
        notes: plan.notes,
        neighbours: plan.neighbours,
        unsure: plan.unsure,
        left_behind: plan
            .left_behind
            .iter()
            .map(|left| (left.table.clone(), format!("{} before {}", left.column, left.before), count(left.rows)))
            .collect(),
        archived_to: plan.archived_to.unwrap_or_default(),
        beside: plan
            .beside
            .into_iter()
            .map(|it| (it.what.replace('_', " "), it.prefix, count(it.found), or_unknown(it.bytes, bytes), it.says))
            .collect(),
    })
}

/// `POST /tenants/{tenant}/move`
pub async fn start_move(Path(name): Path<String>, change: Change) -> Result<Response, Failure> {
    let wanted = TenantMove { to: Some(typed(&change, "to", "a cell")?) };
    let path = format!("/v1/tenants/{}/moves", escaped(&name));
    let operation: Operation = change.session.send(Method::POST, &path, &wanted, &change.once()).await?;
    Ok(follow(&operation))
}

#[derive(Template)]
#[template(path = "pages/ask.html")]
pub struct AskPage {
    pub frame: Frame,
    pub title: String,
    pub what_happens: &'static str,
    pub action: String,
    pub button: &'static str,
    pub dangerous: bool,
    /// What has to be typed in before it is done, where it cannot be taken back.
    pub typed: Option<String>,
    pub back: String,
}

/// What cannot be taken back is done to what was named twice: by the form, and by whoever sends it.
pub fn named_again(change: &Change, name: &str) -> Result<(), Failure> {
    if change.field("typed") == Some(name) {
        return Ok(());
    }
    let detail = format!("this cannot be taken back, and the name that was typed in is not {name}");
    Err(Failure::Field { detail, hint: "go back, and type the tenant's name".to_owned() })
}

/// `GET /tenants/{tenant}/{change}`: says what would happen, and asks.
pub async fn ask(session: Session, Path((name, verb)): Path<(String, String)>) -> Result<Response, Failure> {
    let (what_happens, button) = match verb.as_str() {
        "suspend" => (
            "Its requests are answered 403 by every edge. Its rows stay where they are, and its price goes on.",
            "Suspend",
        ),
        "resume" => ("Its requests are served again.", "Resume"),
        "undo-move" => (
            "It goes back to the cell it was moved from, with everything written since. Its writers wait for a moment, as in the move.",
            "Undo the last move of",
        ),
        "export" => (
            "All of its rows, as they are at one moment, are written to the archives. It is served meanwhile.",
            "Export",
        ),
        "settle-move" => (
            "The rows that it left in its old cell are removed now. The move cannot be undone afterwards.",
            "Settle the last move of",
        ),
        "delete" => (
            "Its hosts stop answering, and its rows are deleted by the application's hook. Archives and figures of it stay. This cannot be undone.",
            "Delete",
        ),
        _ => return Err(Failure::NotThere),
    };
    let tenant: Tenant = session.get(&format!("/v1/tenants/{}", escaped(&name))).await?;
    html(&AskPage {
        frame: Frame::of(&session, "tenants"),
        title: format!("{button} {}?", tenant.name),
        what_happens,
        action: format!("/tenants/{}/{verb}", tenant.name),
        button,
        dangerous: !matches!(verb.as_str(), "resume" | "undo-move" | "export"),
        typed: (verb == "delete").then(|| tenant.name.to_string()),
        back: format!("/tenants/{}", tenant.name),
    })
}

/// `POST /tenants/{tenant}/{change}`
pub async fn change(Path((name, verb)): Path<(String, String)>, change: Change) -> Result<Response, Failure> {
    let path = format!("/v1/tenants/{}", escaped(&name));
    let (method, path) = match verb.as_str() {
        "suspend" | "resume" | "undo-move" => (Method::POST, format!("{path}/{verb}")),
        "export" => (Method::POST, format!("{path}/archives")),
        "restore" => {
            let archive: OperationId = typed(&change, "archive", "an archive of the list")?;
            (Method::POST, format!("{path}/archives/{archive}/restore"))
        }
        "settle-move" => {
            let path = format!("{path}/{verb}");
            let _settled: Move = change.session.send(Method::POST, &path, &json!({}), &change.once()).await?;
            return Ok(Redirect::to(&format!("/tenants/{}", escaped(&name))).into_response());
        }
        "delete" => {
            named_again(&change, &name)?;
            (Method::DELETE, path)
        }
        _ => return Err(Failure::NotThere),
    };
    let operation: Operation = change.session.send(method, &path, &json!({}), &change.once()).await?;
    Ok(follow(&operation))
}
