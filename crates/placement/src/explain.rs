//! The answer with its reasons: what was refused, how sure it is, and what would change it.
//!
//! Confidence is counted, not felt: 200 neighbours of the profile, each quantity moved by its forecast error, asked the
//! same question. Never decides anything itself.

use crate::{
    catalogue::Trust,
    decide::{Choice, Constraint, Decision, Flip, Need, Refusal, bit, breaks, worst_latency},
    dice::Dice,
    engine::{Engine, Kind, PlanFacts, REGIONS, share},
    profile::{BadProfile, Profile, USUAL_ERROR_PERCENT},
};
use berth_domain::{CellClass, Cents};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NEIGHBOURS: u32 = 200;
/// More than people read; the rest is of the same kinds.
const REFUSALS_MAX: usize = 40;

impl Engine {
    /// Decides and explains. The same profile and seed give the same answer, to the last digit.
    pub fn decide(&self, tenant: &str, profile: &Profile, seed: u64) -> Result<Decision, Vec<BadProfile>> {
        Ok(self.explained(tenant, profile, &self.need(profile)?, seed))
    }

    pub(crate) fn explained(&self, tenant: &str, profile: &Profile, need: &Need, seed: u64) -> Decision {
        let choice = self.choose(need);
        let mut decision = self.bare(tenant, choice, need);
        decision.confidence = self.confidence(need, profile, choice.as_ref(), seed);
        decision.refused = self.refusals(need, choice.as_ref());
        decision.flip = self.flip(need, choice.as_ref());
        decision.alternatives = self.alternatives(need, choice.as_ref());
        match choice {
            Some(choice) => self.say_why(&mut decision, choice, need),
            None => decision.reasons.push("no place meets every constraint; what would have to give is below".into()),
        }
        self.say_what_was_assumed(&mut decision, profile);
        decision
    }

    /// The answer without its explanation: confidence 0, no reasons, nothing refused.
    pub fn choice(&self, profile: &Profile) -> Result<Decision, Vec<BadProfile>> {
        let need = self.need(profile)?;
        Ok(self.bare("", self.choose(&need), &need))
    }

    fn bare(&self, tenant: &str, choice: Option<Choice>, need: &Need) -> Decision {
        let mut decision = Decision {
            tenant: tenant.to_owned(),
            mode: None,
            class: None,
            provider: None,
            regions: Vec::new(),
            plan: None,
            cell: None,
            monthly_cost_cents: None,
            currency: "USD".to_owned(),
            margin_cents: None,
            confidence: 0.0,
            reasons: Vec::new(),
            refused: Vec::new(),
            flip: None,
            alternatives: Vec::new(),
        };
        let Some(choice) = choice else { return decision };
        let kind = &self.kinds[choice.kind];
        let plan = &self.plans[choice.plan];
        decision.mode = Some(choice.class.mode());
        decision.class = Some(choice.class);
        decision.provider = Some(kind.place.provider.clone());
        decision.regions.clone_from(&kind.place.sites);
        decision.plan = Some(plan.name.clone());
        decision.cell = choice.cell.map(|at| self.cells[at].name.clone());
        decision.monthly_cost_cents = self.price(kind, need);
        decision.margin_cents = decision.monthly_cost_cents.map(|cost| plan.price_cents - cost);
        decision
    }

