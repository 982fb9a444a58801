//! What holds for every profile: no hard constraint broken, nothing weaker for asking more, always the same answer.
//!
//! The checker reads the catalogue and the plans itself and shares no code with the engine's own filter.
//! `scripts/soak decide` asks ten million profiles, `BERTH_PROFILES` any number.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use berth_domain::{CellClass, Cents};
use berth_placement::{
    Catalogue, CellFacts, Decision, Engine, Measured, Offer, Policy, Profile, Promises, Provider, Shape, Size,
};
use common::{engine_with, plans};
use std::collections::BTreeMap;

/// Numbers that are the same on every run and machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
    fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| value(self))
    }
}

const PLACES: &[&str] = &["us", "eu", "br", "africa", "sg"];
const STANDARDS: &[&str] = &["gdpr", "iso27001", "soc2", "hipaa"];
const JURISDICTIONS: &[&str] = &["eu", "us", "de", "fi", "sg"];

fn any_profile(dice: &mut Dice) -> Profile {
    let mut quantities = BTreeMap::new();
    for (name, most) in [("vehicles", 700), ("gps_points_per_day", 12_000_000), ("geofences", 1200)] {
        if dice.below(3) > 0 {
            // Small values are as likely as large ones: limits lie at all sizes.
            let bits = dice.below(65 - u64::from(u64::leading_zeros(most)));
            quantities.insert(name.to_owned(), dice.below((1 << bits) + 1).min(most));
        }
    }
    Profile {
        budget_cents: dice.maybe(|d| d.below(60_000)),
        quantities,
        locations: (0..dice.below(3)).map(|_| dice.pick(PLACES).to_owned()).collect(),
        regions: dice.maybe(|d| 1 + d.below(4) as u32),
        compliance: (0..dice.below(3)).map(|_| dice.pick(STANDARDS).to_owned()).collect(),
        residency: (dice.below(4) == 0).then(|| dice.pick(JURISDICTIONS).to_owned()),
        region: (dice.below(8) == 0).then(|| dice.pick(&["fsn1", "iad", "ash"]).to_owned()),
        latency_ms: dice.maybe(|d| 1 + d.below(300)),
        throughput_per_s: dice.maybe(|d| d.below(12_000)),
        users: dice.maybe(|d| d.below(600)),
        upload_bytes: dice.maybe(|d| d.below(600 << 20)),
        growth_percent_per_month: (dice.below(4) == 0).then(|| dice.below(50) as u32),
        cell: (dice.below(3) == 0).then(|| dice.pick(&["eu-1", "eu-2", "us-1", "own-1", "full-1"]).to_owned()),
        ..Profile::default()
    }
}

fn cells() -> Vec<CellFacts> {
    let cell = |name: &str, class, provider: &str, sites: &[&str], tenants, max_tenants| CellFacts {
        name: name.to_owned(),
        class,
        provider: provider.to_owned(),
        sites: sites.iter().map(|site| (*site).to_owned()).collect(),
        tenants,
        max_tenants,
        takes_tenants: true,
        price_cents: None,
        promises: None,
        measured: Measured::default(),
        size: Size::default(),
    };
    vec![
        cell("eu-1", CellClass::Shared, "hetzner-robot", &["fsn1"], 100, 150),
        cell("eu-2", CellClass::Shared, "hetzner-robot", &["fsn1"], 20, 150),
        cell("us-1", CellClass::Shared, "hetzner", &["ash"], 80, 80),
        cell("full-1", CellClass::Shared, "hetzner-robot", &["hel1"], 150, 150),
        cell("pool-1", CellClass::Pool, "fly", &["iad"], 3, 50),
        cell("own-1", CellClass::Dedicated, "fly", &["iad"], 1, 1),
        cell("own-2", CellClass::Dedicated, "hetzner", &["fsn1"], 0, 1),
    ]
}

/// What a cell costs and gives, claimed, measured or unknown: of each engine another fleet.
fn figured(dice: &mut Dice) -> Vec<CellFacts> {
    let mut cells = cells();
    for cell in &mut cells {
        cell.price_cents = dice.maybe(|d| Cents::new(1 + d.below(40_000) as i64));
        cell.tenants = dice.below(u64::from(cell.max_tenants) + 1) as u32;
        cell.takes_tenants = dice.below(8) > 0;
        let near_ms = (dice.below(3) == 0).then(|| 0.5 + dice.below(4000) as f64 / 10.0);
        let throughput = (dice.below(3) == 0).then(|| dice.below(120_000) as f64 / 10.0);
        cell.measured = Measured::of(near_ms, throughput);
        cell.promises = (dice.below(4) == 0).then(|| Promises {
            throughput_per_s: dice.maybe(|d| d.below(12_000)),
            users: dice.maybe(|d| d.below(600)),
            upload_bytes: dice.maybe(|d| d.below(600 << 20)),
        });
        cell.size = Size {
            cpu_millis: dice.maybe(|d| 250 << d.below(5)),
            memory_mib: dice.maybe(|d| 256 << d.below(5)),
            disk_gib: dice.maybe(|d| 5 << d.below(7)),
        };
    }
    cells
}

