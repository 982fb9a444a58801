//! Catalogues, profiles and policies as they arrive when something went wrong on the way: refused with a place, or an
//! assumption that is stated. Never a panic, never a guess.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use berth_domain::CellClass;
use berth_placement::{Catalogue, CellFacts, Fault, Measured, Mistake, Mistakes, Policy, Profile, Size};
use common::{TODAY, engine, engine_with, plans};

fn shipped() -> String {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/catalogue.yaml");
    std::fs::read_to_string(file).expect("it is part of the repository")
}

#[test]
fn a_catalogue_cut_off_anywhere_is_refused_with_what_is_missing_or_is_one() {
    let text = shipped();
    let whole = Catalogue::shipped(TODAY).unwrap();
    let (mut refused, mut taken) = (0, 0);
    for end in (0..text.len()).step_by(11).filter(|end| text.is_char_boundary(*end)) {
        match Catalogue::parse(&text[..end], TODAY) {
            Err(Mistakes(mistakes)) => {
                refused += 1;
                let placed = |it: &Mistake| !it.key.is_empty() || matches!(it.fault, Fault::Unreadable(_));
                let begun = text[..end].contains("version:");
                assert!(!mistakes.is_empty() && (!begun || mistakes.iter().all(placed)), "cut at {end}: {mistakes:?}");
            }
            // What stands before the cut is as it was; at most what the cut goes through is another.
            Ok(cut) => {
                taken += 1;
                assert_eq!((&cut.rates, &cut.locations), (&whole.rates, &whole.locations), "cut at {end}");
                assert_eq!((&cut.regions, &cut.compliance), (&whole.regions, &whole.compliance), "cut at {end}");
                let providers = cut.providers.iter().filter(|(name, it)| whole.providers.get(*name) != Some(*it));
                let offers = cut.offers.iter().filter(|(name, it)| whole.offers.get(*name) != Some(*it));
                let others: Vec<&String> =
                    providers.map(|(name, _)| name).chain(offers.map(|(name, _)| name)).collect();
                assert!(others.len() <= 1, "cut at {end}: {others:?}");
            }
        }
    }
    assert!(refused > taken && taken > 0, "{refused} refused, {taken} taken");
    let half = Catalogue::parse(&text[..text.len() / 2], TODAY).unwrap_err().to_string();
    let says = ["is missing", "cannot be read", "is not a map"];
    assert!(says.iter().any(|words| half.contains(words)), "{half}");
}

/// Laughs, nesting and doubled keys, in the words of any YAML reader.
fn bombs() -> Vec<String> {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let ten = vec![format!("*a{}", n - 1); 10].join(", ");
        laughs.extend([format!("a{n}: &a{n} [{ten}]\n")]);
    }
    let deep = |levels: usize| format!("quantities: {}{}", "[".repeat(levels), "]".repeat(levels));
    vec![laughs, deep(10_000), deep(5_000_000), "budget_cents: 1\nbudget_cents: 2\n".to_owned(), "\0\0".to_owned()]
}

#[test]
fn what_blows_up_is_refused_by_every_reader() {
    for text in bombs() {
        let shown = &text[..text.len().min(60)];
        assert!(Catalogue::over(&text, TODAY).is_err(), "{shown}");
        assert!(Profile::parse(&text).is_err(), "{shown}");
        assert!(Policy::parse(&text).is_err(), "{shown}");
    }
}

