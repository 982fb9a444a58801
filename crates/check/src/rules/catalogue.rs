//! What the catalogue knows of the stack file's providers: what is free there and for how long, and how often they let
//! themselves be asked. The shipped catalogue with what `placement.catalogue` says over it, as decisions take it.

use crate::{
    node::{Ask, grouped, said},
    read::File,
    world::{Out, World},
};
use berth_config::tree::{Entry, Node};
use berth_placement::{Catalogue, Provider};
use jiff::{civil::Date, tz::TimeZone};
use std::{borrow::Cow, collections::BTreeMap, sync::OnceLock};

/// A month as providers reckon it: 730 hours.
const MONTH_S: f64 = 2_628_000.0;
const MONTH_MS: f64 = MONTH_S * 1000.0;
const HOUR_MS: f64 = 3_600_000.0;

/// The rules here ask for no exchange rate, so the day on which the rates are read matters to nobody.
const DAY: Date = jiff::civil::date(2026, 11, 22);

fn catalogue(stack: &File) -> Option<Cow<'static, Catalogue>> {
    static SHIPPED: OnceLock<Option<Catalogue>> = OnceLock::new();
    if let Some(own) = stack.tree.at(&["placement", "catalogue"]) {
        // One with mistakes in it is what `stack-file` is for.
        return Catalogue::over(&berth_config::json(own).to_string(), DAY).ok().map(Cow::Owned);
    }
    SHIPPED.get_or_init(|| Catalogue::shipped(DAY).ok()).as_ref().map(Cow::Borrowed)
}

/// `quotas.redis: { provider: upstash, what: commands_per_day }` as amount, milliseconds and unit. `None` where it names
/// no provider, or the catalogue cannot be read.
pub fn quota_of(stack: &File, quota: &Entry) -> Option<Result<(f64, f64, String), String>> {
    let provider = quota.value.at(&["provider"])?.text()?;
    let what = quota.value.at(&["what"])?.text()?;
    let catalogue = catalogue(stack)?;
    let Some(known) = catalogue.quota(&provider, &what) else {
        let there = catalogue.providers.get(&provider).map(|it| it.quotas.iter().map(|q| q.what.as_str()).collect());
        return Some(Err(match there {
            None => format!("the catalogue has no provider `{provider}`"),
            Some::<Vec<&str>>(there) if there.is_empty() => format!("the catalogue knows no quota of `{provider}`"),
            Some(there) => format!("the catalogue has no quota `{what}` of `{provider}`: it has {}", there.join(", ")),
        }));
    };
    let Some((unit, per)) = per_of(&what) else {
        return Some(Err(format!("`{what}` does not end in `_per_day` or another length of time")));
    };
    Some(Ok((known.amount as f64, per, unit)))
}

/// `commands_per_day` as its unit and length of time.
fn per_of(what: &str) -> Option<(String, f64)> {
    let (unit, per) = what.rsplit_once("_per_")?;
    let ms = match per {
        "s" => 1000.0,
        "minute" => 60_000.0,
        "hour" => HOUR_MS,
        "day" => 24.0 * HOUR_MS,
        "month" => MONTH_MS,
        _ => return None,
    };
    Some((unit.replace('_', " "), ms))
}

/// The cells of each provider that the catalogue knows, with the line of the first.
fn cells_of(stack: &File) -> BTreeMap<String, (u64, String, f64)> {
    let listed = |key: &str| stack.tree.entry(key).map(|it| it.value.entries()).unwrap_or_default();
    let only = match listed("providers") {
        [only] => Some(only.key.clone()),
        _ => None,
    };
    let mut found: BTreeMap<String, (u64, String, f64)> = BTreeMap::new();
    for cell in listed("cells") {
        let Some(name) = cell.value.at(&["provider"]).and_then(Ask::text).or_else(|| only.clone()) else { continue };
        let first = || (cell.line, format!("cells.{}", cell.key), 0.0);
        found.entry(name).or_insert_with(first).2 += 1.0;
    }
    found
}