fn engine() -> Engine {
    engine_of(cells(), Policy::default())
}

/// A policy of one's own that says nothing of standards.
fn lax() -> Policy {
    let mut policy = Policy::default();
    policy.rules.retain(|rule| rule.when.compliance.is_empty());
    policy
}

fn engine_of(cells: Vec<CellFacts>, policy: Policy) -> Engine {
    let mut plans = plans();
    let mut pooled = plans[1].clone();
    "team".clone_into(&mut pooled.name);
    pooled.class = Some(CellClass::Pool);
    pooled.price_cents = Cents::new(2900);
    plans.push(pooled);
    engine_with(plans, cells, policy)
}

/// A kilometre there and back, over cables that are half again as long, at 200 km a millisecond.
const WAY_MS_PER_KM: f64 = 0.015;

/// How long users of a location wait, reckoned from the catalogue's points and not by the engine: who is near its home
/// waits for what was measured or is claimed there, everybody else for the way on top.
fn waits(
    catalogue: &Catalogue,
    provider: &Provider,
    cell: Option<&CellFacts>,
    sites: &[String],
    location: usize,
) -> f64 {
    let there = &catalogue.locations[location];
    let point = |lat: f64, lon: f64| {
        let (lat, lon) = (lat.to_radians(), lon.to_radians());
        [lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()]
    };
    let from = |(n, name): (usize, &String)| {
        let site = &provider.sites[name];
        let measured = cell.and_then(|cell| cell.measured.near_ms).filter(|_| n == 0);
        let near = f64::from(measured.or(site.near_ms)?);
        let region = &catalogue.regions[site.region];
        if region.location == location {
            return Some(near);
        }
        let (a, b) = (point(region.lat, region.lon), point(there.lat, there.lon));
        // The angle between the two directions from the centre of the Earth.
        let along = (a[0] * b[0] + a[1] * b[1] + a[2] * b[2]).clamp(-1.0, 1.0).acos();
        Some(near + along * 6371.0 * WAY_MS_PER_KM)
    };
    sites.iter().enumerate().filter_map(from).fold(f64::INFINITY, f64::min)
}