    fn say_why(&self, decision: &mut Decision, choice: Choice, need: &Need) {
        let kind = &self.kinds[choice.kind];
        let plan = &self.plans[choice.plan];
        let reasons = &mut decision.reasons;
        let least = need.least_plan.unwrap_or(0);
        let kept = self.plans.get(least).and_then(|plan| plan.class).filter(|_| need.least_plan.is_some());
        for class in
            CellClass::ALL.iter().filter(|class| **class < choice.class && kept.is_none_or(|kept| **class >= kept))
        {
            reasons.push(self.why_not(*class, need));
        }
        for (at, cheaper) in self.plans.iter().enumerate().take(choice.plan).skip(least) {
            if cheaper.class == Some(choice.class)
                && let Some((name, wanted, has)) = self.short_of(at, need)
            {
                reasons.push(format!("plan {} holds {has} {name}, {wanted} are needed", cheaper.name));
            }
        }
        reasons.push(if need.least_plan == Some(choice.plan) {
            format!("plan {} is kept: {}", plan.name, plan.price_cents)
        } else {
            format!("plan {} is the cheapest {} plan that holds it: {}", plan.name, choice.class, plan.price_cents)
        });
        reasons.push(self.why_place(choice, kind, need));
        reasons.extend(promised(kind, need));
        reasons.extend(self.traffic(kind, need).map(|cents| format!("{cents} of its cost is traffic")));
        if let Some(budget) = need.budget_cents {
            let over = plan.price_cents.get() - i64::try_from(budget).unwrap_or(i64::MAX);
            if over > 0 {
                reasons.push(format!("{} over the budget: no cheaper plan meets what is asked", Cents::new(over)));
            }
        }
        match decision.margin_cents {
            Some(margin) if margin < Cents::new(0) => {
                reasons.push(format!("the plan's price does not pay for it: {margin} a month"));
            }
            Some(_) => {}
            None => reasons.push("no price is known for this place, so cost and margin are not known".into()),
        }
    }

    fn why_place(&self, choice: Choice, kind: &Kind, need: &Need) -> String {
        let far = |ms| format!(", {ms} ms to its users, {}", by_what(kind, need, ms));
        let far = worst_latency(kind, need).map(far).unwrap_or_default();
        let cost = self.price(kind, need).map(|cost| format!(", {cost} a month")).unwrap_or_default();
        match (choice.cell, &kind.offer) {
            (Some(at), _) if need.cell == Some(at) => format!("it stays in cell {}{cost}{far}", self.cells[at].name),
            (Some(at), _) => format!("cell {} has room and is the best of its class{cost}{far}", self.cells[at].name),
            (None, offer) => {
                let offer = offer.as_deref().unwrap_or("?");
                let whole = kind.place.price_cents.filter(|_| kind.place.places > 1).map(|price| {
                    let fill = self.policy.planned_fill_percent;
                    format!(" (the whole cell {price}, shared by {} at {fill} % fill)", kind.place.places)
                });
                format!("a new cell from the offer {offer}{cost}{far}{}", whole.unwrap_or_default())
            }
        }
    }

    /// One line: why a class that is less isolated will not do.
    fn why_not(&self, class: CellClass, need: &Need) -> String {
        match self.class_refusal(class, need) {
            Some(r) => format!("not {class}: {} {} wanted, {}", r.constraint, r.wanted, r.has),
            None => format!("not {class}: no {class} place meets every constraint"),
        }
    }

    /// That the policy does not allow a class.
    pub(crate) fn policy_refusal(&self, class: CellClass, need: &Need) -> Option<Refusal> {
        if self.allowed(need) & bit(class) != 0 {
            return None;
        }
        let standards = self.catalogue.compliance_words(need.compliance);
        let rules = self.policy.rules.iter().filter(|rule| !rule.allow.contains(&class));
        let names: Vec<&str> = rules.map(|rule| rule.name.as_str()).collect();
        let wanted = if standards.is_empty() { "what the policy asks".to_owned() } else { standards.join(", ") };
        let has = if names.is_empty() {
            format!("whoever has to meet {} lives alone", self.catalogue.compliance_words(self.alone).join(" or "))
        } else {
            format!("the policy's rule {} does not allow it", names.join(", "))
        };
        let (class, constraint) = (Some(class.to_string()), Constraint::Compliance.as_str().to_owned());
        Some(Refusal { cell: None, class, constraint, wanted, has })
    }

