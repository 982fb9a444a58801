//! Cells for a tenant whose plan is settled: what is out, and which comes first.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use berth_domain::{CellClass, Cents};
use berth_placement::{CellFacts, Measured, Policy, Profile, Size};
use common::{engine_with, plans};

fn cell(name: &str, site: &str, tenants: u32, price: i64) -> CellFacts {
    CellFacts {
        name: name.to_owned(),
        class: CellClass::Shared,
        provider: "hetzner".to_owned(),
        sites: vec![site.to_owned()],
        tenants,
        max_tenants: 10,
        takes_tenants: true,
        price_cents: Some(Cents::new(price)),
        promises: None,
        measured: Measured::default(),
        size: Size::default(),
    }
}

#[test]
fn the_cheapest_comes_first_then_the_emptiest_then_the_first_by_name() {
    let cells = vec![
        cell("dear", "fsn1", 0, 9_000),
        cell("fuller", "fsn1", 5, 5_000),
        cell("b-empty", "fsn1", 1, 5_000),
        cell("a-empty", "fsn1", 1, 5_000),
        cell("full", "fsn1", 10, 1_000),
        CellFacts { takes_tenants: false, ..cell("draining", "fsn1", 0, 1_000) },
        CellFacts { class: CellClass::Dedicated, max_tenants: 1, ..cell("own", "fsn1", 0, 1_000) },
    ];
    let engine = engine_with(plans(), cells, Policy::default());
    let ranked = |plan: &str| engine.cells_for(CellClass::Shared, plan, &Profile::default()).unwrap();
    assert_eq!(ranked("hobby"), ["a-empty", "b-empty", "fuller", "dear"]);
    assert_eq!(ranked("a plan that is gone"), ranked("hobby"));
    assert_eq!(engine.cells_for(CellClass::Dedicated, "starter", &Profile::default()).unwrap(), ["own"]);
}

#[test]
fn a_cell_that_breaks_what_the_tenant_needs_is_left_out() {
    let cells = vec![cell("europe", "fsn1", 0, 5_000), cell("america", "ash", 0, 4_000)];
    let engine = engine_with(plans(), cells, Policy::default());
    let here = Profile { residency: Some("eu".to_owned()), ..Profile::default() };
    assert_eq!(engine.cells_for(CellClass::Shared, "hobby", &here).unwrap(), ["europe"]);
    let nowhere = Profile { compliance: vec!["hipaa".to_owned()], ..Profile::default() };
    assert!(engine.cells_for(CellClass::Shared, "hobby", &nowhere).unwrap().is_empty());
    let wrong = Profile { residency: Some("mars".to_owned()), ..Profile::default() };
    assert!(engine.cells_for(CellClass::Shared, "hobby", &wrong).is_err());
}

#[test]
fn whoever_has_to_live_alone_is_given_no_cell_that_others_live_in() {
    // Fly meets HIPAA, and a pool there is still full of others.
    let there = |name: &str, class, max_tenants| CellFacts {
        class,
        provider: "fly".to_owned(),
        max_tenants,
        ..cell(name, "iad", 0, 5_000)
    };
    let cells = vec![there("pool", CellClass::Pool, 10), there("own", CellClass::Dedicated, 1)];
    let mut plans = plans();
    plans[0].class = Some(CellClass::Pool);
    let engine = engine_with(plans, cells, Policy::default());
    let profile = Profile { compliance: vec!["hipaa".to_owned()], ..Profile::default() };
    assert_eq!(engine.cells_for(CellClass::Pool, "hobby", &Profile::default()).unwrap(), ["pool"]);
    assert!(engine.cells_for(CellClass::Pool, "hobby", &profile).unwrap().is_empty());
    assert_eq!(engine.cells_for(CellClass::Dedicated, "starter", &profile).unwrap(), ["own"]);
    let lacks = engine.lacks("pool", "hobby", &profile).unwrap().unwrap();
    assert_eq!((lacks.constraint.as_str(), lacks.wanted.as_str()), ("compliance", "hipaa"), "{lacks:?}");
    assert!(lacks.has.contains("regulated"), "{lacks:?}");
    assert_eq!(engine.lacks("own", "starter", &profile).unwrap(), None);
    assert!(engine.class_lacks(CellClass::Pool, &profile).unwrap().is_some());
    assert!(engine.class_lacks(CellClass::Dedicated, &profile).unwrap().is_none());
}

