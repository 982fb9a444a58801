//! What people see of tenants. Pure: an answer and the present moment in, text out.

use crate::cli::{
    table::{Table, facts},
    units,
};
use berth_wire::{Archive, Move, MovePlan, Operation, PlanPrice, PurgePlan, SyncReport, Tenant};
use jiff::Timestamp;

pub fn list(tenants: &[Tenant], now: Timestamp) -> String {
    let mut table = Table::new(&["TENANT", "STATE", "PLAN", "CELL", "HOSTS", "CHANGED"]);
    for tenant in tenants {
        table.row([
            tenant.name.to_string(),
            tenant.state.to_string(),
            tenant.plan.to_string(),
            units::or_unknown(tenant.cell.as_ref()),
            joined(&tenant.routed()),
            units::ago(tenant.updated_at, now),
        ]);
    }
    table.or("No tenants yet: `berth tenant create NAME --plan PLAN --host HOST` makes one.")
}

pub fn one(tenant: &Tenant, operations: &[Operation], now: Timestamp) -> String {
    let mut text = facts(&[
        ("tenant", tenant.name.to_string()),
        ("state", tenant.state.to_string()),
        ("plan", tenant.plan.to_string()),
        ("cell", units::or_unknown(tenant.cell.as_ref())),
        ("mode", units::or_unknown(tenant.mode)),
        ("generation", tenant.generation.to_string()),
        ("key", units::or_unknown(tenant.key.as_ref())),
        ("hosts", if tenant.routed().is_empty() { "none".to_owned() } else { joined(&tenant.routed()) }),
        ("served to", if tenant.allow.is_empty() { "everybody".to_owned() } else { joined(&tenant.allow) }),
        ("limits", super::limits::own(&tenant.own_limits)),
        ("made", units::ago(tenant.created_at, now)),
        ("id", tenant.id.to_string()),
    ]);
    if !operations.is_empty() {
        text.push('\n');
        text.push_str(&crate::cli::operation::list(operations, now));
    }
    text
}

pub fn hosts(hosts: &[String]) -> String {
    if hosts.is_empty() {
        return "No host routes to it: `--add HOST` adds one.\n".to_owned();
    }
    hosts.iter().map(|host| format!("{host}\n")).collect()
}

pub fn plan_price(price: &PlanPrice) -> String {
    let mut table = Table::new(&["", "PLAN", "CELL", ">PRICE/MONTH", ">COSTS/MONTH", ">LEAVES"]);
    for (when, side) in [("now", &price.now), ("then", &price.then)] {
        let cell = side.cell.as_ref().map(ToString::to_string).unwrap_or_default();
        table.row([
            when.to_owned(),
            side.plan.to_string(),
            if side.new_cell { format!("{cell} (new)") } else { cell },
            side.price_cents.to_string(),
            units::or_unknown(side.cost_cents),
            units::or_unknown(side.margin_cents),
        ]);
    }
    let next = if price.moves {
        format!("Limits change at once; `berth tenant move {}` brings it there.\n", price.tenant)
    } else {
        "It stays where it is.\n".to_owned()
    };
    table.text() + &next
}

