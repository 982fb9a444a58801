//! The cost tables of the guides, recomputed from the catalogue beside what they claim. The claims are quotations; every
//! other figure is computed here, and the rates are the catalogue's.

use crate::{Catalogue, Micros};
use berth_domain::Cents;
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write as _};

/// One claim and what it comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    pub guide: &'static str,
    pub what: &'static str,
    pub claims: &'static str,
    /// `?`: the catalogue lacks a part.
    pub computed: String,
    pub note: &'static str,
}

/// Cents, in the currency that they are meant in.
fn sum(catalogue: &Catalogue, provider: &str, parts: &[(&str, u64)]) -> Option<i64> {
    let parts: BTreeMap<String, u64> = parts.iter().map(|(part, count)| ((*part).to_owned(), *count)).collect();
    let lines = catalogue.price_lines(provider, &parts)?;
    Some(lines.iter().fold(Micros(0), |sum, line| sum.plus(line.amount)).cents())
}

fn money(sign: &str, cents: i64) -> String {
    let minus = if cents < 0 { "-" } else { "" };
    format!("{minus}{sign}{}.{:02}", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100)
}

/// To a tenth of a percent, rounded half up.
fn margin(price: i64, cost_thousandths: i64) -> String {
    let permille = ((price * 10 - cost_thousandths) * 2000 + price * 10).div_euclid(price * 20);
    let minus = if permille < 0 { "-" } else { "" };
    format!("{minus}{}.{} %", permille.unsigned_abs() / 10, permille.unsigned_abs() % 10)
}

/// Thousandths of a unit: a share of a shared server is less than a dollar.
fn share(cents: i64, of: i64) -> i64 {
    (cents * 10 * 2 + of).div_euclid(of * 2)
}

fn shared_claims(catalogue: &Catalogue) -> Vec<Claim> {
    const GUIDE: &str = "WebHost";
    let parts = [("ax52", 1), ("storage-box", 1), ("domain-tls", 1), ("monitoring", 1)];
    let euros = sum(catalogue, "hetzner-robot", &parts);
    let dollars = euros.and_then(|cents| catalogue.rates.usd_cents(Micros(cents * 10_000), "EUR")).map(Cents::get);
    let computed = |it: Option<String>| it.unwrap_or_else(|| "?".to_owned());
    let each = dollars.map(|cents| share(cents, 150));
    let dollar_share = |t: i64| format!("${}.{:03}", t / 1000, t % 1000);
    vec![
        Claim {
            guide: GUIDE,
            what: "shared server, a month",
            claims: "EUR 83",
            computed: computed(euros.map(|c| money("EUR ", c))),
            note: "65 + 3.81 + 10 + 5",
        },
        Claim {
            guide: GUIDE,
            what: "the same in dollars",
            claims: "$89",
            computed: computed(dollars.map(|c| money("$", c))),
            note: "at the catalogue's rate; the guide's own dollar figures add up to $90.15",
        },
        Claim {
            guide: GUIDE,
            what: "each of 150 tenants",
            claims: "$0.59",
            computed: computed(each.map(dollar_share)),
            note: "a full house; at four fifths of it $0.768",
        },
        Claim {
            guide: GUIDE,
            what: "margin of hobby at $15, 150 tenants",
            claims: "96.1 %",
            computed: computed(each.map(|t| margin(1500, t))),
            note: "",
        },
        Claim {
            guide: GUIDE,
            what: "margin of hobby at $15, 30 tenants",
            claims: "-",
            computed: computed(dollars.map(|c| margin(1500, share(c, 30)))),
            note: "what the first months look like",
        },
        Claim {
            guide: GUIDE,
            what: "tenants to break even, hobby",
            claims: "6",
            computed: computed(dollars.map(|c| ((c + 1499) / 1500).to_string())),
            note: "six pay $90.00",
        },
    ]
}

fn dedicated_claims(catalogue: &Catalogue) -> Vec<Claim> {
    const GUIDE: &str = "WebHost";
    let mut claims = Vec::new();
    let tiers = [
        ("guide-starter-stack", 4900, 50, ["starter at $49 on a stack of its own", "the same shared by 50"], "83.7 %"),
        (
            "guide-professional-stack",
            14_900,
            100,
            ["professional at $149 on a stack of its own", "the same shared by 100"],
            "94.6 %",
        ),
        (
            "guide-business-stack",
            39_900,
            20,
            ["business at $399 on a stack of its own", "the same shared by 20"],
            "85 %",
        ),
    ];
    for (stack, price, tenants, [own, shared], claimed) in tiers {
        let cents = sum(catalogue, "fly", &[(stack, 1)]);
        let computed = |it: Option<String>| it.unwrap_or_else(|| "?".to_owned());
        claims.push(Claim {
            guide: GUIDE,
            what: own,
            claims: claimed,
            computed: computed(cents.map(|c| margin(price, c * 10))),
            note: "what \"one cluster per customer\" means",
        });
        claims.push(Claim {
            guide: GUIDE,
            what: shared,
            claims: claimed,
            computed: computed(cents.map(|c| margin(price, share(c, tenants)))),
            note: "a pool, and not dedicated",
        });
    }
    claims
}

fn single_server_claims(catalogue: &Catalogue) -> Vec<Claim> {
    const REST: [(&str, u64); 5] =
        [("volume-gib", 100), ("lb11", 1), ("floating-ip", 1), ("backup", 1), ("snapshots", 1)];
    let with = |servers: &[(&'static str, u64)]| {
        let parts: Vec<(&str, u64)> = servers.iter().chain(&REST).copied().collect();
        sum(catalogue, "hetzner", &parts).map_or_else(|| "?".to_owned(), |c| money("EUR ", c))
    };
    let line = |what, claims, computed, note| Claim { guide: "Chrono Scraper", what, claims, computed, note };
    vec![
        line("CX32 with volume, balancer, address, backups, snapshots", "EUR 25.85", with(&[("cx32", 1)]), ""),
        line("the same with CX42", "EUR 35", with(&[("cx42", 1)]), "the backup is a fifth of the server's price"),
        line("the same with CX52", "EUR 48", with(&[("cx52", 1)]), "over the budget of EUR 50"),
        line(
            "phase 2: CX42 and two CX32, the rest as before",
            "EUR 55",
            with(&[("cx42", 1), ("cx32", 2)]),
            "the guide reckons EUR 25 for the rest",
        ),
    ]
}

/// Every claim, in the order of the guides.
pub fn claims(catalogue: &Catalogue) -> Vec<Claim> {
    let mut claims = shared_claims(catalogue);
    claims.extend(dedicated_claims(catalogue));
    claims.extend(single_server_claims(catalogue));
    claims
}

/// The same as a table of Markdown.
pub fn table(catalogue: &Catalogue) -> String {
    let mut text = String::from("| guide | what | it says | computed | |\n|---|---|---|---|---|\n");
    for c in claims(catalogue) {
        writeln!(text, "| {} | {} | {} | {} | {} |", c.guide, c.what, c.claims, c.computed, c.note)
            .expect("a String takes any text");
    }
    text
}
