//! `usage` and a service's `scale`: when usage means something, and what follows. Never judges a tenant.

use super::{facts::span, plans::read_price};
use crate::{
    Plan, Problem, Scale, UsageRules,
    read::{At, Reader},
};
use berth_domain::PlanName;
use std::collections::BTreeMap;

const KEYS: &[&str] = &[
    "upgrade_at_percent",
    "downgrade_below_percent",
    "band_percent",
    "judge_every",
    "automatic",
    "approval_days",
    "stop",
    "costs_by",
];
/// As edges take it.
const COPIES_MAX: u16 = 64;

pub fn read(reader: &mut Reader, at: &At<'_>, plans: &BTreeMap<PlanName, Plan>) -> UsageRules {
    let shipped = UsageRules::default();
    let Some(section) = reader.section(at, KEYS) else { return shipped };
    let mut percent =
        |name: &str, usual: u32| section.get(name).and_then(|at| reader.number(&at, 1..=100)).unwrap_or(usual);
    let upgrade_at_percent = percent("upgrade_at_percent", shipped.upgrade_at_percent);
    let downgrade_below_percent = percent("downgrade_below_percent", shipped.downgrade_below_percent);
    let band_percent = percent("band_percent", shipped.band_percent);
    if downgrade_below_percent + band_percent >= upgrade_at_percent.saturating_sub(band_percent) {
        let problem = Problem::Malformed {
            message: "a proposal to go down would end where one to go up begins",
            hint: "keep `downgrade_below_percent` + `band_percent` below `upgrade_at_percent` - `band_percent`",
        };
        reader.wrong(at, problem);
    }
    UsageRules {
        upgrade_at_percent,
        downgrade_below_percent,
        band_percent,
        judge_every: section.get("judge_every").and_then(|at| span(reader, &at)).unwrap_or(shipped.judge_every),
        automatic: section.get("automatic").and_then(|at| reader.truth(&at)).unwrap_or(shipped.automatic),
        approval_days: section
            .get("approval_days")
            .and_then(|at| reader.number(&at, 1..=365))
            .unwrap_or(shipped.approval_days),
        stop: section.get("stop").map(|at| stop(reader, &at, plans)).unwrap_or_default(),
        costs_by: section.get("costs_by").and_then(|at| metric(reader, &at)),
    }
}

/// A metric as reports and edges name it.
fn metric(reader: &mut Reader, at: &At<'_>) -> Option<String> {
    let text = reader.text(at)?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if text.is_empty() || text.len() > 40 || !text.bytes().all(plain) {
        let problem = Problem::Malformed {
            message: "this is no name of a metric",
            hint: "1 to 40 lower-case letters, digits and `_`, such as `request_time_us`",
        };
        reader.wrong(at, problem);
        return None;
    }
    Some(text.to_owned())
}

/// Quantities that come back by themselves, and the class of requests that spends them.
fn stop(reader: &mut Reader, at: &At<'_>, plans: &BTreeMap<PlanName, Plan>) -> BTreeMap<String, String> {
    let known: Vec<&String> = plans.values().flat_map(|plan| plan.limits.quantities.keys()).collect();
    let mut stop = BTreeMap::new();
    for (quantity, at) in reader.pairs(at) {
        let returns = ["_per_hour", "_per_day", "_per_month"].iter().any(|end| quantity.ends_with(end));
        if !known.contains(&&quantity) || !returns {
            let problem = Problem::Malformed {
                message: "no plan limits this over an hour, a day or a month",
                hint: "name a quantity of a plan that ends in `_per_hour`, `_per_day` or `_per_month`",
            };
            reader.wrong(&at, problem);
        }
        if let Some(class) = reader.text(&at) {
            stop.insert(quantity, class.to_owned());
        }
    }
    stop
}

pub fn scale(reader: &mut Reader, at: &At<'_>) -> Option<Scale> {
    let section = reader.section(at, &["min", "max", "cpu", "memory", "cooldown_s", "price"])?;
    let min = section.get("min").map_or(Some(1), |at| reader.number(&at, 1..=COPIES_MAX));
    let max = section.need("max", "max: 5", reader).and_then(|at| reader.number(&at, 1..=COPIES_MAX));
    let cpu = section.get("cpu").map_or(Some(70), |at| reader.number(&at, 10..=100));
    let memory = section.get("memory").map_or(Some(80), |at| reader.number(&at, 10..=100));
    let cooldown_s = section.get("cooldown_s").map_or(Some(300), |at| reader.number(&at, 0..=86_400));
    let price = section.get("price").and_then(|at| read_price(reader, &at));
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        let problem = Problem::OutOfRange { wanted: format!("`max` of at least {min}"), found: max.to_string() };
        reader.wrong(at, problem);
    }
    Some(Scale { min: min?, max: max?, cpu: cpu?, memory: memory?, cooldown_s: cooldown_s?, price })
}