#[test]
fn impossible_numbers_prices_and_currencies_are_refused_with_their_key() {
    let price = |value: &str| format!("providers: {{ fly: {{ shapes: {{ ipv4: {{ price: {value} }} }} }} }}");
    for (text, says) in [
        (price("-2"), "`providers.fly.shapes.ipv4.price` is negative: -2"),
        (price(".nan"), "`providers.fly.shapes.ipv4.price`"),
        (price(".inf"), "`providers.fly.shapes.ipv4.price`"),
        (price("1e400"), "`providers.fly.shapes.ipv4.price`"),
        (price("two"), "`providers.fly.shapes.ipv4.price`"),
        ("providers: { fly: { currency: XXX } }".to_owned(), "`XXX`"),
        ("rates: { usd: { EUR: -1 } }".to_owned(), "`rates.usd.EUR`"),
        ("rates: { usd: { EUR: 0 } }".to_owned(), "`rates.usd.EUR`"),
        ("rates: { usd: { EUR: .nan } }".to_owned(), "`rates.usd.EUR`"),
        ("rates: { as_of: tomorrow }".to_owned(), "`rates.as_of`"),
        ("offers: { new: { class: shared, provider: fly, at: [[mars]], parts: {}, places: 1 } }".to_owned(), "`mars`"),
        ("providers: { fly: { regions: { iad: { region: atlantis } } } }".to_owned(), "`atlantis`"),
    ] {
        let found = Catalogue::over(&text, TODAY).map_or_else(|mistakes| mistakes.to_string(), |_| String::new());
        // What is no number at all is refused by the reader of the text, with its line.
        assert!(found.contains(says) || found.contains("at line 1"), "{text} gave: {found}");
    }
    // A region that something stands in cannot be taken away without a word.
    let text = shipped();
    let without = text.lines().filter(|line| !line.trim_start().starts_with("us-east:")).collect::<Vec<_>>();
    let found = Catalogue::parse(&without.join("\n"), TODAY).map_or_else(|m| m.to_string(), |_| String::new());
    assert!(found.contains("names the region `us-east`"), "{found}");
    for bad in ["latency_ms: -1", "latency_ms: 1.5", "latency_ms: .nan", "users: 1e400", "vehicels: 3", "[]", "x"] {
        assert!(Profile::parse(bad).is_err(), "{bad}");
    }
    for bad in ["planned_fill_percent: .nan", "cents_per_ms: 1e400", "rules: 3", "rules: [{ name: a }]", "surprise: 1"]
    {
        assert!(Policy::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_profile_with_nothing_in_it_is_answered_with_what_was_assumed() {
    for empty in ["", "{}", "\n\n"] {
        let decision = engine().decide("nobody", &Profile::parse(empty).unwrap(), 1).unwrap();
        assert_eq!(decision.class, Some(CellClass::Shared), "{decision:?}");
        let said = decision.reasons.join("\n");
        assert!(said.contains("exchange rates of"), "{said}");
        assert!(said.contains("assum") || said.contains("nothing") || said.contains("not said"), "{said}");
    }
}

#[test]
fn what_was_measured_in_a_cell_stands_before_what_is_claimed_of_it() {
    let cell = |name: &str, measured| CellFacts {
        name: name.to_owned(),
        class: CellClass::Shared,
        provider: "hetzner".to_owned(),
        sites: vec!["ash".to_owned()],
        tenants: 1,
        max_tenants: 150,
        takes_tenants: true,
        price_cents: None,
        promises: None,
        measured,
        size: Size::default(),
    };
    let near = Profile { locations: vec!["us".to_owned()], ..Profile::default() };
    let ask = |latency_ms| Profile { latency_ms: Some(latency_ms), ..near.clone() };
    let claimed = engine_with(plans(), vec![cell("a", Measured::default())], Policy::default());
    let stated = claimed.cell_latency("a").into_iter().find(|(name, ..)| name == "north-america").unwrap();
    let (worse, better) = (u64::from(stated.1) + 40, u64::from(stated.1) - 10);
    // Slower than it was claimed: no place any more for whom the claim would do.
    let slow = Measured::of(Some(worse as f64), None);
    let engine = engine_with(plans(), vec![cell("a", slow)], Policy::default());
    let decision = engine.decide("t", &ask(u64::from(stated.1)), 1).unwrap();
    assert_ne!(decision.cell.as_deref(), Some("a"), "{decision:?}");
    // Faster: it will do for whom the claim would not.
    let fast = Measured::of(Some(better as f64), None);
    let engine = engine_with(plans(), vec![cell("a", fast)], Policy::default());
    let decision = engine.decide("t", &ask(better), 1).unwrap();
    assert_eq!(decision.cell.as_deref(), Some("a"), "{decision:?}");
    assert!(decision.reasons.join(" ").contains("by what was measured"), "{:?}", decision.reasons);
    // Who is far waits for the way above all, and nobody measured that.
    let far = Profile { locations: vec!["sg".to_owned()], ..Profile::default() };
    let said = engine.decide("t", &Profile { cell: Some("a".to_owned()), ..far }, 1).unwrap().reasons.join("\n");
    assert!(said.contains("computed from the distance") && !said.contains("measured"), "{said}");
    // The same with throughput: more was claimed than it takes.
    let busy = Measured::of(None, Some(7.0));
    let engine = engine_with(plans(), vec![cell("a", busy)], Policy::default());
    let refused = engine.decide("t", &Profile { throughput_per_s: Some(8), ..near }, 1).unwrap().refused;
    assert!(refused.iter().any(|r| r.cell.as_deref() == Some("a") && r.has == "7"), "{refused:?}");
    // A reason says of each figure whether it was measured or is somebody's word.
    let asked =
        Profile { locations: vec!["us".to_owned()], throughput_per_s: Some(7), users: Some(5), ..Profile::default() };
    let said = engine.decide("t", &asked, 1).unwrap().reasons.join("\n");
    assert!(said.contains("throughput_per_s 7 wanted, it has 7, measured"), "{said}");
    assert!(said.contains("users 5 wanted, it has 50, claimed") && said.contains("by what is claimed"), "{said}");
    let said = claimed.decide("t", &asked, 1).unwrap().reasons.join("\n");
    assert!(said.contains("throughput_per_s 7 wanted, it has 100, claimed"), "{said}");
}