pub fn move_plan(plan: &MovePlan) -> String {
    let mut text = facts(&[
        ("move", format!("{} from {} to {}", plan.tenant, plan.from, plan.to)),
        ("rows", units::count_or_unknown(plan.rows)),
        ("size", units::bytes_or_unknown(plan.bytes)),
        ("duration", units::seconds_or_unknown(plan.duration_s)),
        (
            "price",
            format!(
                "{} a month, now {}",
                units::or_unknown(plan.price_after_cents),
                units::or_unknown(plan.price_before_cents)
            ),
        ),
    ]);
    if !plan.tables.is_empty() {
        let mut table = Table::new(&["TABLE", "BELONGS BY", ">ROWS", ">SIZE"]);
        for row in plan.tables.iter().chain(&plan.shared) {
            table.row([
                row.table.clone(),
                row.belongs.clone(),
                units::count_or_unknown(row.rows),
                units::bytes_or_unknown(row.bytes),
            ]);
        }
        text.push('\n');
        text.push_str(&table.text());
    }
    if !plan.left_behind.is_empty() {
        let mut table = Table::new(&["STAYS BEHIND", "OLDER THAN", ">ROWS"]);
        for left in &plan.left_behind {
            let age = format!("{} before {}", left.column, left.before);
            table.row([left.table.clone(), age, units::count_or_unknown(Some(left.rows))]);
        }
        text.push('\n');
        text.push_str(&table.text());
        text.push_str(&format!("archived to: {}\n", units::or_unknown(plan.archived_to.as_ref())));
    }
    if !plan.beside.is_empty() {
        let mut table = Table::new(&["TRAVELS TOO", "PREFIX", ">FOUND", ">SIZE"]);
        for it in &plan.beside {
            let what = it.what.replace('_', " ");
            table.row([
                what,
                it.prefix.clone(),
                units::count_or_unknown(Some(it.found)),
                units::bytes_or_unknown(it.bytes),
            ]);
        }
        text.push('\n');
        text.push_str(&table.text());
        let mut said: Vec<&str> = plan.beside.iter().map(|it| it.says.as_str()).collect();
        said.dedup();
        for says in said {
            text.push_str(&format!("note: {says}\n"));
        }
    }
    for note in &plan.notes {
        text.push_str(&format!("\nnote: {note}\n"));
    }
    for (nth, cost) in plan.neighbours.iter().enumerate() {
        let before = if nth == 0 { "\n" } else { "" };
        text.push_str(&format!("{before}costs the neighbours: {cost}\n"));
    }
    for unsure in &plan.unsure {
        text.push_str(&format!(
            "\nnot sure: `{}` {}; it stays\nhint: under `data`: {}\n",
            unsure.table, unsure.says, unsure.line
        ));
    }
    for blocker in &plan.blockers {
        text.push_str(&format!("\nblocked: {}\n", blocker.detail));
        if let Some(hint) = &blocker.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
    }
    text
}

pub fn undo(last: &Move, now: Timestamp) -> String {
    let mut rows = vec![
        ("undo", format!("the move of {} from {} to {}", last.tenant, last.from, last.to)),
        ("moved", units::ago(last.started_at, now)),
        ("to", format!("{}, with everything written since", last.from)),
    ];
    if let Some(way) = &last.way_back {
        rows.push(("possible until", way.until.strftime("%Y-%m-%d %H:%M UTC").to_string()));
        rows.push(("behind", units::bytes_or_unknown(way.bytes_behind)));
        rows.extend(way.trouble.clone().map(|trouble| ("trouble", trouble)));
    }
    facts(&rows)
}

pub fn settle(last: &Move) -> String {
    facts(&[
        ("keep", format!("the move of {} from {} to {}", last.tenant, last.from, last.to)),
        ("remove", format!("the tenant's rows in {}: {}", last.from, units::count_or_unknown(last.rows))),
        ("way back", "none afterwards, except another move".to_owned()),
    ])
}

pub fn archives(archives: &[Archive], now: Timestamp) -> String {
    let mut table = Table::new(&["ARCHIVE", "MADE", "HOLDS", ">ROWS"]);
    for archive in archives {
        table.row([
            archive.id.to_string(),
            units::ago(archive.made_at, now),
            archive.contents.replace('_', " "),
            units::count_or_unknown(Some(archive.rows)),
        ]);
    }
    table.or("No archives: `berth tenant export NAME` makes one, and a move to a smaller plan may.")
}

pub fn purge(plan: &PurgePlan) -> String {
    let mut table = Table::new(&["TABLE", "WHAT GOES", ">ROWS"]);
    for row in &plan.tables {
        table.row([row.table.clone(), format!("{} before {}", row.column, row.before), units::count(row.rows)]);
    }
    let first = if plan.archived { "They are archived first.\n" } else { "" };
    table.or("Nothing goes: its plan, or the stack file's `data.retention`, keeps everything.") + first
}