    /// What refuses a class as a whole: the policy, or that no plan of it holds the tenant.
    fn class_refusal(&self, class: CellClass, need: &Need) -> Option<Refusal> {
        let whole = |constraint: &str, wanted: String, has: String| {
            Some(Refusal { cell: None, class: Some(class.to_string()), constraint: constraint.to_owned(), wanted, has })
        };
        if let Some(refused) = self.policy_refusal(class, need) {
            return Some(refused);
        }
        let mut of_class = (0..self.plans.len()).filter(|at| self.plans[*at].class == Some(class)).peekable();
        if of_class.peek().is_none() {
            return whole("plan", "a plan".to_owned(), format!("no plan is sold with a {class} cell"));
        }
        let short: Vec<_> = of_class.map(|at| (at, self.short_of(at, need))).collect();
        if short.iter().any(|(_, short)| short.is_none()) {
            return None;
        }
        let (plan, short) = short.last().copied()?;
        let (name, wanted, has) = short?;
        whole(name, wanted.to_string(), format!("plan {} holds {has}", self.plans[plan].name))
    }

    fn refusals(&self, need: &Need, choice: Option<&Choice>) -> Vec<Refusal> {
        let mut refused = Vec::new();
        for class in CellClass::ALL {
            refused.extend(self.class_refusal(*class, need));
        }
        let plan_of = |class: CellClass| match choice {
            Some(choice) if choice.class == class => Some(choice.plan),
            _ => (0..self.plans.len())
                .find(|at| self.plans[*at].class == Some(class) && self.short_of(*at, need).is_none()),
        };
        let mut said = BTreeSet::new();
        for kind in &self.kinds {
            let class = kind.place.class;
            let Some(plan) = plan_of(class).filter(|_| self.allowed(need) & bit(class) != 0) else { continue };
            let broken = breaks(kind, &self.plans[plan], need);
            let broken = broken.or((kind.offer.is_none() && kind.open.is_empty()).then_some(Constraint::Capacity));
            let Some(broken) = broken else { continue };
            let (wanted, has) = self.compared(&broken, kind, &self.plans[plan], need);
            let named = kind.cells.iter().map(|at| (Some(self.cells[*at].name.clone()), None));
            let new = kind
                .offer
                .as_ref()
                .map(|offer| (None, Some(format!("{class} ({offer} at {})", kind.place.sites.join(", ")))));
            for (cell, class) in named.chain(new) {
                let refusal = Refusal {
                    cell,
                    class,
                    constraint: broken.as_str().to_owned(),
                    wanted: wanted.clone(),
                    has: has.clone(),
                };
                if refused.len() < REFUSALS_MAX && said.insert((refusal.cell.clone(), refusal.class.clone())) {
                    refused.push(refusal);
                }
            }
        }
        refused
    }

    pub(crate) fn compared(&self, broken: &Constraint, kind: &Kind, plan: &PlanFacts, need: &Need) -> (String, String) {
        let place = &kind.place;
        let amount = |amount: Option<u64>| amount.map_or("?".to_owned(), |n| n.to_string());
        let words = |bits: u64| {
            let words = self.catalogue.compliance_words(bits);
            if words.is_empty() { "none".to_owned() } else { words.join(", ") }
        };
        match broken {
            Constraint::Compliance => (words(need.compliance), words(place.compliance)),
            Constraint::Residency => {
                let wanted = need.residency.map(|at| self.residencies[at].clone()).unwrap_or_default();
                let has = if place.residency.is_empty() { "none".to_owned() } else { place.residency.join(", ") };
                (wanted, has)
            }
            Constraint::Region => {
                let has = if place.sites.is_empty() { "none".to_owned() } else { place.sites.join(", ") };
                (need.region.clone().unwrap_or_default(), has)
            }
            Constraint::Regions => (need.regions.to_string(), place.regions.to_string()),
            Constraint::Latency => (amount(need.latency_ms), amount(worst_latency(kind, need).map(u64::from))),
            Constraint::Throughput => (amount(need.throughput_per_s), amount(place.promises.throughput_per_s)),
            Constraint::Users => (amount(need.users), amount(place.promises.users)),
            Constraint::Upload => (amount(need.upload_bytes), amount(place.promises.upload_bytes)),
            Constraint::Shape => {
                let promised = [plan.cpu_millis, plan.memory_mib, plan.disk_gib].map(Some);
                (sized(promised), sized([kind.size.cpu_millis, kind.size.memory_mib, kind.size.disk_gib]))
            }
            Constraint::Capacity => ("a place".to_owned(), "full, or taking no tenants".to_owned()),
        }
    }

