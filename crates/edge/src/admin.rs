//! What an edge tells its operators: metrics, tenants, health. Loopback only.
//!
//! Never changes anything. Cores are asked for their counters when somebody reads them, and not before.

use crate::{
    core::{Common, CoreReport, Order},
    feed::Link,
    ledger::{self, CORE_TIME, Totals},
    meter::{BUCKETS_US, Meter},
    named::Named,
    routes::Routes,
    second_names,
};
use berth_domain::Revision;
use berth_wire::edge::{RouteState, TenantRoute};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    fmt::Write as _,
    net::TcpListener as StdListener,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{
        mpsc::{Sender, UnboundedSender},
        oneshot,
    },
    time::timeout,
};

/// Tenants that `/tenants` lists, the longest unchanged first.
const LISTED_MAX: usize = 10_000;

/// What the coordinator knows.
#[derive(Debug)]
pub struct Facts {
    pub revision: Revision,
    pub routes: Arc<Routes>,
}

struct Admin {
    link: Arc<Link>,
    cores: Vec<UnboundedSender<Order>>,
    asks: Sender<oneshot::Sender<Facts>>,
    common: Arc<Common>,
    /// Whom the page before this one named.
    named: Mutex<Named>,
    second_names: bool,
}

pub async fn serve(
    listener: StdListener,
    link: Arc<Link>,
    cores: Vec<UnboundedSender<Order>>,
    asks: Sender<oneshot::Sender<Facts>>,
    common: Arc<Common>,
    second_names: bool,
) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let admin = Arc::new(Admin { link, cores, asks, common, named: Mutex::default(), second_names });
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(admin.answer(&request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .serve_connection(TokioIo::new(stream), service);
            // Whoever asked went away: nothing is owed.
            let _ = connection.await;
        });
    }
}

