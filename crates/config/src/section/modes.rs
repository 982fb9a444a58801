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

/// The guide's other settings, and why they are not here.
const REFUSED: &[(&str, &str)] = &[
    ("queue_interval", "one length bounds the wait for a connection: `queue_target`"),
    ("ownership_timeout", "it belongs to the tests of one database library"),
    (
        "prepared_statements",
        "no pooler stands between members and their database, so named statements are safe in both modes",
    ),
    ("max_connections", "it is a setting of the database's server; `berth check` holds the pools against it"),
    ("pubsub_pool_size", "Berth gives the cells no broker"),
    (
        "enforce_plan_limits",
        "what a plan sells is enforced in every mode; a limit that should not hold has no place in the plan",
    ),
    (
        "auto_upgrade_threshold",
        "when a tenant outgrows its place follows from its usage and its profile, not from its mode",
    ),
    (
        "auto_upgrade_check_interval",
        "when a tenant outgrows its place follows from its usage and its profile, not from its mode",
    ),
    ("auto_scaling", "how many members run, and by what, is said at the service: `services.NAME.scale`"),
    ("usage_based_billing", "Berth bills nobody yet"),
    ("metrics_interval", "metrics are read by whoever scrapes them, as often as that is told to"),
    ("metrics_retention", "metrics are kept by whoever scrapes them"),
    ("custom_metrics", "what an application counts is the application's"),
    ("retention", "how long history is kept is sold with the plan: `plans.NAME.limits.retention_days`"),
    ("compress_after", "cells are plain Postgres, and nothing in them compresses chunks"),
    ("chunk_interval", "cells are plain Postgres, and nothing in them makes chunks"),
    ("rate_limit_scope", "limits are each tenant's own in every mode; in a cell of its own that is the whole cell"),
    ("isolation_level", "it follows from the class of the cell; a process is told it as TENANT_ISOLATION"),
    ("ssl_enforcement", "how a cell's database is reached is its provider's"),
    ("ddos_protection", "a flag protects nobody: the edge's limits are in the plans"),
    ("certificate_pinning", "a flag pins nothing; edges verify a cell's name"),
    ("end_to_end_encryption", "a flag encrypts nothing, and an edge reads what it routes"),
    ("ip_whitelisting", "who may reach a tenant is not limited by address"),
    ("query_caching", "it is the application's"),
    ("compression", "it is the application's"),
    ("log_metadata", "what a line carries is the application's; Berth names cell and service beside it"),
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
    let refused: Vec<&'static str> = REFUSED.iter().map(|(name, _)| *name).collect();
    let section = reader.section_but(at, KEYS, &refused)?;
    for (name, why) in REFUSED {
        if let Some(at) = section.get(name) {
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
