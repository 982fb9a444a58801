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
    // Of the reference's parts 2.8.3, 4.3, 4.5 and 5.4: what is said, and what its own parts come to.
    assert_eq!([computed("hybrid"), computed("the same, hobby")], ["$492.19", "33"]);
    assert_eq!([computed("starter, tenants"), computed("business, tenants")], ["9", "4"]);
    assert_eq!([computed("without snapshots"), computed("budget left")], ["EUR 23.85", "EUR 24.15"]);
    assert_eq!([computed("timer at Azure"), computed("matching at Railway")], ["$14.30", "$10.00"]);
}
