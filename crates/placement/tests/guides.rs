//! What the guides claim of costs, beside what their own price lists give.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use berth_placement::{Catalogue, guides};
use jiff::civil::date;

fn catalogue() -> Catalogue {
    Catalogue::shipped(date(2026, 11, 21)).unwrap()
}

#[test]
fn the_table_in_the_documentation_is_what_the_catalogue_gives() {
    let docs = std::fs::read_to_string("../../docs/costs.md").unwrap();
    let table = guides::table(&catalogue());
    assert!(docs.contains(&table), "docs/costs.md needs this table:\n{table}");
}

#[test]
fn the_sums_are_those_of_the_reference() {
    let claims = guides::claims(&catalogue());
    let computed = |what: &str| {
        let claim = claims.iter().find(|claim| claim.what.contains(what)).unwrap_or_else(|| panic!("no {what}"));
        claim.computed.clone()
    };
    assert_eq!(computed("shared server, a month"), "EUR 83.81");
    assert_eq!(computed("starter at $49 on a stack of its own"), "-716.3 %");
    assert_eq!(computed("professional at $149 on a stack of its own"), "-436.9 %");
    assert_eq!(computed("business at $399 on a stack of its own"), "-200.8 %");
    assert_eq!(
        [computed("CX32 with"), computed("with CX42"), computed("with CX52")],
        ["EUR 25.85", "EUR 37.37", "EUR 56.57"]
    );
}
