//! `berth tenant limits`: what edges keep of a tenant. Never counts a request: edges do.

use crate::cli::{
    CliError, Context,
    table::{Table, facts},
    units,
};
use berth_domain::EdgeLimits;
use berth_wire::{TenantLimits, TenantLimitsSet};
use clap::Args;
use std::collections::BTreeMap;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth tenant limits acme
  berth tenant limits acme --requests-per-minute 600 --requests-per-minute upload=60
  berth tenant limits acme --plans upload
  berth tenant limits acme --clear")]
pub struct Limits {
    tenant: String,
    /// So many requests a minute, of this class; without one of `api`, the class of all others. 0 lets none through
    #[arg(long, value_name = "[CLASS=]N", value_parser = class_and_number)]
    requests_per_minute: Vec<(String, u64)>,
    /// Largest request body
    #[arg(long, value_name = "BYTES")]
    body_bytes: Option<u64>,
    /// As its plan says again: a class, or `body_bytes`; may be given more than once
    #[arg(long, value_name = "CLASS")]
    plans: Vec<String>,
    /// Everything as its plan says again
    #[arg(long, conflicts_with_all = ["requests_per_minute", "body_bytes", "plans"])]
    clear: bool,
    /// Show what would be in force and stop
    #[arg(long)]
    dry_run: bool,
}

fn class_and_number(text: &str) -> Result<(String, u64), String> {
    let (class, number) = text.split_once('=').unwrap_or(("api", text));
    let number = number.parse().map_err(|_| format!("`{number}` is no whole number; write `600` or `upload=60`"))?;
    Ok((class.to_owned(), number))
}

impl Limits {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let now = cx.client.tenant_limits(&self.tenant).await?;
        let changes =
            self.clear || !self.requests_per_minute.is_empty() || self.body_bytes.is_some() || !self.plans.is_empty();
        if !changes {
            return cx.show(&now, shown);
        }
        let mut own = if self.clear { EdgeLimits::default() } else { now.own.clone() };
        for word in &self.plans {
            let was = if word == "body_bytes" {
                own.body_bytes.take().is_some()
            } else {
                own.requests_per_minute.remove(word).is_some()
            };
            if !was {
                return Err(CliError::request(
                    format!("`{word}` of tenant `{}` is as its plan says already", now.tenant),
                    format!("`berth tenant limits {}` shows what is its own", now.tenant),
                ));
            }
        }
        own.requests_per_minute.extend(self.requests_per_minute);
        own.body_bytes = self.body_bytes.or(own.body_bytes);
        if self.dry_run {
            return cx.show(&after(now, own), shown);
        }
        let wanted = TenantLimitsSet { requests_per_minute: own.requests_per_minute, body_bytes: own.body_bytes };
        let changed = cx.client.tenant_set_limits(&self.tenant, &wanted, Some(now.version)).await?;
        cx.show(&changed, shown)
    }
}

/// What would be shown with these of its own.
fn after(now: TenantLimits, own: EdgeLimits) -> TenantLimits {
    let mut requests_per_minute = now.of_plan.requests_per_minute.clone();
    requests_per_minute.extend(own.requests_per_minute.clone());
    let in_force = EdgeLimits { requests_per_minute, body_bytes: own.body_bytes.or(now.of_plan.body_bytes) };
    TenantLimits { own, in_force, ..now }
}

/// In one line, for a tenant's screen.
pub fn own(own: &EdgeLimits) -> String {
    if own.is_empty() {
        return "its plan's".to_owned();
    }
    let classes = own.requests_per_minute.iter().map(|(class, n)| format!("{class} {} a minute", units::count(*n)));
    let body = own.body_bytes.map(|bytes| format!("bodies {}", units::bytes_or_unknown(Some(bytes))));
    format!("its plan's, but {}", classes.chain(body).collect::<Vec<_>>().join(", "))
}

fn shown(limits: &TenantLimits) -> String {
    let whose = |own: bool| if own { "its own" } else { "its plan's" };
    let mut table = Table::new(&["LIMIT", ">NOW", "WHOSE", ">ITS PLAN'S"]);
    let said =
        |of: &BTreeMap<String, u64>, class: &str| of.get(class).map_or_else(|| "none".to_owned(), |n| units::count(*n));
    for class in limits.in_force.requests_per_minute.keys() {
        table.row([
            format!("{class} a minute"),
            said(&limits.in_force.requests_per_minute, class),
            whose(limits.own.requests_per_minute.contains_key(class)).to_owned(),
            said(&limits.of_plan.requests_per_minute, class),
        ]);
    }
    let bytes = |of: Option<u64>| of.map_or_else(|| "none".to_owned(), |n| units::bytes_or_unknown(Some(n)));
    if limits.in_force.body_bytes.is_some() {
        let (now, plan) = (bytes(limits.in_force.body_bytes), bytes(limits.of_plan.body_bytes));
        table.row(["request body".to_owned(), now, whose(limits.own.body_bytes.is_some()).to_owned(), plan]);
    }
    let head = facts(&[("tenant", limits.tenant.to_string()), ("plan", limits.plan.to_string())]);
    format!("{head}\n{}", table.or("Nothing is limited: `--requests-per-minute N` does."))
}

#[cfg(test)]
mod tests {
    use super::{after, class_and_number, own, shown};
    use berth_domain::EdgeLimits;
    use berth_wire::TenantLimits;

    fn limits(of: &[(&str, u64)], body_bytes: Option<u64>) -> EdgeLimits {
        let requests_per_minute = of.iter().map(|(class, n)| ((*class).to_owned(), *n)).collect();
        EdgeLimits { requests_per_minute, body_bytes }
    }

    fn acme() -> TenantLimits {
        TenantLimits {
            tenant: "acme".parse().unwrap(),
            plan: "business".parse().unwrap(),
            of_plan: limits(&[("api", 100), ("upload", 10)], None),
            own: EdgeLimits::default(),
            in_force: limits(&[("api", 100), ("upload", 10)], None),
            version: 3,
        }
    }

    #[test]
    fn a_limit_is_shown_with_whose_word_it_is() {
        let changed = after(acme(), limits(&[("api", 1600), ("gps", 5)], Some(2048)));
        assert_eq!(
            shown(&changed),
            "\
tenant  acme
plan    business

LIMIT                NOW  WHOSE       ITS PLAN'S
api a minute       1,600  its own            100
gps a minute           5  its own           none
upload a minute       10  its plan's          10
request body     2.0 KiB  its own           none
"
        );
        assert_eq!(own(&changed.own), "its plan's, but api 1,600 a minute, gps 5 a minute, bodies 2.0 KiB");
        let none = TenantLimits { of_plan: EdgeLimits::default(), in_force: EdgeLimits::default(), ..acme() };
        assert!(shown(&none).ends_with("Nothing is limited: `--requests-per-minute N` does.\n"));
    }

    #[test]
    fn a_number_alone_is_for_all_requests_that_have_no_class() {
        assert_eq!(class_and_number("600"), Ok(("api".to_owned(), 600)));
        assert_eq!(class_and_number("upload=0"), Ok(("upload".to_owned(), 0)));
        assert!(class_and_number("upload=many").unwrap_err().contains("`many` is no whole number"));
    }
}