impl Admin {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", String::from("GET only\n"));
        }
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/tenants" | "/healthz") {
            return text(StatusCode::NOT_FOUND, "text/plain", String::from("/metrics, /tenants or /healthz\n"));
        }
        let Some(facts) = self.facts().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", String::from("the edge is going\n"));
        };
        match path {
            "/metrics" => {
                let reports = ledger::collect(&self.cores).await;
                let mut page = metrics(&facts, &self.lines(&facts), &reports, &self.link)
                    + &self.members()
                    + &self.cluster()
                    + &self.dropped();
                if self.second_names {
                    page += &second_names::of(&page);
                }
                text(StatusCode::OK, "text/plain; version=0.0.4", page)
            }
            "/tenants" => {
                ledger::collect(&self.cores).await;
                let list = self.common.ledger.read(|all| tenants(&facts, all));
                text(StatusCode::OK, "application/json", list)
            }
            _ if self.draining() => text(StatusCode::SERVICE_UNAVAILABLE, "application/json", self.health(&facts)),
            _ => text(StatusCode::OK, "application/json", self.health(&facts)),
        }
    }

    /// What this edge itself found out about the members.
    fn members(&self) -> String {
        let mut out = String::from(
            "# HELP berth_edge_member_up 1 unless this edge's own checks say otherwise.\n# TYPE berth_edge_member_up gauge\n",
        );
        let mut ejections = String::from(
            "# HELP berth_edge_member_ejections_total Times that a member was passed over for failing requests.\n# TYPE berth_edge_member_ejections_total counter\n",
        );
        for member in self.common.routes.members() {
            let vital = self.common.vitals.of(&member.address);
            let labels = format!("service=\"{}\",address=\"{}\"", member.service, member.address);
            // Writing to a string cannot fail.
            let _ = writeln!(out, "berth_edge_member_up{{{labels}}} {}", u8::from(!vital.is_down()));
            let _ = writeln!(ejections, "berth_edge_member_ejections_total{{{labels}}} {}", vital.ejections());
        }
        out + &ejections
    }

    /// How the limits are divided among edges.
    fn cluster(&self) -> String {
        let cluster = &self.common.cluster;
        let families = [
            (
                "berth_edge_limits_shared",
                "gauge",
                "1 while limits are common to all edges over Redis.",
                u64::from(cluster.is_connected()),
            ),
            (
                "berth_edge_limits_edges",
                "gauge",
                "Edges that limits are divided by while Redis is gone.",
                cluster.edges().into(),
            ),
            (
                "berth_edge_limits_own_share_total",
                "counter",
                "Requests decided by this edge's own share of a limit.",
                cluster.own_share(),
            ),
            (
                "berth_edge_limits_refused",
                "gauge",
                "1 while the stack file's `cluster` is not in force because Redis refused it.",
                u64::from(cluster.refused().is_some()),
            ),
        ];
        let places = &self.common.places;
        let parked = self.common.room.bytes();
        let families = families.into_iter().chain([
            ("berth_edge_parked_bytes", "gauge", "Bytes of bodies that are parked while their tenants move.", parked),
            (
                "berth_edge_geo_known",
                "gauge",
                "1 while a database says where addresses are.",
                u64::from(places.is_known()),
            ),
            (
                "berth_edge_geo_refused",
                "gauge",
                "1 while the newest file is none, and the one before in force.",
                u64::from(places.is_refused()),
            ),
        ]);
        let mut out = String::new();
        for (name, kind, help, value) in families {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        out
    }

    /// Lines of the request log that found no room.
    fn dropped(&self) -> String {
        let Some(log) = &self.common.request_log else { return String::new() };
        let name = "berth_edge_request_log_dropped_total";
        let help = "Lines of the request log that were not written.";
        format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {}\n", log.dropped())
    }

    async fn facts(&self) -> Option<Facts> {
        let (ask, answer) = oneshot::channel();
        self.asks.send(ask).await.ok()?;
        timeout(CORE_TIME, answer).await.ok()?.ok()
    }

    /// What is said by tenant.
    fn lines(&self, facts: &Facts) -> Vec<(String, Meter)> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let name = |tenant| facts.routes.get(tenant).map(|packed| packed.name().to_owned());
        self.common.ledger.read(|all| named.lines(all, name))
    }

    fn draining(&self) -> bool {
        self.common.settings.load().draining_ms.is_some()
    }

    fn health(&self, facts: &Facts) -> String {
        serde_json::json!({
            "name": self.link.name,
            "instance": self.link.instance,
            "pid": std::process::id(),
            "revision": facts.revision,
            "tenants": facts.routes.len(),
            "draining": self.draining(),
            "control_connected": self.link.connected.load(Ordering::Relaxed),
            "control_open": self.link.open.load(Ordering::Relaxed),
            "limits": {
                "shared": self.common.cluster.is_connected(),
                "edges": self.common.cluster.edges(),
                "refused": self.common.cluster.refused(),
            },
        })
        .to_string()
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn tenants(facts: &Facts, meters: &Totals) -> String {
    let mut all = facts.routes.all();
    all.sort_unstable_by_key(|packed| (packed.revision, packed.tenant));
    // A list for people and for `berth`; who routes more has them in the control plane, a page at a time.
    let list: Vec<_> = all
        .into_iter()
        .take(LISTED_MAX)
        .map(|packed| {
            let route = packed.route();
            let meter = meters.get(route.tenant).unwrap_or_default();
            serde_json::json!({
                "tenant": route.tenant,
                "name": route.name,
                "cell": route.cell,
                "generation": route.generation,
                "revision": route.revision,
                "state": state(&route),
                "hosts": route.hosts,
                "requests": meter.requests(),
                "requests_by_class": { "1xx": meter.classes[0], "2xx": meter.classes[1], "3xx": meter.classes[2], "4xx": meter.classes[3], "5xx": meter.classes[4] },
                "received_bytes": meter.received_bytes,
                "sent_bytes": meter.sent_bytes,
                "parked": meter.parked,
                "limited": meter.limited,
            })
        })
        .collect();
    serde_json::Value::from(list).to_string()
}

fn state(route: &TenantRoute) -> &'static str {
    match route.state {
        RouteState::Serving => "serving",
        RouteState::Held { .. } => "held",
        RouteState::Draining { .. } => "draining",
        RouteState::Suspended => "suspended",
        RouteState::Gone => "gone",
    }
}

