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

/// What the WebHost guide claims of years, servers of other sizes and its hybrid.
fn growth_claims(catalogue: &Catalogue) -> Vec<Claim> {
    let line = |what, claims, computed: Option<String>, note| Claim {
        guide: "WebHost",
        what,
        claims,
        computed: computed.unwrap_or_else(|| "?".to_owned()),
        note,
    };
    let dollars =
        |cents: i64, currency: &str| catalogue.rates.usd_cents(Micros(cents * 10_000), currency).map(Cents::get);
    let part = |provider: &str, part: &str, currency: &str| {
        sum(catalogue, provider, &[(part, 1)]).and_then(|cents| dollars(cents, currency))
    };
    let each =
        |cents: Option<i64>, of: i64| cents.map(|c| share(c, of)).map(|t| format!("${}.{:03}", t / 1000, t % 1000));
    let shared = [("ax52", 1), ("storage-box", 1), ("domain-tls", 1), ("monitoring", 1)];
    let shared = sum(catalogue, "hetzner-robot", &shared).and_then(|cents| dollars(cents, "EUR"));
    let pool = |stack: &'static str| sum(catalogue, "fly", &[(stack, 1)]);
    // A year of full houses, from what each plan brings and what its place costs.
    let year = |price: i64, tenants: i64, cost: Option<i64>| cost.map(|c| money("$", 12 * (price * tenants - c)));
    let breaks_even = |price: i64, cost: Option<i64>| cost.map(|c| ((c + price - 1) / price).to_string());
    let phased = |servers: Option<i64>, revenue: i64| servers.map(|c| money("$", revenue - c));
    let hybrid = shared.zip(pool("guide-starter-stack")).map(|(a, b)| a + b);
    let cax = part("hetzner", "cax41", "EUR");
    vec![
        line(
            "AX52 alone, each of 150 tenants",
            "$0.43",
            each(part("hetzner-robot", "ax52", "EUR"), 150),
            "after an optimisation of which the guide does not say what it leaves out",
        ),
        line(
            "AX102, each of 500 tenants",
            "-",
            each(sum(catalogue, "hetzner-robot", &[("ax102", 1)]), 500),
            "$165 for 400 to 600 tenants",
        ),
        line("CAX41, each of 90 tenants", "-", each(cax, 90), "80 to 100 tenants; the guide pays EUR 28.69 or $32"),
        line(
            "a year of 150 hobby tenants on one server, profit",
            "$4,395",
            year(1500, 150, shared),
            "before salaries and payment fees; other pages of it say $30,000, $51,651 and $78,000",
        ),
        line(
            "starter, tenants to break even",
            "9-10",
            breaks_even(4900, pool("guide-starter-stack")),
            "of a pool for 50",
        ),
        line(
            "professional, tenants to break even",
            "6",
            breaks_even(14_900, pool("guide-professional-stack")),
            "of a pool for 100",
        ),
        line(
            "business, tenants to break even",
            "4",
            breaks_even(39_900, pool("guide-business-stack")),
            "of a pool for 20",
        ),
        line(
            "starter, each of 25 or 100 tenants",
            "$16 or $2.67",
            each(pool("guide-starter-stack"), 25)
                .zip(each(pool("guide-starter-stack"), 100))
                .map(|(a, b)| format!("{a} or {b}")),
            "two other pages of the guide",
        ),
        line("hybrid of shared server and starter pool, a month", "$490", hybrid.map(|c| money("$", c)), ""),
        line("the same, hobby tenants to break even", "33", breaks_even(1500, hybrid), ""),
        line("launch: CAX41 with 30 hobby tenants, margin a month", "-", phased(cax, 30 * 1500), ""),
        line(
            "growth: AX52 and starter pool, 50 hobby and 10 starter, margin a month",
            "-",
            phased(hybrid, 50 * 1500 + 10 * 4900),
            "",
        ),
        line(
            "scale: the same and a larger pool for $465, 100, 20 and 5 tenants, margin a month",
            "-",
            phased(shared.map(|c| c + 46_500), 100 * 1500 + 20 * 4900 + 5 * 14_900),
            "the guide's own sum for Fly",
        ),
    ]
}

