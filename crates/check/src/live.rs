//! What running servers answer, held against what the stack needs. Pure: facts in, findings out; whoever asks the
//! servers hands the answers over, and a server that did not answer is a fact too.

pub use crate::rules::{certificate_end, signs_itself};

use crate::{Finding, Severity, node::grouped, rules::told};
use jiff::Timestamp;

/// A rule about running servers.
pub struct LiveRule {
    pub id: &'static str,
    pub severity: Severity,
    pub what: &'static str,
    pub remedy: &'static str,
}

const fn rule(id: &'static str, severity: Severity, what: &'static str, remedy: &'static str) -> LiveRule {
    LiveRule { id, severity, what, remedy }
}

use Severity::{Error, Warning};

/// Those of docs/check-live.md, in its order.
pub const LIVE: &[LiveRule] = &[
    rule(
        "live-database-unreachable",
        Error,
        "the database refuses, or does not answer",
        "is it up, is the address right, does `pg_hba.conf` let this address in, is the password the role's?",
    ),
    rule(
        "live-database-version",
        Error,
        "the server is older than PostgreSQL 15, which moving tenants needs",
        "upgrade it; PostgreSQL before 14 is no longer repaired by anybody",
    ),
    rule(
        "live-wal-level",
        Error,
        "`wal_level` is not `logical`, so no change of a tenant can be followed",
        "`ALTER SYSTEM SET wal_level = logical`, and start the server anew",
    ),
    rule(
        "live-slots",
        Error,
        "no replication slot or WAL sender is free for a move and its way back",
        "drop slots that nobody reads, or raise `max_replication_slots` and `max_wal_senders` and start anew",
    ),
    rule(
        "live-slot-idle",
        Warning,
        "a replication slot that nobody reads keeps the server's log until the disk is full",
        "start its reader, or drop it: `SELECT pg_drop_replication_slot('…')`",
    ),
    rule(
        "live-connections",
        Error,
        "workers × pool × replicas, or what is open now, is more than the server takes",
        "make the pools smaller or put a pooler between; a larger pool is the opposite of a remedy",
    ),
    rule(
        "live-mover-rights",
        Error,
        "the mover's role lacks a right that moves need; a superuser has them all, and none is needed",
        "the statement that the finding ends with; `berth mover rights` asks both sides, and of tables too",
    ),
    rule(
        "live-application-superuser",
        Error,
        "the application connects as a superuser: no row policy and no fence holds it",
        "give it a role of its own: `CREATE ROLE app LOGIN`, with rights on its tables alone",
    ),
    rule(
        "live-idle-in-transaction",
        Warning,
        "a transaction does nothing for minutes: vacuum waits for it, and so would a move",
        "find who holds it (`pg_stat_activity`), and set `idle_in_transaction_session_timeout`",
    ),
    rule(
        "live-slow-statement",
        Warning,
        "a statement has run for more than a minute: who waits for it waits, and a move may, too",
        "look at it in `pg_stat_activity` and end it with `pg_cancel_backend(…)`; `statement_timeout` under `modes` keeps it from coming back",
    ),
    rule(
        "live-dead-rows",
        Warning,
        "a large table is to a third dead rows, so every query reads them too",
        "`VACUUM ANALYZE` it now, and let autovacuum come earlier for it",
    ),
    rule(
        "live-redis-unreachable",
        Error,
        "Redis refuses, or does not answer",
        "is it up, is the address right, does the URL hold the password?",
    ),
    rule(
        "live-redis-open",
        Error,
        "Redis answers without a password, and not only on this machine",
        "set `requirepass` or a user with a password, and listen on a private address",
    ),
    rule(
        "live-redis-evicts",
        Warning,
        "Redis may forget any key when its memory is full, also those of a queue",
        "`noeviction` where jobs are kept; a cache gets a Redis of its own",
    ),
    rule(
        "live-redis-memory",
        Warning,
        "Redis has used nine tenths of its memory",
        "raise `maxmemory`, or find what grows; `FLUSHDB` is no remedy where jobs are kept",
    ),
    rule(
        "live-host-unresolved",
        Error,
        "a host name has no address",
        "make its record, or correct the name; a new record takes as long as the old answer's TTL",
    ),
    rule(
        "live-certificate",
        Error,
        "a host serves no certificate, one that has ended, or one for another name",
        "renew it: `certbot renew --dry-run` says what stands in the way",
    ),
    rule(
        "live-certificate-untrusted",
        Error,
        "a host's certificate is signed by itself, or by somebody whom neither browsers nor this machine know",
        "get one from a public authority (`https.acme`); an authority of your own is named by `SSL_CERT_FILE`",
    ),
    rule(
        "live-certificate-ends",
        Warning,
        "a certificate ends within 21 days, when a renewal should have come",
        "`certbot renew --dry-run` says what stands in the way",
    ),
    rule(
        "live-token-refused",
        Error,
        "a provider refuses its token: nothing can be made, changed or removed there",
        "make a new token at the provider and put it where this one stands; the old one may have been revoked",
    ),
    rule(
        "live-organisation-unknown",
        Error,
        "a provider takes the token and knows no such organisation: what is deployed would be refused",
        "write the organisation's slug into FLY_ORG_ID (`fly orgs list`), or take a token of that organisation",
    ),
    rule(
        "live-token-ends",
        Warning,
        "a provider's token ends within 21 days",
        "make a new one before that day and put it where this one stands",
    ),
    rule(
        "live-clock",
        Error,
        "two clocks are more than 5 s apart: tokens are refused as not valid yet, or for ever",
        "let both follow a time server: `timedatectl set-ntp true`",
    ),
];

