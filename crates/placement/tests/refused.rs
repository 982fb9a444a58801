//! What is refused, and what is said of it: catalogues, profiles and policies that cannot be right.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use berth_domain::{CellClass, Cents};
use berth_placement::{
    Arch, Bounds, Catalogue, CellFacts, Engine, Measured, Policy, PolicyFault, Profile, Rule, Size, When,
    fleet::{PlacedTenant, plan},
};
use common::{TODAY, engine, engine_with, plans};
use jiff::civil::{Date, date};

fn mistakes(own: &str) -> String {
    Catalogue::over(own, TODAY).map_or_else(|mistakes| mistakes.to_string(), |_| String::new())
}

#[test]
fn the_shipped_catalogue_has_no_mistakes_and_every_offer_a_price() {
    let catalogue = Catalogue::shipped(TODAY).unwrap();
    for (name, place) in catalogue.places() {
        assert!(place.price_cents.is_some(), "{name}");
        assert!(place.latency_ms.iter().all(|(ms, _)| *ms != u32::MAX), "{name}");
    }
}

#[test]
fn every_mistake_of_a_catalogue_is_reported_at_once() {
    let text = mistakes(
        "rates: { usd: { EUR: 0 } }\n\
         regions: { moon: { title: Moon, lat: 99, lon: 0, location: luna } }\n\
         providers:\n\
         \x20 hetzner: { shapes: { cx22: { kind: server, price: -1 }, odd: { kind: server, price: 1, currency: CHF } } }\n\
         \x20 nova: { title: Nova, currency: XXX, checked: soon, source: s, regions: { a: { region: nowhere } } }\n\
         offers:\n\
         \x20 lost: { class: shared, provider: gone, at: [[x]], parts: { y: 1 }, places: 0 }\n\
         \x20 there: { class: dedicated, provider: fly, at: [[iad, mars]], parts: { z: 1 }, places: 2 }\n\
         unknown: 1\n",
    );
    let wanted = [
        "`unknown` is not a key here",
        "`rates.usd.EUR`",
        "`regions.moon.lat` is 99",
        "`regions.moon.location` names the location `luna`",
        "`providers.hetzner.shapes.cx22.price` is negative: -1",
        "`providers.hetzner.shapes.odd.currency` names the currency `CHF`",
        "`providers.nova.currency` names the currency `XXX`",
        "`providers.nova.checked` is not a date",
        "`providers.nova.regions.a.region` names the region `nowhere`",
        "`offers.lost.provider` names the provider `gone`",
        "`offers.lost.places` is 0",
        "`offers.there.at[0][1]` names the region `mars`",
        "`offers.there.parts.z` names the shape `z`",
        "`offers.there.places` is 2",
    ];
    for part in wanted {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn what_cannot_be_read_is_said_not_guessed() {
    for (text, part) in [
        ("a: [", "cannot be read"),
        ("a: 1\na: 2", "cannot be read"),
        ("[]", "maps"),
        (&"[".repeat(2000), "cannot be read"),
        (&format!("a: {}", "x".repeat(2 << 20)), "bytes are more than"),
    ] {
        let found = mistakes(text);
        assert!(found.contains(part) || found.contains("map of keys"), "{found}");
    }
    assert!(Catalogue::parse("", TODAY).is_err());
    assert!(Catalogue::parse("version: 2026-01-01", TODAY).unwrap_err().to_string().contains("`regions` is missing"));
}

#[test]
fn stale_rates_are_an_assumption_and_with_ancient_ones_foreign_prices_are_unknown() {
    assert!(!Catalogue::shipped(TODAY).unwrap().assumptions(TODAY).join(" ").contains("days old"));
    let later = date(2027, 3, 1);
    let said = Catalogue::shipped(later).unwrap().assumptions(later).join(" ");
    assert!(said.contains("the exchange rates are 100 days old"), "{said}");
    // A year on nobody's tenants may stop being placed: what has a price in dollars keeps it, the rest has none.
    let last = date(2028, 3, 1);
    let ancient = Catalogue::shipped(last).unwrap();
    let said = ancient.assumptions(last).join(" ");
    assert!(said.contains("not used past 400"), "{said}");
    assert!(!ancient.rates.knows("EUR") && ancient.rates.knows("USD"));
    let priced = |provider: &str| {
        ancient.places().iter().filter(|(_, p)| p.provider == provider).any(|(_, p)| p.price_cents.is_some())
    };
    assert!(priced("fly") && !priced("hetzner"));
    let engine = Engine::new(ancient.clone(), plans(), Vec::new(), Policy::default(), None, last).unwrap();
    let decision = engine.decide("t", &Profile::default(), 1).unwrap();
    assert!(decision.class.is_some() && decision.reasons.join(" ").contains("not used past 400"), "{decision:?}");
    // A price that only lacks a rate is not nothing: nobody is moved there to save what the other cell costs.
    let cell = |name: &str, provider: &str, site: &str| CellFacts {
        name: name.to_owned(),
        class: CellClass::Shared,
        provider: provider.to_owned(),
        sites: vec![site.to_owned()],
        tenants: 1,
        max_tenants: 10,
        takes_tenants: true,
        price_cents: None,
        promises: None,
        measured: Measured::default(),
        size: Size::default(),
    };
    let dollars = CellFacts { price_cents: Some(Cents::new(9_000)), ..cell("dollars", "fly", "iad") };
    let cells = vec![dollars, cell("euros", "hetzner", "fsn1")];
    let engine = Engine::new(ancient, plans(), cells, Policy::default(), Some(&[]), last).unwrap();
    let lives = |name: &str| PlacedTenant {
        name: format!("in-{name}"),
        plan: "hobby".to_owned(),
        profile: Profile { cell: Some(name.to_owned()), ..Profile::default() },
    };
    let (fleet, _) = engine.fleet(&[lives("dollars"), lives("euros")], Cents::new(25)).unwrap();
    let planned = plan(&fleet);
    assert_eq!((planned.moves, planned.before_cents, planned.wrong_after), (0, planned.after_cents, 0), "{planned:?}");
    // A currency that has no rate at all is a mistake as before.
    let own = "providers: { fly: { currency: XXX } }";
    assert!(Catalogue::over(own, last).unwrap_err().to_string().contains("XXX"));
}

#[test]
fn a_price_of_your_own_replaces_the_shipped_one_and_nothing_else() {
    let catalogue = Catalogue::over("providers: { hetzner: { shapes: { cx22: { price: 4.51 } } } }", TODAY).unwrap();
    let shape = &catalogue.providers["hetzner"].shapes["cx22"];
    assert_eq!((shape.price.unwrap().cents(), shape.memory_mib), (451, 4096));
}

#[test]
fn every_fault_of_a_profile_is_reported() {
    let profile: Profile = serde_json::from_str(
        r#"{"locations":["atlantis"],"compliance":["iso9001"],"residency":"mars","latency_ms":0,"regions":0,
            "quantities":{"vehicles":18446744073709551615}}"#,
    )
    .unwrap();
    let faults = engine().decide("t", &profile, 1).unwrap_err();
    let text: Vec<String> = faults.iter().map(ToString::to_string).collect();
    for part in ["atlantis", "iso9001", "mars", "`latency_ms` is 0", "`regions` is 0", "quantities.vehicles"] {
        assert!(text.iter().any(|fault| fault.contains(part)), "{part}: {text:?}");
    }
    assert!(serde_json::from_str::<Profile>(r#"{"vehicels": 3}"#).is_err());
    assert!(serde_json::from_str::<Profile>(r#"{"latency_ms": -3}"#).is_err());
}

fn rule(name: &str, vehicles: Bounds, allow: CellClass) -> Rule {
    let when = When { quantities: [("vehicles".to_owned(), vehicles)].into(), ..When::default() };
    Rule { name: name.to_owned(), when, allow: vec![allow] }
}

fn at_most(n: u64) -> Bounds {
    Bounds { at_least: None, at_most: Some(n) }
}

fn at_least(n: u64) -> Bounds {
    Bounds { at_least: Some(n), at_most: None }
}

#[test]
fn the_guides_rules_are_refused_with_the_vehicles_that_nobody_thought_of() {
    // "5 or fewer are shared, more than 10 dedicated": 6 to 10 is nobody's.
    let rules = vec![rule("small", at_most(5), CellClass::Shared), rule("large", at_least(11), CellClass::Dedicated)];
    let gap = Policy { rules, ..Policy::default() }.check().unwrap_err();
    assert_eq!(gap, PolicyFault::NotTotal { profile: "(vehicles 6)".to_owned() });
    // "More than 5 go up" and "fewer than 10 stay": 6 to 9 both.
    let rules = vec![rule("up", at_least(6), CellClass::Dedicated), rule("stays", at_most(9), CellClass::Shared)];
    let both = Policy { rules, ..Policy::default() }.check().unwrap_err();
    let PolicyFault::Contradiction { rules, profile } = both else { panic!("{both}") };
    assert_eq!((rules.len(), profile.as_str()), (2, "(vehicles 6)"));
}

#[test]
fn a_policy_that_gives_less_for_more_is_refused() {
    let rules = vec![rule("few", at_most(5), CellClass::Dedicated), rule("many", at_least(6), CellClass::Shared)];
    let fault = Policy { rules, ..Policy::default() }.check().unwrap_err();
    assert!(matches!(fault, PolicyFault::Weaker { from: CellClass::Dedicated, to: CellClass::Shared, .. }), "{fault}");
    assert!(Policy::default().check().is_ok() && Policy::default().check_alone().is_ok());
    assert!(matches!(
        Policy { planned_fill_percent: 0, ..Policy::default() }.check(),
        Err(PolicyFault::OutOfRange { .. })
    ));
}

#[test]
fn a_policy_that_holds_is_followed() {
    let mut small = rule("small", at_most(3), CellClass::Shared);
    // Whoever has to live alone has to be left a class.
    small.allow.push(CellClass::Dedicated);
    let rules = vec![small, rule("large", at_least(4), CellClass::Dedicated)];
    let engine = engine_with(plans(), Vec::new(), Policy { rules, ..Policy::default() });
    let with = |vehicles| Profile { quantities: [("vehicles".to_owned(), vehicles)].into(), ..Profile::default() };
    assert_eq!(engine.choice(&with(3)).unwrap().class, Some(CellClass::Shared));
    let four = engine.decide("t", &with(4), 1).unwrap();
    assert_eq!(four.class, Some(CellClass::Dedicated));
    assert!(four.refused.iter().any(|r| r.class.as_deref() == Some("shared") && r.has.contains("large")), "{four:#?}");
}

#[test]
fn no_policy_lets_the_regulated_share() {
    // It says nothing of standards, and who has to meet one is alone all the same.
    let own = Rule { name: "everybody".to_owned(), when: When::default(), allow: CellClass::ALL.to_vec() };
    let engine = engine_with(plans(), Vec::new(), Policy { rules: vec![own], ..Policy::default() });
    let under = |word: &str| Profile { compliance: vec![word.to_owned()], ..Profile::default() };
    for word in ["soc2", "hipaa", "SOC 2"] {
        let decision = engine.decide("t", &under(word), 1).unwrap();
        assert_eq!(decision.class, Some(CellClass::Dedicated), "{word}");
        let why = decision.refused.iter().find(|r| r.class.as_deref() == Some("shared")).unwrap();
        assert!(why.constraint == "compliance" && why.has.contains("lives alone"), "{why:?}");
    }
    assert_eq!(engine.choice(&under("iso27001")).unwrap().class, Some(CellClass::Shared));
    // One that leaves them no class is refused with the profile that shows it.
    let rules = vec![rule("small", at_most(3), CellClass::Shared), rule("large", at_least(4), CellClass::Dedicated)];
    let policy = Policy { rules, ..Policy::default() };
    // In force it is followed: they get no class, and everybody else what they got before.
    let engine = engine_with(plans(), Vec::new(), policy.clone());
    assert_eq!(engine.choice(&under("soc2")).unwrap().class, None);
    assert_eq!(engine.choice(&Profile::default()).unwrap().class, Some(CellClass::Shared));
    let fault = policy.check_alone().unwrap_err();
    let PolicyFault::Contradiction { rules, profile } = fault else { panic!("{fault}") };
    assert_eq!((rules.len(), profile.as_str()), (2, "(vehicles 0, soc2)"));
    let shares = Rule {
        name: "shares".to_owned(),
        when: When { compliance: vec!["hipaa".to_owned()], ..When::default() },
        allow: vec![CellClass::Shared],
    };
    let mut policy = Policy::default();
    policy.rules.retain(|rule| rule.name == "everybody");
    policy.rules.push(shares);
    assert_eq!(policy.check(), Ok(()));
    let fault = policy.check_alone().unwrap_err().to_string();
    assert!(fault.contains("`shares`") && fault.contains("hipaa"), "{fault}");
}

#[test]
fn a_credit_that_ends_is_said_before_and_after_with_what_a_month_then_costs() {
    let own = "providers: { railway: { credits: [{ what: trial, amount: 5.00, expires: 2026-12-10 }, \
               { what: in Hobby, amount: 5.00, expires: monthly }] } }";
    let catalogue = Catalogue::over(own, TODAY).unwrap();
    let said = |day: Date| -> Vec<String> {
        catalogue.assumptions(day).into_iter().filter(|line| line.contains("credit")).collect()
    };
    assert_eq!(said(date(2026, 11, 18)), [""; 0], "22 days before");
    let begins = "the credit of railway (trial) ";
    let ends: [(Date, &str); 4] = [
        (date(2026, 11, 19), "ends on 2026-12-10, in 21 days: a month there costs 5.00 USD more then"),
        (date(2026, 12, 9), "ends on 2026-12-10, tomorrow: a month there costs 5.00 USD more then"),
        (date(2026, 12, 10), "ends today: a month there costs 5.00 USD more from tomorrow"),
        (date(2026, 12, 11), "ended on 2026-12-10: a month there costs 5.00 USD more since"),
    ];
    for (day, words) in ends {
        assert_eq!(said(day), [format!("{begins}{words}")]);
    }
}

#[test]
fn a_shape_is_sold_where_it_is_sold_and_an_offer_elsewhere_is_refused() {
    let offer = |site: &str| {
        format!(
            "offers: {{ mine: {{ class: dedicated, provider: azure-container-apps, at: [[{site}]], \
             parts: {{ vcpu: 1, memory-gib: 2 }}, places: 1 }} }}"
        )
    };
    let catalogue = Catalogue::over(&offer("eastus"), TODAY).unwrap();
    let mine = &catalogue.offers["mine"];
    // 63.072 and twice 7.884.
    assert_eq!(catalogue.price_cents(&mine.provider, &mine.parts).unwrap().get(), 7884);
    let refused = mistakes(&offer("germanywestcentral"));
    assert!(refused.contains("offers.mine.parts.vcpu") && refused.contains("eastus"), "{refused}");
    let refused =
        mistakes("providers: { render: { shapes: { big: { kind: server, price: 1.00, regions: [moon] } } } }");
    assert!(refused.contains("providers.render.shapes.big.regions[0]"), "{refused}");
}

#[test]
fn a_machine_is_proposed_only_where_it_runs_the_same_programs_and_can_be_ordered() {
    let catalogue = Catalogue::shipped(TODAY).unwrap();
    let cheapest = |provider: &str, site: &str, arch, cpu, memory| {
        catalogue.cheapest_server(provider, &[site.to_owned()], arch, cpu, memory, 0).map(|(name, _)| name.to_owned())
    };
    // An ARM machine is the cheapest of this size, and no x86 program runs on it.
    assert_eq!(cheapest("hetzner", "fsn1", Arch::X86_64, 4000, 8192).as_deref(), Some("cx32"));
    assert_eq!(cheapest("hetzner", "fsn1", Arch::Aarch64, 4000, 8192).as_deref(), Some("cax21"));
    // The guide's sums for a whole stack are no machine of Fly's, and say so.
    assert_eq!(cheapest("fly", "iad", Arch::X86_64, 4000, 8192), None);
    let guide: Vec<_> =
        catalogue.providers["fly"].shapes.iter().filter(|(name, _)| name.starts_with("guide-")).collect();
    assert_eq!(guide.len(), 3);
    assert!(guide.iter().all(|(_, shape)| shape.source.as_ref().is_some_and(|source| source.contains("guide"))));
    let own = "providers: { fly: { shapes: { big: { kind: server, price: 9, arch: sparc } } } }";
    assert!(
        mistakes(own).contains("`providers.fly.shapes.big.arch` is not `x86_64` or `aarch64`"),
        "{}",
        mistakes(own)
    );
}

#[test]
fn traffic_is_part_of_what_a_tenant_costs_where_its_price_is_known() {
    let own =
        "offers: { new: { class: shared, provider: koyeb, at: [[sin], [was]], parts: { small: 1 }, places: 10 } }";
    let catalogue = Catalogue::over(own, TODAY).unwrap();
    let providers = ["koyeb".to_owned()];
    let engine = Engine::new(catalogue, plans(), Vec::new(), Policy::default(), Some(&providers), TODAY).unwrap();
    let quiet = Profile::default();
    let sends =
        |gib: u64| Profile { quantities: [("sent_bytes_per_month".to_owned(), gib << 30)].into(), ..quiet.clone() };
    // An eighth of the machine, whichever place comes first.
    let decision = engine.decide("t", &quiet, 1).unwrap();
    assert_eq!((decision.regions.join(" "), decision.monthly_cost_cents), ("sin".to_owned(), Some(Cents::new(134))));
    // Two cents a gibibyte there, and four here.
    let decision = engine.decide("t", &sends(100), 1).unwrap();
    assert_eq!((decision.regions.join(" "), decision.monthly_cost_cents), ("was".to_owned(), Some(Cents::new(334))));
    assert_eq!(decision.margin_cents, Some(Cents::new(1500 - 334)));
    assert!(decision.reasons.iter().any(|reason| reason == "$2.00 of its cost is traffic"), "{:?}", decision.reasons);
    // The room and the growth that a limit is judged with cost nothing yet.
    let grows = Profile { growth_percent_per_month: Some(50), ..sends(100) };
    let with_room = Profile { sent_bytes: Some(100 << 30), ..sends(125) };
    for profile in [grows, with_room] {
        assert_eq!(engine.decide("t", &profile, 1).unwrap().monthly_cost_cents, Some(Cents::new(334)));
    }
    // Whoever buys traffic as part of the cell does not pay for it twice.
    let own = "providers: { koyeb: { shapes: { lot: { kind: other, price: 5, egress_gib: 500 } } } }
offers: { new: { class: shared, provider: koyeb, at: [[was]], parts: { small: 1, lot: 1 }, places: 10 } }";
    let catalogue = Catalogue::over(own, TODAY).unwrap();
    let whole = Engine::new(catalogue, plans(), Vec::new(), Policy::default(), Some(&providers), TODAY).unwrap();
    let cost = |profile: &Profile| whole.decide("t", profile, 1).unwrap().monthly_cost_cents;
    assert!(cost(&quiet).is_some() && cost(&quiet) == cost(&sends(100)));
    // What nobody knows a price of costs nothing that anybody could say.
    let of = |profile: &Profile| common::engine().decide("t", profile, 1).unwrap().monthly_cost_cents;
    assert_eq!(of(&sends(100)), of(&quiet));
}

#[test]
fn what_is_claimed_of_a_place_has_the_names_of_what_is_measured() {
    let catalogue = Catalogue::shipped(TODAY).unwrap();
    let claimed = &catalogue.providers["hetzner-robot"].sites["fsn1"].benchmarks;
    assert_eq!(
        (claimed["ingest"].0, claimed["upload_10_mib"].0, claimed["websocket"].0),
        (500_000_000, 2_500_000, 30_000_000)
    );
    assert_eq!(catalogue.providers["fly"].sites["sin"].benchmarks["backup_1_gib"].0, 50_000_000);
    let wrong = mistakes("providers: { fly: { regions: { iad: { benchmarks: { speed: 3, api: -1 } } } } }");
    assert!(wrong.contains("benchmarks.speed") && wrong.contains("benchmarks.api"), "{wrong}");
}
