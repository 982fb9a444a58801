//! Alert rules for Prometheus and a dashboard for Grafana, over the metrics of `berth edge` and `berth serve`. Every name
//! in them is one that these programs emit; a test of the program reads both.

use crate::{File, MARK};
use serde_json::{Value, json};

/// Name, expression, for how long, severity, and what is said.
type Rule = (&'static str, &'static str, &'static str, &'static str, &'static str);

const EDGE: [Rule; 10] = [
    (
        "BerthEdgeWithoutControl",
        "berth_edge_control_connected == 0",
        "5m",
        "warning",
        "Edge {{ $labels.instance }} serves on from what it knows, and hears of no change.",
    ),
    (
        "BerthErrors",
        "sum by (tenant) (rate(berth_edge_requests_total{class=\"5xx\"}[5m])) / sum by (tenant) (rate(berth_edge_requests_total[5m])) > 0.05",
        "5m",
        "critical",
        "More than 5 in 100 requests of tenant {{ $labels.tenant }} fail.",
    ),
    (
        "BerthSlow",
        "histogram_quantile(0.99, sum by (tenant, le) (rate(berth_edge_request_seconds_bucket[5m]))) > 2.5",
        "10m",
        "warning",
        "The slowest in 100 requests of tenant {{ $labels.tenant }} take more than 2.5 s.",
    ),
    (
        "BerthMemberDown",
        "berth_edge_member_up == 0",
        "2m",
        "critical",
        "Member {{ $labels.address }} of {{ $labels.service }} fails the edges' checks.",
    ),
    (
        "BerthMemberEjected",
        "increase(berth_edge_member_ejections_total[10m]) > 3",
        "0m",
        "warning",
        "Member {{ $labels.address }} of {{ $labels.service }} fails requests again and again.",
    ),
    (
        "BerthLimited",
        "sum by (tenant) (rate(berth_edge_limited_total[5m])) > 1",
        "15m",
        "info",
        "Tenant {{ $labels.tenant }} has been over its limit for a quarter of an hour.",
    ),
    (
        "BerthLimitsByShare",
        "berth_edge_limits_shared == 0 and berth_edge_limits_edges > 1",
        "2m",
        "warning",
        "Edge {{ $labels.instance }} cannot reach Redis and gives its share of the limits.",
    ),
    (
        "BerthLimitsRefused",
        "berth_edge_limits_refused == 1",
        "1m",
        "critical",
        "Redis refuses what the stack file's `cluster` says; /healthz of edge {{ $labels.instance }} tells why.",
    ),
    (
        "BerthParked",
        "sum by (tenant) (increase(berth_edge_parked_total[5m])) > 1000",
        "0m",
        "warning",
        "Many requests of tenant {{ $labels.tenant }} were parked: its moves pause for long.",
    ),
    (
        "BerthEdgeDisk",
        "increase(berth_edge_disk_failures_total[10m]) > 0",
        "0m",
        "warning",
        "Edge {{ $labels.instance }} cannot write to its data folder, and would forget what is new in a restart.",
    ),
];

const CONTROL: [Rule; 5] = [
    ("BerthControlDatabase", "berth_up == 0", "1m", "critical", "The control database does not answer."),
    (
        "BerthEdgeBehind",
        "berth_edge_revisions_behind > 0",
        "2m",
        "warning",
        "Edge {{ $labels.edge }} does not take new routes; moves wait for it.",
    ),
    ("BerthAttention", "berth_attention > 0", "15m", "warning", "Something waits for a person: `berth status`."),
    (
        "BerthMembersUnhealthy",
        "berth_members_healthy < berth_members",
        "10m",
        "warning",
        "Members have not been healthy for ten minutes: `berth cell list`.",
    ),
    (
        "BerthTenantsFailed",
        "berth_tenants{state=\"failed\"} > 0",
        "5m",
        "warning",
        "A tenant could not be provisioned.",
    ),
];

/// Title, unit, and what is drawn: expression and legend.
type Panel = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const PANELS: [Panel; 12] = [
    ("Requests", "reqps", &[("sum by (tenant) (rate(berth_edge_requests_total[5m]))", "{{tenant}}")]),
    (
        "Errors, part of all",
        "percentunit",
        &[(
            "sum by (tenant) (rate(berth_edge_requests_total{class=\"5xx\"}[5m])) / sum by (tenant) (rate(berth_edge_requests_total[5m]))",
            "{{tenant}}",
        )],
    ),
    (
        "Time to the answer's head",
        "s",
        &[
            ("histogram_quantile(0.5, sum by (le) (rate(berth_edge_request_seconds_bucket[5m])))", "half"),
            ("histogram_quantile(0.99, sum by (le) (rate(berth_edge_request_seconds_bucket[5m])))", "99 in 100"),
        ],
    ),
    (
        "Bytes",
        "Bps",
        &[
            ("sum(rate(berth_edge_received_bytes_total[5m]))", "in"),
            ("sum(rate(berth_edge_sent_bytes_total[5m]))", "out"),
        ],
    ),
    ("Refused by limits", "reqps", &[("sum by (tenant) (rate(berth_edge_limited_total[5m]))", "{{tenant}}")]),
    (
        "Limits",
        "short",
        &[
            ("berth_edge_limits_shared", "{{instance}} shares"),
            ("berth_edge_limits_edges", "{{instance}} knows of edges"),
            ("rate(berth_edge_limits_own_share_total[5m])", "{{instance}} by its share, a second"),
        ],
    ),
    ("Connections", "short", &[("berth_edge_connections", "{{instance}}")]),
    ("Members up", "short", &[("berth_edge_member_up", "{{service}} {{address}}")]),
    ("Ejections", "short", &[("increase(berth_edge_member_ejections_total[10m])", "{{service}} {{address}}")]),
    ("Parked while moving", "short", &[("sum by (tenant) (increase(berth_edge_parked_total[5m]))", "{{tenant}}")]),
    (
        "Refused before a tenant was known",
        "reqps",
        &[
            ("sum(rate(berth_edge_unknown_host_total[5m]))", "unknown host"),
            ("sum(rate(berth_edge_refused_total[5m]))", "malformed"),
        ],
    ),
    (
        "Edges",
        "short",
        &[
            ("berth_edge_revisions_behind", "{{edge}} behind"),
            ("berth_edge_control_connected", "{{instance}} follows"),
            ("berth_edge_tenants", "{{instance}} routes"),
        ],
    ),
];

/// When somebody is woken, of what edges measure; what says nothing is as it usually is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alerts {
    /// Of a tenant's requests.
    pub error_percent: Alert,
    /// For the slowest in 100 requests of a tenant.
    pub response_ms: Alert,
    /// For how long a member fails the edges' checks.
    pub down_s: Alert,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alert {
    pub warning: Option<u64>,
    pub critical: Option<u64>,
    /// How long the value has to stay above.
    pub lasting_ms: Option<u64>,
}

impl Alert {
    /// Severity and limit.
    fn limits(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [("warning", self.warning), ("critical", self.critical)].into_iter().filter_map(|(name, at)| Some((name, at?)))
    }
}

impl Alerts {
    /// The rules in place of a usual one; none where nothing is said of what it looks at.
    fn instead_of(&self, (name, usual, lasting, _, _): &Rule) -> Vec<String> {
        let lasting = |alert: &Alert| alert.lasting_ms.map_or_else(|| (*lasting).to_owned(), length);
        let measured = usual.split_once(" > ").map_or(*usual, |(measured, _)| measured);
        let tenant = "tenant {{ $labels.tenant }}";
        match *name {
            "BerthErrors" => {
                let rule = |(severity, percent): (&str, u64)| {
                    let expr = format!("{measured} > {}.{:02}", percent / 100, percent % 100);
                    let says = format!("More than {percent} in 100 requests of {tenant} fail.");
                    one(name, &expr, &lasting(&self.error_percent), severity, &says)
                };
                self.error_percent.limits().map(rule).collect()
            }
            "BerthSlow" => {
                let rule = |(severity, ms): (&str, u64)| {
                    let expr = format!("{measured} > {}.{:03}", ms / 1000, ms % 1000);
                    let says = format!("The slowest in 100 requests of {tenant} take more than {ms} ms.");
                    one(name, &expr, &lasting(&self.response_ms), severity, &says)
                };
                self.response_ms.limits().map(rule).collect()
            }
            "BerthMemberDown" => {
                let rule = |(severity, down_s): (&str, u64)| {
                    let for_ms = down_s * 1000 + self.down_s.lasting_ms.unwrap_or(0);
                    let says = format!(
                        "Member {{{{ $labels.address }}}} of {{{{ $labels.service }}}} has failed the edges' checks for {}.",
                        length(for_ms)
                    );
                    one(name, usual, &length(for_ms), severity, &says)
                };
                self.down_s.limits().map(rule).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// As Prometheus reads it.
fn length(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

pub fn render(alerts: &Alerts) -> Vec<File> {
    vec![
        File { path: "prometheus/berth.rules.yml", text: rules(alerts) },
        File { path: "grafana/berth.json", text: dashboard() },
    ]
}

fn rules(alerts: &Alerts) -> String {
    let mut text = format!("# {MARK}\ngroups:\n");
    for (group, rules) in [("berth-edge", &EDGE[..]), ("berth-control", &CONTROL[..])] {
        text.push_str(&format!("  - name: {group}\n    rules:\n"));
        for rule in rules {
            let (name, expr, lasting, severity, says) = rule;
            let own = alerts.instead_of(rule);
            if own.is_empty() {
                text.push_str(&one(name, expr, lasting, severity, says));
            } else {
                text.extend(own);
            }
        }
    }
    text
}

fn one(name: &str, expr: &str, lasting: &str, severity: &str, says: &str) -> String {
    // Single quotes: nothing inside is an escape.
    format!(
        "      - alert: {name}\n        expr: '{expr}'\n        for: {lasting}\n        labels:\n          severity: {severity}\n        annotations:\n          summary: '{}'\n",
        says.replace('\'', "''")
    )
}

fn dashboard() -> String {
    let panel = |(number, (title, unit, targets)): (usize, &Panel)| -> Value {
        let target = |(letter, (expr, legend)): (char, &(&str, &str))| {
            json!({ "refId": letter.to_string(), "expr": expr, "legendFormat": legend,
                    "datasource": { "type": "prometheus", "uid": "${source}" } })
        };
        json!({
            "id": number + 1,
            "type": "timeseries",
            "title": title,
            "datasource": { "type": "prometheus", "uid": "${source}" },
            "gridPos": { "h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number / 2) },
            "fieldConfig": { "defaults": { "unit": unit, "min": 0 }, "overrides": [] },
            "targets": ('A'..='Z').zip(*targets).map(target).collect::<Vec<_>>(),
        })
    };
    let board = json!({
        "description": MARK,
        "uid": "berth",
        "title": "Berth",
        "tags": ["berth"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": { "from": "now-6h", "to": "now" },
        "templating": { "list": [{ "name": "source", "type": "datasource", "query": "prometheus", "label": "Source" }] },
        "panels": PANELS.iter().enumerate().map(panel).collect::<Vec<_>>(),
    });
    let mut text = serde_json::to_string_pretty(&board).expect("text and numbers are JSON");
    text.push('\n');
    text
}