pub fn archive(archive: &Archive, now: Timestamp) -> String {
    let mut text = facts(&[
        ("archive", archive.id.to_string()),
        ("tenant", archive.tenant.to_string()),
        ("made", units::ago(archive.made_at, now)),
        ("holds", archive.contents.replace('_', " ")),
    ]);
    let mut table = Table::new(&["TABLE", "ONLY", ">ROWS", ">AS CSV"]);
    for row in &archive.tables {
        table.row([
            row.table.clone(),
            row.before.clone().unwrap_or_else(|| "all".to_owned()),
            units::count_or_unknown(Some(row.rows)),
            units::bytes_or_unknown(Some(row.bytes)),
        ]);
    }
    text.push('\n');
    text.push_str(&table.text());
    text
}

pub fn removal(tenant: &Tenant) -> String {
    let cell = tenant.cell.as_ref().map_or_else(|| "no cell".to_owned(), |cell| format!("cell {cell}"));
    let hosts = if tenant.routed().is_empty() { "none".to_owned() } else { joined(&tenant.routed()) };
    facts(&[
        ("remove", format!("tenant {} ({})", tenant.name, tenant.state)),
        ("rows", format!("all of key {} in {cell}", units::or_unknown(tenant.key.as_ref()))),
        ("hosts", hosts),
        ("way back", "none without a backup".to_owned()),
    ])
}

pub fn sync(report: &SyncReport) -> String {
    if report.unknown_here.is_empty() && report.unknown_there.is_empty() {
        return "Berth and the application know the same tenants.\n".to_owned();
    }
    let mut table = Table::new(&["KEY", "TENANT", "KNOWN TO"]);
    for (tenants, known) in [(&report.unknown_here, "the application only"), (&report.unknown_there, "Berth only")] {
        for tenant in tenants {
            table.row([tenant.key.to_string(), units::or_unknown(tenant.name.as_ref()), known.to_owned()]);
        }
    }
    let taken = match (report.taken_in, report.unknown_here.len()) {
        (0, 0) => String::new(),
        (0, _) if report.unknown_here.iter().all(|tenant| tenant.why.is_some()) => String::new(),
        (0, _) => "\nNone was taken in: `--take-in PLAN` does that.\n".to_owned(),
        (n, _) => format!("\n{n} taken in.\n"),
    };
    let mut left = String::new();
    for tenant in &report.unknown_here {
        if let Some(why) = &tenant.why {
            left.push_str(&format!("\n{} is not taken in: {why}.\n", tenant.key));
        }
    }
    table.text() + &taken + &left
}

