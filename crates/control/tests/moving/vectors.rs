//! Vectors of the guides that are no placement: what they answer, what is right, and what Berth answers, side by side.
//! Those of the placement engine are in `berth-placement`. The table in `docs/vectors.md` is this test's output.

use crate::{archived::shrunk, world::read_tenant};
use berth_check::{Options, Source, check};
use berth_control::moves;
use berth_domain::{CellClass, Cents};
use berth_placement::{Catalogue, Engine, PlanFacts, Policy, Profile};
use berth_usage::{
    Agreed, Asked, Direction, Place, Served, Signal, Thresholds, agreed,
    cost::{self, Limits, ServerShape, Trigger},
    performance, propose,
};
use jiff::{Timestamp, civil::date};
use std::{collections::BTreeMap, fmt::Write as _};

struct Row {
    vector: &'static str,
    asked: &'static str,
    guide: &'static str,
    right: &'static str,
    ours: String,
}

fn row(
    vector: &'static str,
    asked: &'static str,
    guide: &'static str,
    right: &'static str,
    ours: impl Into<String>,
) -> Row {
    Row { vector, asked, guide, right, ours: ours.into() }
}

fn budgets() -> String {
    let limits = Limits { amount: 5000, warning: Some(4000), critical: Some(4500) };
    [4100, 4600, 5100].map(|cents| cost::level(cents, &limits).as_str()).join(" / ")
}

fn phase(held: usize) -> String {
    let figures = [(Trigger::CpuPercent, 71.0), (Trigger::ActiveUsers, 101.0), (Trigger::P95Seconds, 2.1)];
    let advice = cost::next_phase(1, &figures[..held].iter().copied().collect::<BTreeMap<_, _>>()).unwrap();
    if advice.go { format!("phase {}", advice.next.unwrap().number) } else { "stay".to_owned() }
}

fn host(tenants: u32) -> String {
    let cell = cost::CellFacts {
        cell: "fra-1".to_owned(),
        shared: true,
        tenants,
        rooms: 150,
        month_cents: Some(9219),
        revenue_cents: i64::from(tenants) * 1500,
        promised: ServerShape::default(),
        database: ServerShape::default(),
        server: None,
        used: None,
        fitting: None,
    };
    let asks = cost::advise(&[cell], &[]).iter().any(|advice| advice.code == "cell_nearly_full");
    if asks { "another host" } else { "none" }.to_owned()
}

/// What is proposed to a tenant of the small plan that the engine would put on the larger one.
fn proposed(used: u64, limit: u64) -> &'static str {
    let signal = Signal::Calm.after(used, limit, &Thresholds::default());
    let place = |plan: &str, cents| Place {
        plan: plan.to_owned(),
        class: CellClass::Shared,
        cell: Some("fra-1".to_owned()),
        price_cents: Cents::new(cents),
    };
    match propose(&place("hobby", 1500), &place("crew", 2900), signal, &[]) {
        Some(Direction::Upgrade) => "a larger plan is proposed",
        Some(_) => "something else is proposed",
        None => "nothing",
    }
}

fn catalogue() -> Catalogue {
    Catalogue::shipped(date(2026, 11, 21)).unwrap()
}

fn polling() -> String {
    let commands = 16 * 2 * (86_400 / 5);
    match catalogue().within_quota("upstash", "commands_per_day", commands) {
        Ok(()) => "fits".to_owned(),
        Err(quota) => format!("refused: {commands} of {}", quota.amount),
    }
}

/// A plan that promises what the standby's containers are allowed together, at the smallest machine that is offered.
fn standby() -> String {
    let plan = PlanFacts {
        name: "standby".to_owned(),
        price_cents: Cents::new(4900),
        class: Some(CellClass::Dedicated),
        memory_mib: 11_776,
        ..PlanFacts::default()
    };
    let providers = ["hetzner".to_owned()];
    let today = date(2026, 11, 21);
    let engine = Engine::new(catalogue(), vec![plan], Vec::new(), Policy::default(), Some(&providers), today).unwrap();
    let decision = engine.decide("t", &Profile::default(), 1).unwrap();
    let small = decision.refused.iter().find(|r| r.class.as_deref().is_some_and(|class| class.contains("hetzner-own")));
    small.map_or("runs".to_owned(), |refused| format!("refused: {}", refused.constraint))
}