/// What a Postgres server answered.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// `server_version_num`: 150008.
    pub version_num: i64,
    pub wal_level: String,
    pub slots_used: i64,
    pub slots_max: i64,
    pub senders_used: i64,
    pub senders_max: i64,
    /// Slots that nobody reads, with what they keep of the log.
    pub idle_slots: Vec<(String, i64)>,
    pub connections: i64,
    pub connections_max: i64,
    pub connections_reserved: i64,
    pub superuser: bool,
    /// What the login lacks for moves, each with what gives it; asked for the mover's alone.
    pub mover_lacks: Vec<String>,
    /// Seconds of the longest transaction that does nothing.
    pub idle_in_transaction_s: i64,
    /// Seconds of the longest statement that runs.
    pub slowest_s: i64,
    /// Sessions of other roles, of which this one may not see what they do: they count in none of the two.
    pub unseen: i64,
    /// Tables with their share of dead rows in percent.
    pub dead_rows: Vec<(String, i64)>,
    /// Its clock minus ours.
    pub ahead_ms: i64,
}

/// A provider's token, and what may be asked with it that changes nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct TokenOf {
    /// The variable that holds it, as the provider's own tools name it.
    pub variable: &'static str,
    /// The variable by which the provider's own tools are told another address, and theirs. Railway's know none: it is
    /// Berth's own.
    pub base_variable: &'static str,
    pub base: &'static str,
    pub path: &'static str,
    /// Posted instead of asking for the path alone: a question in GraphQL.
    pub question: Option<&'static str>,
    /// The variable that names an organisation there, and how the path takes it in place of its own.
    pub organisation: Option<(&'static str, &'static str)>,
}

pub const TOKENS: &[TokenOf] = &[
    token("HETZNER_API_TOKEN", "HCLOUD_ENDPOINT", "https://api.hetzner.cloud/v1", "/locations"),
    token("HCLOUD_TOKEN", "HCLOUD_ENDPOINT", "https://api.hetzner.cloud/v1", "/locations"),
    TokenOf {
        organisation: Some(("FLY_ORG_ID", "/v1/apps?org_slug=")),
        ..token("FLY_API_TOKEN", "FLY_FLAPS_BASE_URL", "https://api.machines.dev", "/v1/apps?org_slug=personal")
    },
    token("CLOUDFLARE_API_TOKEN", "CLOUDFLARE_BASE_URL", "https://api.cloudflare.com/client/v4", "/user/tokens/verify"),
    token("RENDER_API_KEY", "RENDER_HOST", "https://api.render.com/v1", "/owners?limit=1"),
    token("KOYEB_TOKEN", "KOYEB_URL", "https://app.koyeb.com", "/v1/account/organization"),
    TokenOf {
        question: Some(r#"{"query":"query { apiToken { workspaces { id } } }"}"#),
        ..token("RAILWAY_API_TOKEN", "RAILWAY_API_URL", "https://backboard.railway.com", "/graphql/v2")
    },
];

const fn token(variable: &'static str, base_variable: &'static str, base: &'static str, path: &'static str) -> TokenOf {
    TokenOf { variable, base_variable, base, path, question: None, organisation: None }
}

/// What a provider answered to its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub status: u16,
    /// What the provider says of it beside the status: `disabled`, `expired`.
    pub state: Option<String>,
    pub ends: Option<Timestamp>,
    /// That which was asked about, where the files name one.
    pub organisation: Option<String>,
}

