//! The shipped catalogue with the WebHost guide's four plans, for every test here.

#![allow(dead_code, reason = "each test file uses its part")]

use berth_domain::{CellClass, Cents};
use berth_placement::{Catalogue, CellFacts, Engine, PlanFacts, Policy, Profile};
use jiff::civil::{Date, date};

pub const TODAY: Date = date(2026, 11, 21);

pub fn plans() -> Vec<PlanFacts> {
    use CellClass::{Dedicated, Shared};
    let plan = |name: &str, dollars: i64, class, limits: [u64; 4], memory_mib, disk_gib| PlanFacts {
        name: name.to_owned(),
        price_cents: Cents::new(dollars * 100),
        class: Some(class),
        quantities: ["vehicles", "gps_points_per_day", "geofences", "regions"]
            .into_iter()
            .map(str::to_owned)
            .zip(limits)
            .collect(),
        body_bytes: Some(50 << 20),
        cpu_millis: 0,
        memory_mib,
        disk_gib,
    };
    vec![
        plan("hobby", 15, Shared, [5, 50_000, 10, 1], 0, 0),
        plan("starter", 49, Dedicated, [25, 500_000, 50, 1], 512, 10),
        plan("professional", 149, Dedicated, [100, 2_000_000, 200, 2], 1024, 50),
        plan("business", 399, Dedicated, [500, 10_000_000, 1000, 3], 2048, 200),
    ]
}

pub fn engine_with(plans: Vec<PlanFacts>, cells: Vec<CellFacts>, policy: Policy) -> Engine {
    let catalogue = Catalogue::shipped(TODAY).unwrap();
    // Not the machine itself: a guide's customers do not live there.
    let providers: Vec<String> = catalogue.providers.keys().filter(|name| *name != "local").cloned().collect();
    Engine::new(catalogue, plans, cells, policy, Some(&providers), TODAY).unwrap()
}

pub fn engine() -> Engine {
    engine_with(plans(), Vec::new(), Policy::default())
}

/// As the guide's vectors are written: budget, vehicles, compliance, latency, regions, users.
pub fn profile(budget: u64, vehicles: u64, compliance: &str, latency_ms: u64, regions: u32, users: u64) -> Profile {
    Profile {
        budget_cents: Some(budget * 100),
        quantities: [("vehicles".to_owned(), vehicles)].into(),
        locations: vec!["us".to_owned()],
        regions: Some(regions),
        compliance: if compliance.is_empty() { vec![] } else { vec![compliance.to_owned()] },
        latency_ms: Some(latency_ms),
        users: Some(users),
        ..Profile::default()
    }
}
