//! `plans`: prices and limits. Never judges whether a price pays for its limits.

use crate::{
    Plan, Problem,
    read::{At, Reader},
    stack::price,
    tree::Value,
};
use berth_domain::{CellClass, Cents, PlanLimits, PlanName};
use std::collections::BTreeMap;

pub const CLASSES: &[(&str, CellClass)] =
    &[("shared", CellClass::Shared), ("pool", CellClass::Pool), ("dedicated", CellClass::Dedicated)];
const LIMITS: &[&str] = &["requests_per_minute", "body_bytes", "retention_days", "quantities"];
/// What a JSON reader that knows only doubles still holds exactly.
const QUANTITY_MAX: u64 = (1 << 53) - 1;

pub fn read(reader: &mut Reader, at: &At<'_>, usual: &PlanLimits) -> BTreeMap<PlanName, Plan> {
    let mut plans = BTreeMap::new();
    for (name, at) in reader.named::<PlanName>(at) {
        if let Some(plan) = plan(reader, &at, usual) {
            plans.insert(name, plan);
        }
    }
    plans
}

fn plan(reader: &mut Reader, at: &At<'_>, usual: &PlanLimits) -> Option<Plan> {
    let section = reader.section(at, &["price", "class", "limits", "shape"])?;
    let price = section.need("price", "price: 149", reader).and_then(|at| read_price(reader, &at));
    let class = section.need("class", "class: shared", reader).and_then(|at| reader.one_of(&at, CLASSES));
    let limits = section.get("limits").map(|at| limits(reader, &at)).unwrap_or_default();
    let limits = over(usual, limits);
    let shape = section.get("shape").map(|at| super::services::shape(reader, &at)).unwrap_or_default();
    Some(Plan { price: price?, class: class?, limits, shape })
}

/// `149`, `149.5` or `"149.50"`: dollars a month.
pub fn read_price(reader: &mut Reader, at: &At<'_>) -> Option<Cents> {
    let text = match &at.node.value {
        Value::Int(number) => number.to_string(),
        // The shortest text that reads back as the same number: the digits that were written.
        Value::Float(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        other => {
            reader.wrong(at, Problem::WrongType { wanted: "a price", found: other.kind() });
            return None;
        }
    };
    let price = price::parse(&text);
    if price.is_none() {
        let wanted = "a price from 0 to 9999999.99 with at most two decimals".to_owned();
        reader.wrong(at, Problem::OutOfRange { wanted, found: format!("`{text}`") });
    }
    price
}

/// The stack's `limits`, where the plan says nothing of its own. Maps are joined word by word.
fn over(usual: &PlanLimits, mut own: PlanLimits) -> PlanLimits {
    let join = |own: &mut BTreeMap<String, u64>, usual: &BTreeMap<String, u64>| {
        for (name, amount) in usual {
            own.entry(name.clone()).or_insert(*amount);
        }
    };
    join(&mut own.requests_per_minute, &usual.requests_per_minute);
    join(&mut own.quantities, &usual.quantities);
    own.body_bytes = own.body_bytes.or(usual.body_bytes);
    own.retention_days = own.retention_days.or(usual.retention_days);
    own
}

pub fn limits(reader: &mut Reader, at: &At<'_>) -> PlanLimits {
    let Some(section) = reader.section(at, LIMITS) else { return PlanLimits::default() };
    PlanLimits {
        requests_per_minute: section.get("requests_per_minute").map(|at| amounts(reader, &at)).unwrap_or_default(),
        body_bytes: section.get("body_bytes").and_then(|at| reader.number(&at, 1..=QUANTITY_MAX)),
        retention_days: section.get("retention_days").and_then(|at| reader.number(&at, 1..=36_500)),
        quantities: section.get("quantities").map(|at| amounts(reader, &at)).unwrap_or_default(),
    }
}

fn amounts(reader: &mut Reader, at: &At<'_>) -> BTreeMap<String, u64> {
    let mut amounts = BTreeMap::new();
    for (name, at) in reader.pairs(at) {
        let word = !name.is_empty()
            && name.len() <= 40
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if !word {
            let problem = Problem::Malformed {
                message: "this is not the name of a limit",
                hint: "1 to 40 of `a-z`, `0-9`, `_` and `-`, as in `vehicles`",
            };
            reader.wrong(&at, problem);
        }
        if let Some(amount) = reader.number(&at, 0..=QUANTITY_MAX) {
            amounts.insert(name, amount);
        }
    }
    amounts
}
