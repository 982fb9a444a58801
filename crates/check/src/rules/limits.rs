//! Limits that hold for somebody else than they say, cannot be reached, or are nobody's.

use crate::{
    Kind,
    node::{Ask, grouped},
    read::File,
    world::{Out, World},
};
use nginx_lint_parser::ast::Directive;

/// `limit_req_zone KEY zone=NAME:SIZE rate=RATE;`
struct Zone<'a> {
    file: &'a File,
    line: u64,
    key: String,
    name: String,
    per_minute: f64,
}

fn zones<'a>(world: &World<'a>) -> Vec<Zone<'a>> {
    let mut found = Vec::new();
    for file in world.of(Kind::Nginx) {
        let Some(config) = &file.nginx else { continue };
        for directive in config.all_directives().filter(|d| d.is("limit_req_zone")) {
            found.extend(zone(file, directive));
        }
    }
    found
}

fn zone<'a>(file: &'a File, directive: &Directive) -> Option<Zone<'a>> {
    // The text of an argument is its own; a variable comes without its sign.
    let key = directive.args.first()?.as_str().trim_start_matches('$').to_owned();
    let named = |name: &str| directive.args.iter().find_map(|arg| Some(arg.as_str().strip_prefix(name)?.to_owned()));
    let rate = named("rate=")?;
    let per_minute = match rate.strip_suffix("r/s") {
        Some(n) => n.parse::<f64>().ok()? * 60.0,
        None => rate.strip_suffix("r/m")?.parse().ok()?,
    };
    let name = named("zone=")?.split(':').next().unwrap_or_default().to_owned();
    Some(Zone { file, line: directive.name_span.start.line as u64, key, name, per_minute })
}

/// What a limit for each customer allows in a minute, and where that stands.
struct Allowed<'a> {
    file: &'a File,
    class: String,
    per_minute: f64,
}

fn allowed<'a>(world: &World<'a>) -> Vec<Allowed<'a>> {
    let mut found = Vec::new();
    for file in world.of(Kind::Elixir) {
        for (path, map) in file.tree.maps() {
            let Some(limits) = map.entry("limits").filter(|_| path.to_ascii_lowercase().contains("rate")) else {
                continue;
            };
            for item in limits.value.items() {
                let [class, amounts] = item.items() else { continue };
                let [amount, seconds] = amounts.items() else { continue };
                if let (Some(class), Some(amount), Some(seconds)) = (class.text(), amount.number(), seconds.number()) {
                    found.push(Allowed { file, class, per_minute: amount * 60.0 / seconds.max(1.0) });
                }
            }
        }
    }
    if let Some(file) = world.stack() {
        for leaf in file.tree.leaves() {
            let Some((_, class)) = leaf.path.split_once("limits.requests_per_minute.") else { continue };
            if let Some(per_minute) = leaf.node.number() {
                found.push(Allowed { file, class: class.to_owned(), per_minute });
            }
        }
    }
    found
}

pub fn by_address(world: &World<'_>, out: &mut Out) {
    const ADDRESSES: &[&str] = &["binary_remote_addr", "remote_addr", "http_x_forwarded_for", "http_x_real_ip"];
    let stated = world.of(Kind::Elixir).any(|file| {
        let leaves = file.tree.leaves();
        leaves.iter().any(|leaf| leaf.name() == "rate_limiting" && leaf.node.text().as_deref() == Some("per_customer"))
    });
    let classes: Vec<String> = allowed(world).into_iter().map(|allowed| allowed.class).collect();
    for zone in zones(world).iter().filter(|zone| ADDRESSES.contains(&zone.key.as_str())) {
        let claimed = claim_above(zone.file, zone.line);
        let says = match &claimed {
            Some(word) => format!("a limit \"per {word}\""),
            None if stated && classes.contains(&zone.name) => "a limit for each customer".to_owned(),
            None => continue,
        };
        out.note(
            zone.file,
            zone.line,
            &format!("limit_req_zone {}", zone.name),
            format!(
                "{says} is kept by client address: everybody behind one office's address shares it, and one customer with ten addresses has it ten times"
            ),
            "key it by what names the customer, such as the host name in a `map`, or leave it to the edge, which knows the tenant",
        );
    }
}

