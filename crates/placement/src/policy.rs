//! What the team wants, as data: which classes are allowed for whom, and what a place's differences are worth.
//!
//! A policy answers for every profile or is refused, with the profile that shows it. The check is exact: rules cut each
//! field at their bounds, inside a cut no rule can tell two profiles apart, so one profile of each is asked.

use berth_domain::CellClass;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Every rule that a profile matches has to allow the class.
    pub rules: Vec<Rule>,
    /// A tenant of a shared cell pays its share of a cell that is this full.
    pub planned_fill_percent: u32,
    /// What a millisecond less is worth, a month.
    pub cents_per_ms: u32,
    /// How much cheaper another cell of the same class has to be, a month, to be worth a move.
    pub stay_worth_cents: u32,
    /// Quantities are judged as they will be after so many months of growth.
    pub plan_ahead_months: u32,
}

/// Whoever has to meet one of these lives alone. A rule that no policy leaves out, so that one of a team's own need not
/// repeat it and cannot drop it.
pub(crate) const ALONE: [&str; 2] = ["soc2", "hipaa"];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub name: String,
    #[serde(default)]
    pub when: When,
    pub allow: Vec<CellClass>,
}

/// All of it has to hold. Nothing in it: always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// A quantity that a profile does not name counts as zero.
    pub quantities: BTreeMap<String, Bounds>,
    /// Not said counts as no limit.
    pub budget_cents: Option<Bounds>,
    /// Not said counts as no limit.
    pub latency_ms: Option<Bounds>,
    pub users: Option<Bounds>,
    pub throughput_per_s: Option<Bounds>,
    pub regions: Option<Bounds>,
    /// Any of these standards is asked for.
    pub compliance: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    pub at_least: Option<u64>,
    pub at_most: Option<u64>,
}

impl Bounds {
    fn hold(self, value: u64) -> bool {
        self.at_least.is_none_or(|least| value >= least) && self.at_most.is_none_or(|most| value <= most)
    }
}

/// What rules look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub fields: BTreeMap<Field, u64>,
    pub compliance: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    Budget,
    Latency,
    Users,
    Throughput,
    Regions,
    Quantity(String),
}

impl Field {
    pub fn name(&self) -> &str {
        match self {
            Self::Budget => "budget_cents",
            Self::Latency => "latency_ms",
            Self::Users => "users",
            Self::Throughput => "throughput_per_s",
            Self::Regions => "regions",
            Self::Quantity(name) => name,
        }
    }
    /// What a profile that does not say it counts as.
    pub const fn unsaid(&self) -> u64 {
        match self {
            Self::Budget | Self::Latency => u64::MAX,
            Self::Regions => 1,
            Self::Users | Self::Throughput | Self::Quantity(_) => 0,
        }
    }
    /// Whether more of it asks for more. Less latency asks for more; a budget asks for nothing.
    const fn stricter_up(&self) -> Option<bool> {
        match self {
            Self::Budget => None,
            Self::Latency => Some(false),
            Self::Users | Self::Throughput | Self::Regions | Self::Quantity(_) => Some(true),
        }
    }
}

/// Why a policy is refused. Every variant but the last carries the profile that shows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFault {
    #[error("no rule says anything about the profile {profile}")]
    NotTotal { profile: String },
    #[error("the rules {} leave no class for the profile {profile}", rules.join(" and "))]
    Contradiction { rules: Vec<String>, profile: String },
    #[error("the profile {stricter} asks for more than {profile} and gets {to} instead of {from}")]
    Weaker { profile: String, stricter: String, from: CellClass, to: CellClass },
    #[error("`{key}` is {found}, and has to be from {least} to {most}")]
    OutOfRange { key: &'static str, found: u32, least: u32, most: u32 },
    #[error("rule `{rule}` names the standard `{found}`, which the catalogue does not have")]
    Standard { rule: String, found: String },
    #[error("the rules cut profiles into {found} cases, more than the {most} that can be checked")]
    TooLarge { found: u64, most: u64 },
}

impl PolicyFault {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotTotal { .. } => "add a rule without `when` that allows the classes for everybody else",
            Self::Contradiction { .. } => "let one of the rules allow a class that the others allow too",
            Self::Weaker { .. } => "allow the less isolated class for the weaker profile, or not for the stricter one",
            Self::OutOfRange { .. } => "write a number in that range",
            Self::Standard { .. } => "write a standard of the catalogue",
            Self::TooLarge { .. } => "use fewer fields and bounds",
        }
    }
}

