//! `budget`, `alerts`, `backups`, `failover`, `quotas`, `check` and a service's `polls`. Never judges what they say:
//! that is for `berth check`.

use super::plans::read_price;
use crate::{
    Alert, Alerts, Backups, Budget, Failover, Poll, Problem, Quota, Silence, Span,
    read::{At, Reader, Section},
};
use std::collections::BTreeMap;

/// Those that a catalogue could name a rate for.
const CURRENCIES: &[(&str, &str)] =
    &[("EUR", "EUR"), ("USD", "USD"), ("GBP", "GBP"), ("CHF", "CHF"), ("BRL", "BRL"), ("SEK", "SEK"), ("JPY", "JPY")];
const ALERTS: &[&str] = &[
    "by",
    "cpu_percent",
    "memory_percent",
    "disk_percent",
    "connections_percent",
    "quota_percent",
    "error_percent",
    "response_ms",
    "down_s",
];
const SENDS_NONE: &str = "Berth sends no alerts itself: `berth render` writes rules, and something else sends";
const MAKES_NONE: &str = "Berth makes no backups of cells yet: it judges what is stated of them";
const FAILS_NOTHING_OVER: &str = "Berth carries out no failover yet: it judges what is stated of one";
const REASON_MIN: usize = 10;
const TEXT_MAX: usize = 200;

pub fn budget(reader: &mut Reader, at: &At<'_>) -> Option<Budget> {
    let section = reader.section(at, &["amount", "currency", "warning", "critical"])?;
    let amount = section.need("amount", "amount: 50", reader).and_then(|at| read_price(reader, &at));
    let currency = section.need("currency", "currency: EUR", reader).and_then(|at| reader.one_of(&at, CURRENCIES));
    let warning = section.get("warning").and_then(|at| read_price(reader, &at));
    let critical = section.get("critical").and_then(|at| read_price(reader, &at));
    Some(Budget { amount: amount?, currency: currency?.to_owned(), warning, critical })
}

pub fn alerts(reader: &mut Reader, at: &At<'_>) -> Option<Alerts> {
    let section = reader.section(at, ALERTS)?;
    let by = by(reader, &section, "by: Prometheus and Alertmanager", SENDS_NONE);
    let mut on = BTreeMap::new();
    for (name, at) in section.values().into_iter().filter(|(name, _)| name != "by" && ALERTS.contains(&name.as_str())) {
        let Some(section) = reader.section(&at, &["warning", "critical", "for"]) else { continue };
        let max = if name.ends_with("_percent") { 100 } else { 86_400_000 };
        let alert = Alert {
            warning: section.get("warning").and_then(|at| reader.number(&at, 1..=max)),
            critical: section.get("critical").and_then(|at| reader.number(&at, 1..=max)),
            lasting: section.get("for").and_then(|at| span(reader, &at)),
        };
        on.insert(name, alert);
    }
    Some(Alerts { by: by?, on })
}

pub fn backups(reader: &mut Reader, at: &At<'_>) -> Option<Backups> {
    let section = reader.section(at, &["by", "every", "to", "keep_days", "rpo", "rto", "drill_every"])?;
    let by = by(reader, &section, "by: restic, from a timer on the host", MAKES_NONE);
    let every = section.need("every", "every: 1h", reader).and_then(|at| span(reader, &at));
    let to = section.need("to", "to: a bucket at another provider", reader).and_then(|at| short(reader, &at));
    let keep_days = section.get("keep_days").and_then(|at| reader.number(&at, 1..=36_500));
    let mut spans = |name: &str| section.get(name).and_then(|at| span(reader, &at));
    let (rpo, rto, drill_every) = (spans("rpo"), spans("rto"), spans("drill_every"));
    Some(Backups { by: by?, every: every?, to: to?, keep_days, rpo, rto, drill_every })
}

pub fn failover(reader: &mut Reader, at: &At<'_>) -> Option<Failover> {
    let section = reader.section(at, &["by", "to", "automatic", "fence", "copied_every"])?;
    let by = by(reader, &section, "by: Patroni", FAILS_NOTHING_OVER);
    let to = section.need("to", "to: fallback", reader).and_then(|at| short(reader, &at));
    let automatic = section.get("automatic").map_or(Some(false), |at| reader.truth(&at));
    let fence = section.get("fence").and_then(|at| short(reader, &at));
    let copied_every = section.get("copied_every").and_then(|at| span(reader, &at));
    Some(Failover { by: by?, to: to?, automatic: automatic?, fence, copied_every })
}