fn variable() -> String {
    let text = "DEPLOYMENT_MODE=single_tenant\nDATABASE_URL=postgresql://db/shop\nREDIS_URL=redis://cache:6379\n\
                SECRET_KEY_BASE=q0b3yJ5m0m9dE0m2cRr7XvTfWz1uYl4kPnHsGa8oVi6tBxCeDjLfMhQwNuZpKrSy\n\
                TOKEN_SIGNING_SECRET=ZpKrSyq0b3yJ5m0m9dE0m2cRr7XvTfWz1uYl4kPnHsGa8oVi6tBxCeDjLfMhQwNu\n\
                FLY_API_TOKEN=fo1_8fK2mQ9xLr4TvZ\n";
    let options = Options { now: "2026-11-21T12:00:00Z".parse().unwrap(), only: Vec::new() };
    let report = check(&[Source::new(".env".to_owned(), text.as_bytes().to_vec())], &options);
    let named = report.findings.iter().find(|found| found.rule == "variable-missing");
    named.map_or("passes".to_owned(), |found| {
        assert!(found.message.contains("FLY_ORG_ID") || found.key.contains("FLY_ORG_ID"), "{found:?}");
        "an error that names FLY_ORG_ID".to_owned()
    })
}

fn approved(confidence: f64, cpu: f64, days_here: i64) -> &'static str {
    let has_issue = performance(&Served { cpu_share: Some(cpu), ..Served::default() }).is_some();
    let asked = Asked { confidence, has_issue, days_here, caution: None, automatic: true, last_unattended: None };
    match agreed(&asked, Timestamp::UNIX_EPOCH) {
        Agreed::Alone { .. } => "alone",
        Agreed::Ask { .. } => "a person",
    }
}

/// Days of history that a business tenant (730) leaves behind on its way to hobby (30), and whether they are kept.
async fn shrinking() -> String {
    let (moving, _own) = Box::pin(shrunk(730)).await;
    let to = "shared-1".parse().unwrap();
    let plan = moves::plan(&moving.world.app, &read_tenant(), "acme", Some(&to)).await.unwrap();
    let days: u64 = plan.left_behind.iter().map(|left| left.rows).sum();
    // A row a day, the first of them this moment's: whether the oldest day counts depends on the hour.
    assert!((699..=700).contains(&days), "{days}");
    format!("700 days are listed before, and {}", if plan.archived_to.is_some() { "archived" } else { "lost" })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guides_vectors_have_the_right_answers_beside_the_guides_own() {
    let rows = [
        row("A4", "EUR 41 / 46 / 51 of 50", "nothing: its monitor reads 0.00", "warning / critical / over", budgets()),
        row("A7", "3 of 9 triggers hold", "stay: the mean of all nine is below 0.8", "phase 2", phase(3)),
        row("A7", "2 of 9 triggers hold", "stay", "stay", phase(2)),
        row("A10", "121 of 150 places taken", "another host", "another host", host(121)),
        row("A10", "120 of 150 places taken", "none", "none", host(120)),
        row("A13", "81 % of a quota", "a warning after 10 minutes", "a larger plan is proposed", proposed(81, 100)),
        row("A17", "16 partitions polled every 5 s, free tier", "fits", "refused: 552960 of 10000", polling()),
        row("A18", "11.5 GiB of limits on a CX22", "runs everything", "refused: shape", standby()),
        row(
            "A19",
            "single mode without FLY_ORG_ID",
            "passes (its script asks for five others)",
            "an error that names FLY_ORG_ID",
            variable(),
        ),
        row(
            "A20",
            "business (730 days) to hobby (30)",
            "700 days are lost, nobody is told",
            "700 days are listed before, and archived",
            Box::pin(shrinking()).await,
        ),
        row("A21", "confidence 0.92, processors at 85 %", "alone", "alone", approved(0.92, 0.85, 1)),
        row("A21", "confidence 0.92, no issue", "a person", "a person", approved(0.92, 0.5, 40)),
        row("A21", "confidence 0.96, 31 days here", "alone", "alone", approved(0.96, 0.5, 31)),
        row(
            "A22",
            "40,001 of 50,000 GPS points",
            "a larger plan is suggested",
            "a larger plan is proposed",
            proposed(40_001, 50_000),
        ),
        row("A22", "40,000 of 50,000 GPS points", "nothing", "nothing", proposed(40_000, 50_000)),
    ];
    let mut table = String::from("| vector | asked | the guide | right, and what Berth answers |\n|---|---|---|---|\n");
    for Row { vector, asked, guide, right, ours } in &rows {
        assert_eq!(ours, right, "{vector}: {asked}");
        writeln!(table, "| {vector} | {asked} | {guide} | {ours} |").unwrap();
    }
    let docs = std::fs::read_to_string("../../docs/vectors.md").unwrap();
    assert!(docs.contains(&table), "docs/vectors.md needs this table:\n{table}");
    for vector in 1..=22 {
        assert!(docs.contains(&format!("\n| A{vector} | ")), "docs/vectors.md says nothing of A{vector}");
    }
}
