//! Metrics under the names that dashboards of the VeloFlux guide have, beside their own, for who asks for them.
//!
//! Pure: renames what is there. Names of the guide for what this edge does not measure (a web application firewall, pods)
//! are not made up.

/// Own name, and the guide's.
const NAMES: [(&str, &str); 9] = [
    ("berth_edge_requests_total", "veloflux_requests_total"),
    ("berth_edge_requests_total", "veloflux_http_requests_total"),
    ("berth_edge_request_seconds", "veloflux_request_duration_seconds"),
    ("berth_edge_connections", "veloflux_active_connections"),
    ("berth_edge_limited_total", "veloflux_rate_limit_hits"),
    ("berth_edge_member_up", "veloflux_backend_health"),
    ("berth_edge_member_up", "veloflux_backend_up"),
    ("berth_edge_member_ejections_total", "veloflux_failover_events_total"),
    ("berth_edge_limits_edges", "veloflux_cluster_nodes"),
];
const LABELS: [(&str, &str); 3] = [("service=", "pool="), ("address=", "backend="), ("class=", "status_code=")];

/// The lines of a page of metrics that have a second name, under that.
pub fn of(page: &str) -> String {
    let mut out = String::new();
    for (own, second) in NAMES {
        for line in page.lines() {
            let (comment, rest) = match line.strip_prefix("# HELP ").map(|rest| ("# HELP ", rest)) {
                Some(help) => help,
                None => line.strip_prefix("# TYPE ").map_or(("", line), |rest| ("# TYPE ", rest)),
            };
            let Some(rest) = rest.strip_prefix(own) else { continue };
            // A longer name that begins alike is another one; a histogram's parts are its own.
            let part =
                ["_bucket", "_sum", "_count"].into_iter().find(|part| rest.starts_with(part)).unwrap_or_default();
            let tail = &rest[part.len()..];
            if !tail.starts_with([' ', '{']) {
                continue;
            }
            let mut tail = tail.to_owned();
            if comment.is_empty() {
                for (from, to) in LABELS {
                    tail = tail.replacen(from, to, 1);
                }
            }
            out.push_str(comment);
            out.push_str(second);
            out.push_str(part);
            out.push_str(&tail);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_has_a_name_in_the_guide_is_there_under_it_and_nothing_else() {
        let page = "# HELP berth_edge_requests_total Requests.\n# TYPE berth_edge_requests_total counter\n\
            berth_edge_requests_total{tenant=\"a\",class=\"2xx\"} 3\nberth_edge_request_seconds_bucket{tenant=\"a\",le=\"+Inf\"} 3\n\
            berth_edge_member_up{service=\"web\",address=\"10.0.0.1:80\"} 1\nberth_edge_revision 7\n";
        let second = super::of(page);
        for line in [
            "# TYPE veloflux_requests_total counter",
            "veloflux_requests_total{tenant=\"a\",status_code=\"2xx\"} 3",
            "veloflux_http_requests_total{tenant=\"a\",status_code=\"2xx\"} 3",
            "veloflux_request_duration_seconds_bucket{tenant=\"a\",le=\"+Inf\"} 3",
            "veloflux_backend_up{pool=\"web\",backend=\"10.0.0.1:80\"} 1",
        ] {
            assert!(second.lines().any(|other| other == line), "{line}\n{second}");
        }
        assert!(!second.contains("berth_edge") && !second.contains("revision"), "{second}");
    }
}
