//! The rules, each with its page. Order is that of `docs/check.md`.

mod capacity;
mod catalogue;
mod compose;
mod database;
mod decisions;
mod ending;
mod exposure;
mod fly;
mod limits;
mod proxy;
mod recovery;
mod secrets;
mod stack;
mod variables;
mod without_effect;

pub use database::wanted;
pub use ending::{certificate_end, signs_itself, told};

use crate::{
    Page, Severity,
    world::{Out, World},
};

/// Looks for one kind of mistake.
pub struct Rule {
    /// In findings, on the command line and in silences: never renamed.
    pub id: &'static str,
    /// Of its usual finding.
    pub severity: Severity,
    pub page: Page,
    pub(crate) run: fn(&World<'_>, &mut Out),
}

macro_rules! rule {
    ($id:literal, $severity:ident, $run:path) => {
        Rule {
            id: $id,
            severity: Severity::$severity,
            page: Page(include_str!(concat!("../../../docs/check/", $id, ".md"))),
            run: $run,
        }
    };
}

/// Found by what reads files and silences, not by a function of their own.
fn elsewhere(_: &World<'_>, _: &mut Out) {}

pub const RULES: &[Rule] = &[
    rule!("published-database", Error, exposure::published_database),
    rule!("proxy-bypass", Warning, exposure::proxy_bypass),
    rule!("open-metrics", Error, exposure::open_metrics),
    rule!("secret-in-file", Error, secrets::in_file),
    rule!("secret-placeholder", Error, secrets::placeholder),
    rule!("flag-without-effect", Error, secrets::flag_without_effect),
    rule!("ends-soon", Warning, ending::ends_soon),
    rule!("variable-missing", Error, variables::missing),
    rule!("unrendered-template", Error, variables::unrendered),
    rule!("variable-without-effect", Warning, without_effect::look),
    rule!("limit-by-address", Error, limits::by_address),
    rule!("limits-contradict", Warning, limits::contradict),
    rule!("quota-unreachable", Warning, limits::unreachable),
    rule!("plan-limits-off", Warning, limits::off),
    rule!("retention-below-plan", Error, limits::retention),
    rule!("thresholds-contradict", Error, limits::thresholds),
    rule!("server-setting-as-parameter", Error, database::server_setting),
    rule!("connections-over-maximum", Error, database::connections),
    rule!("over-capacity", Error, capacity::over),
    rule!("dedicated-for-many", Error, capacity::dedicated),
    rule!("free-quota-exceeded", Error, capacity::quota),
    rule!("free-grant-used-up", Warning, catalogue::grant),
    rule!("provider-rate-limit", Warning, catalogue::rate_limit),
    rule!("credit-ends", Warning, catalogue::credit),
    rule!("compliance-after-score", Error, decisions::compliance),
    rule!("rpo-below-interval", Error, recovery::rpo),
    rule!("dns-switch-downtime", Error, recovery::dns),
    rule!("failover-without-fencing", Error, recovery::fencing),
    rule!("fly-ignored-key", Error, fly::ignored),
    rule!("redirect-to-catch-all", Error, proxy::redirect),
    rule!("moving-tag", Warning, compose::moving_tag),
    rule!("cache-evicts-jobs", Error, compose::evicts_jobs),
    rule!("stack-file", Error, stack::mistakes),
    rule!("silence-unused", Warning, elsewhere),
    rule!("unreadable", Error, elsewhere),
];