/// Who is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    Application,
    Mover,
}

/// What a Redis server answered.
#[derive(Clone, Debug, Default)]
pub struct Redis {
    /// Answered before any password was given.
    pub open: bool,
    pub loopback: bool,
    pub policy: Option<String>,
    pub used_bytes: u64,
    /// 0: no bound.
    pub max_bytes: u64,
    pub ahead_ms: i64,
}

/// What a name and the server behind it answered.
#[derive(Clone, Debug)]
pub struct Host {
    pub name: String,
    pub addresses: usize,
    /// Of the certificate on 443; `Err` with what the handshake said.
    pub certificate: Result<Timestamp, String>,
    /// Why browsers would not believe that certificate.
    pub doubt: Option<String>,
}

const OLDEST: i64 = 150_000;
/// A move needs one, its way back another.
const SLOTS_FREE: i64 = 2;
const CLOCK_MS: i64 = 5000;
const IDLE_S: i64 = 300;
const SLOW_S: i64 = 60;
const SHARE_PERCENT: i64 = 80;

/// Collects findings about one server.
pub struct Judge<'a> {
    /// `DATABASE_URL`, `shop.example.com`: never a URL, which may hold a password.
    pub what: &'a str,
    pub found: Vec<Finding>,
}

impl<'a> Judge<'a> {
    pub const fn of(what: &'a str) -> Self {
        Self { what, found: Vec::new() }
    }

    pub fn note(&mut self, id: &'static str, message: impl Into<String>) {
        let rule = LIVE.iter().find(|rule| rule.id == id).expect("every live rule is in the list");
        self.found.push(Finding {
            rule: rule.id,
            severity: rule.severity,
            file: self.what.to_owned(),
            line: None,
            key: String::new(),
            message: message.into(),
            remedy: rule.remedy.to_owned(),
        });
    }

    /// `wanted`: what all processes of the stack may open together, where that is known.
    pub fn database(&mut self, facts: &Database, login: Login, wanted: Option<i64>) {
        if facts.version_num < OLDEST {
            let (major, minor) = (facts.version_num / 10_000, facts.version_num % 10_000);
            self.note("live-database-version", format!("the server is PostgreSQL {major}.{minor}, 15 is needed"));
        }
        if facts.wal_level != "logical" {
            self.note("live-wal-level", format!("`wal_level` is `{}`, `logical` is needed", facts.wal_level));
        }
        for (what, used, max) in [
            ("replication slots", facts.slots_used, facts.slots_max),
            ("WAL senders", facts.senders_used, facts.senders_max),
        ] {
            if max - used < SLOTS_FREE {
                self.note(
                    "live-slots",
                    format!("{used} of {max} {what} are taken; a move with its way back needs {SLOTS_FREE}"),
                );
            }
        }
        for (name, bytes) in &facts.idle_slots {
            let mib = grouped(*bytes as f64 / 1_048_576.0);
            self.note("live-slot-idle", format!("nobody reads slot `{name}`, which keeps {mib} MiB of the log"));
        }
        let free = facts.connections_max - facts.connections_reserved;
        if let Some(wanted) = wanted.filter(|wanted| *wanted > free) {
            let max = facts.connections_max;
            let message = format!(
                "the stack may open {wanted} connections, and {free} of the server's {max} are for applications"
            );
            self.note("live-connections", message);
        }
        if facts.connections * 100 > free * SHARE_PERCENT {
            let message = format!("{} of {free} connections are open, more than {SHARE_PERCENT} %", facts.connections);
            self.note("live-connections", message);
        }
        if login == Login::Mover {
            for lacking in &facts.mover_lacks {
                self.note("live-mover-rights", lacking.clone());
            }
        }
        if login == Login::Application && facts.superuser {
            self.note("live-application-superuser", "the application's role is a superuser");
        }
        if facts.idle_in_transaction_s >= IDLE_S {
            let minutes = facts.idle_in_transaction_s / 60;
            let message = format!("a transaction has been open and idle for {minutes} min{}", alone(facts.unseen));
            self.note("live-idle-in-transaction", message);
        }
        if facts.slowest_s >= SLOW_S {
            let seconds = grouped(facts.slowest_s as f64);
            let message = format!("a statement has run for {seconds} s{}", alone(facts.unseen));
            self.note("live-slow-statement", message);
        }
        for (table, percent) in &facts.dead_rows {
            self.note("live-dead-rows", format!("{percent} % of the rows of `{table}` are dead"));
        }
        self.clock(facts.ahead_ms);
    }