fn joined(names: &[impl ToString]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{list, move_plan, one, removal, sync};
    use berth_domain::{Cents, EdgeLimits, Generation, Mode, TenantState};
    use berth_wire::{MoveBeside, MoveBlocker, MovePlan, MovePlanTable, MoveUnsure, SyncReport, SyncTenant, Tenant};
    use jiff::Timestamp;

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn acme() -> Tenant {
        Tenant {
            id: "0197a000-0000-7000-8000-000000000001".parse().unwrap(),
            name: "acme".parse().unwrap(),
            key: Some("7f0c".parse().unwrap()),
            plan: "business".parse().unwrap(),
            state: TenantState::Active,
            cell: Some("shared-1".parse().unwrap()),
            mode: Some(Mode::MultiTenant),
            generation: Generation::new(1),
            hosts: vec!["acme.test".parse().unwrap(), "www.acme.test".parse().unwrap()],
            patterns: vec!["*.acme.test".parse().unwrap()],
            allow: vec![],
            own_limits: EdgeLimits { requests_per_minute: [("api".to_owned(), 600)].into(), body_bytes: Some(1 << 20) },
            operation: None,
            version: 3,
            created_at: "2026-11-20T12:00:00Z".parse().unwrap(),
            updated_at: "2026-11-21T11:55:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_tenant_without_a_cell_is_shown_with_a_question_mark() {
        let waiting = Tenant { name: "newco".parse().unwrap(), cell: None, hosts: vec![], patterns: vec![], ..acme() };
        assert_eq!(
            list(&[acme(), waiting], now()),
            "\
TENANT  STATE   PLAN      CELL      HOSTS                                CHANGED
acme    active  business  shared-1  acme.test www.acme.test *.acme.test  5 min ago
newco   active  business  ?                                              5 min ago
"
        );
    }

    #[test]
    fn one_tenant_fits_a_screen() {
        assert_eq!(
            one(&acme(), &[], now()),
            "\
tenant      acme
state       active
plan        business
cell        shared-1
mode        multi_tenant
generation  1
key         7f0c
hosts       acme.test www.acme.test *.acme.test
served to   everybody
limits      its plan's, but api 600 a minute, bodies 1.0 MiB
made        1 d ago
id          0197a000-0000-7000-8000-000000000001
"
        );
    }

    #[test]
    fn a_move_plan_shows_size_price_and_what_is_in_the_way() {
        let plan = MovePlan {
            tenant: "acme".parse().unwrap(),
            from: "shared-1".parse().unwrap(),
            to: "fra-2".parse().unwrap(),
            rows: Some(1_000_020),
            bytes: Some(150 << 20),
            duration_s: None,
            price_before_cents: Some(Cents::new(350)),
            price_after_cents: None,
            tables: vec![MovePlanTable {
                table: "gps_positions".into(),
                belongs: "column customer_id".into(),
                rows: Some(1_000_000),
                bytes: None,
            }],
            shared: vec![MovePlanTable {
                table: "plans".into(),
                belongs: "nobody, referred to".into(),
                rows: Some(1),
                bytes: None,
            }],
            unsure: vec![MoveUnsure {
                table: "comments".into(),
                says: "may refer to `orders` by `order_id`".into(),
                line: "links: [{ table: comments, column: order_id, to: orders }]".into(),
            }],
            notes: vec!["text is sorted by `de_DE.UTF-8` in the source".into()],
            neighbours: vec!["source: a lock of 10 ms at most on each of 2 tables".into()],
            left_behind: Vec::new(),
            archived_to: None,
            beside: vec![MoveBeside {
                what: "redis_keys".into(),
                prefix: "t:7:".into(),
                found: 12,
                bytes: None,
                says: "held at the edge, not fenced".into(),
            }],
            blockers: vec![MoveBlocker {
                code: "target_full".into(),
                detail: "cell `fra-2` has 3 GiB free, 41 GiB needed".into(),
                hint: Some("`--to auto` picks a cell with room".into()),
            }],
        };
        assert_eq!(
            move_plan(&plan),
            "\
move      acme from shared-1 to fra-2
rows      1,000,020
size      150.0 MiB
duration  ?
price     ? a month, now $3.50

TABLE          BELONGS BY                ROWS  SIZE
gps_positions  column customer_id   1,000,000     ?
plans          nobody, referred to          1     ?

TRAVELS TOO  PREFIX  FOUND  SIZE
redis keys   t:7:       12     ?
note: held at the edge, not fenced

note: text is sorted by `de_DE.UTF-8` in the source

costs the neighbours: source: a lock of 10 ms at most on each of 2 tables

not sure: `comments` may refer to `orders` by `order_id`; it stays
hint: under `data`: links: [{ table: comments, column: order_id, to: orders }]

blocked: cell `fra-2` has 3 GiB free, 41 GiB needed
hint: `--to auto` picks a cell with room
"
        );
    }

    #[test]
    fn a_removal_says_that_there_is_no_way_back() {
        assert_eq!(
            removal(&acme()),
            "\
remove    tenant acme (active)
rows      all of key 7f0c in cell shared-1
hosts     acme.test www.acme.test *.acme.test
way back  none without a backup
"
        );
    }

    #[test]
    fn a_comparison_says_who_knows_whom() {
        let mut report = SyncReport {
            unknown_here: vec![SyncTenant { key: "9".parse().unwrap(), name: None, why: None }],
            unknown_there: vec![SyncTenant {
                key: "3".parse().unwrap(),
                name: Some("old".parse().unwrap()),
                why: None,
            }],
            taken_in: 0,
        };
        assert_eq!(
            sync(&report),
            "\
KEY  TENANT  KNOWN TO
9    ?       the application only
3    old     Berth only

None was taken in: `--take-in PLAN` does that.
"
        );
        report.taken_in = 1;
        assert!(sync(&report).ends_with("\n1 taken in.\n"));
        (report.taken_in, report.unknown_here[0].why) = (0, Some("it is somebody's".to_owned()));
        assert!(sync(&report).ends_with("Berth only\n\n9 is not taken in: it is somebody's.\n"));
    }
}