fn metrics(facts: &Facts, lines: &[(String, Meter)], reports: &[CoreReport], link: &Link) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &dyn Fn(&mut String)| {
        // Writing to a string cannot fail.
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        samples(&mut out);
    };
    family("berth_edge_requests_total", "counter", "Requests by tenant and status class.", &|out| {
        for (tenant, meter) in lines {
            for (class, count) in (1..).zip(meter.classes) {
                let _ = writeln!(out, "berth_edge_requests_total{{tenant=\"{tenant}\",class=\"{class}xx\"}} {count}");
            }
        }
    });
    type Value = fn(&Meter) -> u64;
    let per_tenant: [(&str, &str, Value); 4] = [
        ("berth_edge_received_bytes_total", "Bytes of request bodies.", |m| m.received_bytes),
        ("berth_edge_sent_bytes_total", "Bytes of answer bodies.", |m| m.sent_bytes),
        ("berth_edge_parked_total", "Requests parked while their tenant moved.", |m| m.parked),
        ("berth_edge_limited_total", "Requests refused because a limit was used up.", |m| m.limited),
    ];
    for (name, help, value) in per_tenant {
        family(name, "counter", help, &|out| {
            for (tenant, meter) in lines {
                let _ = writeln!(out, "{name}{{tenant=\"{tenant}\"}} {}", value(meter));
            }
        });
    }
    let name = "berth_edge_request_seconds";
    family(name, "histogram", "From a request's head to its answer's head.", &|out| {
        for (tenant, meter) in lines {
            let mut below = 0;
            for (bound, count) in BUCKETS_US.iter().zip(meter.times) {
                below += count;
                let seconds = *bound as f64 / 1e6;
                let _ = writeln!(out, "{name}_bucket{{tenant=\"{tenant}\",le=\"{seconds}\"}} {below}");
            }
            let all = meter.requests();
            let _ = writeln!(out, "{name}_bucket{{tenant=\"{tenant}\",le=\"+Inf\"}} {all}");
            let _ = writeln!(out, "{name}_sum{{tenant=\"{tenant}\"}} {}", meter.time_us as f64 / 1e6);
            let _ = writeln!(out, "{name}_count{{tenant=\"{tenant}\"}} {all}");
        }
    });
    let connected = link.connected.load(Ordering::Relaxed);
    let open = u64::from(link.open.load(Ordering::Relaxed));
    let whole = |field: fn(&CoreReport) -> u64| reports.iter().map(field).sum::<u64>();
    let scalars = [
        (
            "berth_edge_unknown_host_total",
            "counter",
            "Requests for hosts that no tenant has.",
            whole(|r| r.unknown_hosts),
        ),
        (
            "berth_edge_refused_total",
            "counter",
            "Requests refused before their tenant was known.",
            whole(|r| r.refused),
        ),
        ("berth_edge_connections", "gauge", "Client connections open.", whole(|r| r.connections as u64)),
        (
            "berth_edge_kept_bytes",
            "gauge",
            "Bytes of request bodies that are kept before they are sent, and until they are answered.",
            whole(|r| r.kept_bytes),
        ),
        ("berth_edge_tenants", "gauge", "Tenants routed.", facts.routes.len() as u64),
        ("berth_edge_revision", "gauge", "Revision of the routes in force.", facts.revision.get()),
        ("berth_edge_control_connected", "gauge", "1 while routes are followed.", u64::from(connected)),
        (
            "berth_edge_control_polls",
            "gauge",
            "1 while routes are asked for in polls, because the stream is cut.",
            u64::from(link.polls.load(Ordering::Relaxed)),
        ),
        ("berth_edge_control_open", "gauge", "1 when control was spoken to without TLS over a public network.", open),
        (
            "berth_edge_disk_failures_total",
            "counter",
            "Times that something could not be written to the data folder.",
            link.disk_failures.load(Ordering::Relaxed),
        ),
    ];
    for (name, kind, help, value) in scalars {
        family(name, kind, help, &|out| {
            let _ = writeln!(out, "{name} {value}");
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Facts, metrics};
    use crate::{
        feed::Link,
        ledger::Ledger,
        meter::Meter,
        named::{BUSIEST, Named},
        routes::Routes,
    };
    use berth_domain::{CellName, Generation, PlanName, Revision, TenantId, TenantKey, TenantName};
    use berth_wire::edge::{RouteState, TenantRoute};
    use std::{collections::BTreeMap, sync::Arc, time::Duration};

    fn tenant(number: usize) -> TenantId {
        TenantId::new(uuid::Uuid::from_u128(number as u128 + 1))
    }

    fn route(number: usize) -> TenantRoute {
        TenantRoute {
            tenant: tenant(number),
            name: TenantName::new(format!("t{number}")).unwrap(),
            key: TenantKey::new(format!("key-{number}")).unwrap(),
            plan: PlanName::new("starter").unwrap(),
            cell: CellName::new("shared").unwrap(),
            generation: Generation::new(1),
            revision: Revision::new(1),
            hosts: Vec::new(),
            patterns: Vec::new(),
            state: RouteState::Serving,
            members: Vec::new(),
            body_bytes: None,
            limits: Vec::new(),
            allow: Vec::new(),
        }
    }

    /// Requests by tenant, as they are shown.
    fn shown(page: &str) -> BTreeMap<String, u64> {
        let line = |line: &str| {
            let rest = line.strip_prefix("berth_edge_requests_total{tenant=\"")?;
            let (name, rest) = rest.split_once('"')?;
            Some((name.to_owned(), rest.split_once(' ')?.1.parse::<u64>().ok()?))
        };
        let mut all = BTreeMap::new();
        for (name, count) in page.lines().filter_map(line) {
            *all.entry(name).or_default() += count;
        }
        all
    }

    #[tokio::test]
    async fn the_busiest_tenants_are_named_over_all_cores_and_no_request_of_the_others_is_lost() {
        let routes = Routes::default();
        let number = BUSIEST * 3;
        for n in 0..number {
            routes.put(&route(n), None);
        }
        let facts = Facts { revision: Revision::new(1), routes: Arc::new(routes) };
        let link = Link::new(
            "north".parse().unwrap(),
            Vec::new(),
            "bk".into(),
            Duration::from_secs(1),
            false,
            Revision::new(1),
        );
        // Busy on one core and idle on the other: only both together say who is busiest.
        let ledger = Ledger::default();
        let report = |counts: &dyn Fn(usize) -> u64| {
            let meter = |count| {
                let mut meter = Meter::default();
                (0..count).for_each(|_| meter.count(200, 1));
                Box::new(meter)
            };
            ledger.hand((0..number).map(|n| (tenant(n), meter(counts(n)))).collect());
        };
        report(&|n| (n as u64) * 3);
        report(&|n| if n == 0 { 1000 } else { n as u64 % 2 });
        let mut named = Named::default();
        let mut page = || {
            let name = |tenant| facts.routes.get(tenant).map(|packed| packed.name().to_owned());
            let lines = ledger.read(|all| named.lines(all, name));
            shown(&metrics(&facts, &lines, &[], &link))
        };
        let all = page();
        assert_eq!(all.len(), BUSIEST + 1);
        assert_eq!(all["t0"], 1000, "busy on the second core alone");
        for n in number - BUSIEST + 1..number {
            assert_eq!(all[&format!("t{n}")], (n as u64) * 3 + n as u64 % 2);
        }
        let expected: u64 = (0..number as u64).map(|n| n * 3 + if n == 0 { 1000 } else { n % 2 }).sum();
        assert_eq!(all.values().sum::<u64>(), expected, "what is not named is counted as one");
        // One that is not routed any more is named no more, and nobody else is given what it had.
        facts.routes.remove(tenant(0));
        let all = page();
        assert!(!all.contains_key("t0") && all.contains_key(&format!("t{}", number - BUSIEST)));
        assert_eq!(all.values().sum::<u64>(), expected - 1000);
    }
}