    pub fn redis(&mut self, facts: &Redis) {
        if facts.open && !facts.loopback {
            self.note("live-redis-open", "it answered before a password was given");
        }
        if let Some(policy) = facts.policy.as_deref().filter(|policy| policy.starts_with("allkeys")) {
            self.note("live-redis-evicts", format!("`maxmemory-policy` is `{policy}`"));
        }
        if facts.max_bytes > 0 && facts.used_bytes * 10 > facts.max_bytes * 9 {
            let message =
                format!("{} of {} bytes are used", grouped(facts.used_bytes as f64), grouped(facts.max_bytes as f64));
            self.note("live-redis-memory", message);
        }
        self.clock(facts.ahead_ms);
    }

    pub fn host(&mut self, facts: &Host, now: Timestamp) {
        if facts.addresses == 0 {
            self.note("live-host-unresolved", format!("no address is known for `{}`", facts.name));
            return;
        }
        match &facts.certificate {
            Err(why) => self.note("live-certificate", why.clone()),
            Ok(end) if *end < now => {
                let message = told(*end, now, "its certificate").unwrap_or_default();
                self.note("live-certificate", message);
            }
            Ok(end) => {
                if let Some(message) = told(*end, now, "its certificate") {
                    self.note("live-certificate-ends", message);
                }
            }
        }
        if let Some(why) = &facts.doubt {
            self.note("live-certificate-untrusted", why.clone());
        }
    }

    /// A right that is missing is no wrong token: only what says that the token itself is none counts.
    pub fn token(&mut self, facts: &Token, now: Timestamp) {
        let dead = facts.state.as_deref().filter(|state| *state != "active");
        if let Some(state) = dead {
            self.note("live-token-refused", format!("the provider calls it `{state}`"));
        } else if facts.status == 401 || (facts.status == 400 && facts.state.is_none()) {
            self.note("live-token-refused", format!("the provider answered {}", facts.status));
        } else if let Some(name) = facts.organisation.as_ref().filter(|_| [403, 404].contains(&facts.status)) {
            let message = format!("the provider answered {} when asked about the organisation `{name}`", facts.status);
            self.note("live-organisation-unknown", message);
        } else if let Some(message) = facts.ends.and_then(|end| told(end, now, "it")) {
            self.note(if facts.ends < Some(now) { "live-token-refused" } else { "live-token-ends" }, message);
        }
    }

    fn clock(&mut self, ahead_ms: i64) {
        if ahead_ms.abs() > CLOCK_MS {
            let (seconds, way) = (ahead_ms.abs() / 1000, if ahead_ms > 0 { "ahead of" } else { "behind" });
            self.note("live-clock", format!("its clock is {seconds} s {way} this machine's"));
        }
    }
}

/// What a finding about sessions leaves open.
fn alone(unseen: i64) -> String {
    match unseen {
        0 => String::new(),
        _ => format!(", among this role's own; {}", unseen_sessions(unseen)),
    }
}

/// Why a database may be worse off than its findings.
pub fn unseen_sessions(unseen: i64) -> String {
    format!("{unseen} sessions of other roles are not seen; `GRANT pg_read_all_stats TO` its role shows them")
}

#[cfg(test)]
mod tests {
    use super::{Database, Host, Judge, LIVE, Login, Redis, Token};
    use std::collections::BTreeSet;

    fn healthy() -> Database {
        Database {
            version_num: 150_008,
            wal_level: "logical".to_owned(),
            slots_max: 10,
            senders_max: 10,
            connections: 20,
            connections_max: 100,
            connections_reserved: 3,
            ..Database::default()
        }
    }

