//! One tenant, one answer: hard constraints, then class, plan, price and distance.
//!
//! Never weighs a hard constraint against anything: what breaks one is out, whatever it would save.

use crate::{
    alternatives::Alternative,
    engine::{Engine, Kind, PlanFacts, REGIONS},
    policy::{Asked, Field},
    profile::{BadProfile, Profile},
    traffic::TRAFFIC,
};
use berth_domain::{CellClass, Cents, Mode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where a tenant belongs, with everything that led there. Without a class, nothing fits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub tenant: String,
    pub mode: Option<Mode>,
    pub class: Option<CellClass>,
    pub provider: Option<String>,
    /// The home of the Postgres first.
    pub regions: Vec<String>,
    pub plan: Option<String>,
    /// A cell that exists; `None`: a new one, see the reasons.
    pub cell: Option<String>,
    /// What this tenant costs there. `None`: the catalogue knows no price.
    pub monthly_cost_cents: Option<Cents>,
    pub currency: String,
    /// The plan's price less the cost.
    pub margin_cents: Option<Cents>,
    /// The share of 200 neighbours of the profile that get the same answer.
    pub confidence: f64,
    pub reasons: Vec<String>,
    pub refused: Vec<Refusal>,
    pub flip: Option<Flip>,
    /// Other plans that would hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<Alternative>,
}

/// A place that was not taken because it breaks a constraint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
    /// A whole class, or the class of a new cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    pub constraint: String,
    pub wanted: String,
    pub has: String,
}

/// The smallest change of one field that changes the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flip {
    pub field: String,
    pub from: Value,
    pub to: Value,
    /// What the answer would be.
    pub then: String,
}

/// What a place can break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    Compliance,
    Residency,
    /// It is not where the tenant is bound to.
    Region,
    Regions,
    Latency,
    Throughput,
    Users,
    Upload,
    /// It is smaller than what the plan promises of a cell.
    Shape,
    /// Full, or taking no tenants.
    Capacity,
}

impl Constraint {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Compliance => "compliance",
            Self::Residency => "residency",
            Self::Region => "region",
            Self::Regions => "regions",
            Self::Latency => "latency_ms",
            Self::Throughput => "throughput_per_s",
            Self::Users => "users",
            Self::Upload => "upload_bytes",
            Self::Shape => "shape",
            Self::Capacity => "capacity",
        }
    }
}

/// A profile as numbers and bits of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// In the order of [`Engine::quantities`].
    pub quantities: Vec<Option<u64>>,
    /// Those that only rules know.
    pub others: Vec<(String, u64)>,
    /// What leaves for its users a month, as it is now.
    pub sent_bytes: Option<u64>,
    pub regions: u32,
    pub compliance: u64,
    /// Index into [`Engine::residencies`].
    pub residency: Option<usize>,
    /// The provider's own name of the one region that it may stand in.
    pub region: Option<String>,
    pub locations: Vec<usize>,
    pub latency_ms: Option<u64>,
    pub throughput_per_s: Option<u64>,
    pub users: Option<u64>,
    pub upload_bytes: Option<u64>,
    pub budget_cents: Option<u64>,
    /// Index into [`Engine::cells`].
    pub cell: Option<usize>,
    /// Cells that are no answer, since tenants are not served well there.
    pub left: Vec<usize>,
    /// Index into [`Engine::plans`]: no cheaper one, and no class that is less isolated than its.
    pub least_plan: Option<usize>,
}

/// Indexes of what was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub class: CellClass,
    pub plan: usize,
    pub kind: usize,
    pub cell: Option<usize>,
}

impl Engine {
    /// The answer alone, without confidence, refusals and flip: what fleets and neighbours ask.
    pub fn decide_quickly(&self, profile: &Profile) -> Result<Option<(CellClass, &str, &str)>, Vec<BadProfile>> {
        let choice = self.choose(&self.need(profile)?);
        Ok(choice.map(|choice| {
            let kind = &self.kinds[choice.kind];
            (choice.class, self.plans[choice.plan].name.as_str(), kind.place.provider.as_str())
        }))
    }

