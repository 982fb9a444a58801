//! `modes`: profiles of cells for many tenants and of a tenant's own. Settings of the WebHost guide's two columns that would
//! have no effect here are refused, each with its reason.

use super::{facts::span, services::env};
use crate::{
    Environment, ModeProfile, Modes, Problem,
    read::{At, Reader},
};
use berth_domain::Mode;

const KEYS: &[&str] = &[
    "pool_size",
    "redis_pool_size",
    "queue_target",
    "statement_timeout",
    "idle_in_transaction_timeout",
    "application_name",
    "env",
];
const POOL_MAX: u32 = 1000;
/// The longest name that Postgres keeps.
const NAME_MAX: usize = 63;

const JUDGED: &str =
    "when a tenant outgrows its place follows from its usage and its profile, not from its mode: section `usage`";
const APPLICATIONS: &str = "it is the application's";
const SCRAPED: &str = "metrics are kept by whoever scrapes them";
const PLAIN: &str = "cells are plain Postgres, and nothing in them makes or compresses chunks";
const COUNTED: &str = "it is done for every tenant in every mode: `berth usage show`";

/// The guide's other settings under its names and shorter ones, and why they are not here.
const REFUSED: &[(&[&str], &str)] = &[
    (&["queue_interval"], "one length bounds the wait for a connection: `queue_target`"),
    (&["ownership_timeout"], "it belongs to the tests of one database library"),
    (
        &["prepared_statements", "prepare"],
        "no pooler stands between members and their database, so named statements are safe in both modes",
    ),
    (&["idle_in_transaction_session_timeout"], "here it is `idle_in_transaction_timeout`"),
    (
        &["max_connections", "shared_preload_libraries"],
        "it is a setting of the database's server; `berth check` holds the pools against `max_connections`",
    ),
    (&["pubsub_pool_size"], "Berth gives the cells no broker"),
    (&["max_customers_per_server"], "how many tenants fit is said at the cell: `cells.NAME.max_tenants`"),
    (
        &["enforce_plan_limits", "resource_limits_enabled"],
        "what a plan sells is enforced in every mode; a limit that should not hold has no place in the plan",
    ),
    (&["auto_upgrade_threshold"], JUDGED),
    (&["auto_upgrade_check_interval", "check_interval"], JUDGED),
    (
        &["auto_scaling", "auto_scaling_enabled"],
        "how many members run, and by what, is said at the service: `services.NAME.scale`",
    ),
    (&["usage_based_billing"], "Berth bills nobody yet"),
    (&["cdn_enabled", "multi_region_enabled"], "a flag makes neither; a cell stands in one region"),
    (&["per_customer_metrics", "resource_usage_tracking"], COUNTED),
    (
        &["alert_on_overage"],
        "who passes a threshold of its plan is judged in every mode: section `usage`, and `berth approval list`",
    ),
    (&["infrastructure_health", "performance_metrics"], "members are looked at in every mode: `berth cell show`"),
    (&["global_alerting"], "alerts are sent by who `alerts.by` names"),
    (
        &["metrics_interval", "metrics_collection_interval"],
        "metrics are read by whoever scrapes them, as often as that is told to",
    ),
    (&["metrics_retention", "retention_days"], SCRAPED),
    (
        &[
            "custom_metrics",
            "customer_count",
            "resource_utilization",
            "query_performance",
            "error_rates",
            "response_time_histograms",
            "throughput_counters",
            "error_tracking",
            "resource_monitoring",
            "auto_scaling_metrics",
        ],
        "what is counted is the same in every mode, and what an application counts is the application's",
    ),
    (
        &["retention", "retention_enabled", "default_retention_period"],
        "how long history is kept is sold with the plan: `plans.NAME.limits.retention_days`",
    ),
    (&["compress_after", "compression_enabled", "compression_interval"], PLAIN),
    (&["chunk_interval", "chunk_time_interval"], PLAIN),
    (
        &["rate_limit_scope", "rate_limiting"],
        "limits are each tenant's own in every mode; in a cell of its own that is the whole cell",
    ),
    (
        &["isolation_level", "tenant_isolation"],
        "it follows from the class of the cell; a process is told it as TENANT_ISOLATION",
    ),
    (
        &["api_key_validation"],
        "keys of a tenant's users are the application's; those of Berth's API are always asked for",
    ),
    (&["request_logging"], "it is said to the edge, for all tenants: `berth edge --request-log`"),
    (&["audit_trail"], "every change is kept, in every mode: `berth audit`"),
    (
        &["ssl_enforcement"],
        "who comes by plain HTTP is sent to HTTPS by `https.redirect`; how a cell's database is reached is its provider's",
    ),
    (&["ddos_protection"], "a flag protects nobody: the edge's limits are in the plans"),
    (&["certificate_pinning"], "a flag pins nothing; edges verify a cell's name"),
    (&["end_to_end_encryption"], "a flag encrypts nothing, and an edge reads what it routes"),
    (&["ip_whitelisting"], "each tenant has a list of its own, not each mode: `berth tenant allow`"),
    (&["connection_pooling"], "each process has a pool of its own in both modes: `pool_size`"),
    (&["query_caching"], APPLICATIONS),
    (&["compression", "result_compression"], "answers are made smaller by the edges: section `compression`"),
    (&["batch_operations", "async_processing"], APPLICATIONS),
    (&["parallel_queries"], "it is a setting of the database's server"),
    (&["connection_keepalive"], "edges keep their connections to members in both modes"),
    (&["query_optimization", "index_tuning", "materialized_views"], "queries and their indexes are the application's"),
    (&["log_metadata"], "what a line carries is the application's; Berth names cell and service beside it"),
];