type Cases = (BTreeMap<Field, Vec<u64>>, Vec<String>, u64);

/// A policy of ten fields with two bounds each is below it.
const CASES_MAX: u64 = 2_000_000;

impl Default for Policy {
    fn default() -> Self {
        use CellClass::{Dedicated, Pool, Shared};
        let rule = |name: &str, compliance: &[&str], allow: &[CellClass]| Rule {
            name: name.to_owned(),
            when: When { compliance: compliance.iter().map(|word| (*word).to_owned()).collect(), ..When::default() },
            allow: allow.to_vec(),
        };
        Self {
            rules: vec![
                rule("everybody", &[], &[Shared, Pool, Dedicated]),
                rule("regulated", &["soc2", "hipaa"], &[Dedicated]),
            ],
            planned_fill_percent: 80,
            cents_per_ms: 1,
            stay_worth_cents: 500,
            plan_ahead_months: 1,
        }
    }
}

impl Rule {
    pub fn matches(&self, asked: &Asked) -> bool {
        let bounds = self.when.bounds();
        let holds = |(field, bounds): &(Field, Bounds)| {
            bounds.hold(asked.fields.get(field).copied().unwrap_or_else(|| field.unsaid()))
        };
        let standard =
            self.when.compliance.is_empty() || self.when.compliance.iter().any(|word| asked.compliance.contains(word));
        standard && bounds.iter().all(holds)
    }
}

impl When {
    pub fn bounds(&self) -> Vec<(Field, Bounds)> {
        let fields = [
            (Field::Budget, self.budget_cents),
            (Field::Latency, self.latency_ms),
            (Field::Users, self.users),
            (Field::Throughput, self.throughput_per_s),
            (Field::Regions, self.regions),
        ];
        let fixed = fields.into_iter().filter_map(|(field, bounds)| Some((field, bounds?)));
        let own = self.quantities.iter().map(|(name, bounds)| (Field::Quantity(name.clone()), *bounds));
        fixed.chain(own).collect()
    }
}

impl Policy {
    /// From YAML or JSON; what is absent is as shipped.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    /// Whether it answers for every profile, and the profile for which it does not.
    pub fn check(&self) -> Result<(), PolicyFault> {
        for (key, found, least, most) in [
            ("planned_fill_percent", self.planned_fill_percent, 1, 100),
            ("cents_per_ms", self.cents_per_ms, 0, 100_000),
            ("stay_worth_cents", self.stay_worth_cents, 0, 10_000_000),
            ("plan_ahead_months", self.plan_ahead_months, 0, 60),
        ] {
            if !(least..=most).contains(&found) {
                return Err(PolicyFault::OutOfRange { key, found, least, most });
            }
        }
        let (cuts, standards, cases) = self.cases()?;
        for case in 0..cases {
            self.check_case(&cuts, &standards, case)?;
        }
        Ok(())
    }

    /// Whether whoever lives alone by no rule of this policy has a class left. A policy that is in force and leaves none is
    /// followed all the same: nobody of them is placed by it.
    pub fn check_alone(&self) -> Result<(), PolicyFault> {
        let (cuts, standards, cases) = self.cases()?;
        for case in 0..cases {
            let (asked, _) = nth(&cuts, &standards, case);
            for word in ALONE {
                let mut regulated = asked.clone();
                if !regulated.compliance.iter().any(|known| known == word) {
                    regulated.compliance.push(word.to_owned());
                }
                self.least(&regulated, true)?;
            }
        }
        Ok(())
    }

    /// The cuts, the standards, and how many profiles there are to be asked.
    fn cases(&self) -> Result<Cases, PolicyFault> {
        let cuts = self.cuts();
        let standards = self.standards();
        let cases = cuts.values().map(|values| values.len() as u64).fold(1_u64, u64::saturating_mul);
        let cases = cases.saturating_mul(1_u64.checked_shl(standards.len() as u32).unwrap_or(u64::MAX));
        if cases > CASES_MAX {
            return Err(PolicyFault::TooLarge { found: cases, most: CASES_MAX });
        }
        Ok((cuts, standards, cases))
    }