    /// The same answer, as far as a person would say so: class, plan and where, whichever cell of that kind.
    fn same(&self, a: Option<&Choice>, b: Option<&Choice>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => {
                let (one, other) = (&self.kinds[a.kind].place, &self.kinds[b.kind].place);
                (a.class, a.plan, &one.provider, &one.sites) == (b.class, b.plan, &other.provider, &other.sites)
            }
            (None, None) => true,
            _ => false,
        }
    }

    fn confidence(&self, need: &Need, profile: &Profile, choice: Option<&Choice>, seed: u64) -> f64 {
        let mut dice = Dice(seed);
        let error = |name: &str| profile.forecast_error_percent.get(name).copied().unwrap_or(USUAL_ERROR_PERCENT);
        let errors: Vec<u32> = self.quantities.iter().map(|name| error(name)).collect();
        let mut neighbour = need.clone();
        let mut same = 0;
        for _ in 0..NEIGHBOURS {
            for ((to, from), (error, name)) in
                neighbour.quantities.iter_mut().zip(&need.quantities).zip(errors.iter().zip(&self.quantities))
            {
                *to = if name == REGIONS { *from } else { from.map(|amount| dice.near(amount, *error)) };
            }
            for (to, from) in neighbour.others.iter_mut().zip(&need.others) {
                to.1 = dice.near(from.1, error(&from.0));
            }
            let mut near = |field: &str, amount: Option<u64>| amount.map(|amount| dice.near(amount, error(field)));
            neighbour.latency_ms = near("latency_ms", need.latency_ms);
            neighbour.throughput_per_s = near("throughput_per_s", need.throughput_per_s);
            neighbour.users = near("users", need.users);
            neighbour.upload_bytes = near("upload_bytes", need.upload_bytes);
            neighbour.budget_cents = near("budget_cents", need.budget_cents);
            neighbour.sent_bytes = near(crate::traffic::TRAFFIC, need.sent_bytes);
            same += u32::from(self.same(choice, self.choose(&neighbour).as_ref()));
        }
        f64::from(same) / f64::from(NEIGHBOURS)
    }

    /// Walks the values at which a limit, a promise, a distance or a rule gives way, the nearest first.
    fn flip(&self, need: &Need, choice: Option<&Choice>) -> Option<Flip> {
        let mut changes = self.changes(need);
        changes.sort_by(|a, b| a.size.total_cmp(&b.size).then_with(|| a.field.cmp(&b.field)));
        changes.into_iter().find_map(|change| {
            let other = self.choose(&change.need);
            if self.same(choice, other.as_ref()) {
                return None;
            }
            let then = other.map_or("nothing fits".to_owned(), |other| {
                let place = &self.kinds[other.kind].place;
                let plan = &self.plans[other.plan].name;
                format!("{} on plan {plan} at {} ({})", other.class, place.provider, place.sites.join(", "))
            });
            Some(Flip { field: change.field, from: change.from, to: change.to, then })
        })
    }

    fn changes(&self, need: &Need) -> Vec<Change> {
        let mut changes = Vec::new();
        let rule_bounds: Vec<_> = self.policy.rules.iter().flat_map(|rule| rule.when.bounds()).collect();
        let of_rules = |name: &str| {
            let of = rule_bounds.iter().filter(|(field, _)| field.name() == name).map(|(_, bounds)| *bounds);
            of.flat_map(|b| b.at_least.map(|at| at.saturating_sub(1)).into_iter().chain(b.at_most)).collect::<Vec<_>>()
        };
        let mut amount = |field: &str, from: Option<u64>, edges: Vec<u64>, set: &dyn Fn(&mut Need, u64)| {
            let start = from.unwrap_or(0);
            let values: BTreeSet<u64> =
                edges.into_iter().map(|e| if start > e { e } else { e.saturating_add(1) }).collect();
            for to in values.into_iter().filter(|to| Some(*to) != from) {
                let mut other = need.clone();
                set(&mut other, to);
                let size = (to.abs_diff(start) as f64) / (start.max(1) as f64);
                changes.push(Change { field: field.to_owned(), from: json!(from), to: json!(to), size, need: other });
            }
        };
        for (at, name) in self.quantities.iter().enumerate().filter(|(_, name)| *name != REGIONS) {
            let edges = self.limits.iter().filter_map(|limits| limits[at]).chain(of_rules(name)).collect();
            amount(name, need.quantities[at], edges, &|need, to| need.quantities[at] = Some(to));
        }
        let promised = |of: fn(&Kind) -> Option<u64>| self.kinds.iter().filter_map(of).collect::<Vec<_>>();
        let edges = [promised(|k| k.place.promises.users), of_rules("users")].concat();
        amount("users", need.users, edges, &|need, to| need.users = Some(to));
        let edges = [promised(|k| k.place.promises.throughput_per_s), of_rules("throughput_per_s")].concat();
        amount("throughput_per_s", need.throughput_per_s, edges, &|need, to| need.throughput_per_s = Some(to));
        let plans = self.plans.iter().filter_map(|plan| plan.body_bytes).collect();
        let edges = [promised(|k| k.place.promises.upload_bytes), plans].concat();
        amount("upload_bytes", need.upload_bytes, edges, &|need, to| need.upload_bytes = Some(to));
        if need.budget_cents.is_some() {
            amount("budget_cents", need.budget_cents, of_rules("budget_cents"), &|need, to| {
                need.budget_cents = Some(to);
            });
        }
        // A place that takes 45 ms is lost at 44 and won at 45, so the edge stands one below.
        let latencies = self.kinds.iter().filter_map(|kind| worst_latency(kind, need)).filter(|ms| *ms > 1);
        let mut edges: Vec<u64> = latencies.map(|ms| u64::from(ms) - 1).collect();
        edges.extend(of_rules("latency_ms"));
        if need.latency_ms.is_some() {
            amount("latency_ms", need.latency_ms, edges, &|need, to| need.latency_ms = Some(to));
        }
        self.other_changes(need, &mut changes);
        changes
    }

    /// Fields that are not amounts: a standard or a jurisdiction more or less, a region more or less.
    fn other_changes(&self, need: &Need, changes: &mut Vec<Change>) {
        let mut change = |field: &str, from: Value, to: Value, other: Need| {
            // A yes or no is as far as twice the amount.
            changes.push(Change { field: field.to_owned(), from, to, size: 1.0, need: other });
        };
        for at in 0..self.catalogue.compliance.len() {
            let bits = need.compliance ^ (1 << at);
            let words = |bits: u64| json!(self.catalogue.compliance_words(bits));
            change("compliance", words(need.compliance), words(bits), Need { compliance: bits, ..need.clone() });
        }
        let word = |at: Option<usize>| json!(at.map(|at| &self.residencies[at]));
        for at in (0..self.residencies.len()).map(Some).chain([None]).filter(|at| *at != need.residency) {
            change("residency", word(need.residency), word(at), Need { residency: at, ..need.clone() });
        }
        let at = self.quantities.iter().position(|name| name == REGIONS);
        for regions in [need.regions + 1, need.regions.saturating_sub(1)].into_iter().filter(|n| *n > 0) {
            let mut other = Need { regions, ..need.clone() };
            if let Some(at) = at {
                other.quantities[at] = Some(u64::from(regions));
            }
            change("regions", json!(need.regions), json!(regions), other);
        }
    }

    fn say_what_was_assumed(&self, decision: &mut Decision, profile: &Profile) {
        let reasons = &mut decision.reasons;
        let known = |name: &String| name == REGIONS || self.quantities.contains(name);
        let unknown: Vec<&str> = profile.quantities.keys().filter(|name| !known(name)).map(String::as_str).collect();
        if !unknown.is_empty() {
            reasons.push(format!("no plan limits {}: not limited", unknown.join(", ")));
        }
        if let Some(cell) = &profile.cell
            && !self.by_name.contains_key(cell)
        {
            reasons.push(format!("the cell {cell} is not among the cells that were given"));
        }
        if profile.quantities.is_empty() {
            reasons.push("assumed: no quantity is known, so every plan holds it".into());
        }
        if profile.locations.is_empty() {
            reasons.push("assumed: its users are near wherever it stands".into());
        }
        if let Some(growth) = profile.growth_percent_per_month.filter(|growth| *growth > 0) {
            let months = self.policy.plan_ahead_months;
            reasons.push(format!("quantities are judged after {months} months of {growth} % growth"));
        }
        reasons.extend(self.assumptions.iter().cloned());
    }

    /// What one more tenant of a cell costs at the planned fill.
    pub fn share_of_cell(&self, cell: &str) -> Option<Cents> {
        let at = *self.by_name.get(cell)?;
        let kind = &self.kinds[self.kind_of_cell[at]];
        kind.place.price_cents.map(|price| share(price, kind.place.places, self.policy.planned_fill_percent))
    }
}