/// The Chrono guide's other arrangements, and its phases.
fn phase_claims(catalogue: &Catalogue) -> Vec<Claim> {
    let with = |parts: &[(&str, u64)]| {
        sum(catalogue, "hetzner", parts).map_or_else(|| "?".to_owned(), |cents| money("EUR ", cents))
    };
    let line = |what, claims, computed, note| Claim { guide: "Chrono Scraper", what, claims, computed, note };
    let around = [("volume-gib", 100), ("lb11", 1), ("floating-ip", 1)];
    let all = |servers: &[(&'static str, u64)], rest: &[(&'static str, u64)]| -> Vec<(&'static str, u64)> {
        servers.iter().chain(rest).copied().collect()
    };
    vec![
        line("CX32 without snapshots", "EUR 23.85", with(&all(&[("cx32", 1), ("backup", 1)], &around)), ""),
        line(
            "ARM: CAX21 with the same around it",
            "EUR 23.48",
            with(&all(&[("cax21", 1), ("backup", 1)], &around)),
            "another page says 23.58",
        ),
        line(
            "ultra-budget: CX22, volume, address, snapshots",
            "EUR 18.75",
            with(&[("cx22", 1), ("volume-gib", 100), ("floating-ip", 1), ("backup", 1), ("snapshots", 1)]),
            "another page says 17.44; which parts it leaves out it does not say",
        ),
        line(
            "split: CX42 and two CX32, and EUR 20 around them",
            "EUR 50",
            with(&[("cx42", 1), ("cx32", 2), ("volume-gib", 100), ("lb11", 1), ("floating-ip", 1)]),
            "the cost monitor's; without backups",
        ),
        line(
            "ARM: CAX41, CAX21, and EUR 12 around them",
            "EUR 45",
            with(&[("cax41", 1), ("cax21", 1), ("volume-gib", 100), ("floating-ip", 1)]),
            "without backups",
        ),
        line(
            "phase 2 by another page: two CX22, all else as in phase 1",
            "EUR 31.90",
            with(&all(&[("cx22", 2), ("backup", 1), ("snapshots", 1)], &around)),
            "",
        ),
        line(
            "phase 3: CX32, two CX22 and CPX21",
            "EUR 65.35",
            with(&all(&[("cx32", 1), ("cx22", 2), ("cpx21", 1), ("backup", 1), ("snapshots", 1)], &around)),
            "what else it reckons with it does not say",
        ),
        line(
            "phase 4: three CX32 and two CX42",
            "EUR 150-200",
            with(&all(&[("cx32", 3), ("cx42", 2), ("backup", 1), ("snapshots", 1)], &around)),
            "without the CDN; it names CX41, which nobody sells any more",
        ),
        line(
            "budget left beside the first server",
            "EUR 24.15",
            sum(catalogue, "hetzner", &all(&[("cx32", 1), ("backup", 1), ("snapshots", 1)], &around))
                .map_or_else(|| "?".to_owned(), |c| money("EUR ", 5000 - c)),
            "of 50",
        ),
    ]
}

/// The LinkFlow guide's one paid line, and what the free ones cost where they are not free.
fn free_claims(catalogue: &Catalogue) -> Vec<Claim> {
    let line = |what, claims, computed: Option<String>, note| Claim {
        guide: "LinkFlow",
        what,
        claims,
        computed: computed.unwrap_or_else(|| "?".to_owned()),
        note,
    };
    let at = |provider: &str, parts: &[(&str, u64)]| sum(catalogue, provider, parts);
    let euros = at("hetzner", &[("cx22", 1)]);
    let quarter = |provider: &str, part: &str| at(provider, &[(part, 1)]).map(|c| c / 4);
    // A quarter of a core and half a GiB, always on, less what is free of them each month.
    let azure = quarter("azure-container-apps", "vcpu").zip(at("azure-container-apps", &[("memory-gib", 1)]));
    let free = |what: &str, per_month: i64| {
        let quota = catalogue.quota("azure-container-apps", what)?;
        Some((i64::try_from(quota.amount).ok()?, per_month))
    };
    let seconds = 2_628_000_i64;
    let rest = |cents: i64, wanted: i64, free: Option<(i64, i64)>| {
        let (free, _) = free.unwrap_or((0, 0));
        cents * (wanted - free).max(0) / wanted
    };
    let timer = azure.map(|(cpu, memory)| {
        rest(cpu, seconds / 4, free("vcpu_seconds_per_month", seconds))
            + rest(memory / 2, seconds / 2, free("gib_seconds_per_month", seconds))
    });
    vec![
        line(
            "the whole stack, a month",
            "EUR 4.71",
            euros.map(|c| money("EUR ", c + 20)),
            "CX22 at EUR 4.51 in the guide and 3.79 in Chrono's, and EUR 0.20 for snapshots",
        ),
        line(
            "timer at Azure: 0.25 cores and 0.5 GiB, always on",
            "free",
            timer.map(|c| money("$", c)),
            "beyond what is free each month, if nothing else uses that",
        ),
        line(
            "queue worker at Render, always on",
            "free",
            at("render", &[("starter", 1)]).map(|c| money("$", c)),
            "a free one sleeps after 15 minutes without a request, and a worker gets none",
        ),
        line(
            "history at Koyeb: 512 MB",
            "free",
            at("koyeb", &[("micro", 1)]).map(|c| money("$", c)),
            "the free one has 0.1 cores and sleeps without requests; this is a micro",
        ),
        line(
            "matching at Railway: 0.5 cores and 512 MB, less the credit",
            "free",
            at("railway", &[("vcpu", 1)])
                .zip(at("railway", &[("memory-gib", 1)]))
                .map(|(cpu, memory)| money("$", (cpu / 2 + memory / 2 - 500).max(0))),
            "on top of the plan's $5, which the credit is part of",
        ),
    ]
}

/// Every claim, in the order of the guides.
pub fn claims(catalogue: &Catalogue) -> Vec<Claim> {
    let mut claims = shared_claims(catalogue);
    claims.extend(dedicated_claims(catalogue));
    claims.extend(growth_claims(catalogue));
    claims.extend(single_server_claims(catalogue));
    claims.extend(phase_claims(catalogue));
    claims.extend(free_claims(catalogue));
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
