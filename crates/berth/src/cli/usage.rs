//! `berth usage …`: what tenants use, and what of their plans that is.

use super::{
    CliError, Context,
    table::{Table, facts},
    text, units,
};
use berth_domain::UsagePeriod;
use berth_wire::{QuotaOutlook, TenantUsage, Usage as Row, UsageCounted, UsageEvent};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use std::{fmt::Write as _, path::PathBuf};

#[derive(Subcommand, Debug)]
pub enum Usage {
    /// What all tenants used in the running period
    List {
        /// hour, day or month, in UTC
        #[arg(long, default_value = "day")]
        period: UsagePeriod,
    },
    /// One tenant: its plan's limits, what is left, and where that is going
    Show {
        tenant: String,
        /// hour, day or month, in UTC
        #[arg(long, default_value = "day")]
        period: UsagePeriod,
    },
    /// Report what was used
    Record(Record),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth usage record --tenant acme --metric gps_points --amount 1200 --key import-2026-11-21
      sent again under the same key it counts once
  berth usage record --file events.json
      a list of {key, tenant, metric, amount, unit, at}; `-` reads standard input")]
pub struct Record {
    /// A name, an id, or key:KEY
    #[arg(long, required_unless_present = "file")]
    tenant: Option<String>,
    #[arg(long, required_unless_present = "file")]
    metric: Option<String>,
    #[arg(long, required_unless_present = "file")]
    amount: Option<u64>,
    /// Equal on every retry
    #[arg(long, required_unless_present = "file")]
    key: Option<String>,
    #[arg(long)]
    unit: Option<String>,
    /// When it was used; otherwise now
    #[arg(long)]
    at: Option<Timestamp>,
    /// Many events, as JSON
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tenant", "metric", "amount", "key", "unit", "at"])]
    file: Option<PathBuf>,
}

impl Usage {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::List { period } => {
                let rows = cx.client.usage(period).await?;
                cx.show(&rows, |rows| list(rows))
            }
            Self::Show { tenant, period } => {
                let usage = cx.client.tenant_usage(&tenant, period).await?;
                cx.show(&usage, |usage| one(usage, cx.now))
            }
            Self::Record(record) => {
                let events = record.events()?;
                let counted = cx.client.usage_record(&events).await?;
                cx.show(&counted, recorded)
            }
        }
    }
}

impl Record {
    fn events(self) -> Result<Vec<UsageEvent>, CliError> {
        let Some(path) = self.file else {
            let missing = || CliError::request("an event has a key, a tenant, a metric and an amount", "name all four");
            return Ok(vec![UsageEvent {
                key: self.key.ok_or_else(missing)?,
                tenant: self.tenant.ok_or_else(missing)?,
                metric: self.metric.ok_or_else(missing)?,
                amount: self.amount.ok_or_else(missing)?,
                unit: self.unit,
                at: self.at,
            }]);
        };
        let text = if path.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin()).map_err(|source| CliError::File { path: path.clone(), source })?
        } else {
            text::read(&path)?
        };
        serde_json::from_str(&text).map_err(|error| {
            let hint = "write a JSON list of `{\"key\", \"tenant\", \"metric\", \"amount\", \"unit\", \"at\"}`";
            CliError::request(format!("{} is no list of events: {error}", path.display()), hint)
        })
    }
}

fn recorded(counted: &UsageCounted) -> String {
    let mut text = format!("{} counted, {} known before\n", units::count(counted.counted), units::count(counted.known));
    if !counted.differing.is_empty() {
        let _ = writeln!(text, "counted before with something else, and left so: {}", counted.differing.join(", "));
    }
    text
}

fn list(rows: &[Row]) -> String {
    let mut table = Table::new(&["TENANT", "METRIC", ">TOTAL", ">GREATEST", ">LATEST", "UNIT", ">EVENTS"]);
    for row in rows {
        table.row([
            row.tenant.to_string(),
            row.metric.clone(),
            units::count(row.total),
            units::count(row.greatest),
            units::count(row.latest),
            row.unit.clone(),
            units::count(row.events),
        ]);
    }
    table.or("Nothing was used in this period yet: edges report what they carry, applications by `POST /v1/usage`.")
}

fn one(usage: &TenantUsage, now: Timestamp) -> String {
    let mut text = facts(&[
        ("tenant", usage.tenant.to_string()),
        ("plan", usage.plan.to_string()),
        ("judged", units::ago_or(usage.judged_at, now, "not yet")),
        ("says", usage.says.clone().unwrap_or_else(|| units::UNKNOWN.to_owned())),
    ]);
    for issue in &usage.issues {
        let _ = writeln!(text, "issue: {issue}");
    }
    let mut table = Table::new(&["QUANTITY", ">LIMIT", ">USED", ">LEFT", "RESETS", "SIGNAL", "OVER THE LIMIT"]);
    for outlook in &usage.quotas {
        let quota = &outlook.quota;
        table.row([
            quota.quantity.clone(),
            units::count(quota.limit),
            units::count_or_unknown(quota.used),
            units::count_or_unknown(quota.left),
            quota.resets_at.map(|at| at.strftime("%m-%d %H:%M").to_string()).unwrap_or_default(),
            outlook.signal.clone(),
            over_when(outlook),
        ]);
    }
    text.push('\n');
    text.push_str(&table.or("Its plan limits no quantity."));
    let mut table = Table::new(&["METRIC", "FROM", ">TOTAL", ">GREATEST", ">LATEST", "UNIT"]);
    for row in usage.usage.iter().rev().take(30) {
        table.row([
            row.metric.clone(),
            row.starts_at.strftime("%Y-%m-%d %H:%M").to_string(),
            units::count(row.total),
            units::count(row.greatest),
            units::count(row.latest),
            row.unit.clone(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.or("Nothing was used lately."));
    text
}

fn over_when(outlook: &QuotaOutlook) -> String {
    let Some(forecast) = &outlook.forecast else { return units::UNKNOWN.to_owned() };
    let day = |days: Option<u32>| days.map_or_else(|| "never".to_owned(), |days| format!("{days} d"));
    match forecast.over_in_days {
        None if forecast.over_earliest_days.is_none() => "not within 2 years".to_owned(),
        expected => {
            format!("in {} ({} to {})", day(expected), day(forecast.over_earliest_days), day(forecast.over_latest_days))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::one;
    use jiff::Timestamp;

    #[test]
    fn usage_is_shown_against_limits_and_unknown_is_not_0() {
        let usage = serde_json::from_value(serde_json::json!({
            "tenant": "acme", "plan": "hobby", "issues": [], "says": "it is where it belongs", "judged_at": null,
            "usage": [],
            "quotas": [
                { "quantity": "gps_points_per_day", "metric": "gps_points", "limit": 50000, "used": 40001, "left": 9999,
                  "resets_at": "2026-11-22T00:00:00Z", "signal": "over",
                  "forecast": { "days_known": 30, "per_day": 500.0, "error_percent": 4, "over_in_days": 20,
                                "over_earliest_days": 17, "over_latest_days": null } },
                { "quantity": "vehicles", "metric": "vehicles", "limit": 5, "used": null, "left": null,
                  "resets_at": null, "signal": "calm", "forecast": null }
            ]
        }));
        let text = one(&usage.unwrap(), Timestamp::UNIX_EPOCH);
        for part in ["50,000", "40,001", "9,999", "in 20 d (17 d to never)", "vehicles                 5       ?"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
