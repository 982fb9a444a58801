//! The guides' own test vectors: the right answer and the guide's answer side by side.
//!
//! The guide's scoring is written out here once more, from its text, and nowhere else: Berth never decides by it. The
//! table in `docs/decide.md` is this test's output.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use berth_domain::{CellClass, Cents};
use berth_placement::{Catalogue, Micros, Profile};
use common::{TODAY, engine, profile};
use std::{collections::BTreeMap, fmt::Write as _};

/// The WebHost guide's scoring, as its implementation page has it.
fn guide(budget: u64, vehicles: u64, compliance: &str, latency: u64, regions: u32, users: u64) -> (String, f64) {
    let mut shared: f64 = 0.5;
    let mut own: f64 = 0.5;
    shared += if budget < 50 {
        0.3
    } else if budget < 100 {
        0.1
    } else {
        -0.2
    };
    own += if budget > 100 {
        0.3
    } else if budget > 50 {
        0.1
    } else {
        -0.2
    };
    shared += if vehicles <= 5 {
        0.2
    } else if vehicles <= 10 {
        0.0
    } else {
        -0.3
    };
    own += if vehicles > 10 {
        0.3
    } else if vehicles > 5 {
        0.1
    } else {
        -0.1
    };
    shared += if compliance.is_empty() { 0.1 } else { -0.4 };
    own += match compliance {
        "soc2" => 0.4,
        "hipaa" => 0.5,
        _ => 0.0,
    };
    shared += if latency > 100 {
        0.1
    } else if latency < 50 {
        -0.3
    } else {
        0.0
    };
    own += if latency < 50 {
        0.3
    } else if latency < 100 {
        0.1
    } else {
        0.0
    };
    shared += if regions == 1 { 0.1 } else { -0.2 };
    own += if regions > 1 { 0.3 } else { 0.0 };
    shared += if users < 20 {
        0.1
    } else if users > 100 {
        -0.3
    } else {
        0.0
    };
    // Rounded as the guide prints them, or 0.8 > 0.8 in floating point.
    let round = |score: f64| (score.clamp(0.0, 1.0) * 100.0).round() / 100.0;
    let (shared, own) = (round(shared), round(own));
    if shared > 0.8 || (own <= 0.8 && shared > own) {
        return ("shared hobby".to_owned(), shared);
    }
    let plan = if vehicles > 100 {
        "business"
    } else if vehicles > 25 {
        "professional"
    } else {
        "starter"
    };
    (format!("dedicated {plan}"), own)
}