/// A shape for people, without what nobody said.
fn sized(amounts: [Option<u64>; 3]) -> String {
    let known = amounts.into_iter().zip(["mCPU", "MiB", "GiB"]);
    known.filter_map(|(amount, unit)| Some(format!("{} {unit}", amount?))).collect::<Vec<_>>().join(", ")
}

/// Where the latency of a place to the tenant's users comes from.
fn by_what(kind: &Kind, need: &Need, ms: u32) -> &'static str {
    let figures = &kind.place.latency_ms;
    let mut asked = need.locations.iter().map(|at| figures[*at]).chain(figures.iter().copied());
    match asked.find(|(has, _)| *has == ms).map(|(_, trust)| trust) {
        Some(Trust::Measured) => "by what was measured",
        Some(Trust::Computed) => "computed from the distance",
        Some(Trust::Claimed) | None => "by what is claimed",
    }
}

/// Of each promise that is asked for: what the place has, and whose word that is.
fn promised(kind: &Kind, need: &Need) -> Vec<String> {
    let place = &kind.place;
    let asked = [
        ("throughput_per_s", need.throughput_per_s, place.promises.throughput_per_s, place.throughput_trust),
        ("users", need.users, place.promises.users, place.trust),
        ("upload_bytes", need.upload_bytes, place.promises.upload_bytes, place.trust),
    ];
    let line = |(name, wanted, has, trust): (&str, Option<u64>, Option<u64>, Trust)| {
        Some(format!("{name} {} wanted, it has {}, {}", wanted?, has?, trust.as_str()))
    };
    asked.into_iter().filter_map(line).collect()
}

/// A profile that differs in one field.
struct Change {
    field: String,
    from: Value,
    to: Value,
    /// Relative to the field.
    size: f64,
    need: Need,
}

impl Dice {
    /// `amount` moved by at most this share of itself, rounded up: there is no half vehicle, and latencies of less
    /// than a millisecond are none that we tell apart.
    fn near(&mut self, amount: u64, error_percent: u32) -> u64 {
        const STEPS: u64 = 10_000;
        let step = i128::from(self.next() % (2 * STEPS + 1)) - i128::from(STEPS);
        let whole = i128::from(STEPS) * 100;
        let moved = i128::from(amount) * (whole + step * i128::from(error_percent));
        u64::try_from((moved + whole - 1).div_euclid(whole).max(0)).unwrap_or(u64::MAX)
    }
}