/// The comment over a zone that says for whom it is.
fn claim_above(file: &File, line: u64) -> Option<&'static str> {
    const WORDS: &[&str] = &["customer", "tenant", "account", "organisation", "organization"];
    let lines: Vec<&str> = file.text.lines().collect();
    let above = lines.get(..(line as usize).saturating_sub(1))?.iter().rev().map(|line| line.trim());
    let comment = above
        .take_while(|line| line.starts_with('#') || line.starts_with("limit_req_zone"))
        .find(|line| line.starts_with('#'))?
        .to_ascii_lowercase();
    WORDS
        .iter()
        .find(|word| comment.contains(&format!("per {word}")) || comment.contains(&format!("each {word}")))
        .copied()
}

pub fn contradict(world: &World<'_>, out: &mut Out) {
    let allowed = allowed(world);
    for zone in zones(world) {
        let same = allowed.iter().filter(|allowed| allowed.class == zone.name);
        let differing: Vec<_> = same.filter(|a| (a.per_minute - zone.per_minute).abs() > 0.5).collect();
        let Some(other) = differing.iter().max_by(|a, b| a.per_minute.total_cmp(&b.per_minute)) else { continue };
        let (here, there) = (grouped(zone.per_minute), grouped(other.per_minute));
        let what = if zone.per_minute < other.per_minute {
            "what is promised there is refused here"
        } else {
            "the wider of the two never acts"
        };
        out.note(
            zone.file,
            zone.line,
            &format!("limit_req_zone {}", zone.name),
            format!("`{}` is {here} requests a minute here and {there} in {}: {what}", zone.name, other.file.path),
            "say it in one place, or make both equal",
        );
    }
    let Some(stack) = world.stack() else { return };
    let largest = stack.tree.leaves().into_iter().filter(|leaf| leaf.path.ends_with("limits.body_bytes"));
    let Some(largest) = largest.filter_map(|leaf| leaf.node.number()).max_by(f64::total_cmp) else { return };
    for file in world.of(Kind::Nginx) {
        let Some(config) = &file.nginx else { continue };
        for directive in config.all_directives().filter(|d| d.is("client_max_body_size")) {
            let size = directive.first_arg().and_then(crate::node::mebibytes).map(|mib| mib * 1_048_576.0);
            if let Some(size) = size.filter(|size| *size > 0.0 && *size < largest) {
                let (here, there) = (grouped(size), grouped(largest));
                out.note(
                    file,
                    directive.name_span.start.line as u64,
                    "client_max_body_size",
                    format!("bodies end at {here} bytes here, and a plan in {} sells {there}", stack.path),
                    "raise it to the largest plan's, and leave the plans' own limits to the edge",
                );
            }
        }
    }
}

pub fn unreachable(world: &World<'_>, out: &mut Out) {
    const MINUTES: f64 = 1440.0;
    let Some(stack) = world.stack() else { return };
    let elsewhere: Vec<Allowed<'_>> = allowed(world).into_iter().filter(|a| a.file.kind == Kind::Elixir).collect();
    for plan in stack.tree.entry("plans").map(|plans| plans.value.entries()).unwrap_or_default() {
        let limits = |path: &[&str]| plan.value.at(path).or_else(|| stack.tree.at(path)).map(Ask::entries);
        let quantities = limits(&["limits", "quantities"]).unwrap_or_default();
        let own = limits(&["limits", "requests_per_minute"]).unwrap_or_default();
        for quantity in quantities.iter().filter(|entry| entry.key.ends_with("_per_day")) {
            let Some(daily) = quantity.value.number() else { continue };
            let class = quantity.key.split('_').next().unwrap_or_default();
            let here = own.iter().find(|entry| entry.key == class).and_then(|entry| entry.value.number());
            let there = elsewhere.iter().find(|a| a.class == class).map(|a| a.per_minute);
            let Some(per_minute) = here.or(there).filter(|rate| rate * MINUTES < daily) else { continue };
            let needed = (daily / (per_minute * MINUTES)).ceil();
            out.note(
                stack,
                quantity.line,
                &format!("plans.{}.limits.quantities.{}", plan.key, quantity.key),
                format!(
                    "{} a day are sold, and {} requests a minute let {} through: reachable only where a request carries {needed:.0} or more",
                    grouped(daily),
                    grouped(per_minute),
                    grouped(per_minute * MINUTES),
                ),
                "raise the rate for this plan, sell less, or state in `check.silence` how many a request carries",
            );
        }
    }
}