type Row = (u64, u64, &'static str, u64, u32, u64);

/// Profile; what the guide answers; what is right.
const ROWS: &[(Row, &str, &str)] = &[
    ((30, 3, "", 150, 1, 5), "shared hobby", "shared hobby"),
    ((200, 15, "soc2", 50, 2, 50), "dedicated starter", "dedicated professional"),
    ((40, 5, "hipaa", 150, 1, 5), "shared hobby", "dedicated starter"),
    ((40, 5, "hipaa", 80, 1, 5), "dedicated starter", "dedicated starter"),
    ((45, 5, "soc2", 150, 1, 10), "shared hobby", "dedicated starter"),
    ((49, 40, "", 120, 1, 10), "shared hobby", "dedicated professional"),
    ((75, 8, "", 100, 1, 30), "shared hobby", "dedicated starter"),
    ((40, 5, "", 30, 1, 5), "shared hobby", "nothing fits"),
    ((40, 4, "", 150, 2, 10), "shared hobby", "dedicated professional"),
    ((100, 6, "", 100, 1, 20), "dedicated starter", "dedicated starter"),
    ((120, 12, "", 90, 1, 40), "dedicated starter", "dedicated starter"),
    ((500, 300, "", 40, 3, 400), "dedicated business", "dedicated business"),
];

fn table() -> String {
    let engine = engine();
    let mut text = String::from(
        "| budget | vehicles | standard | latency ms | regions | users | the guide | Berth | cost | margin | sure |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for ((budget, vehicles, standard, latency, regions, users), _, _) in ROWS {
        let wanted = profile(*budget, *vehicles, standard, *latency, *regions, *users);
        let (theirs, _) = guide(*budget, *vehicles, standard, *latency, *regions, *users);
        let ours = engine.decide("t", &wanted, 1).unwrap();
        let words = match (&ours.class, &ours.plan, &ours.provider) {
            (Some(class), Some(plan), Some(provider)) => {
                format!("{class} {plan} at {provider} ({})", ours.regions.join(", "))
            }
            _ => "nothing fits".to_owned(),
        };
        let money = |cents: Option<Cents>| cents.map_or("-".to_owned(), |cents| cents.to_string());
        writeln!(
            text,
            "| ${budget} | {vehicles} | {} | {latency} | {regions} | {users} | {theirs} | {words} | {} | {} | {:.2} |",
            if standard.is_empty() { "-" } else { standard },
            money(ours.monthly_cost_cents),
            money(ours.margin_cents),
            ours.confidence,
        )
        .unwrap();
    }
    text
}

#[test]
fn a6_every_vector_gets_the_right_answer_and_the_guide_gets_its_own() {
    let engine = engine();
    for ((budget, vehicles, standard, latency, regions, users), theirs, right) in ROWS {
        let (guide, _) = guide(*budget, *vehicles, standard, *latency, *regions, *users);
        let wanted = profile(*budget, *vehicles, standard, *latency, *regions, *users);
        let ours = engine.decide("t", &wanted, 1).unwrap();
        let words = match (&ours.class, &ours.plan) {
            (Some(class), Some(plan)) => format!("{class} {plan}"),
            _ => "nothing fits".to_owned(),
        };
        assert_eq!((guide.as_str(), words.as_str()), (*theirs, *right), "{wanted:?}: {ours:#?}");
    }
}

#[test]
fn the_table_in_the_documentation_is_what_the_engine_answers() {
    let docs = std::fs::read_to_string("../../docs/decide.md").unwrap();
    let table = table();
    assert!(docs.contains(&table), "docs/decide.md needs this table:\n{table}");
}

#[test]
fn regulated_customers_of_the_guides_grid_are_never_on_shared_hardware() {
    let engine = engine();
    let (mut asked, mut guides_faults) = (0, 0);
    for standard in ["soc2", "hipaa"] {
        for budget in [20, 40, 49, 60, 100, 150, 400] {
            for vehicles in [1, 3, 5, 8, 12, 30, 120] {
                for latency in [40, 60, 100, 150, 200] {
                    for regions in [1, 2, 3] {
                        for users in [5, 50, 150] {
                            asked += 1;
                            let ours =
                                engine.decide_quickly(&profile(budget, vehicles, standard, latency, regions, users));
                            assert!(ours.unwrap().is_none_or(|(class, ..)| class == CellClass::Dedicated));
                            let theirs = guide(budget, vehicles, standard, latency, regions, users);
                            guides_faults += u32::from(theirs.0 == "shared hobby");
                        }
                    }
                }
            }
        }
    }
    assert!(guides_faults > 0 && asked > 4000, "{guides_faults} of {asked}");
}

fn euros(parts: &[(&str, u64)]) -> i64 {
    let catalogue = Catalogue::shipped(TODAY).unwrap();
    let parts: BTreeMap<String, u64> = parts.iter().map(|(part, count)| ((*part).to_owned(), *count)).collect();
    let lines = catalogue.price_lines("hetzner", &parts).unwrap();
    assert!(lines.iter().all(|line| line.currency == "EUR"));
    lines.iter().fold(Micros(0), |sum, line| sum.plus(line.amount)).cents()
}

#[test]
fn a2_a3_the_chrono_guides_sums_are_what_its_price_list_gives() {
    let rest = [("volume-gib", 100), ("lb11", 1), ("floating-ip", 1), ("backup", 1), ("snapshots", 1)];
    let with = |server| euros(&[&[(server, 1)], &rest[..]].concat());
    assert_eq!(with("cx32"), 2585);
    assert_eq!(5000 - with("cx32"), 2415);
    assert_eq!(euros(&[&[("cx32", 1)], &rest[..4]].concat()), 2385, "without snapshots");
    // The guide says about 35 and about 48.
    assert_eq!(with("cx42"), 3737);
    assert_eq!(with("cx52"), 5657, "over the budget of 50");
}

#[test]
fn a5_the_shared_server_costs_what_its_parts_cost() {
    let catalogue = Catalogue::shipped(TODAY).unwrap();
    let parts = &catalogue.offers["hetzner-shared"].parts;
    let lines = catalogue.price_lines("hetzner-robot", parts).unwrap();
    let sum = lines.iter().fold(Micros(0), |sum, line| sum.plus(line.amount));
    assert_eq!(sum.cents(), 8381, "the guide prints 83");
    assert_eq!((sum.0 + 75_000) / 150_000, 559, "thousandths of a euro each");
}

#[test]
fn a17_a_queue_that_polls_every_five_seconds_does_not_fit_the_free_tier() {
    let catalogue = Catalogue::shipped(TODAY).unwrap();
    let commands_per_day = 16 * 2 * (86_400 / 5);
    assert_eq!(commands_per_day, 552_960);
    let quota = catalogue.within_quota("upstash", "commands_per_day", commands_per_day).unwrap_err();
    assert_eq!(quota.amount, 10_000);
    assert!(catalogue.within_quota("upstash", "commands_per_day", 9_999).is_ok());
}

#[test]
fn a18_a_standby_smaller_than_its_limits_is_refused() {
    let mut plans = common::plans();
    plans[1].memory_mib = 11_776;
    let engine = common::engine_with(plans, Vec::new(), berth_placement::Policy::default());
    let ours = engine.decide("t", &profile(100, 10, "", 150, 1, 5), 1).unwrap();
    let small = ours.refused.iter().find(|r| r.class.as_deref().is_some_and(|c| c.contains("hetzner-own at ash")));
    assert_eq!(small.unwrap().constraint, "shape", "{ours:#?}");
}

#[test]
fn a_profile_with_nothing_in_it_gets_an_answer_that_says_what_was_assumed() {
    let ours = engine().decide("t", &Profile::default(), 1).unwrap();
    assert_eq!(ours.plan.as_deref(), Some("hobby"));
    let assumed = ours.reasons.iter().filter(|reason| reason.starts_with("assumed")).count();
    assert_eq!(assumed, 2, "{:#?}", ours.reasons);
}