pub fn read(reader: &mut Reader, at: &At<'_>, environment: Option<&Environment>) -> Option<Modes> {
    let section = reader.section(at, &["multi_tenant", "single_tenant"])?;
    let usual = Modes::default();
    let multi_tenant = match section.get("multi_tenant") {
        Some(at) => profile(reader, &at, usual.of(Mode::MultiTenant), environment),
        None => Some(usual.multi_tenant.clone()),
    };
    let single_tenant = match section.get("single_tenant") {
        Some(at) => profile(reader, &at, usual.of(Mode::SingleTenant), environment),
        None => Some(usual.single_tenant.clone()),
    };
    Some(Modes { multi_tenant: multi_tenant?, single_tenant: single_tenant? })
}

fn profile(
    reader: &mut Reader,
    at: &At<'_>,
    usual: &ModeProfile,
    environment: Option<&Environment>,
) -> Option<ModeProfile> {
    let refused: Vec<&'static str> = REFUSED.iter().flat_map(|(names, _)| names.iter().copied()).collect();
    let section = reader.section_but(at, KEYS, &refused)?;
    for (names, why) in REFUSED {
        for at in names.iter().filter_map(|name| section.get(name)) {
            reader.wrong(&at, Problem::NotYet { why });
        }
    }
    let pool_size = section.get("pool_size").map_or(Some(usual.pool_size), |at| reader.number(&at, 1..=POOL_MAX));
    let redis_pool_size =
        section.get("redis_pool_size").map_or(Some(usual.redis_pool_size), |at| reader.number(&at, 1..=POOL_MAX));
    let queue_target = section.get("queue_target").map_or(Some(usual.queue_target), |at| span(reader, &at));
    let mut length = |name: &str| section.get(name).and_then(|at| span(reader, &at));
    let statement_timeout = length("statement_timeout");
    let idle_in_transaction_timeout = length("idle_in_transaction_timeout");
    let application_name = match section.get("application_name") {
        None => Some(usual.application_name.clone()),
        Some(at) => {
            let text = reader.text(&at)?;
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            if text.is_empty() || text.len() > NAME_MAX || !text.bytes().all(plain) {
                let problem = Problem::Malformed {
                    message: "this is no name for connections",
                    hint: "1 to 63 letters, digits, `_`, `-` and `.`",
                };
                reader.wrong(&at, problem);
            }
            Some(text.to_owned())
        }
    };
    let env = section.get("env").map(|at| env(reader, &at, environment)).unwrap_or_default();
    Some(ModeProfile {
        pool_size: pool_size?,
        redis_pool_size: redis_pool_size?,
        queue_target: queue_target?,
        statement_timeout,
        idle_in_transaction_timeout,
        application_name: application_name?,
        env,
    })
}