    fn check_case(&self, cuts: &BTreeMap<Field, Vec<u64>>, words: &[String], case: u64) -> Result<(), PolicyFault> {
        let (asked, at) = nth(cuts, words, case);
        let class = self.least(&asked, false)?;
        // One cut further into "asks for more", field by field: isolation must not fall.
        for ((field, values), at) in cuts.iter().zip(at) {
            let next = match field.stricter_up() {
                Some(true) => values.get(at + 1),
                Some(false) => at.checked_sub(1).and_then(|at| values.get(at)),
                None => None,
            };
            let Some(next) = next else { continue };
            let mut stricter = asked.clone();
            stricter.fields.insert(field.clone(), *next);
            let to = self.least(&stricter, false)?;
            if to < class {
                let (profile, stricter) = (shown(&asked), shown(&stricter));
                return Err(PolicyFault::Weaker { profile, stricter, from: class, to });
            }
        }
        for word in words.iter().filter(|word| !asked.compliance.contains(word)) {
            let mut stricter = asked.clone();
            stricter.compliance.push(word.clone());
            let to = self.least(&stricter, false)?;
            if to < class {
                let (profile, stricter) = (shown(&asked), shown(&stricter));
                return Err(PolicyFault::Weaker { profile, stricter, from: class, to });
            }
        }
        Ok(())
    }

    /// `alone`: what this profile asks for is met by a cell of one's own, whatever the rules say.
    fn least(&self, asked: &Asked, alone: bool) -> Result<CellClass, PolicyFault> {
        let matching: Vec<&Rule> = self.rules.iter().filter(|rule| rule.matches(asked)).collect();
        if matching.is_empty() {
            return Err(PolicyFault::NotTotal { profile: shown(asked) });
        }
        let allowed = |class: &&CellClass| {
            (!alone || **class == CellClass::Dedicated) && matching.iter().all(|rule| rule.allow.contains(class))
        };
        CellClass::ALL.iter().find(allowed).copied().ok_or_else(|| {
            let own = matching.iter().map(|rule| format!("`{}`", rule.name));
            let given = alone.then(|| format!("Berth's own for {}", ALONE.join(" and ")));
            PolicyFault::Contradiction { rules: own.chain(given).collect(), profile: shown(asked) }
        })
    }

    /// One value on each side of every bound.
    fn cuts(&self) -> BTreeMap<Field, Vec<u64>> {
        let mut cuts: BTreeMap<Field, Vec<u64>> = BTreeMap::new();
        for (field, bounds) in self.rules.iter().flat_map(|rule| rule.when.bounds()) {
            let least = u64::from(field == Field::Regions);
            let values = cuts.entry(field.clone()).or_insert_with(|| vec![least, field.unsaid()]);
            values.extend(bounds.at_least.into_iter().flat_map(|at| [at.saturating_sub(1).max(least), at]));
            values.extend(bounds.at_most.into_iter().flat_map(|at| [at, at.saturating_add(1)]));
        }
        for values in cuts.values_mut() {
            values.sort_unstable();
            values.dedup();
        }
        cuts
    }

    pub fn standards(&self) -> Vec<String> {
        let mut words: Vec<String> = self.rules.iter().flat_map(|rule| rule.when.compliance.iter().cloned()).collect();
        words.sort_unstable();
        words.dedup();
        words
    }
}

fn nth(cuts: &BTreeMap<Field, Vec<u64>>, words: &[String], case: u64) -> (Asked, Vec<usize>) {
    let mut rest = case;
    let mut at = Vec::with_capacity(cuts.len());
    let mut fields = BTreeMap::new();
    for (field, values) in cuts {
        let n = (rest % values.len() as u64) as usize;
        rest /= values.len() as u64;
        fields.insert(field.clone(), values[n]);
        at.push(n);
    }
    let compliance = words.iter().enumerate().filter(|(n, _)| rest >> n & 1 == 1).map(|(_, word)| word.clone());
    (Asked { fields, compliance: compliance.collect() }, at)
}

fn shown(asked: &Asked) -> String {
    let value = |(field, value): (&Field, &u64)| match *value {
        u64::MAX => format!("no {}", field.name()),
        value => format!("{} {value}", field.name()),
    };
    let mut parts: Vec<String> = asked.fields.iter().map(value).collect();
    parts.extend(asked.compliance.iter().cloned());
    if parts.is_empty() { "without anything in it".to_owned() } else { format!("({})", parts.join(", ")) }
}
