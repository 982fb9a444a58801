//! `berth edge` on a disk that is full: it goes on, says so, and no half of what it wrote is taken for whole.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge_world;

use berth_domain::Revision;
use berth_wire::edge::{EdgeEvent, TenantRoute};
use edge_world::{Edge, control, free, get, route, serve, whole};
use std::{
    cell::RefCell,
    fs,
    io::Read as _,
    process::{Command, Stdio},
    rc::Rc,
    sync::{Arc, Mutex},
};

const BERTH: &str = env!("CARGO_BIN_EXE_berth");

fn routes(revision: u64, routes: Vec<TenantRoute>) -> EdgeEvent {
    let revision = Revision::new(revision);
    let routes = routes.into_iter().map(|route| TenantRoute { revision, ..route }).collect();
    EdgeEvent::Routes { full: false, revision, routes }
}

/// No file of this program grows beyond 32 KiB (64 KiB where `sh` counts in whole ones): a write ends half way there, for root too.
fn on_a_small_disk() -> Command {
    let mut sh = Command::new("sh");
    sh.args(["-c", "trap '' XFSZ && ulimit -f 64 && exec \"$0\" \"$@\"", BERTH]).stderr(Stdio::piped());
    sh
}

fn status(edge: &Edge, host: &str) -> String {
    let answer = get(edge.address, host, "/").unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn is_none(page: &str, metric: &str) -> bool {
    !page.lines().any(|line| line.strip_prefix(metric).is_some_and(|value| value.trim() != "0"))
}

#[test]
fn on_a_full_disk_everything_in_force_goes_on_and_is_said_and_half_a_batch_is_none_at_the_next_start() {
    let folder = Rc::new(tempfile::tempdir().unwrap());
    let (kept, log) = (folder.path().join("routes.log"), folder.path().join("requests.log"));
    let member = serve(|_, stream| whole(stream, "ok"));
    let said = Arc::new(Mutex::new(vec![routes(1, vec![route(1, member)])]));
    let mut program = on_a_small_disk();
    program.env("BERTH_EDGE_REQUEST_LOG", &log);
    let mut edge = Edge::start(program, "north", control(Arc::clone(&said)), Rc::clone(&folder));
    edge.has(&["berth_edge_revision 1\n", "berth_edge_disk_failures_total 0\n"]);
    // More than fits: it is in force all the same, and not acknowledged.
    said.lock().unwrap().push(routes(2, (2..=500).map(|number| route(number, member)).collect()));
    let failed = |page: &str| !is_none(page, "berth_edge_disk_failures_total ");
    let page = edge.shows("the failure is told", failed);
    assert!(page.contains("berth_edge_revision 1\n") && page.contains("berth_edge_tenants 500\n"), "{page}");
    for host in ["t1.test", "t500.test"] {
        assert_eq!(status(&edge, host), "200", "{host}");
    }
    // And so are requests of which nothing can be written down.
    let mut asked = 0;
    while is_none(&edge.shows("it answers", |page| !page.is_empty()), "berth_edge_request_log_dropped_total ") {
        asked += 100;
        assert!(asked < 5_000, "a line of the log was taken for written");
        for _ in 0..100 {
            assert_eq!(status(&edge, "t1.test"), "200");
        }
    }
    // It is tried again each second; this is how it lies there between two tries.
    let half = RefCell::new(String::new());
    edge.shows("half of the second batch is there", |_| {
        half.replace(fs::read_to_string(&kept).unwrap_or_default());
        half.borrow().contains("\"t2.test\"")
    });
    let half = half.into_inner();
    assert_eq!(
        half.lines().filter(|line| line.contains("\"record\":\"mark\"")).count(),
        1,
        "the first batch alone is whole"
    );
    edge.process.kill().unwrap();
    edge.process.wait().unwrap();
    let mut errors = String::new();
    edge.process.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    for told in ["routes could not be written down", "the request log cannot be written"] {
        assert!(errors.contains(told), "{told}: {errors}");
    }
    fs::write(&kept, half).unwrap();

    // Room again, and nobody who says anything: what it knows is what was whole.
    let mut program = Command::new(BERTH);
    program.env("BERTH_EDGE_REQUEST_LOG", &log);
    let edge = Edge::start(program, "north", free(), Rc::clone(&folder));
    edge.has(&["berth_edge_revision 1\n", "berth_edge_tenants 1\n"]);
    assert_eq!((status(&edge, "t1.test").as_str(), status(&edge, "t2.test").as_str()), ("200", "404"));
    let lines = || {
        let text = fs::read_to_string(&log).unwrap();
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).collect::<Vec<_>>()
    };
    let status = |line: &Option<serde_json::Value>| line.as_ref().and_then(|line| line["metadata"]["status"].as_u64());
    edge.shows("its requests are written down", |_| lines().last().and_then(status) == Some(404));
    let lines = lines();
    assert_eq!(lines[lines.len() - 2..].iter().map(status).collect::<Vec<_>>(), [Some(200), Some(404)]);
    assert!(lines.iter().filter(|line| line.is_none()).count() <= 1, "half a line, where the disk was full");
}
