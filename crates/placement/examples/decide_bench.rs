//! `scripts/bench decide`: how long a decision, its explanation, a fleet plan and a simulation take.
//!
//! An example of the crate, so that it builds without the rest of Berth. One thread; the fleet's optimum is bounded by
//! the plan's own bound, which tests hold against exact solutions.

use berth_domain::{CellClass, Cents};
use berth_placement::{
    Catalogue, CellFacts, Engine, Measured, PlanFacts, Policy, Profile, Size,
    fleet::{Fleet, FleetCell, FleetOffer, FleetTenant, Group, plan, simulate},
};
use jiff::civil::date;
use std::{collections::BTreeMap, hint::black_box, time::Instant};

const TENANTS: u32 = 100_000;
const CELLS: u32 = 1_000;
const PLACES: u32 = 150;

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let engine = engine();
    let profiles = profiles();
    let decide_us = each_us(20_000, |n| _ = black_box(engine.choice(&profiles[n % profiles.len()])));
    let explain_us = each_us(2_000, |n| _ = black_box(engine.decide("t", &profiles[n % profiles.len()], 1)));
    let fleet = fleet(TENANTS, CELLS);
    let started = now();
    let planned = plan(&fleet);
    let plan_s = started.elapsed().as_secs_f64();
    let small = self::fleet(2_000, 30);
    let prices = vec![Cents::new(4900); small.groups.len()];
    let started = now();
    let grown = simulate(&small, &prices, 8, 36);
    let simulate_s = started.elapsed().as_secs_f64();
    let figures = serde_json::json!({
        "decide_us": round(decide_us), "explain_us": round(explain_us), "plan_s": round(plan_s),
        "plan_gap_pct": round(planned.gap_percent), "simulate_s": round(simulate_s),
    });
    if !json {
        say(&format!("one decision among {CELLS} cells and every offer: {decide_us:.1} µs (goal 50)"));
        say(&format!("with reasons, confidence and flip: {explain_us:.0} µs (goal 1000)"));
        say(&format!(
            "{TENANTS} tenants over {CELLS} cells: {plan_s:.2} s (goal 2), {} moves in {} steps, {} to {} a month, \
             at most {:.2} % over the optimum (goal 1)",
            planned.moves,
            planned.steps.len(),
            planned.before_cents,
            planned.after_cents,
            planned.gap_percent
        ));
        let last = grown.months.last().expect("a simulation has months");
        say(&format!("36 months from 2000 to {} tenants: {simulate_s:.2} s", last.tenants));
    }
    say(&serde_json::json!({ "bench": "decide", "figures": figures }).to_string());
}

#[expect(clippy::print_stdout, reason = "the figures are this program's output")]
fn say(line: &str) {
    println!("{line}");
}

fn now() -> Instant {
    Instant::now()
}

fn round(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

/// The median of 20 rounds: other work on the machine lengthens some.
fn each_us(calls: usize, mut call: impl FnMut(usize)) -> f64 {
    let mut rounds: Vec<f64> = (0..20)
        .map(|round| {
            let started = now();
            for n in 0..calls / 20 {
                call(round * calls / 20 + n);
            }
            started.elapsed().as_secs_f64() * 1e6 / (calls / 20) as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[10]
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

fn engine() -> Engine {
    let today = date(2026, 11, 21);
    let catalogue = Catalogue::shipped(today).expect("the shipped catalogue is tested");
    let plan = |name: &str, dollars: i64, class, vehicles, regions| PlanFacts {
        name: name.to_owned(),
        price_cents: Cents::new(dollars * 100),
        class: Some(class),
        quantities: BTreeMap::from([("vehicles".to_owned(), vehicles), ("regions".to_owned(), regions)]),
        ..PlanFacts::default()
    };
    let plans = vec![
        plan("hobby", 15, CellClass::Shared, 5, 1),
        plan("starter", 49, CellClass::Dedicated, 25, 1),
        plan("professional", 149, CellClass::Dedicated, 100, 2),
        plan("business", 399, CellClass::Dedicated, 500, 3),
    ];
    let mut dice = Dice(5);
    let at = [("hetzner-robot", "fsn1"), ("hetzner-robot", "hel1"), ("hetzner", "ash"), ("fly", "iad"), ("fly", "sin")];
    let cells = (0..CELLS).map(|n| {
        let (provider, site) = at[dice.below(at.len() as u64) as usize];
        let class = if n % 10 == 0 { CellClass::Dedicated } else { CellClass::Shared };
        CellFacts {
            name: format!("cell-{n}"),
            class,
            provider: provider.to_owned(),
            sites: vec![site.to_owned()],
            tenants: dice.below(150) as u32,
            max_tenants: if class == CellClass::Dedicated { 1 } else { PLACES },
            takes_tenants: true,
            price_cents: Some(Cents::new(3000 + 500 * dice.below(8) as i64)),
            promises: None,
            measured: Measured::default(),
            size: Size::default(),
        }
    });
    Engine::new(catalogue, plans, cells.collect(), Policy::default(), None, today)
        .expect("the policy is the shipped one")
}

fn profiles() -> Vec<Profile> {
    let mut dice = Dice(9);
    let profile = |_| Profile {
        budget_cents: Some(1000 + dice.below(50_000)),
        quantities: BTreeMap::from([("vehicles".to_owned(), 1 + dice.below(300))]),
        locations: vec![["us", "eu", "sg"][dice.below(3) as usize].to_owned()],
        regions: Some(1 + dice.below(3) as u32),
        compliance: if dice.below(4) == 0 { vec!["soc2".to_owned()] } else { Vec::new() },
        latency_ms: Some(40 + dice.below(200)),
        users: Some(dice.below(200)),
        ..Profile::default()
    };
    (0..1000).map(profile).collect()
}

/// Tenants spread over cells as they came, two thirds full; prices, places and who may live where as in real fleets:
/// a few kinds of place, a few kinds of tenants.
fn fleet(tenants: u32, cells: u32) -> Fleet {
    let mut dice = Dice(77);
    let kinds = 6_u32;
    let price = |kind: u32| Cents::new([9_219, 9_900, 11_000, 7_480, 40_000, 44_000][kind as usize]);
    let cells: Vec<FleetCell> = (0..cells)
        .map(|n| {
            let kind = dice.below(u64::from(kinds)) as u32;
            FleetCell { name: format!("c{n}"), kind, price_cents: price(kind), places: PLACES, takes_tenants: true }
        })
        .collect();
    // Anywhere; in Europe; in the US; regulated.
    let groups: Vec<Group> = [&[0, 1, 2, 3, 4, 5][..], &[0, 1, 4], &[2, 3, 5], &[4, 5]]
        .iter()
        .map(|k| Group { kinds: k.to_vec() })
        .collect();
    let mut used = vec![0; cells.len()];
    let tenants = (0..tenants).map(|n| {
        let group = [0, 0, 0, 1, 1, 1, 1, 2, 2, 3][dice.below(10) as usize];
        let cell = (0..50)
            .map(|_| dice.below(cells.len() as u64) as usize)
            .find(|at| used[*at] < PLACES && groups[group as usize].may(cells[*at].kind));
        if let Some(at) = cell {
            used[at] += 1;
        }
        FleetTenant { name: format!("t{n}"), group, cell: cell.map(|at| at as u32), weight: 1 }
    });
    let tenants = tenants.collect();
    let offers =
        (0..kinds).map(|kind| FleetOffer { name: format!("o{kind}"), kind, price_cents: price(kind), places: PLACES });
    Fleet { offers: offers.collect(), cells, tenants, groups, move_worth_cents: Cents::new(1) }
}