    pub(crate) fn need(&self, profile: &Profile) -> Result<Need, Vec<BadProfile>> {
        let faults = profile.faults(&self.catalogue);
        if !faults.is_empty() {
            return Err(faults);
        }
        let months = self.policy.plan_ahead_months;
        let percent = profile.growth_percent_per_month.unwrap_or(0);
        let grown = |amount: u64| (0..months).fold(amount, |amount, _| grow(amount, percent));
        let known = |name: &String| self.quantities.iter().any(|quantity| quantity == name);
        let mut locations: Vec<usize> =
            profile.locations.iter().filter_map(|word| self.catalogue.location(word)).collect();
        locations.sort_unstable();
        locations.dedup();
        let regions = profile
            .regions
            .unwrap_or(1)
            .max(profile.quantities.get(REGIONS).map_or(1, |regions| u32::try_from(*regions).unwrap_or(u32::MAX)));
        let amount = |name: &String| {
            if name == REGIONS { Some(u64::from(regions)) } else { profile.quantities.get(name).map(|n| grown(*n)) }
        };
        Ok(Need {
            quantities: self.quantities.iter().map(amount).collect(),
            others: profile
                .quantities
                .iter()
                .filter(|(name, _)| !known(name))
                .map(|(name, amount)| (name.clone(), grown(*amount)))
                .collect(),
            sent_bytes: profile.sent_bytes.or_else(|| profile.quantities.get(TRAFFIC).copied()),
            regions,
            compliance: profile
                .compliance
                .iter()
                .filter_map(|word| self.catalogue.compliance_bit(word))
                .fold(0, |a, b| a | b),
            residency: profile
                .residency
                .as_ref()
                .and_then(|word| self.residencies.iter().position(|known| known.eq_ignore_ascii_case(word))),
            region: profile.region.clone(),
            locations,
            latency_ms: profile.latency_ms,
            throughput_per_s: profile.throughput_per_s,
            users: profile.users,
            upload_bytes: profile.upload_bytes,
            budget_cents: profile.budget_cents,
            cell: profile.cell.as_ref().and_then(|name| self.by_name.get(name).copied()),
            left: Vec::new(),
            least_plan: None,
        })
    }

    /// The heart: the least isolated class that has a plan and a place, its cheapest plan, its best place.
    pub(crate) fn choose(&self, need: &Need) -> Option<Choice> {
        let allowed = self.allowed(need);
        let least = need.least_plan.and_then(|plan| self.plans[plan].class).unwrap_or(CellClass::Shared);
        let mut classes = CellClass::ALL.iter().filter(|class| **class >= least && allowed & bit(**class) != 0);
        classes.find_map(|class| {
            // A plan says how isolated its tenants are, and that is what its price pays for.
            (need.least_plan.unwrap_or(0)..self.plans.len())
                .filter(|at| self.plans[*at].class == Some(*class) && self.short_of(*at, need).is_none())
                .find_map(|plan| self.best_place(*class, plan, need))
        })
    }

    /// Classes that every matching rule of the policy allows, as bits.
    pub(crate) fn allowed(&self, need: &Need) -> u8 {
        let any = if need.compliance & self.alone == 0 {
            CellClass::ALL.iter().fold(0, |bits, class| bits | bit(*class))
        } else {
            bit(CellClass::Dedicated)
        };
        // Most policies ask for standards alone; the rest of a profile is put together only where a rule looks at it.
        let standards = |rule: &crate::Rule| {
            rule.when.compliance.is_empty()
                || rule
                    .when
                    .compliance
                    .iter()
                    .any(|w| self.catalogue.compliance_bit(w).is_some_and(|b| b & need.compliance != 0))
        };
        let allows = |rule: &crate::Rule| rule.allow.iter().fold(0, |bits, class| bits | bit(*class));
        let mut asked = None;
        self.policy.rules.iter().filter(|rule| standards(rule)).fold(any, |bits, rule| {
            if rule.when.bounds().is_empty() {
                return bits & allows(rule);
            }
            let asked = asked.get_or_insert_with(|| self.asked(need));
            if rule.matches(asked) { bits & allows(rule) } else { bits }
        })
    }

    fn asked(&self, need: &Need) -> Asked {
        let mut fields = std::collections::BTreeMap::new();
        let said = [
            (Field::Budget, need.budget_cents),
            (Field::Latency, need.latency_ms),
            (Field::Users, need.users),
            (Field::Throughput, need.throughput_per_s),
            (Field::Regions, Some(u64::from(need.regions))),
        ];
        fields.extend(said.into_iter().filter_map(|(field, amount)| Some((field, amount?))));
        let own = self.quantities.iter().zip(&need.quantities);
        fields.extend(own.filter_map(|(name, amount)| Some((Field::Quantity(name.clone()), (*amount)?))));
        fields.extend(need.others.iter().map(|(name, amount)| (Field::Quantity(name.clone()), *amount)));
        Asked { fields, compliance: self.catalogue.compliance_words(need.compliance) }
    }

    /// The first limit of a plan that the tenant is over: its name, what is wanted, what the plan has.
    pub(crate) fn short_of(&self, plan: usize, need: &Need) -> Option<(&str, u64, u64)> {
        let limits = self.quantities.iter().zip(&self.limits[plan]).zip(&need.quantities);
        for ((name, limit), wanted) in limits {
            if let (Some(limit), Some(wanted)) = (limit, wanted)
                && wanted > limit
            {
                return Some((name, *wanted, *limit));
            }
        }
        match (self.plans[plan].body_bytes, need.upload_bytes) {
            (Some(limit), Some(wanted)) if wanted > limit => Some(("upload_bytes", wanted, limit)),
            _ => None,
        }
    }