pub fn quotas(reader: &mut Reader, at: &At<'_>) -> BTreeMap<String, Quota> {
    let mut quotas = BTreeMap::new();
    for (name, at) in reader.pairs(at) {
        let Some(section) = reader.section(&at, &["amount", "per", "unit", "provider", "what"]) else { continue };
        if let Some(at) = section.get("provider") {
            for own in ["amount", "per", "unit"] {
                if let Some(own) = section.get(own) {
                    let message = "the catalogue says this of the provider's quota";
                    let hint = "leave it out, or leave `provider` and `what` out";
                    reader.wrong(&own, Problem::Malformed { message, hint });
                }
            }
            let provider = short(reader, &at);
            let what = section.need("what", "what: commands_per_day", reader).and_then(|at| short(reader, &at));
            quotas.insert(name, Quota { amount: None, per: None, unit: None, provider, what });
            continue;
        }
        let amount = section.need("amount", "amount: 10000", reader).and_then(|at| reader.number(&at, 1..=1 << 53));
        let per = section.need("per", "per: 1d", reader).and_then(|at| span(reader, &at));
        let unit = section.need("unit", "unit: commands", reader).and_then(|at| short(reader, &at));
        if let Some(at) = section.get("what") {
            let message = "this says which quota of a provider is meant, and no `provider` is named";
            reader.wrong(&at, Problem::Malformed { message, hint: "`{ provider: upstash, what: commands_per_day }`" });
        }
        if amount.is_some() && per.is_some() && unit.is_some() {
            quotas.insert(name, Quota { amount, per, unit, provider: None, what: None });
        }
    }
    quotas
}

pub fn polls(reader: &mut Reader, at: &At<'_>, quotas: &[String]) -> Vec<Poll> {
    let mut polls = Vec::new();
    for item in reader.list(at).unwrap_or_default() {
        let Some(section) = reader.section(&item, &["of", "every", "amount"]) else { continue };
        let of = section.need("of", "of: redis", reader).and_then(|at| {
            let name = reader.text(&at)?.to_owned();
            if !quotas.contains(&name) {
                let problem = Problem::Dangling { what: "quota", name: name.clone(), known: quotas.to_vec() };
                reader.wrong(&at, problem);
            }
            Some(name)
        });
        let every = section.need("every", "every: 5s", reader).and_then(|at| span(reader, &at));
        let amount = section.get("amount").map_or(Some(1), |at| reader.number(&at, 1..=1 << 53));
        if let (Some(of), Some(every), Some(amount)) = (of, every, amount) {
            polls.push(Poll { of, every, amount });
        }
    }
    polls
}

/// `check: { silence: [{ rule: moving-tag, reason: … }] }`.
pub fn silences(reader: &mut Reader, at: &At<'_>) -> Vec<Silence> {
    let Some(section) = reader.section(at, &["silence"]) else { return Vec::new() };
    let Some(at) = section.get("silence") else { return Vec::new() };
    let mut silences = Vec::new();
    for item in reader.list(&at).unwrap_or_default() {
        let Some(section) = reader.section(&item, &["rule", "file", "reason"]) else { continue };
        let rule = section.need("rule", "rule: moving-tag", reader).and_then(|at| short(reader, &at));
        let file = section.get("file").and_then(|at| short(reader, &at));
        let reason = section.need("reason", "reason: the image is built here and never pulled", reader);
        let reason = reason.and_then(|at| {
            let text = reader.text(&at)?.trim().to_owned();
            if text.chars().count() < REASON_MIN {
                let problem = Problem::Malformed {
                    message: "this is no reason: say in a few words why the finding may stand",
                    hint: "for example `the image is built here and never pulled`",
                };
                reader.wrong(&at, problem);
            }
            Some(text)
        });
        if let (Some(rule), Some(reason)) = (rule, reason) {
            silences.push(Silence { rule, file, reason });
        }
    }
    silences
}

pub fn span(reader: &mut Reader, at: &At<'_>) -> Option<Span> {
    let parsed = reader.text(at)?.parse().ok();
    if parsed.is_none() {
        let message = "this is not a length of time";
        reader.wrong(at, Problem::Malformed { message, hint: "write `500ms`, `30s`, `15m`, `24h` or `7d`" });
    }
    parsed
}

/// Who carries it out, which is somebody else: `itself` says what Berth does not do.
fn by(reader: &mut Reader, section: &Section<'_>, example: &'static str, itself: &'static str) -> Option<String> {
    let at = section.need("by", example, reader)?;
    let who = short(reader, &at)?;
    if who.split_whitespace().next().is_some_and(|first| first.eq_ignore_ascii_case("berth")) {
        reader.wrong(&at, Problem::Malformed { message: itself, hint: "name who does it, or leave the section out" });
        return None;
    }
    Some(who)
}

fn short(reader: &mut Reader, at: &At<'_>) -> Option<String> {
    let text = reader.text(at)?.trim();
    if text.is_empty() || text.chars().count() > TEXT_MAX || text.chars().any(char::is_control) {
        let hint = "1 to 200 characters in one line";
        reader.wrong(at, Problem::Malformed { message: "this is no short text", hint });
        return None;
    }
    Some(text.to_owned())
}