/// What is broken by this answer, in words; empty when nothing is.
fn broken(engine: &Engine, profile: &Profile, decision: &Decision) -> Vec<String> {
    let catalogue = engine.catalogue();
    let Some(class) = decision.class else { return Vec::new() };
    let mut broken = Vec::new();
    let mut check = |fine: bool, what: &str| {
        if !fine {
            broken.push(what.to_owned());
        }
    };
    let provider = &catalogue.providers[decision.provider.as_ref().unwrap()];
    let asks = |word: &str| profile.compliance.iter().any(|c| c == word);
    check(!(asks("soc2") || asks("hipaa")) || class == CellClass::Dedicated, "regulated and not alone");
    for word in &profile.compliance {
        let bit = 1 << catalogue.compliance.iter().position(|known| known == word).unwrap();
        check(provider.compliance & bit != 0, word);
    }
    let sites: Vec<_> = decision.regions.iter().map(|name| &provider.sites[name]).collect();
    if let Some(residency) = &profile.residency {
        let inside = sites.iter().all(|site| catalogue.regions[site.region].residency.contains(residency));
        check(inside, "residency");
    }
    check(profile.region.as_ref().is_none_or(|region| decision.regions.first() == Some(region)), "region");
    let mut distinct: Vec<_> = sites.iter().map(|site| site.region).collect();
    distinct.sort_unstable();
    distinct.dedup();
    check(distinct.len() as u32 >= profile.regions.unwrap_or(1), "regions");
    let cell = decision.cell.as_ref().map(|name| engine.cells().iter().find(|cell| cell.name == *name).unwrap());
    if let Some(latency) = profile.latency_ms {
        let waits = |location: usize| waits(catalogue, provider, cell, &decision.regions, location);
        let said: Vec<f64> = profile.locations.iter().map(|word| waits(catalogue.location(word).unwrap())).collect();
        // Nobody said where the users are: those near it are meant.
        let nearest = (0..catalogue.locations.len()).map(waits).fold(f64::INFINITY, f64::min);
        let worst = said.into_iter().reduce(f64::max).unwrap_or(nearest);
        // Half a millisecond is how far a rounded way may be off.
        check(worst <= latency as f64 + 0.5, "latency");
    }
    let plan = engine.plans().iter().find(|plan| Some(&plan.name) == decision.plan.as_ref()).unwrap();
    check(plan.class == Some(class), "the plan is not sold with this class");
    let growth = u64::from(profile.growth_percent_per_month.unwrap_or(0));
    for (name, amount) in &profile.quantities {
        let next_month = amount * (100 + growth);
        check(plan.quantities.get(name).is_none_or(|limit| next_month <= limit * 100), name);
    }
    check(u64::from(profile.regions.unwrap_or(1)) <= plan.quantities["regions"], "regions of the plan");
    check(profile.upload_bytes.is_none_or(|upload| upload <= plan.body_bytes.unwrap()), "upload of the plan");
    if let (Some(name), Some(cell)) = (&decision.cell, cell) {
        check(cell.takes_tenants, "the cell takes nobody");
        check(cell.class == class, "the cell has another class");
        check(cell.tenants < cell.max_tenants || profile.cell.as_ref() == Some(name), "the cell is full");
        check(cell.sites == decision.regions, "the cell is elsewhere");
    }
    let alike = catalogue.offers.values().filter(|offer| {
        offer.class == class
            && Some(&offer.provider) == decision.provider.as_ref()
            && offer.at.contains(&decision.regions)
    });
    let alike: Vec<_> = alike.collect();
    let own = cell.and_then(|cell| cell.promises);
    let promised = |figure: fn(&Promises) -> Option<u64>, wanted: Option<u64>| {
        let Some(wanted) = wanted else { return true };
        match own {
            Some(own) => figure(&own).is_some_and(|has| has >= wanted),
            None => alike.iter().filter_map(|offer| figure(&offer.promises)).any(|has| has >= wanted),
        }
    };
    match cell.and_then(|cell| cell.measured.throughput_per_s) {
        Some(measured) => {
            check(profile.throughput_per_s.is_none_or(|wanted| wanted <= measured), "measured throughput");
        }
        None => check(promised(|p| p.throughput_per_s, profile.throughput_per_s), "throughput"),
    }
    check(promised(|p| p.users, profile.users), "users");
    check(promised(|p| p.upload_bytes, profile.upload_bytes), "upload of the place");
    // A cell of one's own is as large as the plan promises, as far as anybody said how large it is.
    let wanted = [plan.cpu_millis, plan.memory_mib, plan.disk_gib];
    let holds =
        |has: [Option<u64>; 3]| has.into_iter().zip(wanted).all(|(has, wanted)| has.is_none_or(|n| n >= wanted));
    let large = |offer: &Offer| {
        let all = |figure: fn(&Shape) -> u64| {
            Some(offer.parts.iter().map(|(part, count)| figure(&provider.shapes[part]) * count).sum::<u64>())
        };
        holds([all(|shape| shape.cpu_millis), all(|shape| shape.memory_mib), all(|shape| shape.disk_gib)])
    };
    let enough = match cell {
        Some(cell) => holds([cell.size.cpu_millis, cell.size.memory_mib, cell.size.disk_gib]),
        None => alike.iter().any(|offer| large(offer)),
    };
    check(class != CellClass::Dedicated || enough, "shape");
    // What one tenant bears: the whole cell over four fifths of its places, and none of it is lost by rounding.
    if let Some(cell) = cell.filter(|cell| cell.price_cents.is_some()) {
        let (price, cost) = (cell.price_cents.unwrap().get(), decision.monthly_cost_cents.unwrap().get());
        let payers = if cell.max_tenants > 1 { (i64::from(cell.max_tenants) * 4 / 5).max(1) } else { 1 };
        check(cost * payers >= price && (cost - 1) * payers < price, "cost");
    }
    let margin = decision.monthly_cost_cents.map(|cost| plan.price_cents.get() - cost.get());
    check(margin == decision.margin_cents.map(Cents::get), "margin");
    broken
}

/// The same profile, asking for more in one way.
fn stricter(dice: &mut Dice, profile: &Profile) -> Profile {
    let mut more = profile.clone();
    match dice.below(9) {
        0 => more.compliance.push(dice.pick(STANDARDS).to_owned()),
        1 => more.regions = Some(profile.regions.unwrap_or(1) + 1),
        2 => more.latency_ms = Some(profile.latency_ms.map_or(1 + dice.below(300), |ms| 1 + dice.below(ms))),
        3 => more.throughput_per_s = Some(profile.throughput_per_s.unwrap_or(0) + dice.below(5000)),
        4 => more.users = Some(profile.users.unwrap_or(0) + dice.below(300)),
        5 => more.upload_bytes = Some(profile.upload_bytes.unwrap_or(0) + dice.below(100 << 20)),
        6 => more.locations.push(dice.pick(PLACES).to_owned()),
        7 => more.residency = profile.residency.clone().or_else(|| Some(dice.pick(JURISDICTIONS).to_owned())),
        _ => {
            let name = dice.pick(&["vehicles", "gps_points_per_day", "geofences"]);
            *more.quantities.entry(name.to_owned()).or_default() += dice.below(1000);
        }
    }
    more
}