pub fn off(world: &World<'_>, out: &mut Out) {
    const REMEDY: &str = "leave commercial limits on everywhere; a customer's own hardware changes what they can use, not what they bought";
    let message = "the limits of the plans are switched off here, while the plans still sell them";
    for file in world.of(Kind::Elixir) {
        for leaf in file.tree.leaves() {
            if leaf.name() == "enforce_plan_limits" && leaf.node.text().as_deref() == Some("false") {
                out.note(file, leaf.line, &leaf.path, message, REMEDY);
            }
        }
    }
    for variable in world.variables() {
        if variable.name == "CUSTOMER_RESOURCE_LIMITS_ENABLED" && variable.value == "false" {
            out.note(variable.file, variable.line, &variable.key, message, REMEDY);
        }
    }
}

pub fn retention(world: &World<'_>, out: &mut Out) {
    let Some(stack) = world.stack() else { return };
    let plans = stack.tree.leaves();
    let longest = plans
        .iter()
        .filter(|leaf| leaf.path.ends_with("limits.retention_days"))
        .max_by(|a, b| a.node.number().unwrap_or_default().total_cmp(&b.node.number().unwrap_or_default()));
    let Some((longest, days)) = longest.and_then(|leaf| Some((leaf, leaf.node.number()?))) else { return };
    for file in world.of(Kind::Elixir) {
        for leaf in file.tree.leaves() {
            if leaf.name() != "default_retention_period" && leaf.name() != "retention_period" {
                continue;
            }
            let kept = leaf.node.text().and_then(|text| crate::node::span_ms(&text)).map(|ms| ms / 86_400_000.0);
            if let Some(kept) = kept.filter(|kept| *kept < days) {
                out.note(
                    file,
                    leaf.line,
                    &leaf.path,
                    format!(
                        "rows older than {kept:.0} days are dropped for everybody, and `{}` keeps them for {days:.0}",
                        longest.path
                    ),
                    "drop rows per tenant, by the tenant's plan; a whole chunk may go only when no plan keeps it",
                );
            }
        }
    }
}

/// Pairs of neighbours of which the first has to be smaller.
const ORDERED: &[(&str, &str)] = &[
    ("warning", "critical"),
    ("critical", "amount"),
    ("min", "max"),
    ("minReplicas", "maxReplicas"),
    ("min_replicas", "max_replicas"),
    ("min_instances", "max_instances"),
    ("soft_limit", "hard_limit"),
    ("cpuRequest", "cpuLimit"),
    ("memoryRequest", "memoryLimit"),
    ("downgrade_threshold", "upgrade_threshold"),
    ("auto_downgrade_threshold", "auto_upgrade_threshold"),
    ("timeout", "interval"),
];
/// Of these both may be equal: all replicas, or the whole budget.
const MAY_BE_EQUAL: &[&str] = &[
    "max",
    "maxReplicas",
    "max_replicas",
    "max_instances",
    "hard_limit",
    "cpuLimit",
    "memoryLimit",
    "amount",
    "interval",
];