    fn rules(look: impl FnOnce(&mut Judge<'_>)) -> BTreeSet<&'static str> {
        let mut judge = Judge::of("DATABASE_URL");
        look(&mut judge);
        judge.found.iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_healthy_server_gives_no_finding() {
        assert!(rules(|judge| judge.database(&healthy(), Login::Application, Some(97))).is_empty());
        let redis = Redis { open: true, loopback: true, policy: Some("noeviction".into()), ..Redis::default() };
        assert!(rules(|judge| judge.redis(&redis)).is_empty());
    }

    #[test]
    fn every_fact_that_is_wrong_is_found_and_every_rule_can_be() {
        let mut seen: BTreeSet<&str> = ["live-database-unreachable", "live-redis-unreachable"].into();
        let sick = Database {
            version_num: 130_004,
            wal_level: "replica".to_owned(),
            slots_used: 9,
            idle_slots: vec![("old".into(), 5 << 30)],
            connections: 90,
            superuser: true,
            idle_in_transaction_s: 900,
            slowest_s: 61,
            dead_rows: vec![("public.gps_positions".into(), 40)],
            ahead_ms: -61_000,
            ..healthy()
        };
        seen.extend(rules(|judge| judge.database(&sick, Login::Application, Some(150))));
        assert!(rules(|judge| judge.database(&healthy(), Login::Mover, None)).is_empty(), "no superuser is needed");
        let poor = Database { mover_lacks: vec!["it lacks REPLICATION".into()], ..healthy() };
        seen.extend(rules(|judge| judge.database(&poor, Login::Mover, None)));
        let redis = Redis {
            open: true,
            policy: Some("allkeys-lru".into()),
            used_bytes: 95,
            max_bytes: 100,
            ..Redis::default()
        };
        seen.extend(rules(|judge| judge.redis(&redis)));
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        for (addresses, certificate, doubt) in [
            (0, Err(String::new()), None),
            (1, Err("the handshake failed".to_owned()), None),
            (1, Ok("2026-12-01T12:00:00Z".parse().unwrap()), None),
            (1, Ok("2027-12-01T12:00:00Z".parse().unwrap()), Some("it is signed by itself".to_owned())),
        ] {
            let host = Host { name: "shop.example.com".into(), addresses, certificate, doubt };
            seen.extend(rules(|judge| judge.host(&host, now)));
        }
        for (status, state, ends) in [
            (401, None, None),
            (200, Some("expired"), None),
            (200, Some("active"), Some("2026-12-01T12:00:00Z".parse().unwrap())),
        ] {
            let token = Token { status, state: state.map(str::to_owned), ends, organisation: None };
            seen.extend(rules(|judge| judge.token(&token, now)));
        }
        for (status, state) in [(200, None), (200, Some("active")), (403, None), (404, None), (503, None)] {
            let token = Token { status, state: state.map(str::to_owned), ends: None, organisation: None };
            assert!(rules(|judge| judge.token(&token, now)).is_empty(), "{status}: a missing right is no wrong token");
        }
        for (status, wrong) in [(200, false), (404, true), (403, true), (503, false)] {
            let token = Token { status, state: None, ends: None, organisation: Some("ours".to_owned()) };
            let found = rules(|judge| judge.token(&token, now));
            assert_eq!(found.contains("live-organisation-unknown"), wrong, "{status}");
            seen.extend(found);
        }
        assert_eq!(seen, LIVE.iter().map(|rule| rule.id).collect());
    }

    #[test]
    fn a_role_that_sees_its_own_sessions_alone_says_so() {
        let said = |unseen: i64| {
            let mut judge = Judge::of("DATABASE_URL");
            let facts = Database { idle_in_transaction_s: 900, slowest_s: 61, unseen, ..healthy() };
            judge.database(&facts, Login::Application, None);
            judge.found.iter().map(|finding| finding.message.contains("pg_read_all_stats")).collect::<Vec<_>>()
        };
        assert_eq!((said(0), said(4)), (vec![false, false], vec![true, true]));
    }

    #[test]
    fn the_page_of_live_rules_has_each_with_its_remedy() {
        let page = include_str!("../../../docs/check-live.md");
        for rule in LIVE {
            let row = format!("| {} | {} | {} | {} |", rule.id, rule.severity, rule.what, rule.remedy);
            assert!(page.contains(&row), "docs/check-live.md lacks:\n{row}");
        }
        assert_eq!(page.lines().filter(|line| line.starts_with("| live-")).count(), LIVE.len());
    }
}