#[expect(clippy::disallowed_methods, reason = "the soak says how many")]
fn count() -> u64 {
    std::env::var("BERTH_PROFILES").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000)
}

#[expect(clippy::disallowed_methods, reason = "the soak says which")]
fn round() -> u64 {
    std::env::var("BERTH_ROUND").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[test]
fn no_profile_breaks_a_hard_constraint_and_asking_more_never_gets_less() {
    // Each round of the soak throws other dice; the tests always throw the same.
    let mut dice = Dice(0x0bea_75ee_d5ee_d001 ^ round().wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut engines = vec![engine()];
    engines.extend((0..31).map(|n| engine_of(figured(&mut dice), if n % 4 == 0 { lax() } else { Policy::default() })));
    let (mut placed, mut nothing) = (0_u64, 0_u64);
    for n in 0..count() {
        let engine = &engines[(n % 32) as usize];
        let profile = any_profile(&mut dice);
        let more = stricter(&mut dice, &profile);
        let quick = engine.decide_quickly(&profile).unwrap();
        let strict = engine.decide_quickly(&more).unwrap();
        assert_eq!(quick, engine.decide_quickly(&profile).unwrap(), "asked twice: {profile:?}");
        match (quick, strict) {
            (Some((class, ..)), Some((stricter, ..))) => assert!(stricter >= class, "{profile:?} {more:?}"),
            (None, Some(strict)) => panic!("asking more found {strict:?}: {profile:?} {more:?}"),
            _ => {}
        }
        if quick.is_some() {
            placed += 1;
        } else {
            nothing += 1;
        }
        // The whole answer is checked for a hundredth, its choice being the same: explaining takes a hundred times as long.
        let decision = if n % 100 == 0 {
            let decision = engine.decide("t", &profile, 7).unwrap();
            assert_eq!(decision, engine.decide("t", &profile, 7).unwrap());
            assert!((0.0..=1.0).contains(&decision.confidence));
            decision
        } else {
            engine.choice(&profile).unwrap()
        };
        let quick = quick.map(|(class, plan, provider)| (class, plan.to_owned(), provider.to_owned()));
        assert_eq!(
            quick,
            decision.class.map(|c| (c, decision.plan.clone().unwrap(), decision.provider.clone().unwrap()))
        );
        let broken = broken(engine, &profile, &decision);
        assert!(broken.is_empty(), "{broken:?}: {profile:?} {decision:#?}");
    }
    // A property that holds because nothing is ever placed would hold of an empty program too.
    assert!(placed * 10 > count() && nothing * 10 > count(), "{placed} placed, {nothing} not");
}

#[test]
fn a_flip_changes_the_answer_and_nothing_less_of_that_field_does() {
    let engine = engine();
    let mut dice = Dice(77);
    let mut seen = 0;
    for _ in 0..300 {
        let profile = any_profile(&mut dice);
        let decision = engine.decide("t", &profile, 7).unwrap();
        let Some(flip) = decision.flip else { continue };
        let Some(to) = flip.to.as_u64() else { continue };
        let set = |to: u64| {
            let mut other = profile.clone();
            match flip.field.as_str() {
                "latency_ms" => other.latency_ms = Some(to),
                "users" => other.users = Some(to),
                "throughput_per_s" => other.throughput_per_s = Some(to),
                "upload_bytes" => other.upload_bytes = Some(to),
                "regions" => other.regions = Some(to as u32),
                name => _ = other.quantities.insert(name.to_owned(), to),
            }
            engine.choice(&other).unwrap()
        };
        // Growth is applied to what a profile says, while a flip speaks of what is judged.
        if profile.growth_percent_per_month.is_some() || profile.quantities.contains_key("regions") {
            continue;
        }
        let answer = |d: &Decision| (d.class, d.plan.clone(), d.provider.clone(), d.regions.clone());
        let here = answer(&engine.choice(&profile).unwrap());
        assert_ne!(here, answer(&set(to)), "{flip:?} {profile:?}");
        if let Some(from) = flip.from.as_u64() {
            let nearly = if to > from { to - 1 } else { to + 1 };
            if nearly != from {
                assert_eq!(here, answer(&set(nearly)), "{flip:?} {profile:?}");
            }
        }
        seen += 1;
    }
    assert!(seen > 100, "{seen}");
}
