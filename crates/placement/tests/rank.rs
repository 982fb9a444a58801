//! Cells for a tenant whose plan is settled: what is out, and which comes first.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use berth_domain::{CellClass, Cents};
use berth_placement::{CellFacts, Measured, Policy, Profile};
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