/// Copies of all services in one cell, and what they are promised together: members, cores, GiB.
fn members(stack: &File) -> (f64, f64, f64) {
    let number = |node: &Node, path: &[&str]| node.at(path).and_then(Ask::number);
    let of = |service: &Node| {
        // A cron service runs now and then, and nobody can say how long.
        let always = service.at(&["role"]).and_then(Ask::text).as_deref() != Some("cron");
        let least = number(service, &["scale", "min"]);
        let copies = least.or_else(|| number(service, &["copies"])).unwrap_or(1.0) * f64::from(u8::from(always));
        let part = |key: &str, unit: f64| number(service, &["shape", key]).unwrap_or(0.0) / unit * copies;
        (copies, part("cpu_millis", 1000.0), part("memory_mib", 1024.0))
    };
    let all = World::services(stack).into_iter().map(|(_, service, _)| of(service));
    all.fold((0.0, 0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2))
}

/// Free hours that members which are always there use up.
pub fn grant(world: &World<'_>, out: &mut Out) {
    let Some(stack) = world.stack() else { return };
    let Some(catalogue) = catalogue(stack) else { return };
    let (copies, cores, gib) = members(stack);
    for (name, (line, key, cells)) in cells_of(stack) {
        let Some(it) = catalogue.providers.get(&name) else { continue };
        for quota in &it.quotas {
            let used = match quota.what.as_str() {
                "free_hours_per_month" => cells * copies * MONTH_S / 3600.0,
                "vcpu_seconds_per_month" => cells * cores * MONTH_S,
                "gib_seconds_per_month" => cells * gib * MONTH_S,
                _ => continue,
            };
            let amount = quota.amount as f64;
            if used <= amount {
                continue;
            }
            let unit = quota.what.trim_end_matches("_per_month").replace('_', " ");
            let unit = unit.strip_prefix("free ").unwrap_or(&unit);
            let message = format!(
                "members that always run take {} {unit} a month at `{name}`, where {} are free: used up after {}, and \
                 the rest is charged or stands still",
                grouped(used),
                grouped(amount),
                said(MONTH_MS * amount / used)
            );
            let remedy = format!(
                "reckon with its prices (`berth cost catalogue {name}`), or run fewer and smaller members there; the figure is \
                 from {}",
                quota.source
            );
            out.note(stack, line, &key, message, remedy);
        }
    }
}

/// Opening everything at once asks more often than the provider answers.
pub fn rate_limit(world: &World<'_>, out: &mut Out) {
    let Some(stack) = world.stack() else { return };
    let Some(catalogue) = catalogue(stack) else { return };
    let (copies, ..) = members(stack);
    for (name, (line, key, cells)) in cells_of(stack) {
        let Some(limit) = catalogue.providers.get(&name).and_then(|it: &Provider| it.rate_limit) else { continue };
        // One request makes one member: whatever else is asked comes on top.
        let wanted = cells * copies;
        let (least, lasts) = (limit.requests as f64, limit.per_s as f64 * 1000.0);
        let waits = (wanted / least).ceil() - 1.0;
        if waits * lasts < HOUR_MS {
            continue;
        }
        let message = format!(
            "to make the {} members of its cells takes that many requests; `{name}` lets {} through in {}, so the last \
             waits {}",
            grouped(wanted),
            grouped(least),
            said(lasts),
            said(waits * lasts)
        );
        let remedy = "open cells over several days, ask the provider for a higher limit, or put fewer members there";
        out.note(stack, line, &key, message, remedy);
    }
}

/// A credit of a provider in use that has ended, or soon does.
pub fn credit(world: &World<'_>, out: &mut Out) {
    let Some(stack) = world.stack() else { return };
    let Some(catalogue) = catalogue(stack) else { return };
    let used = cells_of(stack);
    for end in catalogue.credit_ends(world.now.to_zoned(TimeZone::UTC).date()) {
        let Some((line, key, _)) = used.get(&end.provider) else { continue };
        let path = format!("placement.catalogue.providers.{}.credits", end.provider);
        let said = berth_config::find(&stack.tree, &path).map(|(line, _)| (line, path));
        let (line, key) = said.unwrap_or_else(|| (*line, key.clone()));
        let remedy =
            "reckon with the price without it, as every price of the catalogue is, or move what may before that day";
        out.note(stack, line, &key, end.to_string(), remedy);
    }
}
