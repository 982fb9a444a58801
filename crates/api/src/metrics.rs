//! Prometheus' text form, on a listener of its own: counts of requests, and how many tenants, cells and operations
//! there are. Off loopback it needs a key that may read.

use crate::{Api, second_names as names};
use axum::{
    Router,
    extract::State,
    response::{IntoResponse as _, Response},
    routing::get,
};
use berth_control::{Caller, Read, status, tenant_figures};
use berth_wire::Overview;
use http::{HeaderMap, StatusCode, header};
use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

/// Answers of the API by status class.
#[derive(Default)]
pub struct Counters {
    classes: [AtomicU64; 6],
}

impl Counters {
    pub fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).min(self.classes.len() - 1);
        self.classes[class].fetch_add(1, Ordering::Relaxed);
    }
}

/// `GET /metrics`. `open`: on loopback, where no key is asked for.
pub fn router(api: &Api, open: bool) -> Router {
    router_with(api, open, false)
}

/// The same; with `second_names` tenants' figures are there too, as the VeloFlux guide calls them.
pub fn router_with(api: &Api, open: bool, second_names: bool) -> Router {
    let answer = async move |State(api): State<Api>, headers: HeaderMap| {
        if !open {
            match api.caller(&headers, None).await.and_then(|caller| Ok(caller.may(Read)?)) {
                Ok(_) => {}
                Err(error) => return error.status().into_response(),
            }
        }
        show(&api, second_names).await
    };
    Router::new().route("/metrics", get(answer)).with_state(api.clone())
}

async fn show(api: &Api, second_names: bool) -> Response {
    let (mut overview, mut tenants) = (None, None);
    if let Ok(permit) = Caller::berth().may(Read) {
        overview = status::overview(&api.app, &permit).await.ok();
        if second_names && overview.is_some() {
            tenants = tenant_figures::list(&api.app, &permit).await.ok();
        }
    }
    let mut text = text(&api.counters, overview.as_ref());
    if let Some(tenants) = tenants {
        text += &names::text(&tenants);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Without an overview the control database does not answer: `berth_up` says so, and nothing is made up.
fn text(counters: &Counters, overview: Option<&Overview>) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to a string does not fail");
        for (labels, value) in samples {
            writeln!(text, "{name}{labels} {value}").expect("writing to a string does not fail");
        }
    };
    let one = |value: u64| [(String::new(), value)];
    family("berth_up", "gauge", "Whether the control database answers.", &one(u64::from(overview.is_some())));
    let classes: Vec<_> = (1..=5)
        .map(|class| (format!("{{status=\"{class}xx\"}}"), counters.classes[class].load(Ordering::Relaxed)))
        .collect();
    family("berth_api_answers_total", "counter", "Answers of the API by status class.", &classes);
    if let Some(overview) = overview {
        let of = |name: &str, n: u32| (format!("{{state=\"{name}\"}}"), u64::from(n));
        let tenants = overview.tenants;
        let states = [
            of("active", tenants.active),
            of("moving", tenants.moving),
            of("provisioning", tenants.provisioning),
            of("suspended", tenants.suspended),
            of("failed", tenants.failed),
        ];
        family("berth_tenants", "gauge", "Tenants by state.", &states);
        let cells = overview.cells;
        family("berth_cells", "gauge", "Cells.", &one(cells.total.into()));
        family("berth_cells_ready", "gauge", "Cells that take tenants.", &one(cells.ready.into()));
        family("berth_members", "gauge", "Members of all cells.", &one(cells.members.into()));
        family("berth_members_healthy", "gauge", "Members last seen healthy.", &one(cells.members_healthy.into()));
        family("berth_operations_open", "gauge", "Operations not at their end.", &one(overview.operations_open.into()));
        let waiting = overview.attention.len() as u64;
        family("berth_attention", "gauge", "Things that wait for a person.", &one(waiting));
        let behind: Vec<_> =
            // Of a name once: a process that leaves has a follower.
            overview.edges.iter().filter(|edge| !edge.leaving).map(|edge| (format!("{{edge=\"{}\"}}", edge.name), edge.behind)).collect();
        family("berth_edge_revisions_behind", "gauge", "Route revisions that an edge has not yet.", &behind);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Counters, text};
    use http::StatusCode;

    #[test]
    fn without_the_control_database_nothing_is_made_up() {
        let counters = Counters::default();
        counters.count(StatusCode::OK);
        counters.count(StatusCode::NOT_FOUND);
        let text = text(&counters, None);
        assert!(text.contains("berth_up 0\n"), "{text}");
        assert!(text.contains("berth_api_answers_total{status=\"2xx\"} 1\n"), "{text}");
        assert!(text.contains("berth_api_answers_total{status=\"4xx\"} 1\n"), "{text}");
        assert!(!text.contains("berth_tenants"), "{text}");
    }
}