pub fn thresholds(world: &World<'_>, out: &mut Out) {
    for file in world.files {
        for (path, map) in file.tree.maps() {
            for (low, high) in ORDERED {
                let (Some(a), Some(b)) = (map.entry(low), map.entry(high)) else { continue };
                let (Some(first), Some(second)) = (amount(low, &a.value), amount(high, &b.value)) else { continue };
                let equal_is_fine = MAY_BE_EQUAL.contains(high);
                if first < second || (equal_is_fine && first <= second) {
                    continue;
                }
                let key = crate::node::join(&path, low);
                let (said, limit) = (a.value.text().unwrap_or_default(), b.value.text().unwrap_or_default());
                let relation = if equal_is_fine { "at most" } else { "below" };
                out.note(
                    file,
                    a.line,
                    &key,
                    format!("`{low}` is {said} and `{high}` is {limit}; it has to be {relation} that, or one of the two never acts"),
                    format!("put `{low}` {relation} `{high}`"),
                );
            }
        }
    }
    said_twice(world, out);
    let variables = world.variables();
    for (low, high) in
        [("MIN_INSTANCES", "MAX_INSTANCES"), ("BUDGET_WARNING", "BUDGET_CRITICAL"), ("BUDGET_CRITICAL", "BUDGET_LIMIT")]
    {
        for a in variables.iter().filter(|v| v.name == low) {
            let b = variables.iter().find(|b| b.name == high && std::ptr::eq(a.file, b.file));
            let (Ok(first), Some(Ok(second))) = (a.value.parse::<f64>(), b.map(|b| b.value.parse::<f64>())) else {
                continue;
            };
            if first > second {
                let message = format!("`{low}` is {first} and `{high}` is {second}");
                out.note(a.file, a.line, &a.key, message, format!("put `{low}` below `{high}`"));
            }
        }
    }
}

/// A variable and the key of the stack file that says the same; `*` is each service that says so.
const TWICE: &[(&str, &str)] = &[
    ("BUDGET_LIMIT", "budget.amount"),
    ("BUDGET_WARNING", "budget.warning"),
    ("BUDGET_CRITICAL", "budget.critical"),
    ("MIN_INSTANCES", "services.*.scale.min"),
    ("MAX_INSTANCES", "services.*.scale.max"),
    ("CPU_THRESHOLD", "services.*.scale.cpu"),
    ("MEMORY_THRESHOLD", "services.*.scale.memory"),
];

/// One threshold in two files, with two values.
fn said_twice(world: &World<'_>, out: &mut Out) {
    let Some(stack) = world.stack() else { return };
    for variable in world.variables().iter().filter(|v| v.file.kind == Kind::Environment) {
        let Some((_, key)) = TWICE.iter().find(|(name, _)| *name == variable.name) else { continue };
        let Ok(value) = variable.value.parse::<f64>() else { continue };
        let keys: Vec<String> = match key.split_once('*') {
            None => vec![(*key).to_owned()],
            Some((before, after)) => {
                let services = World::services(stack).into_iter();
                services.map(|(name, ..)| format!("{before}{name}{after}")).collect()
            }
        };
        let said = |key: &String| {
            let path: Vec<&str> = key.split('.').collect();
            Some((key.clone(), stack.tree.at(&path)?.number()?))
        };
        let said: Vec<(String, f64)> = keys.iter().filter_map(said).collect();
        // With several services, that of one of them is enough.
        if said.is_empty() || said.iter().any(|(_, other)| (other - value).abs() < f64::EPSILON) {
            continue;
        }
        let (key, other) = &said[0];
        let message = format!(
            "`{}` is {value} here and `{key}` is {other} in {}: one of the two acts",
            variable.name, stack.path
        );
        let remedy = format!(
            "say it once, as `{key}`: what runs is told it under the variable's name where it is one of Berth's"
        );
        out.note(variable.file, variable.line, &variable.key, message, remedy);
    }
}

/// A number, a length of time or an amount of memory; under Kubernetes' keys what they are there.
fn amount(key: &str, node: &berth_config::tree::Node) -> Option<f64> {
    let text = node.text()?;
    match key {
        // `500m` is half a core, as `0.5` is.
        "cpuRequest" | "cpuLimit" => match text.trim().strip_suffix('m') {
            Some(millis) => millis.parse::<f64>().ok().map(|millis| millis / 1000.0),
            None => node.number(),
        },
        // A number alone is bytes.
        "memoryRequest" | "memoryLimit" => crate::node::mebibytes(&text),
        _ => node.number().or_else(|| crate::node::span_ms(&text)).or_else(|| crate::node::mebibytes(&text)),
    }
}