    pub(crate) fn best_place(&self, class: CellClass, plan: usize, need: &Need) -> Option<Choice> {
        let mut best: Option<(bool, i64, usize)> = None;
        for (at, kind) in self.kinds.iter().enumerate().filter(|(_, kind)| kind.place.class == class) {
            let offered = kind.offer.is_some();
            if (!offered && open_in(kind, need).is_none()) || breaks(kind, &self.plans[plan], need).is_some() {
                continue;
            }
            // What exists is paid for already, so it comes before anything new.
            let key = (offered, self.worth(kind, need), at);
            if best.is_none_or(|best| key < best) {
                best = Some(key);
            }
        }
        let stay = self.stay(class, plan, need);
        match (best, stay) {
            (Some((_, worth, _)), Some((kind, cell, here)))
                if worth >= here.saturating_sub(i64::from(self.policy.stay_worth_cents)) =>
            {
                Some(Choice { class, plan, kind, cell: Some(cell) })
            }
            (Some((_, _, kind)), _) => Some(Choice { class, plan, kind, cell: open_in(&self.kinds[kind], need) }),
            (None, stay) => stay.map(|(kind, cell, _)| Choice { class, plan, kind, cell: Some(cell) }),
        }
    }

    /// The cell it lives in, where that still fits. Its own place there is not in question.
    fn stay(&self, class: CellClass, plan: usize, need: &Need) -> Option<(usize, usize, i64)> {
        let cell = need.cell?;
        let at = self.kind_of_cell[cell];
        let kind = &self.kinds[at];
        let fits = kind.place.class == class
            && self.cells[cell].takes_tenants
            && breaks(kind, &self.plans[plan], need).is_none();
        fits.then(|| (at, cell, self.worth(kind, need)))
    }

    /// What a place costs one tenant a month, in cents, with the distance to its users priced in. Less is better.
    pub(crate) fn worth(&self, kind: &Kind, need: &Need) -> i64 {
        /// Before nothing at all, behind everything with a price.
        const UNPRICED: i64 = 1 << 40;
        let cost = self.price(kind, need).map_or(UNPRICED, Cents::get);
        let far = worst_latency(kind, need).unwrap_or(0);
        cost.saturating_add(i64::from(far).saturating_mul(i64::from(self.policy.cents_per_ms)))
    }
}

/// The emptiest cell of a kind that is an answer.
fn open_in(kind: &Kind, need: &Need) -> Option<usize> {
    kind.open.iter().copied().find(|cell| !need.left.contains(cell))
}

/// What the tenant's farthest users wait for. Nobody said where they are: those near the home, the best case, so a
/// wanted latency is compared with the nearest location.
pub(crate) fn worst_latency(kind: &Kind, need: &Need) -> Option<u32> {
    let figures = &kind.place.latency_ms;
    let worst = if need.locations.is_empty() {
        figures.iter().map(|(ms, _)| *ms).min()
    } else {
        need.locations.iter().map(|at| figures[*at].0).max()
    };
    worst.filter(|ms| *ms != u32::MAX)
}

/// The first hard constraint that a place breaks for this tenant.
pub(crate) fn breaks(kind: &Kind, plan: &PlanFacts, need: &Need) -> Option<Constraint> {
    let place = &kind.place;
    let short = |has: Option<u64>, wanted: Option<u64>| wanted.is_some_and(|w| has.is_none_or(|has| has < w));
    if need.compliance & !place.compliance != 0 {
        return Some(Constraint::Compliance);
    }
    if need.residency.is_some_and(|at| kind.residency & (1 << at) == 0) {
        return Some(Constraint::Residency);
    }
    if need.region.as_ref().is_some_and(|region| place.sites.first() != Some(region)) {
        return Some(Constraint::Region);
    }
    if place.regions < need.regions {
        return Some(Constraint::Regions);
    }
    if need.latency_ms.is_some_and(|wanted| worst_latency(kind, need).is_none_or(|has| u64::from(has) > wanted)) {
        return Some(Constraint::Latency);
    }
    if short(place.promises.throughput_per_s, need.throughput_per_s) {
        return Some(Constraint::Throughput);
    }
    if short(place.promises.users, need.users) {
        return Some(Constraint::Users);
    }
    if short(place.promises.upload_bytes, need.upload_bytes) {
        return Some(Constraint::Upload);
    }
    // Only a cell of one's own is promised a size.
    if place.class == CellClass::Dedicated && kind.size.is_short_of(plan) {
        return Some(Constraint::Shape);
    }
    None
}

pub(crate) const fn bit(class: CellClass) -> u8 {
    match class {
        CellClass::Shared => 1,
        CellClass::Pool => 2,
        CellClass::Dedicated => 4,
    }
}

/// A month of growth, rounded up: half a vehicle is a vehicle.
pub(crate) fn grow(amount: u64, percent: u32) -> u64 {
    let grown = (u128::from(amount) * u128::from(100 + percent)).div_ceil(100);
    u64::try_from(grown).unwrap_or(u64::MAX).min(1 << 52)
}