#[test]
fn whoever_leaves_a_cell_need_not_find_what_it_does_not_keep_and_loses_nothing_that_it_does() {
    let cells =
        vec![cell("here", "fsn1", 1, 5_000), cell("as-good", "fsn1", 2, 5_000), cell("america", "ash", 0, 4_000)];
    let own = CellFacts { class: CellClass::Dedicated, max_tenants: 1, ..cell("own", "fsn1", 1, 5_000) };
    let engine = engine_with(plans(), cells.into_iter().chain([own]).collect(), Policy::default());
    let european = Profile { residency: Some("eu".to_owned()), ..Profile::default() };
    let needs = Profile { compliance: vec!["hipaa".to_owned()], ..european.clone() };
    let leaving = |cell: &str, needs: &Profile| Profile { cell: Some(cell.to_owned()), ..needs.clone() };
    let ranked = |profile: &Profile| engine.cells_for(CellClass::Shared, "hobby", profile).unwrap();
    assert!(ranked(&needs).is_empty());
    assert_eq!(ranked(&leaving("here", &needs)), ["here", "as-good"]);
    assert_eq!(engine.lacks("as-good", "hobby", &leaving("here", &needs)).unwrap(), None);
    let lacks = engine.lacks("america", "hobby", &leaving("here", &needs)).unwrap().unwrap();
    assert_eq!((lacks.constraint.as_str(), lacks.wanted.as_str(), lacks.has.as_str()), ("residency", "eu", "us"));
    // A cell with others in it is worse than one of its own.
    assert!(ranked(&leaving("own", &needs)).is_empty());
    // What keeps all of it comes first, whatever it costs.
    assert_eq!(ranked(&leaving("america", &european)), ["here", "as-good", "america"]);
}

#[test]
fn what_a_cell_lacks_is_said_as_a_decision_says_it() {
    let size = Size { memory_mib: Some(512), ..Size::default() };
    let own = CellFacts { class: CellClass::Dedicated, max_tenants: 1, size, ..cell("own", "fsn1", 0, 5_000) };
    let engine = engine_with(plans(), vec![cell("america", "ash", 0, 4_000), own.clone()], Policy::default());
    let said = |cell: &str, plan: &str, profile: &Profile| {
        let lacks = engine.lacks(cell, plan, profile).unwrap();
        lacks.map(|it| (it.constraint, it.wanted, it.has))
    };
    let triple = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
    let eu = Profile { residency: Some("eu".to_owned()), ..Profile::default() };
    assert_eq!(said("america", "hobby", &eu), triple("residency", "eu", "us"));
    let decision = engine.decide("t", &eu, 1).unwrap();
    let refused = decision.refused.iter().find(|it| it.cell.as_deref() == Some("america")).unwrap();
    assert_eq!(said("america", "hobby", &eu), triple(&refused.constraint, &refused.wanted, &refused.has));
    let bound = Profile { region: Some("fsn1".to_owned()), ..Profile::default() };
    assert_eq!(said("america", "hobby", &bound), triple("region", "fsn1", "ash"));
    // Large enough for one plan and not for the next; what nobody said of its disk is not held against it.
    assert_eq!(said("own", "starter", &Profile::default()), None);
    let promised = "0 mCPU, 1024 MiB, 50 GiB";
    assert_eq!(said("own", "professional", &Profile::default()), triple("shape", promised, "512 MiB"));
    assert_eq!(said("own", "a plan that is gone", &Profile::default()), None);
    // One that would be made is judged like one that stands.
    let lacks = engine.new_lacks(&own, "professional", &Profile::default()).unwrap().unwrap();
    assert_eq!((lacks.constraint.as_str(), lacks.class.as_deref()), ("shape", Some("dedicated")));
    assert!(engine.new_lacks(&own, "starter", &Profile::default()).unwrap().is_none());
}

#[test]
fn a_tenant_does_not_stay_in_a_cell_that_is_too_small_for_its_plan() {
    let sized = |name: &str, memory| CellFacts {
        class: CellClass::Dedicated,
        max_tenants: 1,
        size: Size { memory_mib: Some(memory), ..Size::default() },
        ..cell(name, "fsn1", 0, 5_000)
    };
    let small = CellFacts { tenants: 1, ..sized("small", 512) };
    let engine = engine_with(plans(), vec![small, sized("large", 1024)], Policy::default());
    let with = |vehicles| Profile {
        quantities: [("vehicles".to_owned(), vehicles)].into(),
        cell: Some("small".to_owned()),
        ..Profile::default()
    };
    let stays = engine.choice(&Profile { compliance: vec!["gdpr".to_owned()], ..with(20) }).unwrap();
    assert_eq!((stays.plan.as_deref(), stays.cell.as_deref()), (Some("starter"), Some("small")));
    let grown = engine.decide("t", &with(60), 1).unwrap();
    assert_eq!((grown.plan.as_deref(), grown.cell.as_deref()), (Some("professional"), Some("large")));
    assert!(grown.refused.iter().any(|r| r.cell.as_deref() == Some("small") && r.constraint == "shape"), "{grown:?}");
}
